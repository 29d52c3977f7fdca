//! Chains of the index, as who walks them without the lock sees their changes.
//!
//! A slot that leaves a chain goes on in another one, of another stripe perhaps, and a walk that stands on it goes
//! along. So it is counted, after the last link of the chain was changed and before the slot can be had by others.
//! Who walks and finds the count as it was has not been led astray, and what it did not find is not there (I8).
//! Before the slot goes on elsewhere it is filled, behind a fence (I6): who meets its new link sees that it was
//! counted. A walk that begins after the count does not meet the slot. All else that happens to a chain leads
//! nobody astray, so nobody is waited for.

use crate::record::controls::{self, Rule, left_out, ordered};
use crate::sync::{AtomicU64, Ordering};

/// Takes a slot out of its chain, by `unlink`. Only under the stripe; done again by who finds a dead one's.
pub(crate) fn take_out<E>(
    count: &AtomicU64,
    unlink: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let raise = || {
        let next = count.load(Ordering::Relaxed).wrapping_add(1);
        // Release: a walk that begins with this count finds the slot unlinked.
        count.store(next, ordered(Rule::CountReleases, Ordering::Release));
    };
    if left_out(Rule::UnlinkedFirst) {
        raise();
        return unlink();
    }
    unlink()?;
    if !left_out(Rule::DepartureCounted) {
        raise();
    }
    Ok(())
}

/// What `look` says, if no slot left the chains meanwhile; otherwise `false`.
pub(crate) fn is_unchanged_while(count: &AtomicU64, look: impl FnOnce() -> bool) -> bool {
    let before = count.load(Ordering::Acquire);
    let said = look();
    // Pairs with the fence before a slot is filled: who met a slot's next life sees the count by which it left.
    controls::fence(Rule::WalkFenced, Ordering::Acquire);
    said && (count.load(Ordering::Relaxed) == before || left_out(Rule::CountReread))
}
