//! The checksum under the seal of a cell.

/// The checksum is MULTILINEAR (Lemire and Kaser, "Strongly Universal String Hashing Is Fast", The
/// Computer Journal 57, 2014): the upper half of the sum of keys times 32-bit halves. Against a CRC
/// it is one multiplication for every four bytes and no call, a third of the time of an `add`; it
/// misses one random change in 2^32, as a CRC-32 does, and none of one or two bits.
#[derive(Clone, Copy)]
pub(crate) struct CellSum(u64);

impl CellSum {
    /// Begins with the first word.
    #[inline(always)]
    pub(crate) fn of(first: u64) -> CellSum {
        let mut sum = CellSum(KEYS.first);
        sum.add(0, first);
        sum
    }

    /// Adds word number `at`. The order does not matter.
    #[inline(always)]
    pub(super) fn add(&mut self, at: usize, word: u64) {
        // Of more words there is no cell.
        if let Some(keys) = KEYS.pairs.get(1 + at) {
            self.0 = self.0.wrapping_add(weigh(word, keys));
        }
    }

    /// Passes words on, from number `at` on, and adds each. It ends after the last one that a cell
    /// can have.
    #[cfg(not(loom))]
    #[inline(always)]
    pub(crate) fn adding(
        &mut self,
        at: usize,
        words: impl Iterator<Item = u64>,
    ) -> impl Iterator<Item = u64> {
        let keys = KEYS.pairs.get(1 + at..).unwrap_or_default();
        words.zip(keys).map(|(word, keys)| {
            self.0 = self.0.wrapping_add(weigh(word, keys));
            word
        })
    }

    #[inline(always)]
    pub(crate) fn seal(self, version: u64) -> u64 {
        let sum = self.0.wrapping_add(weigh(version, &KEYS.pairs[0]));
        version << 32 | sum >> 32
    }
}

#[inline(always)]
fn weigh(word: u64, keys: &[u64; 2]) -> u64 {
    let low = keys[0].wrapping_mul(word & 0xffff_ffff);
    low.wrapping_add(keys[1].wrapping_mul(word >> 32))
}

/// The first outputs of SplitMix64 from state 0: random enough, and nobody's choice. (Steele, Lea
/// and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.)
struct Keys {
    first: u64,
    pairs: [[u64; 2]; 1 + SEALED_WORDS_MAX],
}

/// The most words that a cell has under its seal. With 46 or more, some pairs of flips would pass.
pub(crate) const SEALED_WORDS_MAX: usize = 33;

static KEYS: Keys = {
    let mut pairs = [[0; 2]; 1 + SEALED_WORDS_MAX];
    let mut i = 0;
    while i < pairs.len() {
        pairs[i] = [split_mix(2 * i as u64 + 2), split_mix(2 * i as u64 + 3)];
        i += 1;
    }
    let first = split_mix(1);
    Keys { first, pairs }
};

/// The `n`th output of the generator, from 1.
const fn split_mix(n: u64) -> u64 {
    let state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n);
    let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::record::cells::seal;

    fn all_keys() -> Vec<u64> {
        let rest = KEYS.pairs.iter().flatten().copied();
        std::iter::once(KEYS.first).chain(rest).collect()
    }

    /// As another implementation would compute it, with the generator's published first outputs.
    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(
            all_keys()[..3],
            [
                0xe220_a839_7b1d_cdaf,
                0x6e78_9e6a_a1b9_65f4,
                0x06c4_5d18_8009_454f
            ]
        );
        let payload = [u64::MAX, 2, 3 << 32, 0, 5, 0x1234_5678_9abc_def0];
        let version = 9 << 32 | 7;
        let mut halves = Vec::new();
        for word in [&version].into_iter().chain(&payload) {
            halves.extend([u128::from(*word as u32), u128::from(word >> 32)]);
        }
        let keys = all_keys();
        let products = halves.iter().zip(&keys[1..]);
        let sum = products.fold(u128::from(keys[0]), |sum, (half, key)| {
            sum + half * u128::from(*key)
        });
        assert_eq!(seal(&payload, version), 7 << 32 | sum as u64 >> 32);
    }

    /// A bit that flips adds or takes away a key shifted; whatever the payload, the upper half of
    /// the sum shows it when that lies 2^32 or more from zero. So this is all
    /// payloads of all lengths, not a sample.
    #[test]
    fn every_flip_of_one_or_two_bits_is_noticed() {
        let shows = |change: u64| (1 << 32..=0_u64.wrapping_sub(1 << 32)).contains(&change);
        let keys = all_keys();
        let flips: Vec<u64> = keys[1..]
            .iter()
            .flat_map(|key| (0..32).map(move |bit| key << bit))
            .collect();
        for (i, one) in flips.iter().enumerate() {
            assert!(shows(*one), "{i}");
            for (j, other) in flips[..i].iter().enumerate() {
                assert!(shows(one.wrapping_add(*other)), "{i} and {j}");
                assert!(shows(one.wrapping_sub(*other)), "{i} against {j}");
            }
        }
    }
}
