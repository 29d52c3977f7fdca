//! Where everything lies in the file: offsets derived from one another and from the capacity.
//!
//! ```text
//! 0        header page: static part, its copy, mutable part
//! 4096     64 stripes of 64 bytes: intents and sequence floors
//! 8192     512 segments of 32 bytes: the files of the log
//! 24576    2,047 hashes of absent keys, after their count
//! 40960    buckets       u32 each       heads of the hash chains
//!          slot states   u8 each        the truth about which slot is used
//!          block states  u8 each        the same for blocks of permits
//!          participants  128 bytes each, 4,096
//!          slots         192 bytes each
//!          blocks        128 bytes each, 4 permits
//! ```
//!
//! Every region starts on a page. The first six are allocated when the store is made, participants,
//! slots and blocks grow in whole pages.

/// The only size that matters here is that no region shares a page of the file system's with
/// another.
pub(crate) const PAGE: u64 = 4096;
pub(crate) const STRIPES: u32 = 64;
pub(crate) const STRIPE_BYTES: u64 = 64;
pub(crate) const SEGMENTS: u32 = 512;
pub(crate) const SEGMENT_BYTES: u64 = 32;
pub(crate) const SEGMENTS_OFFSET: u64 = 2 * PAGE;
/// How many absent keys transactions can count on, and where their hashes lie after the count.
pub(crate) const ABSENCES: usize = 2_047;
pub(crate) const ABSENCES_OFFSET: u64 = SEGMENTS_OFFSET + SEGMENT_BYTES * SEGMENTS as u64;
pub(crate) const PARTICIPANTS: u32 = 4096;
pub(crate) const PARTICIPANT_BYTES: u64 = 128;
pub(crate) const SLOT_BYTES: u64 = 192;
pub(crate) const BLOCK_BYTES: u64 = 128;
pub(crate) const PERMITS_PER_BLOCK: u32 = 4;
/// Blocks enough for one semaphore of the largest value, beyond one for each key.
const SPARE_BLOCKS: u32 = 65_536 / PERMITS_PER_BLOCK;
/// The most slots a slab can have: their numbers stay below 2^24, and the slab below 8 GiB.
pub(crate) const CAPACITY_MAX: u32 = 1 << 24;

/// Where the witnesses of the participants are locked on the slab's own inode, a byte each: far
/// behind its end.
pub(crate) const WITNESS_OFFSET: u64 = 1 << 40;

/// What grows: participants, slots or blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) stride: u64,
    pub(crate) count: u32,
    /// How many are allocated at a time: a whole number of pages, about 4 to 48 KiB.
    pub(crate) chunk: u32,
}

impl Region {
    /// The end of the first `count` in the file.
    pub(crate) fn end_of(&self, count: u32) -> u64 {
        self.offset + u64::from(count) * self.stride
    }

    fn end(&self) -> u64 {
        self.end_of(self.count).next_multiple_of(PAGE)
    }
}

/// The layout of a slab, derived from its capacity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) capacity: u32,
    /// A power of two.
    pub(crate) buckets: u32,
    pub(crate) bucket_offset: u64,
    pub(crate) slot_state_offset: u64,
    pub(crate) block_state_offset: u64,
    pub(crate) participants: Region,
    pub(crate) slots: Region,
    pub(crate) blocks: Region,
}

impl Layout {
    /// The layout for `capacity` slots, 1 to [`CAPACITY_MAX`].
    pub(crate) fn new(capacity: u32) -> Option<Layout> {
        if !(1..=CAPACITY_MAX).contains(&capacity) {
            return None;
        }
        // Two keys a bucket when full: handles remember their slots, so chains are walked seldom.
        let buckets = capacity.div_ceil(2).next_power_of_two().max(STRIPES);
        let blocks = capacity + SPARE_BLOCKS;
        let page = |offset: u64| offset.next_multiple_of(PAGE);
        let bucket_offset = page(ABSENCES_OFFSET + 8 * (ABSENCES as u64 + 1));
        let slot_state_offset = page(bucket_offset + 4 * u64::from(buckets));
        let block_state_offset = page(slot_state_offset + u64::from(capacity));
        let participants = Region {
            offset: page(block_state_offset + u64::from(blocks)),
            stride: PARTICIPANT_BYTES,
            count: PARTICIPANTS,
            chunk: 32,
        };
        let slots = Region {
            offset: participants.end(),
            stride: SLOT_BYTES,
            count: capacity,
            chunk: 256,
        };
        let blocks = Region {
            offset: slots.end(),
            stride: BLOCK_BYTES,
            count: blocks,
            chunk: 32,
        };
        Some(Layout {
            capacity,
            buckets,
            bucket_offset,
            slot_state_offset,
            block_state_offset,
            participants,
            slots,
            blocks,
        })
    }

    /// What is allocated when the store is made: everything before the regions that grow.
    pub(crate) fn fixed_bytes(&self) -> u64 {
        self.participants.offset
    }

    /// What is mapped: everything, most of it not yet in the file.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.blocks.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_follow_one_another_on_page_boundaries() {
        for capacity in [1, 2, 63, 64, 1_000, 65_536, 1_000_000, CAPACITY_MAX] {
            let l = Layout::new(capacity).unwrap();
            let ends = [
                (
                    l.bucket_offset + 4 * u64::from(l.buckets),
                    l.slot_state_offset,
                ),
                (
                    l.slot_state_offset + u64::from(capacity),
                    l.block_state_offset,
                ),
                (
                    l.block_state_offset + u64::from(l.blocks.count),
                    l.participants.offset,
                ),
                (l.participants.end_of(PARTICIPANTS), l.slots.offset),
                (l.slots.end_of(capacity), l.blocks.offset),
                (l.blocks.end_of(l.blocks.count), l.total_bytes()),
            ];
            for (end, next) in ends {
                assert!(end <= next && next % PAGE == 0 && next - end < PAGE);
            }
            for region in [l.participants, l.slots, l.blocks] {
                assert_eq!(u64::from(region.chunk) * region.stride % PAGE, 0);
            }
        }
        assert_eq!(Layout::new(0), None);
        assert_eq!(Layout::new(CAPACITY_MAX + 1), None);
    }

    #[test]
    fn a_key_takes_at_most_256_bytes() {
        let l = Layout::new(65_536).unwrap();
        let index = l.participants.offset - l.bucket_offset;
        let per_key = SLOT_BYTES as f64 + index as f64 / 65_536.0;
        assert!(per_key <= 256.0, "{per_key}");
    }
}
