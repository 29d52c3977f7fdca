//! Slots when there are none left.

pub(crate) mod evict;
pub(in crate::store) mod free_slots;
