//! What of the settings can be changed in a store that is there: checked, shared among shards, and
//! written to the header.

use std::path::Path;

use crate::error::{Error, Result};
use crate::slab::Slab;
use crate::store::settings::{
    Config, Durability, Eviction, SIZE_LIMIT, SIZE_LIMIT_MIN, VALUE_LIMIT_MIN, bound_of,
    durability_of, eviction_of, mismatch, size_limit_of, value_limit_of, value_limit_within,
};
use crate::sync::Ordering;

/// What of the settings of a cache can be changed: see
/// [`Cache::configure`](crate::Cache::configure). What is not said is left as it is.
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// # let cache = slablock::Cache::open(&dir)?;
/// cache.configure(&slablock::Limits::new().size_limit(64 << 20))?;
/// assert_eq!(cache.config()?.size_limit, 64 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub(crate) size_limit: Option<u64>,
    pub(crate) value_limit: Option<u64>,
    pub(crate) eviction: Option<Eviction>,
    pub(crate) durability: Option<Durability>,
}

impl Limits {
    /// Nothing is changed yet.
    pub fn new() -> Limits {
        Limits::default()
    }

    /// How many bytes all values may take. See
    /// [`Options::size_limit`](crate::Options::size_limit).
    pub fn size_limit(mut self, bytes: u64) -> Limits {
        self.size_limit = Some(bytes);
        self
    }

    /// How many bytes one value may have. See
    /// [`Options::value_limit`](crate::Options::value_limit).
    pub fn value_limit(mut self, bytes: u64) -> Limits {
        self.value_limit = Some(bytes);
        self
    }

    /// What is evicted to make room for a value.
    pub fn eviction(mut self, eviction: Eviction) -> Limits {
        self.eviction = Some(eviction);
        self
    }

    /// What a value that was set survives.
    pub fn durability(mut self, durability: Durability) -> Limits {
        self.durability = Some(durability);
        self
    }

    /// Those of one of so many shards.
    pub(crate) fn shared_by(&self, shards: usize) -> Limits {
        Limits {
            size_limit: self.size_limit.map(|bytes| share_of(bytes, shards)),
            ..self.clone()
        }
    }

    /// For the making of one of so many shards, like one of them that is there where nothing is
    /// asked for.
    pub(crate) fn for_new(&self, shards: usize, first: Option<&Config>) -> Limits {
        let share = self.size_limit.map(|limit| share_of(limit, shards));
        let default = (shards > 1).then(|| share_of(SIZE_LIMIT, shards));
        Limits {
            size_limit: share.or(first.map(|first| first.size_limit)).or(default),
            // A quarter of each other's share is one of this one's, too.
            value_limit: self.value_limit.or(first.and_then(chosen_value_limit)),
            eviction: self.eviction.or(first.map(|first| first.eviction)),
            durability: self.durability.or(first.map(|first| first.durability)),
        }
    }

    /// Refuses what was asked for and is not in force in a slab, which is one of so many shards of
    /// what is in `of`. Only what differs is told, as it is for all shards.
    pub(crate) fn check_in_force(&self, slab: &Slab, shards: usize, of: &Path) -> Result<()> {
        let limit = size_limit_of(slab);
        if let Some(asked) = self.size_limit.filter(|b| share_of(*b, shards) != limit) {
            let found = limit.saturating_mul(shards as u64);
            return Err(mismatch("size_limit", of, found, asked));
        }
        let found = value_limit_of(slab);
        let comes_to = |asked| value_limit_within(limit, asked);
        if let Some(asked) = self.value_limit.filter(|asked| comes_to(*asked) != found) {
            return Err(mismatch("value_limit", of, found, asked));
        }
        let eviction = eviction_of(slab);
        if let Some(asked) = self.eviction.filter(|asked| *asked != eviction) {
            return Err(mismatch("eviction", of, eviction, asked));
        }
        let durability = durability_of(slab);
        if let Some(asked) = self.durability.filter(|asked| *asked != durability) {
            return Err(mismatch("durability", of, durability, asked));
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.check_value_limit()?;
        match self.size_limit {
            Some(bytes) if bytes < SIZE_LIMIT_MIN => Err(Error::Invalid {
                what: format!(
                    "a size_limit of {bytes} bytes is too small; use {SIZE_LIMIT_MIN} or more"
                ),
            }),
            _ => Ok(()),
        }
    }

    fn check_value_limit(&self) -> Result<()> {
        match self.value_limit {
            Some(bytes) if bytes < VALUE_LIMIT_MIN => Err(Error::Invalid {
                what: format!(
                    "a value_limit of {bytes} bytes is too small; use {VALUE_LIMIT_MIN} or more"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Refuses a limit that so many shards cannot share: what each has at least is not to be more
    /// than was asked for.
    pub(crate) fn check_for(&self, shards: usize) -> Result<()> {
        if shards == 1 {
            return self.check();
        }
        self.check_value_limit()?;
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

    /// Writes the settings of a store that is there, with a log that may be larger than a new
    /// limit.
    pub(crate) fn change(&self, slab: &Slab) {
        if self.size_limit.is_some() {
            // The bound of before holds until the log fits. Release, here and below: a process that
            // sees the new limit sees that bound.
            let before = bound_of(size_limit_of(slab));
            slab.header().shrinking.fetch_max(before, Ordering::Release);
        }
        self.write(slab);
    }

    /// Each setting is a word of its own.
    pub(crate) fn write(&self, slab: &Slab) {
        let header = slab.header();
        if let Some(bytes) = self.size_limit {
            header.size_limit.store(bytes, Ordering::Release);
            header.device_limit.store(0, Ordering::Relaxed);
        }
        if let Some(bytes) = self.value_limit {
            header.value_limit.store(bytes, Ordering::Relaxed);
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

/// What was chosen, if it is not what is so when nothing is.
fn chosen_value_limit(config: &Config) -> Option<u64> {
    let is_default = config.value_limit == value_limit_within(config.size_limit, 0);
    (!is_default).then_some(config.value_limit)
}

/// What one of so many shards gets of a limit.
fn share_of(bytes: u64, shards: usize) -> u64 {
    (bytes / shards.max(1) as u64).max(SIZE_LIMIT_MIN)
}
