//! Several stores side by side, each with its share of the keys.
//!
//! The file `fanout` in the directory says how many there are and how keys are spread, so that two programs
//! that disagree are told, instead of excluding nothing.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `slabfan\0` |
//! | 8 | 4 | format version |
//! | 12 | 4 | shards |
//! | 16 | 16 | seed of the key hash |
//! | 32 | 4 | CRC-32 of the bytes before |

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Cache, Options};
use crate::error::{Error, Result};
use crate::os::dir::{Dir, names};
use crate::os::file::{self, Likeness};
use crate::store::check::CheckReport;
use crate::store::config::{Config, mismatch};
use crate::store::hash::hash;
use crate::store::lock_files::{self, Locks};
use crate::store::open::{self, FANOUT, Settings, Site};
use crate::store::rebuild::RepairReport;
use crate::store::shards;
use crate::sync::crash_point;
use crate::types::{KeyInfo, Stats};

const MAGIC: [u8; 8] = *b"slabfan\0";
const FORMAT_VERSION: u32 = 1;
const RECORD_BYTES: usize = 36;
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

/// What the file `fanout` says.
pub(super) struct Record {
    pub(super) shards: usize,
    pub(super) seed: [u64; 2],
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

    /// Whether the directory `path` holds a `FanoutCache`.
    pub fn is_at(path: impl AsRef<Path>) -> bool {
        path.as_ref().join(FANOUT).is_file()
    }

    /// Makes every shard one of this cache alone. See [`Cache::adopt`].
    pub fn adopt(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let record = finished_record(path)?;
        (0..record.shards).try_for_each(|number| Cache::adopt(shard_path(path, number)))
    }

    /// Repairs every shard. See [`Cache::repair`].
    pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
        let path = path.as_ref();
        let record = finished_record(path)?;
        let mut report = RepairReport::default();
        for number in 0..record.shards {
            report.merge(Cache::repair(shard_path(path, number))?);
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
    let record = match read_record(&dir)? {
        Some(record) => record,
        None => make_record(&dir, settings, wanted)?,
    };
    if let Some(expected) = wanted.filter(|n| *n != record.shards) {
        return Err(mismatch("shards", &dir, record.shards, expected));
    }
    settings.config.check_for(record.shards)?;
    let mut of_shard = Settings {
        shards: record.shards,
        ..settings.clone()
    };
    let shards = (0..record.shards).map(|number| {
        make_shard(&dir, number)?;
        let store = open::open(&shard_path(&dir, number), &of_shard)?;
        if number == 0 {
            // Where nothing is asked for, the others are made like it: its maker may be another, and have died since.
            of_shard.first = Some(store.config()?);
        }
        Ok(Cache { store })
    });
    let shards: Arc<[Cache]> = shards.collect::<Result<_>>()?;
    let stores: Vec<_> = shards
        .iter()
        .map(|cache| Arc::clone(&cache.store))
        .collect();
    shards::join_shards(&stores);
    Ok(FanoutCache {
        shards,
        seed: record.seed,
        path: dir.into(),
    })
}

/// Makes the directory of a shard, unless it is there, for owner and group of the cache, whoever makes it.
fn make_shard(dir: &Path, number: usize) -> Result<()> {
    let path = shard_path(dir, number);
    if open::is_there(&path)? {
        return Ok(());
    }
    let made = || {
        let (like, _) = Likeness::at(&dir.join(FANOUT))?;
        Dir::open(dir)?.make_dir(Path::new(&format!("{number:03}")), like)
    };
    made().map_err(|e| Error::io("create", &path, e))
}

pub(super) fn shard_path(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{number:03}"))
}

fn finished_record(path: &Path) -> Result<Record> {
    read_record(path)?.ok_or_else(|| {
        open::not_a_store(
            path,
            "it has no finished fanout file; name the directory of a FanoutCache",
        )
    })
}

/// `None`: it is not there, or not finished.
pub(super) fn read_record(dir: &Path) -> Result<Option<Record>> {
    let path = dir.join(FANOUT);
    crash_point();
    let file = match file::open_to_read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io("read", &path, e))?,
    };
    // One byte more, to see that it is longer; never all of what may be there.
    let mut bytes = Vec::with_capacity(RECORD_BYTES + 1);
    file.take(RECORD_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", &path, e))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let damaged = |what: &str| Error::Corrupt {
        path: path.clone(),
        what: what.to_string(),
    };
    let bytes: [u8; RECORD_BYTES] = bytes
        .try_into()
        .map_err(|_| damaged("it has the wrong length"))?;
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    if bytes[..8] != MAGIC {
        return Err(open::not_a_store(
            dir,
            "its fanout file does not begin as one; name another directory",
        ));
    }
    if u32_at(8) != FORMAT_VERSION {
        return Err(Error::Version {
            path,
            found: u32_at(8),
            supported: FORMAT_VERSION,
        });
    }
    let shards = u32_at(12) as usize;
    if crc32fast::hash(&bytes[..32]) != u32_at(32) || !(1..=SHARDS_MAX).contains(&shards) {
        return Err(damaged("it fails its checksum"));
    }
    Ok(Some(Record {
        shards,
        seed: [u64_at(16), u64_at(24)],
    }))
}

/// Makes the record, unless somebody else does so first. Written aside and renamed into place, under a lock,
/// so that nobody ever sees half of it or two of them.
fn make_record(dir: &Path, settings: &Settings, wanted: Option<usize>) -> Result<Record> {
    let plain = || open::not_a_store(dir, "it holds a plain Cache, to be opened as one");
    if open::is_there(&dir.join(open::SLAB))? {
        return Err(plain());
    }
    let Some(shards) = wanted.filter(|_| settings.create) else {
        return Err(open::not_a_store(
            dir,
            "it holds no FanoutCache; name the number of shards to make one",
        ));
    };
    refuse_strangers(dir)?;
    let io = |action, path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::io(action, &path, e)
    };
    // Whoever makes a plain store here has the same lane.
    let site = Site {
        dir: dir.to_path_buf(),
        locks: dir.to_path_buf(),
        lane: 0,
    };
    let locks = Locks::open(&site, settings.new_mode())?;
    loop {
        let is_alone = locks.try_attach_alone()?;
        if let Some(record) = read_record(dir)? {
            return Ok(record);
        }
        if is_alone {
            break;
        }
        // No wait in the kernel: whoever has made the record goes on and attaches its shards, for as long as it lives.
        crash_point();
        std::thread::sleep(Duration::from_millis(1));
    }
    if open::is_there(&dir.join(open::SLAB))? {
        return Err(plain());
    }
    let seed = [open::random(dir)?, open::random(dir)?];
    let (new, path) = (dir.join("fanout.new"), dir.join(FANOUT));
    let mode = settings.new_mode();
    write_record(&new, &encode(shards as u32, seed), mode).map_err(io("write", &new))?;
    // Whoever finds the record takes that for done. Whoever made the directory may have died before.
    file::sync_above(dir).map_err(io("sync", dir))?;
    crash_point();
    std::fs::rename(&new, &path).map_err(io("write", &path))?;
    // Before there are shards: without the record they would be strangers.
    file::sync_dir(dir).map_err(io("sync", dir))?;
    Ok(Record { shards, seed })
}

fn encode(shards: u32, seed: [u64; 2]) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&shards.to_le_bytes());
    bytes[16..24].copy_from_slice(&seed[0].to_le_bytes());
    bytes[24..32].copy_from_slice(&seed[1].to_le_bytes());
    let crc = crc32fast::hash(&bytes[..32]);
    bytes[32..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn write_record(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = file::open(path, true, mode)?;
    crash_point();
    file.set_len(0)?;
    crash_point();
    file::write_all_at(&file, bytes, 0)?;
    crash_point();
    file.sync_all()
}

/// As for a plain store: a directory with other things in it does not become a cache by a slip.
fn refuse_strangers(dir: &Path) -> Result<()> {
    crash_point();
    for name in names(dir).map_err(|e| Error::io("read", dir, e))? {
        let ours = [FANOUT, "fanout.new"].into_iter().chain(lock_files::NAMES);
        let mut harmless = ours.chain(open::OTHERS_FILES);
        if !harmless.any(|known| name == known) {
            crash_point();
            if dir.join(FANOUT).exists() {
                // Made since we looked for it, and with it the shards.
                return Ok(());
            }
            let why = format!(
                "it has {} in it, and no fanout file; name a new or empty directory",
                name.to_string_lossy()
            );
            return Err(open::not_a_store(dir, &why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who finds no record, and lists the directory after another process made record and shards.
    #[test]
    fn shards_that_were_made_meanwhile_are_no_strangers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("000")).unwrap();
        assert!(refuse_strangers(dir.path()).is_err());
        std::fs::write(dir.path().join(FANOUT), b"").unwrap();
        assert!(refuse_strangers(dir.path()).is_ok());
    }
}
