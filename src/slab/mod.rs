//! The slab: the bytes of the mapped file become typed slots. The one room that joins `record` and
//! `os`, and the one with pointer arithmetic.
//!
//! Everything in the map is input that anyone may have written. So a number that was read from it
//! is checked before it leads anywhere (`slot`, `block`, `bucket` answer `None` past the end of
//! what is allocated), and all of it is seen through atomics, never through a plain reference.

use std::num::NonZeroU32;

#[allow(unsafe_code)]
mod bodies;
pub(crate) mod buckets;
pub(crate) mod bytes;
pub(crate) mod content;
mod dirty;
mod extent;
pub(crate) mod hash;
pub(crate) mod header;
pub(crate) mod layout;
#[allow(unsafe_code)]
mod map;
mod meta;
mod opened;
mod records;
mod region;
#[allow(unsafe_code)]
mod sections;
mod segment;
mod stripe;
mod value_cell;
pub(crate) mod value_cells;
mod witnesses;

pub(crate) use extent::Growing;
pub(crate) use layout::Layout;
pub(crate) use map::Slab;
pub(crate) use meta::{KEY_BYTES_MAX, Meta, TAG_BYTES_MAX, Tenant};
pub(crate) use records::{
    Absences, BODY_WORDS, CLAIMED, Participant, Permit, STATE_FREE, STATE_TAIL, STATE_USED, Slot,
    pack, unpack,
};
pub(crate) use segment::{Lost, SEGMENT_BEGUN, SEGMENT_CLOSING, SEGMENT_WRITING, Segment};
pub(crate) use stripe::{Intent, Stripe, Tally};

pub(crate) use crate::record::joining::{PARTICIPANT_SHARED, PARTICIPANT_USED};

/// The number of a slot that was found to be within what is allocated. Allocation never shrinks, so
/// it stays so. Kept as a link (one more than the number), so that there is a value for "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotId(NonZeroU32);

impl SlotId {
    fn new(index: u32) -> Option<SlotId> {
        index.checked_add(1).and_then(NonZeroU32::new).map(SlotId)
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.0.get() - 1
    }

    /// The slot of a link that came from [`link`](SlotId::link), kept in this process's own memory.
    #[inline]
    pub(crate) fn remembered(link: u32) -> Option<SlotId> {
        NonZeroU32::new(link).map(SlotId)
    }

    /// What bucket heads and `next` fields hold: 0 is "none".
    #[inline]
    pub(crate) fn link(self) -> u32 {
        self.0.get()
    }
}
