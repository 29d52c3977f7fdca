//! LMDB through `heed`: a transaction for each operation, nothing synced. Twice: as it is by default, and
//! with a writable map, which is quicker, and by LMDB's documentation gives up protection against stray
//! pointers of the program, as slablock's map does. `heed` has no call that renews a transaction.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithTls};

use super::{Key, Needs, Store};
use crate::Answer;

/// Address space only.
const MAP_BYTES: usize = 8 << 30;

struct Lmdb {
    env: &'static Env<WithTls>,
    values: Database<'static, Bytes, Bytes>,
}

pub fn open(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    open_with(dir, EnvFlags::NO_SYNC)
}

pub fn open_writable(dir: &Path, _: Needs) -> Answer<Box<dyn Store>> {
    open_with(dir, EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP)
}

fn open_with(dir: &Path, flags: EnvFlags) -> Answer<Box<dyn Store>> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES);
    // SAFETY: without syncing, a power loss may damage the file, which does not outlive this run.
    unsafe { options.flags(flags) };
    // SAFETY: only this benchmark uses the file, on a local file system, and once in each process.
    let env = unsafe { options.open(dir)? };
    // A database borrows its environment: they live and go together.
    let env: &'static Env<WithTls> = Box::leak(Box::new(env));
    let made = env.create_databases_and_commit(env.write_txn()?, |creator, txn| {
        let database = creator.create_database::<Bytes, Bytes>(txn, None)?;
        heed::Result::Ok(CommitOrAbort::<_, ()>::Commit(database))
    })?;
    let values = made.unwrap_commit();
    Ok(Box::new(Lmdb { env, values }))
}

impl Drop for Lmdb {
    fn drop(&mut self) {
        let env: *const Env<WithTls> = self.env;
        // SAFETY: it was leaked by `open`, and nothing but `values`, which does nothing when it is dropped,
        // has borrowed it.
        drop(unsafe { Box::from_raw(env.cast_mut()) });
    }
}

impl Store for Lmdb {
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        let txn = self.env.read_txn()?;
        let value = self.values.get(&txn, key)?;
        Ok(value.is_some_and(|value| {
            into.clear();
            into.extend_from_slice(value);
            true
        }))
    }

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        let mut txn = self.env.write_txn()?;
        self.values.put(&mut txn, key, value)?;
        Ok(txn.commit()?)
    }

    fn incr(&mut self, key: &Key) -> Answer<i64> {
        let mut txn = self.env.write_txn()?;
        let old = self.values.get(&txn, key)?;
        let old = old.map_or(Ok(0), |bytes| bytes.try_into().map(i64::from_le_bytes))?;
        self.values.put(&mut txn, key, &(old + 1).to_le_bytes())?;
        txn.commit()?;
        Ok(old + 1)
    }

    fn delete(&mut self, key: &Key) -> Answer<bool> {
        let mut txn = self.env.write_txn()?;
        let found = self.values.delete(&mut txn, key)?;
        txn.commit()?;
        Ok(found)
    }

    fn fill(&mut self, keys: &[Key], value: &[u8]) -> Answer<()> {
        let mut txn = self.env.write_txn()?;
        for key in keys {
            self.values.put(&mut txn, key, value)?;
        }
        Ok(txn.commit()?)
    }
}
