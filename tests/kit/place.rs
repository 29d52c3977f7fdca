//! Directories with a store in them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use slablock::{Cache, Options};
use tempfile::TempDir;

/// An empty directory, and in it the place for a store. Gone when dropped.
pub struct Place {
    root: PathBuf,
    _gone_when_dropped: Option<TempDir>,
}

impl Place {
    pub fn new() -> Place {
        Place::of(tempfile::tempdir())
    }

    /// One in memory, where there is room: for what is not about the disk.
    pub fn in_memory() -> Place {
        Place::of(tempfile::tempdir_in(memory()).or_else(|_| tempfile::tempdir()))
    }

    /// One in a directory.
    pub fn below(above: &Path) -> Place {
        Place::of(tempfile::tempdir_in(above))
    }

    fn of(dir: io::Result<TempDir>) -> Place {
        let dir = dir.expect("a temporary directory");
        Place {
            root: dir.path().to_owned(),
            _gone_when_dropped: Some(dir),
        }
    }

    /// A place that other users reach; `None`, and a line that says so, where this process may not
    /// become others.
    pub fn for_others() -> Option<Place> {
        if !geteuid().is_root() {
            println!("left out: other users, whom only root can become");
            return None;
        }
        let place = Place::new();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.root(), mode).expect("open the directory to all");
        Some(place)
    }

    /// A directory that there is, and that stays when this is dropped.
    pub fn at(root: PathBuf) -> Place {
        Place {
            root,
            _gone_when_dropped: None,
        }
    }

    /// Exists, and holds nothing but the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the store is or will be.
    pub fn store(&self) -> PathBuf {
        self.root().join("store")
    }

    pub fn slab(&self) -> PathBuf {
        self.store().join("slab")
    }

    pub fn open(&self) -> Cache {
        Cache::open(self.store()).expect("open the store")
    }

    pub fn slab_file(&self) -> File {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(self.slab());
        file.expect("open the slab")
    }

    /// How long the slab is.
    pub fn slab_len(&self) -> u64 {
        self.slab_file().metadata().expect("look at the slab").len()
    }

    /// Writes into the slab, past all that have it open.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let written = self.slab_file().write_all_at(bytes, at);
        written.expect("write into the slab");
    }

    /// Reads from the slab.
    pub fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let read = self.slab_file().read_exact_at(&mut bytes, at);
        read.expect("read from the slab");
        bytes
    }

    /// The word at `at` in the slab.
    pub fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.peek(at))
    }
}

/// A store that is made with these options.
pub fn store_with(options: &Options) -> (Place, Cache) {
    let place = Place::new();
    let cache = options.open(place.store());
    (place, cache.expect("make a store"))
}

/// A store with room for `capacity` keys.
pub fn store_of(capacity: usize) -> (Place, Cache) {
    store_with(&Cache::options().capacity(capacity))
}

/// A small store.
pub fn store() -> (Place, Cache) {
    store_of(1_024)
}

/// Where files are in memory, if there is such a place: deaths are many, and what is on the disk is
/// the test's to say.
pub fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_path_buf(),
        false => std::env::temp_dir(),
    }
}

/// Each shard of a cache as a cache by itself.
pub fn shards(cache: &Cache) -> Vec<Cache> {
    match cache.shards() {
        1 => vec![cache.clone()],
        many => (0..many)
            .map(|number| Cache::open(cache.path().join(format!("{number:03}"))).unwrap())
            .collect(),
    }
}
