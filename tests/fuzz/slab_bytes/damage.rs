//! Damage: what the input does to a slab that was whole, by the places that the format names.

use std::ops::Range;

use slablock::fuzzing;

use super::super::input::Input;
use super::super::layout::{self, Layout};
use super::{CAPACITY, CAPACITY_MAX};

/// The first bytes of the input over those of the slab.
pub fn overlaid(template: &[u8], input: &mut Input) -> Vec<u8> {
    let mut slab = template.to_vec();
    let at = place(input).start;
    write(&mut slab, at, input.rest());
    slab
}

/// A list of small changes, each to one field, until the input ends.
pub fn damaged(template: &[u8], input: &mut Input) -> Vec<u8> {
    let mut slab = template.to_vec();
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        change(&mut slab, input);
    }
    slab
}

/// Values that are special somewhere: ends of ranges, marks, numbers that are none.
const SPECIAL: [u64; 16] = [
    0,
    1,
    u64::MAX,
    u32::MAX as u64,
    1 << 32,
    1 << 33,
    (1 << 50) - 1,
    (1 << 50) - 2,
    1 << 50,
    1 << 51,
    (1 << 50) - (1 << 32),
    0x7ff0_0000_0000_0000,
    0x7ff8_0000_0000_0001,
    0xffef_ffff_ffff_ffff,
    1 << 63,
    16_384,
];

fn change(slab: &mut Vec<u8>, input: &mut Input) {
    let how = input.byte();
    let at = place(input);
    let old = read(slab, at.start);
    let new = match how % 12 {
        0 => input.u64(),
        1 => input.byte().into(),
        2 => old ^ 1 << (input.byte() % 64),
        3 => input.of(&SPECIAL),
        4 => read(slab, place(input).start),
        5 => old & !0xffff_ffff | u64::from(input.u16()),
        6 => old & 0xffff_ffff | u64::from(input.u16()) << 32,
        // A hold word: by one of the few participants there are, or by anybody.
        7 => u64::from(input.byte() % 8) << 52 | old & ((1 << 52) - 1) ^ 1 << 50,
        8 => u64::from(input.u16() & 0xfff) << 52 | u64::from(input.byte()),
        // A meta word: kind, and lengths of key and tag.
        9 => {
            let (kind, key, tag) = (input.byte() & 7, input.u16() & 0x7ff, input.byte());
            old & 0xffff_ffff | u64::from(kind) << 32 | u64::from(key) << 36 | u64::from(tag) << 47
        }
        10 => return slab.truncate(slab.len().min(input.u24() as usize)),
        _ => old.wrapping_add(u64::from(input.byte())).wrapping_sub(128),
    };
    let bytes = new.to_le_bytes();
    let len = at.len().min(8);
    write(slab, at.start, &bytes[..len]);
}

/// A field: where it begins, and how long it is.
fn place(input: &mut Input) -> Range<usize> {
    let map = Layout::new();
    let region = input.byte();
    let number = u64::from(input.byte());
    let field = u64::from(input.byte());
    let word = |at: u64, words: u64| (at + field % words * 8, 8);
    // The few that are left over are about values.
    let region = if region >= 240 { region } else { region % 12 };
    let (at, len) = match region {
        240..244 => (layout::ROWS + number % 64 * 4, 4),
        244..248 => (layout::SEGMENTS + number % 4 * 32 + field % 4 * 8, 8),
        248.. => (layout::TAIL + field % 9 * 8, 8),
        0 => (layout::COPIES[number as usize % 2] + field % 16 * 4, 4),
        1 => (layout::STATE + field % 18 * 4, 4 + number % 2 * 4),
        2 => word(
            layout::STRIPES + number % 64 * layout::STRIPE_BYTES as u64,
            10,
        ),
        3 => (layout::BUCKETS + number % 64 * 4, 4),
        4 => (map.slot_states + number % CAPACITY, 1),
        5 => (map.block_states + number % 80, 1),
        6 => word(map.participants + number % 32 * 128, 16),
        7 => word(map.blocks + number % 32 * 128, 16),
        8 => (u64::from(input.u24()), 8),
        // The word of 32 bits in a slot: wake, next, hash, span.
        9 => (map.slot(number % CAPACITY) + 32 + field % 4 * 4, 4),
        _ => word(map.slot(number % CAPACITY), 24),
    };
    at as usize..(at + len) as usize
}

fn read(slab: &[u8], at: usize) -> u64 {
    let bytes = slab.get(at..at + 8).and_then(|b| b.try_into().ok());
    u64::from_le_bytes(bytes.unwrap_or_default())
}

/// What lies within the slab of `bytes`.
pub fn write(slab: &mut [u8], at: usize, bytes: &[u8]) {
    let slab = slab.get_mut(at..).unwrap_or_default();
    let len = bytes.len().min(slab.len());
    slab[..len].copy_from_slice(&bytes[..len]);
}

/// The checksum of both copies of the header.
pub fn seal_header(slab: &mut [u8]) {
    for at in layout::COPIES {
        let part = at as usize..(at + layout::STATIC_BYTES) as usize;
        let capacity = read(slab, at as usize + 16) & 0xffff_ffff;
        match slab.get_mut(part).and_then(|part| part.try_into().ok()) {
            Some(part) if capacity <= CAPACITY_MAX => fuzzing::seal_header(part),
            _ => {}
        }
    }
}

/// The seals of all averages, each for the version that its selector asks for.
pub fn seal_cells(slab: &mut [u8]) {
    for number in 0..CAPACITY {
        let slot = Layout::new().slot(number) as usize;
        if read(slab, slot + 24) >> 32 & 0xf != 4 {
            continue;
        }
        let version = read(slab, slot + 48);
        let cell = slot + (layout::CELLS + (version & 1) * layout::CELL_BYTES) as usize;
        let payload = std::array::from_fn(|i| read(slab, cell + 8 * i));
        let seal = fuzzing::seal_cell(&payload, version);
        write(slab, cell + 48, &seal.to_le_bytes());
    }
}

/// Makes a fanout file of it that gets past the door.
pub fn as_fanout(bytes: &mut Vec<u8>, shards: u8) {
    bytes.resize(36, 0);
    write(bytes, 0, b"slabfan\0\x01\0\0\0");
    write(bytes, 12, &u32::from(shards).to_le_bytes());
    let crc = crc32fast::hash(&bytes[..32]);
    write(bytes, 32, &crc.to_le_bytes());
}
