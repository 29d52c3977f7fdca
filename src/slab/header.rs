//! The header page: what the store was made with (checked by a CRC, written once, kept twice), and
//! what changes (each a word of its own).

use std::io;

use nix::errno::Errno;

use crate::slab::layout::STRIPES;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

pub(crate) const MAGIC: [u8; 8] = *b"slablock";
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Where the copy of the static part lies: in another sector of the same page.
pub(crate) const COPY_OFFSET: u64 = 2048;
pub(crate) const MUTABLE_OFFSET: u64 = 128;
pub(crate) const STATIC_BYTES: usize = 64;

/// The slab is whole and may be used.
pub(crate) const STATE_READY: u64 = u64::from_le_bytes(*b"slready1");
/// The slab is being rebuilt: the first process that attaches starts over.
pub(crate) const STATE_REBUILDING: u64 = u64::from_le_bytes(*b"rebuild1");

/// The static part of the header.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 8 | magic `slablock` |
/// | 8 | 4 | format version |
/// | 12 | 4 | feature bits, all unknown ones refused |
/// | 16 | 4 | capacity in slots |
/// | 20 | 4 | zero |
/// | 24 | 16 | seed of the key hash |
/// | 40 | 16 | id of the store |
/// | 56 | 4 | zero |
/// | 60 | 4 | CRC-32 of the bytes before |
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Static {
    pub(crate) capacity: u32,
    pub(crate) seed: [u64; 2],
    pub(crate) id: u128,
}

/// Why a static part cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing but zeros: the slab was never finished.
    Empty,
    /// Some other file.
    NoMagic,
    /// A version or feature bits that this code does not know.
    Version(u32),
    /// Ours, but damaged.
    Damaged,
}

impl Static {
    pub(crate) fn encode(&self) -> [u8; STATIC_BYTES] {
        let mut bytes = [0; STATIC_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.capacity.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seed[0].to_le_bytes());
        bytes[32..40].copy_from_slice(&self.seed[1].to_le_bytes());
        bytes[40..56].copy_from_slice(&self.id.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; STATIC_BYTES]) -> Result<Static, Refusal> {
        let u32_at =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let u64_at =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        if bytes.iter().all(|b| *b == 0) {
            return Err(Refusal::Empty);
        }
        if bytes[..8] != MAGIC {
            return Err(Refusal::NoMagic);
        }
        // The version comes before the CRC: another version may have its CRC elsewhere.
        if u32_at(8) != FORMAT_VERSION {
            return Err(Refusal::Version(u32_at(8)));
        }
        if crc32fast::hash(&bytes[..60]) != u32_at(60) {
            return Err(Refusal::Damaged);
        }
        if u32_at(12) != 0 {
            return Err(Refusal::Version(u32_at(12)));
        }
        Ok(Static {
            capacity: u32_at(16),
            seed: [u64_at(24), u64_at(32)],
            id: u128::from(u64_at(40)) | u128::from(u64_at(48)) << 64,
        })
    }
}

/// Makes the checksum right, for damage that is to pass for whole.
#[cfg(any(fuzzing, test))]
pub(crate) fn seal_static(bytes: &mut [u8; STATIC_BYTES]) {
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
}

/// The mutable part of the header.
#[repr(C)]
pub(crate) struct Mutable {
    pub(crate) state: AtomicU64,
    /// Which file the slab itself is: a copy is told by that.
    pub(crate) slab: NamedFile,
    /// Which files `attach`, `beacons` and `stripes` are.
    pub(crate) lock_files: [NamedFile; 3],
    /// How many of each are allocated; they only grow.
    pub(crate) participants: AtomicU32,
    pub(crate) slots: AtomicU32,
    pub(crate) blocks: AtomicU32,
    /// Where to look next; wrong values cost time only.
    pub(crate) next_participant: AtomicU32,
    pub(crate) slot_hint: AtomicU32,
    pub(crate) block_hint: AtomicU32,
    /// Where the next value is put in the log: `segment << 32 | offset in units of 16 bytes`; 0
    /// before the first.
    pub(crate) tail: AtomicU64,
    /// How many bytes the log may take.
    pub(crate) size_limit: AtomicU64,
    /// What makes room, and what a value that was set has to survive; see
    /// `store::members::config`.
    pub(crate) eviction: AtomicU32,
    pub(crate) durability: AtomicU32,
    /// Where in the log the list of flips of a decided transaction lies; 0: there is none.
    pub(crate) journal: AtomicU64,
    /// The highest number that a segment ever had.
    pub(crate) last_segment: AtomicU64,
    /// Since the store was made.
    pub(crate) evictions: AtomicU64,
    pub(crate) damaged: AtomicU64,
    /// After `size_limit` was lowered: what the log may take at the most, until it fits; otherwise
    /// 0 or less than that.
    pub(crate) shrinking: AtomicU64,
    /// How many syncs have failed, in the high half; how many of these were made good since, in
    /// the low half. While the two differ nothing is known to be on the device.
    pub(crate) failed_syncs: AtomicU64,
    /// The boots of the machine in which it was in use, the latest ones, in no order.
    pub(crate) boots: [Boot; BOOTS],
    /// Of a shard: the bytes of the file `fanout` of its cache, filled up with zeros. Otherwise
    /// zeros.
    pub(crate) cache: [AtomicU64; 5],
    /// How many values were computed and could not be kept, since the store was made.
    pub(crate) unkept: AtomicU64,
    /// See `store::era`.
    pub(crate) era: AtomicU64,
    /// What the log may take since its device was full, if that is less than `size_limit`; 0: it
    /// was not.
    pub(crate) device_limit: AtomicU64,
    /// How long a value may be, if that was chosen; 0: a quarter of `size_limit`.
    pub(crate) value_limit: AtomicU64,
    /// How much room is being made for a large value; see `store::space::precedence`. 0: none.
    pub(crate) wanted: AtomicU64,
    /// Which kinds of keys may be in it beside those that every build knows: a build that does not
    /// know one of them refuses the store. None so far.
    pub(crate) kinds: AtomicU64,
    /// Wall-clock milliseconds since 1970 when it was made; 0: not known.
    pub(crate) made_ms: AtomicU64,
    /// Of the evictions, how many were for want of slots, and how many for want of room on the
    /// device; the others were for the limit.
    pub(crate) evicted_for_slots: AtomicU64,
    pub(crate) evicted_for_device: AtomicU64,
}

/// What the header has for each stripe, apart from all that changes often: every reader looks at
/// it.
#[repr(C)]
pub(crate) struct Counts {
    /// How many rows of buckets; 0 as 1. See `slab::buckets`.
    pub(crate) rows: [AtomicU32; STRIPES as usize],
}

/// Where [`Counts`] lie in the file.
pub(crate) const COUNTS_OFFSET: u64 = 3_072;

/// Where [`Mutable::cache`] lies in the file.
pub(crate) const CACHE_OFFSET: u64 = 520;

#[cfg(not(loom))]
const _: () = assert!(MUTABLE_OFFSET + std::mem::offset_of!(Mutable, cache) as u64 == CACHE_OFFSET);

/// How many boots the header remembers.
pub(crate) const BOOTS: usize = 8;

/// A file that the header names: see [`FileIdentity`](crate::os::identity::FileIdentity).
#[repr(C)]
pub(crate) struct NamedFile {
    pub(crate) device: AtomicU64,
    pub(crate) inode: AtomicU64,
    pub(crate) born: AtomicU64,
}

impl NamedFile {
    pub(crate) fn store(&self, device: u64, inode: u64, born: u64) {
        self.device.store(device, Ordering::Relaxed);
        self.born.store(born, Ordering::Relaxed);
        self.inode.store(inode, Ordering::Release);
    }

    /// Device, inode and birth.
    pub(crate) fn load(&self) -> (u64, u64, u64) {
        let inode = self.inode.load(Ordering::Acquire);
        let device = self.device.load(Ordering::Relaxed);
        (device, inode, self.born.load(Ordering::Relaxed))
    }
}

/// A boot of the machine, as the processes that have one boot id saw it.
#[repr(C)]
pub(crate) struct Boot {
    pub(crate) id: [AtomicU64; 2],
    /// When the machine was booted, in milliseconds since 1970 by the wall clock; 0: nothing
    /// stands here.
    pub(crate) moment_ms: AtomicU64,
}

/// One failure more, in the high half of the word.
const FAILED_SYNC: u64 = 1 << 32;

impl Mutable {
    /// Notes that a sync has failed, if that is what the error says: one that could not even be
    /// asked for has lost nothing. What follows from it is `store::members::device`'s.
    pub(crate) fn note_failed_sync(&self, error: &io::Error) {
        let not_asked = [
            Errno::EBADF,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOENT,
            Errno::ENOMEM,
            Errno::EACCES,
        ];
        let is = |errno: &Errno| error.raw_os_error() == Some(*errno as i32);
        if !not_asked.iter().any(is) {
            // Pairs with the Acquire of processes that look. Wraps around in the high half only.
            self.failed_syncs.fetch_add(FAILED_SYNC, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_part_comes_back_and_every_damage_is_told_apart() {
        let part = Static {
            capacity: 77,
            seed: [1, 2],
            id: 3 << 100,
        };
        let bytes = part.encode();
        assert_eq!(Static::decode(&bytes), Ok(part));
        let broken = |at: usize, to: u8| {
            let mut bytes = bytes;
            bytes[at] = to;
            Static::decode(&bytes).unwrap_err()
        };
        assert_eq!(Static::decode(&[0; STATIC_BYTES]), Err(Refusal::Empty));
        assert_eq!(broken(0, b'x'), Refusal::NoMagic);
        assert_eq!(broken(8, 9), Refusal::Version(9));
        assert_eq!(broken(16, 78), Refusal::Damaged);
    }

    #[test]
    fn unknown_features_are_refused_by_number() {
        let mut bytes = Static {
            capacity: 1,
            seed: [0; 2],
            id: 0,
        }
        .encode();
        bytes[12] = 4;
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Static::decode(&bytes), Err(Refusal::Version(4)));
    }
}
