//! A lock or one permit of a semaphore: for `run` the two are one thing.

use std::time::Duration;

use slablock::{
    BoundedSemaphore, Cache, Lock, LockGuard, Predecessor, Result, SemaphoreGuard, Token,
};

/// What is to be held.
pub enum Wanted {
    Lock(Lock),
    Permit(BoundedSemaphore),
}

/// What is held.
pub enum Held {
    Lock(LockGuard<'static>),
    Permit(SemaphoreGuard<'static>),
}

impl Wanted {
    /// A lock without `permits`, else one permit of a semaphore that has so many.
    pub fn new(
        cache: &Cache,
        key: &[u8],
        permits: Option<u32>,
        lease: Option<Duration>,
        tag: Option<&[u8]>,
    ) -> Wanted {
        match permits {
            None => {
                let lock = Lock::new(cache, key);
                let lock = lease.into_iter().fold(lock, Lock::lease);
                Wanted::Lock(tag.into_iter().fold(lock, Lock::tag))
            }
            Some(permits) => {
                let semaphore = BoundedSemaphore::new(cache, key, permits);
                let semaphore = lease.into_iter().fold(semaphore, BoundedSemaphore::lease);
                Wanted::Permit(tag.into_iter().fold(semaphore, BoundedSemaphore::tag))
            }
        }
    }

    pub fn try_acquire(&self) -> Result<Option<Held>> {
        Ok(match self {
            Wanted::Lock(lock) => lock.try_acquire()?.map(Held::of_lock),
            Wanted::Permit(semaphore) => semaphore.try_acquire()?.map(Held::of_permit),
        })
    }

    pub fn acquire(&self) -> Result<Held> {
        Ok(match self {
            Wanted::Lock(lock) => Held::of_lock(lock.acquire()?),
            Wanted::Permit(semaphore) => Held::of_permit(semaphore.acquire()?),
        })
    }

    pub fn acquire_timeout(&self, limit: Duration) -> Result<Option<Held>> {
        Ok(match self {
            Wanted::Lock(lock) => lock.acquire_timeout(limit)?.map(Held::of_lock),
            Wanted::Permit(semaphore) => semaphore.acquire_timeout(limit)?.map(Held::of_permit),
        })
    }
}

impl Held {
    fn of_lock(guard: LockGuard<'_>) -> Held {
        Held::Lock(guard.into_owned())
    }

    fn of_permit(guard: SemaphoreGuard<'_>) -> Held {
        Held::Permit(guard.into_owned())
    }

    pub fn token(&self) -> Token {
        match self {
            Held::Lock(guard) => guard.token(),
            Held::Permit(guard) => guard.token(),
        }
    }

    /// The holder just before, if it did not give it back.
    pub fn predecessor(&self) -> Option<&Predecessor> {
        match self {
            Held::Lock(guard) => guard.predecessor(),
            Held::Permit(guard) => guard.predecessor(),
        }
    }

    pub fn renew(&self) -> Result<()> {
        match self {
            Held::Lock(guard) => guard.renew(),
            Held::Permit(guard) => guard.renew(),
        }
    }

    /// Whether it still stands.
    pub fn check(&self) -> Result<()> {
        match self {
            Held::Lock(guard) => guard.check(),
            Held::Permit(guard) => guard.check(),
        }
    }

    /// Leaves it as it is. It lasts for as long as this process or one that has its lifeline, and
    /// the next holder is told of a death.
    pub fn leave(self) {
        match self {
            Held::Lock(guard) => guard.into_token(),
            Held::Permit(guard) => guard.into_token(),
        };
    }

    pub fn release(self) -> Result<()> {
        match self {
            Held::Lock(guard) => guard.release(),
            Held::Permit(guard) => guard.release(),
        }
    }
}
