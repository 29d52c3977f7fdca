//! What the input does to segments, cells and the journal: whole records, records that are wrong in
//! one thing, and ways to them.

use super::super::input::Input;
use super::super::layout;
use super::super::stored::{
    Cell, SEGMENT_HEADER, Segment, Slot, Stored, place_of, record, segment_header, sum_up,
};
use super::NOW_MS;

const STEPS_MAX: u8 = 24;
/// Those of the template, others, one that shares its place in the table with the first, the last
/// there can be, none.
const NUMBERS: [u32; 8] = [1, 2, 3, 4, 513, u32::MAX, 1 << 31, 0];
const TAG_LENS: [usize; 4] = [0, 1, 30, 255];
/// Around each way to read.
const LENS: [usize; 8] = [0, 1, 300, 16_384, 16_385, 131_072, 131_073, 2_000];
const CLAIMS: [u32; 8] = [
    1 << 30,
    (1 << 30) + 1,
    u32::MAX,
    0,
    1 << 24,
    16_385,
    65_536,
    1 << 29,
];
const EXPIRES: [u64; 4] = [0, NOW_MS, NOW_MS + 1, (1 << 42) - 1];
const SPECIAL: [u64; 10] = [
    0,
    1,
    u64::MAX,
    u32::MAX as u64,
    1 << 32,
    1 << 33,
    1 << 63,
    513,
    48,
    1 << 20,
];

pub fn damage(stored: &mut Stored, input: &mut Input, steps: u8) {
    let slots = stored.slots();
    for _ in 0..steps.min(STEPS_MAX) {
        let what = input.byte();
        let slot = &slots[usize::from(input.byte()) % slots.len()];
        match what % 16 {
            0 => {
                let cell = plant(stored, slot, input, |_| ());
                put_in_force(stored, slot, &cell);
            }
            1 => {
                // The record and the cell agree on a length that is not there.
                let claimed = input.of(&CLAIMS);
                let mut cell = plant(stored, slot, input, |record| claim(record, claimed));
                if let Cell::Logged { len, .. } = &mut cell {
                    *len = claimed;
                }
                put_in_force(stored, slot, &cell);
            }
            2 => {
                let (at, bit) = (usize::from(input.u16()), input.byte() % 8);
                let cell = plant(stored, slot, input, |record| {
                    let at = at % record.len();
                    record[at] ^= 1 << bit;
                });
                put_in_force(stored, slot, &cell);
            }
            3 => {
                let (at, bit) = (usize::from(input.byte()), input.byte() % 8);
                let cell = plant(stored, slot, input, |record| {
                    // A field of the head, or a byte of the key.
                    let fields = record.len().min(28) - 8;
                    record[8 + at % fields] ^= 1 << bit;
                    sum_up(record);
                });
                put_in_force(stored, slot, &cell);
            }
            4 => {
                let cell = lead_anywhere(input);
                put_in_force(stored, slot, &cell);
            }
            5 => expire(stored, slot, input.of(&EXPIRES)),
            6 => {
                let words = stored.cell_words(slot, stored.selector(slot));
                let at = words[usize::from(input.byte()) % 4];
                stored.set_word(at, stored.word(at) ^ 1 << (input.byte() % 64));
            }
            7 => {
                let version = stored.selector(slot).wrapping_add(input.byte().into());
                stored.select(slot, version.wrapping_sub(2));
            }
            8 => prepare(stored, slot, input),
            9 => decide(stored, &slots, input),
            10 => {
                let at = offset(input);
                let (byte, len) = (input.byte(), usize::from(input.byte()));
                write(file(stored, input), at, &vec![byte; len]);
            }
            11 => {
                let len = usize::from(input.u16()) * 8;
                file(stored, input).resize(len, input.byte());
            }
            12 => header(stored, input),
            13 => swap_file(stored, input),
            14 => word(stored, input),
            _ => stored.set_word(layout::BOOT_ID, input.u64()),
        }
    }
}

fn number(input: &mut Input) -> u32 {
    input.of(&NUMBERS)
}

/// In units of 16 bytes: close together, so that records meet, or anywhere in the first MiB.
fn unit(input: &mut Input) -> u32 {
    match input.byte() {
        near @ 0..192 => 3 + u32::from(near),
        _ => input.u16().into(),
    }
}

fn offset(input: &mut Input) -> usize {
    16 * unit(input) as usize + usize::from(input.byte() % 32)
}

/// A segment, begun if there is none.
fn file<'a>(stored: &'a mut Stored, input: &mut Input) -> &'a mut Vec<u8> {
    let (number, id) = (number(input), stored.store_id());
    file_of(stored, number, id)
}

fn file_of(stored: &mut Stored, number: u32, id: u128) -> &mut Vec<u8> {
    let segment = stored.segments.entry(number).or_insert(Segment::Other);
    if let Segment::Other = segment {
        *segment = Segment::File(segment_header(number, id));
    }
    match segment {
        Segment::File(bytes) => bytes,
        Segment::Other => unreachable!("just made"),
    }
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Puts a record for a key down after `spoil`, and says what a cell would have to say of it as it
/// was before.
fn plant(
    stored: &mut Stored,
    slot: &Slot,
    input: &mut Input,
    spoil: impl FnOnce(&mut Vec<u8>),
) -> Cell {
    let tag = vec![b't'; input.of(&TAG_LENS)];
    let value = vec![input.byte(); input.of(&LENS)];
    let place = place_of(number(input), unit(input));
    put_record(stored, place, &slot.key, &tag, &value, spoil);
    Cell::Logged {
        expires_ms: 0,
        place,
        tag_len: tag.len() as u8,
        tag_hash: 0,
        len: value.len() as u32,
    }
}

fn claim(record: &mut [u8], len: u32) {
    record[16..20].copy_from_slice(&len.to_le_bytes());
    sum_up(record);
}

fn put_record(
    stored: &mut Stored,
    place: u64,
    key: &[u8],
    tag: &[u8],
    value: &[u8],
    spoil: impl FnOnce(&mut Vec<u8>),
) {
    let mut bytes = record(place, key, tag, value);
    spoil(&mut bytes);
    let (number, id) = ((place >> 32) as u32, stored.store_id());
    let at = 16 * (place & 0xffff_ffff) as usize;
    write(file_of(stored, number, id), at, &bytes);
}

fn lead_anywhere(input: &mut Input) -> Cell {
    let segment = match input.byte() % 4 {
        0 => input.u24(),
        _ => number(input),
    };
    let len = match input.byte() % 3 {
        0 => input.of(&CLAIMS),
        1 => input.of(&LENS) as u32,
        _ => input.u24(),
    };
    let unit = match input.byte() % 8 {
        0 => u32::MAX,
        1 => input.u24(),
        _ => unit(input),
    };
    Cell::Logged {
        expires_ms: input.of(&EXPIRES),
        place: place_of(segment, unit),
        tag_len: input.of(&[0, 0, 1, 255]),
        tag_hash: input.byte().into(),
        len,
    }
}

/// In the place of the cell that is in force.
fn put_in_force(stored: &mut Stored, slot: &Slot, cell: &Cell) {
    let version = stored.selector(slot);
    stored.put_cell(slot, version, cell);
}

fn expire(stored: &mut Stored, slot: &Slot, at: u64) {
    let version = stored.selector(slot);
    let Some(mut cell) = stored.cell(slot, version) else {
        return;
    };
    match &mut cell {
        Cell::Absent => return,
        Cell::Inline { expires_ms, .. } | Cell::Logged { expires_ms, .. } => *expires_ms = at,
    }
    stored.put_cell(slot, version, &cell);
}

/// Fills the idle cell, as who is about to change the value.
fn prepare(stored: &mut Stored, slot: &Slot, input: &mut Input) {
    let version = stored.selector(slot).wrapping_add(1);
    let cell = match input.byte() % 4 {
        0 => lead_anywhere(input),
        1 => Cell::Absent,
        _ => plant(stored, slot, input, |_| ()),
    };
    stored.put_cell(slot, version, &cell);
}

/// A transaction of some keys, decided and not carried out, or with something wrong in its list.
fn decide(stored: &mut Stored, slots: &[Slot], input: &mut Input) {
    let mut list = Vec::new();
    for _ in 0..input.byte() % 5 {
        let slot = &slots[usize::from(input.byte()) % slots.len()];
        prepare(stored, slot, input);
        let how = input.byte();
        let version = stored.selector(slot);
        let wrong = |bit: u8| u32::from(how & bit != 0);
        list.extend(wrong(64).to_le_bytes());
        list.extend((slot.number as u32 + wrong(32)).to_le_bytes());
        list.extend((slot.generation + wrong(16)).to_le_bytes());
        list.extend(version.wrapping_add(wrong(8).into()).to_le_bytes());
    }
    let how = input.byte();
    list.extend(vec![0; usize::from(how & 3)]);
    let key: &[u8] = if how & 64 != 0 { b"k" } else { b"" };
    let place = place_of(number(input), unit(input));
    let claimed = input.of(&CLAIMS);
    put_record(stored, place, key, b"", &list, |record| {
        let last = record.len() - 1;
        record[last] ^= how & 128;
        if how & 48 == 48 {
            claim(record, claimed);
        }
    });
    stored.set_word(layout::JOURNAL, place);
}

fn header(stored: &mut Stored, input: &mut Input) {
    let (number, id) = (number(input), stored.store_id());
    let how = input.byte();
    let header = match how % 4 {
        0 => segment_header(number, id ^ 1),
        1 => segment_header(number ^ 1, id),
        2 => vec![0; SEGMENT_HEADER],
        _ => {
            let mut header = segment_header(number, id ^ 1);
            header[usize::from(how) % SEGMENT_HEADER] ^= 1;
            header
        }
    };
    write(file_of(stored, number, id), 0, &header);
}

/// A file is gone, no file, or another one's copy.
fn swap_file(stored: &mut Stored, input: &mut Input) {
    let number = number(input);
    match input.byte() % 4 {
        0 | 1 => drop(stored.segments.remove(&number)),
        2 => drop(stored.segments.insert(number, Segment::Other)),
        _ => {
            let other = file(stored, input).clone();
            stored.segments.insert(number, Segment::File(other));
        }
    }
}

/// What the slab says of the log.
fn word(stored: &mut Stored, input: &mut Input) {
    let at = match input.byte() {
        n @ 0..128 => layout::SEGMENTS + u64::from(n % 5) * 32 + u64::from(n / 5 % 4) * 8,
        n => layout::TAIL + u64::from(n % 7) * 8,
    };
    let word = match input.byte() % 4 {
        0 => input.u64(),
        1 => place_of(number(input), unit(input)),
        2 => stored.word(at) ^ 1 << (input.byte() % 64),
        _ => input.of(&SPECIAL),
    };
    stored.set_word(at, word);
}
