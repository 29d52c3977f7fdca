//! The fixed-layout records of the file, as structures of atomics. Their sizes and offsets *are*
//! the format; the assertions below keep them so.

use std::mem::offset_of;

use crate::os::memory::hint;
use crate::record::{Cell, Cells, Hold};
use crate::slab::Meta;
use crate::slab::layout::{
    ABSENCES, BLOCK_BYTES, PARTICIPANT_BYTES, PERMITS_PER_BLOCK, SLOT_BYTES,
};
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Words in the body of a slot, and where it begins. The words of an average's cells are reached
/// through [`Slot::cells`] only, but the body of a continuing slot is all words.
pub(crate) const BODY_WORDS: usize = 17;
pub(super) const BODY_OFFSET: usize = 56;
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
    pub(crate) span: AtomicU16,
    /// For the moment of the next offer to those who wait; 0 so far.
    _offer: AtomicU16,
    /// The selector of an average or a value; a semaphore's `first block << 32 | permits`.
    pub(crate) aux: AtomicU64,
    body: SlotBody,
}

/// The body: of an average two cells and the key; of a value the word `use`, the key, and two cells
/// as long as the room allows; of a turn the key; of everything else a word for the line of those
/// who wait, four for what is counted of waiting, 0 so far, and the key. The tag follows the key,
/// but of a value, where it is in the cells. All start on a word. What does not fit continues in
/// the body of the next slot.
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

const _: () = {
    assert!(size_of::<Slot>() == SLOT_BYTES as usize);
    assert!(offset_of!(Slot, meta) == 24 && offset_of!(Slot, wake) == 32);
    assert!(offset_of!(Slot, hash) == 40 && offset_of!(Slot, span) == 44);
    assert!(offset_of!(Slot, aux) == 48);
    assert!(offset_of!(Slot, body) == BODY_OFFSET && size_of::<SlotBody>() == 8 * BODY_WORDS);
    assert!(size_of::<Permit>() == (BLOCK_BYTES as usize) / PERMITS_PER_BLOCK as usize);
    assert!(size_of::<Participant>() == PARTICIPANT_BYTES as usize);
};

/// A line of the processor's cache.
const LINE_BYTES: u64 = 64;

impl Slot {
    /// Has the processor fetch so many slots from this one on, all their lines at once: what is
    /// read of the second one depends on what is read of the first, and each would be waited for in
    /// its turn.
    #[inline(always)]
    pub(crate) fn prefetch(&self, slots: u64) {
        let first: *const Slot = self;
        for at in (0..slots * SLOT_BYTES).step_by(LINE_BYTES as usize) {
            hint(first.cast::<u8>().wrapping_add(at as usize));
        }
    }

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

    /// A semaphore's first block and number of permits.
    #[inline]
    pub(crate) fn permits(&self) -> (u32, u32) {
        unpack(self.aux.load(Ordering::Acquire))
    }
}

/// Two numbers in a word, the first in the upper half.
pub(crate) fn pack(first: u32, count: u32) -> u64 {
    u64::from(first) << 32 | u64::from(count)
}

#[inline]
pub(crate) fn unpack(bits: u64) -> (u32, u32) {
    ((bits >> 32) as u32, bits as u32)
}
