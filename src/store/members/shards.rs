//! The shards of a cache, as a store that is one of them knows them.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::store::Store;

/// The shards of a cache, as a store that is one of them knows them.
#[derive(Default)]
pub(in crate::store) struct Shards {
    /// In the first, as they were opened last. A shard that is not open any more, or was never
    /// opened here, is opened when it is needed.
    pub(in crate::store) all: Mutex<Vec<Weak<Store>>>,
    /// The first; `None` in itself, so that there is no circle.
    pub(in crate::store) home: Option<Arc<Store>>,
}

/// Set once, when the store is opened as a shard.
pub(in crate::store) type ShardsOf = OnceLock<Shards>;
