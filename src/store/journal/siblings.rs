//! The shards of one cache, as the stores among them know each other: the first one's journal is for all, and whoever
//! carries out what it says opens those that it has not. Also who opens a shard by itself is one of them: the
//! directory tells.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::error::Result;
use crate::store::Store;
use crate::store::home::open::{self, Settings};
use crate::sync::crash_point;

/// The shards of a `FanoutCache`, as a store that is one of them knows them.
#[derive(Default)]
pub(crate) struct Shards {
    /// In the first, as they were opened last. Who is not there any more, or was never opened here, is opened when
    /// it is needed.
    all: Mutex<Vec<Weak<Store>>>,
    /// The first; `None` in itself, so that there is no circle.
    home: Option<Arc<Store>>,
}

/// Set once, when the store is opened as a shard.
pub(crate) type ShardsOf = OnceLock<Shards>;

/// Tells stores that they are the shards of one cache. The first one's journal is for all.
pub(crate) fn join_shards(all: &[Arc<Store>]) {
    let Some(home) = all.first() else {
        return;
    };
    for store in all {
        join_home(store, home);
    }
    if let Some(shards) = home.shards.get() {
        let mut known = shards.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time: of those of a cache that was closed only some may be open, for a handle's sake.
        *known = all.iter().map(Arc::downgrade).collect();
    }
}

/// Tells a store that another one's journal is its own, unless it knows.
fn join_home(store: &Arc<Store>, home: &Arc<Store>) {
    store.shards.get_or_init(|| Shards {
        home: (!Arc::ptr_eq(store, home)).then(|| Arc::clone(home)),
        ..Shards::default()
    });
}

/// The same for one that was opened alone, if it is a shard.
pub(crate) fn join_alone(store: &Arc<Store>) -> Result<()> {
    if store.shards.get().is_some() {
        return Ok(());
    }
    let home = store.open_sibling(0)?;
    home.inspect(|home| join_home(store, home));
    Ok(())
}

impl Store {
    /// The store whose journal counts.
    #[inline]
    pub(in crate::store) fn home(&self) -> &Store {
        let shards = self.shards.get();
        shards
            .and_then(|shards| shards.home.as_deref())
            .unwrap_or(self)
    }

    /// Another shard of the cache of which this is the first. `None`: there is no such shard.
    pub(in crate::store) fn shard(&self, number: u32) -> Result<Option<Arc<Store>>> {
        let known = self.shards.get().and_then(|shards| {
            // A fork may have copied it locked: then they are opened.
            let all = shards.all.try_lock().ok()?;
            all.get(number as usize)?.upgrade()
        });
        match known {
            Some(known) => Ok(Some(known)),
            None => self.open_sibling(number),
        }
    }

    /// `None`: it is no shard, or there is no such other.
    fn open_sibling(&self, number: u32) -> Result<Option<Arc<Store>>> {
        let Some(shard) = Shard::at(self.dir())? else {
            return Ok(None);
        };
        let dir = shard.sibling(number);
        crash_point();
        if !dir.join(open::SLAB).is_file() {
            return Ok(None);
        }
        let settings = Settings {
            // It was allowed for this one.
            allow_network_fs: true,
            create: false,
            ..Settings::default()
        };
        open::open(&dir, &settings).map(Some)
    }
}

/// A store that lies where shards lie.
pub(in crate::store) struct Shard {
    dir: PathBuf,
    pub(in crate::store) number: u8,
}

impl Shard {
    /// A link from another place may lead there: who took it for a store by itself would not look at the journal. A
    /// shard that is a link to another place is refused, as every link inside a store.
    pub(in crate::store) fn at(dir: &Path) -> Result<Option<Shard>> {
        if let Some(shard) = Shard::named(dir) {
            crash_point();
            // The name again, for with a slash behind it it would be that of what the link leads to.
            let name = shard.sibling(shard.number.into());
            return match name.is_symlink() {
                true => Err(open::not_a_store(
                    dir,
                    "it is a link inside a FanoutCache; put the directory itself there",
                )),
                false => Ok(Some(shard)),
            };
        }
        // Asked first, at each opening: to resolve a path takes a system call for each of its parts.
        crash_point();
        let is_link = |name| dir.with_file_name(name).is_symlink();
        if !dir.file_name().is_none_or(is_link) {
            return Ok(None);
        }
        crash_point();
        let whole = std::fs::canonicalize(dir).ok();
        Ok(whole.and_then(|dir| Shard::named(&dir)))
    }

    fn named(dir: &Path) -> Option<Shard> {
        let name = dir.file_name()?.to_str()?;
        let is_number = name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit());
        let number = name.parse().ok().filter(|_| is_number)?;
        crash_point();
        let is_shard = dir.with_file_name(open::FANOUT).is_file();
        let dir = dir.to_path_buf();
        is_shard.then_some(Shard { dir, number })
    }

    /// The directory of another one.
    pub(in crate::store) fn sibling(&self, number: u32) -> PathBuf {
        self.dir.with_file_name(format!("{number:03}"))
    }

    /// The directory of the cache, with the lock files of all.
    pub(in crate::store) fn top(&self) -> PathBuf {
        open::parent(&self.dir)
    }
}
