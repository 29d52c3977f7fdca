//! Room for values in the log: compacting, and evicting some by the store's policy; and the same by
//! hand (`cull`, `configure`, `expire`).

use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::log::{LOG, Location, RECORD_ALIGN, SEGMENT_HEADER_BYTES, record_bytes};
use crate::record::Force;
use crate::slab::{KEY_BYTES_MAX, TAG_BYTES_MAX};
use crate::store::Store;
use crate::store::index::remove::Removing;
use crate::store::journal::decided::Journal;
use crate::store::log::new_segment::NewSegment;
use crate::store::log::segments::{Room, Segments, slack_of};
use crate::store::log::sync::Syncing;
use crate::store::members::config::InForce;
use crate::store::members::device::OnDevice;
use crate::store::members::recount::SegmentState;
use crate::store::patience::Patience;
use crate::store::reclaim::evict::Evictor;
use crate::store::reclaim::free_slots::Reclaimer;
use crate::store::settings::Limits;
use crate::store::slots::by_slot::Slots;
use crate::store::space::compact::{CROWDED, Compactor, LATCH_PATIENCE};
use crate::store::space::full_device::FullDevice;
use crate::store::space::recount::{Counted, Recounting};
use crate::store::space::set::New;
use crate::store::space::wait::Wait;
use crate::store::space::walk::Mine;

/// How often others may be quicker to take the room that there was.
const ATTEMPTS: u32 = 20;
/// How much a store may take on the device, and what goes when that is too little.
#[derive(Clone, Copy)]
pub(crate) struct Space<'s>(pub(crate) &'s Arc<Store>);

impl<'s> Space<'s> {
    /// How much of the log may be in use, so that compacting always gains something.
    fn live_limit(self) -> u64 {
        InForce(self.0).size_limit() / 4 * 3
    }

    /// No record is longer: that of a value as long as the limit. One that takes more than the live
    /// limit has the log to itself, for it is never moved.
    fn longest_record(self) -> u64 {
        let around = record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, 0) + RECORD_ALIGN;
        InForce(self.0).chosen_size_limit().saturating_add(around)
    }

    /// What a log of so many segments may take.
    fn limit_of(self, segments: usize) -> u64 {
        let bound = Segments(self.0).bound();
        let within = bound.saturating_sub(slack_of(segments + 1));
        InForce(self.0).size_limit().min(within)
    }

    /// Makes so many bytes more fit into the log: evicts values by the store's policy, and compacts
    /// in proportion to what is asked for. Says how much the log may take with them.
    pub(in crate::store) fn make_room(
        self,
        bytes: u64,
        wait: &Wait,
        mine: &Mine<'_>,
    ) -> Result<Room> {
        if bytes > self.longest_record() {
            return Err(Segments(self.0).over_limit());
        }
        // They may begin a segment.
        let bytes = bytes + SEGMENT_HEADER_BYTES;
        loop {
            FullDevice(self.0).let_limit_rise(false)?;
            let (usage, segments) = Segments(self.0).usage_and_segments()?;
            if Segments(self.0).is_shrinking() && usage.bytes <= InForce(self.0).size_limit() {
                // Values may have gone, and nothing was compacted for that.
                Segments(self.0).let_bound_shrink()?;
            }
            let limit = self.limit_of(segments);
            let live = usage.bytes - usage.garbage;
            // Besides what is longer there may be the heads of segments, and nothing else.
            let alone = bytes + SEGMENT_HEADER_BYTES * segments as u64;
            let lacks = live + bytes > self.live_limit().max(alone);
            if lacks
                && Recounting(self.0).recount_seldom(bytes)? != Counted::More
                && self.evict_from_log(bytes, false, wait)? == 0
                && Recounting(self.0).recount_while(|| !wait.is_over())? != Counted::More
            {
                return Err(Segments(self.0).over_limit());
            }
            let is_full = usage.bytes + bytes > limit;
            let is_near = usage.bytes + bytes > limit - limit / 16;
            let is_half_garbage = usage.garbage > usage.bytes / 5 * 2;
            let is_pressed = is_near || is_half_garbage || segments >= CROWDED;
            let begun = Instant::now();
            let compacted = is_pressed && Compactor(self.0).compact(bytes, mine)?;
            if !compacted {
                // For a process that is in the way, and no longer than anybody waits for one.
                wait.count(begun.elapsed().min(LATCH_PATIENCE));
            }
            if !is_full {
                return Ok(Room::ToSet(limit));
            }
            // Garbage where others are appended is in its way, too.
            let ended = !compacted && alone > self.live_limit() && NewSegment(self.0).end_tail()?;
            if wait.is_over() {
                // While we make progress ourselves, that it takes longer is no reason to refuse a
                // value.
                let gets_on = (compacted || ended) && !wait.is_endless();
                match self.last_room(bytes, gets_on, wait)? {
                    Some(room) => return Ok(room),
                    None if gets_on => {}
                    None => return Err(Segments(self.0).over_limit()),
                }
            }
            if !compacted && !lacks {
                wait.pause();
            }
        }
    }

    /// The room there is when the log is full and there is no more time to compact it. What is
    /// moved needs a segment's room; a value that is to be set gets a quarter of that, so that
    /// there is always something that can be compacted: if a quarter of the log is garbage, so is a
    /// quarter of some segment.
    fn last_room(self, bytes: u64, gets_on: bool, wait: &Wait) -> Result<Option<Room>> {
        let (usage, segments) = Segments(self.0).usage_and_segments()?;
        let most = InForce(self.0)
            .size_limit()
            .saturating_add(Segments(self.0).segment_bytes() / 4);
        let most = most.min(
            Segments(self.0)
                .bound()
                .saturating_sub(slack_of(segments + 1)),
        );
        if usage.bytes + bytes <= most {
            return Ok(Some(Room::ToSet(most)));
        }
        if Segments(self.0).is_shrinking() {
            return Ok(Some(Room::ToMove));
        }
        // What is large is gone at once.
        while !gets_on && self.evict_from_log(bytes, true, wait)? > 0 {
            if Segments(self.0).usage()?.bytes + bytes <= most {
                return Ok(Some(Room::ToSet(most)));
            }
        }
        Ok(None)
    }

    /// Writes a value to the log, and waits for the device if it is to survive a power failure.
    pub(crate) fn append_for(self, key: &[u8], new: &New<'_>, mine: &Mine<'_>) -> Result<Location> {
        let bytes = record_bytes(key.len(), new.tag.len(), new.value.len());
        // Before anything is evicted for it.
        OnDevice(self.0).known_if_durable()?;
        let (wait, mut was_full) = (Wait::begin(), false);
        for _ in 0..ATTEMPTS {
            let append = |room| Segments(self.0).append_durably(key, new.tag, new.value, room);
            match self.make_room(bytes, &wait, mine).and_then(append) {
                Ok(Some(place)) => return Ok(place),
                // Others were quicker.
                Ok(None) => {}
                // It may have been for a moment. A quota shows only in this.
                Err(Error::NoSpace { .. }) if !was_full && FullDevice(self.0).has(bytes) => {
                    was_full = true;
                }
                Err(full @ Error::NoSpace { .. }) => {
                    if !FullDevice(self.0).make_room(bytes, &wait, mine)? {
                        return Err(full);
                    }
                }
                Err(Error::OverLimit { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        if InForce(self.0).is_device_short() {
            return Err(Error::NoSpace {
                action: "write to",
                path: self.0.dir().join(LOG),
            });
        }
        Err(Segments(self.0).over_limit())
    }

    /// Evicts values that lie in the log, for that many bytes at least if there are so many; on
    /// request only large ones, with room that is free at once. Returns how many. Values in a
    /// stripe that somebody has, stopped perhaps, stay unless there are no others: then that is
    /// waited for, as long as anybody waits for room.
    fn evict_from_log(self, bytes: u64, only_large: bool, wait: &Wait) -> Result<usize> {
        loop {
            let evicted = Evictor(self.0).evict_some(bytes, only_large)?;
            if evicted.values > 0 || evicted.busy == 0 || wait.is_endless() {
                return Ok(evicted.values);
            }
            wait.pause();
        }
    }

    /// Removes what is over, evicts values until the rest fits, and compacts as far as it gains
    /// something. Returns how many values were removed.
    pub(crate) fn cull(self) -> Result<usize> {
        FullDevice(self.0).let_limit_rise(true)?;
        let expired = self.expire()?;
        Recounting(self.0).recount_while(|| true)?;
        let evicted = self.evict_what_is_too_much()?;
        while Compactor(self.0).compact(u64::MAX, &[])? {}
        Ok(expired + evicted)
    }

    /// Changes settings for all processes that have the store open. After any error what was chosen
    /// is in force.
    pub(crate) fn configure(self, changes: &Limits) -> Result<()> {
        changes.change(&self.0.slab);
        if changes.size_limit.is_some() {
            self.make_fit()?;
        }
        match InForce(self.0).is_durable() {
            // No writer has waited for the names of segments until now.
            true => Syncing(self.0).sync_all(),
            false => Ok(()),
        }
        .map_err(|error| OnDevice(self.0).not_durable(error))
    }

    /// After the limit was lowered: evicts values, and compacts, until the log takes no more than
    /// that. If values may not be evicted, or somebody is in the way, the next writers do the rest.
    fn make_fit(self) -> Result<()> {
        self.evict_what_is_too_much()?;
        while Segments(self.0).usage()?.bytes > InForce(self.0).size_limit()
            && Compactor(self.0).compact(u64::MAX, &[])?
        {}
        Ok(())
    }

    fn evict_what_is_too_much(self) -> Result<usize> {
        let (mut gone, wait) = (0, Wait::begin());
        loop {
            let usage = Segments(self.0).usage()?;
            let too_much = (usage.bytes - usage.garbage).saturating_sub(self.live_limit());
            if too_much == 0 || self.has_but_one()? {
                return Ok(gone);
            }
            match self.evict_from_log(too_much, false, &wait)? {
                0 => return Ok(gone),
                evicted => gone += evicted,
            }
        }
    }

    /// Whether all that is live is a value that has the log to itself, and still may: its segment
    /// is longer than others ever are.
    fn has_but_one(self) -> Result<bool> {
        let segments = Segments(self.0).segments()?;
        let live = || segments.iter().map(SegmentState::live);
        let longest = live().max().unwrap_or(0);
        let is_alone = longest == live().sum::<u64>() && longest > Segments(self.0).segment_bytes();
        Ok(is_alone && longest <= self.longest_record())
    }

    /// Takes everything away, whatever it is, also what is held. How many keys that are listed.
    pub(crate) fn clear(self) -> Result<usize> {
        Journal(self.0).finish_decided()?;
        let removed = Removing(self.0).remove_all(|_, found| Slots(self.0).is_listed(found))?;
        // What is left of deleted values, which nobody would miss, takes slots.
        Removing(self.0).remove_all(|_, found| Slots(self.0).is_vacant(found))?;
        Reclaimer(self.0).remove_turns(Force::Anybody, Patience::Forever)?;
        Ok(removed)
    }

    /// Removes values that are over, and what is left of deleted ones. How many were over.
    pub(crate) fn expire(self) -> Result<usize> {
        // Otherwise nobody knows of any value whether it is over.
        Journal(self.0).finish_decided()?;
        let expired = Removing(self.0).remove_all(|_, found| Slots(self.0).is_expired(found))?;
        Removing(self.0).remove_all(|_, found| Slots(self.0).is_vacant(found))?;
        Ok(expired)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::members::range::Ranges;
    use crate::store::members::recount::Usage;
    use crate::store::space::wait::PATIENCE;
    use crate::{Cache, Error, Eviction, Options};

    const LIMIT: u64 = 4 << 20;

    /// A store with two megabytes of garbage, which nobody compacts as long as there is the lock.
    fn full_of_garbage(options: Options) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
        let lock = Ranges(&cache.store).try_lock_compaction().unwrap();
        for round in 0..3_u8 {
            (0..60).for_each(|key| cache.set(format!("{key}"), [round; 15_000]).unwrap());
        }
        drop(lock);
        (dir, cache)
    }

    /// Also with the header of its segment.
    #[test]
    fn a_value_that_fits_but_for_a_header_is_set() {
        let (_dir, cache) = full_of_garbage(Cache::options().size_limit(LIMIT));
        let _lock = Ranges(&cache.store).try_lock_compaction().unwrap().unwrap();
        let Usage { bytes, .. } = Segments(&cache.store).usage().unwrap();
        let len = LIMIT - bytes - record_bytes(4, 0, 0);
        assert_eq!(bytes + record_bytes(4, 0, len as usize), LIMIT);
        cache.set("rest", vec![7; len as usize]).unwrap();
        assert!(Segments(&cache.store).usage().unwrap().bytes > LIMIT);
    }

    /// Whatever the rounding of records makes of it.
    #[test]
    fn a_value_as_long_as_any_limit_may_have_the_longest_key_and_tag() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for limit in LIMIT..LIMIT + 16 {
            cache.configure(&Limits::new().size_limit(limit)).unwrap();
            let bytes = record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, limit as usize);
            let room = Space(&cache.store).make_room(bytes, &Wait::begin(), &[]);
            assert!(room.is_ok(), "{limit}: {room:?}");
        }
    }

    /// All that is left to be done is to begin another segment, so that garbage where others are
    /// appended can be removed.
    #[test]
    fn a_value_as_long_as_the_limit_is_set_also_when_making_room_took_long() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::options().size_limit(LIMIT).open(dir.path()).unwrap();
        for key in 0..60 {
            cache.set(format!("{key}"), [7; 15_000]).unwrap();
        }
        let wait = Wait::begin();
        wait.count(2 * PATIENCE);
        let bytes = record_bytes(4, 0, LIMIT as usize);
        let room = Space(&cache.store).make_room(bytes, &wait, &[]);
        assert!(room.is_ok(), "{room:?}");
    }

    /// What was large was removed without anything being compacted; then nobody can compact.
    #[test]
    fn a_log_that_fits_a_lower_limit_does_not_grow_above_it() {
        let (_dir, cache) = full_of_garbage(Cache::options().size_limit(16 * LIMIT));
        let lower = Limits::new().size_limit(LIMIT);
        let _lock = Ranges(&cache.store).try_lock_compaction().unwrap().unwrap();
        cache.configure(&lower).unwrap();
        let mut refused = 0;
        for round in 0..10_u8 {
            for key in 0..60 {
                match cache.set(format!("{key}"), [round; 15_000]) {
                    Err(Error::OverLimit { .. }) => refused += 1,
                    set => set.unwrap(),
                }
                let usage = Segments(&cache.store).usage().unwrap();
                assert!(
                    usage.bytes <= Segments(&cache.store).bound(),
                    "{round} {usage:?}"
                );
            }
            if refused > 3 {
                return;
            }
        }
        panic!("it never was full");
    }

    /// For a compactor, and no longer than that: a setter is to be answered.
    #[test]
    fn a_setter_waits_for_a_while_and_not_for_ever() {
        let wait = Wait::begin();
        assert!(!wait.is_over());
        wait.count(PATIENCE / 5);
        assert!(!wait.is_over());
        wait.count(PATIENCE);
        assert!(wait.is_over());
    }
}
