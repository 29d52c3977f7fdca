//! The deadline word: until when a hold may last, tagged with the hold that it belongs to.
//!
//! ```text
//!  63           44 43                                                  0
//! +---------------+-----------------------------------------------------+
//! |      tag      |     CLOCK_MONOTONIC in 64 us, on the host's scale   |
//! +---------------+-----------------------------------------------------+
//! ```
//!
//! The tag is the low twenty bits of the hold's sequence. A tag that does not fit the hold word
//! means "not published yet", never "over". A time of 0 is "no lease", a time of 1 is "over": the
//! mark that a thief leaves, so that a renewal and a theft cannot both succeed (L3).
//!
//! In use, the word is only ever changed by compare-exchange, and every taker makes it its own (a
//! lease, or 0). A foreign tag can then fit only by way of a taker that was stopped between taking
//! the hold and writing this word, lost the hold by force meanwhile, and woke up exactly a multiple
//! of 2^20 grants later.

use crate::record::Word;
use crate::record::controls::{Rule, left_out};

const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// Fine enough for a lease, coarse enough for 35 years since boot.
const UNIT_US: u64 = 64;
const OVER: u64 = 1;

/// One value of a deadline word, as it concerns one hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lease {
    /// None was given, or it is not published yet.
    None,
    /// Until this microsecond.
    Until(u64),
    /// A thief found it over and is about to take the hold.
    Over,
}

impl Lease {
    /// What `bits` say about the hold `of`.
    pub(crate) fn decode(bits: u64, of: Word) -> Lease {
        match bits & TIME_MASK {
            0 => Lease::None,
            _ if bits >> TIME_BITS != tag(of) && !left_out(Rule::DeadlineTagged) => Lease::None,
            OVER => Lease::Over,
            units => Lease::Until(units * UNIT_US),
        }
    }

    pub(crate) fn encode(self, of: Word) -> u64 {
        let time = match self {
            Lease::None => return 0,
            Lease::Over => OVER,
            // Rounded up, never 0 or 1, and never into the tag: a lease of centuries ends after 35
            // years.
            Lease::Until(until) => until.div_ceil(UNIT_US).clamp(OVER + 1, TIME_MASK),
        };
        tag(of) << TIME_BITS | time
    }

    pub(crate) fn is_over(self, now: impl FnOnce() -> u64) -> bool {
        match self {
            Lease::None => false,
            Lease::Over => true,
            Lease::Until(until) => now() >= until,
        }
    }
}

fn tag(of: Word) -> u64 {
    of.sequence() & ((1 << (64 - TIME_BITS)) - 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_lease_of_another_hold_is_none() {
        let (one, next) = (Word::free(5), Word::free(6));
        for lease in [
            Lease::Until(2 * UNIT_US),
            Lease::Until(TIME_MASK * UNIT_US),
            Lease::Over,
        ] {
            assert_eq!(Lease::decode(lease.encode(one), one), lease);
            assert_eq!(Lease::decode(lease.encode(one), next), Lease::None);
        }
        assert_eq!(Lease::decode(0, Word::free(0)), Lease::None);
    }

    #[test]
    fn times_at_the_edges_stay_leases() {
        let of = Word::free(1);
        assert_eq!(
            Lease::decode(Lease::Until(0).encode(of), of),
            Lease::Until(2 * UNIT_US)
        );
        assert_eq!(
            Lease::decode(Lease::Until(u64::MAX).encode(of), of),
            Lease::Until(TIME_MASK * UNIT_US)
        );
    }
}
