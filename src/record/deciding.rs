//! A transaction from its decision to its end, by the word that points to its list, the journal:
//! T1.
//!
//! A decider has filled the idle cells and written the list before it puts the list's place into
//! the journal. The process that carries the list out flips the selectors before it empties the
//! journal. A reader that may do neither reads the list, and takes the prepared cells of what is
//! listed for those in force (`cells::read_prepared`). Between reading the list and believing it,
//! the reader looks at the journal once more: a list that is over may be gone.

use crate::record::controls::{self, Rule, left_out, ordered};
use crate::sync::{AtomicU64, Ordering};

/// Decides a transaction: by this store all that is listed at `place` has happened.
pub(crate) fn decide(journal: &AtomicU64, place: u64) {
    // Release: pairs with the Acquire of `look`, which finds the list written and the cells filled.
    journal.store(place, ordered(Rule::DecisionReleases, Ordering::Release));
}

/// Empties the journal, after all that is listed at `place` was carried out. `false`: another
/// process was quicker.
pub(crate) fn end(journal: &AtomicU64, place: u64) -> bool {
    // Release: pairs with the Acquire of `look`; a journal that is found empty has its selectors
    // flipped.
    let order = ordered(Rule::EndReleases, Ordering::AcqRel);
    let ended = journal.compare_exchange(place, 0, order, Ordering::Relaxed);
    ended.is_ok()
}

/// The place of the list of what is decided and not over, and what `read` makes of it. `None`:
/// still where it is `known` to lie. Starts over only if a transaction was decided or ended
/// meanwhile.
pub(crate) fn look<T>(
    journal: &AtomicU64,
    known: u64,
    mut read: impl FnMut(u64) -> T,
) -> Option<(u64, T)> {
    loop {
        // Acquire: pairs with the Release of `decide` and of `end`.
        let place = journal.load(ordered(Rule::JournalAcquired, Ordering::Acquire));
        if place == known {
            return None;
        }
        let list = read(place);
        // Pairs with any fence between the end of a transaction and the end of its list: if the
        // list is gone, the journal is another one.
        controls::fence(Rule::ListFenced, Ordering::Acquire);
        if journal.load(Ordering::Relaxed) == place || left_out(Rule::JournalReread) {
            return Some((place, list));
        }
    }
}
