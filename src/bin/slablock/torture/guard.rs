//! A hold of whatever kind, as its holder sees it.

use std::time::Duration;

use slablock::{Ending, Holder, LockGuard, RLockGuard, Result, SemaphoreGuard};

use super::site::Handle;

/// How long to wait for a key.
#[derive(Clone, Copy)]
pub enum Patience {
    None,
    For(Duration),
    Endless,
}

impl Patience {
    /// In nanoseconds; `None` if it is endless.
    pub fn ns(self) -> Option<u64> {
        match self {
            Patience::None => Some(0),
            Patience::For(time) => Some(time.as_nanos() as u64),
            Patience::Endless => None,
        }
    }
}

pub enum Guard<'a> {
    Lock(LockGuard<'a>),
    RLock(RLockGuard<'a>),
    Semaphore(SemaphoreGuard<'a>),
}

/// A method of whichever guard it is.
macro_rules! of_any {
    ($guard:expr, $inner:ident => $call:expr) => {
        match $guard {
            Guard::Lock($inner) => $call,
            Guard::RLock($inner) => $call,
            Guard::Semaphore($inner) => $call,
        }
    };
}

impl Handle {
    /// Takes it, or one of its permits. Averages have nothing to take.
    pub fn acquire(&self, patience: Patience) -> Result<Option<Guard<'_>>> {
        Ok(match self {
            Handle::Lock(lock) => match patience {
                Patience::None => lock.try_acquire()?,
                Patience::For(time) => lock.acquire_timeout(time)?,
                Patience::Endless => Some(lock.acquire()?),
            }
            .map(Guard::Lock),
            Handle::RLock(lock) => match patience {
                Patience::None => lock.try_acquire()?,
                Patience::For(time) => lock.acquire_timeout(time)?,
                Patience::Endless => Some(lock.acquire()?),
            }
            .map(Guard::RLock),
            Handle::Semaphore(semaphore) => match patience {
                Patience::None => semaphore.try_acquire()?,
                Patience::For(time) => semaphore.acquire_timeout(time)?,
                Patience::Endless => Some(semaphore.acquire()?),
            }
            .map(Guard::Semaphore),
            Handle::Average(_) => None,
        })
    }
}

impl Guard<'_> {
    pub fn token(&self) -> u64 {
        of_any!(self, guard => guard.token().get())
    }

    pub fn permit(&self) -> u64 {
        match self {
            Guard::Semaphore(guard) => u64::from(guard.permit()),
            _ => 0,
        }
    }

    pub fn recovered(&self) -> Option<&Holder> {
        of_any!(self, guard => guard.recovered())
    }

    /// Whether the holder before this one was late.
    pub fn overran(&self) -> bool {
        let before = of_any!(self, guard => guard.predecessor());
        before.is_some_and(|before| before.why == Ending::LeaseExpired)
    }

    pub fn check(&self) -> Result<()> {
        of_any!(self, guard => guard.check())
    }

    pub fn renew(&self) -> Result<()> {
        of_any!(self, guard => guard.renew())
    }

    pub fn release(self) -> Result<()> {
        of_any!(self, guard => guard.release())
    }
}
