//! The participants: which processes take part, which live, and what each of them has open.

pub(crate) mod config;
pub(in crate::store) mod deadlock;
pub(crate) mod device;
pub(crate) mod holder;
pub(in crate::store) mod join;
pub(crate) mod living;
pub(crate) mod lock_files;
pub(in crate::store) mod participants;
pub(crate) mod process;
pub(crate) mod range;
pub(crate) mod recount;
pub(in crate::store) mod room_seen;
pub(crate) mod shards;
pub(in crate::store) mod watch;
