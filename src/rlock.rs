//! A re-entrant lock.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Keyspace;
use crate::error::Result;
use crate::record::Word;
use crate::store::acquire::{Grant, Patience};
use crate::store::binding::{Binding, Spot};
use crate::store::guard::{self, Anchor};
use crate::types::{Holder, Kind, Token};

/// A lock that the thread which has it can acquire again, through any handle of the same key.
///
/// Each acquire adds one to the depth and starts the lease anew; each release takes one away; at zero the
/// lock is free. The owner is a thread of a process; a thread that got the number of one that ended is not
/// its successor. In all else it is a [`Lock`](crate::Lock).
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
    binding: Arc<Binding>,
}

/// A lock that this thread has, and how many times.
#[derive(Clone, Copy)]
struct Own {
    store: u64,
    spot: Spot,
    word: Word,
    depth: u32,
}

// The depth is kept by the owner: nobody else needs it, and it goes with the thread. The lock used last
// lies apart, where a nested acquire finds it without a search.
thread_local! {
    static LAST: Cell<Option<Own>> = const { Cell::new(None) };
    static OTHERS: RefCell<Vec<Own>> = const { RefCell::new(Vec::new()) };
}

impl RLock {
    /// The lock under `key` in `place`. See [`Lock::new`](crate::Lock::new).
    pub fn new(place: &impl Keyspace, key: impl AsRef<[u8]>) -> RLock {
        let key = key.as_ref();
        let store = Arc::clone(&place.cache_for(key).store);
        RLock {
            binding: Arc::new(Binding::new(store, Kind::RLock, key, 0)),
        }
    }

    /// Gives each hold a lease, which every acquire starts anew. See [`Lock::expire`](crate::Lock::expire).
    pub fn expire(self, lease: Duration) -> RLock {
        self.with(|binding| binding.expire = Some(lease))
    }

    /// Stores a tag beside the key. See [`Lock::tag`](crate::Lock::tag).
    pub fn tag(self, tag: impl AsRef<[u8]>) -> RLock {
        self.with(|binding| binding.tag = tag.as_ref().into())
    }

    fn with(self, change: impl FnOnce(&mut Binding)) -> RLock {
        RLock {
            binding: Arc::new(self.binding.with(change)),
        }
    }

    /// Waits for the lock, unless this thread has it already. See [`Lock::acquire`](crate::Lock::acquire).
    #[inline]
    pub fn acquire(&self) -> Result<RLockGuard<'_>> {
        loop {
            if let Some(guard) = self.acquire_as(Patience::Forever)? {
                return Ok(guard);
            }
        }
    }

    /// Takes the lock if it is free, or this thread's already; `None` if another has it.
    #[inline]
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
        if let Some(grant) = self.acquire_again() {
            return Ok(Some(self.guard(grant)));
        }
        let grant = match self.binding.try_fast(Kind::RLock) {
            Some(grant) => grant,
            None => match self.binding.acquire(patience)? {
                Some(grant) => grant,
                None => return Ok(None),
            },
        };
        self.note_own(&grant);
        Ok(Some(self.guard(grant)))
    }

    #[inline(always)]
    fn guard(&self, grant: Grant) -> RLockGuard<'_> {
        RLockGuard {
            binding: Anchor::Borrowed(&self.binding),
            grant: Some(grant),
            of_this_thread: PhantomData,
        }
    }

    /// One level deeper, if this thread has the lock and its lease could be started anew.
    #[inline(always)]
    fn acquire_again(&self) -> Option<Grant> {
        let spot = self.binding.remembered()?;
        let own = find(&self.binding, spot)?;
        let stands = self.binding.still_has(spot, own.word) && self.binding.rearm(spot, own.word);
        if !stands {
            return None;
        }
        let depth = own.depth.checked_add(1)?;
        LAST.set(Some(Own { depth, ..own }));
        Some(Grant::new(spot, 0, own.word))
    }

    fn note_own(&self, grant: &Grant) {
        // What is noted of this key before was lost.
        let _ = find(&self.binding, grant.spot());
        set_aside(|last| !is_of(last, &self.binding, grant.spot()));
        LAST.set(Some(Own {
            store: self.binding.store().serial(),
            spot: grant.spot(),
            word: grant.word,
            depth: 1,
        }));
    }

    /// How many times the calling thread has the lock now; 0 if it does not.
    pub fn depth(&self) -> Result<u32> {
        let Some(spot) = self.binding.locate()? else {
            return Ok(0);
        };
        let own = find(&self.binding, spot).filter(|own| self.binding.still_has(spot, own.word));
        Ok(own.map_or(0, |own| own.depth))
    }

    /// Whether anybody has it now whose lease is not over and whose process lives.
    pub fn locked(&self) -> Result<bool> {
        Ok(self.binding.standing()?.available == 0)
    }

    /// Who has it. See [`Lock::holder`](crate::Lock::holder).
    pub fn holder(&self) -> Result<Option<Holder>> {
        Ok(self.binding.standing()?.holders.pop())
    }

    /// How many threads of all processes sleep until it is given back.
    pub fn waiters(&self) -> Result<usize> {
        self.binding.waiters()
    }

    /// Takes one from the depth of the hold with that token; `true` if the lock is free now.
    ///
    /// # Errors
    ///
    /// `NotHolder` if the calling thread does not hold it with that token.
    pub fn release(&self, token: Token) -> Result<bool> {
        let spot = self.binding.locate()?;
        let spot = spot.ok_or_else(|| self.binding.not_holder())?;
        let own = find(&self.binding, spot);
        match own.filter(|own| own.word.sequence() == token.get()) {
            Some(own) => release_one(&self.binding, spot, own.word),
            None => Err(self.binding.not_holder()),
        }
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock")
            .field("key", &self.binding.show_key())
            .field("expire", &self.binding.expire)
            .finish()
    }
}

#[inline(always)]
fn is_of(own: &Own, binding: &Binding, spot: Spot) -> bool {
    own.spot == spot && own.store == binding.store().serial()
}

/// What this thread has of a key; afterwards it is what was used last.
#[inline(always)]
fn find(binding: &Binding, spot: Spot) -> Option<Own> {
    match LAST.get() {
        Some(own) if is_of(&own, binding, spot) => Some(own),
        _ => find_among_others(binding, spot),
    }
}

#[cold]
#[inline(never)]
fn find_among_others(binding: &Binding, spot: Spot) -> Option<Own> {
    let found = with_others(|others| {
        let at = others.iter().position(|own| is_of(own, binding, spot))?;
        Some(others.swap_remove(at))
    })?;
    set_aside(|_| true);
    LAST.set(Some(found));
    Some(found)
}

/// Puts what was used last with the others, if it is worth keeping.
fn set_aside(keep: impl FnOnce(&Own) -> bool) {
    if let Some(last) = LAST.take().filter(keep) {
        with_others(|others| {
            others.push(last);
            Some(())
        });
    }
}

/// Empty while the thread ends, when its own destructors still drop guards.
fn with_others<T>(action: impl FnOnce(&mut Vec<Own>) -> Option<T>) -> Option<T> {
    let outcome = OTHERS.try_with(|others| action(&mut others.borrow_mut()));
    outcome.ok().flatten()
}

/// One level up; at the last one the lock is given back, and the answer is `true`.
#[inline(always)]
fn release_one(binding: &Binding, spot: Spot, word: Word) -> Result<bool> {
    match find(binding, spot) {
        Some(own) if own.depth > 1 && own.word.same_hold(word) => {
            let depth = own.depth - 1;
            LAST.set(Some(Own { depth, ..own }));
            if binding.still_has(spot, word) {
                return Ok(false);
            }
            Err(binding.lost(&Grant::new(spot, 0, word)))
        }
        Some(own) if own.word.same_hold(word) => {
            LAST.set(None);
            if binding.give_back_fast(spot, word) {
                return Ok(true);
            }
            release_last(binding, spot, word)
        }
        _ => Err(binding.not_holder()),
    }
}

#[cold]
#[inline(never)]
fn release_last(binding: &Binding, spot: Spot, word: Word) -> Result<bool> {
    binding.give_back(&Grant::new(spot, 0, word)).map(|()| true)
}

/// One level of the possession of an [`RLock`]. Dropping it gives the level back; guards may be dropped in
/// any order. Stays in its thread.
#[must_use = "the lock is given back as soon as the guard is dropped"]
pub struct RLockGuard<'a> {
    binding: Anchor<'a>,
    /// `None` only inside the methods that consume it.
    grant: Option<Grant>,
    of_this_thread: PhantomData<*const ()>,
}

impl RLockGuard<'_> {
    /// The fencing token of the hold; the same at every depth.
    pub fn token(&self) -> Token {
        self.grant.as_ref().map_or(Token::new(0), Grant::token)
    }

    /// Who died holding the lock just before; only for the outermost guard.
    pub fn recovered(&self) -> Option<&Holder> {
        guard::predecessor(self.grant.as_ref()?, true)
    }

    /// Whose lease ran out just before; only for the outermost guard.
    pub fn overran(&self) -> Option<&Holder> {
        guard::predecessor(self.grant.as_ref()?, false)
    }

    /// Starts the lease anew. See [`LockGuard::renew`](crate::LockGuard::renew).
    pub fn renew(&self) -> Result<()> {
        self.with(|grant| self.binding.renew(grant))
    }

    /// Says whether the lock is still held. See [`LockGuard::check`](crate::LockGuard::check).
    pub fn check(&self) -> Result<()> {
        self.with(|grant| self.binding.check(grant))
    }

    fn with(&self, action: impl FnOnce(&Grant) -> Result<()>) -> Result<()> {
        match &self.grant {
            Some(grant) => action(grant),
            None => Err(self.binding.not_holder()),
        }
    }

    /// Gives this level back, and says whether the lock was still ours. See
    /// [`LockGuard::release`](crate::LockGuard::release).
    pub fn release(mut self) -> Result<()> {
        match self.grant.take() {
            Some(grant) => release_one(&self.binding, grant.spot(), grant.word).map(drop),
            None => Ok(()),
        }
    }

    /// Ends the guard without giving its level back: that is for [`RLock::release`] to do, in this thread.
    /// Keeps the store open in this process until it exits.
    pub fn into_token(mut self) -> Token {
        let token = self.token();
        self.grant = None;
        guard::keep_open(&self.binding);
        token
    }

    /// A guard that does not borrow the handle.
    pub fn into_owned(mut self) -> RLockGuard<'static> {
        RLockGuard {
            binding: Anchor::Owned(Arc::clone(&self.binding)),
            grant: self.grant.take(),
            of_this_thread: PhantomData,
        }
    }
}

impl Drop for RLockGuard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(grant) = &self.grant {
            // Lost, or copied by a fork: there is nothing to give back, and nobody to tell.
            let _ = release_one(&self.binding, grant.spot(), grant.word);
        }
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard")
            .field("key", &self.binding.show_key())
            .field("token", &self.token())
            .finish()
    }
}
