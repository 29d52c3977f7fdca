//! The table of buckets, in which every stripe has rows of its own: bucket `row * 64 + stripe`.
//!
//! A stripe gets more rows one at a time (linear hashing; Litwin, "Linear hashing: a new tool for
//! file and table addressing", VLDB 1980). A hash hangs on the row that its bits name, of as many
//! as say more than there are rows; where there is none of that number, on that of one bit less.
//! So a row more takes from one other row only, and from one of its own stripe: see
//! `store::index::split`.

use crate::error::Error;
use crate::slab::layout::{CAPACITY_MAX, SECTION_SLOTS, STRIPES};
use crate::slab::{Growing, Slab};
use crate::sync::{AtomicU32, Ordering};

/// As many buckets as slots: a value of 100 bytes takes two of these, so most chains have one key.
const ROWS_MAX: u32 = CAPACITY_MAX / STRIPES;

/// The buckets of a slab.
#[derive(Clone, Copy)]
pub(crate) struct Buckets<'s>(pub(crate) &'s Slab);

/// The stripe of a key: it stays, however many rows there are.
#[inline]
pub(crate) fn stripe_of(hash: u64) -> u32 {
    hash as u32 % STRIPES
}

/// The row of a hash among so many. Only the stored half of the hash counts, so that a key can be
/// hung elsewhere without a look at its bytes.
#[inline]
fn row_of(hash: u32, rows: u32) -> u32 {
    let bits = hash / STRIPES;
    let mask = u32::MAX >> rows.leading_zeros();
    match bits & mask {
        row if row < rows => row,
        row => row & mask >> 1,
    }
}

impl<'s> Buckets<'s> {
    /// How many rows a stripe has. Acquire: pairs with the Release of a process that adds one.
    #[inline]
    pub(crate) fn rows(self, stripe: u32) -> u32 {
        self.counter(stripe)
            .load(Ordering::Acquire)
            .clamp(1, ROWS_MAX)
    }

    pub(crate) fn counter(self, stripe: u32) -> &'s AtomicU32 {
        &self.0.header_counts().rows[(stripe % STRIPES) as usize]
    }

    /// The bucket of a hash, as it is just now: it may be another one a moment later, but under the
    /// stripe.
    #[inline]
    pub(crate) fn of(self, hash: u64) -> u32 {
        let stripe = stripe_of(hash);
        row_of(hash as u32, self.rows(stripe)) * STRIPES + stripe
    }

    /// Where the chain of a bucket begins. `None`: there is no such bucket, or it cannot be mapped.
    #[inline]
    pub(crate) fn head(self, bucket: u32) -> Option<&'s AtomicU32> {
        // It is allocated with the slot of that number; in the first section all are at once.
        let is_there = bucket < SECTION_SLOTS || self.0.covers(Growing::Slots, bucket);
        is_there.then(|| self.0.bucket(bucket))
    }

    /// Why a bucket that a hash hangs on is not there.
    pub(crate) fn unreachable(self, bucket: u32) -> Error {
        let what = || format!("there is no bucket {bucket}");
        self.0.extent().unreachable(Growing::Slots, bucket, what)
    }

    /// How many rows each stripe is to have for so many slots.
    pub(crate) fn rows_for(slots: u32) -> u32 {
        (slots / STRIPES).clamp(1, ROWS_MAX)
    }

    /// The last bucket of a stripe with so many rows.
    pub(crate) fn last(stripe: u32, rows: u32) -> u32 {
        (rows - 1) * STRIPES + stripe
    }

    /// Of the buckets of a stripe with `now` rows those that have what was in row `row` when there
    /// were `before`: the keys are the same, however many rows were added meanwhile.
    pub(crate) fn of_row(
        stripe: u32,
        row: u32,
        before: u32,
        now: u32,
    ) -> impl Iterator<Item = u32> {
        let step = 1 << before.ilog2();
        let all = (row..now.max(before)).step_by(step);
        all.filter(move |of| row_of(of * STRIPES, before) == row)
            .map(move |row| row * STRIPES + stripe)
    }

    /// The bucket of which a new one takes what hangs on it from then on.
    pub(crate) fn parent(bucket: u32) -> Option<u32> {
        let (row, stripe) = (bucket / STRIPES, bucket % STRIPES);
        let top = row.checked_ilog2()?;
        Some((row ^ 1 << top) * STRIPES + stripe)
    }

    /// Whether a hash hangs on this bucket once it is the last of its stripe.
    #[inline]
    pub(crate) fn takes(bucket: u32, hash: u32) -> bool {
        let row = bucket / STRIPES;
        row_of(hash, row + 1) == row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of all numbers of rows and all hashes of some bits.
    #[test]
    fn a_row_more_takes_from_its_parent_only() {
        for rows in 1..200 {
            let (new, stripe) = (rows * STRIPES + 5, 5);
            let parent = Buckets::parent(new).unwrap();
            for bits in 0..1_024 {
                let hash = bits * STRIPES + stripe;
                let before = row_of(hash, rows);
                let after = row_of(hash, rows + 1);
                assert!(before < rows && (after == before || after == rows));
                assert_eq!(after == rows, Buckets::takes(new, hash));
                if after == rows {
                    assert_eq!(before * STRIPES + stripe, parent);
                }
            }
        }
        assert_eq!(Buckets::parent(5), None);
    }

    #[test]
    fn what_was_in_a_row_is_found_in_those_that_came_of_it() {
        for before in 1..70 {
            for now in before..300 {
                let mut seen = vec![0; now as usize];
                for row in 0..before {
                    for bucket in Buckets::of_row(3, row, before, now) {
                        assert_eq!(bucket % STRIPES, 3);
                        seen[(bucket / STRIPES) as usize] += 1;
                    }
                    for bits in (0..2_048).filter(|bits| row_of(bits * STRIPES, before) == row) {
                        let bucket = row_of(bits * STRIPES, now) * STRIPES + 3;
                        assert!(Buckets::of_row(3, row, before, now).any(|of| of == bucket));
                    }
                }
                assert!(seen.iter().all(|times| *times == 1), "{before} {now}");
            }
        }
    }
}
