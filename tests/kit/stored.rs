//! Values as the files of a store have them, read and written by the documented format alone
//! (docs/format.md): shares no code with the library, so that what the library says is there can
//! be compared with this.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::layout::{self, Layout};

const VALUE: u64 = 5;
const BODY_WORDS: u64 = 17;
const RECORD_HEAD: usize = 24;
/// The longest value.
pub const VALUE_BYTES_MAX: u64 = 1 << 30;
pub const SEGMENT_HEADER: usize = 48;

/// The files of a store, as far as values go.
#[derive(Clone)]
pub struct Stored {
    pub slab: Vec<u8>,
    pub segments: BTreeMap<u32, Segment>,
    layout: Layout,
    capacity: u64,
}

#[derive(Clone)]
pub enum Segment {
    File(Vec<u8>),
    /// A directory, a pipe.
    Other,
}

/// The slots of a value.
#[derive(Clone, Debug)]
pub struct Slot {
    pub number: u64,
    pub generation: u32,
    pub key: Vec<u8>,
    span: u64,
}

/// What a cell says.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Absent,
    Inline {
        expires_ms: u64,
        tag: Vec<u8>,
        value: Vec<u8>,
    },
    Logged {
        expires_ms: u64,
        place: u64,
        tag_len: u8,
        tag_hash: u32,
        len: u32,
    },
}

/// What there is under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Is {
    Nothing,
    Value {
        value: Vec<u8>,
        tag: Vec<u8>,
    },
    /// It fails a checksum, or is not where it should be.
    Damaged,
    Refused,
}

/// The file is another store's, or no file.
#[derive(Debug)]
pub struct Refused;

/// Tag and value.
type Content = (Vec<u8>, Vec<u8>);

pub fn place_of(segment: u32, unit: u32) -> u64 {
    u64::from(segment) << 32 | u64::from(unit)
}

/// A whole record: its bytes, at a place.
pub fn record(place: u64, key: &[u8], tag: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = b"slr1\0\0\0\0".to_vec();
    bytes.extend(place.to_le_bytes());
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend((key.len() as u16).to_le_bytes());
    bytes.extend([tag.len() as u8, 0]);
    bytes.extend([key, tag, value].concat());
    sum_up(&mut bytes);
    bytes
}

/// Makes the checksum of a record right.
pub fn sum_up(record: &mut [u8]) {
    let crc = crc32fast::hash(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

pub fn segment_header(number: u32, store_id: u128) -> Vec<u8> {
    let mut bytes = b"slablog\0\x01\0\0\0".to_vec();
    bytes.extend(number.to_le_bytes());
    bytes.extend(store_id.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.resize(SEGMENT_HEADER, 0);
    bytes
}

impl Stored {
    pub fn read(store: &Path, capacity: u64) -> Stored {
        let slab = fs::read(store.join("slab")).expect("the slab");
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(store.join("log")).into_iter().flatten() {
            let entry = entry.expect("a segment");
            let name = entry.file_name().into_string().unwrap_or_default();
            let number = u32::from_str_radix(&name, 16).ok();
            if let Some(number) = number.filter(|number| name == format!("{number:08x}")) {
                let is_file = entry.file_type().expect("a segment").is_file();
                let segment = match is_file {
                    true => Segment::File(fs::read(entry.path()).expect("a segment")),
                    false => Segment::Other,
                };
                segments.insert(number, segment);
            }
        }
        Stored {
            slab,
            segments,
            layout: Layout::new(),
            capacity,
        }
    }

    pub fn word(&self, at: u64) -> u64 {
        let at = at as usize;
        let bytes = self.slab.get(at..at + 8).and_then(|b| b.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    }

    pub fn set_word(&mut self, at: u64, word: u64) {
        self.slab[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes());
    }

    pub fn store_id(&self) -> u128 {
        u128::from(self.word(40)) | u128::from(self.word(48)) << 64
    }

    /// The slots of all values.
    pub fn slots(&self) -> Vec<Slot> {
        (0..self.capacity).filter_map(|n| self.slot(n)).collect()
    }

    fn slot(&self, number: u64) -> Option<Slot> {
        let at = self.layout.slot(number);
        let meta = self.word(at + layout::META);
        if meta >> 32 & 0xf != VALUE {
            return None;
        }
        let mut slot = Slot {
            number,
            generation: meta as u32,
            key: Vec::new(),
            span: self.word(at + 40) >> 32 & 0xffff,
        };
        let len = meta >> 36 & 0x7ff;
        let words = (1..=len.div_ceil(8)).map(|w| self.word(self.body(&slot, w)));
        slot.key = words.flat_map(u64::to_le_bytes).collect();
        slot.key.truncate(len as usize);
        Some(slot)
    }

    /// Where word `at` of a key is, counted through the bodies of its slots.
    fn body(&self, slot: &Slot, at: u64) -> u64 {
        self.layout.slot(slot.number + at / BODY_WORDS) + layout::BODY + at % BODY_WORDS * 8
    }

    fn selector_at(&self, slot: &Slot) -> u64 {
        self.layout.slot(slot.number) + 48
    }

    pub fn selector(&self, slot: &Slot) -> u64 {
        self.word(self.selector_at(slot))
    }

    pub fn select(&mut self, slot: &Slot, version: u64) {
        self.set_word(self.selector_at(slot), version);
    }

    /// The words of the cell in which a version lies: where each of them is.
    pub fn cell_words(&self, slot: &Slot, version: u64) -> Vec<u64> {
        let from = 1 + slot.key.len().div_ceil(8) as u64;
        let words = ((BODY_WORDS * slot.span - from) / 2).min(34);
        let from = from + (version & 1) * words;
        (from..from + words).map(|w| self.body(slot, w)).collect()
    }

    /// What a version says; `None`: it is not whole.
    pub fn cell(&self, slot: &Slot, version: u64) -> Option<Cell> {
        let words = self.cell_words(slot, version);
        let words: Vec<u64> = words.into_iter().map(|at| self.word(at)).collect();
        let (head, seal, room) = (words[0], words[1], &words[2..]);
        let (tag_len, len) = ((head & 0xff) as usize, (head >> 8 & 0x1ff) as usize);
        let form = head >> 17 & 0x1f;
        let used = match form {
            0 => 0,
            1 => (tag_len + len).div_ceil(8),
            _ => 2,
        };
        let payload = room.get(..used)?;
        if seal != seal_of(version, head, payload) {
            return None;
        }
        let expires_ms = head >> 22;
        match form {
            0 => (head == 0).then_some(Cell::Absent),
            1 => {
                let mut tag: Vec<u8> = payload.iter().flat_map(|w| w.to_le_bytes()).collect();
                let value = tag.drain(tag_len..).take(len).collect();
                Some(Cell::Inline {
                    expires_ms,
                    tag,
                    value,
                })
            }
            2 if len == 0 && payload[0] >> 32 != 0 && payload[1] << 32 >> 32 <= VALUE_BYTES_MAX => {
                Some(Cell::Logged {
                    expires_ms,
                    place: payload[0],
                    tag_len: tag_len as u8,
                    tag_hash: (payload[1] >> 32) as u32,
                    len: payload[1] as u32,
                })
            }
            _ => None,
        }
    }

    /// Fills the cell of a version, sealed.
    pub fn put_cell(&mut self, slot: &Slot, version: u64, cell: &Cell) {
        let (head, payload) = match cell {
            Cell::Absent => (0, Vec::new()),
            Cell::Inline {
                expires_ms,
                tag,
                value,
            } => {
                let head = expires_ms << 22 | 1 << 17 | (value.len() << 8 | tag.len()) as u64;
                let mut bytes = [&tag[..], value].concat();
                bytes.resize(bytes.len().next_multiple_of(8), 0);
                let words = bytes.as_chunks().0.iter();
                (head, words.map(|word| u64::from_le_bytes(*word)).collect())
            }
            Cell::Logged {
                expires_ms,
                place,
                tag_len,
                tag_hash,
                len,
            } => {
                let head = expires_ms << 22 | 2 << 17 | u64::from(*tag_len);
                let sizes = u64::from(*tag_hash) << 32 | u64::from(*len);
                (head, vec![*place, sizes])
            }
        };
        let seal = seal_of(version, head, &payload);
        let at = self.cell_words(slot, version);
        assert!(payload.len() + 2 <= at.len(), "no room for {cell:?}");
        for (at, word) in at.into_iter().zip([head, seal].into_iter().chain(payload)) {
            self.set_word(at, word);
        }
    }

    /// The bytes of a segment; `None`: there is none.
    pub fn segment(&self, number: u32) -> Result<Option<&[u8]>, Refused> {
        let bytes = match self.segments.get(&number) {
            None => return Ok(None),
            Some(Segment::Other) => return Err(Refused),
            Some(Segment::File(bytes)) => bytes,
        };
        let Some(header) = bytes.get(..SEGMENT_HEADER) else {
            return Ok(Some(bytes));
        };
        let number = u32::from_le_bytes(header[12..16].try_into().expect("four bytes"));
        let id = u128::from_le_bytes(header[16..32].try_into().expect("sixteen bytes"));
        // One that is not whole may be anybody's.
        match header == segment_header(number, id) && id != self.store_id() {
            true => Err(Refused),
            false => Ok(Some(bytes)),
        }
    }

    /// What a record has. `lens` are those of tag and value, if they are known.
    fn record(
        &self,
        place: u64,
        key: &[u8],
        lens: Option<(u8, u32)>,
    ) -> Result<Option<Content>, Refused> {
        let at = (place & 0xffff_ffff) as usize * 16;
        let record = self.segment((place >> 32) as u32)?;
        let Some(record) = record.and_then(|bytes| bytes.get(at..)) else {
            return Ok(None);
        };
        let Some(head) = record.get(..RECORD_HEAD) else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(head[16..20].try_into().expect("four bytes"));
        let key_len = usize::from(head[20]) | usize::from(head[21]) << 8;
        let tag_len = head[22];
        let value_from = RECORD_HEAD + key_len + usize::from(tag_len);
        let Some(whole) = record.get(..value_from + len as usize) else {
            return Ok(None);
        };
        let tag = &whole[RECORD_HEAD + key_len..value_from];
        let is_it = lens.is_none_or(|lens| lens == (tag_len, len))
            && *whole == *self::record(place, key, tag, &whole[value_from..]);
        Ok(is_it.then(|| (tag.to_vec(), whole[value_from..].to_vec())))
    }

    /// What there is under a key at that time, or, without a time, what there was before it was
    /// over.
    pub fn is(&self, slot: &Slot, now_ms: Option<u64>) -> Is {
        let over = |at: u64| at != 0 && now_ms.is_some_and(|now| at <= now);
        match self.cell(slot, self.selector(slot)) {
            None => Is::Damaged,
            Some(Cell::Absent) => Is::Nothing,
            Some(Cell::Inline { expires_ms, .. } | Cell::Logged { expires_ms, .. })
                if over(expires_ms) =>
            {
                Is::Nothing
            }
            Some(Cell::Inline { tag, value, .. }) => Is::Value { value, tag },
            Some(Cell::Logged {
                place,
                tag_len,
                len,
                ..
            }) => match self.record(place, &slot.key, Some((tag_len, len))) {
                Err(Refused) => Is::Refused,
                Ok(None) => Is::Damaged,
                Ok(Some((tag, value))) => Is::Value { value, tag },
            },
        }
    }

    /// Carries out what the journal says.
    pub fn settle(&mut self) -> Result<(), Refused> {
        let place = self.word(layout::JOURNAL);
        let list = match place >> 32 {
            0 => None,
            _ => self.record(place, b"", None)?,
        };
        let is_list = |(tag, list): &Content| tag.is_empty() && list.len().is_multiple_of(20);
        let (_, list) = list.filter(is_list).unwrap_or_default();
        let slots = self.slots();
        for flip in list.as_chunks::<20>().0 {
            let number = |at: usize| u32::from_le_bytes(flip[at..at + 4].try_into().expect("four"));
            let version = u64::from(number(12)) | u64::from(number(16)) << 32;
            let mut of = slots
                .iter()
                .filter(|slot| slot.number == u64::from(number(4)) && slot.generation == number(8));
            if let Some(slot) = of.next().filter(|_| number(0) == 0)
                && self.selector(slot) == version
                && self.cell(slot, version.wrapping_add(1)).is_some()
            {
                self.select(slot, version.wrapping_add(1));
            }
        }
        self.set_word(layout::JOURNAL, 0);
        Ok(())
    }
}

/// MULTILINEAR over the version, the head and the payload, as for the cells of an average.
fn seal_of(version: u64, head: u64, payload: &[u64]) -> u64 {
    let mut state = 0_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let mut sum = next();
    for word in [version, head].iter().chain(payload) {
        for half in [word & 0xffff_ffff, word >> 32] {
            sum = sum.wrapping_add(next().wrapping_mul(half));
        }
    }
    version << 32 | sum >> 32
}
