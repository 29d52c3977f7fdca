//! The hold word: the holder, the fact that it holds, and its token, in one `u64`.
//!
//! ```text
//!  63          52  51  50  49                                          0
//! +--------------+---+---+---------------------------------------------+
//! | participant  | C | A |                  sequence                   |
//! +--------------+---+---+---------------------------------------------+
//! ```
//!
//! | participant | A | meaning |
//! |---|---|---|
//! | 0 | 0 | free |
//! | 0 | 1 | abandoned: free, but its last holder died with it, and its successor has to be told |
//! | p | 0 | held by p |
//! | p | 1 | retiring: p is taking the key away, under the key's stripe |
//!
//! C: a waiter sleeps until this is given back. Identity and possession are one word on purpose:
//! with two words, a process that dies or stalls between them leaves a live lock that looks dead.

/// How many participants a store can have: what fits twelve bits, less the zero that means "free".
pub(crate) const PARTICIPANT_MAX: u16 = (1 << PARTICIPANT_BITS) - 1;
/// The largest sequence. A thousand grants a microsecond use it up in thirteen days, a million a
/// second in thirty-five years; `take` refuses to go past it rather than start again from zero.
pub(crate) const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

/// By how much every sequence grows with a reboot: pages with the last grants may not have reached
/// the disk, and tokens must not come twice. More than can be granted while a page waits to be
/// written.
pub(crate) const SEQUENCE_LEAP: u64 = 1 << 36;

/// A sequence, unless it is one that grants and leaps do not get to.
pub(crate) fn reachable(sequence: u64) -> Option<u64> {
    (sequence < SEQUENCE_MAX - SEQUENCE_LEAP).then_some(sequence)
}

const PARTICIPANT_BITS: u32 = 12;
const SEQUENCE_BITS: u32 = 50;
const PARTICIPANT_SHIFT: u32 = 64 - PARTICIPANT_BITS;
const CONTENDED: u64 = 1 << 51;
const ABANDONED: u64 = 1 << 50;

/// A participant's number, 1 to [`PARTICIPANT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ParticipantId(u16);

impl ParticipantId {
    pub(crate) fn new(number: u16) -> Option<ParticipantId> {
        (1..=PARTICIPANT_MAX)
            .contains(&number)
            .then_some(ParticipantId(number))
    }

    pub(crate) fn get(self) -> u16 {
        self.0
    }
}

/// One value of a hold word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) const fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// Free, after a grant with `sequence`.
    pub(crate) fn free(sequence: u64) -> Word {
        Word(sequence & SEQUENCE_MAX)
    }

    /// Held by `by` under `sequence`.
    pub(crate) fn held(by: ParticipantId, sequence: u64) -> Word {
        Word(u64::from(by.0) << PARTICIPANT_SHIFT | sequence & SEQUENCE_MAX)
    }

    /// Being taken away by `by`.
    pub(crate) fn retiring(by: ParticipantId, sequence: u64) -> Word {
        Word(Word::held(by, sequence).0 | ABANDONED)
    }

    /// The participant that has it, also while the word is being retired.
    pub(crate) fn participant(self) -> Option<ParticipantId> {
        ParticipantId::new((self.0 >> PARTICIPANT_SHIFT) as u16)
    }

    pub(crate) fn sequence(self) -> u64 {
        self.0 & SEQUENCE_MAX
    }

    pub(crate) fn is_free(self) -> bool {
        self.0 >> PARTICIPANT_SHIFT == 0
    }

    /// Free, and no holder died with it: the only state that the fast path takes.
    pub(crate) fn is_plainly_free(self) -> bool {
        self.0 <= SEQUENCE_MAX
    }

    pub(crate) fn is_contended(self) -> bool {
        self.0 & CONTENDED != 0
    }

    /// Free, and its last holder died with it.
    pub(crate) fn is_abandoned(self) -> bool {
        self.is_free() && self.0 & ABANDONED != 0
    }

    pub(crate) fn is_retiring(self) -> bool {
        !self.is_free() && self.0 & ABANDONED != 0
    }

    pub(crate) fn contended(self) -> Word {
        Word(self.0 | CONTENDED)
    }

    /// What the word becomes when a dead holder's hold is freed without a new holder.
    pub(crate) fn abandoned(self) -> Word {
        Word(self.sequence() | ABANDONED)
    }

    /// Whether both are the same grant: equal but for the contended bit.
    pub(crate) fn same_hold(self, other: Word) -> bool {
        (self.0 ^ other.0) & !CONTENDED == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_as_they_went_in() {
        for number in [1, 2, 77, PARTICIPANT_MAX] {
            for sequence in [0, 1, 4096, SEQUENCE_MAX] {
                let by = ParticipantId::new(number).unwrap();
                let word = Word::held(by, sequence);
                for word in [word, word.contended(), Word::retiring(by, sequence)] {
                    assert_eq!(word.participant(), Some(by));
                    assert_eq!(word.sequence(), sequence);
                    assert!(!word.is_free() && !word.is_plainly_free());
                }
                assert!(word.contended().is_contended() && !word.is_contended());
                assert!(Word::retiring(by, sequence).is_retiring() && !word.is_retiring());
                assert!(word.same_hold(word.contended()));
                let left = word.contended().abandoned();
                assert!(left.is_free() && left.is_abandoned() && !left.is_plainly_free());
                assert_eq!((left.sequence(), left.participant()), (sequence, None));
            }
        }
    }

    #[test]
    fn participant_zero_is_nobody() {
        assert_eq!(ParticipantId::new(0), None);
        assert_eq!(ParticipantId::new(PARTICIPANT_MAX + 1), None);
        assert!(Word::free(9).is_plainly_free());
        assert!(Word::from_bits(0).is_plainly_free());
    }
}
