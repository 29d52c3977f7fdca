//! The place where keys live: one store, or several side by side. And what a cache gives out:
//! [`Iter`] and [`Entry`], and figures, [`Stats`] and [`Summary`], which have no names of their own
//! outside.

mod iter;
mod memo;
mod options;
mod reader;
mod set_options;
mod spread;
mod transaction;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use iter::{Entry, Iter};
pub use memo::Computed;
pub use options::Options;
pub use reader::Reader;
pub use set_options::SetOptions;
pub use spread::FanoutCache;
use spread::Spread;
pub use transaction::Transaction;

use crate::error::Result;
use crate::key::AsKey;
use crate::os::file_system::{fs_magic, incoherent_fs};
use crate::store::Store;
use crate::store::care::check::{CheckReport, Inspector};
use crate::store::home::rebuild::RepairReport;
use crate::store::index::remove::Removing;
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::config::InForce;
use crate::store::settings::{Config, Limits};
use crate::store::space::make_room::Space;
use crate::store::values::get::Values;
use crate::types::{KeyInfo, Lifeline};
pub use crate::types::{Stats, Summary};

/// A store of keys in a directory, open in this process and in any number of others; or several,
/// over which the keys are spread: see [`Options::shards`].
///
/// Cheap to clone; clones and further openings of the same directory share one mapping. Closed when
/// the last clone, and the last handle and guard made from it, are dropped.
///
/// # If the process dies
///
/// The kernel marks it dead at once. What it held goes to the next acquirer, which is told; what it
/// was changing is finished or undone by the next process that comes near.
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// let cache = slablock::Cache::open(&dir)?;
/// let lock = slablock::Lock::new(&cache, "report");
/// let guard = lock.acquire()?;
/// assert!(lock.is_locked()?);
/// guard.release()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cache {
    /// The only one, or the first of several.
    pub(crate) store: Arc<Store>,
    /// All of several.
    spread: Option<Arc<Spread>>,
}

impl Cache {
    /// Opens the cache in the directory `path`, with as many shards as it has, making what is
    /// missing. Short for `Cache::options().open(path)`.
    ///
    /// # Errors
    ///
    /// `NotAStore` if `path` is a file, or a directory with other things in it; `Version`,
    /// `Corrupt`, `UnsupportedFs`, `TooManyParticipants`, `NoSpace`, `Io`.
    ///
    /// # Blocking
    ///
    /// Waits while another process initialises or repairs the store.
    pub fn open(path: impl AsRef<Path>) -> Result<Cache> {
        Options::default().open(path)
    }

    /// What can be chosen before opening.
    pub fn options() -> Options {
        Options::default()
    }

    /// Mends the store in `path` as far as it can be mended: rebuilds the index from the slots,
    /// frees what leaked, sets damaged averages back to a value they had. Repairing a sound
    /// store changes nothing.
    ///
    /// # Errors
    ///
    /// `Busy` while any process has the store open; otherwise as for [`open`](Cache::open).
    ///
    /// # If the process dies
    ///
    /// The next one to open the store starts the repair again.
    pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
        spread::repair(path.as_ref())
    }

    /// Makes the store in `path` one of its own, as [`Options::adopt`] does for a copy; also one
    /// that does not look like a copy, because the whole file system was copied (a snapshot, an
    /// image of a disk).
    ///
    /// # Errors
    ///
    /// `Busy` while any process has the store open; otherwise as for [`open`](Cache::open).
    ///
    /// # If the process dies
    ///
    /// The copy is still one, and has to be adopted again.
    pub fn adopt(path: impl AsRef<Path>) -> Result<()> {
        spread::adopt(path.as_ref())
    }

    /// The cache's directory, as an absolute path.
    pub fn path(&self) -> &Path {
        match &self.spread {
            None => self.store.dir(),
            Some(spread) => &spread.path,
        }
    }

    /// The file that has the records of a key, or would have them: the slab of its shard. A program
    /// that notes its device and inode can tell later whether other programs still find this cache
    /// under its name.
    pub fn slab_of(&self, key: impl AsKey) -> PathBuf {
        self.store_of(key.as_key()).slab().path().to_path_buf()
    }

    /// The name of the file system of `path` if it is one that does not share memory and locks
    /// between processes, so that a cache there is refused: see [`Options::allow_network_fs`].
    ///
    /// # Errors
    ///
    /// Those of the system call: `path` has to be there.
    pub fn refused_fs(path: impl AsRef<Path>) -> std::io::Result<Option<&'static str>> {
        fs_magic(path.as_ref()).map(incoherent_fs)
    }

    /// How many shards it has: see [`Options::shards`].
    pub fn shards(&self) -> usize {
        self.stores().len()
    }

    /// How many keys the cache was made for. Keys with tags beyond 136 bytes together (24 for
    /// averages) count more than once.
    pub fn capacity(&self) -> usize {
        let of = |store: &Arc<Store>| store.slab().layout().capacity as usize;
        self.stores().iter().map(of).sum()
    }

    /// Removes every key that carries `tag`, and returns how many. Held ones too: their holders
    /// find them lost, their waiters start over. An empty tag is no tag, and removes nothing.
    ///
    /// Looks at every key. Waits for an average that is in the middle of an `add`.
    ///
    /// # Errors
    ///
    /// If the tag of a large value cannot be read, that value stays; the others are gone.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// use slablock::SetOptions;
    ///
    /// let pages = SetOptions::new().tag("pages");
    /// cache.set_with("front page", "<html>", &pages)?;
    /// cache.set_with("about", "<html>", &pages)?;
    /// assert_eq!(cache.remove_tagged("pages")?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn remove_tagged(&self, tag: impl AsRef<[u8]>) -> Result<usize> {
        let tag = tag.as_ref();
        if tag.is_empty() {
            return Ok(0);
        }
        self.sum(|store| Removing(store).remove_tagged(tag))
    }

    /// Removes a key, held or not: the holder finds it lost, waiters start over. `false` if there
    /// is none.
    pub fn remove(&self, key: impl AsKey) -> Result<bool> {
        let key = key.as_key();
        Removing(self.store_of(key)).remove(key)
    }

    /// Removes every key, as [`remove`](Cache::remove) does. Returns how many. A value that is
    /// being computed meanwhile by [`get_or_insert_with`](Cache::get_or_insert_with) is not
    /// kept. A million keys take about a second. The files of large values are removed; the slab
    /// keeps its length, for the keys to come.
    pub fn clear(&self) -> Result<usize> {
        self.sum(|store| Space(store).clear())
    }

    /// All keys and how they stand, in no particular order. Each is shown as it was at some moment
    /// of the call; keys that exist throughout are all there, once each.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for store in self.stores() {
            keys.extend(Inspector(store).key_infos()?);
        }
        Ok(keys)
    }

    /// One key and how it stands; `None` if there is none.
    pub fn key_info(&self, key: impl AsKey) -> Result<Option<KeyInfo>> {
        let key = key.as_key();
        Inspector(self.store_of(key)).key_info(key)
    }

    /// How many keys there are. Walks the whole index.
    pub fn len(&self) -> Result<usize> {
        self.sum(|store| Inspector(store).len())
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Removes values with an expired time, and returns how many. They cannot be got any more
    /// anyway; this frees their room. Locks and averages see to themselves.
    pub fn remove_expired(&self) -> Result<usize> {
        self.sum(|store| Space(store).expire())
    }

    /// Removes values with an expired time, then evicts others by the cache's policy until the rest
    /// is within its `size_limit`, and compacts the files of large values. Returns how many
    /// values went. Not needed: setting values does the same, a little at a time.
    pub fn cull(&self) -> Result<usize> {
        self.sum(|store| Space(store).cull())
    }

    /// How many bytes of disk the store takes, values included.
    pub fn volume(&self) -> Result<u64> {
        self.sum(|store| Ok(store.slab().disk_bytes()? + Segments(store).usage()?.bytes))
    }

    /// How the cache fares.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        for store in self.stores() {
            stats.merge(Values(store).stats()?);
        }
        Ok(stats)
    }

    /// Waits until all that was set is on the device. With
    /// [`Durability::PowerLoss`](crate::Durability) it is already, unless an operation has said
    /// that it is not known to be.
    ///
    /// # Errors
    ///
    /// If the device reports a failure nothing is known to be there, to no process, and with
    /// [`Durability::PowerLoss`](crate::Durability) nothing can be changed, until another call of
    /// this function (or [`repair`](Self::repair)) has succeeded: that one writes everything
    /// once more, for the kernel takes what it could not write for written.
    pub fn sync(&self) -> Result<()> {
        let synced: Vec<_> = self
            .stores()
            .iter()
            .map(|store| Syncing(store).sync_all())
            .collect();
        synced.into_iter().collect()
    }

    /// The settings in force, of all shards together.
    ///
    /// # Errors
    ///
    /// `Io` or `Detached` if the file of the store cannot be asked for its mode.
    pub fn config(&self) -> Result<Config> {
        let (first, others) = self.stores().split_first().unwrap_or((&self.store, &[]));
        let mut whole = InForce(first).config()?;
        for store in others {
            whole.add(&InForce(store).config()?);
        }
        Ok(whole)
    }

    /// Changes `size_limit`, `value_limit`, `eviction` and `durability` from what was chosen when
    /// the cache was made, for all processes at once. What `changes` does not say stays.
    /// Processes that have the cache open go on with what is new, also if they had asked for
    /// something else; an opener that asks for the old settings is refused.
    ///
    /// With a lower `size_limit` this takes as long as it takes to let values go and to compact the
    /// log, until it fits; writers of values do not wait for that. If no value may go
    /// ([`Eviction::None`](crate::Eviction)), they all stay, also above the limit, and no large
    /// one can be set until enough were deleted.
    ///
    /// # Errors
    ///
    /// `Invalid`: nothing was changed. After any other error what was chosen is in force, in all
    /// shards up to the one that has failed.
    pub fn configure(&self, changes: &Limits) -> Result<()> {
        changes.check_for(self.shards())?;
        let share = changes.shared_by(self.shards());
        self.stores()
            .iter()
            .try_for_each(|store| Space(store).configure(&share))
    }

    /// Verifies the store while it is in use, changing nothing but for finishing what a dead
    /// process left half done. It looks in pieces: making or removing a key waits for a
    /// millisecond at the most, and taking and giving back do not wait. What is said to be
    /// leaked was looked at again: it is not what was just being changed.
    pub fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        for store in self.stores() {
            report.merge(Inspector(store).check()?);
        }
        Ok(report)
    }

    /// What keeps this process's holds alive for as long as any process has it open, also when this
    /// process is gone. For a supervisor with a child that must not run unguarded: clear the
    /// close-on-exec flags of its descriptors in the child. What is given back explicitly is
    /// free all the same.
    ///
    /// From this call on, this participant's process id is no proof of its death any more.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// use std::os::fd::AsRawFd;
    ///
    /// let token = slablock::Lock::new(&cache, "job").acquire()?.into_token();
    /// let lifeline = cache.lifeline()?;
    /// let numbers: Vec<i32> = lifeline.descriptors().map(|fd| fd.as_raw_fd()).collect();
    /// // The child clears FD_CLOEXEC of these numbers before it executes the command: the lock is
    /// // held for as long as the command runs, also if this process is killed.
    /// assert_eq!(numbers.len(), 2);
    /// slablock::Lock::new(&cache, "job").release(token)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lifeline(&self) -> Result<Lifeline> {
        let mut whole = Lifeline::default();
        for store in self.stores() {
            whole.descriptors.extend(store.lifeline()?);
        }
        Ok(whole)
    }

    /// What keeps alive what this process holds under one key, and all else that lies in the same
    /// shard. See [`lifeline`](Self::lifeline), of which this is the smaller part where there
    /// are several shards.
    pub fn lifeline_of(&self, key: impl AsKey) -> Result<Lifeline> {
        Ok(Lifeline {
            descriptors: self.store_of(key.as_key()).lifeline()?.into(),
        })
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("path", &self.path())
            .field("shards", &self.shards())
            .field("capacity", &self.capacity())
            .finish()
    }
}
