//! One file per key, with nothing but the standard library.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;

use super::worker::LARGE_BYTES;
use super::{Key, Needs, Store};
use crate::Answer;
use crate::locks::writable;

/// How a value is written.
enum Way {
    /// To there, and renamed, so that nobody reads half a value.
    Renamed(PathBuf),
    /// By `fs::write`, which cuts off what was there.
    Anew,
    /// Over what was there.
    InPlace,
}

struct Files {
    dir: PathBuf,
    way: Way,
    /// Where a page begins: some processors copy several times more slowly to where `malloc` puts what is
    /// large, 16 bytes into a page.
    room: MmapMut,
}

fn open(dir: &Path, way: Way) -> Answer<Box<dyn Store>> {
    let (dir, room) = (dir.to_path_buf(), MmapMut::map_anon(LARGE_BYTES)?);
    Ok(Box::new(Files { dir, way, room }))
}

pub fn open_renaming(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    let scratch = dir.join(format!("new-{}", std::process::id()));
    open(dir, Way::Renamed(scratch))
}

pub fn open_truncating(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    open(dir, Way::Anew)
}

pub fn open_in_place(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    open(dir, Way::InPlace)
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
        match &self.way {
            Way::InPlace => write_over(&path, value)?,
            Way::Anew => fs::write(path, value)?,
            Way::Renamed(scratch) => {
                fs::write(scratch, value)?;
                fs::rename(scratch, path)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, key: &Key, _: &mut Vec<u8>) -> Answer<bool> {
        let mut file = File::open(self.path(key))?;
        let length = file.metadata()?.len() as usize;
        file.read_exact(&mut self.room[..length])?;
        Ok(true)
    }

    /// In place and under a lock of the file, in all ways: a rename would take the lock away with it.
    fn incr(&mut self, key: &Key) -> Answer<i64> {
        let mut file = writable(&self.path(key))?;
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

/// Not cut off first, which would have the file system give its blocks back, and write them out as well.
fn write_over(path: &Path, value: &[u8]) -> Answer<()> {
    let mut file = writable(path)?;
    file.write_all(value)?;
    Ok(file.set_len(value.len() as u64)?)
}
