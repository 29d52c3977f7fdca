//! The stamp: which thread took a hold, and when. For showing only; nothing is decided by it.
//!
//! ```text
//!  63    56 55                    34 33                                0
//! +--------+------------------------+-----------------------------------+
//! |  tag   |       thread id        |  since, in 4 ms, CLOCK_MONOTONIC  |
//! +--------+------------------------+-----------------------------------+
//! ```
//!
//! Written by a plain store after the hold was taken, so for a moment it is still the last holder's: the
//! tag (the low eight bits of the sequence) tells. Linux thread ids fit 22 bits. Time is counted modulo
//! 2^34 ticks, which is two years: longer holds look younger. In an abandoned hold, the place of the
//! thread id has the process id, for by then the participant's record may be another's.

use std::time::Duration;

use crate::record::Word;

const TAG_BITS: u32 = 8;
const TID_BITS: u32 = 22;
const SINCE_BITS: u32 = 64 - TAG_BITS - TID_BITS;
const SINCE_MASK: u64 = (1 << SINCE_BITS) - 1;
/// One unit of `since`: the coarse clock of a kernel at 250 Hz moves in steps of this size.
const TICK_NS: u64 = 4_000_000;

/// A decoded stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The thread, or the process when the hold was abandoned.
    pub(crate) tid: u32,
    since: u64,
}

impl Stamp {
    #[inline]
    pub(crate) fn new(tid: u32, now_ns: u64) -> Stamp {
        Stamp {
            tid,
            since: (now_ns / TICK_NS) & SINCE_MASK,
        }
    }

    #[inline]
    pub(crate) fn encode(self, of: Word) -> u64 {
        let tid = u64::from(self.tid) & ((1 << TID_BITS) - 1);
        tag(of) << (64 - TAG_BITS) | tid << SINCE_BITS | self.since
    }

    /// `None` when `bits` belong to another hold than `of`.
    pub(crate) fn decode(bits: u64, of: Word) -> Option<Stamp> {
        (bits >> (64 - TAG_BITS) == tag(of)).then_some(Stamp {
            tid: ((bits >> SINCE_BITS) & ((1 << TID_BITS) - 1)) as u32,
            since: bits & SINCE_MASK,
        })
    }

    /// The same moment, under another id.
    pub(crate) fn with_tid(self, tid: u32) -> Stamp {
        Stamp { tid, ..self }
    }

    pub(crate) fn age(self, now_ns: u64) -> Duration {
        let ticks = (now_ns / TICK_NS).wrapping_sub(self.since) & SINCE_MASK;
        // The coarse clock that stamped it may be ahead of the one that asks by a tick: that is 0, not
        // two years.
        if ticks > SINCE_MASK / 2 {
            return Duration::ZERO;
        }
        Duration::from_nanos(ticks * TICK_NS)
    }
}

fn tag(of: Word) -> u64 {
    of.sequence() & ((1 << TAG_BITS) - 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_for_its_own_hold_only() {
        let of = Word::free(300);
        let stamp = Stamp::new((1 << TID_BITS) - 1, 86_400_000_000_000);
        assert_eq!(Stamp::decode(stamp.encode(of), of), Some(stamp));
        assert_eq!(Stamp::decode(stamp.encode(of), Word::free(301)), None);
    }

    #[test]
    fn age_survives_the_wrap_of_the_tick_count() {
        let before = (SINCE_MASK - 1) * TICK_NS;
        let stamp = Stamp::new(1, before);
        assert_eq!(
            stamp.age(before + 5 * TICK_NS),
            Duration::from_nanos(5 * TICK_NS)
        );
        assert_eq!(stamp.age(before - TICK_NS), Duration::ZERO);
    }
}
