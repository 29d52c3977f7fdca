//! Chance, to be had again.

/// A small generator of random numbers (xorshift64*).
#[derive(Clone)]
pub struct Random(u64);

/// What the environment gives as `SLABLOCK_TEST_SEED`, or a new seed each time; printed with the
/// test's output.
pub fn seed_of(test: &str) -> u64 {
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let given = std::env::var("SLABLOCK_TEST_SEED").ok();
    let seed = given.map_or(nanos.as_nanos() as u64, |s| s.parse().unwrap());
    eprintln!("{test}: SLABLOCK_TEST_SEED={seed}");
    seed
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    /// Of the seed that the test announces.
    pub fn announced(test: &str) -> Random {
        Random::new(seed_of(test))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}
