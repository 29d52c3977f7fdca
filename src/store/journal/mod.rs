//! What a transaction has decided is carried out, in all shards of a cache.

pub(in crate::store) mod carry_out;
pub(crate) mod siblings;
