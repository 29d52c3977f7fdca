//! Locks of structure. A stripe is the part of the index that may be changed under one byte-range lock;
//! each holds an intent, so that the next one to lock it finishes or undoes what a dead one left.

use std::sync::{MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::os::range_lock;
use crate::slab::layout::STRIPES;
use crate::slab::{Intent, Stripe};
use crate::store::{GROW_BYTE, Process, Store};

/// A locked stripe, whose intent is none.
pub(crate) struct StripeGuard<'a> {
    pub(crate) store: &'a Store,
    pub(crate) process: &'a Process,
    pub(crate) number: u32,
    _lock: RangeGuard<'a>,
}

/// One byte of the file `stripes`, locked against other processes and other threads.
pub(crate) struct RangeGuard<'a> {
    process: &'a Process,
    byte: u64,
    _mutex: MutexGuard<'a, ()>,
}

impl Store {
    /// The stripe of a key.
    pub(crate) fn stripe_of(&self, hash: u64) -> u32 {
        // Of the bucket, so that a bucket belongs to one stripe.
        (hash >> 32) as u32 & (self.slab.layout().buckets - 1) & (STRIPES - 1)
    }

    pub(crate) fn bucket_of(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 & (self.slab.layout().buckets - 1)
    }

    /// Locks a stripe, waiting for whoever has it, and clears up after one who died with it.
    pub(crate) fn lock_stripe(&self, number: u32) -> Result<StripeGuard<'_>> {
        let process = self.process()?;
        let guard = StripeGuard {
            store: self,
            process,
            number: number % STRIPES,
            _lock: self.lock_range(process, u64::from(number % STRIPES))?,
        };
        // Each time, not only when the store is opened: the dead one died a moment ago.
        if guard.stripe().intent() != Some(Intent::None) {
            guard.recover()?;
        }
        Ok(guard)
    }

    /// The lock under which regions grow. Held for one system call.
    pub(crate) fn lock_growth(&self) -> Result<RangeGuard<'_>> {
        self.lock_range(self.process()?, GROW_BYTE)
    }

    fn lock_range<'a>(&self, process: &'a Process, byte: u64) -> Result<RangeGuard<'a>> {
        let mutex = &process.mutexes[byte as usize];
        let mutex = mutex.lock().unwrap_or_else(PoisonError::into_inner);
        range_lock::lock(&process.files.stripes, byte)
            .map_err(|e| Error::io("lock", &self.dir.join("stripes"), e))?;
        Ok(RangeGuard {
            process,
            byte,
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
        // Unlocking fails for no valid descriptor; should it, the lock goes with the process.
        let _ = range_lock::unlock(&self.process.files.stripes, self.byte);
    }
}
