//! The shards of one cache, as the stores among them know each other: the first one's journal is
//! for all, and a process that carries out what it says opens the shards that it has not. A shard
//! that is opened by itself is one of them, too: its directory tells.

use std::sync::{Arc, PoisonError};

use crate::error::Result;
use crate::store::home::open;
use crate::store::members::shards::Shards;
use crate::store::names::Shard;
use crate::store::settings::Settings;
use crate::store::{Store, names};
use crate::sync::crash_point;

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
        // Each time: of those of a cache that was closed only some may be open, for a handle's
        // sake.
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

/// Tells a store that was opened alone which store's journal is its own, if it is a shard.
pub(crate) fn join_alone(store: &Arc<Store>) -> Result<()> {
    if store.shards.get().is_some() {
        return Ok(());
    }
    let home = Siblings(store).open_sibling(0)?;
    home.inspect(|home| join_home(store, home));
    Ok(())
}

/// The shards beside one store.
#[derive(Clone, Copy)]
pub(crate) struct Siblings<'s>(pub(crate) &'s Store);

impl<'s> Siblings<'s> {
    /// The store that has the journal for this one.
    #[inline]
    pub(in crate::store) fn home(self) -> &'s Store {
        let shards = self.0.shards.get();
        shards
            .and_then(|shards| shards.home.as_deref())
            .unwrap_or(self.0)
    }

    /// Another shard of the cache of which this is the first. `None`: there is no such shard.
    pub(in crate::store) fn shard(self, number: u32) -> Result<Option<Arc<Store>>> {
        let known = self.0.shards.get().and_then(|shards| {
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
    fn open_sibling(self, number: u32) -> Result<Option<Arc<Store>>> {
        // The lock files of a shard stand elsewhere.
        if self.0.dir() == self.0.known_as() {
            return Ok(None);
        }
        let Some(shard) = Shard::at(self.0.dir())? else {
            return Ok(None);
        };
        let dir = shard.sibling(number);
        crash_point();
        if !dir.join(names::SLAB).is_file() {
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
