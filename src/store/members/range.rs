//! Byte-range locks on the file `stripes`: of a stripe, of growing, compacting and transactions.

use std::sync::{MutexGuard, PoisonError, TryLockError};

use crate::error::Result;
use crate::os::fork;
use crate::store::members::process::Process;
use crate::store::patience::{Patience, pause};
use crate::store::{COMPACT_BYTE, GROW_BYTE, LARGE_BYTE, Store, TRANSACT_BYTE};

/// One byte of the file `stripes`, locked against other processes and other threads.
pub(in crate::store) struct RangeGuard<'a> {
    process: &'a Process,
    byte: u64,
    epoch: u32,
    _mutex: MutexGuard<'a, ()>,
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        // In the child of a fork the copies of the descriptors are closed, and others may have
        // their numbers.
        if self.epoch != fork::epoch() {
            return;
        }
        self.process.locks.unlock_range(self.byte);
    }
}

/// The parts of a store that one process locks at a time.
#[derive(Clone, Copy)]
pub(in crate::store) struct Ranges<'s>(pub(in crate::store) &'s Store);

impl<'s> Ranges<'s> {
    pub(in crate::store) fn lock_range_within<'a>(
        self,
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

    /// The lock under which regions grow, held for one system call. `None`: the process that has it
    /// was stopped there, perhaps, and the patience is over.
    pub(in crate::store) fn lock_growth_within(
        self,
        patience: Patience,
    ) -> Result<Option<RangeGuard<'s>>> {
        self.lock_range_within(self.0.process()?, GROW_BYTE, patience)
    }

    /// The lock of the compactor. `None`: somebody has it.
    pub(in crate::store) fn try_lock_compaction(self) -> Result<Option<RangeGuard<'s>>> {
        self.try_lock_range(self.0.process()?, COMPACT_BYTE)
    }

    /// The lock of transactions, which change several values at once. `None`: one had it until the
    /// patience was over.
    pub(in crate::store) fn lock_transactions_within(
        self,
        patience: Patience,
    ) -> Result<Option<RangeGuard<'s>>> {
        self.lock_range_within(self.0.process()?, TRANSACT_BYTE, patience)
    }

    /// The lock of a writer of a large value for which the others leave room. `None`: somebody had
    /// it until the patience was over.
    pub(in crate::store) fn lock_large_within(
        self,
        patience: Patience,
    ) -> Result<Option<RangeGuard<'s>>> {
        self.lock_range_within(self.0.process()?, LARGE_BYTE, patience)
    }

    /// As `lock_large_within`, without waiting. `None`: somebody has it.
    pub(in crate::store) fn try_lock_large(self) -> Result<Option<RangeGuard<'s>>> {
        self.try_lock_range(self.0.process()?, LARGE_BYTE)
    }

    pub(in crate::store) fn try_lock_range<'a>(
        self,
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

    pub(in crate::store) fn lock_range<'a>(
        self,
        process: &'a Process,
        byte: u64,
    ) -> Result<RangeGuard<'a>> {
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
