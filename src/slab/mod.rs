//! The slab: the bytes of the mapped file become typed slots. The one room that joins `record` and `os`,
//! and the one with pointer arithmetic.
//!
//! Everything in the map is input that anyone may have written. So a number that was read from it is
//! checked before it leads anywhere (`slot`, `block`, `bucket` answer `None` past the end of what is
//! allocated), and all of it is seen through atomics, never through a plain reference.

pub(crate) mod header;
pub(crate) mod layout;
#[allow(unsafe_code)]
mod map;
mod meta;
mod records;

pub(crate) use layout::Layout;
pub(crate) use map::{Growing, Slab};
pub(crate) use meta::{KEY_BYTES_MAX, Meta, TAG_BYTES_MAX};
pub(crate) use records::{
    BODY_WORDS, CLAIMED, Intent, PARTICIPANT_SHARED, PARTICIPANT_USED, Participant, Permit,
    STATE_FREE, STATE_TAIL, STATE_USED, Slot, Stripe, pack, unpack,
};

/// The number of a slot that was found to be within what is allocated. Allocation never shrinks, so it
/// stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotId(u32);

impl SlotId {
    pub(crate) fn index(self) -> u32 {
        self.0
    }

    /// What bucket heads and `next` fields hold: 0 is "none".
    pub(crate) fn link(self) -> u32 {
        self.0 + 1
    }
}
