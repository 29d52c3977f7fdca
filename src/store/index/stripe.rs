//! Locks of structure. A stripe is the part of the index that may be changed under one byte-range lock;
//! each holds an intent, so that the next one to lock it finishes or undoes what a dead one left.

use std::sync::{MutexGuard, PoisonError, TryLockError};

use crate::error::Result;
use crate::os::fork;
use crate::slab::layout::STRIPES;
use crate::slab::{Intent, Slab, Stripe};
use crate::store::log::garbage::DeadList;
use crate::store::patience::Patience;
use crate::store::patience::pause;
use crate::store::{COMPACT_BYTE, GROW_BYTE, Process, Store, TRANSACT_BYTE};

/// A locked stripe, whose intent is none.
pub(crate) struct StripeGuard<'a> {
    pub(crate) store: &'a Store,
    pub(crate) process: &'a Process,
    pub(crate) number: u32,
    _lock: RangeGuard<'a>,
    /// Behind the lock: given back when it is free.
    pub(crate) dead: DeadList<'a>,
}

/// One byte of the file `stripes`, locked against other processes and other threads.
pub(crate) struct RangeGuard<'a> {
    process: &'a Process,
    byte: u64,
    epoch: u32,
    _mutex: MutexGuard<'a, ()>,
}

/// The stripe of a key.
pub(in crate::store) fn stripe_of(slab: &Slab, hash: u64) -> u32 {
    // Of the bucket, so that a bucket belongs to one stripe.
    bucket_of(slab, hash) & (STRIPES - 1)
}

pub(in crate::store) fn bucket_of(slab: &Slab, hash: u64) -> u32 {
    (hash >> 32) as u32 & (slab.layout().buckets - 1)
}

impl Store {
    /// The stripe of a key.
    pub(crate) fn stripe_of(&self, hash: u64) -> u32 {
        stripe_of(&self.slab, hash)
    }

    pub(crate) fn bucket_of(&self, hash: u64) -> u32 {
        bucket_of(&self.slab, hash)
    }

    /// Locks a stripe, waiting for whoever has it, and clears up after one who died with it.
    pub(crate) fn lock_stripe(&self, number: u32) -> Result<StripeGuard<'_>> {
        let process = self.process()?;
        let lock = self.lock_range(process, u64::from(number % STRIPES))?;
        self.stripe_guard(process, number, lock)
    }

    /// The same, waiting no longer than `patience` allows; `None`: somebody has it, stopped perhaps. Stripes
    /// are held for microseconds: even who will not wait for a key waits that long for one.
    pub(crate) fn lock_stripe_within(
        &self,
        number: u32,
        patience: Patience,
    ) -> Result<Option<StripeGuard<'_>>> {
        let process = self.process()?;
        match self.lock_range_within(process, u64::from(number % STRIPES), patience)? {
            Some(lock) => self.stripe_guard(process, number, lock).map(Some),
            None => Ok(None),
        }
    }

    fn lock_range_within<'a>(
        &self,
        process: &'a Process,
        byte: u64,
        patience: Patience,
    ) -> Result<Option<RangeGuard<'a>>> {
        let mut pauses = 0;
        loop {
            if let Some(lock) = self.try_lock_range(process, byte)? {
                return Ok(Some(lock));
            }
            // The kernel has no wait for a byte-range lock that ends by itself.
            match patience {
                Patience::Forever => return self.lock_range(process, byte).map(Some),
                _ if pause(&mut pauses, patience) => {}
                _ => return Ok(None),
            }
        }
    }

    fn stripe_guard<'a>(
        &'a self,
        process: &'a Process,
        number: u32,
        lock: RangeGuard<'a>,
    ) -> Result<StripeGuard<'a>> {
        let guard = StripeGuard {
            store: self,
            process,
            number: number % STRIPES,
            _lock: lock,
            dead: DeadList::new(self),
        };
        self.check_in_place_often()?;
        // Each time, not only when the store is opened: the dead one died a moment ago.
        if guard.stripe().intent() != Some(Intent::None) {
            guard.recover()?;
        }
        Ok(guard)
    }

    /// The lock under which regions grow, held for one system call. `None`: somebody who has it was stopped
    /// there, perhaps, and the patience is over.
    pub(crate) fn lock_growth_within(&self, patience: Patience) -> Result<Option<RangeGuard<'_>>> {
        self.lock_range_within(self.process()?, GROW_BYTE, patience)
    }

    /// The lock of who compacts the log. `None`: somebody has it.
    pub(crate) fn try_lock_compaction(&self) -> Result<Option<RangeGuard<'_>>> {
        self.try_lock_range(self.process()?, COMPACT_BYTE)
    }

    /// The lock of who changes several values at once. Waits for whoever has it.
    pub(crate) fn lock_transactions(&self) -> Result<RangeGuard<'_>> {
        self.lock_range(self.process()?, TRANSACT_BYTE)
    }

    fn try_lock_range<'a>(
        &self,
        process: &'a Process,
        byte: u64,
    ) -> Result<Option<RangeGuard<'a>>> {
        let mutex = match process.mutexes[byte as usize].try_lock() {
            Ok(mutex) => mutex,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let locked = process.locks.try_lock_range(byte)?;
        // Lazily: dropping a guard unlocks.
        Ok(locked.then(|| RangeGuard {
            process,
            byte,
            epoch: fork::epoch(),
            _mutex: mutex,
        }))
    }

    fn lock_range<'a>(&self, process: &'a Process, byte: u64) -> Result<RangeGuard<'a>> {
        let mutex = &process.mutexes[byte as usize];
        let mutex = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        process.locks.lock_range(byte)?;
        Ok(RangeGuard {
            process,
            byte,
            epoch: fork::epoch(),
            _mutex: mutex,
        })
    }
}

impl StripeGuard<'_> {
    pub(crate) fn stripe(&self) -> &Stripe {
        self.store.slab.stripe(self.number)
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        // In the child of a fork the copies of the descriptors are closed, and others may have their numbers.
        if self.epoch != fork::epoch() {
            return;
        }
        self.process.locks.unlock_range(self.byte);
    }
}
