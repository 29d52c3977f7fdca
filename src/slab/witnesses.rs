//! The witnesses: bytes of the slab's own file, of which each participant keeps one locked while it
//! lives.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::os::range_lock;
use crate::slab::Slab;
use crate::slab::layout::{PARTICIPANTS, WITNESS_OFFSET};

/// The witnesses of all participants of a slab.
#[derive(Clone, Copy)]
pub(crate) struct Witnesses<'s>(pub(super) &'s Slab);

impl Witnesses<'_> {
    /// Locks the witness of a participant: the sign on the slab's own inode that it lives, which
    /// stands whatever becomes of the lock files' names. `false`: another process is alone with the
    /// slab just now.
    pub(crate) fn lock(self, number: u16) -> Result<bool> {
        let at = WITNESS_OFFSET + u64::from(number);
        range_lock::try_lock_as(self.0.file()?, at..at + 1, range_lock::Mode::Shared)
            .map_err(|e| Error::io("lock", self.0.path(), e))
    }

    /// Takes the witness back. What fails is left to the end of the process.
    pub(crate) fn unlock(self, number: u16) {
        let at = WITNESS_OFFSET + u64::from(number);
        if let Ok(file) = self.0.file() {
            let _ = range_lock::unlock(file, at);
        }
    }

    /// Whether another opening has the witness of a participant locked.
    pub(crate) fn is_locked(self, number: u16) -> Result<bool> {
        range_lock::is_locked(self.0.file()?, WITNESS_OFFSET + u64::from(number))
            .map_err(|e| Error::io("probe", self.0.path(), e))
    }

    /// Locks all witnesses, if none is locked: then no process takes part, and none can begin to.
    pub(crate) fn try_lock_all(self) -> Result<bool> {
        range_lock::try_lock_as(self.0.file()?, witnesses(), range_lock::Mode::Alone)
            .map_err(|e| Error::io("lock", self.0.path(), e))
    }

    pub(crate) fn unlock_all(self) {
        if let Ok(file) = self.0.file() {
            let _ = range_lock::unlock_all(file, witnesses());
        }
    }
}

fn witnesses() -> Range<u64> {
    WITNESS_OFFSET..WITNESS_OFFSET + u64::from(PARTICIPANTS)
}
