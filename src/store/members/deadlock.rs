//! What this thread is in the middle of, so that it does not wait for itself.
//!
//! The function given to a transaction, or to compute a value, may use the cache as it likes; but
//! what its own thread has is given back only when the function has ended. A waiter without a limit
//! looks here first, and answers with an error where the wait would never end.
//!
//! Holds of locks and semaphores are not noted when they are taken. A note would prove nothing: a
//! guard is `Send`, no code of the library runs when it moves, and a thread that lends its guard to
//! another may wait for that one to drop it. What is certain, and asked only before a sleep: while
//! the waiter is the only thread of its process, nobody else can drop a guard of this process. A
//! hold with a token in place of its guard is another matter, for any process may know the token,
//! and so is one with a lease, which ends by itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::os::fork::{self, Registry};
use crate::slab::SlotId;
use crate::store::Store;

/// What a thread can have while a function of the user's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The lock of transactions.
    Transactions,
    /// That there is no key of this hash, for a transaction.
    Absence { hash: u64 },
    /// The latch of a value, or a turn, in one life of its slot: it may be taken away meanwhile,
    /// and the slot be another's.
    Slot { id: SlotId, generation: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OwnNote {
    /// Of the store.
    serial: u64,
    what: What,
    /// In the child of a fork nothing is this thread's.
    epoch: u32,
}

thread_local! {
    static HAS: RefCell<Vec<OwnNote>> = const { RefCell::new(Vec::new()) };
    /// Takes the place of `HAS` once that was destroyed: for the destructors that run after it. It
    /// has none itself, and so does not stay allocated while it is empty.
    static HAS_AT_LAST: ManuallyDrop<RefCell<Vec<OwnNote>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

fn with_notes<T>(action: impl Fn(&mut Vec<OwnNote>) -> T) -> T {
    let noted = HAS.try_with(|has| action(&mut has.borrow_mut()));
    noted.unwrap_or_else(|_| {
        HAS_AT_LAST.with(|has| {
            let mut has = has.borrow_mut();
            let done = action(&mut has);
            if has.is_empty() {
                *has = Vec::new();
            }
            done
        })
    })
}

/// Noted for as long as this lives, in the thread that noted it.
pub(in crate::store) struct Noted {
    entry: OwnNote,
    in_this_thread: PhantomData<*const ()>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        with_notes(|has| {
            if let Some(at) = has.iter().position(|entry| *entry == self.entry) {
                has.swap_remove(at);
            }
        });
    }
}

/// What this thread has of a store: its wait for one of these would never end.
#[derive(Clone, Copy)]
pub(in crate::store) struct Deadlocks<'s>(pub(in crate::store) &'s Store);

impl<'s> Deadlocks<'s> {
    /// Notes that this thread has a latch or a turn, until what is returned is dropped.
    pub(in crate::store) fn note_slot(self, id: SlotId, generation: u32) -> Noted {
        self.noted(What::Slot { id, generation })
    }

    /// Notes that this thread has the lock of transactions, until what is returned is dropped.
    pub(in crate::store) fn note_transaction(self) -> Noted {
        self.noted(What::Transactions)
    }

    /// Notes that this thread's transaction has found no key of that hash, until what is returned
    /// is dropped.
    pub(in crate::store) fn note_absence(self, hash: u64) -> Noted {
        self.noted(What::Absence { hash })
    }

    /// Refuses to wait for ever for the end of this thread's own transaction, which has found that
    /// there is no such key.
    pub(in crate::store) fn check_not_absent(
        self,
        hash: u64,
        key: impl FnOnce() -> String,
    ) -> Result<()> {
        match self.is_mine(What::Absence { hash }) {
            false => Ok(()),
            true => Err(Error::Deadlock { what: key() }),
        }
    }

    /// Whether a transaction of this thread is under way.
    pub(in crate::store) fn is_in_transaction(self) -> bool {
        self.is_mine(What::Transactions)
    }

    /// Refuses to wait for ever for a slot that this thread has.
    pub(in crate::store) fn check_not_mine(
        self,
        id: SlotId,
        generation: u32,
        key: impl FnOnce() -> String,
    ) -> Result<()> {
        match self.is_mine(What::Slot { id, generation }) {
            false => Ok(()),
            true => Err(Error::Deadlock { what: key() }),
        }
    }

    /// Refuses to begin a transaction inside another one, which would wait for ever.
    pub(in crate::store) fn check_no_transaction(self) -> Result<()> {
        match self.is_in_transaction() {
            false => Ok(()),
            true => Err(Error::Deadlock {
                what: format!("a transaction in {}", self.0.known_as().display()),
            }),
        }
    }

    fn entry(self, what: What) -> OwnNote {
        OwnNote {
            serial: self.0.serial(),
            what,
            epoch: fork::epoch(),
        }
    }

    fn noted(self, what: What) -> Noted {
        let entry = self.entry(what);
        with_notes(|has| has.push(entry));
        Noted {
            entry,
            in_this_thread: PhantomData,
        }
    }

    fn is_mine(self, what: What) -> bool {
        let entry = self.entry(what);
        with_notes(|has| has.contains(&entry))
    }
}

/// Which hold of a store: its slot and the number of the permit.
type Which = (SlotId, u32);

/// The holds of which this process has made tokens, each with its sequence. At most one for each
/// hold there is: a later one takes the place of an earlier one. Locked only with the registry of
/// what is inherited, for which a fork waits.
#[derive(Default)]
pub(in crate::store) struct Tokens(Mutex<BTreeMap<Which, u64>>);

impl Tokens {
    pub(in crate::store) fn with<T>(
        &self,
        action: impl FnOnce(&mut BTreeMap<Which, u64>) -> T,
    ) -> T {
        let _registry = Registry::lock();
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
