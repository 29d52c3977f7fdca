//! Several stores side by side, each with its share of the keys.
//!
//! How many there are and how keys are spread stands in the file `fanout`: see `record`.

mod record;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use record::find_record;
use record::{Record, find_and_restore, make_record, note_in_shard};

use crate::cache::{Cache, Options};
use crate::error::{Error, Result};
use crate::os::dir::Dir;
use crate::os::file::Likeness;
use crate::slab::hash::hash;
use crate::store::care::check::CheckReport;
use crate::store::home::open;
use crate::store::home::rebuild::RepairReport;
use crate::store::journal::siblings;
use crate::store::names;
use crate::store::names::FANOUT;
use crate::store::settings::{Config, Settings, mismatch};
use crate::sync::crash_point;
use crate::types::{KeyInfo, Stats};

/// Each shard costs a mapping and two descriptors in every process, and one for each segment of its log that is open.
const SHARDS_MAX: usize = 256;

/// Keys spread over several independent stores in one directory, by a hash that is stored there. Everything
/// that takes a [`Cache`] takes it as well.
///
/// Making and removing keys in different shards never waits for each other. Taking and giving back do not
/// anyway: for most programs, a plain [`Cache`] is as good.
#[derive(Clone)]
pub struct FanoutCache {
    shards: Arc<[Cache]>,
    seed: [u64; 2],
    path: Arc<Path>,
}

impl FanoutCache {
    /// Opens the cache in the directory `path` with that many shards, 1 to 256, making what is missing.
    ///
    /// # Errors
    ///
    /// `ConfigMismatch` if it was made with another number; `NotAStore` if the directory is a plain
    /// [`Cache`]; otherwise as for [`Cache::open`].
    pub fn open(path: impl AsRef<Path>, shards: usize) -> Result<FanoutCache> {
        Options::default().open_fanout(path, Some(shards))
    }

    /// What can be chosen before opening; ends in [`open_fanout`](Options::open_fanout).
    pub fn options() -> Options {
        Options::default()
    }

    /// Whether the directory `path` holds a `FanoutCache`. Also if what would tell cannot be read: opening it says why.
    /// Nothing that is no directory holds one.
    pub fn is_at(path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        path.is_dir() && !matches!(find_record(path), Ok(None))
    }

    /// Makes every shard one of this cache alone. See [`Cache::adopt`].
    pub fn adopt(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let record = finished_record(path)?;
        for number in 0..record.shards {
            let shard = shard_path(path, number);
            if names::is_there(&shard.join(names::SLAB))? {
                Cache::adopt(shard)?;
            }
        }
        Ok(())
    }

    /// Repairs every shard. See [`Cache::repair`].
    pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
        let path = path.as_ref();
        let record = finished_record(path)?;
        let mut report = RepairReport::default();
        for number in 0..record.shards {
            let shard = shard_path(path, number);
            match names::is_there(&shard.join(names::SLAB))? {
                true => report.merge(Cache::repair(shard)?),
                false => report.actions.push(format!(
                    "left shard {number:03} alone, whose slab is gone: opening the cache makes it again"
                )),
            }
        }
        Ok(report)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// For how many keys it was made, all shards together.
    pub fn capacity(&self) -> usize {
        self.shards.iter().map(Cache::capacity).sum()
    }

    /// Removes every key that carries `tag`. See [`Cache::evict`].
    pub fn evict(&self, tag: impl AsRef<[u8]>) -> Result<usize> {
        crate::Keyspace::evict(self, tag)
    }

    /// Removes a key. See [`Cache::remove`].
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        crate::Keyspace::remove(self, key)
    }

    /// Removes every key. See [`Cache::clear`].
    pub fn clear(&self) -> Result<usize> {
        crate::Keyspace::clear(self)
    }

    /// All keys and how they stand. See [`Cache::keys`].
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        crate::Keyspace::keys(self)
    }

    /// One key and how it stands. See [`Cache::key`].
    pub fn key(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyInfo>> {
        crate::Keyspace::key(self, key)
    }

    /// How many keys there are. See [`Cache::len`].
    pub fn len(&self) -> Result<usize> {
        crate::Keyspace::len(self)
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> Result<bool> {
        crate::Keyspace::is_empty(self)
    }

    /// Removes values whose time is over. See [`Cache::expire`].
    pub fn expire(&self) -> Result<usize> {
        crate::Keyspace::expire(self)
    }

    /// Makes room in every shard. See [`Cache::cull`].
    pub fn cull(&self) -> Result<usize> {
        crate::Keyspace::cull(self)
    }

    /// How many bytes of disk all shards take. See [`Cache::volume`].
    pub fn volume(&self) -> Result<u64> {
        crate::Keyspace::volume(self)
    }

    /// How all shards fare together. See [`Cache::stats`].
    pub fn stats(&self) -> Result<Stats> {
        crate::Keyspace::stats(self)
    }

    /// Waits until all that was set is on the medium. See [`Cache::sync`].
    pub fn sync(&self) -> Result<()> {
        crate::Keyspace::sync(self)
    }

    /// Changes the settings of every shard; a `size_limit` is for all of them together. See
    /// [`Cache::configure`].
    pub fn configure(&self, changes: &Options) -> Result<()> {
        changes.config().check_for(self.shards.len())?;
        let share = changes.shared_by(self.shards.len());
        self.shards
            .iter()
            .try_for_each(|cache| cache.configure(&share))
    }

    /// The settings in force, of all shards together. See [`Cache::config`].
    pub fn config(&self) -> Result<Config> {
        crate::Keyspace::config(self)
    }

    /// Verifies every shard. See [`Cache::check`].
    pub fn check(&self) -> Result<CheckReport> {
        crate::Keyspace::check(self)
    }

    pub(crate) fn shard_caches(&self) -> &[Cache] {
        &self.shards
    }

    pub(super) fn shard_of(&self, key: &[u8]) -> &Cache {
        &self.shards[self.shard_number(key)]
    }

    pub(crate) fn shard_number(&self, key: &[u8]) -> usize {
        // Another seed than that of the shards: with the same one, each would use a part of its buckets.
        (hash(self.seed, key) % self.shards.len() as u64) as usize
    }
}

impl fmt::Debug for FanoutCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanoutCache")
            .field("path", &self.path)
            .field("shards", &self.shards())
            .finish()
    }
}

/// Opens the `FanoutCache` in `dir`.
pub(super) fn open(dir: &Path, settings: &Settings, wanted: Option<usize>) -> Result<FanoutCache> {
    if let Some(shards) = wanted.filter(|n| !(1..=SHARDS_MAX).contains(n)) {
        let what = format!("a FanoutCache has 1 to {SHARDS_MAX} shards, not {shards}");
        return Err(Error::Invalid { what });
    }
    settings.config.check_for(wanted.unwrap_or(1))?;
    let mut here = settings.clone();
    // Without a number there is nothing to be made.
    here.create &= wanted.is_some();
    open::prepare_dir(dir, &here)?;
    crash_point();
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
    let record = match find_and_restore(&dir)? {
        Some(record) => record,
        None => make_record(&dir, settings, wanted)?,
    };
    if let Some(expected) = wanted.filter(|n| *n != record.shards) {
        return Err(mismatch("shards", &dir, record.shards, expected));
    }
    settings.config.check_for(record.shards)?;
    let mut of_shard = Settings {
        shards: record.shards,
        // The cache is there; a shard whose slab a cleaner has taken begins again.
        create: true,
        ..settings.clone()
    };
    let open_shard = |number, of_shard: &Settings| {
        make_shard(&dir, number)?;
        let store = open::open(&shard_path(&dir, number), of_shard)?;
        note_in_shard(&store, record);
        Ok(Cache { store })
    };
    // Where nothing is asked for, those that are missing are made like one that is there: its maker may be another.
    let eldest = eldest_shard(&dir, record.shards)?;
    let model = open_shard(eldest, &of_shard)?;
    of_shard.first = Some(model.store.config()?);
    let shards = (0..record.shards).map(|number| match number == eldest {
        true => Ok(model.clone()),
        false => open_shard(number, &of_shard),
    });
    let shards: Arc<[Cache]> = shards.collect::<Result<_>>()?;
    let stores: Vec<_> = shards
        .iter()
        .map(|cache| Arc::clone(&cache.store))
        .collect();
    siblings::join_shards(&stores);
    Ok(FanoutCache {
        shards,
        seed: record.seed,
        path: dir.into(),
    })
}

/// The first shard that is there; where there is none yet, the first that is made.
fn eldest_shard(dir: &Path, shards: usize) -> Result<usize> {
    for number in 0..shards {
        if names::is_there(&shard_path(dir, number).join(names::SLAB))? {
            return Ok(number);
        }
    }
    Ok(0)
}

/// Makes the directory of a shard, unless it is there, for owner and group of the cache, whoever makes it.
fn make_shard(dir: &Path, number: usize) -> Result<()> {
    let path = shard_path(dir, number);
    if names::is_there(&path)? {
        return Ok(());
    }
    let made = || {
        let (like, _) = Likeness::at(&dir.join(FANOUT))?;
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

fn finished_record(path: &Path) -> Result<Record> {
    find_and_restore(path)?.ok_or_else(|| {
        names::not_a_store(
            path,
            "it has no finished fanout file; name the directory of a FanoutCache",
        )
    })
}
