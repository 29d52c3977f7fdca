//! Whether what was changed is on the device: what is known of that, also after a sync that failed.
//! Syncing itself, and making good what failed, is in `log/sync`.
//!
//! Linux reports a write that failed once for each open description, and takes the pages for
//! written: later syncs of the same file, and all syncs of a process that opens it later, succeed
//! although the device has nothing. So a failure is noted in the header, for all processes, before
//! anybody is told of it. The word `failed_syncs` has in its high half how many were noted, in its
//! low half how many of these were made good. While the two differ
//!
//! * nobody says of anything that it is on the device;
//! * with durability *power loss* nobody changes a value: what the idle cell of a key has may be
//!   all that the device has of it (D2);
//! * nothing of the log is given back: the device may have what points to it.
//!
//! Made good is what was noted before everything that is there was made dirty once more and then
//! synced (D3).

use std::io;
use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::os::kept::Kept;
use crate::slab::Slab;
use crate::store::Store;
use crate::store::members::config::InForce;
use crate::sync::Ordering;

pub(in crate::store) fn failed(word: u64) -> u32 {
    (word >> 32) as u32
}

pub(in crate::store) fn made_good(word: u64) -> u32 {
    word as u32
}

/// That all syncs before had succeeded, or were made good. Holds if it is still so after a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known(u64);

/// What a process syncs the slab with.
pub(crate) struct Device {
    pub(in crate::store) fresh: Mutex<Fresh>,
}

/// A description that is younger than the last failure that was made good: it reports none before
/// that.
pub(in crate::store) struct Fresh {
    pub(in crate::store) made_good: u32,
    /// `None`: that with which the slab was opened.
    pub(in crate::store) slab: Option<Kept>,
}

impl Device {
    pub(in crate::store) fn new(slab: &Slab) -> Device {
        let fresh = Fresh {
            made_good: made_good(word_of(slab)),
            slab: None,
        };
        Device {
            fresh: Mutex::new(fresh),
        }
    }
}

impl Device {
    /// In the child of a fork, before it returns: what its parent has opened is not its own.
    pub(in crate::store) fn disown(&self) {
        // Should another thread of the parent have it just now, a descriptor stays open here.
        if let Ok(fresh) = self.fresh.try_lock() {
            fresh.slab.iter().for_each(Kept::close);
        }
    }
}

pub(in crate::store) fn word_of(slab: &Slab) -> u64 {
    slab.header().failed_syncs.load(Ordering::Acquire)
}

pub(in crate::store) fn known_of(slab: &Slab) -> Option<Known> {
    let word = word_of(slab);
    (failed(word) == made_good(word)).then_some(Known(word))
}

/// Whether a sync of that store has failed, and was not made good.
pub(in crate::store) fn is_unsynced(slab: &Slab) -> bool {
    known_of(slab).is_none()
}

pub(in crate::store) fn note_failed(slab: &Slab, error: &io::Error) {
    slab.header().note_failed_sync(error);
}

/// Notes that so many failures are made good. One that was noted meanwhile is not concerned.
pub(in crate::store) fn note_made_good(slab: &Slab, until: u32) {
    let further = |word: u64| {
        let is_further = until.wrapping_sub(made_good(word)) as i32 > 0;
        is_further.then(|| word & !u64::from(u32::MAX) | u64::from(until))
    };
    // Another one was quicker, and got further.
    let _ = slab
        .header()
        .failed_syncs
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, further);
}

/// What of a store is known to be on the device.
#[derive(Clone, Copy)]
pub(crate) struct OnDevice<'s>(pub(crate) &'s Store);

impl<'s> OnDevice<'s> {
    /// Comes before a change that is to be known to be on the device.
    ///
    /// `Unsynced`: a sync has failed, and was not made good.
    pub(crate) fn known(self) -> Result<Known> {
        known_of(&self.0.slab).ok_or_else(|| Error::Unsynced {
            path: self.0.known_as().to_path_buf(),
        })
    }

    /// What is known of the device, if values are to survive a power failure.
    #[inline]
    pub(crate) fn known_if_durable(self) -> Result<Option<Known>> {
        match InForce(self.0).is_durable() {
            true => self.known().map(Some),
            false => Ok(None),
        }
    }

    /// Whether nothing is known to be on the device that was not before.
    pub(crate) fn is_unsynced(self) -> bool {
        is_unsynced(&self.0.slab)
    }

    /// Comes after a sync.
    pub(crate) fn still_known(self, known: Known) -> Result<()> {
        match self.known()? == known {
            true => Ok(()),
            // Made good by now, but what was only being written was not.
            false => Err(Error::Unsynced {
                path: self.0.known_as().to_path_buf(),
            }),
        }
    }

    /// What is in force, and may not be on the device.
    #[cold]
    pub(crate) fn not_durable(self, error: Error) -> Error {
        Error::NotDurable {
            path: self.0.known_as().to_path_buf(),
            source: Box::new(error),
        }
    }
}
