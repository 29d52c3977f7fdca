//! The fixed-layout records of the file, as structures of atomics. Their sizes and offsets *are*
//! the format; the assertions below keep them so.

use std::mem::offset_of;

use crate::record::{Cell, Cells, Hold, changes};
use crate::slab::Meta;
use crate::slab::layout::{
    ABSENCES, BLOCK_BYTES, PARTICIPANT_BYTES, PERMITS_PER_BLOCK, SEGMENT_BYTES, SEGMENTS,
    SLOT_BYTES, STRIPE_BYTES,
};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Words in the body of a slot.
pub(crate) const BODY_WORDS: usize = 17;
/// The states of slots and blocks; besides these, `CLAIMED | stripe` while a key is being made.
pub(crate) const STATE_FREE: u8 = 0;
pub(crate) const STATE_USED: u8 = 1;
/// A slot that continues the one before it.
pub(crate) const STATE_TAIL: u8 = 2;
pub(crate) const CLAIMED: u8 = 0x80;

/// One slot. The first 48 bytes mean the same in every life of the slot (S3); the rest is used for
/// different things, and no process writes it without the stripe or the latch.
#[repr(C)]
pub(crate) struct Slot {
    /// The hold of a lock, the latch of an average; of a semaphore only used while it is taken
    /// away.
    pub(crate) hold: Hold,
    pub(crate) meta: AtomicU64,
    /// Grows with each wake-up; what waiters sleep on.
    pub(crate) wake: AtomicU32,
    /// The next slot of the chain, as a link.
    pub(crate) next: AtomicU32,
    /// The low half of the key's hash.
    pub(crate) hash: AtomicU32,
    /// How many slots in a row the key takes, this one included.
    pub(crate) span: AtomicU32,
    /// The selector of an average or a value; a semaphore's `first block << 32 | permits`.
    pub(crate) aux: AtomicU64,
    body: SlotBody,
}

/// The body: of an average two cells and the key; of a value the word `use`, the key, and two cells
/// as long as the room allows; of everything else the key. The tag follows the key, but of a value,
/// where it is in the cells. All start on a word. What does not fit continues in the body of the
/// next slot.
#[repr(C)]
struct SlotBody {
    cells: [Cell; 2],
    rest: [AtomicU64; 3],
}

/// One permit of a semaphore: a hold, and in the first permit the semaphore's last token.
#[repr(C)]
pub(crate) struct Permit {
    pub(crate) hold: Hold,
    pub(crate) ticket: AtomicU64,
}

/// How many different keys a process can be seen waiting for at a time.
pub(crate) const WAITING_ENTRIES: usize = 6;

/// What a participant says about itself. Its beacon decides whether it lives; this is for showing.
#[repr(C)]
pub(crate) struct Participant {
    /// Joins so far (low half) and flags.
    pub(crate) state: AtomicU64,
    /// Process id, and user id in the upper half.
    pub(crate) pid_uid: AtomicU64,
    pub(crate) started: AtomicU64,
    pub(crate) pid_namespace: AtomicU64,
    /// Where the slab is mapped in that process: no longer, once it has executed another program.
    pub(crate) mapped_at: AtomicU64,
    pub(crate) program: [AtomicU64; 3],
    /// `threads waiting << 32 | link of the slot waited for`.
    pub(crate) waiting: [AtomicU64; WAITING_ENTRIES],
    /// How many values were found, and how many were not, by all processes that had this number.
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
}

/// A change of structure that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    None = 0,
    /// A key is being made: undone unless it has its kind.
    Create = 1,
    /// A key is being taken away if it is not held: undone unless its kind is "none" already.
    Reclaim = 2,
    /// A key is being taken away, held or not: finished if all its words were taken, otherwise
    /// undone.
    Remove = 3,
    /// Claimed slots and blocks are being given back: finished.
    Free = 4,
}

/// What the next process that locks a stripe needs to finish or undo what a dead process left.
#[repr(C)]
pub(crate) struct Stripe {
    pub(crate) intent: AtomicU64,
    /// `first << 32 | count` of the slots and blocks concerned.
    pub(crate) slots: AtomicU64,
    pub(crate) blocks: AtomicU64,
    pub(crate) bucket: AtomicU64,
    /// No sequence of a key that was taken away was higher.
    pub(crate) floor: AtomicU64,
    /// How many slots left its chains (I8).
    pub(crate) departures: AtomicU64,
    /// The process that died with a semaphore that is being made again: see [`Stripe::untold`].
    untold: AtomicU64,
    /// Which keys are not to be made: see [`Stripe::is_watched`].
    watched: AtomicU64,
}

/// Beside the process id, which may be 0: there is one to tell of.
const UNTOLD: u64 = 1 << 31;

/// The hashes of keys that a transaction has read and that are not there.
#[repr(C)]
pub(crate) struct Absences {
    count: AtomicU64,
    hashes: [AtomicU64; ABSENCES],
}

impl Absences {
    /// Everything.
    pub(crate) fn words(&self) -> impl Iterator<Item = &AtomicU64> {
        std::iter::once(&self.count).chain(&self.hashes)
    }

    fn all(&self) -> &[AtomicU64] {
        let count = self.count.load(Ordering::Relaxed).min(ABSENCES as u64);
        &self.hashes[..count as usize]
    }

    /// Only with the lock of transactions. `false`: there is no more room.
    pub(crate) fn add(&self, hash: u64) -> bool {
        let next = self.all().len();
        let Some(place) = self.hashes.get(next) else {
            return false;
        };
        place.store(hash, Ordering::Relaxed);
        // The lock of the stripe orders both.
        self.count.store(next as u64 + 1, Ordering::Relaxed);
        true
    }

    pub(crate) fn has(&self, hash: u64) -> bool {
        let is_it = |one: &AtomicU64| one.load(Ordering::Relaxed) == hash;
        self.all().iter().any(is_it)
    }

    /// No transaction is under way, or ours ends. Only with the lock of transactions.
    pub(crate) fn forget(&self) {
        self.count.store(0, Ordering::Relaxed);
    }
}

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

const _: () = {
    assert!(size_of::<Slot>() == SLOT_BYTES as usize);
    assert!(offset_of!(Slot, meta) == 24 && offset_of!(Slot, wake) == 32);
    assert!(offset_of!(Slot, hash) == 40 && offset_of!(Slot, aux) == 48);
    assert!(offset_of!(Slot, body) == 56 && size_of::<SlotBody>() == 8 * BODY_WORDS);
    assert!(size_of::<Permit>() == (BLOCK_BYTES as usize) / PERMITS_PER_BLOCK as usize);
    assert!(size_of::<Participant>() == PARTICIPANT_BYTES as usize);
    assert!(size_of::<Stripe>() == STRIPE_BYTES as usize);
    assert!(size_of::<Segment>() == SEGMENT_BYTES as usize);
};

impl Slot {
    #[inline]
    pub(crate) fn meta(&self) -> Option<Meta> {
        Meta::decode(self.meta.load(Ordering::Acquire))
    }

    pub(crate) fn cells(&self) -> Cells<'_> {
        Cells {
            selector: &self.aux,
            cells: &self.body.cells,
        }
    }

    /// Word `at` of the body, 0 to 16. The words of a cell are reached through `cells` only, but
    /// the body of a continuing slot is all words.
    pub(super) fn body_ptr(&self) -> *const AtomicU64 {
        (&raw const self.body).cast()
    }

    /// A semaphore's first block and number of permits.
    #[inline]
    pub(crate) fn permits(&self) -> (u32, u32) {
        unpack(self.aux.load(Ordering::Acquire))
    }
}

impl Stripe {
    pub(crate) fn intent(&self) -> Option<Intent> {
        // Acquire: pairs with the Release in `set_intent`, so the other fields are those of the
        // intent.
        Some(match self.intent.load(Ordering::Acquire) {
            0 => Intent::None,
            1 => Intent::Create,
            2 => Intent::Reclaim,
            3 => Intent::Remove,
            4 => Intent::Free,
            _ => return None,
        })
    }

    pub(crate) fn set_intent(&self, intent: Intent) {
        // Release: what it is about was noted before, and what came of the last one is done.
        self.intent.store(intent as u64, Ordering::Release);
    }

    /// The process that died with the last semaphore of that hash, if an acquirer of the next one
    /// is to be told and no word says so: there is none yet.
    pub(crate) fn untold(&self, hash: u32) -> Option<u32> {
        let bits = self.untold.load(Ordering::Acquire);
        let is_its = bits & UNTOLD != 0 && bits >> 32 == u64::from(hash);
        is_its.then_some((bits & (UNTOLD - 1)) as u32)
    }

    /// Notes a death before the words that say so are taken. Only under the stripe. A note of
    /// another key stays: it is there because a process was killed, and this one is needed only if
    /// a process will be.
    pub(crate) fn note_untold(&self, hash: u32, pid: u32) {
        let note = u64::from(hash) << 32 | UNTOLD | u64::from(pid) & (UNTOLD - 1);
        // Release: pairs with the Acquire of a process that finds it under the stripe after us.
        let none = 0;
        let _ = self
            .untold
            .compare_exchange(none, note, Ordering::Release, Ordering::Relaxed);
    }

    /// A word of the key says it now. Only under the stripe.
    pub(crate) fn forget_untold(&self, hash: u32) {
        if self.untold(hash).is_some() {
            self.untold.store(0, Ordering::Release);
        }
    }

    /// Notes that a key of that hash is not there, and is not to be made as long as the lock of
    /// transactions is held. Only under the stripe, and with that lock.
    pub(crate) fn watch(&self, hash: u64) {
        self.watched.fetch_or(watch_bits(hash), Ordering::Relaxed);
    }

    /// Whether a transaction that is under way, or was when it died, may have found no key of that
    /// hash: a Bloom filter (Bloom, "Space/time trade-offs in hash coding with allowable errors",
    /// CACM 13, 1970) before [`Absences`], which says it for certain. Only under the stripe.
    pub(crate) fn is_watched(&self, hash: u64) -> bool {
        let bits = watch_bits(hash);
        self.watched.load(Ordering::Relaxed) & bits == bits
    }

    /// No transaction is under way, or ours ends. Only with the lock of transactions.
    pub(crate) fn forget_watched(&self) {
        self.watched.store(0, Ordering::Relaxed);
    }

    /// What `look` says, if no slot left a chain of the stripe meanwhile; otherwise `false`.
    pub(crate) fn is_unchanged_while(&self, look: impl FnOnce() -> bool) -> bool {
        changes::is_unchanged_while(&self.departures, look)
    }
}

/// How many bits of 64 a watched key sets: in a stripe with one such key another one has them by
/// chance once in a million times, in one with sixteen every fourth time; then all are looked at.
const WATCH_BITS: u32 = 6;

fn watch_bits(hash: u64) -> u64 {
    // Not the bits from 32 on, which chose the bucket and with it the stripe.
    let mixed = (hash as u32 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash >> 44;
    (0..WATCH_BITS).fold(0, |bits, n| bits | 1 << (mixed >> (6 * n + 16) & 63))
}

/// Two numbers in a word, the first in the upper half.
pub(crate) fn pack(first: u32, count: u32) -> u64 {
    u64::from(first) << 32 | u64::from(count)
}

#[inline]
pub(crate) fn unpack(bits: u64) -> (u32, u32) {
    ((bits >> 32) as u32, bits as u32)
}

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
