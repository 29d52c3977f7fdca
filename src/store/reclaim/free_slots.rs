//! Room for keys: when no slots are left, some keys go.
//!
//! Nothing is kept in order of use. A hand moves round the slots, some at a time: whatever is idle
//! among these is freed, and if nothing is, the oldest values by the store's policy. So no maker of
//! a key looks at more of the slots than that, unless all of these are in use.

use std::cell::Cell;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::record::Force;
use crate::slab::bytes::span_of;
use crate::slab::layout::STRIPES;
use crate::slab::{Growing, SlotId, Tenant};
use crate::store::Store;
use crate::store::expiry::is_over;
use crate::store::index::chains::Index;
use crate::store::index::retire::Retirer;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::{KeyEntry, hash_as};
use crate::store::log::garbage::GarbageList;
use crate::store::members::config::InForce;
use crate::store::patience::Patience;
use crate::store::reclaim::evict::{BATCH, Evictor, MOMENT, WINDOW, take_oldest};
use crate::store::settings::Eviction;
use crate::store::slots::by_slot::Slots;
use crate::sync::{AtomicU32, Ordering};

/// How many slots are freed at a time, of keys that are idle: each costs some microseconds.
const ENOUGH: u32 = 1_024;

/// What has kept keys from being removed.
#[derive(Default)]
struct Missed {
    /// Another process had a stripe for too long.
    stripe: Cell<bool>,
    /// The last error of one key, which does not keep the others.
    error: Cell<Option<Error>>,
}

/// What came of taking a key away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Taken {
    Yes,
    /// It was changed or removed since it was found, or has a holder that stays.
    NotNow,
    /// The patience was over, and another process has the stripe.
    StripeBusy,
}

/// Slots when there are none left.
#[derive(Clone, Copy)]
pub(crate) struct Reclaimer<'s>(pub(crate) &'s Store);

impl<'s> Reclaimer<'s> {
    /// Frees some slots, and returns how many; 0: every one is in use, or its stripe was not
    /// available within `patience`. Keys in a stripe that somebody has for long, stopped perhaps,
    /// are taken only if nothing else can be.
    pub(crate) fn free_slots(self, patience: Patience) -> Result<u32> {
        let missed = Missed::default();
        // That values are gone may be decided. If it cannot be carried out they stay, and others
        // may go.
        let _ = Journal(self.0).finish_decided();
        match self.free_slots_within(Patience::strictly(MOMENT), &missed)? {
            0 if missed.stripe.get() => self.free_slots_within(patience, &missed),
            freed => Ok(freed),
        }
    }

    fn free_slots_within(self, patience: Patience, missed: &Missed) -> Result<u32> {
        /// Where the hand stands: in what many slots, not in which store.
        static HAND: AtomicU32 = AtomicU32::new(0);
        let count = self.0.slab.allocated(Growing::Slots);
        let windows = count.div_ceil(WINDOW);
        let from = HAND.load(Ordering::Relaxed);
        for window in (0..windows).map(|i| from.wrapping_add(i) % windows) {
            let first = window * WINDOW;
            // Given back at the end, with one wait for the device.
            let garbage = GarbageList::new(self.0);
            let slots = first..count.min(first + WINDOW);
            let freed = self.free_among(slots, patience, missed, &garbage)?;
            if freed > 0 {
                HAND.store(window + 1, Ordering::Relaxed);
                return Ok(freed);
            }
        }
        missed.error.take().map_or(Ok(0), Err)
    }

    fn free_among(
        self,
        slots: Range<u32>,
        patience: Patience,
        missed: &Missed,
        garbage: &GarbageList<'_>,
    ) -> Result<u32> {
        let count = |taken: Result<Taken>, span| match taken {
            Ok(Taken::Yes) => span,
            Ok(Taken::NotNow) => 0,
            Ok(Taken::StripeBusy) => {
                missed.stripe.set(true);
                0
            }
            Err(error) => {
                missed.error.set(Some(error));
                0
            }
        };
        let (mut freed, mut values) = (0, Vec::new());
        for id in slots.filter_map(|number| self.0.slab.slot_id(number)) {
            if freed >= ENOUGH {
                break;
            }
            match Evictor(self.0).candidate(id) {
                Some(value) if !is_over(value.expires_ms) => values.push(value),
                _ => {
                    if let Some(found) = self.idle_at(id)? {
                        let span = span_of(&self.0.slab, found.id);
                        freed += count(self.free_idle(found, patience, garbage), span);
                    }
                }
            }
        }
        if freed > 0 || InForce(self.0).eviction() == Eviction::None {
            return Ok(freed);
        }
        let some = (values.len() / 16).clamp(1, BATCH);
        while freed == 0 && !values.is_empty() {
            for value in take_oldest(&mut values, some) {
                let span = span_of(&self.0.slab, value.found.id);
                freed += count(Evictor(self.0).evict_value(&value, patience, garbage), span);
            }
        }
        Ok(freed)
    }

    /// The key that begins in a slot, if it looks idle. Whether it is, is seen under its stripe.
    fn idle_at(self, id: SlotId) -> Result<Option<KeyEntry>> {
        let slot = self.0.slab.slot(id);
        let Some(meta) = slot.meta() else {
            return Ok(None);
        };
        let Some(kind) = meta.kind else {
            return Ok(None);
        };
        let found = KeyEntry { id, meta, kind };
        let is_free = match kind {
            // Their latches are also taken from the dead.
            Tenant::Value | Tenant::Turn => true,
            Tenant::Semaphore => match Slots(self.0).permits_while(found)? {
                None => false,
                Some((first, permits)) => (0..permits)
                    .map_while(|i| self.0.slab.permit(first, i))
                    .all(|permit| permit.hold.load().is_plainly_free()),
            },
            _ => slot.hold.load().is_plainly_free(),
        };
        Ok((is_free && self.is_idle(found)).then_some(found))
    }

    /// Takes away a key that is idle.
    fn free_idle(
        self,
        found: KeyEntry,
        patience: Patience,
        garbage: &GarbageList<'_>,
    ) -> Result<Taken> {
        // What is left of a value is nobody's, also if the process that deleted it died with the
        // latch; and the successor of a dead holder of a turn need not be told.
        let force = match found.kind {
            Tenant::Value | Tenant::Turn => Force::NotTheLiving,
            _ => Force::Idle,
        };
        self.take_away(found, force, patience, || self.is_idle(found), garbage)
    }

    /// Takes a key away that was found without its stripe, unless it is not `wanted` any more, or
    /// has a holder that `force` leaves alone. What it had in the log is put to the `garbage`.
    pub(in crate::store) fn take_away(
        self,
        found: KeyEntry,
        force: Force,
        patience: Patience,
        wanted: impl FnOnce() -> bool,
        garbage: &GarbageList<'_>,
    ) -> Result<Taken> {
        let Some(key) = Slots(self.0).key_of(found) else {
            return Ok(Taken::NotNow);
        };
        let hash = hash_as(found.kind, Index(self.0).hash(&key));
        let Some(stripe) =
            Index(self.0).lock_stripe_within(Index(self.0).stripe_of(hash), patience)?
        else {
            return Ok(Taken::StripeBusy);
        };
        let now = stripe.find(&key, hash)?;
        let same = now.is_some_and(|now| now.id == found.id && Slots(self.0).is_still(found));
        let taken =
            same && Retirer(&stripe).retire(found, Index(self.0).bucket_of(hash), force, wanted)?;
        stripe.garbage.hand_to(garbage);
        Ok(match taken {
            true => Taken::Yes,
            false => Taken::NotNow,
        })
    }

    /// Whether a key has nothing in it that anybody would miss. Averages always have; of values,
    /// those that were deleted or are over have not; of turns, those without a value have not;
    /// the others have not while they are free.
    pub(in crate::store) fn is_idle(self, found: KeyEntry) -> bool {
        match found.kind {
            Tenant::Averager => false,
            Tenant::Value => Slots(self.0).is_vacant(found),
            Tenant::Turn => !self.is_turn_of_value(found),
            _ => true,
        }
    }
}

impl<'s> Reclaimer<'s> {
    /// Whether a turn is that of a value that is there.
    pub(crate) fn is_turn_of_value(self, found: KeyEntry) -> bool {
        let value = Slots(self.0)
            .key_of(found)
            .and_then(|key| Index(self.0).find_unlocked(&key, Index(self.0).hash(&key), 1));
        value.is_some_and(|value| value.kind == Tenant::Value && !Slots(self.0).is_vacant(value))
    }

    /// Takes all turns away that `force` allows, in the stripes that are available within
    /// `patience`.
    pub(crate) fn remove_turns(self, force: Force, patience: Patience) -> Result<()> {
        for stripe in 0..STRIPES {
            let Some(guard) = Index(self.0).lock_stripe_within(stripe, patience)? else {
                continue;
            };
            for bucket in guard.buckets() {
                let mut turns = Vec::new();
                guard.walk(bucket, |id| {
                    turns.extend(guard.found(id).filter(|f| f.kind == Tenant::Turn));
                    true
                })?;
                for found in turns {
                    Retirer(&guard).retire(found, bucket, force, || true)?;
                }
            }
        }
        Ok(())
    }
}
