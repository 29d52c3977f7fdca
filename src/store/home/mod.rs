//! From a directory to a whole slab.

pub(in crate::store) mod alone;
pub(in crate::store) mod boots;
pub(crate) mod open;
pub(in crate::store) mod original;
pub(crate) mod rebuild;
mod rebuild_keys;
pub(in crate::store) mod rebuild_tokens;
pub(in crate::store) mod rebuild_values;
pub(in crate::store) mod slab_file;
