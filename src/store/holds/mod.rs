//! Having, waiting and giving back: what locks, semaphores and latches share.

pub(crate) mod fast;
pub(crate) mod guard;
pub(crate) mod handle;
pub(crate) mod locate;
pub(crate) mod own;
pub(crate) mod sleep;
pub(crate) mod slow;
pub(crate) mod standing;
pub(in crate::store) mod take_over;
