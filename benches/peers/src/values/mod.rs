//! Values: those who keep bytes under a key, behind one trait.

mod cacache;
mod files;
mod limit;
mod lmdb;
mod redb;
mod slablock;
mod sqlite;
pub mod worker;

use std::path::Path;
use std::time::{Duration, Instant};

pub use slablock::{held, open_limited};
pub use worker::FILL;

use crate::Answer;

/// Long enough for any of them to be a name of a file, too.
pub type Key = [u8; 16];

/// Keeps values. Each operation stands for itself, as in a program that does one thing now and then.
pub trait Store {
    /// Has the value copied to `into`; `false`: there is none.
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool>;

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()>;

    /// Adds one, in one step for all processes.
    fn incr(&mut self, key: &Key) -> Answer<i64>;

    fn delete(&mut self, key: &Key) -> Answer<bool>;

    /// Sets one that is not there.
    fn add(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        self.set(key, value)
    }

    /// Gets one that is large.
    fn read(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        self.get(key, into)
    }

    /// Sets one that is large.
    fn write(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        self.set(key, value)
    }

    /// Sets many, as quickly as it can.
    fn fill(&mut self, keys: &[Key], value: &[u8]) -> Answer<()> {
        keys.iter().try_for_each(|key| self.set(key, value))
    }

    /// Does `op` to each of `keys`. Provided here, so that the loop is compiled for each peer by itself.
    fn run(&mut self, op: Op, keys: &[Key], value: &[u8], into: &mut Vec<u8>) -> Answer<Duration> {
        let start = Instant::now();
        for key in keys {
            match op {
                Op::Get => found(self.get(key, into)?)?,
                Op::Set => self.set(key, value)?,
                Op::Add => self.add(key, value)?,
                Op::Read => found(self.read(key, into)?)?,
                Op::Write => self.write(key, value)?,
                Op::Incr => drop(self.incr(key)?),
                Op::Delete => found(self.delete(key)?)?,
            }
        }
        Ok(start.elapsed())
    }
}

/// What is done to a key.
#[derive(Clone, Copy)]
pub enum Op {
    Get,
    Set,
    Add,
    Read,
    Write,
    Incr,
    Delete,
}

fn found(found: bool) -> Answer<()> {
    match found {
        true => Ok(()),
        false => Err("a key is gone".into()),
    }
}

/// What a store has to be ready for.
#[derive(Clone, Copy)]
pub struct Needs {
    pub keys: usize,
    /// Do several processes use it at once?
    pub shared: bool,
}

type Open = fn(&Path, Needs) -> Answer<Box<dyn Store>>;

/// What no store can go below.
const LIMIT: &str = "bare reads and writes (limit)";
/// What slablock as it is cannot go below.
pub const OWN_LIMIT: &str = "slablock's accesses alone (limit)";
pub const LMDB: &str = "LMDB (heed)";
pub const LMDB_WRITABLE: &str = "LMDB, writable map";
/// Said of an operation that a store does not have.
pub const NO_SUCH: &str = "there is no such operation";

/// Those that are part of this program, and how they are opened.
pub const HERE: [(&str, Open); 11] = [
    (LIMIT, limit::open),
    (OWN_LIMIT, limit::open_like_slablock),
    ("slablock", slablock::open),
    (LMDB, lmdb::open),
    (LMDB_WRITABLE, lmdb::open_writable),
    ("SQLite (rusqlite)", sqlite::open),
    ("redb", redb::open),
    ("cacache", cacache::open),
    ("files, renamed", files::open_renaming),
    ("files, fs::write", files::open_truncating),
    ("files, in place", files::open_in_place),
];

/// Those of Python.
const PYTHON: [&str; 2] = ["diskcache", "diskcache, Fanout"];

/// All, in the order of the tables.
pub fn names() -> Vec<&'static str> {
    let here = HERE.iter().map(|(name, _)| *name);
    here.chain(PYTHON).collect()
}

/// How many keys that one is measured with at the most: a file system takes longer to make a hundred thousand
/// files, and to remove them, than all the rest takes.
pub fn keys_max(name: &str) -> u64 {
    match name {
        "cacache" => 10_000,
        name if name.starts_with("files") => 10_000,
        _ => u64::MAX,
    }
}

/// Is there something to open, other than a directory?
pub fn is_opened(name: &str) -> bool {
    !name.starts_with("files") && name != "cacache" && !is_limit(name)
}

/// Is it no store at all?
pub fn is_limit(name: &str) -> bool {
    [LIMIT, OWN_LIMIT].contains(&name)
}

pub fn open(name: &str, dir: &Path, needs: Needs) -> Answer<Box<dyn Store>> {
    let found = HERE.iter().find(|(known, _)| *known == name);
    let (_, open) = found.ok_or_else(|| format!("no store is called {name}"))?;
    std::fs::create_dir_all(dir)?;
    open(dir, needs)
}

/// The key with that number. They come in no order that a tree or a directory could profit from.
pub fn key(number: u64) -> Key {
    let mut key = [0; 16];
    let mut rest = mixed(number);
    for byte in key.iter_mut().rev() {
        *byte = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
    key
}

/// The finaliser of splitmix64: a bijection, so that different numbers have different keys.
pub fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `python/keys.py` makes the same.
    #[test]
    fn keys_differ_and_are_names_of_files() {
        let keys: std::collections::HashSet<Key> = (0..10_000).map(key).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().flatten().all(u8::is_ascii_hexdigit));
        assert_eq!(&key(1), b"910a2dec89025cc1");
    }
}
