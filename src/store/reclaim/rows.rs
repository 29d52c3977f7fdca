//! Which slots in a row are worth least: what lies in a row goes as a whole, or stays.

use std::ops::Range;

use crate::store::candidate::Lodger;

/// One row in so many goes before others are looked at.
const SHARE: usize = 32;
/// What is in the way of every row.
const STAYS: u64 = u64::MAX;

/// Slots in a row, and what lies in them.
pub(super) struct Row {
    first: u32,
    /// What each slot is worth.
    worth: Vec<u64>,
    lodgers: Vec<Lodger>,
    /// Of each slot, one more than the number of the key that lies there; 0: none that may go.
    lodger_at: Vec<u32>,
}

impl Row {
    /// Until more is known, nothing that lies there may go.
    pub(super) fn of(slots: Range<u32>) -> Row {
        Row {
            first: slots.start,
            worth: vec![STAYS; slots.len()],
            lodgers: Vec::new(),
            lodger_at: vec![0; slots.len()],
        }
    }

    pub(super) fn is_free(&mut self, slot: u32) {
        self.worth[(slot - self.first) as usize] = 0;
    }

    /// Notes a key that may go. What of it lies outside is not noted.
    pub(super) fn lodges(&mut self, slot: u32, lodger: Lodger) {
        self.lodgers.push(lodger);
        let from = (slot - self.first) as usize;
        let to = self.worth.len().min(from + lodger.span as usize);
        let worth = lodger
            .value
            .map_or(0, |value| value.worth.clamp(1, STAYS - 1));
        self.worth[from..to].fill(worth);
        self.lodger_at[from..to].fill(self.lodgers.len() as u32);
    }

    /// The keys in rows of `len` slots, row by row, the least worthy last, no key twice; and how
    /// many of these rows are to go: all that are worth nothing, or a few of the others.
    pub(super) fn least_worthy(&self, len: u32) -> (Vec<Vec<Lodger>>, usize) {
        let len = len.max(1) as usize;
        let worth_of = |slots: &[u64]| slots.iter().copied().max().unwrap_or(STAYS);
        let rows = self.worth.windows(len).map(worth_of).enumerate();
        // Empty rows were taken before anybody asks.
        let is_full = |at: usize| self.lodger_at[at..at + len].iter().any(|one| *one != 0);
        let mut rows: Vec<(u64, usize)> = rows
            .filter(|(at, worth)| *worth != STAYS && is_full(*at))
            .map(|(at, worth)| (worth, at))
            .collect();
        rows.sort_unstable();
        let mut is_taken = vec![false; self.lodgers.len() + 1];
        let (mut chosen, mut idle) = (Vec::new(), 0);
        for (worth, at) in rows {
            let here = &self.lodger_at[at..at + len];
            if here.iter().any(|one| is_taken[*one as usize]) {
                continue;
            }
            let mut keys = Vec::new();
            for one in here.iter().copied().filter(|one| *one != 0) {
                if !std::mem::replace(&mut is_taken[one as usize], true) {
                    keys.push(self.lodgers[one as usize - 1]);
                }
            }
            chosen.push(keys);
            idle += usize::from(worth == 0);
        }
        chosen.reverse();
        let share = match idle {
            0 => chosen.len().div_ceil(SHARE),
            idle => idle,
        };
        (chosen, share)
    }
}
