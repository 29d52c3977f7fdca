//! One file per key, with nothing but the standard library.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::{Key, Needs, Store};
use crate::Answer;

struct Files {
    dir: PathBuf,
    /// Written elsewhere and renamed, so that nobody reads half a value.
    scratch: Option<PathBuf>,
}

pub fn open_renaming(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    let scratch = dir.join(format!("new-{}", std::process::id()));
    let (dir, scratch) = (dir.to_path_buf(), Some(scratch));
    Ok(Box::new(Files { dir, scratch }))
}

pub fn open_in_place(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    let (dir, scratch) = (dir.to_path_buf(), None);
    Ok(Box::new(Files { dir, scratch }))
}

impl Files {
    fn path(&self, key: &Key) -> PathBuf {
        let name = std::str::from_utf8(key).expect("keys are hexadecimal digits");
        self.dir.join(name)
    }
}

impl Store for Files {
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        into.clear();
        match File::open(self.path(key)) {
            Ok(mut file) => file.read_to_end(into)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        Ok(true)
    }

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        let path = self.path(key);
        match &self.scratch {
            None => fs::write(path, value)?,
            Some(scratch) => {
                fs::write(scratch, value)?;
                fs::rename(scratch, path)?;
            }
        }
        Ok(())
    }

    /// In place and under a lock of the file, in both ways: a rename would take the lock away with it.
    fn incr(&mut self, key: &Key) -> Answer<i64> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(self.path(key))?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let new = 1 + if text.is_empty() { 0 } else { text.parse()? };
        file.rewind()?;
        file.write_all(new.to_string().as_bytes())?;
        Ok(new)
    }

    fn delete(&mut self, key: &Key) -> Answer<bool> {
        fs::remove_file(self.path(key))?;
        Ok(true)
    }
}
