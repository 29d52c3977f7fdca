//! What can be chosen of a store, how it is opened with that, and what the header keeps of it:
//! capacity and mode, how much room values may take, what makes room, and what values survive. What
//! of it can be changed later is in `limits`.

mod limits;

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub use limits::Limits;

use crate::error::{Error, Result};
use crate::slab::Slab;
use crate::slab::layout::{CAPACITY_MAX, SLOT_BYTES, STRIPES};
use crate::slab::value_cells::VALUE_BYTES_MAX;
use crate::sync::{Ordering, crash_point};

/// What is removed when there is no room for a value that is to be set. Values that are over go
/// first, whatever is chosen. Locks, semaphores and averages never are removed.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// Nothing: setting the value fails.
    None,
    /// What was set, or counted, the longest time ago. (What was used under another policy before
    /// this was chosen counts as set then.)
    LeastRecentlyStored,
    /// What was set, counted, read or touched the longest time ago.
    LeastRecentlyUsed,
    /// What was read, counted or touched the least number of times since the key was made; among
    /// these, the oldest. Uses age: what is stored is worth more than all that was evicted before,
    /// so that what is never used again goes in the end. Counts to 4,095.
    LeastFrequentlyUsed,
    /// What has the least number of uses for the room that it takes, and these age in the same way
    /// (greedy-dual-size-frequency; Cherkasova, 1998). Of many sizes this has the most hits, for a
    /// large value takes the room of many small ones. Counts to 15.
    #[default]
    GreedyDual,
}

/// What a value survives once `set` has returned.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// The death of any process. After a power failure it may be gone, or an older one in its
    /// place.
    #[default]
    ProcessCrash,
    /// A power failure, too: everything that changes a value waits for the device.
    PowerLoss,
}

/// How much all values may take, when nothing else was chosen: 1 GiB.
pub(crate) const SIZE_LIMIT: u64 = 1 << 30;
/// Room for a few segments of the smallest size.
pub(in crate::store) const SIZE_LIMIT_MIN: u64 = 1 << 22;
/// One value may take this part of it, unless something else was chosen: so it is never worth more
/// than three others as long.
const VALUE_SHARE: u64 = 4;
/// What fits into slots is never too long.
const VALUE_LIMIT_MIN: u64 = 1 << 12;

/// The settings in force of a cache, as [`Cache::config`](crate::Cache::config) reads them.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// How many keys there may be at the most, all shards together.
    pub capacity: usize,
    /// How many shards it has. See [`Options::shards`](crate::Options::shards).
    pub shards: usize,
    /// Permissions of its files.
    pub mode: u32,
    /// How many bytes all values may take, all shards together.
    pub size_limit: u64,
    /// How many bytes one value may have.
    pub value_limit: u64,
    /// What is removed to make room for a value.
    pub eviction: Eviction,
    /// What a value that was set survives, in whichever shard it is.
    pub durability: Durability,
}

/// What a new cache has when nothing is chosen.
impl Default for Config {
    fn default() -> Config {
        Config {
            capacity: DEFAULT_CAPACITY,
            shards: 1,
            mode: DEFAULT_MODE,
            size_limit: SIZE_LIMIT,
            value_limit: SIZE_LIMIT / VALUE_SHARE,
            eviction: Eviction::default(),
            durability: Durability::default(),
        }
    }
}

impl Config {
    /// That of a cache of one shard more. Shards differ only where a change of them all was
    /// interrupted.
    pub(crate) fn add(&mut self, shard: &Config) {
        self.capacity += shard.capacity;
        self.shards += shard.shards;
        self.size_limit += shard.size_limit;
        self.value_limit = self.value_limit.min(shard.value_limit);
        if shard.durability == Durability::ProcessCrash {
            self.durability = shard.durability;
        }
    }
}

/// In words, as in "least-recently-used".
impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Eviction::None => "none",
            Eviction::LeastRecentlyStored => "least-recently-stored",
            Eviction::LeastRecentlyUsed => "least-recently-used",
            Eviction::LeastFrequentlyUsed => "least-frequently-used",
            Eviction::GreedyDual => "greedy-dual",
        })
    }
}

/// In words: "process-crash" or "power-loss".
impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Durability::ProcessCrash => "process-crash",
            Durability::PowerLoss => "power-loss",
        })
    }
}

impl Eviction {
    fn number(self) -> u32 {
        match self {
            Eviction::GreedyDual => 0,
            Eviction::None => 1,
            Eviction::LeastRecentlyUsed => 2,
            Eviction::LeastFrequentlyUsed => 3,
            Eviction::LeastRecentlyStored => 4,
        }
    }
}

pub(in crate::store) fn size_limit_of(slab: &Slab) -> u64 {
    match slab.header().size_limit.load(Ordering::Acquire) {
        bytes if bytes < SIZE_LIMIT_MIN => SIZE_LIMIT,
        bytes => bytes,
    }
}

/// How many bytes of slots values take.
pub(in crate::store) fn in_slots_of(slab: &Slab) -> u64 {
    let of_values = |stripe| u64::from(slab.stripe(stripe).taken().of_values);
    (0..STRIPES).map(of_values).sum::<u64>() * SLOT_BYTES
}

/// How long a value may be: a quarter of what the log may take, or what was chosen and fits there.
pub(in crate::store) fn value_limit_of(slab: &Slab) -> u64 {
    let chosen = slab.header().value_limit.load(Ordering::Relaxed);
    value_limit_within(size_limit_of(slab), chosen)
}

/// What `chosen` comes to with that size limit; 0: nothing was chosen.
fn value_limit_within(size_limit: u64, chosen: u64) -> u64 {
    let most = match chosen {
        0 => size_limit / VALUE_SHARE,
        bytes => bytes.clamp(VALUE_LIMIT_MIN, size_limit),
    };
    most.min(VALUE_BYTES_MAX as u64)
}

#[inline]
pub(in crate::store) fn eviction_of(slab: &Slab) -> Eviction {
    match slab.header().eviction.load(Ordering::Relaxed) {
        1 => Eviction::None,
        2 => Eviction::LeastRecentlyUsed,
        3 => Eviction::LeastFrequentlyUsed,
        4 => Eviction::LeastRecentlyStored,
        _ => Eviction::GreedyDual,
    }
}

pub(in crate::store) fn durability_of(slab: &Slab) -> Durability {
    match slab.header().durability.load(Ordering::Relaxed) {
        1 => Durability::PowerLoss,
        _ => Durability::ProcessCrash,
    }
}

/// Permissions of the slab, which the other files have after it.
pub(in crate::store) fn mode_of(slab: &Slab) -> Result<u32> {
    let file = slab.file()?;
    crash_point();
    let meta = file.metadata();
    let meta = meta.map_err(|e| Error::io("look at", slab.path(), e))?;
    Ok(meta.permissions().mode() & 0o777)
}

/// All of them, of a store by itself.
pub(in crate::store) fn config_of(slab: &Slab) -> Result<Config> {
    Ok(Config {
        capacity: slab.layout().capacity as usize,
        shards: 1,
        mode: mode_of(slab)?,
        size_limit: size_limit_of(slab),
        value_limit: value_limit_of(slab),
        eviction: eviction_of(slab),
        durability: durability_of(slab),
    })
}

/// What was asked for and is not in force.
pub(crate) fn mismatch(
    what: &'static str,
    of: &Path,
    found: impl fmt::Display,
    expected: impl fmt::Display,
) -> Error {
    Error::ConfigMismatch {
        what,
        of: of.display().to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
        holders: Vec::new(),
    }
}

/// Files for their owner only: a lock that others can take is a lock that others can hold for ever.
pub(crate) const DEFAULT_MODE: u32 = 0o600;

/// How a store is opened, as it was asked for: `None` is what the store has, or the default for a
/// new one.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// In slots, of all shards together.
    pub(crate) capacity: Option<usize>,
    pub(crate) mode: Option<u32>,
    /// Among how many shards capacity and size limit are shared, of which this is one.
    pub(crate) shards: usize,
    /// What the shard has that was opened first.
    pub(crate) first: Option<Config>,
    pub(crate) allow_network_fs: bool,
    pub(crate) create: bool,
    /// Whether a copy becomes a store of its own.
    pub(crate) adopt: bool,
    pub(crate) limits: Limits,
    /// Stands in for what the kernel says about the file system, in tests.
    pub(crate) fs_magic: Option<i64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            capacity: None,
            mode: None,
            shards: 1,
            first: None,
            allow_network_fs: false,
            create: true,
            adopt: false,
            limits: Limits::default(),
            fs_magic: None,
        }
    }
}

impl Settings {
    /// Permissions of what is made.
    pub(crate) fn new_mode(&self) -> u32 {
        self.mode.unwrap_or(DEFAULT_MODE)
    }

    /// In slots, of one shard.
    pub(in crate::store) fn capacity_of_shard(&self) -> Option<usize> {
        self.capacity.map(|keys| keys.div_ceil(self.shards).max(1))
    }

    /// What a slab is made with.
    pub(in crate::store) fn new_capacity(&self) -> Option<usize> {
        let of_first = self.first.as_ref().map(|first| first.capacity);
        self.capacity_of_shard().or(of_first)
    }

    /// What a slab is made with.
    pub(in crate::store) fn new_limits(&self) -> Limits {
        self.limits.for_new(self.shards, self.first.as_ref())
    }
}

/// In slots.
pub(in crate::store) const DEFAULT_CAPACITY: usize = CAPACITY_MAX as usize;

pub(in crate::store) fn segment_bytes_of(size_limit: u64) -> u64 {
    (size_limit / 64).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
}

pub(crate) fn bound_of(size_limit: u64) -> u64 {
    size_limit.saturating_add(segment_bytes_of(size_limit))
}

/// Segments are a 64th of what the log may take, but not shorter or longer than this.
pub(in crate::store) const SEGMENT_BYTES_MIN: u64 = 1 << 20;

pub(in crate::store) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
