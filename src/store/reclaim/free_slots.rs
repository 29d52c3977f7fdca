//! Room for keys: when no slots are left, some keys go.
//!
//! Nothing is kept in order of use. A hand moves round the slots, some at a time. A key wants so
//! many in a row: what lies in each row of these is judged by the most worthy that is in it, and
//! the least worthy rows are freed. What is idle is worth nothing. So no maker of a key looks at
//! more of the slots than that, unless all of these are in use, and no more goes than is in its
//! way.

use std::cell::Cell;
use std::ops::Range;
use std::sync::PoisonError;

use crate::error::{Error, Result};
use crate::record::Force;
use crate::slab::buckets::Buckets;
use crate::slab::bytes::span_of;
use crate::slab::layout::STRIPES;
use crate::slab::{Growing, STATE_FREE, STATE_USED, SlotId, Tenant};
use crate::store::Store;
use crate::store::candidate::Lodger;
use crate::store::expiry::is_over;
use crate::store::index::chains::Index;
use crate::store::index::retire::Retirer;
use crate::store::index::stripe::StripeGuard;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::{KeyEntry, hash_as};
use crate::store::log::garbage::GarbageList;
use crate::store::members::config::InForce;
use crate::store::patience::Patience;
use crate::store::reclaim::evict::{Evictor, MOMENT, WINDOW, Want};
use crate::store::reclaim::rows::Row;
use crate::store::settings::Eviction;
use crate::store::slots::by_slot::Slots;
use crate::sync::Ordering;

/// How many buckets of a stripe are looked at while it is locked.
const ROWS_AT_A_TIME: u32 = 1_024;
/// How many rows are freed at a time: each key in them costs some microseconds.
const AT_A_TIME: u32 = 16;

/// For want of what keys are removed, and what has kept some from it.
struct Missed {
    want: Want,
    /// Another process had a stripe for too long.
    stripe: Cell<bool>,
    /// The last error of one key, which does not keep the others.
    error: Cell<Option<Error>>,
}

impl Missed {
    fn of(want: Want) -> Missed {
        Missed {
            want,
            stripe: Cell::default(),
            error: Cell::default(),
        }
    }
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
    /// Frees some rows of so many slots, and returns how many slots; 0: every one is in use, or its
    /// stripe was not available within `patience`. Keys in a stripe that somebody has for long,
    /// stopped perhaps, are taken only if nothing else can be.
    pub(in crate::store) fn free_slots(
        self,
        wanted: u32,
        want: Want,
        patience: Patience,
    ) -> Result<u32> {
        let missed = Missed::of(want);
        // That values are gone may be decided. If it cannot be carried out they stay, and others
        // may go.
        let _ = Journal(self.0).finish_decided();
        match self.free_slots_within(wanted, Patience::strictly(MOMENT), &missed)? {
            0 if missed.stripe.get() => self.free_slots_within(wanted, patience, &missed),
            freed => Ok(freed),
        }
    }

    fn free_slots_within(self, wanted: u32, patience: Patience, missed: &Missed) -> Result<u32> {
        self.0.slab.reach()?;
        let shared = &self.0.process()?.candidates;
        let slots = self.0.slab.allocated(Growing::Slots);
        // Given back at the end, with one wait for the device.
        let garbage = GarbageList::new(self.0);
        let (mut looked_at, mut in_vain) = (0, false);
        loop {
            // Not while others are waited for.
            let mut candidates = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let rows: Vec<_> = (0..AT_A_TIME)
                .map_while(|_| candidates.take_row(wanted, in_vain))
                .collect();
            if rows.is_empty() {
                if looked_at >= slots {
                    return missed.error.take().map_or(Ok(0), Err);
                }
                let window = candidates.next_window(slots, WINDOW);
                looked_at += window.len() as u32;
                let (rows, share) = self.judge(window)?.least_worthy(wanted);
                candidates.fill_rows(wanted, rows, share);
                in_vain = false;
                continue;
            }
            drop(candidates);
            let lodgers = rows.iter().flatten();
            let freed: u32 = lodgers
                .map(|lodger| self.free_lodger(lodger, patience, missed, &garbage))
                .sum();
            if freed > 0 {
                return Ok(freed);
            }
            in_vain = true;
        }
    }

    /// Takes away a key that lies in a row, if it is as it was found. How many slots that frees.
    fn free_lodger(
        self,
        lodger: &Lodger,
        patience: Patience,
        missed: &Missed,
        garbage: &GarbageList<'_>,
    ) -> u32 {
        let taken = match &lodger.value {
            Some(value) if !Evictor(self.0).is_as_found(value) => return 0,
            Some(value) => Evictor(self.0).evict_value(value, missed.want, patience, garbage),
            None => self.free_idle(lodger.found, patience, garbage),
        };
        match taken {
            Ok(Taken::Yes) => return lodger.span,
            Ok(Taken::NotNow) => {}
            Ok(Taken::StripeBusy) => missed.stripe.set(true),
            Err(error) => missed.error.set(Some(error)),
        }
        0
    }

    /// What these slots are worth, and the keys in them that may go.
    fn judge(self, slots: Range<u32>) -> Result<Row> {
        let may_evict = InForce(self.0).eviction() != Eviction::None;
        let mut row = Row::of(slots.clone());
        for at in slots {
            let state = self
                .0
                .slab
                .slot_state(at)
                .map(|s| s.load(Ordering::Relaxed));
            let id = match state {
                Some(STATE_USED) => self.0.slab.slot_id(at),
                Some(STATE_FREE) => {
                    row.is_free(at);
                    None
                }
                // It continues another, or is being made.
                _ => None,
            };
            let Some(id) = id else {
                continue;
            };
            let value = Evictor(self.0).candidate(id);
            let value = match value {
                Some(value) if !is_over(value.expires_ms) && !may_evict => continue,
                Some(value) if !is_over(value.expires_ms) => Some(value),
                _ => None,
            };
            let found = match value {
                Some(value) => Some(value.found),
                None => self.idle_at(id)?,
            };
            if let Some(found) = found {
                row.lodges(
                    at,
                    Lodger {
                        found,
                        value,
                        span: span_of(&self.0.slab, id),
                    },
                );
            }
        }
        Ok(row)
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
        let bucket = stripe.bucket_of(hash);
        let taken = same && Retirer(&stripe).retire(found, bucket, force, wanted)?;
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
            let mut looked_at = 0;
            // A part of the rows at a time. Those that are added meanwhile come last.
            while let Some(guard) = Index(self.0).lock_stripe_within(stripe, patience)? {
                let to = guard.rows().min(looked_at + ROWS_AT_A_TIME);
                for rows in looked_at + 1..=to {
                    let bucket = Buckets::last(stripe, rows);
                    self.remove_turns_of(&guard, bucket, force)?;
                }
                looked_at = to;
                if looked_at >= guard.rows() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn remove_turns_of(self, guard: &StripeGuard<'_>, bucket: u32, force: Force) -> Result<()> {
        let mut turns = Vec::new();
        guard.walk(bucket, |id| {
            turns.extend(guard.found(id).filter(|f| f.kind == Tenant::Turn));
            true
        })?;
        for found in turns {
            Retirer(guard).retire(found, bucket, force, || true)?;
        }
        Ok(())
    }
}
