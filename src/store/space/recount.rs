//! Counting again how much of each segment is needed. A writer that is killed between writing a
//! record and pointing a cell to it, or between that and counting the old record as garbage, leaves
//! bytes that nobody needs and that are counted as needed: one by one they would fill the log for
//! good.
//!
//! Slots are looked at some thousand at a time, by writers that want room, and each process
//! continues where it was. What is being written when a count begins is taken for garbage, too.
//! That does no harm: the count only says which segment is worth compacting, and a record to which
//! a writer is about to point a cell is not lost by that (G2).

use std::collections::HashMap;

use crate::error::Result;
use crate::slab::value_cells::Content;
use crate::slab::{Growing, Tenant};
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::Collector;
use crate::store::log::segments::Segments;
use crate::store::log::writing::is_being_written;
use crate::store::members::config::InForce;
use crate::store::members::recount::SegmentState;
use crate::store::{Recount, Store};
use crate::sync::{AtomicU64, Ordering};

/// How many slots are looked at in a step: some tenths of a millisecond.
const STEP: u32 = 2_048;

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Counted {
    /// There are more slots to be looked at.
    Partly,
    /// All was known already; or another thread of this process is counting.
    AsKnown,
    /// More is garbage than was known.
    More,
}

/// Counting again, a piece at a time, what is garbage in each segment.
#[derive(Clone, Copy)]
pub(in crate::store) struct Recounting<'s>(pub(in crate::store) &'s Store);

impl<'s> Recounting<'s> {
    /// A step, if a count was begun, or if it is time to begin one: before so many bytes are
    /// evicted, when with them a log is emptied once more.
    pub(in crate::store) fn recount_seldom(self, bytes: u64) -> Result<Counted> {
        // All stores of this process: more of them begin more often.
        static EVICTED: AtomicU64 = AtomicU64::new(0);
        let recount = &self.0.process()?.recount;
        let is_begun = recount.try_lock().is_ok_and(|count| count.is_some());
        let before = EVICTED.fetch_add(bytes, Ordering::Relaxed);
        let limit = InForce(self.0).log_limit();
        if is_begun || before == 0 || before / limit != before.wrapping_add(bytes) / limit {
            return self.recount_some();
        }
        Ok(Counted::AsKnown)
    }

    /// Looks at all slots, from the beginning or where somebody was, as long as it is to `go_on`.
    pub(in crate::store) fn recount_while(self, go_on: impl Fn() -> bool) -> Result<Counted> {
        loop {
            match self.recount_some()? {
                Counted::Partly if go_on() => {}
                counted => return Ok(counted),
            }
        }
    }

    /// A step.
    fn recount_some(self) -> Result<Counted> {
        let Ok(mut recount) = self.0.process()?.recount.try_lock() else {
            return Ok(Counted::AsKnown);
        };
        Journal(self.0).finish_decided()?;
        self.0.slab.reach()?;
        let slots = self.0.slab.allocated(Growing::Slots);
        let count = match &mut *recount {
            Some(count) => count,
            none => none.insert(Recount {
                segments: self.written()?,
                needed: HashMap::new(),
                at: 0,
            }),
        };
        let end = count.at.saturating_add(STEP).min(slots);
        for at in count.at..end {
            self.add_needed(at, &mut count.needed);
        }
        count.at = end;
        if end < slots {
            return Ok(Counted::Partly);
        }
        let Some(count) = recount.take() else {
            return Ok(Counted::AsKnown);
        };
        Ok(self.note(&count))
    }

    /// All segments but those into which a value is only being written: whatever becomes of it, no
    /// cell points there yet.
    fn written(self) -> Result<Vec<SegmentState>> {
        let process = self.0.process()?;
        let mut all = Segments(self.0).segments()?;
        all.retain(|segment| !is_being_written(self.0, process, segment.number));
        Ok(all)
    }

    /// What is in force in a slot, and what is prepared to follow it.
    fn add_needed(self, at: u32, needed: &mut HashMap<u32, u64>) {
        let Some(id) = self.0.slab.slot_id(at) else {
            return;
        };
        let meta = self.0.slab.slot(id).meta();
        let Some(meta) = meta.filter(|meta| meta.kind == Some(Tenant::Value)) else {
            return;
        };
        let kind = Tenant::Value;
        let Some(cells) = KeyEntry { id, meta, kind }.cells(&self.0.slab) else {
            return;
        };
        let now = cells.glance().map(|reading| reading.content);
        // What is prepared says so by its seal; of most values it lies in the slots.
        let both: [Option<Content>; 2] = [now, cells.idle_in_log()];
        for content in both.into_iter().flatten() {
            if let Some((place, bytes)) = content.logged(meta.key_len) {
                *needed.entry(place.segment()).or_default() += bytes;
            }
        }
    }

    /// Counts as garbage what no cell points to.
    fn note(self, count: &Recount) -> Counted {
        let mut counted = Counted::AsKnown;
        // To the active one is appended, and it is not compacted.
        let all = count
            .segments
            .iter()
            .filter(|s| !s.is_active && !s.is_begun);
        for state in all {
            let needed = count.needed.get(&state.number).copied().unwrap_or(0);
            let garbage = (state.live() + state.garbage).saturating_sub(needed);
            let lost = &self.0.slab.segment(state.number).lost;
            let more = |bits| {
                let known = Collector(self.0).lost_of(state.number, bits)?;
                let more = garbage
                    .checked_sub(known.garbage())
                    .filter(|more| *more > 0)?;
                known.and(more, 0)
            };
            let noted = lost.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more);
            if noted.is_ok() {
                counted = Counted::More;
            }
        }
        counted
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::fuzzing::{Reached, die_setting, open_apart};
    use crate::{Cache, Eviction, SetOptions};

    const LARGE: usize = 300_000;
    const SMALL: usize = 30_000;

    /// Of each dead process's value nothing points to the record, or to the one before.
    fn what_the_dead_have_written_does_not_fill_the_log_for_good(len: usize, deaths: usize) {
        let dir = tempfile::tempdir().unwrap();
        let options = Cache::options()
            .size_limit(4 << 20)
            .eviction(Eviction::None);
        for number in 0..deaths {
            let cache = open_apart(dir.path(), &options).unwrap();
            let reached = [Reached::Latched, Reached::Done][number % 2];
            let value = vec![number as u8; len];
            die_setting(&cache, b"key", &value, &SetOptions::new(), reached).unwrap();
        }
        let last = vec![(deaths - 1) as u8; len];
        let cache = options.open(dir.path()).unwrap();
        assert_eq!(cache.get("key").unwrap(), Some(last.clone()));
        cache.set("another", vec![7; len]).unwrap();
        assert_eq!(cache.cull().unwrap(), 0);
        let stats = cache.stats().unwrap();
        // Both values, and what is left of the segment that is appended to.
        let needed = 2 * (len as u64 + 100) + (1 << 20);
        assert!(stats.bytes_live + stats.bytes_garbage < needed, "{stats:?}");
        assert_eq!(cache.get("key").unwrap(), Some(last));
    }

    #[test]
    fn large_values_of_the_dead_do_not_fill_the_log() {
        what_the_dead_have_written_does_not_fill_the_log_for_good(LARGE, 40);
    }

    #[test]
    fn small_values_of_the_dead_do_not_fill_the_log() {
        what_the_dead_have_written_does_not_fill_the_log_for_good(SMALL, 200);
    }
}
