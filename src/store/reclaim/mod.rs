//! Slots when there are none left.

pub(crate) mod evict;
pub(crate) mod free_slots;
mod rows;
pub(in crate::store) mod slot_room;
