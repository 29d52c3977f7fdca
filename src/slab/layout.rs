//! Where everything lies in the file.
//!
//! ```text
//! 0        header page: static part, its copy, mutable part, a count for each stripe
//! 4096     64 stripes of 128 bytes: intents and sequence floors
//! 12288    512 segments of 32 bytes: the files of the log
//! 28672    2,047 hashes of absent keys, after their count
//! 45056    participants  128 bytes each, 4,096
//! 569344   13 sections
//! ```
//!
//! A section is a piece of all that grows with the keys. The first one is for 4,096 slots and as
//! many blocks, each further one for as many as all before it. So nothing that is there ever moves,
//! what there is of a store is some pieces of memory, and no more than twice what it uses.
//!
//! ```text
//! section  buckets       u32 each       heads of the hash chains, one for each slot
//!          slot states   u8 each        the truth about which slot is used
//!          slots         192 bytes each
//!          block states  u8 each        the same for blocks of permits
//!          blocks        128 bytes each, 4 permits
//! ```
//!
//! All of these start on a page. What is before the participants, and the first section's buckets
//! and slot states, are allocated when the store is made; the rest grows in whole pages.

use crate::slab::region::Region;

/// The only size that matters here is that no region shares a page of the file system's with
/// another.
pub(crate) const PAGE: u64 = 4096;
pub(crate) const STRIPES: u32 = 64;
pub(crate) const STRIPE_BYTES: u64 = 128;
pub(crate) const SEGMENTS: u32 = 512;
pub(crate) const SEGMENT_BYTES: u64 = 32;
pub(crate) const SEGMENTS_OFFSET: u64 = PAGE + STRIPES as u64 * STRIPE_BYTES;
/// How many absent keys transactions can count on, and where their hashes lie after the count.
pub(crate) const ABSENCES: usize = 2_047;
pub(crate) const ABSENCES_OFFSET: u64 = SEGMENTS_OFFSET + SEGMENT_BYTES * SEGMENTS as u64;
pub(crate) const PARTICIPANTS: u32 = 4096;
pub(crate) const PARTICIPANTS_OFFSET: u64 = ABSENCES_OFFSET + 8 * (ABSENCES as u64 + 1);
pub(crate) const PARTICIPANT_BYTES: u64 = 128;
pub(crate) const SLOT_BYTES: u64 = 192;
pub(crate) const BLOCK_BYTES: u64 = 128;
pub(crate) const PERMITS_PER_BLOCK: u32 = 4;
/// Blocks enough for one semaphore of the largest value, beyond one for each key.
const SPARE_BLOCKS: u32 = 65_536 / PERMITS_PER_BLOCK;
/// The most slots a slab can have: their numbers stay below 2^24, and the slab below 6 GiB.
pub(crate) const CAPACITY_MAX: u32 = 1 << 24;

/// Where the witnesses of the participants are locked on the slab's own inode, a byte each: far
/// behind its end.
pub(crate) const WITNESS_OFFSET: u64 = 1 << 40;

const SECTIONS_OFFSET: u64 = PARTICIPANTS_OFFSET + PARTICIPANTS as u64 * PARTICIPANT_BYTES;
/// How many slots, and blocks, the first section is for: their states fill a page.
pub(crate) const SECTION_SLOTS: u32 = 1 << SECTION_BITS;
const SECTION_BITS: u32 = 12;
pub(crate) const SECTIONS: usize = (CAPACITY_MAX.ilog2() - SECTION_BITS) as usize + 1;

/// One of the pieces in which slots and blocks lie, with what belongs to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// The first number in it.
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Its own number, from 0.
    pub(crate) index: usize,
}

impl Section {
    /// Where slot or block `number` lies.
    #[inline(always)]
    pub(crate) fn of(number: u32) -> Section {
        let top = (number | (SECTION_SLOTS - 1)).ilog2();
        let count = (1_u32 << top).max(SECTION_SLOTS);
        Section {
            // All numbers but those of the first have its highest bit.
            first: count & number,
            count,
            index: (top + 1 - SECTION_BITS) as usize,
        }
    }

    /// Those that have the numbers below `count`.
    pub(crate) fn below(count: u32) -> impl Iterator<Item = Section> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let section = Section::of(next.filter(|first| *first < count)?);
            next = section.first.checked_add(section.count);
            Some(section)
        })
    }

    fn offset(self) -> u64 {
        SECTIONS_OFFSET + u64::from(self.first) * (Half::Slots.bytes() + Half::Blocks.bytes())
    }
}

/// The section in which so many slots in a row end, if they do not begin there: its first number.
pub(crate) fn section_behind(first: u32, count: u32) -> Option<u32> {
    let last = Section::of(first.saturating_add(count.saturating_sub(1)));
    (last.first > first).then_some(last.first)
}

/// The halves of a section, each of which is mapped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Slots,
    Blocks,
}

impl Half {
    /// How many bytes it has for each number.
    const fn bytes(self) -> u64 {
        match self {
            Half::Slots => SLOT_TABLE.lead + SLOT_BYTES,
            Half::Blocks => BLOCK_TABLE.lead + BLOCK_BYTES,
        }
    }

    /// Offset and length of that half of a section.
    pub(crate) fn part(self, section: Section) -> (u64, u64) {
        let count = u64::from(section.count);
        let before = match self {
            Half::Slots => 0,
            Half::Blocks => Half::Slots.bytes(),
        };
        (section.offset() + count * before, count * self.bytes())
    }
}

/// A table with an entry for each slot or block, of which every section has a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionTable {
    /// Its own number in [`TABLES`].
    pub(crate) index: usize,
    pub(crate) half: Half,
    /// How many bytes of its half of a section come before it, for each number.
    pub(crate) lead: u64,
    pub(crate) stride: u64,
}

pub(crate) const BUCKET_TABLE: SectionTable = SectionTable {
    index: 0,
    half: Half::Slots,
    lead: 0,
    stride: 4,
};
pub(crate) const SLOT_STATE_TABLE: SectionTable = SectionTable {
    index: 1,
    half: Half::Slots,
    lead: 4,
    stride: 1,
};
pub(crate) const SLOT_TABLE: SectionTable = SectionTable {
    index: 2,
    half: Half::Slots,
    lead: 5,
    stride: SLOT_BYTES,
};
pub(crate) const BLOCK_STATE_TABLE: SectionTable = SectionTable {
    index: 3,
    half: Half::Blocks,
    lead: 0,
    stride: 1,
};
pub(crate) const BLOCK_TABLE: SectionTable = SectionTable {
    index: 4,
    half: Half::Blocks,
    lead: 1,
    stride: BLOCK_BYTES,
};

/// All of them, in the order in which they lie.
pub(crate) const TABLES: [SectionTable; 5] = [
    BUCKET_TABLE,
    SLOT_STATE_TABLE,
    SLOT_TABLE,
    BLOCK_STATE_TABLE,
    BLOCK_TABLE,
];

impl SectionTable {
    /// How far behind the beginning of its half of the section that entry lies.
    #[inline(always)]
    pub(crate) fn within(self, section: Section, number: u32) -> u64 {
        u64::from(section.count) * self.lead + u64::from(number - section.first) * self.stride
    }

    pub(super) fn offset_of(self, number: u32) -> u64 {
        let section = Section::of(number);
        self.half.part(section).0 + self.within(section, number)
    }
}

/// The layout of a slab: the same for all but for how far it may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) capacity: u32,
    pub(crate) participants: Region,
    pub(crate) slots: Region,
    pub(crate) blocks: Region,
}

impl Layout {
    /// The layout for at most `capacity` slots, 1 to [`CAPACITY_MAX`].
    pub(crate) fn new(capacity: u32) -> Option<Layout> {
        if !(1..=CAPACITY_MAX).contains(&capacity) {
            return None;
        }
        Some(Layout {
            capacity,
            participants: Region::participants(),
            slots: Region::slots(capacity),
            blocks: Region::blocks((capacity + SPARE_BLOCKS).min(CAPACITY_MAX)),
        })
    }

    /// Offset and length of what is allocated when the store is made.
    pub(crate) fn fixed() -> [(u64, u64); 2] {
        let tables = SLOT_TABLE.lead * u64::from(SECTION_SLOTS);
        [(0, PARTICIPANTS_OFFSET), (SECTIONS_OFFSET, tables)]
    }

    /// What is mapped as long as the slab is: all up to the slots of the first section.
    pub(crate) fn mapped_bytes() -> u64 {
        let (offset, len) = Half::Slots.part(Section::of(0));
        offset + len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_one_another_and_each_is_as_long_as_all_before() {
        let all: Vec<_> = Section::below(CAPACITY_MAX).collect();
        assert_eq!(all.len(), SECTIONS);
        let mut next = 0;
        for (index, section) in all.iter().enumerate() {
            assert_eq!((section.first, section.index), (next, index));
            assert_eq!(section.count, next.max(SECTION_SLOTS));
            for number in [section.first, section.first + section.count - 1] {
                assert_eq!(Section::of(number), *section);
            }
            next += section.count;
        }
        assert_eq!(next, CAPACITY_MAX);
        for count in [0, 1, SECTION_SLOTS, SECTION_SLOTS + 1] {
            assert_eq!(
                Section::below(count).count(),
                count.div_ceil(SECTION_SLOTS) as usize
            );
        }
    }

    #[test]
    fn tables_fill_their_section_and_begin_on_pages() {
        let mut end = SECTIONS_OFFSET;
        for section in Section::below(CAPACITY_MAX) {
            for (index, table) in TABLES.into_iter().enumerate() {
                assert_eq!(table.index, index);
                assert_eq!(table.offset_of(section.first), end);
                assert!(end.is_multiple_of(PAGE), "{table:?} in {section:?}");
                end += u64::from(section.count) * table.stride;
            }
        }
        assert!(end < 6 << 30);
    }

    #[test]
    fn a_capacity_is_bounded() {
        assert_eq!(Layout::new(0), None);
        assert_eq!(Layout::new(CAPACITY_MAX + 1), None);
    }

    #[test]
    fn a_key_takes_at_most_256_bytes() {
        let layout = Layout::new(65_536).unwrap();
        let pages = layout.slots.pages(0, 65_536);
        let per_key = pages.iter().map(|(_, len)| len).sum::<u64>() as f64 / 65_536.0;
        assert!(per_key <= 256.0, "{per_key}");
    }
}
