//! Where everything lies in a slab: the documented format, worked out once more, so that tests can
//! damage what they mean to damage. A change of the format shows here, and nowhere else in the
//! tests.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// What regions begin on.
pub const PAGE: u64 = 4_096;
/// Both copies of the static part of the header.
pub const COPIES: [u64; 2] = [0, 2_048];
/// In the static part: format version, feature bits, checksum, and how long it is with that.
pub const VERSION: u64 = 8;
pub const FEATURES: usize = 12;
pub const HEADER_CRC: usize = 60;
pub const STATIC_BYTES: u64 = 64;

/// The part of the header that changes: the state, which file the slab is and which the three lock
/// files are (device, inode and birth of each), and then the counters, of 4 bytes each.
pub const STATE: u64 = 128;
pub const SLAB_FILE: u64 = STATE + 8;
pub const FILE_BYTES: u64 = 3 * 8;
pub const LOCK_FILES: u64 = SLAB_FILE + FILE_BYTES;
/// How many participants, slots and blocks are allocated.
pub const COUNTERS: u64 = LOCK_FILES + 3 * FILE_BYTES;
/// Where to look next for a participant, a slot and a block.
pub const HINTS: u64 = COUNTERS + 3 * 4;
/// The log: where the next value goes, how much it may take, what makes room, what values survive;
/// where the list of a decided transaction lies; the highest number of a segment; evictions and
/// damaged values so far.
pub const TAIL: u64 = HINTS + 3 * 4;
pub const SIZE_LIMIT: u64 = TAIL + 8;
pub const JOURNAL: u64 = SIZE_LIMIT + 16;
pub const LAST_SEGMENT: u64 = JOURNAL + 8;
/// Bounds and failed syncs; then the boots in which it was in use: id (16 bytes) and moment of
/// each, the latest first.
pub const FALLING: u64 = LAST_SEGMENT + 3 * 8;
pub const FAILED_SYNCS: u64 = FALLING + 8;
pub const BOOTS: u64 = FAILED_SYNCS + 8;
pub const BOOT_BYTES: u64 = 3 * 8;
/// The id of the latest boot.
pub const BOOT_ID: u64 = BOOTS;
/// Of a shard, what the file `fanout` of its cache says; then how many values could not be kept.
pub const CACHE: u64 = BOOTS + 8 * BOOT_BYTES;
/// How much room somebody makes for a large value; which kinds of keys there may be; when the store
/// was made; and two counts of evictions.
pub const WANTED: u64 = CACHE + 5 * 8 + 4 * 8;
pub const KINDS: u64 = WANTED + 8;
pub const HEADER_END: u64 = KINDS + 4 * 8;
/// How many rows of buckets each stripe has.
pub const ROWS: u64 = 3_072;

/// The files that are only ever locked, in the order of their inode numbers.
pub const LOCKED: [&str; 3] = ["attach", "beacons", "stripes"];

/// Device, inode and birth of a file, as the header has them.
pub fn words_of(file: &File) -> [u8; 24] {
    let meta = file.metadata().expect("look at a file");
    let born = meta.created().expect("when it was made");
    let born = born.duration_since(UNIX_EPOCH).expect("after 1970");
    let words = [meta.dev(), meta.ino(), born.as_nanos() as u64];
    let mut bytes = [0; 24];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Lets a slab that a test has put into `store` pass for the one that was made there, with the lock
/// files in `locks`, as far as it names any and they are there.
pub fn name_files(store: &Path, locks: &Path) {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    let Ok(slab) = options.open(store.join("slab")) else {
        return;
    };
    let write = |at, file: &File| {
        let mut words = [0; FILE_BYTES as usize];
        if slab.read_exact_at(&mut words, at).is_ok() && words != [0; FILE_BYTES as usize] {
            slab.write_all_at(&words_of(file), at)
                .expect("write to the slab");
        }
    };
    write(SLAB_FILE, &slab);
    for (number, name) in (0..).zip(LOCKED) {
        if let Ok(file) = options.open(locks.join(name)) {
            write(LOCK_FILES + number * FILE_BYTES, &file);
        }
    }
}

pub const STRIPES: u64 = PAGE;
pub const STRIPE_COUNT: u64 = 64;
pub const STRIPE_BYTES: usize = 128;
pub const SEGMENTS: u64 = STRIPES + STRIPE_COUNT * STRIPE_BYTES as u64;
pub const SEGMENT_COUNT: u64 = 512;
pub const SEGMENT_BYTES: u64 = 32;
pub const ABSENCES: u64 = SEGMENTS + SEGMENT_COUNT * SEGMENT_BYTES;
pub const PARTICIPANTS: u64 = ABSENCES + 2_048 * 8;
/// The sections: of the first one the buckets.
pub const BUCKETS: u64 = PARTICIPANTS + 4_096 * PARTICIPANT_BYTES;

/// The intents of a stripe that somebody died over.
pub const CREATE: u64 = 1;
pub const RECLAIM: u64 = 2;
pub const REMOVE: u64 = 3;
pub const FREE: u64 = 4;
pub const SPLIT: u64 = 5;

pub const PARTICIPANT_BYTES: u64 = 128;
/// In a participant's record: its process in the lower half and its user in the upper; and what its
/// threads wait for.
pub const PROCESS_AND_USER: u64 = 8;
pub const WAITING: u64 = 64;
pub const WAITING_BYTES: usize = 48;
pub const SLOT_BYTES: u64 = 192;
pub const BLOCK_BYTES: u64 = 128;
pub const PERMIT_BYTES: u64 = 32;

/// In a slot: the hold comes first. Its word has the sequence in its lower 50 bits, and above them
/// the bit of a retirement.
pub const SEQUENCE_BITS: u32 = 50;
pub const RETIRING: u64 = 1 << SEQUENCE_BITS;
/// In a slot: the meta word, with the kind in the lowest bits of its fifth byte; and the body.
pub const META: u64 = 24;
pub const BODY: u64 = 56;
/// In a slot: the low half of the key's hash.
pub const HASH: u64 = 40;
/// In a slot: how many slots its key takes, in two bytes.
pub const SPAN: u64 = 44;
/// In the body of a lock or semaphore: the key.
pub const KEY: u64 = BODY + 5 * 8;
/// In a slot: the two cells of an average, with six words of payload and the seal.
pub const CELLS: u64 = 56;
pub const CELL_BYTES: u64 = 56;
/// In the first permit of a semaphore: its last token.
pub const TICKET: u64 = 24;

/// How many slots the first section is for. Each further one is for as many as all before.
const SECTION: u64 = 4_096;
/// Bytes for each slot of a section: a bucket, its state, itself; and the same of a block.
const SLOT_SHARE: u64 = 4 + 1 + SLOT_BYTES;
const SHARE: u64 = SLOT_SHARE + 1 + BLOCK_BYTES;

/// The regions of a slab: of the first section.
#[derive(Clone)]
pub struct Layout {
    pub slot_states: u64,
    pub block_states: u64,
    pub participants: u64,
    pub slots: u64,
    pub blocks: u64,
}

/// The first number of the section in which a number lies, and how many it has.
fn section_of(number: u64) -> (u64, u64) {
    match number < SECTION {
        true => (0, SECTION),
        false => (1 << number.ilog2(), 1 << number.ilog2()),
    }
}

impl Layout {
    pub fn new() -> Layout {
        let blocks = BUCKETS + SLOT_SHARE * SECTION;
        Layout {
            slot_states: BUCKETS + 4 * SECTION,
            block_states: blocks,
            participants: PARTICIPANTS,
            slots: BUCKETS + 5 * SECTION,
            blocks: blocks + SECTION,
        }
    }

    pub fn slot(&self, number: u64) -> u64 {
        let (first, count) = section_of(number);
        BUCKETS + first * SHARE + count * 5 + (number - first) * SLOT_BYTES
    }

    pub fn block(&self, number: u64) -> u64 {
        let (first, count) = section_of(number);
        let before = first * SHARE + count * (SLOT_SHARE + 1);
        BUCKETS + before + (number - first) * BLOCK_BYTES
    }
}
