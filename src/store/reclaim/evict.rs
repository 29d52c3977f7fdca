//! Evicting values: which go when there is no room.
//!
//! Nothing is kept in order of worth. Some of the slots are looked at, others each time, and the
//! least worthy there are remembered, to go one after the other as room is needed; so a look at
//! many slots serves many writers. When its turn comes a value is looked at again: if it was used
//! or changed since, it stays.

use std::sync::PoisonError;
use std::time::Duration;

use crate::Eviction;
use crate::error::Result;
use crate::log::LARGE_BYTES;
use crate::record::Force;
use crate::slab::bytes::span_of;
use crate::slab::layout::SLOT_BYTES;
use crate::slab::value_cells::Form;
use crate::slab::{Growing, STATE_USED, SlotId, Tenant};
use crate::store::Store;
use crate::store::candidate::{Candidate, Candidates};
use crate::store::era::Eras;
use crate::store::expiry::is_over;
use crate::store::index::chains::Index;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::GarbageList;
use crate::store::members::config::InForce;
use crate::store::patience::Patience;
use crate::store::reclaim::free_slots::{Reclaimer, Taken};
use crate::store::slots::by_slot::Slots;
use crate::sync::Ordering;

/// How many slots are looked at for the least worthy values: some tenth of a millisecond.
pub(in crate::store) const WINDOW: u32 = 2_048;
/// One value in so many that were looked at is remembered to go, or this many if that is more.
const SHARE: usize = 16;
const FEW: usize = 16;

/// How many slots ahead of the one that is looked at to fetch.
const AHEAD: u32 = 8;

/// How long to wait for stripes, all together, before other values go than the least worthy:
/// stripes are held for microseconds, unless somebody is stopped.
pub(in crate::store) const MOMENT: Duration = Duration::from_millis(1);

/// What came of evicting.
#[derive(Default)]
pub(in crate::store) struct Evicted {
    pub(in crate::store) values: usize,
    /// The bytes of their records in the log.
    pub(in crate::store) bytes: u64,
    /// The stripes, one in each bit, that somebody had for too long.
    pub(in crate::store) busy: u64,
}

/// Pick values are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Pick {
    /// Those in the log.
    Logged,
    /// Those in the log with room that is free at once.
    Large,
    /// Also those that lie in slots.
    All,
}

impl Pick {
    /// In the log.
    fn least_bytes(self) -> u64 {
        match self {
            Pick::Logged => 1,
            Pick::Large => LARGE_BYTES,
            Pick::All => 0,
        }
    }
}

/// For want of what a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Want {
    /// Slots, of which there are no more.
    Slots,
    /// Bytes, by the limit.
    Bytes,
    /// Room on the device.
    Device,
}

/// Pick value has to go for want of room.
#[derive(Clone, Copy)]
pub(in crate::store) struct Evictor<'s>(pub(in crate::store) &'s Store);

impl<'s> Evictor<'s> {
    /// Evicts values until they come to so many bytes, or all slots were looked at: what is over,
    /// and if the policy allows it others.
    pub(in crate::store) fn evict_some(self, bytes: u64, pick: Pick) -> Result<Evicted> {
        self.0.slab.reach()?;
        let mut evicted = Evicted::default();
        // Given back at the end, with one wait for the device.
        let garbage = GarbageList::new(self.0);
        let slots = self.0.slab.allocated(Growing::Slots);
        let least = pick.least_bytes();
        let patience = Patience::strictly(MOMENT);
        let shared = &self.0.process()?.candidates;
        let mut candidates = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looked_at = 0;
        loop {
            // If none of those could go that are worth least, others may.
            while let Some(candidate) = candidates.take(looked_at > 0 && evicted.values == 0) {
                if candidate.bytes >= least && self.is_as_found(&candidate) {
                    let one = self.evict_one(&candidate, (pick, patience), &mut evicted, &garbage);
                    one.inspect_err(|_| candidates.give_back(candidate))?;
                }
                if evicted.values > 0 && evicted.bytes >= bytes {
                    return Ok(evicted);
                }
            }
            if looked_at >= slots {
                return Ok(evicted);
            }
            let window = candidates.next_window(slots, WINDOW);
            looked_at += window.len() as u32;
            self.look_for(&mut candidates, window, least);
        }
    }

    /// Remembers what may go of these slots: what is over is nobody's, and goes first, whatever the
    /// policy.
    fn look_for(self, candidates: &mut Candidates, slots: std::ops::Range<u32>, least: u64) {
        let of_log = slots.filter_map(|number| self.candidate(self.key_at(number)?));
        let mut all: Vec<_> = of_log.filter(|one| one.bytes >= least).collect();
        let over = all.iter().filter(|one| is_over(one.expires_ms)).count();
        let share = match InForce(self.0).eviction() {
            Eviction::None => {
                all.retain(|one| is_over(one.expires_ms));
                over
            }
            _ => over.max((all.len() / SHARE).max(FEW)),
        };
        candidates.fill(all, share);
    }

    /// Whether a value is what it was when it was looked at, and was not used since.
    pub(super) fn is_as_found(self, candidate: &Candidate) -> bool {
        // The policy may be another by now.
        let may_go = InForce(self.0).eviction() != Eviction::None || is_over(candidate.expires_ms);
        let now = self.candidate(candidate.found.id).filter(|_| may_go);
        now.is_some_and(|now| {
            now.found.meta == candidate.found.meta
                && (now.version, now.worth) == (candidate.version, candidate.worth)
        })
    }

    fn evict_one(
        self,
        candidate: &Candidate,
        (pick, patience): (Pick, Patience),
        evicted: &mut Evicted,
        garbage: &GarbageList<'_>,
    ) -> Result<()> {
        let Some(key) = Slots(self.0).key_of(candidate.found) else {
            return Ok(());
        };
        let stripe = 1 << Index(self.0).stripe_of(Index(self.0).hash(&key));
        if evicted.busy & stripe != 0 {
            return Ok(());
        }
        let want = match InForce(self.0).is_device_short() {
            true => Want::Device,
            false => Want::Bytes,
        };
        match self.evict_value(candidate, want, patience, garbage)? {
            Taken::Yes => {
                evicted.values += 1;
                evicted.bytes += candidate.bytes;
                if pick == Pick::All {
                    evicted.bytes += candidate.in_slots;
                }
            }
            Taken::NotNow => {}
            Taken::StripeBusy => evicted.busy |= stripe,
        }
        Ok(())
    }

    /// The slot of that number, if a key begins there. What is to be looked at soon is fetched
    /// meanwhile.
    fn key_at(self, number: u32) -> Option<SlotId> {
        let slab = &self.0.slab;
        let state = slab.slot_state(number)?.load(Ordering::Relaxed);
        if let Some(soon) = slab.slot_id(number.saturating_add(AHEAD)) {
            slab.slot(soon).prefetch(1);
        }
        slab.slot_id(number).filter(|_| state == STATE_USED)
    }

    /// The value that begins in a slot, if there is one; whether it is whole is not looked at. What
    /// is over is worth nothing.
    pub(in crate::store) fn candidate(self, id: SlotId) -> Option<Candidate> {
        let meta = self.0.slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Tenant::Value)?;
        let found = KeyEntry { id, meta, kind };
        let cells = found.cells(&self.0.slab)?;
        let reading = cells.glance()?;
        let content = reading.content;
        if content.form == Form::Absent {
            return None;
        }
        let bytes = content.logged(meta.key_len).map_or(0, |(_, bytes)| bytes);
        let in_slots = u64::from(span_of(&self.0.slab, id)) * SLOT_BYTES;
        let eviction = InForce(self.0).eviction();
        let worth = match is_over(content.expires_ms) {
            true => 0,
            false => Eras(self.0).worth(cells.use_word()?, eviction, in_slots + bytes),
        };
        Some(Candidate {
            worth,
            found,
            version: reading.version,
            expires_ms: content.expires_ms,
            bytes,
            in_slots,
        })
    }

    /// Takes a value away, unless it was changed since it was found, or is being changed. What it
    /// had in the log is put to the `garbage`.
    pub(in crate::store) fn evict_value(
        self,
        candidate: &Candidate,
        want: Want,
        patience: Patience,
        garbage: &GarbageList<'_>,
    ) -> Result<Taken> {
        let found = candidate.found;
        let unchanged = || {
            let reading = Slots(self.0)
                .read_value(found, &mut ())
                .and_then(|read| read.ok());
            reading.is_some_and(|reading| reading.version == candidate.version)
        };
        let evicted = Reclaimer(self.0).take_away(
            found,
            Force::NotTheLiving,
            patience,
            unchanged,
            garbage,
        )?;
        if evicted == Taken::Yes && !is_over(candidate.expires_ms) {
            Eras(self.0).note_evicted(candidate.worth);
            let header = self.0.slab.header();
            header.evictions.fetch_add(1, Ordering::Relaxed);
            let why = match want {
                Want::Slots => Some(&header.evicted_for_slots),
                Want::Device => Some(&header.evicted_for_device),
                Want::Bytes => None,
            };
            why.inspect(|why| {
                why.fetch_add(1, Ordering::Relaxed);
            });
        }
        Ok(evicted)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Cache;
    use crate::os::simulate::{self, Moment};

    /// A cache of some hundred values of 20 kB, in which an hour passes at once, or is set back.
    fn with_clock(eviction: Eviction, test: impl FnOnce(&Cache, &dyn Fn(i64))) {
        let dir = tempfile::tempdir().unwrap();
        let wall = std::cell::Cell::new(1_800_000_000_i64);
        let boot = std::cell::Cell::new(1_000_u64);
        let pass = |by_clock_s: i64| {
            boot.set(boot.get() + 1);
            wall.set(wall.get() + by_clock_s);
            simulate::time(Some(Moment {
                boot_us: boot.get() * 1_000_000,
                wall_us: wall.get() as u64 * 1_000_000,
            }));
        };
        pass(1);
        let options = Cache::options().eviction(eviction).size_limit(4 << 20);
        let cache = options.open(dir.path()).unwrap();
        test(&cache, &pass);
        simulate::time(None);
    }

    #[test]
    fn a_clock_that_is_set_decides_nothing() {
        for eviction in [
            Eviction::LeastRecentlyStored,
            Eviction::LeastRecentlyUsed,
            Eviction::LeastFrequentlyUsed,
            Eviction::GreedyDual,
        ] {
            with_clock(eviction, |cache, pass| {
                let set = |key: String| cache.set(key, [7; 20_000]).unwrap();
                // Once ahead by a year, then back by more.
                pass(365 * 86_400);
                (0..200).for_each(|n| set(format!("old {n}")));
                pass(-366 * 86_400);
                let mut misses = 0;
                for round in 0..20 {
                    pass(1);
                    for n in 0..100 {
                        let key = format!("new {n}");
                        if cache.get(&key).unwrap().is_none() {
                            misses += usize::from(round > 0);
                            set(key);
                        }
                    }
                }
                assert_eq!(misses, 0, "{eviction:?}");
                pass(1);
                (0..200).for_each(|n| set(format!("newer {n}")));
                let left = (0..200).filter(|n| cache.contains(format!("old {n}")).unwrap());
                assert_eq!(left.count(), 0, "{eviction:?}");
            });
        }
    }

    /// What was used often, and is not used any more, goes in the end; what is new stays.
    #[test]
    fn the_uses_of_long_ago_are_forgotten() {
        for eviction in [Eviction::LeastFrequentlyUsed, Eviction::GreedyDual] {
            with_clock(eviction, |cache, pass| {
                let mut hits = [0; 2];
                for (phase, hits) in hits.iter_mut().enumerate() {
                    for round in 0..60 {
                        pass(1);
                        for n in 0..100 {
                            let key = format!("{phase} {n}");
                            if cache.get(&key).unwrap().is_none() {
                                cache.set(&key, [7; 20_000]).unwrap();
                            } else if round >= 30 {
                                *hits += 1;
                            }
                            // Passes by, and is never seen again.
                            if n % 4 == 0 {
                                let key = format!("{phase} {round} {n}");
                                cache.set(key, [7; 20_000]).unwrap();
                            }
                        }
                    }
                }
                assert!(hits[0] > 2_700 && hits[1] > 2_700, "{eviction:?}: {hits:?}");
            });
        }
    }
}
