//! Decisions that a seed repeats. A generator of our own, so that a seed means the same in every
//! version of every library.

/// Sebastiano Vigna's SplitMix64: small, and good enough to pick what to break next.
#[derive(Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The generator of one process: another one for each `stream` of the same seed.
    pub fn of(seed: u64, stream: u64) -> Random {
        let mut mixed = Random { state: seed };
        let state = mixed.next() ^ stream.wrapping_mul(0xD134_2543_DE82_EF95);
        Random { state }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// Between `least` and `most`, with short ones as likely as ones ten times as long.
    pub fn spread(&mut self, least: u64, most: u64) -> u64 {
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (least as f64 * (most as f64 / least as f64).powf(share)) as u64
    }

    /// A time to wait with that mean, as between events that know nothing of one another.
    pub fn pause_ns(&mut self, mean_ns: f64) -> u64 {
        let share = ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (-share.ln() * mean_ns) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_stream_differs() {
        let draw = |seed, stream| {
            let mut random = Random::of(seed, stream);
            [random.next(), random.next()]
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn spread_stays_within_and_pauses_have_their_mean() {
        let mut random = Random::of(7, 7);
        for _ in 0..1_000 {
            assert!((5..=500).contains(&random.spread(5, 500)));
        }
        let sum: u64 = (0..10_000).map(|_| random.pause_ns(1_000.0)).sum();
        assert!((9_000_000..11_000_000).contains(&sum), "{sum}");
    }
}
