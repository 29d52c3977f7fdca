//! Whose bytes are whose in the log.

pub(in crate::store) mod garbage;
pub(in crate::store) mod new_segment;
pub(crate) mod segments;
