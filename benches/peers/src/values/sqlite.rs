//! SQLite through `rusqlite`: a write-ahead log, synchronous = NORMAL, statements prepared once; a cache and
//! a mapping that have room for all, as its documentation advises for speed.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::{Key, Needs, Store};
use crate::Answer;

struct Sqlite(Connection);

/// Small rows under a key that is no number are best kept in the tree of the key itself, says the
/// documentation of `WITHOUT ROWID`; large ones are not.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS large (key BLOB PRIMARY KEY, value)";
const GET: &str = "SELECT value FROM pairs WHERE key = ?1";
const GET_LARGE: &str = "SELECT value FROM large WHERE key = ?1";
const SET: &str = "INSERT INTO pairs VALUES (?1, ?2)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const SET_LARGE: &str = "INSERT INTO large VALUES (?1, ?2)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value";
const INCR: &str = "INSERT INTO pairs VALUES (?1, 1)
    ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value";
const DELETE: &str = "DELETE FROM pairs WHERE key = ?1";

/// In KiB, which a negative number says.
const CACHE: i64 = -(256 << 10);
const MAP_BYTES: i64 = 1 << 30;

pub fn open(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    let db = Connection::open(dir.join("pairs.db"))?;
    db.busy_timeout(Duration::from_secs(20))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "cache_size", CACHE)?;
    db.pragma_update(None, "mmap_size", MAP_BYTES)?;
    db.execute_batch(SCHEMA)?;
    Ok(Box::new(Sqlite(db)))
}

impl Sqlite {
    fn get_by(&self, query: &str, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        let mut get = self.0.prepare_cached(query)?;
        let found = get.query_row([&key[..]], |row| {
            into.clear();
            into.extend_from_slice(row.get_ref(0)?.as_blob()?);
            Ok(())
        });
        Ok(found.optional()?.is_some())
    }

    fn set_by(&self, query: &str, key: &Key, value: &[u8]) -> Answer<()> {
        self.0.prepare_cached(query)?.execute((&key[..], value))?;
        Ok(())
    }
}

impl Store for Sqlite {
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        self.get_by(GET, key, into)
    }

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        self.set_by(SET, key, value)
    }

    fn read(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        self.get_by(GET_LARGE, key, into)
    }

    fn write(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        self.set_by(SET_LARGE, key, value)
    }

    fn incr(&mut self, key: &Key) -> Answer<i64> {
        let mut incr = self.0.prepare_cached(INCR)?;
        Ok(incr.query_row([&key[..]], |row| row.get(0))?)
    }

    fn delete(&mut self, key: &Key) -> Answer<bool> {
        let deleted = self.0.prepare_cached(DELETE)?.execute([&key[..]])?;
        Ok(deleted > 0)
    }

    /// Without syncing, which is not measured here.
    fn fill(&mut self, keys: &[Key], value: &[u8]) -> Answer<()> {
        self.0.pragma_update(None, "synchronous", "OFF")?;
        let all = self.0.transaction()?;
        for key in keys {
            all.prepare_cached(SET)?.execute((&key[..], value))?;
        }
        all.commit()?;
        Ok(self.0.pragma_update(None, "synchronous", "NORMAL")?)
    }
}
