//! What a handle knows of its key: where it lies. Found or made at first use, remembered, and
//! checked against the slot's generation each time, so a key that was taken away is noticed.

use crate::store::journal::decided::Journal;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result, show_key};
use crate::os::clock;
use crate::record::{Force, NO_VERSION};
use crate::slab::{Slot, SlotId, Tenant};
use crate::store::holds::take_over::TakeOver;
use crate::store::index::allocate::{Claimed, NoRoom};
use crate::store::index::busy::stripe_byte;
use crate::store::index::chains::Index;
use crate::store::index::pieces::Pieces;
use crate::store::index::retire::Retirer;
use crate::store::index::stripe::StripeGuard;
use crate::store::key_entry::{KeyEntry, NewKey, SlotRef, check_lengths, hash_as};
use crate::store::members::deadlock::Deadlocks;
use crate::store::patience::{Patience, pause};
use crate::store::reclaim::free_slots::Reclaimer;
use crate::store::slots::by_slot::Slots;
use crate::store::{GROW_BYTE, Store};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::types::Predecessor;

/// A handle's key and settings, and its memory of the slot. Shared by the clones of a handle.
pub(crate) struct Handle {
    store: Arc<Store>,
    kind: Tenant,
    key: Box<[u8]>,
    hash: u64,
    pub(crate) tag: Box<[u8]>,
    /// For locks and semaphores the lease, for averages how long they last.
    pub(crate) expire: Option<Duration>,
    /// That time in microseconds.
    pub(crate) lease_us: Option<u64>,
    /// Of a semaphore, otherwise 0.
    permits: u32,
    /// Of a value: how long its cells are to be, otherwise 0.
    cell_words: usize,
    /// `slot's link << 32 | generation`, or 0.
    spot: AtomicU64,
    /// Of an average: the version that was seen last. Seals of other versions are checked.
    version: AtomicU64,
    /// The permit that was free last time. Wrong values cost time only.
    pub(crate) hint: AtomicU32,
}

/// How a key that was found fits a handle.
enum Fit {
    Ours,
    /// It was taken away meanwhile.
    Gone,
    /// A semaphore of so many permits, where the handle wants another number.
    Other(u32),
}

impl Handle {
    pub(crate) fn new(store: Arc<Store>, kind: Tenant, key: &[u8], permits: u32) -> Handle {
        Handle {
            hash: hash_as(kind, Index(&store).hash(key)),
            store,
            kind,
            key: key.into(),
            tag: Box::default(),
            expire: None,
            lease_us: None,
            permits,
            cell_words: 0,
            spot: AtomicU64::new(0),
            version: AtomicU64::new(NO_VERSION),
            hint: AtomicU32::new(0),
        }
    }

    /// A handle for one change of a value with a latch that is not available at once.
    pub(crate) fn of_value(store: Arc<Store>, key: &[u8], hash: u64, cell_words: usize) -> Handle {
        Handle {
            hash,
            cell_words,
            ..Handle::new(store, Tenant::Value, key, 0)
        }
    }

    /// A handle with other settings, for the builder methods.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Handle)) -> Handle {
        let mut new = Handle {
            store: Arc::clone(&self.store),
            kind: self.kind,
            key: self.key.clone(),
            hash: self.hash,
            tag: self.tag.clone(),
            expire: self.expire,
            lease_us: None,
            permits: self.permits,
            cell_words: self.cell_words,
            spot: AtomicU64::new(0),
            version: AtomicU64::new(NO_VERSION),
            hint: AtomicU32::new(0),
        };
        change(&mut new);
        new.lease_us = new.expire.map(clock::duration_us);
        new
    }

    #[inline]
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    #[inline]
    pub(crate) fn kind(&self) -> Tenant {
        self.kind
    }

    pub(crate) fn permits(&self) -> u32 {
        self.permits
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn show_key(&self) -> String {
        show_key(&self.key)
    }

    #[inline]
    pub(crate) fn slot(&self, spot: SlotRef) -> &Slot {
        self.store.slab().slot(spot.id)
    }

    /// Where the key was last.
    #[inline]
    pub(crate) fn remembered(&self) -> Option<SlotRef> {
        let bits = self.spot.load(Ordering::Relaxed);
        Some(SlotRef {
            id: SlotId::remembered((bits >> 32) as u32)?,
            generation: bits as u32,
        })
    }

    fn remember(&self, found: KeyEntry) -> SlotRef {
        let generation = found.meta.generation;
        let bits = u64::from(found.id.link()) << 32 | u64::from(generation);
        self.version.store(NO_VERSION, Ordering::Relaxed);
        self.spot.store(bits, Ordering::Relaxed);
        SlotRef {
            id: found.id,
            generation,
        }
    }

    /// What was remembered as `spot`, as long as it is there.
    pub(crate) fn found_at(&self, spot: SlotRef) -> Option<KeyEntry> {
        let meta = self.slot(spot).meta()?;
        let kind = meta.kind?;
        let same = meta.generation == spot.generation && kind == self.kind;
        same.then_some(KeyEntry {
            id: spot.id,
            meta,
            kind,
        })
    }

    /// Whether the key is still where `spot` says.
    #[inline]
    pub(crate) fn is_current(&self, spot: SlotRef) -> bool {
        spot.is_current(self.slot(spot), self.kind)
    }

    /// The version of the average that this handle has seen last, in the slot that it remembers.
    #[inline]
    pub(crate) fn known_version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Notes a version, so that its seal need not be checked again. Should another thread move the
    /// handle to another slot just now, a check is left out there: those are against damaged
    /// files, not against each other.
    #[inline]
    pub(crate) fn know_version(&self, spot: SlotRef, version: u64) {
        if self.known_version() != version && self.remembered() == Some(spot) {
            self.version.store(version, Ordering::Relaxed);
        }
    }

    /// Where the key is now, if it is anywhere.
    pub(crate) fn locate(&self) -> Result<Option<SlotRef>> {
        self.locate_within(Patience::Forever)
    }

    /// Where the key is now. Errors: `StructureBusy` if the patience was over before it could be
    /// said.
    pub(crate) fn locate_within(&self, patience: Patience) -> Result<Option<SlotRef>> {
        if let Some(spot) = self.remembered().filter(|s| self.is_current(*s)) {
            return Ok(Some(spot));
        }
        self.check_settings()?;
        if !self.tag.is_empty() {
            return self.locate_and_tag(patience);
        }
        while let Some(found) = Index(&self.store).find(&self.key, self.hash, patience)? {
            if self.may_be_in_the_way(found) {
                return Ok(None);
            }
            match self.check_found(found)? {
                Fit::Ours => return Ok(Some(self.remember(found))),
                Fit::Other(permits) if !TakeOver(self).is_in_use(found, permits)? => {
                    return Ok(None);
                }
                Fit::Other(_) | Fit::Gone => {}
            }
        }
        Ok(None)
    }

    /// The first use of a handle with a tag, whatever it is, gives the key that tag: the next ones
    /// find it remembered.
    fn locate_and_tag(&self, patience: Patience) -> Result<Option<SlotRef>> {
        let stripe = self.lock_stripe_within(patience)?;
        let found = stripe.find(&self.key, self.hash)?;
        let Some(found) = found.filter(|found| !self.may_be_in_the_way(*found)) else {
            return Ok(None);
        };
        if let Fit::Other(permits) = self.check_found(found)? {
            TakeOver(self).is_in_use(found, permits)?;
            return Ok(None);
        }
        self.give_tag(&stripe, found)?;
        Ok(Some(self.remember(found)))
    }

    /// Where the key is now; makes it if it is nowhere, and room for it if there is none. Also the
    /// predecessor, if this handle has taken over a semaphore of another number of permits.
    /// Errors: `StructureBusy` if the patience was over before the structure of the store could be
    /// changed.
    pub(crate) fn locate_or_create(
        &self,
        patience: Patience,
    ) -> Result<(SlotRef, Option<Predecessor>)> {
        if let Some(spot) = self.remembered().filter(|s| self.is_current(*s)) {
            return Ok((spot, None));
        }
        self.check_settings()?;
        // What is of another kind is judged under the stripe.
        if let Some(found) = Index(&self.store).find_unlocked(&self.key, self.hash, 1)
            && self.tag.is_empty()
            && found.kind == self.kind
            && let Fit::Ours = self.check_found(found)?
        {
            return Ok((self.remember(found), None));
        }
        let (mut pauses, mut looked_everywhere) = (0, false);
        loop {
            let stripe = self.lock_stripe_within(patience)?;
            match self.find_or_create(&stripe, patience) {
                Ok((found, before)) => return Ok((self.remember(found), before)),
                Err(NoRoom::Late) => return Err(Pieces(&self.store).structure_busy(GROW_BYTE)),
                Err(NoRoom::Failed(error)) => return Err(error),
                Err(NoRoom::Busy) => {
                    drop(stripe);
                    if !pause(&mut pauses, patience) {
                        let stripe = Index(&self.store).stripe_of(self.hash);
                        return Err(Pieces(&self.store).structure_busy(stripe_byte(stripe)));
                    }
                    continue;
                }
                Err(NoRoom::Full) => {}
            }
            drop(stripe);
            // Some idle keys, or what may be evicted, as long as something is freed: a key of many
            // slots wants them in a row. Then what is only known of values; with that each stripe
            // is locked, and what the dead have begun there ends.
            if Reclaimer(&self.store).free_slots(patience)? > 0 {
                continue;
            }
            if looked_everywhere {
                return Err(Error::Full {
                    path: self.store.dir().to_path_buf(),
                    capacity: self.store.slab().layout().capacity as usize,
                });
            }
            Reclaimer(&self.store).remove_turns(Force::NotTheLiving, patience)?;
            looked_everywhere = true;
        }
    }

    /// The stripe of the key. Errors: `StructureBusy` if somebody has it for longer than `patience`
    /// allows.
    pub(in crate::store) fn lock_stripe_within(
        &self,
        patience: Patience,
    ) -> Result<StripeGuard<'_>> {
        let stripe = Index(&self.store).stripe_of(self.hash);
        let guard = Index(&self.store).lock_stripe_within(stripe, patience)?;
        guard.ok_or_else(|| Pieces(&self.store).structure_busy(stripe_byte(stripe)))
    }

    fn find_or_create(
        &self,
        stripe: &StripeGuard<'_>,
        patience: Patience,
    ) -> Claimed<(KeyEntry, Option<Predecessor>)> {
        let mut found = stripe.find(&self.key, self.hash)?;
        if found.is_some_and(|found| self.is_value_of_others(found)) {
            Journal(&self.store).finish_decided()?;
        }
        if let Some(ghost) = found.filter(|found| self.is_in_the_way(*found)) {
            let bucket = Index(&self.store).bucket_of(self.hash);
            let vacant = || Slots(&self.store).is_vacant(ghost);
            // Also if the process that deleted the value died with the latch.
            if Retirer(stripe).retire(ghost, bucket, Force::NotTheLiving, vacant)? {
                found = None;
            } else if vacant() {
                if matches!(patience, Patience::Forever) {
                    let generation = ghost.meta.generation;
                    Deadlocks(&self.store)
                        .check_not_mine(ghost.id, generation, || self.show_key())?;
                }
                return Err(NoRoom::Busy);
            }
        }
        let Some(found) = found else {
            return Ok((stripe.create(&self.spec(&self.tag), patience)?, None));
        };
        if let Fit::Other(permits) = self.check_found(found)? {
            return TakeOver(self).take_over(stripe, found, permits, patience);
        }
        self.give_tag(stripe, found)?;
        Ok((found, None))
    }

    pub(in crate::store) fn spec<'a>(&'a self, tag: &'a [u8]) -> NewKey<'a> {
        NewKey {
            kind: self.kind,
            key: &self.key,
            hash: self.hash,
            tag,
            permits: self.permits,
            untold: &[],
            cell_words: self.cell_words,
        }
    }

    fn is_value_of_others(&self, found: KeyEntry) -> bool {
        self.kind != Tenant::Value && found.kind == Tenant::Value
    }

    /// Whether a key is only what is left of a value, where this handle wants something else.
    fn is_in_the_way(&self, found: KeyEntry) -> bool {
        self.is_value_of_others(found) && Slots(&self.store).is_vacant(found)
    }

    /// Whether a key is only what is left of a value, or may be, by what was decided and is not
    /// carried out. In either case it is nothing that this handle looks for. A mere look carries
    /// nothing out, for that opens the other shards; what makes or takes a key does, and then says
    /// whether a value is there.
    fn may_be_in_the_way(&self, found: KeyEntry) -> bool {
        let undecided = || !Journal(&self.store).nothing_is_decided();
        self.is_value_of_others(found) && (Slots(&self.store).is_vacant(found) || undecided())
    }

    /// Gives a key this handle's tag, if it has one.
    fn give_tag(&self, stripe: &StripeGuard<'_>, found: KeyEntry) -> Result<()> {
        if !self.tag.is_empty() && stripe.tag_of(found)? != *self.tag {
            stripe.retag(found, &self.key, &self.tag)?;
        }
        Ok(())
    }

    /// What the constructor, which cannot fail, was given.
    fn check_settings(&self) -> Result<()> {
        check_lengths(&self.key, &self.tag)?;
        if self.expire == Some(Duration::ZERO) {
            let what = match self.kind {
                Tenant::Averager => "an expire",
                _ => "a lease",
            };
            let what = format!("{what} of zero would be over at once; use a longer one, or none");
            return Err(Error::Invalid { what });
        }
        let most = u32::from(u16::MAX);
        if self.kind == Tenant::Semaphore && !(1..=most).contains(&self.permits) {
            let what = format!("a semaphore has 1 to {most} permits, not {}", self.permits);
            return Err(Error::Invalid { what });
        }
        Ok(())
    }

    /// Whether the key is what this handle takes it for.
    fn check_found(&self, found: KeyEntry) -> Result<Fit> {
        if found.kind != self.kind {
            return Err(Error::KindMismatch {
                key: self.key.to_vec(),
                found: found.kind.kind(),
                expected: self.kind.kind(),
            });
        }
        if self.kind != Tenant::Semaphore {
            return Ok(Fit::Ours);
        }
        Ok(match Slots(&self.store).permits_while(found)? {
            None => Fit::Gone,
            Some((_, permits)) if permits == self.permits => Fit::Ours,
            Some((_, permits)) => Fit::Other(permits),
        })
    }
}
