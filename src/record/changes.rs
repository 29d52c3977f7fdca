//! Chains of the index, as a reader that walks them without the lock sees their changes.
//!
//! A slot that leaves a chain may be put into another one, perhaps of another stripe, and a reader
//! that stands on the slot follows it there. So the departure is counted, after the last link of
//! the chain was changed and before the slot is available to others. A reader that finds the count
//! unchanged has not been led astray, and what the reader did not find is not there (I8). Before
//! the slot is used elsewhere it is filled, behind a fence (I6): a reader that meets its new link
//! sees that the departure was counted. A walk that begins after the count does not meet the slot.
//! No other change of a chain leads a reader astray, so a reader waits for no writer.

use crate::record::controls::{self, Rule, left_out, ordered};
use crate::sync::{AtomicU64, Ordering};

/// Takes a slot out of its chain, by `unlink`. Only under the stripe; a successor of a dead process
/// does it again.
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
    // Pairs with the fence before a slot is filled: a reader that met a slot's next life sees the
    // count of its departure.
    controls::fence(Rule::WalkFenced, Ordering::Acquire);
    said && (count.load(Ordering::Relaxed) == before || left_out(Rule::CountReread))
}
