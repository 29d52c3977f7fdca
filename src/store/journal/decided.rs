//! What was decided and is not carried out yet: the word of the header that says where the list of
//! flips lies, that list, and carrying it out.
//!
//! By the store of that word a transaction has happened, whenever its parts are seen. Every reader
//! looks at the word before it reads a value, every writer after it takes a latch, and both flip
//! first what is listed there (T1): so none sees one change without the others. Nobody needs to
//! know whether the decider lives, and several processes may flip at once, or late: a flip is an
//! exchange of the version that was in force, which is so once (T2).
//!
//! A list is believed if it is whole. What else the word leads to is damage: nothing was decided by
//! it, and what it says of itself counts for nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Location;
use crate::record::deciding;
use crate::slab::Tenant;
use crate::store::Store;
use crate::store::journal::siblings::Siblings;
use crate::store::key_entry::KeyEntry;
use crate::store::log::decided_list::{Flip, list_bytes, read_list};
use crate::store::log::garbage::{Collector, Garbage};
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::config::InForce;
use crate::store::members::device::{Known, OnDevice};
use crate::sync::{AtomicU64, Ordering};

/// What was decided and is carried out.
#[derive(Clone, Copy)]
pub(in crate::store) struct Journal<'s>(pub(in crate::store) &'s Store);

impl<'s> Journal<'s> {
    /// Whether no decided transaction of the cache, of which this store may be a part, waits to be
    /// carried out.
    #[inline]
    pub(in crate::store) fn nothing_is_decided(self) -> bool {
        Journal(Siblings(self.0).home())
            .journal()
            .load(Ordering::Acquire)
            == 0
    }

    /// Ends a transaction that was decided and is not carried out. Comes before a value is read,
    /// and after a latch is taken: what is seen then is either all before it or all after it.
    #[inline]
    pub(in crate::store) fn finish_decided(self) -> Result<()> {
        match self.nothing_is_decided() {
            true => Ok(()),
            false => self.finish_slowly(),
        }
    }

    /// Carries out what was decided before a key is judged by its cells, if it is a value: others
    /// have nothing to do with transactions.
    pub(in crate::store) fn finish_decided_of(self, found: KeyEntry) -> Result<()> {
        match found.kind {
            Tenant::Value => self.finish_decided(),
            _ => Ok(()),
        }
    }

    /// Carries out what was decided. A reader, or a writer of something else, does not depend on
    /// what the device has of it.
    #[cold]
    fn finish_slowly(self) -> Result<()> {
        let _ = Journal(Siblings(self.0).home()).carry_out()?;
        Ok(())
    }

    /// Ends a transaction before another one is decided: the journal is empty afterwards.
    pub(in crate::store) fn finish_for_good(self) -> Result<()> {
        match self.nothing_is_decided() {
            true => Ok(()),
            false => Journal(Siblings(self.0).home()).carry_out()?,
        }
    }

    /// Flips what the journal says. Any process may, at any time, again and again: a version is in
    /// force once. The inner error: the change is in force, and the journal stays, for it may be
    /// all that the device has.
    fn carry_out(self) -> Result<Result<()>> {
        let journal = &self.0.slab.header().journal;
        let bits = journal.load(Ordering::Acquire);
        let log = &self.0.process()?.log;
        let list = read_list(log, bits).map_err(Segments(self.0).log_error(
            "read",
            log,
            (bits >> 32) as u32,
        ))?;
        let place = Location::from_bits(bits);
        if let (Some(place), Some(flips)) = (place, &list) {
            let flipped = self.flip_all(flips)?;
            if flipped.is_ok() {
                self.end_journal(place, flips.len());
            }
            return Ok(flipped);
        }
        if journal.load(Ordering::Acquire) == bits && bits != 0 {
            // Nothing that was ever decided: damage. It may be anything, and is believed nothing:
            // also not how long it is.
            self.0.count_damaged();
        }
        let _ = journal.compare_exchange(bits, 0, Ordering::AcqRel, Ordering::Relaxed);
        Ok(Ok(()))
    }

    /// Empties the journal, of which the list was carried out, unless another process has.
    pub(in crate::store) fn end_journal(self, place: Location, flips: usize) {
        // Only the first counts the list.
        if deciding::end(&self.0.slab.header().journal, place.bits()) {
            // Not given back: the device may still have the journal.
            let bytes = list_bytes(flips);
            Collector(self.0).count(Garbage { place, bytes });
        }
    }

    /// Flips what is listed, in all stores. An error leaves the journal as it is, for the next
    /// process: nothing is flipped. The inner one: all is, and the device may not have it.
    fn flip_all(self, flips: &[Flip]) -> Result<Result<()>> {
        let mut others: HashMap<u32, Option<Arc<Store>>> = HashMap::new();
        for flip in flips.iter().filter(|flip| flip.shard != 0) {
            if let Entry::Vacant(new) = others.entry(flip.shard) {
                new.insert(Siblings(self.0).shard(flip.shard)?);
            }
        }
        let carry_out = |flip: &Flip| match others.get(&flip.shard) {
            None => flip.carry_out(&self.0.slab),
            Some(Some(other)) => flip.carry_out(&other.slab),
            Some(None) => self.0.count_damaged(),
        };
        let stores: Vec<&Store> = others.values().flatten().map(|other| &**other).collect();
        for store in stores.iter().copied().chain([self.0]) {
            store.slab.reach()?;
        }
        Ok(self.flip_durably(&stores, || flips.iter().for_each(carry_out)))
    }

    /// Flips, and waits for the device if values are to survive a power failure. Pages reach the
    /// device in any order: first what was decided, then what is done about it in these stores,
    /// then that it is done. An error: it is done all the same, and the device may have a part of
    /// it, or the journal.
    pub(in crate::store) fn flip_durably(
        self,
        others: &[&Store],
        flip: impl FnOnce(),
    ) -> Result<()> {
        if !InForce(self.0).is_durable() {
            flip();
            return Ok(());
        }
        let mut stores = vec![self.0];
        for other in others {
            if !stores.iter().any(|store| std::ptr::eq(*store, *other)) {
                stores.push(other);
            }
        }
        let known: Result<Vec<Known>> =
            stores.iter().map(|store| OnDevice(store).known()).collect();
        let decided = known.and_then(|known| {
            Syncing(self.0).sync_slab_since(known[0])?;
            Ok(known)
        });
        flip();
        let mut known = stores.iter().zip(decided?);
        known.try_for_each(|(store, known)| Syncing(store).sync_slab_since(known))
    }

    /// The word in which the place of the list stands, for rebuilding.
    pub(in crate::store) fn journal(self) -> &'s AtomicU64 {
        &self.0.slab.header().journal
    }
}

#[cfg(all(test, not(loom)))]
pub(in crate::store) mod tests;
