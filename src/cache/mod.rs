//! The places where keys live: one store, or several side by side.

mod fanout;
mod keyspace;
mod memo;
mod options;
mod reader;
mod transaction;
mod values;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use fanout::FanoutCache;
pub use keyspace::Keyspace;
pub use memo::Computed;
pub use options::Options;
pub use reader::Reader;
pub use transaction::Transaction;
pub use values::{Entry, Iter, SetOptions};

use crate::error::Result;
use crate::record::Force;
use crate::store::care::check::CheckReport;
use crate::store::home::rebuild::{self, RepairReport};
use crate::store::patience::Patience;
use crate::store::settings::Config;
use crate::store::{Store, settings};
use crate::types::{KeyInfo, Lifeline, Stats};

/// A store of keys in a directory, open in this process and in any number of others.
///
/// Cheap to clone; clones and further openings of the same directory share one mapping. Closed when the
/// last clone, and the last handle and guard made from it, are dropped.
///
/// # If the process dies
///
/// The kernel marks it dead at once. What it held goes to the next who asks, who is told; what it was
/// changing is finished or undone by the next who comes near.
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
/// assert!(lock.locked()?);
/// guard.release()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cache {
    pub(crate) store: Arc<Store>,
}

impl Cache {
    /// Opens the store in the directory `path`, making what is missing. The same as
    /// `Cache::options().open(path)`.
    ///
    /// # Errors
    ///
    /// `NotAStore` if `path` is a file, a directory with other things in it, or a `FanoutCache`; `Version`,
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

    /// Mends the store in `path` as far as it can be mended: rebuilds the index from the slots, frees what
    /// leaked, sets damaged averages back to a value they had. Repairing a sound store changes nothing.
    ///
    /// # Errors
    ///
    /// `Busy` while any process has the store open; otherwise as for [`open`](Cache::open).
    ///
    /// # If the process dies
    ///
    /// The next one to open the store starts the repair again.
    pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
        rebuild::repair(path.as_ref(), settings::DEFAULT_MODE)
    }

    /// Makes the store in `path` one of its own, as [`Options::adopt`] does for a copy; also one that does not look like
    /// a copy, because the whole file system was copied (a snapshot, an image of a disk).
    ///
    /// # Errors
    ///
    /// `Busy` while any process has the store open; otherwise as for [`open`](Cache::open).
    ///
    /// # If the process dies
    ///
    /// The copy is still one, and has to be adopted again.
    pub fn adopt(path: impl AsRef<Path>) -> Result<()> {
        rebuild::adopt_by_hand(path.as_ref(), settings::DEFAULT_MODE)
    }

    /// The store's directory, as an absolute path.
    pub fn path(&self) -> &Path {
        self.store.dir()
    }

    /// How many keys the store was made for. Keys with tags beyond 136 bytes together (24 for averages)
    /// count more than once.
    pub fn capacity(&self) -> usize {
        self.store.slab().layout().capacity as usize
    }

    /// Removes every key that carries `tag`, and returns how many. Held ones too: their holders find them
    /// lost, their waiters start over. An empty tag is no tag, and removes nothing.
    ///
    /// Looks at every key. Waits for an average that is in the middle of an `add`.
    ///
    /// # Errors
    ///
    /// If the tag of a large value cannot be read, that value stays; the others are gone.
    pub fn evict(&self, tag: impl AsRef<[u8]>) -> Result<usize> {
        let tag = tag.as_ref();
        if tag.is_empty() {
            return Ok(0);
        }
        self.store.remove_tagged(tag)
    }

    /// Removes a key, whoever holds it: the holder finds it lost, waiters start over. `false` if there is
    /// none.
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.store.remove(key.as_ref())
    }

    /// Removes every key, as [`remove`](Cache::remove) does. Returns how many. A value that is being computed
    /// meanwhile by [`get_or_insert_with`](Cache::get_or_insert_with) is not kept.
    pub fn clear(&self) -> Result<usize> {
        let removed = self
            .store
            .remove_all(|_, found| self.store.is_listed(found))?;
        // What is left of deleted values, which nobody would miss, takes slots.
        self.store
            .remove_all(|_, found| self.store.is_vacant(found))?;
        self.store.remove_turns(Force::Anybody, Patience::Forever)?;
        Ok(removed)
    }

    /// All keys and how they stand, in no particular order. Each is shown as it was at some moment of the
    /// call; keys that exist throughout are all there, once each.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        self.store.key_infos()
    }

    /// One key and how it stands; `None` if there is none.
    pub fn key(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyInfo>> {
        self.store.key_info(key.as_ref())
    }

    /// How many keys there are. Walks the whole index.
    pub fn len(&self) -> Result<usize> {
        self.store.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Removes values whose time is over, and returns how many. They cannot be got any more anyway; this makes
    /// their room free. Locks and averages see to themselves.
    pub fn expire(&self) -> Result<usize> {
        self.store.expire()
    }

    /// Removes values whose time is over, then evicts others by the cache's policy until the rest is within
    /// its `size_limit`, and compacts the files of large values. Returns how many values went. Not needed:
    /// setting values does the same, a little at a time.
    pub fn cull(&self) -> Result<usize> {
        self.store.cull()
    }

    /// How many bytes of disk the store takes, values included.
    pub fn volume(&self) -> Result<u64> {
        Ok(self.store.slab().disk_bytes()? + self.store.usage()?.bytes)
    }

    /// How the cache fares.
    pub fn stats(&self) -> Result<Stats> {
        self.store.stats()
    }

    /// Waits until all that was set is on the device. With [`Durability::PowerLoss`](crate::Durability) it is
    /// already, unless an operation has said that it is not known to be.
    ///
    /// # Errors
    ///
    /// If the device reports a failure nothing is known to be there, to no process, and with
    /// [`Durability::PowerLoss`](crate::Durability) nothing can be changed, until another call of this function (or
    /// [`repair`](Self::repair)) has succeeded: that one writes everything once more, for the kernel takes what it
    /// could not write for written.
    pub fn sync(&self) -> Result<()> {
        self.store.sync_all()
    }

    /// The settings in force, whoever chose them.
    ///
    /// # Errors
    ///
    /// `Io` or `Detached` if the file of the store cannot be asked for its mode.
    pub fn config(&self) -> Result<Config> {
        self.store.config()
    }

    /// Changes what was chosen of `size_limit`, `eviction` and `durability` when the store was made, for all
    /// processes at once. What `changes` does not say stays; the rest of it means nothing here. Those who have the store
    /// open go on with what is new, also if they had asked for something else; those who ask for the old settings when they
    /// open it are refused.
    ///
    /// With a lower `size_limit` this takes as long as it takes to let values go and to compact the log, until it fits;
    /// those who set values meanwhile do not wait for that. If no value may go ([`Eviction::None`](crate::Eviction)),
    /// they all stay, also above the limit, and no large one can be set until enough were deleted.
    ///
    /// # Errors
    ///
    /// `Invalid`: nothing was changed. After any other error what was chosen is in force.
    pub fn configure(&self, changes: &Options) -> Result<()> {
        changes.config().check()?;
        changes.config().change(self.store.slab());
        if changes.config().size_limit.is_some() {
            self.store.make_fit()?;
        }
        match self.store.is_durable() {
            // Whose names nobody has waited for until now.
            true => self.store.sync_all(),
            false => Ok(()),
        }
        .map_err(|error| self.store.not_durable(error))
    }

    /// Verifies the store while it is in use, changing nothing but for finishing what a dead process left
    /// half done. It looks in pieces: whoever makes or removes a key waits for a millisecond at the most, and taking and
    /// giving back do not wait. What is said to be leaked was looked at again: it is not what was just being changed.
    pub fn check(&self) -> Result<CheckReport> {
        self.store.check()
    }

    /// What keeps this process's holds alive for as long as any process has it open, also when this process is
    /// gone. For a supervisor whose child must not run unguarded: clear the close-on-exec flags of its
    /// descriptors in the child. What is given back explicitly is free all the same.
    ///
    /// From this call on, this participant's process id is no proof of its death any more.
    pub fn lifeline(&self) -> Result<Lifeline> {
        self.store.lifeline()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("path", &self.path())
            .field("capacity", &self.capacity())
            .finish()
    }
}
