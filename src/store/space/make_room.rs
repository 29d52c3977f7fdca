//! Room for values in the log: compacting, and evicting some by the store's policy; and the same by
//! hand (`cull`, `configure`, `expire`).

use std::sync::Arc;
use std::time::Instant;

use crate::Eviction;
use crate::error::Result;
use crate::log::{RECORD_ALIGN, SEGMENT_HEADER_BYTES, record_bytes};
use crate::record::Force;
use crate::slab::layout::SEGMENTS;
use crate::slab::{KEY_BYTES_MAX, TAG_BYTES_MAX};
use crate::store::Store;
use crate::store::index::remove::Removing;
use crate::store::journal::decided::Journal;
use crate::store::log::new_segment::NewSegment;
use crate::store::log::segments::{Room, Segments, slack_of};
use crate::store::log::sync::Syncing;
use crate::store::log::writing::is_being_written;
use crate::store::members::config::InForce;
use crate::store::members::device::OnDevice;
use crate::store::members::recount::SegmentState;
use crate::store::patience::Patience;
use crate::store::reclaim::evict::{Evictor, Pick};
use crate::store::reclaim::free_slots::Reclaimer;
use crate::store::settings::Limits;
use crate::store::slots::by_slot::Slots;
use crate::store::space::compact::{CROWDED, Compactor, LATCH_PATIENCE};
use crate::store::space::full_device::FullDevice;
use crate::store::space::precedence::{Precedence, wanted_by_others};
use crate::store::space::recount::{Counted, Recounting};
use crate::store::space::wait::Wait;
use crate::store::space::walk::Mine;
use crate::sync::Ordering;

/// How much a store may take on the device, and what goes when that is too little.
#[derive(Clone, Copy)]
pub(crate) struct Space<'s>(pub(crate) &'s Arc<Store>);

impl<'s> Space<'s> {
    /// How much of the log may be in use, so that compacting always gains something.
    fn live_limit(self) -> u64 {
        InForce(self.0).log_limit() / 4 * 3
    }

    /// No record is longer: that of a value as long as the limit. One that takes more than the live
    /// limit has the log to itself, for it is never moved.
    fn longest_record(self) -> u64 {
        let around = record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, 0) + RECORD_ALIGN;
        InForce(self.0).chosen_size_limit().saturating_add(around)
    }

    /// What a log of so many segments may take.
    pub(super) fn limit_of(self, segments: usize) -> u64 {
        let bound = Segments(self.0).bound();
        let within = bound.saturating_sub(slack_of(segments + 1));
        InForce(self.0).log_limit().min(within)
    }

    /// Makes so many bytes more fit into the log: evicts values by the store's policy, and compacts
    /// in proportion to what is asked for. Says how much the log may take with them.
    pub(in crate::store) fn make_room(
        self,
        bytes: u64,
        wait: &Wait,
        mine: &Mine<'_>,
    ) -> Result<Room> {
        self.make_room_as(bytes, None, wait, mine)
    }

    /// As `make_room`, for a writer that has precedence, or leaves room for one that has.
    pub(super) fn make_room_as(
        self,
        bytes: u64,
        ours: Option<&Precedence<'_>>,
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
            if Segments(self.0).is_shrinking() && usage.bytes <= InForce(self.0).log_limit() {
                // Values may have gone, and nothing was compacted for that.
                Segments(self.0).let_bound_shrink()?;
            }
            let wanted = wanted_by_others(self.0, ours, wait)?;
            let limit = self.limit_of(segments).saturating_sub(wanted);
            let live = usage.bytes - usage.garbage;
            // Besides what is longer there may be the heads of segments, and nothing else.
            let alone = bytes + SEGMENT_HEADER_BYTES * segments as u64;
            let Some(lacks) = self.let_go(bytes, live, (alone, wanted), wait)? else {
                continue;
            };
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
                    // Nor while others write, who may be about to give back what is in our way.
                    None if self.others_get_on(wait)? => wait.pause(),
                    None => return Err(Segments(self.0).over_limit()),
                }
            }
            if !compacted && !lacks {
                wait.pause();
            }
        }
    }

    /// Evicts values where so many bytes more than the `live` ones are too much: `alone` is what
    /// may be there at any rate, and so much is `wanted` by others. Says whether any had to go;
    /// `None`: nothing can just now, and others get on.
    fn let_go(
        self,
        bytes: u64,
        live: u64,
        (alone, wanted): (u64, u64),
        wait: &Wait,
    ) -> Result<Option<bool>> {
        let lacks = live + bytes > self.live_limit().max(alone);
        if lacks
            && Recounting(self.0).recount_seldom(bytes)? != Counted::More
            && self.evict_from_log(bytes, false, wait)? == 0
            && Recounting(self.0).recount_while(|| !wait.is_over())? != Counted::More
        {
            // Unless others have let something go meanwhile, or will: what is only being written
            // cannot be evicted.
            let usage = Segments(self.0).usage()?;
            if usage.bytes - usage.garbage < live && !wait.is_endless() {
                return Ok(None);
            }
            if !self.others_get_on(wait)? {
                return Err(Segments(self.0).over_limit());
            }
            wait.pause();
            return Ok(None);
        }
        if !lacks && live + bytes + wanted > self.live_limit() {
            self.evict_from_log(bytes, false, wait)?;
        }
        Ok(Some(lacks))
    }

    /// What changes when anybody gets on with making room.
    fn progress(self) -> u64 {
        let slab = &self.0.slab;
        let words = |number| {
            let segment = slab.segment(number);
            let cursor = segment.cursor.load(Ordering::Relaxed);
            cursor.wrapping_add(segment.number.load(Ordering::Relaxed))
        };
        let evictions = slab.header().evictions.load(Ordering::Relaxed);
        (0..SEGMENTS).map(words).fold(evictions, u64::wrapping_add)
    }

    /// Whether it is worth waiting for what others do: something may be evicted, and they have got
    /// on, or are writing what cannot be evicted yet.
    fn others_get_on(self, wait: &Wait) -> Result<bool> {
        if InForce(self.0).eviction() == Eviction::None {
            return Ok(false);
        }
        let usage = Segments(self.0).usage()?;
        let changes = usage.bytes.wrapping_add(usage.garbage << 32);
        let is_worth_it = wait.is_worth_it(self.progress().wrapping_add(changes));
        Ok(is_worth_it || self.is_anything_written()? && !wait.is_endless())
    }

    /// Whether somebody alive is writing a large value.
    fn is_anything_written(self) -> Result<bool> {
        let process = self.0.process()?;
        let segments = Segments(self.0).segments()?;
        let numbers = segments.iter().map(|segment| segment.number);
        Ok(numbers
            .into_iter()
            .any(|number| is_being_written(self.0, process, number)))
    }

    /// The room there is when the log is full and there is no more time to compact it. What is
    /// moved needs a segment's room; a value that is to be set gets a quarter of that, so that
    /// there is always something that can be compacted: if a quarter of the log is garbage, so is a
    /// quarter of some segment.
    fn last_room(self, bytes: u64, gets_on: bool, wait: &Wait) -> Result<Option<Room>> {
        let (usage, segments) = Segments(self.0).usage_and_segments()?;
        let most = InForce(self.0)
            .log_limit()
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

    /// Evicts values that lie in the log, for that many bytes at least if there are so many; on
    /// request only large ones, with room that is free at once. Returns how many. Values in a
    /// stripe that somebody has, stopped perhaps, stay unless there are no others: then that is
    /// waited for, as long as anybody waits for room.
    fn evict_from_log(self, bytes: u64, only_large: bool, wait: &Wait) -> Result<usize> {
        loop {
            let pick = match only_large {
                true => Pick::Large,
                false if InForce(self.0).is_crowded_by_slots(bytes) => Pick::All,
                false => Pick::Logged,
            };
            let evicted = Evictor(self.0).evict_some(bytes, pick)?;
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
        while Segments(self.0).usage()?.bytes > InForce(self.0).log_limit()
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
        // What they had in the log, too: also what others are appended to.
        NewSegment(self.0).leave_tail();
        Recounting(self.0).recount_while(|| true)?;
        while Compactor(self.0).compact(u64::MAX, &[])? {}
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
mod tests;
