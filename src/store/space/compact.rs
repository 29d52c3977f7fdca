//! Compacting the log: what is still needed of a segment moves to the end of the log, and the file
//! is removed.
//!
//! A segment is closed first: nothing new may point into it. Then every slot is looked at once,
//! some thousand at a time, by a writer of a large value that has the lock for it, the compactor; a
//! value that lies in the segment is written again, and its cell changed under the latch as by any
//! writer. When all slots were looked at nothing points there any more. Segments of which nothing
//! is needed are removed together, with one look at each slot.
//!
//! A writer (1) takes the latch, (2) looks whether the segment is closed, (3) changes the cell. The
//! compactor (1) closes the segment, (2) waits until no writer holds the latch, (3) reads the cell.
//! There are fences between (1) and (2) of each, so at least one of the two sees the other (G2).
//!
//! What cannot be emptied (there is no room for what is to be moved, or it cannot be read) is
//! opened again, and another one is taken.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::record::closing;
use crate::slab::layout::SEGMENTS;
use crate::slab::{Growing, SEGMENT_CLOSING};
use crate::store::Store;
use crate::store::journal::decided::Journal;
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::device::{Known, OnDevice};
use crate::store::members::process::Process;
use crate::store::members::range::Ranges;
use crate::store::members::recount::SegmentState;
use crate::store::patience::Patience;
use crate::store::space::latch::Latched;
use crate::store::space::moving::{Move, Mover, Visit, is_of_the_device};
use crate::sync::Ordering;

/// At least so much moves in a step, if there is so much.
const STEP_BYTES: u64 = 1 << 20;
/// No more than that moves in a step.
const STEP_BYTES_MAX: u64 = 16 << 20;
/// How many bytes move for each that is to be set: a segment that is compacted may have no more
/// than a quarter of garbage or so, and three quarters to move.
const PACE: u64 = 4;
/// So many slots are looked at in a step, or a 64th of all.
const STEP_SLOTS: u32 = 16_384;
/// No step begins anything new after that time.
const STEP_TIME: Duration = Duration::from_millis(15);
/// The time is looked at every so many slots.
const SLOTS_A_LOOK: u32 = 256;
/// A segment is worth it from so much garbage on: one byte in so many.
const WORTH: u64 = 8;
/// When so many segments are described, the one with the least in it is compacted, however little
/// of it is garbage.
pub(in crate::store) const CROWDED: usize = SEGMENTS as usize / 4 * 3;
/// How long to wait for the writer of a value: it may be stopped.
pub(in crate::store) const LATCH_PATIENCE: Duration = Duration::from_millis(5);

/// Latches that the compactor has itself: it need not wait for them.
pub(in crate::store) type Mine<'a> = [&'a Latched<'a>];

/// How far a step came.
struct Walk {
    /// The slot to go on with.
    at: u32,
    /// So many bytes were written again.
    moved: u64,
    moves: Vec<Move>,
    /// Why it ended, if there was a reason.
    last: Visit,
    failed: Option<Error>,
}

/// Moving values out of segments that are mostly garbage.
#[derive(Clone, Copy)]
pub(in crate::store) struct Compactor<'s>(pub(in crate::store) &'s Arc<Store>);

impl<'s> Compactor<'s> {
    /// Compacts one step more, for `bytes` that are to be set. `false`: there is nothing to gain,
    /// or another compactor is running.
    ///
    /// Killed after each step: a segment that is closed is compacted first; what was written again
    /// and is not in force is a gap; the slot to continue from is noted after it was looked at.
    pub(in crate::store) fn compact(self, bytes: u64, mine: &Mine<'_>) -> Result<bool> {
        let process = self.0.process()?;
        let Some(_lock) = Ranges(self.0).try_lock_compaction()? else {
            return Ok(false);
        };
        let known = OnDevice(self.0).known_if_durable()?;
        let closed = self.close_segments(process)?;
        if closed.is_empty() {
            return Ok(false);
        }
        let slots = self.0.slab.allocated(Growing::Slots);
        let cursors = closed
            .iter()
            .map(|number| &self.0.slab.segment(*number).cursor);
        let noted = cursors.clone().map(|cursor| cursor.load(Ordering::Relaxed));
        let from = noted.min().unwrap_or(0).min(slots.into()) as u32;
        let most = from.saturating_add(STEP_SLOTS.max(slots / 64)).min(slots);
        let budget = bytes.saturating_mul(PACE).clamp(STEP_BYTES, STEP_BYTES_MAX);
        let Walk {
            at,
            moved,
            moves,
            last,
            failed,
        } = self.walk(process, &closed, mine, from..most, budget);
        // What could not be put in force is looked at again.
        let reached = Mover(self.0)
            .put_in_force(moves, known, mine)?
            .unwrap_or(at)
            .min(at);
        for cursor in cursors {
            cursor.store(reached.into(), Ordering::Release);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let is_open_again = matches!(last, Visit::Unreadable(_) | Visit::NoRoom);
        if is_open_again && let Some(known) = known {
            // What has moved, now or in an earlier step, may move once more before anybody waits
            // for the device, and would be written over what the device has.
            Syncing(self.0).sync_slab_since(known)?;
        }
        match last {
            Visit::Unreadable(number) => {
                self.leave(process, number);
                return Ok(true);
            }
            Visit::NoRoom => {
                // With what has moved less is to be moved the next time.
                closed.iter().for_each(|number| self.reopen(*number));
                return Ok(moved > 0);
            }
            _ => {}
        }
        if reached < slots {
            return Ok(reached > from);
        }
        self.remove_emptied(process, &closed, known)
    }

    /// Looks at slots, and writes again what has to move, until that is enough for one step.
    fn walk(
        self,
        process: &Process,
        closed: &[u32],
        mine: &Mine<'_>,
        slots: Range<u32>,
        budget: u64,
    ) -> Walk {
        let begun = Instant::now();
        let mut walk = Walk {
            at: slots.start,
            moved: 0,
            moves: Vec::new(),
            last: Visit::Clear,
            failed: None,
        };
        while walk.at < slots.end && walk.moved < budget {
            if walk.at.is_multiple_of(SLOTS_A_LOOK) && begun.elapsed() > STEP_TIME {
                break;
            }
            let id = self.0.slab.slot_id(walk.at);
            match id.map_or(Ok(Visit::Clear), |id| {
                Mover(self.0).visit(process, id, closed, mine)
            }) {
                Ok(Visit::Clear) => {}
                Ok(Visit::Written(one)) => {
                    walk.moved += one.bytes;
                    walk.moves.push(one);
                    if begun.elapsed() > STEP_TIME {
                        walk.at += 1;
                        break;
                    }
                }
                Ok(other) => {
                    walk.last = other;
                    break;
                }
                // What was written before is needed, or garbage, whatever comes of the rest.
                Err(error) => {
                    walk.failed = Some(error);
                    break;
                }
            }
            walk.at += 1;
        }
        walk
    }

    /// Removes the closed segments when all slots were looked at: nothing points there any more.
    fn remove_emptied(
        self,
        process: &Process,
        closed: &[u32],
        known: Option<Known>,
    ) -> Result<bool> {
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
        for number in closed {
            match process.log.remove(*number) {
                Ok(()) => {
                    let segment = self.0.slab.segment(*number);
                    segment.number.store(0, Ordering::Release);
                }
                Err(e) => {
                    let error = Segments(self.0).log_error("remove", &process.log, *number)(e);
                    match is_of_the_device(&error) {
                        true => self.leave(process, *number),
                        false => return Err(error),
                    }
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

    /// The segments that are being compacted, or all of which nothing is needed, or one that is
    /// worth it, closed.
    fn close_segments(self, process: &Process) -> Result<Vec<u32>> {
        let all = Segments(self.0).segments()?;
        let is_closed = |s: &&SegmentState| s.is_closing && !s.is_begun;
        let mut closed: Vec<_> = all.iter().filter(is_closed).map(|s| s.number).collect();
        // Of one that somebody was beginning, and gave up: there are many numbers above it.
        let last = self.0.slab.header().last_segment.load(Ordering::Acquire);
        let is_given_up =
            |s: &&SegmentState| s.is_begun && last > u64::from(s.number) + CROWDED as u64 / 2;
        closed.extend(all.iter().filter(is_given_up).filter_map(|s| self.close(s)));
        if !closed.is_empty() {
            closing::go_on();
            return Ok(closed);
        }
        let candidates = || {
            let is_candidate =
                |s: &&SegmentState| !s.is_active && !s.is_begun && !process.log.is_left(s.number);
            all.iter().filter(is_candidate)
        };
        // The last one may not be the tail yet.
        let is_empty = |s: &&SegmentState| s.live() == 0 && u64::from(s.number) != last;
        let closed: Vec<_> = candidates()
            .filter(is_empty)
            .filter_map(|s| self.close(s))
            .collect();
        if !closed.is_empty() {
            return Ok(closed);
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
        Ok(best.and_then(|s| self.close(s)).into_iter().collect())
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
