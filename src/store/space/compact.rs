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

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::log::walk::{Next, Records};
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
/// The time is looked at every so many slots, or records.
const A_LOOK: u32 = 256;
/// A segment is worth it from so much garbage on: one byte in so many.
const WORTH: u64 = 8;
/// When so many segments are described, the one with the least in it is compacted, however little
/// of it is garbage.
pub(in crate::store) const CROWDED: usize = SEGMENTS as usize / 4 * 3;
/// How long to wait for the writer of a value: it may be stopped.
pub(in crate::store) const LATCH_PATIENCE: Duration = Duration::from_millis(5);

/// Latches that the compactor has itself: it need not wait for them.
pub(in crate::store) type Mine<'a> = [&'a Latched<'a>];

/// How far a segment was looked at that is being emptied, as its description has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// Its records up to that byte; and whether there was something among them that is none.
    Record { at: u64, has_gaps: bool },
    /// All records, and the slots up to that one.
    Slot(u32),
}

const SLOTS: u64 = 1 << 63;
const GAPS: u64 = 1 << 62;

impl Looked {
    fn of(bits: u64) -> Looked {
        match bits & SLOTS {
            0 => Looked::Record {
                at: bits & (GAPS - 1),
                has_gaps: bits & GAPS != 0,
            },
            _ => Looked::Slot(u32::try_from(bits & !SLOTS).unwrap_or(u32::MAX)),
        }
    }

    fn bits(self) -> u64 {
        match self {
            Looked::Record { at, has_gaps } => at | if has_gaps { GAPS } else { 0 },
            Looked::Slot(at) => SLOTS | u64::from(at),
        }
    }
}

/// A step, as far as it came.
struct Walk {
    begun: Instant,
    looks: u32,
    /// How much it may write again.
    budget: u64,
    /// So many bytes were written again.
    moved: u64,
    moves: Vec<Move>,
    /// Why it ended, if there was a reason.
    last: Visit,
    failed: Option<Error>,
    /// Nothing is left to be looked at.
    is_done: bool,
}

impl Walk {
    fn new(budget: u64) -> Walk {
        Walk {
            begun: Instant::now(),
            looks: 0,
            budget,
            moved: 0,
            moves: Vec::new(),
            last: Visit::Clear,
            failed: None,
            is_done: false,
        }
    }

    /// Whether this was enough for one step.
    fn is_over(&mut self) -> bool {
        self.looks += 1;
        let looks_up = self.looks.is_multiple_of(A_LOOK);
        self.moved >= self.budget || looks_up && self.begun.elapsed() > STEP_TIME
    }

    /// Takes what came of a visit. `false`: the step ends before what was visited.
    fn take(&mut self, visit: Result<Visit>) -> bool {
        match visit {
            Ok(Visit::Clear) => return true,
            Ok(Visit::Written(one)) => {
                self.moved += one.bytes;
                self.moves.push(one);
                // Each takes as long as many looks.
                self.looks = self.looks.next_multiple_of(A_LOOK) - 1;
                return true;
            }
            Ok(other) => self.last = other,
            // What was written before is needed, or garbage, whatever comes of the rest.
            Err(error) => self.failed = Some(error),
        }
        false
    }
}

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
        let known = OnDevice(self.0).known_if_durable()?;
        let Some(number) = self.close_one(process)? else {
            return Ok(false);
        };
        let cursor = &self.0.slab.segment(number).cursor;
        let from = Looked::of(cursor.load(Ordering::Relaxed));
        let budget = bytes.saturating_mul(PACE).clamp(STEP_BYTES, STEP_BYTES_MAX);
        let mut walk = Walk::new(budget);
        let mut reached = match from {
            Looked::Record { at, has_gaps } => {
                let records = Records::from(&process.log, number, at);
                self.walk_records(process, number, mine, records, has_gaps, &mut walk)
            }
            Looked::Slot(at) => self.walk_slots(process, number, mine, at, &mut walk),
        };
        let (moved, is_done) = (walk.moved, walk.is_done);
        // What could not be put in force is looked at again.
        if let Some(again) = Mover(self.0).put_in_force(walk.moves, known, mine)? {
            (reached, walk.is_done) = (Looked::of(again), false);
        }
        cursor.store(reached.bits(), Ordering::Release);
        if let Some(error) = walk.failed {
            return Err(error);
        }
        let is_open_again = matches!(walk.last, Visit::Unreadable(_) | Visit::NoRoom);
        if is_open_again && let Some(known) = known {
            // What has moved, now or in an earlier step, may move once more before anybody waits
            // for the device, and would be written over what the device has.
            Syncing(self.0).sync_slab_since(known)?;
        }
        match walk.last {
            Visit::Unreadable(number) => {
                self.leave(process, number);
                return Ok(true);
            }
            Visit::NoRoom => {
                // With what has moved less is to be moved the next time.
                self.reopen(number);
                return Ok(moved > 0);
            }
            _ => {}
        }
        if !walk.is_done {
            return Ok(is_done || reached != from);
        }
        match reached {
            Looked::Record { has_gaps, .. } if has_gaps || !self.is_accounted_for(number)? => {
                cursor.store(Looked::Slot(0).bits(), Ordering::Release);
                Ok(true)
            }
            _ => self.remove_emptied(process, number, known),
        }
    }

    /// Looks at the records of a segment, and writes again what has to move, until that is enough
    /// for one step. Returns how far it came.
    fn walk_records(
        self,
        process: &Process,
        number: u32,
        mine: &Mine<'_>,
        mut records: Records<'_>,
        had_gaps: bool,
        walk: &mut Walk,
    ) -> Looked {
        loop {
            let reached = Looked::Record {
                at: records.at(),
                has_gaps: had_gaps || records.has_gaps(),
            };
            if walk.is_over() {
                return reached;
            }
            let key = match records.next() {
                Ok(Next::Record(key)) => key,
                Ok(Next::Gap) => continue,
                Ok(Next::End) => {
                    walk.is_done = true;
                    return Looked::Record {
                        at: records.at(),
                        has_gaps: had_gaps || records.has_gaps(),
                    };
                }
                Err(e) => {
                    let error = Segments(self.0).log_error("read", &process.log, number)(e);
                    match is_of_the_device(&error) {
                        true => walk.last = Visit::Unreadable(number),
                        false => walk.failed = Some(error),
                    }
                    return reached;
                }
            };
            // The list of a transaction has no key.
            let visit = match key.is_empty() {
                true => Ok(Visit::Clear),
                false => Mover(self.0).visit_key(process, &key, reached.bits(), number, mine),
            };
            if !walk.take(visit) {
                return reached;
            }
        }
    }

    /// Looks at slots, as [`walk_records`](Compactor::walk_records) at records.
    fn walk_slots(
        self,
        process: &Process,
        number: u32,
        mine: &Mine<'_>,
        from: u32,
        walk: &mut Walk,
    ) -> Looked {
        let slots = self.0.slab.allocated(Growing::Slots);
        let from = from.min(slots);
        let end = from.saturating_add(STEP_SLOTS.max(slots / 64)).min(slots);
        let mut at = from;
        while at < end && !walk.is_over() {
            let reached = Looked::Slot(at).bits();
            let id = self.0.slab.slot_id(at);
            let visit = id.map_or(Ok(Visit::Clear), |id| {
                Mover(self.0).visit(process, id, reached, number, mine)
            });
            if !walk.take(visit) {
                break;
            }
            at += 1;
        }
        walk.is_done = at >= slots;
        Looked::Slot(at)
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
        let candidates = || {
            let is_candidate =
                |s: &&SegmentState| !s.is_active && !s.is_begun && !process.log.is_left(s.number);
            all.iter().filter(is_candidate)
        };
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

    /// `None`: it is gone meanwhile.
    fn close(self, state: &SegmentState) -> Option<u32> {
        let segment = self.0.slab.segment(state.number);
        segment.cursor.store(0, Ordering::Relaxed);
        let number = u64::from(state.number);
        closing::close(&segment.number, state.word(), number | SEGMENT_CLOSING)
            .then_some(state.number)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
