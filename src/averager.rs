//! A running average.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::error::Result;
use crate::key::AsKey;
use crate::slab::Tenant;
use crate::store::holds::handle::Handle;
use crate::store::values::average::Averaging;
use crate::types::Summary;

/// A running average that all threads of all processes add to.
///
/// # If the process dies
///
/// In the middle of an `add` or a `pop`, that one has happened or it has not; no other value is
/// counted twice or lost. After a power failure an average comes back as some value it had.
/// Averages are never dropped to make room.
///
/// # Blocking
///
/// `add` and `pop` exclude each other, for some ten nanoseconds each; a process that is stopped in
/// between makes the others wait until it goes on or is killed. `get` and `summary` never wait.
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// use slablock::{Averager, Cache};
///
/// let cache = Cache::open(&dir)?;
/// let latency = Averager::new(&cache, "latency");
/// latency.add(0.080)?;
/// latency.add(0.120)?;
/// assert_eq!(latency.get()?, Some(0.1));
/// assert_eq!(latency.pop()?, Some(0.1));
/// assert_eq!(latency.get()?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Averager {
    handle: Arc<Handle>,
}

impl Averager {
    /// The average under `key` in `cache`. See [`Lock::new`](crate::Lock::new).
    pub fn new(cache: &Cache, key: impl AsKey) -> Averager {
        let key = key.as_key();
        let store = Arc::clone(cache.store_of(key));
        Averager {
            handle: Arc::new(Handle::new(store, Tenant::Averager, key, 0)),
        }
    }

    /// Lets the average be forgotten when nothing was added for that long, in wall-clock time, for
    /// averages outlive a reboot. Each `add` through this handle starts it anew; one through a
    /// handle without it ends it. Zero is refused by the first use.
    pub fn expire(self, after: Duration) -> Averager {
        self.with(|handle| handle.expire = Some(after))
    }

    /// Stores a tag beside the key. See [`Lock::tag`](crate::Lock::tag).
    pub fn tag(self, tag: impl AsRef<[u8]>) -> Averager {
        self.with(|handle| handle.tag = tag.as_ref().into())
    }

    fn with(self, change: impl FnOnce(&mut Handle)) -> Averager {
        Averager {
            handle: Arc::new(self.handle.with(change)),
        }
    }

    /// Adds a value to total and count, in one atomic step. The total is a compensated sum, so that
    /// ten million values of 0.1 average to 0.1.
    ///
    /// # Errors
    ///
    /// `Invalid` for a value that is not finite, or would make the total so; otherwise as for
    /// [`Lock::acquire`](crate::Lock::acquire). Nothing is changed then.
    #[inline]
    pub fn add(&self, value: f64) -> Result<()> {
        Averaging(&self.handle).add(value)
    }

    /// Total divided by count; `None` if nothing was added.
    #[inline]
    pub fn get(&self) -> Result<Option<f64>> {
        Averaging(&self.handle).mean()
    }

    /// Returns the average and forgets it, in one atomic step: every value that anybody adds is in
    /// exactly one `pop`.
    pub fn pop(&self) -> Result<Option<f64>> {
        Averaging(&self.handle).pop()
    }

    /// Count, total, mean, and extremes, all of the same moment; `None` if nothing was added.
    pub fn summary(&self) -> Result<Option<Summary>> {
        Averaging(&self.handle).summary()
    }
}

impl fmt::Debug for Averager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Averager")
            .field("key", &format_args!("{}", self.handle.show_key()))
            .field("expire", &self.handle.expire)
            .finish()
    }
}
