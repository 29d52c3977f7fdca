//! A counting semaphore: permits come back from dead holders, one by one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::error::Result;
use crate::key::AsKey;
use crate::slab::Tenant;
use crate::store::holds::fast::Holding;
use crate::store::holds::guard::{Anchor, Held};
use crate::store::holds::handle::Handle;
use crate::store::holds::slow::Acquirer;
use crate::store::patience::Patience;
use crate::types::{Holder, Predecessor, Token};

/// A number of permits shared by all threads of all processes that opened the same store.
///
/// Each permit has its own holder, lease and token, so a dead or late holder loses its own permit
/// and no other, and there are never more holders than permits.
///
/// # If the process dies
///
/// Its permits go to the next acquirers, which are told.
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// use slablock::{BoundedSemaphore, Cache};
///
/// let cache = Cache::open(&dir)?;
/// let connections = BoundedSemaphore::new(&cache, "connections", 2);
/// let one = connections.acquire()?;
/// let two = connections.acquire()?;
/// assert!(connections.try_acquire()?.is_none());
/// drop(one);
/// assert_eq!(connections.available()?, 1);
/// # drop(two);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BoundedSemaphore {
    handle: Arc<Handle>,
}

impl BoundedSemaphore {
    /// The semaphore under `key` in `cache`, with `value` permits, 1 to 65,535. Does no I/O: what
    /// is wrong with key or number is reported by the first use.
    ///
    /// A key has one number of permits as long as a living process holds one within its lease, or
    /// waits for one: to acquire with another number is the error `ConfigMismatch` then, which
    /// names the holders. Otherwise nobody uses it, and the next acquirer decides: the key is
    /// made again with the new number, its tag stays, and its tokens go on. Handles of the old
    /// number do the same from then on.
    ///
    /// Holders that died are told of as if the number had stayed, one to each of the first permits
    /// of the new number: see [`SemaphoreGuard::recovered`]. Of more dead holders than there
    /// are permits now, the first are told of; so is at least one if the successor is killed
    /// meanwhile. Of holders with expired leases the successor is told of one, unless one died.
    pub fn new(cache: &Cache, key: impl AsKey, value: u32) -> BoundedSemaphore {
        let key = key.as_key();
        let store = Arc::clone(cache.store_of(key));
        BoundedSemaphore {
            handle: Arc::new(Handle::new(store, Tenant::Semaphore, key, value)),
        }
    }

    /// Gives each permit a lease. See [`Lock::lease`](crate::Lock::lease).
    pub fn lease(self, lease: Duration) -> BoundedSemaphore {
        self.with(|handle| handle.expire = Some(lease))
    }

    /// Stores a tag beside the key. See [`Lock::tag`](crate::Lock::tag).
    pub fn tag(self, tag: impl AsRef<[u8]>) -> BoundedSemaphore {
        self.with(|handle| handle.tag = tag.as_ref().into())
    }

    fn with(self, change: impl FnOnce(&mut Handle)) -> BoundedSemaphore {
        BoundedSemaphore {
            handle: Arc::new(self.handle.with(change)),
        }
    }

    /// How many permits this handle says there are.
    pub fn value(&self) -> u32 {
        self.handle.permits()
    }

    /// Waits for a permit as long as it takes. See [`Lock::acquire`](crate::Lock::acquire): its
    /// error `Deadlock` it is if guards of this process have all permits; another number of
    /// permits, on a key in use, is the error `ConfigMismatch`, also in the midst of waiting.
    #[inline(always)]
    pub fn acquire(&self) -> Result<SemaphoreGuard<'_>> {
        loop {
            if let Some(guard) = self.acquire_as(Patience::Forever)? {
                return Ok(guard);
            }
        }
    }

    /// Takes a permit if one is free, expired or a dead one's; `None` if all are held. Does not
    /// wait for one; see [`Lock::try_acquire`](crate::Lock::try_acquire).
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<Option<SemaphoreGuard<'_>>> {
        self.acquire_as(Patience::Never)
    }

    /// Waits for a permit, for `timeout` at most. See
    /// [`Lock::acquire_timeout`](crate::Lock::acquire_timeout).
    #[inline]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<SemaphoreGuard<'_>>> {
        self.acquire_as(Patience::of(timeout))
    }

    #[inline(always)]
    fn acquire_as(&self, patience: Patience) -> Result<Option<SemaphoreGuard<'_>>> {
        // The guard is put together here, from what both ways give, so that the quick one never has
        // it in memory.
        let (grant, anchor) = match Holding(&self.handle).try_fast_permit() {
            Some((grant, hold)) => {
                let handle = &self.handle;
                (grant, Anchor::Borrowed { handle, hold })
            }
            None => match Acquirer(&self.handle).acquire(patience)? {
                Some((grant, before)) => (grant, Anchor::new(&self.handle, &grant, before)),
                None => return Ok(None),
            },
        };
        Ok(Some(SemaphoreGuard {
            held: Held::new(anchor, grant),
        }))
    }

    /// How many permits could be had now.
    pub fn available(&self) -> Result<u32> {
        Ok(self.handle.standing()?.available)
    }

    /// The holders of the others. Dead ones, and those with expired leases, are shown as such until
    /// an acquirer takes their permits over; these count as available, too.
    pub fn holders(&self) -> Result<Vec<Holder>> {
        Ok(self.handle.standing()?.holders)
    }

    /// How many threads of all processes sleep until a permit is given back.
    pub fn waiters(&self) -> Result<usize> {
        self.handle.waiters()
    }

    /// Gives back the permit with that token, whichever process acquired it.
    ///
    /// # Errors
    ///
    /// `NotHolder` if no permit is held with that token, `Lost` if its hold ended just now, or a
    /// semaphore of one permit was granted again since: nothing
    /// is changed, so there can never be more permits than there were.
    pub fn release(&self, token: Token) -> Result<()> {
        Holding(&self.handle).release_token(token)
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSemaphore")
            .field("key", &format_args!("{}", self.handle.show_key()))
            .field("value", &self.value())
            .field("lease", &self.handle.expire)
            .finish()
    }
}

/// The possession of one permit. Dropping it gives the permit back. See
/// [`LockGuard`](crate::LockGuard): it has the same methods.
#[must_use = "the permit is given back as soon as the guard is dropped"]
pub struct SemaphoreGuard<'a> {
    held: Held<'a>,
}

impl SemaphoreGuard<'_> {
    /// The fencing token of this permit.
    pub fn token(&self) -> Token {
        self.held.token()
    }

    /// Which permit it is, counted from 0.
    pub fn permit(&self) -> u32 {
        self.held.permit()
    }

    /// The holder of this permit just before, if it died; or that of another permit, of another
    /// number of them. The acquirer that changed the number is told all of that one; others get
    /// the process, and a token above the dead one's.
    pub fn recovered(&self) -> Option<&Holder> {
        self.predecessor()?.dead()
    }

    /// The holder of this permit just before, if it did not give it back. See
    /// [`LockGuard::predecessor`](crate::LockGuard::predecessor).
    pub fn predecessor(&self) -> Option<&Predecessor> {
        self.held.predecessor()
    }

    /// Starts the lease of this permit anew. See [`LockGuard::renew`](crate::LockGuard::renew).
    pub fn renew(&self) -> Result<()> {
        self.held.renew()
    }

    /// Says whether the permit is still held. See [`LockGuard::check`](crate::LockGuard::check).
    pub fn check(&self) -> Result<()> {
        self.held.check()
    }

    /// Gives the permit back. See [`LockGuard::release`](crate::LockGuard::release).
    pub fn release(self) -> Result<()> {
        self.held.release()
    }

    /// Ends the guard without giving the permit back: that is for [`BoundedSemaphore::release`] to
    /// do. Keeps the store open in this process until it exits.
    pub fn into_token(self) -> Token {
        self.held.into_token()
    }

    /// A guard that does not borrow the handle.
    pub fn into_owned(self) -> SemaphoreGuard<'static> {
        SemaphoreGuard {
            held: self.held.into_owned(),
        }
    }
}

impl fmt::Debug for SemaphoreGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreGuard")
            .field("key", &format_args!("{}", self.held.handle().show_key()))
            .field("permit", &self.permit())
            .field("token", &self.token())
            .finish()
    }
}
