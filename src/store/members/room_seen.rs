//! What a process has seen of the room for values: see `store::reclaim::slot_room`.

use crate::sync::AtomicU64;

/// What a process has seen of the room that there is.
#[derive(Default)]
pub(in crate::store) struct RoomSeen {
    pub(in crate::store) left: AtomicU64,
    /// When that was.
    pub(in crate::store) look: AtomicU64,
}
