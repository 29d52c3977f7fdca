//! What a thread notes of the re-entrant locks that it has: which they are, and how many times it
//! has each.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;

use crate::os::fork;
use crate::record::{Hold, Word};
use crate::store::holds::handle::Handle;

/// A lock that this thread has, and how many times.
#[derive(Clone, Copy)]
struct Own {
    key: Key,
    word: Word,
    depth: u32,
}

/// Which lock: its store (an address may be another's after a store was closed), the address of its
/// hold, and the process, for a forked child has its parent's notes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    store: u64,
    hold: usize,
    epoch: u32,
}

impl Key {
    #[inline(always)]
    pub(super) fn of(handle: &Handle, hold: &Hold) -> Key {
        Key {
            store: handle.store().serial(),
            hold: address(hold),
            epoch: fork::epoch(),
        }
    }
}

#[inline(always)]
fn address(hold: &Hold) -> usize {
    std::ptr::from_ref(hold).addr()
}

// The depth is kept by the owner: nobody else needs it, and it goes with the thread. The lock used
// last lies apart, where a nested acquire finds it without a search, and field by field: going one
// level deeper or up touches only the depth. (Written and read as a whole, it would cost a failed
// store-forwarding each time.)
thread_local! {
    static STORE: Cell<u64> = const { Cell::new(0) };
    static HOLD: Cell<usize> = const { Cell::new(0) };
    static EPOCH: Cell<u32> = const { Cell::new(0) };
    pub(super) static WORD: Cell<Word> = const { Cell::new(Word::from_bits(0)) };
    /// 0: no lock was used last.
    pub(super) static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// How many others there are: as a rule none, and no need to look for one.
    static OTHERS_LEN: Cell<usize> = const { Cell::new(0) };
    /// Without a destructor, so that guards in other thread-local variables still find it; that is
    /// why it does not stay allocated while it is empty.
    static OTHERS: ManuallyDrop<RefCell<Vec<Own>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// Whether the lock used last has its hold there.
#[inline(always)]
pub(super) fn is_hold_of_last(hold: &Hold) -> bool {
    HOLD.get() == address(hold)
}

#[inline(always)]
fn is_last(key: Key) -> bool {
    HOLD.get() == key.hold
        && STORE.get() == key.store
        && EPOCH.get() == key.epoch
        && DEPTH.get() > 0
}

/// Whether this thread has the lock, as far as it knows; if so, it is the one used last afterwards.
#[inline(always)]
pub(super) fn find(key: Key) -> bool {
    is_last(key) || (OTHERS_LEN.get() > 0 && find_among_others(key))
}

#[cold]
#[inline(never)]
fn find_among_others(key: Key) -> bool {
    let found = with_others(|others| {
        let at = others.iter().position(|own| own.key == key)?;
        let found = others.swap_remove(at);
        if others.is_empty() {
            *others = Vec::new();
        }
        Some(found)
    });
    if let Some(own) = found {
        set_last(own);
    }
    found.is_some()
}

/// Notes a lock that this thread has just acquired.
#[inline(always)]
pub(super) fn note_own(key: Key, word: Word) {
    // What is noted of this lock before was lost.
    if find(key) {
        DEPTH.set(0);
    }
    set_last(Own {
        key,
        word,
        depth: 1,
    });
}

/// Makes a lock the one used last, and puts the one before with the others.
#[inline(always)]
fn set_last(own: Own) {
    if DEPTH.get() > 0 {
        put_last_with_others();
    }
    STORE.set(own.key.store);
    HOLD.set(own.key.hold);
    EPOCH.set(own.key.epoch);
    WORD.set(own.word);
    DEPTH.set(own.depth);
}

#[cold]
#[inline(never)]
fn put_last_with_others() {
    let key = Key {
        store: STORE.get(),
        hold: HOLD.get(),
        epoch: EPOCH.get(),
    };
    let (word, depth) = (WORD.get(), DEPTH.get());
    with_others(|others| {
        others.push(Own { key, word, depth });
        Some(())
    });
}

fn with_others<T>(action: impl FnOnce(&mut Vec<Own>) -> Option<T>) -> Option<T> {
    OTHERS.with(|others| {
        let mut others = others.borrow_mut();
        let done = action(&mut others);
        OTHERS_LEN.set(others.len());
        done
    })
}

/// See [`fuzzing::forget_thread`](crate::fuzzing::forget_thread).
#[cfg(any(fuzzing, test))]
pub(crate) fn forget_thread() {
    DEPTH.set(0);
    with_others(|others| {
        *others = Vec::new();
        Some(())
    });
}
