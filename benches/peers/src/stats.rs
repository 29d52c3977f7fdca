//! Medians, and what their spread is shown by.

use serde::{Deserialize, Serialize};

/// A median, and the smallest and the largest of the rounds.
#[derive(Clone, Copy, Deserialize, Serialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// `None` without samples.
    pub fn of(mut samples: Vec<f64>) -> Option<Spread> {
        samples.sort_by(f64::total_cmp);
        let (low, high) = (*samples.first()?, *samples.last()?);
        let middle = |at: usize| samples[at / 2];
        let median = (middle(samples.len() - 1) + middle(samples.len())) / 2.0;
        Some(Spread { median, low, high })
    }

    /// A figure without spread.
    pub fn exactly(value: f64) -> Spread {
        let (median, low, high) = (value, value, value);
        Spread { median, low, high }
    }

    pub fn scaled(self, by: f64) -> Spread {
        Spread {
            median: self.median * by,
            low: self.low * by,
            high: self.high * by,
        }
    }
}

/// The sample below which that share of the sorted samples lies; 0 without samples.
pub fn at_share(sorted: &[u64], share: f64) -> u64 {
    let at = (share * sorted.len() as f64).ceil() as usize;
    let last = sorted.len().saturating_sub(1);
    let found = sorted.get(at.saturating_sub(1).min(last));
    found.copied().unwrap_or(0)
}

/// Times of things that are done millions of times: kept in classes that are a 64th of their size wide, so
/// that keeping one takes no memory that was not there before.
pub struct Times {
    classes: Vec<u32>,
    count: u64,
    longest: u64,
}

/// So many classes to each doubling, as a power of two.
const CLASS_BITS: u32 = 6;

impl Times {
    pub fn new() -> Times {
        // Not zeros, which would be pages that are made when they are first written to.
        let mut classes = vec![1; class(u64::MAX) + 1];
        classes.fill(0);
        let (count, longest) = (0, 0);
        Times {
            classes,
            count,
            longest,
        }
    }

    pub fn add(&mut self, nanos: u64) {
        self.classes[class(nanos)] += 1;
        self.count += 1;
        self.longest = self.longest.max(nanos);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// The time that no more than the rest of that share exceeds.
    pub fn at_share(&self, share: f64) -> u64 {
        let wanted = (share * self.count as f64).ceil() as u64;
        let mut seen = 0;
        let found = self.classes.iter().position(|here| {
            seen += u64::from(*here);
            seen >= wanted
        });
        found.map_or(0, largest_in).min(self.longest)
    }
}

/// Below 2^(`CLASS_BITS` + 1) each has its own.
fn class(nanos: u64) -> usize {
    let shift = (63 - (nanos | 1).leading_zeros()).saturating_sub(CLASS_BITS);
    ((u64::from(shift) << CLASS_BITS) + (nanos >> shift)) as usize
}

fn largest_in(class: usize) -> u64 {
    let shift = ((class >> CLASS_BITS) as u32).saturating_sub(1);
    let first = class as u64 - (u64::from(shift) << CLASS_BITS);
    (((u128::from(first) + 1) << shift) - 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_one_another_and_are_narrow() {
        assert_eq!(largest_in(class(u64::MAX)), u64::MAX);
        let numbers = (0..64).flat_map(|shift| [1 << shift, (1 << shift) | 1, u64::MAX >> shift]);
        for number in numbers.chain(0..100_000) {
            let largest = largest_in(class(number));
            assert!(largest >= number && largest - number <= number / 64);
            assert_eq!(class(largest), class(number));
            assert!(largest == u64::MAX || class(largest + 1) == class(largest) + 1);
        }
    }

    #[test]
    fn times_are_told_by_their_share() {
        let mut times = Times::new();
        assert_eq!((times.at_share(0.5), times.longest()), (0, 0));
        (1..=1000).for_each(|nanos| times.add(nanos * 1000));
        let near = |share, nanos: u64| times.at_share(share).abs_diff(nanos) <= nanos / 64;
        assert!(near(0.5, 500_000) && near(0.99, 990_000));
        assert_eq!((times.at_share(1.0), times.count()), (1_000_000, 1000));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 100.0]).expect("there are samples");
        assert_eq!((spread.median, spread.low, spread.high), (3.0, 1.0, 100.0));
        assert!(Spread::of(Vec::new()).is_none());
    }

    #[test]
    fn all_samples_lie_below_the_last() {
        let sorted: Vec<u64> = (1..=1000).collect();
        let at = [0.5, 0.99, 0.999, 1.0].map(|share| at_share(&sorted, share));
        assert_eq!(at, [500, 990, 999, 1000]);
        assert_eq!(at_share(&[], 1.0), 0);
    }
}
