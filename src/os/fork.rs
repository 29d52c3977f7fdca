//! What happens to what a process owns when it forks.
//!
//! A child inherits the parent's descriptors, and with them its byte-range locks: the parent would
//! look alive for as long as the child lives, and the child would pass for the parent. So a hook
//! runs in the child before `fork` returns there, which makes everything inherited inert. The
//! registry that it walks is locked across the fork, so the child never finds it half changed.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::libc;

use crate::os::process;
use crate::sync::{AtomicBool, AtomicU32, Ordering};

/// Something that has to be told, in the child, that it was forked.
pub(crate) trait Inherited: Send + Sync {
    /// Runs in the child, where no other thread exists. Must not take a lock that another thread of
    /// the parent might have held.
    fn disown(&self);
}

/// Everything that wants to be told. Other code may use it as its lock, too: it is the only lock
/// that is certain to be free in the child.
pub(crate) struct Registry {
    members: Vec<Weak<dyn Inherited>>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    members: Vec::new(),
});

thread_local! {
    // The guard that `before` takes and `after` drops, both in the forking thread.
    static HELD: ManuallyDrop<Cell<Option<MutexGuard<'static, Registry>>>> =
        const { ManuallyDrop::new(Cell::new(None)) };
}

impl Registry {
    /// Locks the registry. Never call user code or wait for other processes' *holds* with it.
    pub(crate) fn lock() -> MutexGuard<'static, Registry> {
        // No `Once`: a fork by another thread in the middle of it would hang the child's first use.
        // Two registrations do no harm, see `before`.
        static HOOKED: AtomicBool = AtomicBool::new(false);
        if !HOOKED.load(Ordering::Acquire) {
            // SAFETY: the three functions live as long as the program text, and only do what is
            // allowed between fork and exec: unlock a mutex of their own thread, close,
            // store to memory.
            unsafe {
                libc::pthread_atfork(Some(before), Some(after_in_parent), Some(after_in_child));
            }
            HOOKED.store(true, Ordering::Release);
        }
        REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&mut self, member: Weak<dyn Inherited>) {
        self.members.retain(|m| m.strong_count() > 0);
        self.members.push(member);
    }
}

/// Grows with each fork on the way from the first process of the line that used this library to
/// this one. What was acquired under another number is an ancestor's.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// See [`EPOCH`].
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    // Relaxed: written before the child has a second thread.
    EPOCH.load(Ordering::Relaxed)
}

extern "C" fn before() {
    // Registered twice, it runs twice: the second time the lock is ours already.
    let guard = HELD.with(|held| held.take());
    let guard = guard.unwrap_or_else(|| REGISTRY.lock().unwrap_or_else(PoisonError::into_inner));
    HELD.with(|held| held.set(Some(guard)));
}

extern "C" fn after_in_parent() {
    drop(HELD.with(|held| held.take()));
}

extern "C" fn after_in_child() {
    process::forget_tid();
    EPOCH.fetch_add(1, Ordering::Relaxed);
    let guard = HELD.with(|held| held.take());
    if let Some(registry) = &guard {
        for member in registry.members.iter().filter_map(Weak::upgrade) {
            member.disown();
            // The last reference: a thread of the parent was just dropping it, and that thread does
            // not exist here. Its destructor is not for us to run.
            if Arc::strong_count(&member) == 1 {
                std::mem::forget(member);
            }
        }
    }
    drop(guard);
}
