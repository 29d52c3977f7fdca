//! Locks of structure. A stripe is the part of the index that may be changed under one byte-range
//! lock; each holds an intent, so that the next process to lock it finishes or undoes what a dead
//! one left.

use crate::error::{Error, Result, show_key};
use crate::slab::buckets::{Buckets, stripe_of};
use crate::slab::bytes::{KeyPlace, span_of, write_bytes};
use crate::slab::layout::STRIPES;
use crate::slab::{Growing, Intent, Meta, SlotId, Stripe, Tenant};
use crate::store::Store;
use crate::store::index::chains::Index;
use crate::store::index::retire::Retirer;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::GarbageList;
use crate::store::members::process::Process;
use crate::store::members::range::{RangeGuard, Ranges};
use crate::store::patience::Patience;
use crate::store::slots::by_slot::Slots;
use crate::sync::{AtomicU32, Ordering};

/// A locked stripe, with its intent none.
pub(in crate::store) struct StripeGuard<'a> {
    pub(in crate::store) store: &'a Store,
    pub(in crate::store) process: &'a Process,
    pub(in crate::store) number: u32,
    _lock: RangeGuard<'a>,
    /// Behind the lock: given back when it is free.
    pub(in crate::store) garbage: GarbageList<'a>,
}

impl<'s> Index<'s> {
    /// The stripe of a key.
    pub(in crate::store) fn stripe_of(self, hash: u64) -> u32 {
        stripe_of(hash)
    }

    /// Locks a stripe, waiting for the process that has it, and clears up after one that died with
    /// it.
    pub(in crate::store) fn lock_stripe(self, number: u32) -> Result<StripeGuard<'s>> {
        let process = self.0.process()?;
        let lock = Ranges(self.0).lock_range(process, u64::from(number % STRIPES))?;
        self.stripe_guard(process, number, lock)
    }

    /// Locks a stripe, waiting no longer than `patience` allows; `None`: somebody has it, stopped
    /// perhaps. Stripes are held for microseconds: even an acquirer that will not wait for a key
    /// waits that long for one.
    pub(in crate::store) fn lock_stripe_within(
        self,
        number: u32,
        patience: Patience,
    ) -> Result<Option<StripeGuard<'s>>> {
        let process = self.0.process()?;
        match Ranges(self.0).lock_range_within(process, u64::from(number % STRIPES), patience)? {
            Some(lock) => self.stripe_guard(process, number, lock).map(Some),
            None => Ok(None),
        }
    }

    fn stripe_guard(
        self,
        process: &'s Process,
        number: u32,
        lock: RangeGuard<'s>,
    ) -> Result<StripeGuard<'s>> {
        let guard = StripeGuard {
            store: self.0,
            process,
            number: number % STRIPES,
            _lock: lock,
            garbage: GarbageList::new(self.0),
        };
        self.0.check_in_place_often()?;
        self.0.slab.reach()?;
        // Each time, not only when the store is opened: the process may have died a moment ago.
        if guard.stripe().intent() != Some(Intent::None) {
            Retirer(&guard).recover()?;
        }
        Ok(guard)
    }
}

impl StripeGuard<'_> {
    /// How many rows of buckets this stripe has, never more than there can be for so many slots.
    pub(in crate::store) fn rows(&self) -> u32 {
        let slab = self.store.slab();
        let most = Buckets::rows_for(slab.allocated(Growing::Slots));
        Buckets(slab).rows(self.number).min(most)
    }

    /// Whether it says that it has more.
    pub(in crate::store) fn has_too_many_rows(&self) -> bool {
        Buckets(self.store.slab()).rows(self.number) > self.rows()
    }

    /// The bucket of a hash of this stripe, as long as it is locked.
    pub(in crate::store) fn bucket_of(&self, hash: u64) -> u32 {
        Buckets(self.store.slab()).of(hash)
    }

    /// Where the chain of a bucket begins.
    pub(in crate::store) fn head(&self, bucket: u32) -> Result<&AtomicU32> {
        let slab = self.store.slab();
        Buckets(slab)
            .head(bucket)
            .ok_or_else(|| Buckets(slab).unreachable(bucket))
    }

    /// The key in a slot.
    pub(in crate::store) fn found(&self, id: SlotId) -> Option<KeyEntry> {
        let meta = self.store.slab().slot(id).meta()?;
        let kind = meta.kind?;
        Some(KeyEntry { id, meta, kind })
    }

    pub(in crate::store) fn stripe(&self) -> &Stripe {
        self.store.slab.stripe(self.number)
    }

    /// Gives a key another tag, in the room that it has. The tag is gone for a moment: a process
    /// that dies here leaves the key without one.
    pub(crate) fn retag(&self, found: KeyEntry, key: &[u8], tag: &[u8]) -> Result<()> {
        let slab = self.store.slab();
        let slot = slab.slot(found.id);
        let place = KeyPlace::of(found.kind, found.meta.key_len, tag.len());
        let span = span_of(slab, found.id);
        if place.span() > span {
            return Err(Error::Invalid {
                what: format!(
                    "{} was made without room for a tag of {} bytes; use a shorter one, or remove the key first",
                    show_key(key),
                    tag.len()
                ),
            });
        }
        let without = Meta {
            tag_len: 0,
            ..found.meta
        };
        slot.meta.store(without.encode(), Ordering::Release);
        if !write_bytes(slab, found.id, span, place.tag_at, tag) {
            return Err(slab.corrupt("a slot is not allocated"));
        }
        let with = Meta {
            tag_len: tag.len(),
            ..found.meta
        };
        slot.meta.store(with.encode(), Ordering::Release);
        Ok(())
    }

    /// The tag of a key.
    pub(crate) fn tag_of(&self, found: KeyEntry) -> Result<Vec<u8>> {
        if found.kind == Tenant::Value {
            return Slots(self.store).tag_of_value(found);
        }
        let place = KeyPlace::of(found.kind, found.meta.key_len, found.meta.tag_len);
        let tag = Index(self.store).read_bytes(found.id, place.tag_at, found.meta.tag_len);
        Ok(tag.unwrap_or_default())
    }
}
