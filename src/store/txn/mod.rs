//! Several changes at once: all of them or none.

mod absence;
pub(in crate::store) mod commit;
pub(crate) mod transaction;
