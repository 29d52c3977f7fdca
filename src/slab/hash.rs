//! Key to number: SipHash-2-4 under the store's own random key, so that no caller can prepare keys
//! that all fall into one chain. Part of the format, hence the test with the authors' vectors.

use std::hash::Hasher;

/// The hash of `key` under `seed`.
// Deprecated in favour of `DefaultHasher`: its algorithm may change, this one may not.
#[allow(deprecated)]
pub(crate) fn hash(seed: [u64; 2], key: &[u8]) -> u64 {
    let mut hasher = std::hash::SipHasher::new_with_keys(seed[0], seed[1]);
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), appendix A,
    /// and of its reference code.
    #[test]
    fn it_is_siphash_2_4() {
        let seed = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let input: Vec<u8> = (0..15).collect();
        assert_eq!(hash(seed, &input), 0xa129_ca61_49be_45e5);
        assert_eq!(hash(seed, &[]), 0x726f_db47_dd0e_0e31);
    }
}
