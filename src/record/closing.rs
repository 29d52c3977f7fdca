//! Closing a segment of the log, against who is about to let a value lead there.
//!
//! Who sets a value takes the latch, then looks whether the segment is closed, then changes the cell. Who
//! compacts closes the segment, then looks at the latch, waits for who has it, then reads the cell. Between the
//! first two steps of each is a fence, so at least one of the two sees the other (G2): when all cells were looked
//! at, none leads there, and none ever will.

use crate::record::controls::{self, Rule, left_out};
use crate::record::{Hold, ParticipantId};
use crate::sync::{AtomicU64, Ordering};

/// Whether a value may be put into the segment that is described by `segment`, if it is `open`: it is there, and
/// stays. Asked with the latch, each time.
pub(crate) fn may_lead_there(segment: &AtomicU64, open: u64) -> bool {
    // Pairs with the fence of who closes: that one sees the latch, or this one the mark.
    controls::fence(Rule::SetterFenced, Ordering::SeqCst);
    segment.load(Ordering::Acquire) == open || left_out(Rule::ClosingHeeded)
}

/// Closes a segment that is `open`: afterwards cells may be looked at. `false`: it is gone.
pub(crate) fn close(segment: &AtomicU64, open: u64, closed: u64) -> bool {
    let is_closed = segment.compare_exchange(open, closed, Ordering::AcqRel, Ordering::Relaxed);
    controls::fence(Rule::CloserFenced, Ordering::SeqCst);
    is_closed.is_ok()
}

/// Opens it again: nothing is to be moved out of it after all. Only for who may close.
pub(crate) fn reopen(segment: &AtomicU64, open: u64) {
    segment.store(open, Ordering::Release);
}

/// Goes on with a segment that was seen to be closed: who closed it may have died before its fence.
pub(crate) fn go_on() {
    controls::fence(Rule::SuccessorFenced, Ordering::SeqCst);
}

/// Whether nobody is in the middle of changing a value, so that its cell is to be looked at: what is there leads
/// into the closed segment, or nothing ever will. The dead change nothing any more.
pub(crate) fn is_settled(hold: &Hold, is_dead: impl Fn(ParticipantId) -> bool) -> bool {
    let holder = hold.load().participant();
    holder.is_none_or(is_dead) || left_out(Rule::LatchAwaited)
}
