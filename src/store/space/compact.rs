//! Compacting the log: what is still needed of a segment moves to the end of the log, and the file
//! is removed.
//!
//! A segment is closed first: nothing new may point into it. Then it is read from one record to the
//! next, a piece at a time, by a writer of a large value that has the lock for it, the compactor:
//! where the key of a record has a value that lies in the segment, that is written again, and its
//! cell changed under the latch as by any writer. When all records were looked at nothing points
//! there any more. What was found and what became garbage must come to all that the segment has:
//! otherwise a record may have been passed over, whose head is damaged, and every slot is looked
//! at, too.
//!
//! A writer (1) takes the latch, (2) looks whether the segment is closed, (3) changes the cell. The
//! compactor (1) closes the segment, (2) waits until no writer holds the latch, (3) reads the cell.
//! There are fences between (1) and (2) of each, so at least one of the two sees the other (G2). A
//! key that is not there after the segment was closed is made by a writer that takes its latch
//! later.
//!
//! What cannot be emptied (there is no room for what is to be moved, or it cannot be read) is
//! opened again, and another one is taken.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::record::closing;
use crate::slab::SEGMENT_CLOSING;
use crate::slab::layout::SEGMENTS;
use crate::store::Store;
use crate::store::journal::decided::Journal;
use crate::store::log::new_segment::NewSegment;
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::device::{Known, OnDevice};
use crate::store::members::process::Process;
use crate::store::members::range::Ranges;
use crate::store::members::recount::SegmentState;
use crate::store::patience::Patience;
use crate::store::space::moving::{Mover, Visit, is_of_the_device};
use crate::store::space::wait::Wait;
use crate::store::space::walk::{Emptying, How, Looked, Mine, Step};
use crate::sync::Ordering;

/// At least so much moves in a step, if there is so much.
const STEP_BYTES: u64 = 16 << 10;
/// No more than that moves in a step.
const STEP_BYTES_MAX: u64 = 16 << 20;
/// How many bytes move for each that is to be set: a segment that is compacted may have no more
/// than a quarter of garbage or so, and three quarters to move.
const PACE: u64 = 4;
/// A segment is worth it from so much garbage on: one byte in so many.
const WORTH: u64 = 8;
/// When so many segments are described, the one with the least in it is compacted, however little
/// of it is garbage.
pub(in crate::store) const CROWDED: usize = SEGMENTS as usize / 4 * 3;
/// How long to wait for the writer of a value: it may be stopped.
pub(in crate::store) const LATCH_PATIENCE: Duration = Duration::from_millis(5);

/// Moving values out of segments that are mostly garbage.
#[derive(Clone, Copy)]
pub(in crate::store) struct Compactor<'s>(pub(in crate::store) &'s Arc<Store>);

impl<'s> Compactor<'s> {
    /// Compacts one step more, for `bytes` that are to be set. `false`: there is nothing to gain,
    /// or another compactor is running.
    ///
    /// Killed after each step: a segment that is closed is compacted first; what was written again
    /// and is not in force is a gap; how far it came is noted after that was looked at.
    pub(in crate::store) fn compact(self, bytes: u64, mine: &Mine<'_>) -> Result<bool> {
        let process = self.0.process()?;
        let Some(_lock) = Ranges(self.0).try_lock_compaction()? else {
            return Ok(false);
        };
        let Some(segment) = self.close_one(process)? else {
            return Ok(false);
        };
        let budget = bytes.saturating_mul(PACE).clamp(STEP_BYTES, STEP_BYTES_MAX);
        let emptying = Emptying {
            store: self.0,
            process,
            segment,
            mine,
            how: How::Moves,
            written: &RefCell::default(),
        };
        self.go_on_emptying(emptying, budget)
    }

    /// Evicts all that is in the segment with the least in it, and removes that: no room is needed
    /// for this. `false`: there is none, or somebody is in the way.
    pub(in crate::store) fn empty_one(self, wait: &Wait, mine: &Mine<'_>) -> Result<bool> {
        let process = self.0.process()?;
        let Some(_lock) = Ranges(self.0).try_lock_compaction()? else {
            return Ok(false);
        };
        let Some(segment) = self.close_smallest(process)? else {
            return Ok(false);
        };
        let emptying = Emptying {
            store: self.0,
            process,
            segment,
            mine,
            how: How::Evicts,
            written: &RefCell::default(),
        };
        let word = &self.0.slab.segment(segment).number;
        let closed = u64::from(segment) | SEGMENT_CLOSING;
        // Opened again it is no more to be emptied.
        while word.load(Ordering::Acquire) == closed {
            if !self.go_on_emptying(emptying, u64::MAX)? || wait.is_endless() {
                return Ok(false);
            }
        }
        Ok(Segments(self.0).segment_of(segment).is_none())
    }

    /// A step. `false`: it gained nothing.
    fn go_on_emptying(self, emptying: Emptying<'_>, budget: u64) -> Result<bool> {
        let Emptying {
            process, segment, ..
        } = emptying;
        let known = OnDevice(self.0).known_if_durable()?;
        let cursor = &self.0.slab.segment(segment).cursor;
        let from = Looked::of(cursor.load(Ordering::Relaxed));
        let mut step = Step::new(budget);
        let mut looked = step.take_from(emptying, from);
        let moved = step.moved;
        // What could not be put in force is looked at again.
        if let Some(again) = Mover(emptying).put_in_force(step.moves, known)? {
            (looked, step.is_done) = (Looked::of(again), false);
        }
        cursor.store(looked.bits(), Ordering::Release);
        if let Some(error) = step.failed {
            return Err(error);
        }
        // Others are not to wait for a writer that is stopped.
        let is_stuck = matches!(step.last, Visit::Busy) && looked == from;
        let is_open_again = is_stuck || matches!(step.last, Visit::Unreadable(_) | Visit::NoRoom);
        if is_open_again && let Some(known) = known {
            // What has moved, now or in an earlier step, may move once more before anybody waits
            // for the device, and would be written over what the device has.
            Syncing(self.0).sync_slab_since(known)?;
        }
        match step.last {
            Visit::Unreadable(number) => {
                self.leave(process, number);
                return Ok(true);
            }
            Visit::NoRoom => {
                // With what has moved less is to be moved the next time.
                self.reopen(segment);
                return Ok(moved > 0);
            }
            Visit::Busy if is_stuck => {
                process.pass_over(segment);
                self.reopen(segment);
                return Ok(false);
            }
            _ => {}
        }
        if !step.is_done {
            return Ok(looked != from);
        }
        match looked {
            Looked::Record { has_gaps, .. } if has_gaps || !self.is_accounted_for(segment)? => {
                cursor.store(Looked::Slot(0).bits(), Ordering::Release);
                Ok(true)
            }
            _ => self.remove_emptied(process, segment, known),
        }
    }

    /// Whether all of a segment is known to be garbage.
    fn is_accounted_for(self, number: u32) -> Result<bool> {
        let all = Segments(self.0).segments()?;
        let state = all.iter().find(|s| s.number == number);
        Ok(state.is_none_or(|s| s.live() == 0))
    }

    /// Removes the closed segment when all was looked at: nothing points there any more.
    fn remove_emptied(self, process: &Process, number: u32, known: Option<Known>) -> Result<bool> {
        // The list of a transaction may lie there. A transaction looks under this lock whether the
        // segment is closed: now it has decided, or does not any more.
        match Ranges(self.0).lock_growth_within(Patience::strictly(LATCH_PATIENCE))? {
            Some(growth) => drop(growth),
            None => return Ok(false),
        }
        Journal(self.0).finish_decided()?;
        if let Some(known) = known {
            // Nothing that the device has points there either.
            Syncing(self.0).sync_values_since(known)?;
        }
        self.0.check_in_place()?;
        match process.log.remove(number) {
            Ok(()) => {
                let segment = self.0.slab.segment(number);
                segment.number.store(0, Ordering::Release);
            }
            Err(e) => {
                let error = Segments(self.0).log_error("remove", &process.log, number)(e);
                match is_of_the_device(&error) {
                    true => self.leave(process, number),
                    false => return Err(error),
                }
            }
        }
        Segments(self.0).let_bound_shrink()?;
        Ok(true)
    }

    /// A segment that the device cannot read, or remove, stays as it is; this process does not try
    /// again.
    fn leave(self, process: &Process, number: u32) {
        process.log.leave(number);
        self.0.count_damaged();
        self.reopen(number);
    }

    fn reopen(self, number: u32) {
        closing::reopen(&self.0.slab.segment(number).number, number.into());
    }

    /// The segment that is being compacted, or one of which nothing is needed, or one that is worth
    /// it, closed.
    fn close_one(self, process: &Process) -> Result<Option<u32>> {
        let all = Segments(self.0).segments()?;
        if let Some(closed) = all.iter().find(|s| s.is_closing && !s.is_begun) {
            closing::go_on();
            return Ok(Some(closed.number));
        }
        // Of one that somebody was beginning, and gave up: there are many numbers above it.
        let last = self.0.slab.header().last_segment.load(Ordering::Acquire);
        let is_given_up =
            |s: &&SegmentState| s.is_begun && last > u64::from(s.number) + CROWDED as u64 / 2;
        let candidates = || all.iter().filter(|s| is_to_be_had(process, s));
        // The last one may not be the tail yet.
        let is_empty = |s: &&SegmentState| s.live() == 0 && u64::from(s.number) != last;
        let empty = candidates().filter(is_empty);
        let useless = all.iter().filter(is_given_up).chain(empty);
        if let Some(number) = useless.clone().find_map(|s| self.close(s)) {
            return Ok(Some(number));
        }
        let room = Segments(self.0).room_for_moving(&all);
        let fits = candidates().filter(|s| s.live() <= room);
        let best = match all.len() >= CROWDED {
            true => fits.min_by_key(|s| s.live()),
            false => {
                let is_worth = |s: &&SegmentState| s.usage().garbage >= s.usage().bytes / WORTH;
                let share = |s: &&SegmentState| s.usage().garbage * 1_000 / s.usage().bytes.max(1);
                fits.filter(is_worth).max_by_key(share)
            }
        };
        Ok(best.and_then(|s| self.close(s)))
    }

    /// The segment with the least in it, closed; if there is but the one that is appended to, that.
    fn close_smallest(self, process: &Process) -> Result<Option<u32>> {
        let all = Segments(self.0).segments()?;
        if !all.iter().any(|s| is_to_be_had(process, s)) {
            NewSegment(self.0).leave_tail();
        }
        let all = Segments(self.0).segments()?;
        let there = all.iter().filter(|s| is_to_be_had(process, s));
        let Some(smallest) = there.min_by_key(|s| s.live()) else {
            return Ok(None);
        };
        if smallest.is_closing {
            closing::go_on();
            return Ok(Some(smallest.number));
        }
        Ok(self.close(smallest))
    }

    /// `None`: it is gone meanwhile.
    fn close(self, state: &SegmentState) -> Option<u32> {
        let segment = self.0.slab.segment(state.number);
        segment.cursor.store(0, Ordering::Relaxed);
        let number = u64::from(state.number);
        closing::close(&segment.number, state.word(), number | SEGMENT_CLOSING)
            .then_some(state.number)
    }
}

/// Whether a segment can be emptied by this process.
fn is_to_be_had(process: &Process, state: &SegmentState) -> bool {
    let is_left = process.log.is_left(state.number) || process.is_passed_over(state.number);
    !state.is_active && !state.is_begun && !is_left
}

#[cfg(all(test, not(loom)))]
mod tests;
