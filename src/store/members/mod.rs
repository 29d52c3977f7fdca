//! Who takes part, who lives, and what each of them has open.

pub(crate) mod config;
pub(in crate::store) mod deadlock;
pub(crate) mod device;
pub(in crate::store) mod participants;
pub(in crate::store) mod watch;
