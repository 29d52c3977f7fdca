//! Evicting values: which go when there is no room.

use std::time::Duration;

use crate::Eviction;
use crate::error::Result;
use crate::log::LARGE_BYTES;
use crate::record::Force;
use crate::slab::bytes::span_of;
use crate::slab::layout::SLOT_BYTES;
use crate::slab::value_cells::Form;
use crate::slab::{Growing, SlotId, Tenant};
use crate::store::Store;
use crate::store::era::Eras;
use crate::store::expiry::is_over;
use crate::store::index::chains::Index;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::GarbageList;
use crate::store::members::config::InForce;
use crate::store::patience::Patience;
use crate::store::reclaim::free_slots::{Reclaimer, Taken};
use crate::store::slots::by_slot::Slots;
use crate::sync::{AtomicU64, Ordering};

/// How many slots are looked at for the oldest values: some two milliseconds.
pub(in crate::store) const WINDOW: u32 = 65_536;

/// How many values go at a time: each takes some five microseconds.
pub(in crate::store) const BATCH: usize = 256;

/// How long to wait for stripes, all together, before other values go than the oldest: stripes are
/// held for microseconds, unless somebody is stopped.
pub(in crate::store) const MOMENT: Duration = Duration::from_millis(1);

/// A value that may go.
pub(in crate::store) struct Candidate {
    /// The less, the sooner it goes.
    worth: u64,
    pub(in crate::store) found: KeyEntry,
    version: u64,
    pub(in crate::store) expires_ms: u64,
    /// In the log.
    bytes: u64,
}

/// What came of evicting.
#[derive(Default)]
pub(in crate::store) struct Evicted {
    pub(in crate::store) values: usize,
    /// The bytes of their records in the log.
    pub(in crate::store) bytes: u64,
    /// The stripes, one in each bit, that somebody had for too long.
    pub(in crate::store) busy: u64,
}

/// The oldest so many, the oldest first; the rest is left.
pub(in crate::store) fn take_oldest(
    candidates: &mut Vec<Candidate>,
    count: usize,
) -> Vec<Candidate> {
    let count = count.min(BATCH);
    let mut rest = Vec::new();
    if count < candidates.len() {
        candidates.select_nth_unstable_by_key(count, |candidate| candidate.worth);
        rest = candidates.split_off(count);
    }
    let mut taken = std::mem::replace(candidates, rest);
    taken.sort_unstable_by_key(|candidate| candidate.worth);
    taken
}

/// Which value has to go for want of room.
#[derive(Clone, Copy)]
pub(in crate::store) struct Evictor<'s>(pub(in crate::store) &'s Store);

impl<'s> Evictor<'s> {
    /// Evicts from a part of the slots, another one each time: the next one in which anything can
    /// be evicted. What is over goes first, and alone if the policy is to evict nothing.
    pub(in crate::store) fn evict_some(self, bytes: u64, only_large: bool) -> Result<Evicted> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let wanted = bytes.max(InForce(self.0).size_limit() / 64);
        let mut evicted = Evicted::default();
        let count = self.0.slab.allocated(Growing::Slots);
        let may_evict = InForce(self.0).eviction() != Eviction::None;
        if count == 0 {
            return Ok(evicted);
        }
        // Given back at the end, with one wait for the device.
        let garbage = GarbageList::new(self.0);
        let least = if only_large { LARGE_BYTES } else { 1 };
        let patience = Patience::strictly(MOMENT);
        let from = NEXT.fetch_add(WINDOW.into(), Ordering::Relaxed) % u64::from(count);
        for first in (0..count).step_by(WINDOW as usize) {
            let window = first..count.min(first.saturating_add(WINDOW));
            let ids = window.filter_map(|at| {
                let number = ((from + u64::from(at)) % u64::from(count)) as u32;
                self.0.slab.slot_id(number)
            });
            let of_log = ids.filter_map(|id| self.candidate(id));
            let of_size = of_log.filter(|one| one.bytes >= least);
            let (mut over, mut left): (Vec<_>, Vec<_>) =
                of_size.partition(|one| is_over(one.expires_ms));
            // What is over is nobody's: it goes first, whatever the policy.
            while evicted.bytes < wanted && !over.is_empty() {
                let batch = take_oldest(&mut over, BATCH);
                self.evict_batch(batch, wanted, patience, &mut evicted, &garbage)?;
            }
            while may_evict && evicted.values == 0 && !left.is_empty() {
                let batch = take_oldest(&mut left, BATCH);
                self.evict_batch(batch, wanted, patience, &mut evicted, &garbage)?;
            }
            if evicted.values > 0 {
                break;
            }
        }
        Ok(evicted)
    }

    pub(in crate::store) fn evict_batch(
        self,
        batch: Vec<Candidate>,
        wanted: u64,
        patience: Patience,
        evicted: &mut Evicted,
        garbage: &GarbageList<'_>,
    ) -> Result<()> {
        for candidate in batch {
            if evicted.bytes >= wanted {
                break;
            }
            let Some(key) = Slots(self.0).key_of(candidate.found) else {
                continue;
            };
            let stripe = 1 << Index(self.0).stripe_of(Index(self.0).hash(&key));
            if evicted.busy & stripe != 0 {
                continue;
            }
            match self.evict_value(&candidate, patience, garbage)? {
                Taken::Yes => {
                    evicted.values += 1;
                    evicted.bytes += candidate.bytes;
                }
                Taken::NotNow => {}
                Taken::StripeBusy => evicted.busy |= stripe,
            }
        }
        Ok(())
    }

    /// The value that begins in a slot, if there is one.
    pub(in crate::store) fn candidate(self, id: SlotId) -> Option<Candidate> {
        let meta = self.0.slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Tenant::Value)?;
        let found = KeyEntry { id, meta, kind };
        let cells = found.cells(&self.0.slab)?;
        let reading = Slots(self.0).read_value(found, &mut ())?.ok()?;
        let content = reading.content;
        let bytes = content.logged(meta.key_len).map_or(0, |(_, bytes)| bytes);
        let in_slots = u64::from(span_of(&self.0.slab, id)) * SLOT_BYTES;
        let eviction = InForce(self.0).eviction();
        (content.form != Form::Absent).then_some(Candidate {
            worth: Eras(self.0).worth(cells.use_word()?, eviction, in_slots + bytes),
            found,
            version: reading.version,
            expires_ms: content.expires_ms,
            bytes,
        })
    }

    /// Takes a value away, unless it was changed since it was found, or is being changed. What it
    /// had in the log is put to the `garbage`.
    pub(in crate::store) fn evict_value(
        self,
        candidate: &Candidate,
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
            self.0
                .slab
                .header()
                .evictions
                .fetch_add(1, Ordering::Relaxed);
        }
        Ok(evicted)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Cache;
    use crate::os::simulate::{self, Moment};
    use crate::store::values::get::Values;

    /// As many as are asked for, a batch at most, and none that is younger than one that is left.
    #[test]
    fn the_oldest_are_taken_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.set("k", "v").unwrap();
        let hash = Index(&cache.store).hash(b"k");
        let found = Values(&cache.store)
            .find_value(b"k", hash)
            .unwrap()
            .unwrap();
        let of_age = |worth| Candidate {
            worth,
            found,
            version: 0,
            expires_ms: 0,
            bytes: 0,
        };
        for (there, count, taken) in [(9, 3, 3), (9, 8, 8), (9, 9, 9), (9, 99, 9), (0, 1, 0)] {
            // 4, 8, 1, 5, ...: in no order.
            let mut candidates: Vec<_> = (1..=there).map(|n| of_age(n * 4 % 11)).collect();
            let oldest = take_oldest(&mut candidates, count);
            let ages = |of: &[Candidate]| of.iter().map(|one| one.worth).collect::<Vec<_>>();
            let mut all = ages(&candidates);
            all.sort_unstable();
            all.splice(0..0, ages(&oldest));
            assert_eq!(oldest.len(), taken, "{count} of {there}");
            assert!(all.is_sorted() && all.len() as u64 == there, "{all:?}");
        }
    }

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
