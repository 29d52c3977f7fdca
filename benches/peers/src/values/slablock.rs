//! slablock's own values: the cache itself, which grows as it needs.

use std::path::Path;

use slablock::{Cache, Eviction, KeyInfo, KeyState};

use super::{Key, Needs, Store};
use crate::Answer;
use crate::trace::exact::Policy;

/// A value of 100 bytes takes two slots, with its key.
const SLOTS: usize = 2;
/// Besides the keys that are asked for: those that are made while it is measured.
const MORE: usize = 200_000;

/// What a slot takes of a disk, with its part of the index.
const SLOT_BYTES: u64 = 198;
/// One part in so many of a limit is for what is not counted as values: the index, what slots are free, and
/// the segment more that the log may take.
const REST: u64 = 12;

struct Slablock(Cache);

/// How many slots it has.
pub fn slots(needs: Needs) -> usize {
    SLOTS * (needs.keys + MORE)
}

pub fn open(dir: &Path, needs: Needs) -> Answer<Box<dyn Store>> {
    // What is measured is not to evict.
    let options = Cache::options().size_limit((slots(needs) as u64 * SLOT_BYTES).max(1 << 30));
    Ok(Box::new(Slablock(options.open(dir.join("store"))?)))
}

/// Takes no more of the disk than `limit`, all in all.
pub fn open_limited(dir: &Path, limit: u64, policy: Policy) -> Answer<Box<dyn Store>> {
    let options = Cache::options()
        .size_limit(limit - limit / REST)
        .eviction(match policy {
            Policy::GreedyDual => Eviction::GreedyDual,
            Policy::LeastRecentlyUsed => Eviction::LeastRecentlyUsed,
            Policy::LeastFrequentlyUsed => Eviction::LeastFrequentlyUsed,
            Policy::LeastRecentlyStored => Eviction::LeastRecentlyStored,
        });
    Ok(Box::new(Slablock(options.open(dir)?)))
}

/// The bytes of all keys and values of a cache that is there.
pub fn held(dir: &Path) -> Answer<u64> {
    let bytes = |info: &KeyInfo| match info.state {
        KeyState::Value { bytes, .. } => (info.key.len() + bytes) as u64,
        _ => 0,
    };
    Ok(Cache::open(dir)?.keys()?.iter().map(bytes).sum())
}

impl Store for Slablock {
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        Ok(self.0.get_into(key, into)?)
    }

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        self.0.set(key, value)?;
        Ok(())
    }

    fn incr(&mut self, key: &Key) -> Answer<i64> {
        Ok(self.0.incr(key, 1)?)
    }

    fn delete(&mut self, key: &Key) -> Answer<bool> {
        Ok(self.0.delete(key)?)
    }
}
