//! What can be chosen before opening.

use std::path::Path;

use crate::cache::{Cache, spread};
use crate::error::Result;
use crate::store::settings::{Durability, Eviction, Settings};

/// How to open a store. `capacity`, `mode`, `size_limit`, `value_limit`, `eviction` and
/// `durability` belong to the store: its maker chooses them, and each has a default. What a later
/// opening does not name is as the store has it; what it names and the store has not is the error
/// `ConfigMismatch`, which names both. So a program has what it asked for, or an error: also if
/// another one, or [`Cache::configure`], has chosen otherwise since. [`Cache::config`] says what is
/// in force.
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// use slablock::{Cache, Durability, Eviction};
///
/// let cache = Cache::options()
///     .capacity(10_000)
///     .mode(0o660)
///     .size_limit(64 << 20)
///     .eviction(Eviction::LeastRecentlyUsed)
///     .durability(Durability::PowerLoss)
///     .open(&dir)?;
/// assert_eq!(cache.config()?.size_limit, 64 << 20);
/// // Others may name what they rely on, and no more.
/// Cache::options().durability(Durability::PowerLoss).open(&dir)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Options {
    settings: Settings,
    shards: Option<usize>,
}

impl Options {
    /// How many keys there may be at the most, 1 to 16,777,216, all shards together. Default: what
    /// the store has; 16,777,216 for each shard of a new one. Costs nothing: a store grows by
    /// itself, by some 200 bytes of disk a key, and keeps that for the next ones when keys are
    /// taken away. When there are so many, keys that nobody needs go first, then values by the
    /// eviction policy; if none may go, [`Error::Full`](crate::Error::Full).
    ///
    /// Long keys and tags, and values, count more than once: a value of up to 40 bytes under a key
    /// of up to 16 counts once, one of 100 twice, one of 256 five times, a longer one once
    /// again, for it lies elsewhere.
    pub fn capacity(mut self, keys: usize) -> Options {
        self.settings.capacity = Some(keys);
        self
    }

    /// Over how many stores side by side the keys are spread, 1 to 256. Default: what the cache
    /// has; 1 for a new one.
    ///
    /// Making and removing keys in different shards never waits for each other. Taking and giving
    /// back do not anyway: for most programs one is as good.
    pub fn shards(mut self, shards: usize) -> Options {
        self.shards = Some(shards);
        self
    }

    /// Permissions of the files, whatever the umask says; the directory gets search permission
    /// where it gets read permission. Default `0o600`. A user that may write the files can
    /// break the store for all.
    ///
    /// A store that has another mode is refused: with a wider one, users could hold its locks that
    /// this program does not mean them for; with a narrower one, some could not use it. `chmod`
    /// of its files changes it; where a file system keeps no modes, name none.
    pub fn mode(mut self, mode: u32) -> Options {
        self.settings.mode = Some(mode & 0o777);
        self
    }

    /// Whether to open a store on a network or FUSE file system. Default no: locks and mappings are
    /// not coherent between machines there, and processes on two machines would exclude
    /// nothing. If all processes are on one machine, it may work; that depends on the file
    /// system.
    pub fn allow_network_fs(mut self, yes: bool) -> Options {
        self.settings.allow_network_fs = yes;
        self
    }

    /// Whether to make the store if there is none. Default yes; otherwise the error `NotAStore`.
    pub fn create(mut self, yes: bool) -> Options {
        self.settings.create = yes;
        self
    }

    /// Whether to make a copy a store of its own (a copied directory, or a backup that was put
    /// back), which is otherwise the error `Copied`. Default no. All values and averages stay,
    /// nobody holds anything in it, and its tokens go on above all that the other one can have
    /// granted: above the highest that the copy knows plus 2^36, and above the microseconds
    /// since 2025. They stay lower only if a key was granted over a million times a second
    /// on average, or the store leapt more often than once in 19 hours (a reboot is a leap, and so
    /// is adopting), or the clock is set back. Copies of whole file systems look like the
    /// original: for them there is [`Cache::adopt`].
    ///
    /// Means nothing for a store that is no copy.
    pub fn adopt(mut self, yes: bool) -> Options {
        self.settings.adopt = yes;
        self
    }

    /// How many bytes all values may take, 4 MiB or more; 1 GiB when nothing is said: those that
    /// fit into the slots (up to 256 bytes with their tags) in slots of 192 bytes, and the
    /// files of large ones, of which one segment, a 64th of the limit, may be too much for a
    /// while. Values are evicted when a limit is reached, or the device is full, and not before.
    /// Dead bytes of large values are compacted away before that, so about three quarters of it
    /// can be values.
    ///
    /// What one sort takes the other has not, but for half of the limit, which large values always
    /// have: small ones go for them where they take more. Slots from which values went are
    /// kept for the next ones, so after such a change the cache may take as much more on
    /// disk. Of all shards together, 4 MiB or more for each.
    ///
    /// This, [`value_limit`](Options::value_limit), [`eviction`](Options::eviction) and
    /// [`durability`](Options::durability) are stored when the store is made; for one that is
    /// there, [`Cache::configure`] changes them. Limits that give each shard the same share are
    /// the same.
    pub fn size_limit(mut self, bytes: u64) -> Options {
        self.settings.limits.size_limit = Some(bytes);
        self
    }

    /// How many bytes one value may have, 4,096 or more. Default: a quarter of `size_limit`, of one
    /// shard's share if there are several. A longer one is refused
    /// ([`Error::ValueLength`](crate::Error::ValueLength)) before anything is evicted for it.
    ///
    /// It may be as much as `size_limit`: a value that is longer than three quarters of that has
    /// the files to itself. All other large values go for it, and it goes for the next one.
    /// What was set before stays when this is lowered.
    pub fn value_limit(mut self, bytes: u64) -> Options {
        self.settings.limits.value_limit = Some(bytes);
        self
    }

    /// What is removed to make room for a value.
    pub fn eviction(mut self, eviction: Eviction) -> Options {
        self.settings.limits.eviction = Some(eviction);
        self
    }

    /// What a value that was set has to survive.
    pub fn durability(mut self, durability: Durability) -> Options {
        self.settings.limits.durability = Some(durability);
        self
    }

    #[cfg(any(fuzzing, test))]
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Opens the cache in the directory `path`. See [`Cache::open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Cache> {
        spread::open(path.as_ref(), &self.settings, self.shards)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Error, Lock};

    /// As if the kernel said so.
    fn on(magic: i64) -> Options {
        let mut options = Options::default();
        options.settings.fs_magic = Some(magic);
        options
    }

    #[test]
    fn a_network_file_system_is_refused_by_name_and_nothing_is_made_on_it() {
        for (magic, name) in [
            (0x6969, "NFS"),
            (0x6573_5546, "FUSE"),
            (0xff53_4d42, "CIFS"),
            (0x0102_1997, "9p"),
        ] {
            let place = tempfile::tempdir().unwrap();
            let store = place.path().join("store");
            let options = on(magic);
            for refused in [options.clone(), options.clone().shards(2)] {
                let error = refused.open(&store).map(drop).unwrap_err();
                assert!(matches!(error, Error::UnsupportedFs { .. }), "{error}");
                for word in [name, "allow_network_fs", "local"] {
                    assert!(error.to_string().contains(word), "no {word} in {error}");
                }
            }
            assert!(!store.exists(), "made something on {name}");
            let allowed = options.allow_network_fs(true).open(&store).unwrap();
            drop(Lock::new(&allowed, "k").acquire().unwrap());
        }
        on(0xef53).open(tempfile::tempdir().unwrap()).unwrap();
    }
}
