//! A re-entrant lock. Which ones a thread has, and how deep, is noted in `notes`.

mod notes;

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

#[cfg(any(fuzzing, test))]
pub(crate) use notes::forget_thread;
use notes::{DEPTH, Key, WORD, find, is_hold_of_last, note_own};

use crate::cache::Cache;
use crate::error::Result;
use crate::key::AsKey;
use crate::os::fork;
use crate::record::Hold;
use crate::slab::Tenant;
use crate::store::holds::fast::{Grant, Holding};
use crate::store::holds::guard::{self, Anchor};
use crate::store::holds::handle::Handle;
use crate::store::holds::locate::Finder;
use crate::store::holds::slow::Acquirer;
use crate::store::patience::Patience;
use crate::types::{Holder, Predecessor, Token};

/// A lock that the thread which has it can acquire again, through any handle of the same key.
///
/// Each acquire adds one to the depth and, through a handle with a lease, starts the lease anew;
/// each release takes one away; at zero the lock is free. The owner is a thread of a process; a
/// thread that got the number of one that ended is not its successor. In all else it is a
/// [`Lock`](crate::Lock).
///
/// # Examples
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// use slablock::{Cache, RLock};
///
/// fn total(lock: &RLock, n: u32) -> slablock::Result<u32> {
///     let _guard = lock.acquire()?;
///     if n == 0 { Ok(0) } else { Ok(n + total(lock, n - 1)?) }
/// }
///
/// let cache = Cache::open(&dir)?;
/// assert_eq!(total(&RLock::new(&cache, "tree"), 4)?, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RLock {
    handle: Arc<Handle>,
}

impl RLock {
    /// The lock under `key` in `cache`. See [`Lock::new`](crate::Lock::new).
    pub fn new(cache: &Cache, key: impl AsKey) -> RLock {
        let key = key.as_key();
        let store = Arc::clone(cache.store_of(key));
        RLock {
            handle: Arc::new(Handle::new(store, Tenant::RLock, key, 0)),
        }
    }

    /// Gives each hold a lease, which every acquire through this handle starts anew. See
    /// [`Lock::lease`](crate::Lock::lease).
    pub fn lease(self, lease: Duration) -> RLock {
        self.with(|handle| handle.expire = Some(lease))
    }

    /// Stores a tag beside the key. See [`Lock::tag`](crate::Lock::tag).
    pub fn tag(self, tag: impl AsRef<[u8]>) -> RLock {
        self.with(|handle| handle.tag = tag.as_ref().into())
    }

    fn with(self, change: impl FnOnce(&mut Handle)) -> RLock {
        RLock {
            handle: Arc::new(self.handle.with(change)),
        }
    }

    /// Waits for the lock, unless this thread has it already. See
    /// [`Lock::acquire`](crate::Lock::acquire).
    #[inline(always)]
    pub fn acquire(&self) -> Result<RLockGuard<'_>> {
        loop {
            if let Some(guard) = self.acquire_as(Patience::Forever)? {
                return Ok(guard);
            }
        }
    }

    /// Takes the lock if it is free, or this thread's already; `None` if another has it. Does not
    /// wait for the lock; see [`Lock::try_acquire`](crate::Lock::try_acquire).
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<Option<RLockGuard<'_>>> {
        self.acquire_as(Patience::Never)
    }

    /// Waits for the lock, for `timeout` at most. See
    /// [`Lock::acquire_timeout`](crate::Lock::acquire_timeout).
    #[inline]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<RLockGuard<'_>>> {
        self.acquire_as(Patience::of(timeout))
    }

    #[inline(always)]
    fn acquire_as(&self, patience: Patience) -> Result<Option<RLockGuard<'_>>> {
        // As in `Lock`, the guard is put together here.
        let handle = &self.handle;
        let (grant, anchor) = if let Some((grant, hold)) = self.acquire_again() {
            (grant, Anchor::Borrowed { handle, hold })
        } else if let Some((grant, hold)) = Holding(handle).try_fast(Tenant::RLock) {
            note_own(Key::of(handle, hold), grant.word);
            (grant, Anchor::Borrowed { handle, hold })
        } else {
            match self.acquire_slowly(patience)? {
                Some((grant, before)) => (grant, Anchor::new(handle, &grant, before)),
                None => return Ok(None),
            }
        };
        Ok(Some(RLockGuard {
            handle: ManuallyDrop::new(anchor),
            grant,
            of_this_thread: PhantomData,
        }))
    }

    #[cold]
    #[inline(never)]
    fn acquire_slowly(&self, patience: Patience) -> Result<Option<(Grant, Option<Predecessor>)>> {
        // This handle may not have met its key yet, or know it from an earlier life: the thread may
        // have it through another handle, and would wait for itself.
        Finder(&self.handle).locate_within(patience)?;
        if let Some((grant, _)) = self.acquire_again() {
            return Ok(Some((grant, None)));
        }
        let granted = Acquirer(&self.handle).acquire(patience)?;
        if let Some((grant, _)) = &granted {
            let hold = Holding(&self.handle).hold_of(grant)?;
            note_own(Key::of(&self.handle, hold), grant.word);
        }
        Ok(granted)
    }

    /// One level deeper, if this thread has the lock and its lease could be started anew.
    #[inline(always)]
    fn acquire_again(&self) -> Option<(Grant, &Hold)> {
        let spot = self.handle.remembered()?;
        let slot = self.handle.slot(spot);
        let hold = &slot.hold;
        if !find(Key::of(&self.handle, hold)) {
            return None;
        }
        let word = WORD.get();
        // In another life of the slot, it is another key that this thread has (H4).
        if !(hold.load().same_hold(word) && spot.is_current(slot, Tenant::RLock)) {
            return None;
        }
        if !Holding(&self.handle).rearm(hold, word) {
            return None;
        }
        DEPTH.set(DEPTH.get().checked_add(1)?);
        Some((Grant::new(spot, (0, 0), word), hold))
    }

    /// How many times the calling thread has the lock now; 0 if it does not.
    pub fn depth(&self) -> Result<u32> {
        let Some(spot) = Finder(&self.handle).locate()? else {
            return Ok(0);
        };
        let hold = &self.handle.slot(spot).hold;
        let has = find(Key::of(&self.handle, hold)) && hold.load().same_hold(WORD.get());
        Ok(if has { DEPTH.get() } else { 0 })
    }

    /// Whether it is held now, by a living process and within the lease. Makes nothing, waits for
    /// nobody, and carries out no transaction: while one is not carried out, a key that is a
    /// value's is told as one that nobody holds, instead of `KindMismatch`.
    pub fn is_locked(&self) -> Result<bool> {
        Ok(self.handle.standing()?.available == 0)
    }

    /// The holder. See [`Lock::holder`](crate::Lock::holder).
    pub fn holder(&self) -> Result<Option<Holder>> {
        Ok(self.handle.standing()?.holders.pop())
    }

    /// How many threads of all processes sleep until it is given back.
    pub fn waiters(&self) -> Result<usize> {
        self.handle.waiters()
    }

    /// Takes one from the depth of the hold with that token; at zero the lock is free.
    ///
    /// # Errors
    ///
    /// `NotHolder` if the calling thread does not hold it with that token, or the key was removed;
    /// `Lost` if it did until the lease was over.
    pub fn release(&self, token: Token) -> Result<()> {
        let spot = Finder(&self.handle).locate()?;
        let spot = spot.ok_or_else(|| Holding(&self.handle).not_holder())?;
        let hold = &self.handle.slot(spot).hold;
        if find(Key::of(&self.handle, hold)) && WORD.get().sequence() == token.get() {
            return release_one(&self.handle, &Grant::new(spot, (0, 0), WORD.get())).map(drop);
        }
        Err(Holding(&self.handle).not_holder())
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock")
            .field("key", &format_args!("{}", self.handle.show_key()))
            .field("lease", &self.handle.expire)
            .finish()
    }
}

/// One level up, if that is all there is to it: this lock was used last, and still is this
/// thread's; at the last level nobody waits for it. The guard keeps its store open, so the address
/// of the hold is enough to know the lock by.
#[inline(always)]
fn release_fast(hold: &Hold, grant: &Grant) -> bool {
    let depth = DEPTH.get();
    let is_noted = depth > 0
        && is_hold_of_last(hold)
        && grant.epoch == fork::epoch()
        && WORD.get().same_hold(grant.word);
    if !is_noted {
        return false;
    }
    let released = match depth {
        1 => hold.try_give_back(grant.word),
        _ => hold.load().same_hold(grant.word),
    };
    if released {
        DEPTH.set(depth - 1);
    }
    released
}

/// One level up; at the last one the lock is given back, and the answer is `true`.
#[cold]
#[inline(never)]
fn release_one(handle: &Handle, grant: &Grant) -> Result<bool> {
    let hold = Holding(handle).hold_of(grant)?;
    // Copied by a fork, or nobody's: the parent has the lock, if anybody.
    if !Holding(handle).is_ours(grant.word) {
        return Err(Holding(handle).not_holder());
    }
    // If our note is gone, this thread has acquired the lock again since, so this hold had been
    // lost.
    if !find(Key::of(handle, hold)) || !WORD.get().same_hold(grant.word) {
        return Err(Holding(handle).lost(grant));
    }
    let left = DEPTH.get() - 1;
    DEPTH.set(left);
    match left {
        0 => Holding(handle).give_back(grant).map(|()| true),
        _ if hold.load().same_hold(grant.word) => Ok(false),
        _ => Err(Holding(handle).lost(grant)),
    }
}

/// One level of the possession of an [`RLock`]. Dropping it gives the level back; guards may be
/// dropped in any order. Stays in its thread.
#[must_use = "the lock is given back as soon as the guard is dropped"]
pub struct RLockGuard<'a> {
    /// Dropped by hand, for the reason given in `Held`.
    handle: ManuallyDrop<Anchor<'a>>,
    /// Nobody's, and so given back by nobody, once it was given back otherwise.
    grant: Grant,
    of_this_thread: PhantomData<*const ()>,
}

impl RLockGuard<'_> {
    /// The fencing token of the hold; the same at every depth.
    pub fn token(&self) -> Token {
        self.grant.token()
    }

    /// The holder just before, if it did not give the lock back; only for the outermost guard. See
    /// [`LockGuard::predecessor`](crate::LockGuard::predecessor).
    pub fn predecessor(&self) -> Option<&Predecessor> {
        self.handle.predecessor()
    }

    /// The holder just before, if it died; only for the outermost guard.
    pub fn recovered(&self) -> Option<&Holder> {
        self.predecessor()?.dead()
    }

    /// Starts the lease anew. See [`LockGuard::renew`](crate::LockGuard::renew).
    pub fn renew(&self) -> Result<()> {
        Holding(&self.handle).renew(&self.grant)
    }

    /// Says whether the lock is still held. See [`LockGuard::check`](crate::LockGuard::check).
    pub fn check(&self) -> Result<()> {
        Holding(&self.handle).check(&self.grant)
    }

    /// Gives this level back, and says whether the lock was still ours. See
    /// [`LockGuard::release`](crate::LockGuard::release).
    pub fn release(mut self) -> Result<()> {
        let grant = self.grant.take();
        release_one(&self.handle, &grant).map(drop)
    }

    /// Ends the guard without giving its level back: that is for [`RLock::release`] to do, in this
    /// thread. Keeps the store open in this process until it exits.
    pub fn into_token(mut self) -> Token {
        guard::keep_open(&self.handle);
        self.grant.take().token()
    }

    /// A guard that does not borrow the handle.
    pub fn into_owned(mut self) -> RLockGuard<'static> {
        RLockGuard {
            handle: ManuallyDrop::new((*self.handle).to_owned()),
            grant: self.grant.take(),
            of_this_thread: PhantomData,
        }
    }
}

impl Drop for RLockGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Anchor::Borrowed { hold, .. } = &*self.handle
            && release_fast(hold, &self.grant)
        {
            return;
        }
        drop_slow(guard::take_anchor(&mut self.handle), self.grant);
    }
}

#[cold]
#[inline(never)]
fn drop_slow(anchor: Anchor<'_>, grant: Grant) {
    // Lost, or copied by a fork, or nobody's: there is nobody to tell.
    let _ = release_one(&anchor, &grant);
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard")
            .field("key", &format_args!("{}", self.handle.show_key()))
            .field("token", &self.token())
            .finish()
    }
}
