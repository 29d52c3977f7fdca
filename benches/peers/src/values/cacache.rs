//! cacache, as npm has it: contents by their hash, and an index of files that are appended to.

use std::path::{Path, PathBuf};

use super::{Key, NO_SUCH, Needs, Store};
use crate::Answer;

struct Cacache(PathBuf);

pub fn open(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    Ok(Box::new(Cacache(dir.join("cache"))))
}

fn name(key: &Key) -> &str {
    std::str::from_utf8(key).expect("keys are hexadecimal digits")
}

impl Store for Cacache {
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        match cacache::read_sync(&self.0, name(key)) {
            Ok(value) => *into = value,
            Err(cacache::Error::EntryNotFound(..)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        cacache::write_sync(&self.0, name(key), value)?;
        Ok(())
    }

    fn incr(&mut self, _: &Key) -> Answer<i64> {
        Err(NO_SUCH.into())
    }

    fn delete(&mut self, key: &Key) -> Answer<bool> {
        cacache::remove_sync(&self.0, name(key))?;
        Ok(true)
    }
}
