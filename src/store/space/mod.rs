//! Writing values, where room has to be made first.

mod append;
pub(in crate::store) mod compact;
mod full_device;
pub(crate) mod integer;
pub(crate) mod keep;
pub(crate) mod latch;
pub(crate) mod make_room;
pub(in crate::store) mod moving;
mod precedence;
pub(in crate::store) mod recount;
pub(crate) mod set;
pub(in crate::store) mod wait;
mod walk;
