//! What can be chosen of a cache's values, kept in the header: how much room they may take, what makes room,
//! and what they survive.

use crate::error::{Error, Result};
use crate::slab::Slab;
use crate::store::Store;
use crate::store::segments::bound_of;
use crate::sync::Ordering;

/// What goes when there is no room for a value that is to be set. Locks, semaphores and averages never do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// Nothing: setting the value fails.
    None,
    /// What was set the longest time ago.
    #[default]
    LeastRecentlyStored,
    /// What was set or read the longest time ago.
    LeastRecentlyUsed,
    /// What was read the least number of times since it was set; among these, the oldest.
    LeastFrequentlyUsed,
}

/// What a value survives once `set` has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The death of any process. After a power failure it may be gone, or an older one in its place.
    #[default]
    ProcessCrash,
    /// A power failure, too: everything that changes a value waits for the medium.
    PowerLoss,
}

/// How much the files of large values may take, when nothing else was chosen: 1 GiB.
pub(crate) const SIZE_LIMIT: u64 = 1 << 30;
/// Room for a few segments of the smallest size.
const SIZE_LIMIT_MIN: u64 = 1 << 22;

/// What is chosen or changed; `None`: left as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub(crate) size_limit: Option<u64>,
    pub(crate) eviction: Option<Eviction>,
    pub(crate) durability: Option<Durability>,
}

impl Eviction {
    fn number(self) -> u32 {
        match self {
            Eviction::LeastRecentlyStored => 0,
            Eviction::None => 1,
            Eviction::LeastRecentlyUsed => 2,
            Eviction::LeastFrequentlyUsed => 3,
        }
    }
}

/// What one of so many shards gets of a limit.
pub(crate) fn share_of(bytes: u64, shards: usize) -> u64 {
    (bytes / shards.max(1) as u64).max(SIZE_LIMIT_MIN)
}

impl Config {
    /// For the making of one of so many shards.
    pub(crate) fn shared_by(&self, shards: usize) -> Config {
        let limit = self.size_limit.unwrap_or(SIZE_LIMIT);
        Config {
            size_limit: Some(share_of(limit, shards)),
            ..self.clone()
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.size_limit {
            Some(bytes) if bytes < SIZE_LIMIT_MIN => Err(Error::Invalid {
                what: format!(
                    "a size_limit of {bytes} bytes is too small; use {SIZE_LIMIT_MIN} or more"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The same for what so many shards are to share: what each has at least is not to be more than was asked for.
    pub(crate) fn check_for(&self, shards: usize) -> Result<()> {
        let least = SIZE_LIMIT_MIN * shards as u64;
        match self.size_limit {
            Some(bytes) if bytes < least => Err(Error::Invalid {
                what: format!(
                    "a size_limit of {bytes} bytes is too small for {shards} shards; use {least} or more"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The same for a store that is there, whose log may be larger than a new limit.
    pub(crate) fn change(&self, slab: &Slab) {
        if self.size_limit.is_some() {
            // The bound of before holds until the log fits. Release, here and below: who knows the new limit knows that.
            let before = bound_of(size_limit_of(slab));
            slab.header().falling.fetch_max(before, Ordering::Release);
        }
        self.write(slab);
    }

    /// Each setting is a word of its own.
    pub(crate) fn write(&self, slab: &Slab) {
        let header = slab.header();
        if let Some(bytes) = self.size_limit {
            header.size_limit.store(bytes, Ordering::Release);
        }
        if let Some(eviction) = self.eviction {
            header.eviction.store(eviction.number(), Ordering::Relaxed);
        }
        if let Some(durability) = self.durability {
            let number = u32::from(durability == Durability::PowerLoss);
            header.durability.store(number, Ordering::Relaxed);
        }
    }
}

fn size_limit_of(slab: &Slab) -> u64 {
    match slab.header().size_limit.load(Ordering::Acquire) {
        bytes if bytes < SIZE_LIMIT_MIN => SIZE_LIMIT,
        bytes => bytes,
    }
}

/// As the header has it; what it cannot have is the default.
impl Store {
    pub(crate) fn size_limit(&self) -> u64 {
        size_limit_of(&self.slab)
    }

    #[inline]
    pub(crate) fn eviction(&self) -> Eviction {
        match self.slab.header().eviction.load(Ordering::Relaxed) {
            1 => Eviction::None,
            2 => Eviction::LeastRecentlyUsed,
            3 => Eviction::LeastFrequentlyUsed,
            _ => Eviction::LeastRecentlyStored,
        }
    }

    pub(crate) fn durability(&self) -> Durability {
        match self.slab.header().durability.load(Ordering::Relaxed) {
            1 => Durability::PowerLoss,
            _ => Durability::ProcessCrash,
        }
    }
}
