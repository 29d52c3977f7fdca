//! Keys that a transaction has read and that are not there: nobody makes them before it has ended.
//!
//! Reading makes no key, so there is no latch to take. The transaction notes the key's hash in a
//! table instead, and marks its stripe, where it has seen under the lock that there is none. A
//! maker of a key in a marked stripe looks there with that lock, and waits for the lock of
//! transactions if the hash is noted: also another thread of this process. The transaction's own
//! thread is told that it would wait for itself.
//!
//! Killed at any time: the note stays, and the next maker of a key with that hash gets the lock
//! of transactions at once, and clears it, for with that lock no transaction is under way. When the
//! table is full, absent keys are made, as if they were to be set.

use std::sync::Arc;

use crate::error::Result;
use crate::os::fork;
use crate::store::Store;
use crate::store::index::chains::Index;
use crate::store::members::deadlock::{Deadlocks, Noted};

/// What came of marking a key.
pub(super) enum Marking<'a> {
    Yes(Absence<'a>),
    IsThere,
    NoRoom,
}

/// That there is no such key, for as long as this lives.
pub(super) struct Absence<'a> {
    store: &'a Arc<Store>,
    key: Vec<u8>,
    hash: u64,
    /// This thread cannot make it outside of the transaction.
    noted: Option<Noted>,
    epoch: u32,
}

impl<'a> Absence<'a> {
    /// Marks a key that is not there. Only with the lock of transactions.
    pub(super) fn of(store: &'a Arc<Store>, key: &[u8]) -> Result<Marking<'a>> {
        let hash = Index(store).hash(key);
        let stripe = Index(store).lock_stripe(Index(store).stripe_of(hash))?;
        if stripe.find(key, hash)?.is_some() {
            return Ok(Marking::IsThere);
        }
        if !store.slab().absences().add(hash) {
            return Ok(Marking::NoRoom);
        }
        stripe.stripe().watch(hash);
        Ok(Marking::Yes(Absence {
            store,
            key: key.to_vec(),
            hash,
            noted: Some(Deadlocks(store).note_absence(hash)),
            epoch: fork::epoch(),
        }))
    }

    pub(super) fn is_of(&self, store: &Arc<Store>, key: &[u8]) -> bool {
        Arc::ptr_eq(self.store, store) && self.key == key
    }

    /// The transaction sets a value there itself.
    pub(super) fn let_us_make_it(&mut self) {
        self.noted = None;
    }

    /// Ends as by a death: the mark stays.
    #[cfg(any(fuzzing, test))]
    pub(super) fn abandon(mut self) {
        self.epoch = self.epoch.wrapping_sub(1);
    }

    /// It has not done so after all.
    pub(super) fn note(&mut self) {
        self.noted = Some(Deadlocks(self.store).note_absence(self.hash));
    }
}

impl Drop for Absence<'_> {
    fn drop(&mut self) {
        // The child of a fork has no transaction.
        if self.epoch == fork::epoch() {
            let stripe = Index(self.store).stripe_of(self.hash);
            self.store.slab().stripe(stripe).forget_watched();
            self.store.slab().absences().forget();
        }
    }
}
