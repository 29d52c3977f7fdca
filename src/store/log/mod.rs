//! Which bytes of the log belong to which value.

pub(crate) mod decided_list;
pub(in crate::store) mod garbage;
pub(in crate::store) mod new_segment;
pub(crate) mod segments;
pub(crate) mod sync;
pub(in crate::store) mod writing;
