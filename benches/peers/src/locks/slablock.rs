//! What slablock itself has: one store for all keys, a handle at hand, a guard each time.

use std::time::Duration;

use slablock::{Averager, BoundedSemaphore, Cache, Lock as SlabLock, RLock, Token};

use super::{Guard, Lock, Place};
use crate::Answer;

/// Longer than anything here takes.
const LEASE: Duration = Duration::from_secs(60);

fn cache(place: &Place) -> Answer<Cache> {
    Ok(Cache::open(place.dir.join("slablock"))?)
}

struct Locked {
    lock: SlabLock,
    /// Of what was lent.
    token: Option<Token>,
}

pub fn open_lock(place: &Place) -> Answer<Box<dyn Lock>> {
    let lock = SlabLock::new(&cache(place)?, format!("lock {}", place.key));
    Ok(Box::new(Locked { lock, token: None }))
}

pub fn open_leased(place: &Place) -> Answer<Box<dyn Lock>> {
    let lock = SlabLock::new(&cache(place)?, format!("leased {}", place.key)).expire(LEASE);
    Ok(Box::new(Locked { lock, token: None }))
}

impl Guard for Locked {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let _guard = self.lock.acquire()?;
        inside();
        Ok(())
    }

    fn lend(&mut self, lease: Duration) -> Answer<bool> {
        let lock = self.lock.clone().expire(lease);
        self.token = Some(lock.acquire()?.into_token());
        Ok(true)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        let token = self.token.take().ok_or("nothing was lent")?;
        self.lock.release(token)?;
        Ok(true)
    }
}

struct Nested {
    lock: RLock,
    token: Option<Token>,
}

pub fn open_rlock(place: &Place) -> Answer<Box<dyn Lock>> {
    let lock = RLock::new(&cache(place)?, format!("rlock {}", place.key));
    Ok(Box::new(Nested { lock, token: None }))
}

impl Guard for Nested {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let _guard = self.lock.acquire()?;
        inside();
        Ok(())
    }

    fn lend(&mut self, lease: Duration) -> Answer<bool> {
        let lock = self.lock.clone().expire(lease);
        self.token = Some(lock.acquire()?.into_token());
        Ok(true)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        let token = self.token.take().ok_or("nothing was lent")?;
        // An error says that it was lost, as it should.
        let _ = self.lock.release(token);
        Ok(true)
    }
}

struct Permits {
    semaphore: BoundedSemaphore,
    token: Option<Token>,
}

pub fn open_semaphore(place: &Place) -> Answer<Box<dyn Lock>> {
    let key = format!("semaphore {}", place.key);
    let semaphore = BoundedSemaphore::new(&cache(place)?, key, place.permits);
    let token = None;
    Ok(Box::new(Permits { semaphore, token }))
}

impl Guard for Permits {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let _guard = self.semaphore.acquire()?;
        inside();
        Ok(())
    }

    fn lend(&mut self, lease: Duration) -> Answer<bool> {
        let semaphore = self.semaphore.clone().expire(lease);
        self.token = Some(semaphore.acquire()?.into_token());
        Ok(true)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        let token = self.token.take().ok_or("nothing was lent")?;
        // An error says that it was lost, as it should.
        let _ = self.semaphore.release(token);
        Ok(true)
    }
}

struct Average(Averager);

pub fn open_averager(place: &Place) -> Answer<Box<dyn Lock>> {
    let key = format!("average {}", place.key);
    Ok(Box::new(Average(Averager::new(&cache(place)?, key))))
}

impl Guard for Average {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        self.0.add(1.0)?;
        inside();
        Ok(())
    }

    fn tally(&mut self) -> Answer<Option<u64>> {
        let summary = self.0.summary()?;
        Ok(Some(summary.map_or(0, |summary| summary.count)))
    }
}
