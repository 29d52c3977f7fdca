//! Closing a segment of the log, against a writer that is about to point a value there.
//!
//! A writer (1) takes the latch, (2) looks whether the segment is closed, (3) changes the cell. A
//! compactor (1) closes the segment, (2) waits until no writer holds the latch, (3) reads the cell.
//! Between steps 1 and 2 of each is a fence, so at least one of the two sees the other (G2): when
//! all cells were looked at, none points there, and none ever will.

use crate::record::controls::{self, Rule, left_out};
use crate::record::{Hold, ParticipantId};
use crate::sync::{AtomicU64, Ordering};

/// Whether a value may be put into the segment that is described by `segment`: if it is `open` it
/// is there, and stays. Asked with the latch, each time.
pub(crate) fn may_lead_there(segment: &AtomicU64, open: u64) -> bool {
    // Pairs with the fence in `close`: the compactor sees the latch, or this writer the mark.
    controls::fence(Rule::SetterFenced, Ordering::SeqCst);
    segment.load(Ordering::Acquire) == open || left_out(Rule::ClosingHeeded)
}

/// Closes a segment that is `open`: afterwards cells may be looked at. `false`: it is not `open`
/// any more.
pub(crate) fn close(segment: &AtomicU64, open: u64, closed: u64) -> bool {
    let is_closed = segment.compare_exchange(open, closed, Ordering::AcqRel, Ordering::Relaxed);
    controls::fence(Rule::CloserFenced, Ordering::SeqCst);
    is_closed.is_ok()
}

/// Opens a segment again: nothing is to be moved out of it after all. Only for a process that may
/// close it.
pub(crate) fn reopen(segment: &AtomicU64, open: u64) {
    segment.store(open, Ordering::Release);
}

/// Continues with a segment that was seen to be closed: the compactor that closed it may have died
/// before its fence.
pub(crate) fn go_on() {
    controls::fence(Rule::SuccessorFenced, Ordering::SeqCst);
}

/// Whether no live writer is changing a value, so that its cell is to be looked at: the cell points
/// into the closed segment, or never will. A dead writer changes nothing any more.
pub(crate) fn is_settled(hold: &Hold, is_dead: impl Fn(ParticipantId) -> bool) -> bool {
    let holder = hold.load().participant();
    holder.is_none_or(is_dead) || left_out(Rule::LatchAwaited)
}
