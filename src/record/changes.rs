//! Changes of the index, as who has no lock sees them.
//!
//! A change is announced before its first step: the intent, by which the next one ends what a dead one left,
//! and a count. Who walks a chain without the lock, and finds both as they were before, has seen nothing of any
//! change: what it did not find is not there (I8). The links of a change in its own chain lead nobody astray; a
//! slot that left it does, because it goes on in another chain, of another stripe perhaps, and so would the walk.
//! Before it goes on there it is filled, behind a fence (I6): who meets its new link sees that it has left.

use crate::record::controls::{self, Rule, left_out, ordered};
use crate::sync::{AtomicU64, Ordering};

/// No change is under way.
pub(crate) const NO_INTENT: u64 = 0;

/// Announces a change. Only under the stripe.
pub(crate) fn begin(intent: &AtomicU64, count: &AtomicU64, what: u64) {
    let raise = || {
        let next = count.load(Ordering::Relaxed).wrapping_add(1);
        // Release: who sees the new count sees the intent, or that the change is over and all that it did.
        count.store(next, ordered(Rule::CountReleases, Ordering::Release));
    };
    if left_out(Rule::IntentFirst) {
        raise();
    }
    // Release: what the intent is about was noted before.
    intent.store(what, Ordering::Release);
    if !left_out(Rule::IntentFirst) && !left_out(Rule::ChangeCounted) {
        raise();
    }
}

/// The change is over. Only under the stripe.
pub(crate) fn end(intent: &AtomicU64) {
    // Release: who sees it sees all of the change.
    intent.store(NO_INTENT, Ordering::Release);
}

/// What `look` says, if nothing was being changed meanwhile; otherwise `false`.
pub(crate) fn is_unchanged_while(
    intent: &AtomicU64,
    count: &AtomicU64,
    look: impl FnOnce() -> bool,
) -> bool {
    let before = count.load(Ordering::Acquire);
    // After the count: a change that it counts is over, or its intent is seen.
    if intent.load(Ordering::Acquire) != NO_INTENT && !left_out(Rule::IntentHeeded) {
        return false;
    }
    let said = look();
    // Pairs with the fence before a slot is filled: who met a slot's next life sees the count by which it left.
    controls::fence(Rule::WalkFenced, Ordering::Acquire);
    said && (count.load(Ordering::Relaxed) == before || left_out(Rule::CountReread))
}
