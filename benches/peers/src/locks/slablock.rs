//! What slablock itself has: one store for all keys, a handle at hand, a guard each time.

use std::hint::black_box;
use std::time::Duration;

use slablock::{Averager, BoundedSemaphore, Cache, Error, Lock as SlabLock, RLock, Token};

use super::{Guard, Lock, Place};
use crate::Answer;

/// Longer than anything here takes.
const LEASE: Duration = Duration::from_secs(60);

fn cache(place: &Place) -> Answer<Cache> {
    Ok(Cache::open(place.dir.join("slablock"))?)
}

/// A handle, and the token of what was lent.
struct Handle<H> {
    handle: H,
    token: Option<Token>,
}

fn boxed<H>(handle: H) -> Answer<Box<dyn Lock>>
where
    Handle<H>: Guard + 'static,
{
    let token = None;
    Ok(Box::new(Handle { handle, token }))
}

pub fn open_lock(place: &Place) -> Answer<Box<dyn Lock>> {
    boxed(SlabLock::new(&cache(place)?, format!("lock {}", place.key)))
}

pub fn open_leased(place: &Place) -> Answer<Box<dyn Lock>> {
    boxed(SlabLock::new(&cache(place)?, format!("leased {}", place.key)).lease(LEASE))
}

pub fn open_rlock(place: &Place) -> Answer<Box<dyn Lock>> {
    boxed(RLock::new(&cache(place)?, format!("rlock {}", place.key)))
}

/// Held already, so that each pair goes one level deeper and comes back.
pub fn open_nested(place: &Place) -> Answer<Box<dyn Lock>> {
    let handle = RLock::new(&cache(place)?, format!("nested {}", place.key));
    let token = Some(handle.acquire()?.into_token());
    Ok(Box::new(Handle { handle, token }))
}

pub fn open_semaphore(place: &Place) -> Answer<Box<dyn Lock>> {
    let key = format!("semaphore {}", place.key);
    boxed(BoundedSemaphore::new(&cache(place)?, key, place.permits))
}

/// The three have the same calls, and no trait in common.
macro_rules! guard {
    ($($handle:ty),*) => {$(
        impl Guard for Handle<$handle> {
            fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
                let _guard = self.handle.acquire()?;
                inside();
                Ok(())
            }

            fn lend(&mut self, lease: Duration) -> Answer<bool> {
                let handle = self.handle.clone().lease(lease);
                self.token = Some(handle.acquire()?.into_token());
                Ok(true)
            }

            fn give_back_late(&mut self) -> Answer<bool> {
                let token = self.token.take().ok_or("nothing was lent")?;
                // All say, each in its way, that it was lost, as they should.
                match self.handle.release(token).map(drop) {
                    Ok(()) | Err(Error::Lost { .. } | Error::NotHolder { .. }) => Ok(true),
                    Err(error) => Err(error.into()),
                }
            }
        }
    )*};
}

guard!(SlabLock, RLock, BoundedSemaphore);

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

/// Read instead of added to.
struct Reading(Averager);

pub fn open_reading(place: &Place) -> Answer<Box<dyn Lock>> {
    let averager = Averager::new(&cache(place)?, format!("read {}", place.key));
    averager.add(1.0)?;
    Ok(Box::new(Reading(averager)))
}

impl Guard for Reading {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        black_box(self.0.get()?);
        inside();
        Ok(())
    }
}
