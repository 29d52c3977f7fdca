//! The laws that keys and the sizes of their values follow, and chance by a seed.

use std::f64::consts::TAU;

use crate::values::mixed;

/// Numbers that look like chance; the same for the same seed.
pub struct Chance(u64);

impl Chance {
    pub fn of(seed: u64) -> Chance {
        Chance(mixed(seed))
    }

    /// From 0 to less than 1.
    pub fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(1);
        (mixed(self.0) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Zipf's law: the key of rank `r`, from 1 on, is wanted in proportion to `1 / r^exponent`.
pub struct Zipf {
    /// How often a key up to that rank is wanted, in a measure of its own.
    sums: Vec<f64>,
}

impl Zipf {
    pub fn new(keys: u32, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let upto = |rank: u32| {
            sum += f64::from(rank).powf(-exponent);
            sum
        };
        Zipf {
            sums: (1..=keys).map(upto).collect(),
        }
    }

    /// A key, from 0 on: those with the smaller numbers come more often.
    pub fn draw(&self, chance: &mut Chance) -> u32 {
        let at = chance.part() * self.sums.last().copied().unwrap_or(0.0);
        self.sums.partition_point(|sum| *sum <= at) as u32
    }
}

/// In bytes.
const MEDIAN: f64 = 300.0;
/// Of the logarithm. With it values have some 1,150 bytes on average.
const DEVIATION: f64 = 1.64;
/// Where the tail is cut.
pub const VALUE_MAX: u32 = 1 << 20;

/// How long the value of a key is: log-normal, by Box and Muller.
pub fn value_bytes(key: u32) -> u32 {
    let mut chance = Chance::of(u64::from(key));
    // Not zero, which has no logarithm.
    let (radius, angle) = (1.0 - chance.part(), chance.part());
    let normal = (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos();
    let bytes = MEDIAN * (DEVIATION * normal).exp();
    (bytes as u32).clamp(1, VALUE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fall_by_the_exponent() {
        let (zipf, mut chance) = (Zipf::new(10_000, 0.99), Chance::of(7));
        let mut drawn = vec![0_u32; 10_000];
        for _ in 0..400_000 {
            drawn[zipf.draw(&mut chance) as usize] += 1;
        }
        // The slope of the line through the logarithms.
        let points = (1..=64_u32).map(|rank| {
            let count = f64::from(drawn[rank as usize - 1]);
            (f64::from(rank).ln(), count.ln())
        });
        let points: Vec<(f64, f64)> = points.collect();
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / 64.0;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let over = points.iter().map(|point| (point.0 - x) * (point.1 - y));
        let under = points.iter().map(|point| (point.0 - x).powi(2));
        let slope = over.sum::<f64>() / under.sum::<f64>();
        assert!((slope + 0.99).abs() < 0.03, "{slope}");
    }

    #[test]
    fn sizes_have_that_median_and_a_cut_tail() {
        let mut sizes: Vec<u32> = (0..100_001).map(value_bytes).collect();
        sizes.sort_unstable();
        let median = sizes[50_000];
        assert!((294..=306).contains(&median), "{median}");
        let mean = sizes.iter().map(|size| f64::from(*size)).sum::<f64>() / 100_001.0;
        assert!((1_050.0..1_250.0).contains(&mean), "{mean}");
        assert!(sizes[0] >= 1 && sizes[100_000] <= VALUE_MAX);
        // One deviation above the median lie 16 in 100.
        let above = f64::from(sizes[84_134]).ln() - f64::from(median).ln();
        assert!((above - DEVIATION).abs() < 0.03, "{above}");
    }

    #[test]
    fn chance_is_the_same_for_the_same_seed() {
        let draw = |seed| {
            let mut chance = Chance::of(seed);
            [(); 3].map(|()| chance.part())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).iter().all(|part| (0.0..1.0).contains(part)));
    }
}
