//! Medians, and what their spread is shown by.

use serde::Serialize;

/// A median, and the smallest and the largest of the rounds.
#[derive(Clone, Copy, Serialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
