//! Closing a segment of the log while values are set: G2.

use loom::thread;

use super::*;
use crate::record::closing;
use crate::sync::{AtomicU64, Ordering};

const OPEN: u64 = 7;
const CLOSED: u64 = OPEN | 1 << 32;
const GONE: u64 = 0;
/// What a cell may point to besides the segment.
const ELSEWHERE: u64 = 9;

/// A segment and one value. The cell is a word here: the holder of the latch changes it, and gives
/// the latch back.
struct Log {
    segment: AtomicU64,
    latch: Hold,
    cell: AtomicU64,
}

impl Log {
    fn new() -> Arc<Log> {
        Arc::new(Log {
            segment: AtomicU64::new(OPEN),
            latch: Hold::new(),
            cell: AtomicU64::new(ELSEWHERE),
        })
    }

    /// Sets the value to what was written to the segment before. Does nothing if the latch is not
    /// available.
    fn set(&self, me: u16) {
        let Some(mine) = try_take(&self.latch, me) else {
            return;
        };
        if closing::may_lead_there(&self.segment, OPEN) {
            self.cell.store(OPEN, Ordering::Release);
        }
        self.latch.try_give_back(mine);
    }

    /// What a compactor does with a closed segment: moves the value if it is there, then removes
    /// the file.
    fn empty(&self, is_dead: impl Fn(ParticipantId) -> bool) {
        while !closing::is_settled(&self.latch, &is_dead) {
            thread::yield_now();
        }
        if self.cell.load(Ordering::Acquire) == OPEN {
            // Under the latch, but no other thread wants it here.
            self.cell.store(ELSEWHERE, Ordering::Release);
        }
        self.segment.store(GONE, Ordering::Release);
    }

    fn is_sound(&self) {
        let gone = self.segment.load(Ordering::Acquire) == GONE;
        let there = self.cell.load(Ordering::Acquire) == OPEN;
        assert!(!(gone && there), "a value leads into what is gone");
    }
}

/// G2: when a segment is removed no value points there, and none will.
#[test]
fn nothing_leads_into_a_segment_that_is_gone() {
    explore(|| {
        let log = Log::new();
        let setter = {
            let log = Arc::clone(&log);
            thread::spawn(move || log.set(2))
        };
        assert!(closing::close(&log.segment, OPEN, CLOSED));
        log.empty(|_| false);
        setter.join().expect("no panic");
        log.is_sound();
    });
}

fn refute_closing(rule: Rule) {
    refute(
        rule,
        "a value leads into what is gone",
        nothing_leads_into_a_segment_that_is_gone,
    );
}

#[test]
fn control_setter_fenced() {
    refute_closing(Rule::SetterFenced);
}

#[test]
fn control_closing_heeded() {
    refute_closing(Rule::ClosingHeeded);
}

#[test]
fn control_closer_fenced() {
    refute_closing(Rule::CloserFenced);
}

#[test]
fn control_latch_awaited() {
    refute_closing(Rule::LatchAwaited);
}

/// G2: the same when the compactor that closed it died before its fence, and a successor continues.
#[test]
fn a_segment_that_a_dead_one_closed_is_emptied_as_well() {
    explore(|| {
        let log = Log::new();
        let setter = {
            let log = Arc::clone(&log);
            thread::spawn(move || log.set(2))
        };
        let closer = {
            let log = Arc::clone(&log);
            thread::spawn(move || log.segment.store(CLOSED, Ordering::Release))
        };
        if log.segment.load(Ordering::Acquire) == CLOSED {
            closing::go_on();
            log.empty(|_| false);
        }
        closer.join().expect("no panic");
        setter.join().expect("no panic");
        log.is_sound();
    });
}

#[test]
fn control_successor_fenced() {
    refute(
        Rule::SuccessorFenced,
        "a value leads into what is gone",
        a_segment_that_a_dead_one_closed_is_emptied_as_well,
    );
}

/// G2, C1: a writer that dies with the latch keeps no compactor waiting, and changes nothing
/// afterwards.
#[test]
fn the_dead_let_nothing_lead_there() {
    for_each_death(|doom| {
        explore(move || {
            let log = Log::new();
            let beacon = Arc::new(super::world::Beacon::new());
            let setter = {
                let (log, beacon, doom) = (Arc::clone(&log), Arc::clone(&beacon), doom.clone());
                thread::spawn(move || {
                    let _ = doom.of(|| log.set(1));
                    beacon.put_out();
                })
            };
            assert!(closing::close(&log.segment, OPEN, CLOSED));
            log.empty(|other| other == id(1) && beacon.is_dark());
            setter.join().expect("no panic");
            log.is_sound();
        });
    });
}
