//! Reading a store without taking part in it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::cache::iter::Entry;
use crate::cache::{Cache, spread};
use crate::error::{Error, Result};
use crate::key::AsKey;
use crate::slab::hash::hash;
use crate::store::care::check::CheckReport;
use crate::store::care::reader::{DecidedThere, ReadStore};
use crate::store::key_entry::check_lengths;
use crate::store::names::{SLAB, is_there, not_a_store};
use crate::store::settings::Config;
use crate::types::{KeyInfo, Stats, Summary};

/// A cache, open for reading only: by a user that may read it and not write it, on a
/// read-only mount, or by a monitor that is to disturb nobody.
///
/// It needs read permission for the slab and for the files in `log`, and search permission for the
/// directories. It takes part in nothing: it gets no number, opens no lock file, makes, locks and
/// writes nothing (what it maps it cannot write), and whatever it does keeps nobody from anything.
/// In turn it waits for nobody: processes that are stopped, wherever they are stopped, do not stop
/// it.
///
/// What it can therefore not promise:
///
/// - Lists ([`keys`](Self::keys), [`len`](Self::len)) are not made under locks: a key that is
///   removed and made again meanwhile may be listed twice or not at all. What exists throughout is
///   listed once.
/// - What it looks up counts neither as a hit nor as a use, and what it finds damaged is not
///   counted.
/// - Nothing is cleared up: what the dead hold stays theirs, what is over stays where it is (and is
///   not shown).
/// - Whether a holder lives is asked of the kernel by the slab alone, and where that does not
///   answer, by the process id. On overlayfs a holder that has closed its descriptors passes for
///   dead.
/// - A read-only mapping on overlayfs that was made before anybody opened the store for writing
///   there never shows later writes: open a new reader.
/// - Another process may repair the store, or remove it, under a reader, which notices: the error
///   is `Corrupt` while that lasts, or `Replaced`.
///
/// A transaction that was decided and is not carried out yet is seen as carried out.
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// let cache = slablock::Cache::open(&dir)?;
/// cache.set("greeting", "hello")?;
///
/// let reader = slablock::Reader::open(&dir)?;
/// assert_eq!(reader.get("greeting")?.as_deref(), Some(&b"hello"[..]));
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    /// `None`: it is gone, and made again by the next one that opens the cache for writing.
    shards: Vec<Option<ReadStore>>,
    /// Of several.
    seed: [u64; 2],
    /// The store with the journal that counts, if it is none of these.
    home: Option<Box<ReadStore>>,
    path: PathBuf,
}

impl Cache {
    /// Opens the cache in the directory `path` for reading only. See
    /// [`Reader`].
    pub fn reader(path: impl AsRef<Path>) -> Result<Reader> {
        Reader::open(path)
    }
}

impl Reader {
    /// Opens the cache in the directory `path`, or one shard of it. Also one
    /// that is a copy, which [`Cache::open`] refuses: nobody is granted anything here.
    ///
    /// # Errors
    ///
    /// `NotAStore` also where a store is only being made (shards that are not there are read as
    /// empty, until the reader is opened again); `Corrupt` also where it is being repaired;
    /// `Version`, `Linked`, `UnsupportedFs`, `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Reader> {
        let path = path.as_ref();
        let path = std::path::absolute(path).map_err(|e| Error::io("find", path, e))?;
        let is_alone = is_there(&path.join(SLAB))?;
        if let Some(record) = spread::find_record(&path)?.filter(|_| !is_alone) {
            let shards = (0..record.shards).map(|number| {
                let shard = spread::shard_path(&path, number);
                match is_there(&shard.join(SLAB))? {
                    true => ReadStore::open(&shard).map(Some),
                    false => Ok(None),
                }
            });
            return Ok(Reader {
                shards: shards.collect::<Result<_>>()?,
                seed: record.seed,
                home: None,
                path,
            });
        }
        let store = ReadStore::open(&path)?;
        Ok(Reader {
            home: store.open_home()?.map(Box::new),
            shards: vec![Some(store)],
            seed: [0; 2],
            path,
        })
    }

    /// The directory, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was decided, as it is looked at by one call.
    fn decided(&self) -> DecidedThere<'_> {
        let first = || self.shards.first()?.as_ref();
        DecidedThere::new(self.home.as_deref().or_else(first))
    }

    fn of_key<T: Default>(
        &self,
        key: &[u8],
        look: impl FnOnce(&ReadStore, &mut DecidedThere<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut decided = self.decided();
        let shard = match &self.shards[..] {
            [alone] => alone,
            all => &all[(hash(self.seed, key) % all.len() as u64) as usize],
        };
        match shard {
            Some(shard) => shard.looking(|| look(shard, &mut decided)),
            // As of a key that is not there, with the same refusals.
            None => check_lengths(key, &[]).map(|()| T::default()),
        }
    }

    fn of_all(
        &self,
        mut look: impl FnMut(&ReadStore, &mut DecidedThere<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut decided = self.decided();
        let mut shards = self.shards.iter().flatten();
        shards.try_for_each(|shard| shard.looking(|| look(shard, &mut decided)))
    }

    /// The value; `None`: there is none, it is over, or it is damaged. Its checksum is looked at
    /// each time.
    ///
    /// # Errors
    ///
    /// `KindMismatch` if the key is none of a value; `KeyLength`. `StructureBusy` if others change
    /// the structure of its part of the store so fast that it cannot be told whether there is
    /// such a key.
    pub fn get(&self, key: impl AsKey) -> Result<Option<Vec<u8>>> {
        Ok(self.entry(key)?.map(|entry| entry.value))
    }

    /// The value, its tag, and how long it will be there, all of the same moment.
    pub fn entry(&self, key: impl AsKey) -> Result<Option<Entry>> {
        let key = key.as_key();
        let whole = self.of_key(key, |shard, decided| shard.values(decided).value(key))?;
        Ok(whole.map(Entry::of))
    }

    /// The average under a key; `None`: nothing was added, or it is over. Errors: as for
    /// [`get`](Self::get); `Corrupt` if it fails its checksum.
    pub fn summary(&self, key: impl AsKey) -> Result<Option<Summary>> {
        let key = key.as_key();
        self.of_key(key, |shard, _| shard.summary(key))
    }

    /// One key and how it stands; `None` if there is none. Errors: `KeyLength`, `StructureBusy`.
    pub fn key_info(&self, key: impl AsKey) -> Result<Option<KeyInfo>> {
        let key = key.as_key();
        self.of_key(key, |shard, decided| shard.keys(decided).key_info(key))
    }

    /// All keys and how they stand, in no particular order.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut all = Vec::new();
        self.of_all(|shard, decided| {
            all.extend(shard.keys(decided).key_infos()?);
            Ok(())
        })?;
        Ok(all)
    }

    /// How many keys there are.
    pub fn len(&self) -> Result<usize> {
        let mut len = 0;
        self.of_all(|shard, decided| {
            len += shard.keys(decided).len()?;
            Ok(())
        })?;
        Ok(len)
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// How the cache fares.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        self.of_all(|shard, _| {
            stats.merge(shard.stats()?);
            Ok(())
        })?;
        Ok(stats)
    }

    /// The settings in force. See [`Cache::config`](crate::Cache::config). A shard that is gone
    /// counts as one that is there: it is made again like that.
    pub fn config(&self) -> Result<Config> {
        let mut configs = Vec::new();
        self.of_all(|shard, _| {
            configs.push(shard.config()?);
            Ok(())
        })?;
        let Some(mut all) = configs.pop() else {
            return Err(not_a_store(&self.path, "all its shards are gone"));
        };
        let gone = self.shards.len() - 1 - configs.len();
        let like_it = vec![all.clone(); gone];
        configs.iter().chain(&like_it).for_each(|one| all.add(one));
        Ok(all)
    }

    /// How many bytes of disk the store takes, values included.
    pub fn volume(&self) -> Result<u64> {
        let mut volume = 0;
        self.of_all(|shard, _| {
            volume += shard.volume()?;
            Ok(())
        })?;
        Ok(volume)
    }

    /// Verifies what can be verified without locking anything: both copies of the header, every key
    /// by itself and that it is found, the checksums of averages and values, those of the files
    /// included. Not whether slots are leaked or belong to two keys: that takes
    /// [`Cache::check`].
    pub fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let numbered = self.shards.iter().enumerate();
        let gone = numbered.filter(|(_, shard)| shard.is_none());
        report.problems.extend(gone.map(|(number, _)| {
            format!(
                "shard {number:03} is gone with what was in it; opening the cache makes it again"
            )
        }));
        self.of_all(|shard, decided| {
            report.merge(shard.verifier(decided).check()?);
            Ok(())
        })?;
        Ok(report)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.path)
            .field("shards", &self.shards.len())
            .finish()
    }
}
