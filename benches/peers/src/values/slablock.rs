//! slablock's own values: the cache itself, with as many slots as it needs.

use std::path::Path;

use slablock::Cache;

use super::{Key, Needs, Store};
use crate::Answer;

/// A value of 100 bytes takes two slots, with its key.
const SLOTS: usize = 2;
/// Besides the keys that are asked for: those that are made while it is measured.
const MORE: usize = 200_000;

struct Slablock(Cache);

/// How many slots it has.
pub fn slots(needs: Needs) -> usize {
    SLOTS * (needs.keys + MORE)
}

pub fn open(dir: &Path, needs: Needs) -> Answer<Box<dyn Store>> {
    let options = Cache::options().capacity(slots(needs));
    Ok(Box::new(Slablock(options.open(dir.join("store"))?)))
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
