//! From a directory to a whole slab.

pub(in crate::store) mod alone;
pub(in crate::store) mod boots;
pub(crate) mod open;
pub(in crate::store) mod original;
pub(crate) mod rebuild;
mod rebuild_keys;
mod rebuild_log;
mod rebuild_tokens;
mod rebuild_values;
pub(in crate::store) mod slab_file;
