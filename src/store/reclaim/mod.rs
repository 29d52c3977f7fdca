//! Slots when there are none left.

pub(in crate::store) mod free_slots;
