//! What is in a slot, without seeking a key.

pub(crate) mod by_slot;
