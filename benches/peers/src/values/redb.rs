//! redb: a transaction for each operation, `Durability::None`. Between processes redb refuses that (a
//! commit that is in the memory of one process only is none for the others), so there it syncs.

use std::path::Path;

use redb::{
    ConcurrencyMode, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::{Key, Needs, Store};
use crate::Answer;

const VALUES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("values");

struct Redb {
    db: Database,
    durability: Durability,
}

pub fn open(dir: &Path, needs: Needs) -> Answer<Box<dyn Store>> {
    let mut builder = Database::builder();
    let durability = match needs.shared {
        true => Durability::Immediate,
        false => Durability::None,
    };
    if needs.shared {
        builder.set_concurrency_mode(ConcurrencyMode::MultiWriter);
    }
    let db = builder.create(dir.join("values.redb"))?;
    let mut store = Redb { db, durability };
    // A table can be read only once it was made.
    store.write(|txn| txn.open_table(VALUES).map(drop).map_err(Into::into))?;
    Ok(Box::new(store))
}

impl Redb {
    fn write<T>(&mut self, change: impl FnOnce(&WriteTransaction) -> Answer<T>) -> Answer<T> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(self.durability)?;
        let changed = change(&txn)?;
        txn.commit()?;
        Ok(changed)
    }
}

impl Store for Redb {
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(VALUES)?;
        let value = table.get(&key[..])?;
        Ok(value.is_some_and(|value| {
            into.clear();
            into.extend_from_slice(value.value());
            true
        }))
    }

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        self.write(|txn| {
            txn.open_table(VALUES)?.insert(&key[..], value)?;
            Ok(())
        })
    }

    fn incr(&mut self, key: &Key) -> Answer<i64> {
        self.write(|txn| {
            let mut table = txn.open_table(VALUES)?;
            let old = table.get(&key[..])?;
            let old = old.map_or(Ok(0), |old| old.value().try_into().map(i64::from_le_bytes))?;
            table.insert(&key[..], &(old + 1).to_le_bytes()[..])?;
            Ok(old + 1)
        })
    }

    fn delete(&mut self, key: &Key) -> Answer<bool> {
        self.write(|txn| Ok(txn.open_table(VALUES)?.remove(&key[..])?.is_some()))
    }

    fn fill(&mut self, keys: &[Key], value: &[u8]) -> Answer<()> {
        self.write(|txn| {
            let mut table = txn.open_table(VALUES)?;
            for key in keys {
                table.insert(&key[..], value)?;
            }
            Ok(())
        })
    }
}
