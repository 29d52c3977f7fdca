//! What a transaction has decided is carried out, in all shards of a cache.

pub(in crate::store) mod decided;
pub(crate) mod siblings;
