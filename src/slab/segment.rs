//! How a segment of the log is described in the slab.

use crate::slab::layout::{SEGMENT_BYTES, SEGMENTS};
use crate::sync::AtomicU64;

/// A segment of the log, at its number modulo their count.
#[repr(C)]
pub(crate) struct Segment {
    /// Its number, `SEGMENT_CLOSING` and `SEGMENT_BEGUN`; 0: none is here.
    pub(crate) number: AtomicU64,
    /// The place behind its last record once it is not appended to any more; before that one of
    /// another segment, or 0.
    pub(crate) end: AtomicU64,
    /// How many of its bytes are garbage, and how many of these have been given back: see
    /// [`Lost`].
    pub(crate) lost: AtomicU64,
    /// While its values are moved elsewhere: how far its records, or the slots, were looked at;
    /// see `store::space::compact`. Before that, which process is writing to it: see
    /// `store::log::writing`.
    pub(crate) cursor: AtomicU64,
}

/// What a segment has lost, in one word, so that both counts change at once.
///
/// ```text
///  63              46 45                27 26                       0
/// +------------------+--------------------+--------------------------+
/// | number div 512   | pages given back   | garbage, in units of 16  |
/// +------------------+--------------------+--------------------------+
/// ```
///
/// The number (modulo 2^18) is that of the segment, so that a late process counts nothing of one
/// for another. With another number the word says nothing, and the next process that counts begins
/// it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost(u64);

const GARBAGE_BITS: u32 = 27;
const PUNCHED_BITS: u32 = 19;
const GARBAGE_UNIT: u64 = 16;
const PUNCHED_UNIT: u64 = 4096;

impl Lost {
    /// Nothing, of a segment.
    pub(crate) fn none(number: u32) -> Lost {
        let mark = u64::from(number / SEGMENTS);
        Lost(mark << (GARBAGE_BITS + PUNCHED_BITS))
    }

    /// The word of a segment; `None`: it is another one's.
    pub(crate) fn of(number: u32, bits: u64) -> Option<Lost> {
        let same = (bits ^ Lost::none(number).0) >> (GARBAGE_BITS + PUNCHED_BITS) == 0;
        same.then_some(Lost(bits))
    }

    /// With more garbage, some of it given back. `None`: there is no such segment.
    pub(crate) fn and(self, garbage: u64, punched: u64) -> Option<u64> {
        let garbage = (self.garbage() + garbage).div_ceil(GARBAGE_UNIT);
        let punched = (self.punched() + punched) / PUNCHED_UNIT;
        let fits = garbage >> GARBAGE_BITS == 0 && punched >> PUNCHED_BITS == 0;
        let mark = self.0 >> (GARBAGE_BITS + PUNCHED_BITS) << (GARBAGE_BITS + PUNCHED_BITS);
        fits.then_some(mark | punched << GARBAGE_BITS | garbage)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// Garbage, in bytes.
    pub(crate) fn garbage(self) -> u64 {
        (self.0 & ((1 << GARBAGE_BITS) - 1)) * GARBAGE_UNIT
    }

    /// How many of the garbage bytes are holes by now.
    pub(crate) fn punched(self) -> u64 {
        (self.0 >> GARBAGE_BITS & ((1 << PUNCHED_BITS) - 1)) * PUNCHED_UNIT
    }
}

/// Nothing new may point into the segment: what is in it is being moved elsewhere.
pub(crate) const SEGMENT_CLOSING: u64 = 1 << 32;
/// Beside that: a process is beginning it, and will open it.
pub(crate) const SEGMENT_BEGUN: u64 = 1 << 33;
/// In the cursor, of a segment that is not closed: somebody is writing to it; see
/// `store::log::writing`.
pub(crate) const SEGMENT_WRITING: u64 = 1 << 61;

const _: () = assert!(size_of::<Segment>() == SEGMENT_BYTES as usize);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_adds_up_and_stays_with_its_segment() {
        let number = 3 * SEGMENTS + 7;
        let lost = |bits| Lost::of(number, bits);
        let none = Lost::none(number);
        assert_eq!((none.garbage(), none.punched()), (0, 0));
        let some = lost(none.and(48, 0).unwrap()).unwrap();
        let more = lost(some.and(1 << 20, 1 << 19).unwrap()).unwrap();
        assert_eq!((more.garbage(), more.punched()), ((1 << 20) + 48, 1 << 19));
        assert_eq!(Lost::of(number + SEGMENTS, more.bits()), None);
        assert_eq!(Lost::of(number + 1, more.bits()), Some(more));
        // The longest record has a segment of its own.
        assert!(none.and((1 << 30) + 2_048, 1 << 30).is_some());
        assert_eq!(more.and(1 << 31, 0), None);
        assert_eq!(lost(u64::MAX), None);
    }
}
