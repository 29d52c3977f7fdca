//! What this thread is in the middle of, so that it does not wait for itself.
//!
//! The function given to a transaction, or to who computes a value, may use the cache as it likes; but what its
//! own thread has is given back only when the function has ended. Whoever waits without a limit looks here first,
//! and answers with an error where the wait would never end. Holds of locks are not noted: a guard may be dropped
//! by another thread.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::os::fork;
use crate::slab::SlotId;
use crate::store::Store;

/// What a thread can have while a function of the user's runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The lock of transactions.
    Transactions,
    /// The latch of a value, or a flight, in one life of its slot: it may be taken away meanwhile, and the slot be
    /// another's.
    Slot { id: SlotId, generation: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Of the store.
    serial: u64,
    what: What,
    /// In the child of a fork nothing is this thread's.
    epoch: u32,
}

thread_local! {
    static HAS: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

/// Noted for as long as this lives, in the thread that noted it.
pub(crate) struct Noted {
    entry: Entry,
    in_this_thread: PhantomData<*const ()>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        // While the thread ends there is nobody left to look.
        let _ = HAS.try_with(|has| {
            let mut has = has.borrow_mut();
            if let Some(at) = has.iter().position(|entry| *entry == self.entry) {
                has.swap_remove(at);
            }
        });
    }
}

impl Store {
    /// Notes that this thread has a latch or a flight, until what is returned is dropped.
    pub(crate) fn note_slot(&self, id: SlotId, generation: u32) -> Noted {
        self.noted(What::Slot { id, generation })
    }

    /// The same for the lock of transactions.
    pub(crate) fn note_transaction(&self) -> Noted {
        self.noted(What::Transactions)
    }

    /// Refuses to wait for ever for a slot that this thread has.
    pub(crate) fn check_not_mine(
        &self,
        id: SlotId,
        generation: u32,
        key: impl FnOnce() -> String,
    ) -> Result<()> {
        match self.is_mine(What::Slot { id, generation }) {
            false => Ok(()),
            true => Err(Error::Deadlock { what: key() }),
        }
    }

    /// The same for a transaction inside another one.
    pub(crate) fn check_no_transaction(&self) -> Result<()> {
        match self.is_mine(What::Transactions) {
            false => Ok(()),
            true => Err(Error::Deadlock {
                what: format!("a transaction in {}", self.dir().display()),
            }),
        }
    }

    fn entry(&self, what: What) -> Entry {
        Entry {
            serial: self.serial(),
            what,
            epoch: fork::epoch(),
        }
    }

    fn noted(&self, what: What) -> Noted {
        let entry = self.entry(what);
        let _ = HAS.try_with(|has| has.borrow_mut().push(entry));
        Noted {
            entry,
            in_this_thread: PhantomData,
        }
    }

    fn is_mine(&self, what: What) -> bool {
        let entry = self.entry(what);
        HAS.try_with(|has| has.borrow().contains(&entry))
            .unwrap_or(false)
    }
}
