//! Values that may go when room is needed, as a look at some of the slots has found them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::store::key_entry::KeyEntry;

/// A value that may go.
#[derive(Clone, Copy)]
pub(in crate::store) struct Candidate {
    /// The less, the sooner it goes.
    pub(in crate::store) worth: u64,
    pub(in crate::store) found: KeyEntry,
    pub(in crate::store) version: u64,
    pub(in crate::store) expires_ms: u64,
    /// In the log.
    pub(in crate::store) bytes: u64,
    pub(in crate::store) in_slots: u64,
}

/// A key that may go.
#[derive(Clone, Copy)]
pub(in crate::store) struct Lodger {
    pub(in crate::store) found: KeyEntry,
    /// `None`: it is idle.
    pub(in crate::store) value: Option<Candidate>,
    /// How many slots it takes.
    pub(in crate::store) span: u32,
}

/// What a look has found, those that go first last; and how many of them are to go before others
/// are looked at.
struct Found<T> {
    all: Vec<T>,
    share: usize,
}

impl<T> Found<T> {
    /// The next one, if it is to go, or if `more` are needed because others could not.
    fn take(&mut self, more: bool) -> Option<T> {
        if self.share == 0 && !more {
            return None;
        }
        self.share = self.share.saturating_sub(1);
        self.all.pop()
    }
}

/// What one process has found, and where it is to look next. What was used since is passed over
/// when its turn comes.
#[derive(Default)]
pub(in crate::store) struct Candidates {
    values: Option<Found<Candidate>>,
    /// The keys that lie in rows of so many slots.
    rows: BTreeMap<u32, Found<Vec<Lodger>>>,
    /// The slot to go on with.
    hand: u32,
}

impl Candidates {
    /// What is worth least of all that is left.
    pub(in crate::store) fn take(&mut self, more: bool) -> Option<Candidate> {
        self.values.as_mut()?.take(more)
    }

    /// Puts the one that was just taken back, whose turn it still is.
    pub(in crate::store) fn give_back(&mut self, candidate: Candidate) {
        if let Some(found) = &mut self.values {
            found.all.push(candidate);
            found.share += 1;
        }
    }

    /// Takes in what a look has found, of which those so many are to go that are worth least.
    pub(in crate::store) fn fill(&mut self, mut all: Vec<Candidate>, share: usize) {
        // Of equals, those that lie first go first.
        let rank = |one: &Candidate| (one.worth, one.found.id.index());
        all.sort_unstable_by_key(|candidate| Reverse(rank(candidate)));
        self.values = Some(Found { all, share });
    }

    /// The keys in the least worthy row of `len` slots of all that are left.
    pub(in crate::store) fn take_row(&mut self, len: u32, more: bool) -> Option<Vec<Lodger>> {
        self.rows.get_mut(&len)?.take(more)
    }

    /// Takes in rows of `len` slots, the least worthy last, of which so many are to go.
    pub(in crate::store) fn fill_rows(&mut self, len: u32, all: Vec<Vec<Lodger>>, share: usize) {
        self.rows.insert(len, Found { all, share });
    }

    /// The slots to look at next, of so many that there are.
    pub(in crate::store) fn next_window(&mut self, slots: u32, window: u32) -> Range<u32> {
        let from = if self.hand < slots { self.hand } else { 0 };
        let to = slots.min(from.saturating_add(window));
        self.hand = to;
        from..to
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Cache;
    use crate::store::index::chains::Index;
    use crate::store::values::get::Values;

    /// As many as are asked for, and more if these cannot go.
    #[test]
    fn those_that_are_worth_least_are_taken_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.set("k", "v").unwrap();
        let hash = Index(&cache.store).hash(b"k");
        let found = Values(&cache.store).find_value(b"k", hash);
        let found = found.unwrap().unwrap();
        let of_worth = |worth| Candidate {
            worth,
            found,
            version: 0,
            expires_ms: 0,
            bytes: 0,
            in_slots: 192,
        };
        for (there, share, taken) in [(9, 3, 3), (9, 8, 8), (9, 9, 9), (9, 99, 9), (0, 1, 0)] {
            let mut candidates = Candidates::default();
            assert!(candidates.take(true).is_none());
            // 4, 8, 1, 5, ...: in no order.
            candidates.fill((1..=there).map(|n| of_worth(n * 4 % 11)).collect(), share);
            let mut worths = |more| -> Vec<u64> {
                let next = || candidates.take(more).map(|one| one.worth);
                std::iter::from_fn(next).collect()
            };
            let mut all: Vec<_> = (1..=there).map(|n| n * 4 % 11).collect();
            all.sort_unstable();
            assert_eq!(worths(false), all[..taken], "{share} of {there}");
            assert_eq!(worths(true), all[taken..], "{share} of {there}");
        }
    }

    #[test]
    fn all_slots_have_their_turn() {
        let mut candidates = Candidates::default();
        let mut windows = |slots| candidates.next_window(slots, 10);
        assert_eq!(
            (windows(25), windows(25), windows(25)),
            (0..10, 10..20, 20..25)
        );
        assert_eq!(
            (windows(25), windows(12), windows(12)),
            (0..10, 10..12, 0..10)
        );
        assert_eq!((windows(5), windows(0)), (0..5, 0..0));
    }
}
