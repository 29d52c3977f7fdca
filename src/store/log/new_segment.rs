//! Beginning a segment of the log, without waiting for anybody: a process that is stopped over it
//! has a number and a place in the table of its own, and nothing else.
//!
//! The number is taken first, by an exchange of the highest one that ever was, then the place in
//! the table, described as closed and as being begun; then the file is made, and the segment
//! opened. The compactor takes the place of a dead maker when there are many numbers above its own.

use crate::error::{Error, Result};
use crate::log::{Created, Location, Log, SEGMENT_HEADER_BYTES};
use crate::slab::layout::SEGMENTS;
use crate::slab::{SEGMENT_BEGUN, SEGMENT_CLOSING};
use crate::store::Store;
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::config::InForce;
use crate::store::members::recount::SegmentState;
use crate::sync::Ordering;

/// Where the log ends, and goes on in a segment that is made.
#[derive(Clone, Copy)]
pub(in crate::store) struct NewSegment<'s>(pub(in crate::store) &'s Store);

impl<'s> NewSegment<'s> {
    /// Begins a segment: for one value of its own, or to append to. Waits for nobody: of several
    /// makers of one to append to, one is the first, and the others remove theirs again.
    ///
    /// Killed before it is open: it is described, and others take its place in the table when the
    /// table gets full. Killed later: a segment that nothing points to, which is compacted away.
    pub(in crate::store) fn begin_segment(self, log: &Log, alone: Option<u64>) -> Result<Location> {
        // As many as there may be are another's in vain, one after another.
        for _ in 0..SEGMENTS {
            let before = Segments(self.0).tail();
            // Another store in its place would lose a segment to this one.
            self.0.check_in_place()?;
            let (number, begun) = self.claim_number()?;
            let word = &self.0.slab.segment(number).number;
            let made = self.make_segment(log, number, alone);
            let give_up = |seen| {
                // Nobody else has its number: a file that nothing points to would be left.
                let _ = log.remove(number);
                let _ = word.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed);
            };
            if !matches!(made, Ok(Created::Yes)) {
                // Nothing there is ours. What is there instead stays, to be looked into.
                let _ = word.compare_exchange(begun, 0, Ordering::AcqRel, Ordering::Relaxed);
                if let Err(Error::NoSpace { .. }) = made {
                    self.give_number_back(number);
                }
                made?;
                continue;
            }
            let open = number.into();
            // Otherwise it took so long that the compactor has taken the place for a dead
            // process's.
            if word
                .compare_exchange(begun, open, Ordering::SeqCst, Ordering::Relaxed)
                .is_err()
            {
                give_up(begun);
                continue;
            }
            let first = Location::new(number, SEGMENT_HEADER_BYTES);
            if alone.is_some() {
                return Ok(first);
            }
            if let Some(theirs) = self.become_tail(before, first) {
                give_up(open);
                return Ok(theirs);
            }
            return Ok(first);
        }
        Err(Segments(self.0).over_limit())
    }

    /// Begins another segment to append to, if there is anything in the one that is: then that can
    /// be compacted. `false`: there is nothing.
    pub(in crate::store) fn end_tail(self) -> Result<bool> {
        let is_begun = |s: &SegmentState| s.is_active && s.bytes > SEGMENT_HEADER_BYTES;
        let ends = Segments(self.0).segments()?.iter().any(is_begun);
        if ends {
            self.begin_segment(&self.0.process()?.log, None)?;
        }
        Ok(ends)
    }

    /// Lets values be appended to no segment: the next one that is written begins one. For a
    /// process that is about to empty the last one, and cannot begin another.
    pub(in crate::store) fn leave_tail(self) {
        let word = &self.0.slab.header().tail;
        while let Some(tail) = Segments(self.0).tail() {
            self.note_end(tail);
            let none = 0;
            let left =
                word.compare_exchange(tail.bits(), none, Ordering::AcqRel, Ordering::Relaxed);
            if left.is_ok() {
                return;
            }
        }
    }

    /// Gives a number back of which there is no file, and no place in the table: unless another was
    /// given since, it is the next one again. A full device would use up all numbers.
    fn give_number_back(self, number: u32) {
        let last = &self.0.slab.header().last_segment;
        let (given, before) = (u64::from(number), u64::from(number) - 1);
        let _ = last.compare_exchange(given, before, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Makes the file of a segment. Its place in the table may be another's by now, if that took
    /// long: nothing of that one is changed. The count of what it has lost may have another number
    /// in it, and begins again at the next count; the compactor that closes the segment sets the
    /// cursor.
    fn make_segment(self, log: &Log, number: u32, alone: Option<u64>) -> Result<Created> {
        let created = log
            .create(number)
            .map_err(Segments(self.0).log_error("create", log, number))?;
        if created == Created::Yes
            && InForce(self.0).is_durable()
            && let Err(e) = Syncing(self.0).sync_segment_name(number)
        {
            // Nobody else has its number: a file that nothing points to would be left.
            let _ = log.remove(number);
            return Err(e);
        }
        // Not before there is a file: otherwise the number is given again.
        if created == Created::Yes
            && let Some(bytes) = alone
        {
            self.note_end(Location::new(number, SEGMENT_HEADER_BYTES + bytes));
        }
        Ok(created)
    }

    /// Lets values be appended from `first` on, unless somebody else has begun a segment since
    /// `before`: then where they are appended now.
    fn become_tail(self, before: Option<Location>, first: Location) -> Option<Location> {
        let word = &self.0.slab.header().tail;
        let mut seen = word.load(Ordering::Acquire);
        loop {
            let now = Location::from_bits(seen);
            let segment = |tail: Option<Location>| tail.map(|tail| tail.segment());
            if segment(now) != segment(before)
                && let Some(theirs) = now.filter(|now| Segments(self.0).may_lead_to(*now))
            {
                return Some(theirs);
            }
            now.inspect(|old| self.note_end(*old));
            match word.compare_exchange(seen, first.bits(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return None,
                Err(other) => seen = other,
            }
        }
    }

    /// Notes the end of a segment before it is not the tail any more: it is never shorter than what
    /// was handed out. A process that was stopped here comes too late, and knows less; or the
    /// segment is gone, and the end of another one, with a higher number, is the greater place.
    fn note_end(self, end: Location) {
        if let Some(segment) = Segments(self.0).segment_of(end.segment()) {
            segment.end.fetch_max(end.bits(), Ordering::AcqRel);
        }
    }

    /// A number above all that there are, with a place in the table that was free, and is marked
    /// now.
    fn claim_number(self) -> Result<(u32, u64)> {
        let last = &self.0.slab.header().last_segment;
        let mut highest = last.load(Ordering::Acquire);
        for _ in 0..2 * SEGMENTS {
            let next = highest.saturating_add(1);
            let number = u32::try_from(next).map_err(|_| Segments(self.0).over_limit())?;
            let word = &self.0.slab.segment(number).number;
            if word.load(Ordering::Acquire) != 0 {
                highest = next;
                continue;
            }
            let seen = last.load(Ordering::Acquire);
            if seen >= next {
                highest = seen;
                continue;
            }
            // The number first: it is nobody else's from then on, whatever becomes of the place.
            if last
                .compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                highest = last.load(Ordering::Acquire);
                continue;
            }
            if let Some(begun) = self.claim_place(number) {
                return Ok((number, begun));
            }
            highest = last.load(Ordering::Acquire);
        }
        Err(Segments(self.0).over_limit())
    }

    /// Marks the place in the table of a number that is nobody else's. `None`: somebody else has
    /// the place, or had it with a higher number.
    fn claim_place(self, number: u32) -> Option<u64> {
        let word = &self.0.slab.segment(number).number;
        let begun = u64::from(number) | SEGMENT_CLOSING | SEGMENT_BEGUN;
        word.compare_exchange(0, begun, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        // Pairs with the release of all processes that had the place before. Numbers there only
        // grow, so that of two ends the greater one is the later one's.
        let last = self.0.slab.header().last_segment.load(Ordering::Acquire);
        if last < u64::from(number) + u64::from(SEGMENTS) {
            return Some(begun);
        }
        let _ = word.compare_exchange(begun, 0, Ordering::AcqRel, Ordering::Relaxed);
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::log::Location;
    use crate::slab::layout::SEGMENTS;
    use crate::store::log::new_segment::NewSegment;
    use crate::store::log::segments::Segments;
    use crate::sync::Ordering;
    use crate::{Cache, Error, Eviction};

    /// A process read how long this segment was, to begin another one, and was stopped; now it
    /// continues.
    #[test]
    fn a_segment_does_not_go_with_its_first_value_because_somebody_was_late() {
        let dir = tempfile::tempdir().unwrap();
        let options = Cache::options().size_limit(8 << 20);
        let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
        cache.set("0", [0; 200_000]).unwrap();
        let late = Segments(&cache.store).tail().unwrap();
        for key in 1..10_u8 {
            cache.set(format!("{key}"), [key; 200_000]).unwrap();
        }
        assert!(!Segments(&cache.store).is_tail_in(late.segment()));
        let usage = Segments(&cache.store).usage_and_segments().unwrap();
        NewSegment(&cache.store).note_end(late);
        assert_eq!(Segments(&cache.store).usage_and_segments().unwrap(), usage);
        assert!(cache.delete("0").unwrap());
        for key in 1..10_u8 {
            let got = cache.get(format!("{key}")).unwrap();
            assert!(got == Some(vec![key; 200_000]), "{key}");
        }
    }

    /// It never had the room of its value, and nobody could tell that it never will.
    #[test]
    fn who_is_killed_while_a_segment_is_begun_leaves_no_room_taken() {
        let dir = tempfile::tempdir().unwrap();
        let options = Cache::options().size_limit(4 << 20);
        let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
        let store = &cache.store;
        let log = &store.process().unwrap().log;
        let (number, _) = NewSegment(store).claim_number().unwrap();
        NewSegment(store)
            .make_segment(log, number, Some(3 << 20))
            .unwrap();
        cache.cull().unwrap();
        for key in 0..8_u8 {
            cache.set(format!("{key}"), vec![key; 300_000]).unwrap();
        }
    }

    /// The maker of a segment was stopped, and its place in the table is that of the one 512
    /// higher, with values, some of them garbage; now the maker continues.
    #[test]
    fn who_is_late_to_begin_a_segment_leaves_the_next_one_in_its_place_alone() {
        for alone in [None, Some(3 << 20)] {
            let dir = tempfile::tempdir().unwrap();
            let options = Cache::options().size_limit(16 << 20);
            let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
            let store = &cache.store;
            let log = &store.process().unwrap().log;
            let (late, begun) = NewSegment(store).claim_number().unwrap();
            let before = Location::new(late, 600_000);
            let word = &store.slab().segment(late).number;
            word.compare_exchange(begun, 0, Ordering::AcqRel, Ordering::Relaxed)
                .unwrap();
            let last = &store.slab().header().last_segment;
            last.fetch_add(u64::from(SEGMENTS) - 1, Ordering::Relaxed);
            for key in 0..10_u8 {
                cache.set(format!("{key}"), [key; 100_000]).unwrap();
            }
            assert!(cache.delete("3").unwrap());
            assert!(Segments(store).is_tail_in(late + SEGMENTS));
            for key in 10..20_u8 {
                cache.set(format!("{key}"), [key; 100_000]).unwrap();
            }
            assert!(!Segments(store).is_tail_in(late + SEGMENTS));
            let all = Segments(store).segments().unwrap();
            NewSegment(store).make_segment(log, late, alone).unwrap();
            NewSegment(store).note_end(before);
            assert_eq!(Segments(store).segments().unwrap(), all);
            let punched: u64 = all.iter().map(|s| s.punched).sum();
            assert!(punched > 90_000, "{all:?}");
            log.remove(late).unwrap();
            assert!(cache.check().unwrap().is_sound());
        }
    }

    /// A maker had taken a number and was stopped before it had the place for it; then there were
    /// 512 more.
    #[test]
    fn the_numbers_at_a_place_in_the_table_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let store = &cache.store;
        let last = &store.slab().header().last_segment;
        last.fetch_add(1, Ordering::Relaxed);
        let late = 1;
        last.fetch_add(u64::from(SEGMENTS), Ordering::Relaxed);
        assert_eq!(NewSegment(store).claim_place(late), None);
        assert_eq!(Segments(store).segments().unwrap(), []);
        let (number, begun) = NewSegment(store).claim_number().unwrap();
        assert_eq!(number, late + SEGMENTS + 1);
        let word = &store.slab().segment(number).number;
        assert_eq!(word.load(Ordering::Relaxed), begun);
    }

    #[test]
    fn numbers_that_damage_has_used_up_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let last = &cache.store.slab().header().last_segment;
        for damage in [u64::MAX, u64::MAX - 1, u64::from(u32::MAX)] {
            last.store(damage, Ordering::Relaxed);
            let set = cache.set("key", vec![7; 300_000]);
            assert!(matches!(set, Err(Error::OverLimit { .. })), "{damage:#x}");
        }
    }
}
