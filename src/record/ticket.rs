//! The ticket of a semaphore: the last token that it drew. Each is drawn once, whichever permit it
//! is for (H7). `Relaxed` throughout: only that no number comes twice counts.

use crate::record::controls::{Rule, left_out};
use crate::record::{SEQUENCE_MAX, Word, next_sequence};
use crate::sync::{AtomicU64, Ordering};

/// A token for a grant after `seen`, or `None` if the ticket is behind that word.
#[inline(always)]
pub(crate) fn draw(ticket: &AtomicU64, seen: Word) -> Option<u64> {
    let sequence = next(ticket);
    let above = sequence > seen.sequence() || left_out(Rule::TokenAboveWord);
    (above && sequence <= SEQUENCE_MAX).then_some(sequence)
}

/// A token for a grant after `seen`, of a ticket that is raised if it is behind: after damage, or
/// when a removal was begun and undone.
pub(crate) fn draw_above(ticket: &AtomicU64, seen: Word) -> Option<u64> {
    let least = next_sequence(seen)?;
    if !left_out(Rule::TokenAboveWord) {
        ticket.fetch_max(least - 1, Ordering::Relaxed);
    }
    draw(ticket, seen)
}

#[inline(always)]
fn next(ticket: &AtomicU64) -> u64 {
    if left_out(Rule::TokenDrawnOnce) {
        let last = ticket.load(Ordering::Relaxed);
        ticket.store(last + 1, Ordering::Relaxed);
        return last + 1;
    }
    ticket.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}
