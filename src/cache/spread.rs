//! A cache of several stores side by side, each with its share of the keys; and which of the two a
//! directory holds.
//!
//! How many there are and how keys are spread stands in the file `fanout`: see `record`.

mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use record::find_record;
use record::{Record, find_and_restore, make_record, note_in_shard};

use crate::cache::{Cache, Options};
use crate::error::{Error, Result};
use crate::os::dir::Dir;
use crate::os::file::NameSeen;
use crate::slab::hash::hash;
use crate::store::Store;
use crate::store::home::rebuild::RepairReport;
use crate::store::home::{open, rebuild};
use crate::store::journal::siblings;
use crate::store::members::config::InForce;
use crate::store::names::{FANOUT, SLAB, is_there};
use crate::store::settings::{DEFAULT_MODE, Settings, mismatch};
use crate::sync::crash_point;

/// Each shard costs a mapping and two descriptors in every process, and one for each segment of its
/// log that is open.
const SHARDS_MAX: usize = 256;

/// The shards of a cache that has several, and how keys are spread over them.
pub(super) struct Spread {
    pub(super) stores: Box<[Arc<Store>]>,
    seed: [u64; 2],
    pub(super) path: PathBuf,
}

impl Spread {
    pub(super) fn shard_number(&self, key: &[u8]) -> usize {
        // Another seed than that of the shards: with the same one, each would use a part of its
        // buckets.
        (hash(self.seed, key) % self.stores.len() as u64) as usize
    }
}

/// Which store a key is in.
impl Cache {
    #[inline]
    pub(crate) fn stores(&self) -> &[Arc<Store>] {
        match &self.spread {
            None => std::slice::from_ref(&self.store),
            Some(spread) => &spread.stores,
        }
    }

    #[inline]
    pub(crate) fn shard_number(&self, key: &[u8]) -> usize {
        self.spread
            .as_ref()
            .map_or(0, |spread| spread.shard_number(key))
    }

    #[inline]
    pub(crate) fn store_of(&self, key: &[u8]) -> &Arc<Store> {
        match &self.spread {
            None => &self.store,
            Some(spread) => &spread.stores[spread.shard_number(key)],
        }
    }

    /// The sum of what `each` store does or has. An error of one does not keep the others from it:
    /// the first one is told at the end.
    pub(super) fn sum<T: std::iter::Sum>(
        &self,
        each: impl Fn(&Arc<Store>) -> Result<T>,
    ) -> Result<T> {
        let all: Vec<_> = self.stores().iter().map(each).collect();
        all.into_iter().sum()
    }
}

/// A [`Cache`] by the name that it has in Python's diskcache when it has several shards.
#[derive(Debug)]
pub enum FanoutCache {}

impl FanoutCache {
    /// Opens the cache in the directory `path` with that many shards, 1 to 256, making what is
    /// missing. Short for `Cache::options().shards(shards).open(path)`: see
    /// [`Options::shards`].
    ///
    /// # Errors
    ///
    /// `ConfigMismatch` if it was made with another number; otherwise as for [`Cache::open`].
    pub fn open(path: impl AsRef<Path>, shards: usize) -> Result<Cache> {
        Options::default().shards(shards).open(path)
    }
}

/// Opens the cache in `dir`, with as many shards as it has, or is `wanted` to have.
pub(super) fn open(dir: &Path, settings: &Settings, wanted: Option<usize>) -> Result<Cache> {
    match wanted {
        Some(shards) if !(1..=SHARDS_MAX).contains(&shards) => Err(Error::Invalid {
            what: format!("a cache has 1 to {SHARDS_MAX} shards, not {shards}"),
        }),
        Some(2..) => open_spread(dir, settings, wanted),
        _ => match open_alone(dir, settings) {
            // Not asked first: of a store by itself nothing more is to be looked at.
            Err(error @ Error::NotAStore { .. }) if dir.is_dir() => match find_record(dir)? {
                Some(_) => open_spread(dir, settings, wanted),
                None => Err(error),
            },
            other => other,
        },
    }
}

/// Opens a store by itself; also one that is a shard of a cache, as one of them.
fn open_alone(dir: &Path, settings: &Settings) -> Result<Cache> {
    let store = open::open(dir, settings)?;
    siblings::join_alone(&store)?;
    Ok(Cache {
        store,
        spread: None,
    })
}

/// Opens a cache of several shards. Without a number of them, it has to be there.
fn open_spread(dir: &Path, settings: &Settings, wanted: Option<usize>) -> Result<Cache> {
    crash_point();
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
    let record = find_or_make_record(&dir, settings, wanted)?;
    let stores = open_shards(&dir, settings, record)?;
    siblings::join_shards(&stores);
    let spread = Spread {
        stores,
        seed: record.seed,
        path: dir,
    };
    Ok(Cache {
        store: Arc::clone(&spread.stores[0]),
        spread: Some(Arc::new(spread)),
    })
}

fn find_or_make_record(dir: &Path, settings: &Settings, wanted: Option<usize>) -> Result<Record> {
    settings.limits.check_for(wanted.unwrap_or(1))?;
    let mut here = settings.clone();
    here.create &= wanted.is_some();
    open::prepare_dir(dir, &here)?;
    let is_alone = is_there(&dir.join(SLAB))?;
    let record = match find_and_restore(dir)?.filter(|_| !is_alone) {
        Some(record) => record,
        None => make_record(dir, settings, wanted)?,
    };
    if let Some(expected) = wanted.filter(|n| *n != record.shards) {
        return Err(mismatch("shards", dir, record.shards, expected));
    }
    settings.limits.check_for(record.shards)?;
    Ok(record)
}

fn open_shards(dir: &Path, settings: &Settings, record: Record) -> Result<Box<[Arc<Store>]>> {
    let mut of_shard = Settings {
        shards: record.shards,
        // The cache is there; a shard without its slab, which a cleaner has taken, begins again.
        create: true,
        ..settings.clone()
    };
    // Where nothing is asked for, those that are missing are made like one that is there: its maker
    // may be another.
    let eldest = eldest_shard(dir, record.shards)?;
    let model = open_shard(dir, eldest, &of_shard, record)?;
    of_shard.first = Some(InForce(&model).config()?);
    let shards = (0..record.shards).map(|number| match number == eldest {
        true => Ok(Arc::clone(&model)),
        false => open_shard(dir, number, &of_shard, record),
    });
    shards.collect()
}

fn open_shard(
    dir: &Path,
    number: usize,
    settings: &Settings,
    record: Record,
) -> Result<Arc<Store>> {
    make_shard(dir, number)?;
    let store = open::open(&shard_path(dir, number), settings)?;
    note_in_shard(&store, record);
    Ok(store)
}

/// Repairs the store in `path`, or every shard of it.
pub(super) fn repair(path: &Path) -> Result<RepairReport> {
    let Some(record) = record_of_several(path)? else {
        return rebuild::repair(path, DEFAULT_MODE);
    };
    let mut report = RepairReport::default();
    for number in 0..record.shards {
        let shard = shard_path(path, number);
        match is_there(&shard.join(SLAB))? {
            true => report.merge(rebuild::repair(&shard, DEFAULT_MODE)?),
            false => report.actions.push(format!(
                "left shard {number:03} alone, whose slab is gone: opening the cache makes it again"
            )),
        }
    }
    Ok(report)
}

/// Makes the store in `path`, or every shard of it, one of its own.
pub(super) fn adopt(path: &Path) -> Result<()> {
    let Some(record) = record_of_several(path)? else {
        return rebuild::adopt_by_hand(path, DEFAULT_MODE);
    };
    for number in 0..record.shards {
        let shard = shard_path(path, number);
        if is_there(&shard.join(SLAB))? {
            rebuild::adopt_by_hand(&shard, DEFAULT_MODE)?;
        }
    }
    Ok(())
}

/// `None`: it is a store by itself, or none.
fn record_of_several(path: &Path) -> Result<Option<Record>> {
    match is_there(&path.join(SLAB))? {
        true => Ok(None),
        false => find_and_restore(path),
    }
}

/// The first shard that is there; where there is none yet, the first that is made.
fn eldest_shard(dir: &Path, shards: usize) -> Result<usize> {
    for number in 0..shards {
        if is_there(&shard_path(dir, number).join(SLAB))? {
            return Ok(number);
        }
    }
    Ok(0)
}

/// Makes the directory of a shard, unless it is there, for owner and group of the cache, whichever
/// user makes it.
fn make_shard(dir: &Path, number: usize) -> Result<()> {
    let path = shard_path(dir, number);
    if is_there(&path)? {
        return Ok(());
    }
    let made = || {
        let like = NameSeen::at(&dir.join(FANOUT))?.like;
        Dir::open(dir)?.make_dir(Path::new(&shard_name(number)), like)
    };
    made().map_err(|e| Error::io("create", &path, e))
}

fn shard_name(number: usize) -> String {
    format!("{number:03}")
}

pub(super) fn shard_path(dir: &Path, number: usize) -> PathBuf {
    dir.join(shard_name(number))
}

#[cfg(any(fuzzing, test))]
impl Cache {
    pub(crate) fn of_store(store: Arc<Store>) -> Cache {
        Cache {
            store,
            spread: None,
        }
    }

    /// Each shard as a cache by itself.
    #[cfg(test)]
    pub(crate) fn each(&self) -> Vec<Cache> {
        self.stores().iter().cloned().map(Cache::of_store).collect()
    }
}
