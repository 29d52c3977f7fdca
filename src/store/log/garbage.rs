//! Garbage in the log: counting it, and giving its room back at once.
//!
//! A record is garbage when no cell points to it and none ever will: the cell that did points
//! elsewhere by now, or its key is gone, or no cell ever pointed to it. The process that made it
//! garbage counts it, after that and never before. The blocks of a large one are given back to the
//! file system at once, without those of its head: nothing has to be moved for them. Where the file
//! system cannot do that, they stay until the segment is compacted, as those of small ones do.
//!
//! Killed before the room is given back, or before it is counted: the count is too low by a record.
//! Stopped in between, for however long: no place is given twice, and no segment's number, so the
//! room is nobody else's then; the file may be gone. The count has the number of its segment in it,
//! and is not changed if that is another by then.
//!
//! A power failure must not bring a cell back that points to what was given back, if values are to
//! survive one: the slab is synced before.

use std::cell::RefCell;

use crate::log::{Location, PAGE, SEGMENT_HEADER_BYTES, interior};
use crate::slab::Lost;
use crate::slab::value_cells::Content;
use crate::store::Store;
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::config::InForce;
use crate::store::members::device::OnDevice;
use crate::sync::Ordering;

/// A record that is garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Garbage {
    pub(in crate::store) place: Location,
    pub(in crate::store) bytes: u64,
}

impl Garbage {
    /// What a value has in the log, if it has anything there.
    pub(in crate::store) fn of(content: &Content, key_len: usize) -> Option<Garbage> {
        let (place, bytes) = content.logged(key_len)?;
        Some(Garbage { place, bytes })
    }

    fn is_large(&self) -> bool {
        interior(self.place, self.bytes).is_some()
    }
}

/// Counts what lies in the log and belongs to no value, and punches holes where it is.
#[derive(Clone, Copy)]
pub(in crate::store) struct Collector<'s>(pub(in crate::store) &'s Store);

impl<'s> Collector<'s> {
    /// Counts a record as garbage, and leaves it where it is.
    pub(in crate::store) fn count(self, garbage: Garbage) {
        self.count_with(garbage, 0);
    }

    /// Gives back the room of garbage: nothing points to it, also after a power failure if values
    /// are to survive one.
    #[cold]
    pub(in crate::store) fn punch(self, garbage: Garbage) {
        let Ok(process) = self.0.process() else {
            return self.count(garbage);
        };
        if OnDevice(self.0).is_unsynced() {
            // The device may have what points to it; and a process that writes everything once more
            // would fill the hole.
            return self.count(garbage);
        }
        if !self.remove_with(garbage) {
            let punched = process.log.punch(garbage.place, garbage.bytes);
            self.count_with(garbage, punched);
        }
        let number = garbage.place.segment();
        if Segments(self.0).segment_of(number).is_none() {
            // The writer was stopped until the file was gone: what was written takes room while the
            // file is open.
            process.log.close(|other| other != number);
        }
    }

    /// Gives back what became garbage just now, once the device knows of that.
    pub(in crate::store) fn punch_synced(self, all: &[Garbage]) {
        let must_wait = InForce(self.0).is_durable() && all.iter().any(Garbage::is_large);
        let sync = || Syncing(self.0).sync_slab_since(OnDevice(self.0).known()?);
        // The compactor of its segment waits for the device again.
        let may_go = !must_wait || sync().is_ok();
        for garbage in all {
            match may_go {
                true => self.punch(*garbage),
                false => self.count(*garbage),
            }
        }
    }

    /// Removes the segment in which there was nothing else, and never will be. `false`: it is none,
    /// or it could not be removed.
    ///
    /// Killed in between: the segment is known, and its file is empty or gone.
    fn remove_with(self, garbage: Garbage) -> bool {
        let number = garbage.place.segment();
        let Some(segment) = Segments(self.0).segment_of(number) else {
            return false;
        };
        let end = Location::new(number, SEGMENT_HEADER_BYTES + garbage.bytes);
        // The tail before the end: the end stays as it is when nothing is appended any more.
        let is_alone = garbage.place.offset() == SEGMENT_HEADER_BYTES
            && !Segments(self.0).is_tail_in(number)
            && segment.end.load(Ordering::Acquire) == end.bits();
        // Another store in the place of ours would lose a segment.
        if !is_alone || !garbage.is_large() || self.0.check_in_place().is_err() {
            return false;
        }
        let Ok(process) = self.0.process() else {
            return false;
        };
        if process.log.remove(number).is_err() {
            return false;
        }
        // Otherwise the compactor is about to do the same.
        let (open, none) = (u64::from(number), 0);
        let word = &segment.number;
        let ended = word.compare_exchange(open, none, Ordering::AcqRel, Ordering::Relaxed);
        if ended.is_err() {
            self.count_with(garbage, garbage.bytes);
        }
        true
    }

    /// Counts room that was handed out and never written to. Of its first and its last page there
    /// may be what others have there.
    pub(in crate::store) fn count_unused(self, garbage: Garbage) {
        if !self.remove_with(garbage) {
            let from = garbage.place.offset().next_multiple_of(PAGE);
            let to = (garbage.place.offset() + garbage.bytes) / PAGE * PAGE;
            self.count_with(garbage, to.saturating_sub(from));
        }
    }

    /// Counts garbage after it was given back: too low a count costs room, too high a one would
    /// have others count on room that is not there.
    fn count_with(self, garbage: Garbage, punched: u64) {
        let number = garbage.place.segment();
        let lost = &self.0.slab.segment(number).lost;
        let more = |bits| self.lost_of(number, bits)?.and(garbage.bytes, punched);
        // A segment that is gone, or another in its place, has nothing to do with it.
        let _ = lost.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more);
    }

    /// What a segment has lost. Another one's word stands there when a process was stopped while it
    /// began that one, or by damage: then the count begins again. `None`: the segment is gone.
    pub(in crate::store) fn lost_of(self, number: u32, bits: u64) -> Option<Lost> {
        let anew = || {
            Segments(self.0)
                .segment_of(number)
                .map(|_| Lost::none(number))
        };
        Lost::of(number, bits).or_else(anew)
    }
}

/// What keys had that were taken away under a lock, to be given back without it.
pub(in crate::store) struct GarbageList<'a> {
    store: &'a Store,
    all: RefCell<Vec<Garbage>>,
}

impl<'a> GarbageList<'a> {
    pub(in crate::store) fn new(store: &'a Store) -> GarbageList<'a> {
        GarbageList {
            store,
            all: RefCell::default(),
        }
    }

    pub(in crate::store) fn add(&self, garbage: Option<Garbage>) {
        self.all.borrow_mut().extend(garbage);
    }

    /// Moves all to another list, to wait for the device once for many of them.
    pub(in crate::store) fn hand_to(&self, other: &GarbageList<'_>) {
        other.all.borrow_mut().append(&mut self.all.borrow_mut());
    }
}

impl Drop for GarbageList<'_> {
    fn drop(&mut self) {
        let all = self.all.get_mut();
        if !all.is_empty() {
            Collector(self.store).punch_synced(all);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::log::record_bytes;
    use crate::{Cache, Eviction};

    fn open() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let options = Cache::options().size_limit(8 << 20);
        let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
        (dir, cache)
    }

    /// The count is that of a segment which was begun at the same place, and given up.
    #[test]
    fn what_is_garbage_is_counted_although_the_count_was_another_segments() {
        let (_dir, cache) = open();
        for key in 0..40_u8 {
            cache.set(format!("{key}"), [key; 30_000]).unwrap();
        }
        let store = &cache.store;
        let others = Lost::none(1 + 512).and(64, 0).unwrap();
        store.slab.segment(1).lost.store(others, Ordering::Relaxed);
        for key in 0..10_u8 {
            assert!(cache.delete(format!("{key}")).unwrap());
        }
        assert!(Segments(store).usage().unwrap().garbage >= 300_000);
        store.slab.segment(1).lost.store(others, Ordering::Relaxed);
        cache.cull().unwrap();
        let usage = Segments(store).usage().unwrap();
        assert!(usage.bytes < 31 * 31_000, "{usage:?}");
        // A process that comes late with a record of a segment that is gone changes nothing.
        let place = Location::new(1 + 1024, SEGMENT_HEADER_BYTES);
        Collector(store).count(Garbage { place, bytes: 160 });
        assert_eq!(Segments(store).usage().unwrap(), usage);
    }

    /// A writer with room in the segment was stopped, and writes after it was compacted away.
    #[test]
    fn what_is_written_too_late_takes_no_room() {
        let (_dir, cache) = open();
        let store = &cache.store;
        let log = &store.process().unwrap().log;
        cache.set("k", [1; 30_000]).unwrap();
        let bytes = record_bytes(3, 0, 60_000);
        let place = Segments(store).reserve(log, bytes).unwrap();
        for key in 0..30_u8 {
            cache.set(format!("{key}"), [key; 60_000]).unwrap();
        }
        assert!(cache.delete("k").unwrap());
        for key in 0..30_u8 {
            assert!(cache.delete(format!("{key}")).unwrap());
        }
        let file = log.path(place.segment());
        let is_open = || {
            let open = std::fs::read_dir("/proc/self/fd").unwrap();
            let files = open.filter_map(|one| std::fs::read_link(one.unwrap().path()).ok());
            files.into_iter().any(|one| {
                let name = one.to_string_lossy();
                name.starts_with(&*file.to_string_lossy()) && name.ends_with(" (deleted)")
            })
        };
        // By another process, which has no file of ours.
        let other = crate::fuzzing::open_apart(cache.path(), &Cache::options()).unwrap();
        assert_eq!(other.cull().unwrap(), 0);
        assert!(Segments(store).segment_of(place.segment()).is_none());
        assert!(is_open());
        // Whether the file still has a name is asked once in some milliseconds.
        let written = log.write(place, b"key", &[], &[7; 60_000]);
        assert!(written.is_ok() || !is_open());
        Collector(store).punch(Garbage { place, bytes });
        assert!(!is_open());
    }

    /// What others have in its first and its last page stays on the device.
    #[test]
    fn of_room_that_was_not_used_whole_pages_are_given_back() {
        let (_dir, cache) = open();
        for _ in 0..40 {
            cache.set("k", [1; 1_000]).unwrap();
            let place = Segments(&cache.store)
                .reserve(&cache.store.process().unwrap().log, 4_096)
                .unwrap();
            Collector(&cache.store).count_unused(Garbage {
                place,
                bytes: 4_096,
            });
        }
        let (len, there) = cache
            .store
            .process()
            .unwrap()
            .log
            .size_of(1)
            .unwrap()
            .unwrap();
        let usage = Segments(&cache.store).usage().unwrap();
        assert!(there.min(len) <= usage.bytes, "{there} of {len}, {usage:?}");
    }
}
