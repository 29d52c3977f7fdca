//! One step through a segment that is being emptied: its records, or the slots where these are not
//! enough.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::log::walk::{Next, Records};
use crate::slab::{Growing, SEGMENT_WRITING};
use crate::store::Store;
use crate::store::log::segments::Segments;
use crate::store::members::process::Process;
use crate::store::space::latch::Latched;
use crate::store::space::moving::{Move, Mover, Visit, is_of_the_device};

/// So many slots are looked at in a step, or a 64th of all.
const STEP_SLOTS: u32 = 16_384;
/// No step begins anything new after that time.
const STEP_TIME: Duration = Duration::from_millis(15);
/// The time is looked at every so many slots, or records.
const A_LOOK: u32 = 256;

/// Latches that the compactor has itself: it need not wait for them.
pub(in crate::store) type Mine<'a> = [&'a Latched<'a>];

/// A segment that is being emptied.
#[derive(Clone, Copy)]
pub(super) struct Emptying<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) process: &'a Process,
    /// Its number. It is closed.
    pub(super) segment: u32,
    pub(super) mine: &'a Mine<'a>,
    pub(super) how: How,
    /// The slots and versions of what was written again and is not in force yet: a key may have
    /// several records.
    pub(super) written: &'a RefCell<HashSet<(u32, u64)>>,
}

/// What becomes of what is in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It is written again elsewhere.
    Moves,
    /// It goes: there is no room elsewhere.
    Evicts,
}

/// How far a segment was looked at that is being emptied, as its description has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// Its records up to that byte; and whether there was something among them that is none.
    Record { at: u64, has_gaps: bool },
    /// All records, and the slots up to that one.
    Slot(u32),
}

const SLOTS: u64 = 1 << 63;
const GAPS: u64 = 1 << 62;

impl Looked {
    pub(super) fn of(bits: u64) -> Looked {
        match bits & SLOTS {
            // The note of a writer that is late.
            0 if bits & SEGMENT_WRITING != 0 => Looked::Record {
                at: 0,
                has_gaps: false,
            },
            0 => Looked::Record {
                at: bits & (GAPS - 1),
                has_gaps: bits & GAPS != 0,
            },
            _ => Looked::Slot(u32::try_from(bits & !SLOTS).unwrap_or(u32::MAX)),
        }
    }

    pub(super) fn bits(self) -> u64 {
        match self {
            Looked::Record { at, has_gaps } => at | if has_gaps { GAPS } else { 0 },
            Looked::Slot(at) => SLOTS | u64::from(at),
        }
    }
}

/// A step, as far as it came.
pub(super) struct Step {
    begun: Instant,
    looks: u32,
    /// How much it may write again.
    budget: u64,
    /// So many bytes were written again.
    pub(super) moved: u64,
    pub(super) moves: Vec<Move>,
    /// Why it ended, if there was a reason.
    pub(super) last: Visit,
    pub(super) failed: Option<Error>,
    /// Nothing is left to be looked at.
    pub(super) is_done: bool,
}

impl Step {
    pub(super) fn new(budget: u64) -> Step {
        Step {
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

    /// Looks at what comes next in the segment, until that is enough. Returns how far it came.
    pub(super) fn take_from(&mut self, emptying: Emptying<'_>, from: Looked) -> Looked {
        match from {
            Looked::Record { at, has_gaps } => {
                let records = Records::from(&emptying.process.log, emptying.segment, at);
                self.take_records(emptying, records, has_gaps)
            }
            Looked::Slot(at) => self.take_slots(emptying, at),
        }
    }

    fn take_records(
        &mut self,
        emptying: Emptying<'_>,
        mut records: Records<'_>,
        had_gaps: bool,
    ) -> Looked {
        let Emptying {
            process, segment, ..
        } = emptying;
        let looked = |records: &Records<'_>| Looked::Record {
            at: records.at(),
            has_gaps: had_gaps || records.has_gaps(),
        };
        loop {
            let before = looked(&records);
            if self.is_over() {
                return before;
            }
            let key = match records.next() {
                Ok(Next::Record(key)) => key,
                Ok(Next::Gap) => continue,
                Ok(Next::End) => {
                    self.is_done = true;
                    return looked(&records);
                }
                Err(e) => {
                    let error =
                        Segments(emptying.store).log_error("read", &process.log, segment)(e);
                    match is_of_the_device(&error) {
                        true => self.last = Visit::Unreadable(segment),
                        false => self.failed = Some(error),
                    }
                    return before;
                }
            };
            // The list of a transaction has no key.
            let visit = match key.is_empty() {
                true => Ok(Visit::Clear),
                false => Mover(emptying).visit_key(&key, before.bits()),
            };
            if !self.goes_on_after(visit) {
                return before;
            }
        }
    }

    fn take_slots(&mut self, emptying: Emptying<'_>, from: u32) -> Looked {
        let slab = &emptying.store.slab;
        let slots = slab.allocated(Growing::Slots);
        if let Err(error) = slab.reach() {
            self.failed = Some(error);
            return Looked::Slot(from);
        }
        let from = from.min(slots);
        let end = from.saturating_add(STEP_SLOTS.max(slots / 64)).min(slots);
        let mut at = from;
        while at < end && !self.is_over() {
            let visit = slab.slot_id(at).map_or(Ok(Visit::Clear), |id| {
                Mover(emptying).visit(id, Looked::Slot(at).bits())
            });
            if !self.goes_on_after(visit) {
                break;
            }
            at += 1;
        }
        self.is_done = at >= slots;
        Looked::Slot(at)
    }

    /// Whether this was enough for one step.
    fn is_over(&mut self) -> bool {
        self.looks += 1;
        let looks_up = self.looks.is_multiple_of(A_LOOK);
        self.moved >= self.budget || looks_up && self.begun.elapsed() > STEP_TIME
    }

    /// Takes what came of a visit. `false`: the step ends before what was visited.
    fn goes_on_after(&mut self, visit: Result<Visit>) -> bool {
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
