//! Whether values may take more slots: what they take there and what the log takes are one limit.

use crate::error::Result;
use crate::os::clock;
use crate::store::Store;
use crate::store::log::segments::Segments;
use crate::store::members::config::InForce;
use crate::store::settings::bound_of;
use crate::sync::Ordering;

/// For how long a process goes by what it has seen, as long as there was room enough: others may
/// take some of it meanwhile.
const A_LOOK_NS: u64 = 4_000_000;

/// Room for values in slots.
#[derive(Clone, Copy)]
pub(in crate::store) struct SlotRoom<'s>(pub(in crate::store) &'s Store);

impl SlotRoom<'_> {
    /// Takes so many bytes for a value that is to be made, if there are so many.
    pub(in crate::store) fn take(self, bytes: u64) -> Result<bool> {
        let seen = &self.0.process()?.room_seen;
        let now = clock::coarse_ns() / A_LOOK_NS;
        let take = |left: u64| left.checked_sub(bytes);
        let is_recent = seen.look.load(Ordering::Relaxed) == now;
        if is_recent
            && seen
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
        {
            return Ok(true);
        }
        let taken = InForce(self.0).in_slots() + Segments(self.0).usage()?.bytes;
        // As the log, which may take a segment more than the limit: what lies around a value that
        // is as long as that is not counted against it.
        let bound = bound_of(InForce(self.0).chosen_size_limit());
        let left = bound.saturating_sub(taken);
        let after = take(left);
        seen.left.store(after.unwrap_or(0), Ordering::Relaxed);
        seen.look.store(now, Ordering::Relaxed);
        Ok(after.is_some())
    }
}
