//! The stamp: which thread took a hold, and when. For showing only; nothing is decided by it.
//!
//! ```text
//!  63    56 55                    34 33  32                            0
//! +--------+------------------------+---+-------------------------------+
//! |  tag   |       thread id        | S |            since              |
//! +--------+------------------------+---+-------------------------------+
//! ```
//!
//! Written by a plain store after the hold was taken, so for a moment it is still the last
//! holder's: the tag (the low eight bits of the sequence) tells. Linux thread ids fit 22 bits. In
//! an abandoned hold, the place of the thread id has the process id, for by then the participant's
//! record may be another's.
//!
//! A turn that is over has no thread there (0), and in the 33 bits below how many microseconds it
//! took; S set: the last one ended without a value. Again only for what nothing depends on.
//!
//! `since` is in ticks of 4 ms of the coarse `CLOCK_MONOTONIC` (modulo 2^33, which is a year:
//! longer holds look younger), or, with S set, in seconds since 1970. Asking for those costs a
//! third of the coarse clock: it is what the fast path can afford.

use std::time::Duration;

use crate::record::Word;

const TAG_BITS: u32 = 8;
const TID_BITS: u32 = 22;
const SECONDS: u64 = 1 << 33;
const SINCE_MASK: u64 = SECONDS - 1;
const TID_SHIFT: u32 = 34;
/// One tick: the coarse clock of a kernel at 250 Hz moves in steps of this size.
const TICK_NS: u64 = 4_000_000;

/// A decoded stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The thread, or the process when the hold was abandoned.
    pub(crate) tid: u32,
    /// With the bit that says in which unit.
    since: u64,
}

impl Stamp {
    /// From the coarse monotonic clock.
    #[inline]
    pub(crate) fn precise(tid: u32, now_ns: u64) -> Stamp {
        Stamp {
            tid,
            since: (now_ns / TICK_NS) & SINCE_MASK,
        }
    }

    /// From the wall clock's seconds.
    #[inline]
    pub(crate) fn in_seconds(tid: u32, now_s: u64) -> Stamp {
        Stamp {
            tid,
            since: now_s & SINCE_MASK | SECONDS,
        }
    }

    /// The stamp of a turn that took so long; no time counts as a microsecond, more than 2.3 hours
    /// as that.
    pub(crate) fn took(us: u64) -> Stamp {
        Stamp {
            tid: 0,
            since: us.clamp(1, SINCE_MASK),
        }
    }

    /// The stamp of a turn that ended without a value, and of the one that follows it. `before`:
    /// how long the last one took that ended with one.
    pub(crate) fn in_vain(before: Option<Stamp>) -> Stamp {
        let took = before.and_then(Stamp::took_us).unwrap_or(0);
        Stamp {
            tid: 0,
            since: took | SECONDS,
        }
    }

    pub(crate) fn is_in_vain(self) -> bool {
        self.tid == 0 && self.since & SECONDS != 0
    }

    /// How long the turn took, in microseconds, or the last one that ended with a value. `None`:
    /// none did, or none was stamped.
    pub(crate) fn took_us(self) -> Option<u64> {
        let took = self.since & SINCE_MASK;
        (self.tid == 0 && took != 0).then_some(took)
    }

    #[inline]
    pub(crate) fn encode(self, of: Word) -> u64 {
        let tid = u64::from(self.tid) & ((1 << TID_BITS) - 1);
        tag(of) << (64 - TAG_BITS) | tid << TID_SHIFT | self.since
    }

    /// `None` when `bits` belong to another hold than `of`.
    pub(crate) fn decode(bits: u64, of: Word) -> Option<Stamp> {
        (bits >> (64 - TAG_BITS) == tag(of)).then_some(Stamp {
            tid: ((bits >> TID_SHIFT) & ((1 << TID_BITS) - 1)) as u32,
            since: bits & (SECONDS | SINCE_MASK),
        })
    }

    /// That moment, under another id.
    pub(crate) fn with_tid(self, tid: u32) -> Stamp {
        Stamp { tid, ..self }
    }

    /// How old it is, by the clock that it was made from.
    pub(crate) fn age(self, now_ns: u64, now_s: u64) -> Duration {
        let (now, unit_ns) = match self.since & SECONDS {
            0 => (now_ns / TICK_NS, TICK_NS),
            _ => (now_s, 1_000_000_000),
        };
        let units = now.wrapping_sub(self.since) & SINCE_MASK;
        // The coarse clock may be behind the one that stamped it, and the wall clock may have been
        // set back: that is 0, not half the range.
        if units > SINCE_MASK / 2 {
            return Duration::ZERO;
        }
        Duration::from_nanos(units.saturating_mul(unit_ns))
    }
}

#[inline]
fn tag(of: Word) -> u64 {
    of.sequence() & ((1 << TAG_BITS) - 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_for_its_own_hold_only() {
        let of = Word::free(300);
        for stamp in [
            Stamp::precise((1 << TID_BITS) - 1, 86_400_000_000_000),
            Stamp::in_seconds((1 << TID_BITS) - 1, 1_800_000_000),
        ] {
            assert_eq!(Stamp::decode(stamp.encode(of), of), Some(stamp));
            assert_eq!(Stamp::decode(stamp.encode(of), Word::free(301)), None);
        }
    }

    #[test]
    fn how_long_it_took_is_told_from_since_when_it_is_held() {
        let of = Word::free(300);
        for us in [1, 2, SINCE_MASK] {
            for stamp in [Stamp::took(us), Stamp::in_vain(Some(Stamp::took(us)))] {
                let decoded = Stamp::decode(stamp.encode(of), of).unwrap();
                assert_eq!((decoded.took_us(), decoded), (Some(us), stamp));
            }
            assert!(!Stamp::took(us).is_in_vain());
        }
        let nothing = Stamp::in_vain(None);
        assert!(nothing.is_in_vain() && nothing.took_us().is_none());
        let most = SINCE_MASK;
        assert_eq!(Stamp::took(u64::MAX).took_us(), Some(most));
        assert_eq!(Stamp::took(0).took_us(), Some(1));
        assert_eq!(Stamp::precise(1, 0).took_us(), None);
        let never = Stamp::decode(0, Word::free(0)).unwrap();
        assert_eq!(never.took_us(), None);
    }

    #[test]
    fn age_survives_the_wrap_of_the_tick_count_and_clocks_that_go_back() {
        let before = (SINCE_MASK - 1) * TICK_NS;
        let stamp = Stamp::precise(1, before);
        assert_eq!(
            stamp.age(before + 5 * TICK_NS, 0),
            Duration::from_nanos(5 * TICK_NS)
        );
        assert_eq!(stamp.age(before - TICK_NS, 0), Duration::ZERO);
        let stamp = Stamp::in_seconds(1, 1_800_000_000);
        assert_eq!(stamp.age(0, 1_800_000_007), Duration::from_secs(7));
        assert_eq!(stamp.age(0, 1_799_999_999), Duration::ZERO);
    }
}
