//! Several changes at once: all of them or none.

pub(in crate::store) mod commit;
pub(crate) mod transaction;
