//! A mutual-exclusion lock.

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

/// A lock that one thread of one process has at a time, among all threads of all processes that
/// opened the same store.
///
/// Not re-entrant: acquiring again in the thread that has it waits, as it does for
/// `std::sync::Mutex`, or is the error `Deadlock` where it is certain that the wait would not end,
/// which is in a process with one thread; see [`acquire`](Lock::acquire) and
/// [`RLock`](crate::RLock). Clones share key and settings. Waiters are woken one at a time; an
/// acquirer that comes just then may be quicker, so the order is not strictly first come, first
/// served.
///
/// # If the process dies
///
/// The lock goes to the next one to ask at once, to a waiter within some ten milliseconds (150 when
/// it has waited for long and the holder's end goes unnoticed, as when it closes the store or
/// executes another program), and [`recovered`](LockGuard::recovered) tells it, because what the
/// lock protects may be half-written.
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// use std::time::Duration;
/// use slablock::{Cache, Lock};
///
/// let cache = Cache::open(&dir)?;
/// let lock = Lock::new(&cache, "nightly-report").lease(Duration::from_secs(60));
/// if let Some(guard) = lock.try_acquire()? {
///     if let Some(dead) = guard.recovered() {
///         eprintln!("process {} died at this, starting over", dead.pid);
///     }
///     // ... the work, calling guard.renew() now and then ...
///     guard.release()?; // or let it drop
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock {
    handle: Arc<Handle>,
}

impl Lock {
    /// The lock under `key` in `cache`. Does no I/O: a key that is empty, longer than 1,024 bytes
    /// or of another kind is reported by the first use.
    pub fn new(cache: &Cache, key: impl AsKey) -> Lock {
        let key = key.as_key();
        let store = Arc::clone(cache.store_of(key));
        Lock {
            handle: Arc::new(Handle::new(store, Tenant::Lock, key, 0)),
        }
    }

    /// Gives each hold a lease: when it is over, the next one to ask gets the lock at once, also
    /// from a holder that is alive. It is never shorter than asked, and one of two seconds or
    /// more up to 50 ms longer. Zero is refused by the first use. Without this, holds last
    /// until they are given back or their process dies. Stands still while the machine is
    /// suspended.
    pub fn lease(self, lease: Duration) -> Lock {
        self.with(|handle| handle.expire = Some(lease))
    }

    /// Stores a tag of at most 255 bytes beside the key, for
    /// [`Cache::remove_tagged`](crate::Cache::remove_tagged). An empty tag is none. A key that
    /// has another tag gets this one at the first use.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// use slablock::Lock;
    ///
    /// let lock = Lock::new(&cache, "import").tag("nightly");
    /// let held = lock.acquire()?;
    /// assert_eq!(cache.remove_tagged("nightly")?, 1);
    /// assert!(matches!(held.check(), Err(slablock::Error::Lost { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn tag(self, tag: impl AsRef<[u8]>) -> Lock {
        self.with(|handle| handle.tag = tag.as_ref().into())
    }

    fn with(self, change: impl FnOnce(&mut Handle)) -> Lock {
        Lock {
            handle: Arc::new(self.handle.with(change)),
        }
    }

    /// Waits for the lock as long as it takes. Signals do not end the wait.
    ///
    /// # Errors
    ///
    /// [`Error::Deadlock`](crate::Error::Deadlock), at once, if a guard of this process has it
    /// without a lease, and the calling thread is the only one of the process: nobody is left
    /// to drop the guard. Beside other threads it waits, for a guard can move to them unseen. A
    /// hold of which [`into_token`](LockGuard::into_token) made a token is waited for, too.
    ///
    /// `KeyLength`, `TagLength`, `Invalid`, `KindMismatch`, `Full`, `NoSpace`, `Corrupt`, `Io`.
    #[inline(always)]
    pub fn acquire(&self) -> Result<LockGuard<'_>> {
        loop {
            if let Some(guard) = self.acquire_as(Patience::Forever)? {
                return Ok(guard);
            }
        }
    }

    /// Takes the lock if it is free, expired or a dead one's; `None` if it is held. Does not wait
    /// for the lock. The first use of a key, or one while it is being removed, may have to wait
    /// for a process that makes or removes a key, which takes microseconds, or looks at all
    /// keys, which takes it a millisecond at a time.
    ///
    /// # Errors
    ///
    /// [`Error::StructureBusy`](crate::Error::StructureBusy) if such a process is in the middle of
    /// that for longer than 50 ms, stopped perhaps: whether the lock is held cannot be said
    /// then. `None` is never said for it.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// let lock = slablock::Lock::new(&cache, "nightly-report");
    /// match lock.try_acquire()? {
    ///     Some(_guard) => println!("nobody else makes the report"),
    ///     None => println!("held by {:?}", lock.holder()?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<Option<LockGuard<'_>>> {
        self.acquire_as(Patience::Never)
    }

    /// Waits for the lock, for `timeout` at most, to about a millisecond; `None` if it was held
    /// throughout. Zero is [`try_acquire`](Lock::try_acquire); too long to be a date is for
    /// ever.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// use std::time::Duration;
    ///
    /// let lock = slablock::Lock::new(&cache, "nightly-report");
    /// let first = lock.acquire()?;
    /// assert!(lock.acquire_timeout(Duration::from_millis(10))?.is_none());
    /// drop(first);
    /// assert!(lock.acquire_timeout(Duration::from_millis(10))?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<LockGuard<'_>>> {
        self.acquire_as(Patience::of(timeout))
    }

    #[inline(always)]
    fn acquire_as(&self, patience: Patience) -> Result<Option<LockGuard<'_>>> {
        // The guard is put together here, from what both ways give, so that the quick one never has
        // it in memory.
        let (grant, anchor) = match Holding(&self.handle).try_fast(Tenant::Lock) {
            Some((grant, hold)) => {
                let handle = &self.handle;
                (grant, Anchor::Borrowed { handle, hold })
            }
            None => match Acquirer(&self.handle).acquire(patience)? {
                Some((grant, before)) => (grant, Anchor::new(&self.handle, &grant, before)),
                None => return Ok(None),
            },
        };
        Ok(Some(LockGuard {
            held: Held::new(anchor, grant),
        }))
    }

    /// Whether it is held now, by a living process and within the lease. Makes nothing, waits for
    /// nobody, and carries out no transaction: while one is not carried out, a key that is a
    /// value's is told as one that nobody holds, instead of `KindMismatch`.
    pub fn is_locked(&self) -> Result<bool> {
        Ok(self.handle.standing()?.available == 0)
    }

    /// The holder; `None` if it is free. A dead holder, or one with an expired lease, is shown as
    /// such until the next one takes over.
    pub fn holder(&self) -> Result<Option<Holder>> {
        Ok(self.handle.standing()?.holders.pop())
    }

    /// How many threads of all processes sleep until it is given back.
    pub fn waiters(&self) -> Result<usize> {
        self.handle.waiters()
    }

    /// Gives back the hold with that token, whichever process acquired it: knowing the token is
    /// enough.
    ///
    /// # Errors
    ///
    /// `Lost` if the lock was granted again since; `NotHolder` if it was not, and is not held with
    /// that token. The present holder, if any, is left alone.
    pub fn release(&self, token: Token) -> Result<()> {
        Holding(&self.handle).release_token(token)
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("key", &format_args!("{}", self.handle.show_key()))
            .field("lease", &self.handle.expire)
            .finish()
    }
}

/// The possession of a [`Lock`]. Dropping it gives the lock back.
///
/// `LockGuard<'static>`, which [`into_owned`](LockGuard::into_owned) makes, does not borrow the
/// handle. In the child of a fork, a copied guard is inert: the parent has the lock.
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// # let cache = slablock::Cache::open(&dir)?;
/// use std::time::Duration;
///
/// let lock = slablock::Lock::new(&cache, "ledger").lease(Duration::from_secs(30));
/// let guard = lock.acquire()?;
/// # let write = |_what: &str, _token: slablock::Token| ();
/// write("line 1", guard.token()); // refuse what comes with a smaller token
/// guard.renew()?; // 30 seconds from now
/// guard.check()?; // still ours at this instant
/// guard.release()?; // says so if it was lost
/// # Ok(())
/// # }
/// ```
#[must_use = "the lock is given back as soon as the guard is dropped"]
pub struct LockGuard<'a> {
    held: Held<'a>,
}

impl LockGuard<'_> {
    /// The fencing token of this hold.
    pub fn token(&self) -> Token {
        self.held.token()
    }

    /// The holder just before, if it did not give the lock back: it died, or its lease was over.
    /// `None`: it did, or nobody held the lock before.
    pub fn predecessor(&self) -> Option<&Predecessor> {
        self.held.predecessor()
    }

    /// The holder just before, if it died: what the lock protects may be half-written. Short for
    /// the [`predecessor`](Self::predecessor) that has died.
    pub fn recovered(&self) -> Option<&Holder> {
        self.predecessor()?.dead()
    }

    /// Starts the lease of the handle anew. Works also after it was over, as long as nobody took
    /// the lock; then it was held without a gap. Without a lease, says whether the lock is
    /// still held.
    ///
    /// # Errors
    ///
    /// `Lost` if somebody has taken it over or the key was removed; `NotHolder` in a forked child.
    pub fn renew(&self) -> Result<()> {
        self.held.renew()
    }

    /// Says whether the lock is still held and its lease not over: whether it is safe, at this
    /// instant, to go on. What may be paused after asking should hand on the
    /// [`token`](LockGuard::token) instead.
    ///
    /// # Errors
    ///
    /// `Lost` if not; `NotHolder` in a forked child.
    pub fn check(&self) -> Result<()> {
        self.held.check()
    }

    /// Gives the lock back, and says whether it was still ours.
    ///
    /// # Errors
    ///
    /// `Lost` if it was taken over or the key was removed: the present holder is left alone.
    /// `NotHolder` in a forked child: the parent goes on holding it.
    pub fn release(self) -> Result<()> {
        self.held.release()
    }

    /// Ends the guard without giving the lock back: that is for [`Lock::release`] to do, with the
    /// token. Keeps the store open in this process until it exits.
    pub fn into_token(self) -> Token {
        self.held.into_token()
    }

    /// A guard that does not borrow the handle.
    pub fn into_owned(self) -> LockGuard<'static> {
        LockGuard {
            held: self.held.into_owned(),
        }
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", &format_args!("{}", self.held.handle().show_key()))
            .field("token", &self.token())
            .finish()
    }
}
