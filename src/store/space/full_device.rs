//! A device that is full before the log has come to its limit.
//!
//! What the log takes then counts as its limit, for all processes, less the room that compacting
//! needs: values go by their worth from then on, as at any limit. To come there nothing can be
//! written at first. So segments of which nothing is needed are removed, and what there is still
//! room for is moved; and if that is not enough, all that lies in the segment with the least in it
//! is evicted, whatever it is worth. Now and then the device is asked for how much room there is,
//! and the limit rises.
//!
//! Under the policy to evict nothing, only what is garbage can make room.
//!
//! Killed in between: the limit is lower than it could be, or a segment is closed; both as ever.

use std::sync::Arc;

use crate::Eviction;
use crate::error::Result;
use crate::log::LOG;
use crate::os::clock;
use crate::store::Store;
use crate::store::log::segments::{Segments, slack_of};
use crate::store::members::config::InForce;
use crate::store::settings::SEGMENT_BYTES_MIN;
use crate::store::space::compact::Compactor;
use crate::store::space::wait::Wait;
use crate::store::space::walk::Mine;
use crate::sync::{Ordering, crash_point};

/// How often the device is asked, at the most.
const A_LOOK_NS: u64 = 1_000_000_000;

/// Room on a device that has none.
#[derive(Clone, Copy)]
pub(super) struct FullDevice<'s>(pub(super) &'s Arc<Store>);

impl FullDevice<'_> {
    /// Makes room for so many bytes and for what is to be moved. `false`: there is none to be made.
    pub(super) fn make_room(self, bytes: u64, wait: &Wait, mine: &Mine<'_>) -> Result<bool> {
        let (before, segments) = Segments(self.0).usage_and_segments()?;
        let segment_bytes = Segments(self.0).segment_bytes();
        let spare = segment_bytes + slack_of(segments + 1);
        if self
            .available()
            .is_some_and(|free| free.saturating_add(before.bytes) < bytes)
        {
            // Not even if all went.
            return Ok(false);
        }
        let may_evict = InForce(self.0).eviction() != Eviction::None;
        // Where nothing goes a limit would only refuse what there is room for.
        if may_evict {
            self.set_limit(before.bytes.saturating_sub(spare));
        }
        let enough = before.bytes.saturating_sub(bytes + segment_bytes + spare);
        let mut now = before.bytes;
        while now > enough && !wait.is_endless() {
            let gained = Compactor(self.0).compact(bytes, mine)?
                || may_evict && Compactor(self.0).empty_one(wait, mine)?;
            if !gained {
                if wait.is_over() {
                    break;
                }
                // Another process may be making room.
                wait.pause();
            }
            now = Segments(self.0).usage()?.bytes;
        }
        Ok(now < before.bytes)
    }

    fn set_limit(self, limit: u64) {
        let limit = limit.max(SEGMENT_BYTES_MIN);
        let word = &self.0.slab.header().device_limit;
        word.store(limit, Ordering::Relaxed);
    }

    /// Whether the device says that there is room for so many bytes, and for what is to be moved.
    pub(super) fn has(self, bytes: u64) -> bool {
        let wanted = bytes + 2 * Segments(self.0).segment_bytes();
        self.available()
            .is_some_and(|available| available >= wanted)
    }

    /// What there is on the device, if it says so.
    fn available(self) -> Option<u64> {
        crash_point();
        fs2::available_space(self.0.dir().join(LOG)).ok()
    }

    /// Lets the log take more again, if the device has more room by now. Asks it now and then, or
    /// `at_once`.
    pub(super) fn let_limit_rise(self, at_once: bool) -> Result<()> {
        let word = &self.0.slab.header().device_limit;
        let seen = word.load(Ordering::Relaxed);
        if seen == 0 {
            return Ok(());
        }
        let now = clock::coarse_ns() / A_LOOK_NS;
        let was_asked = self.0.process()?.device_asked.swap(now, Ordering::Relaxed) == now;
        if was_asked && !at_once {
            return Ok(());
        }
        // Where it does not say, the limit stays until the cache is configured.
        let Some(available) = self.available() else {
            return Ok(());
        };
        let (usage, segments) = Segments(self.0).usage_and_segments()?;
        let spare = 2 * Segments(self.0).segment_bytes() + slack_of(segments + 1);
        let limit = usage.bytes.saturating_add(available.saturating_sub(spare));
        if limit > seen {
            let limit = match limit < InForce(self.0).chosen_size_limit() {
                true => limit,
                false => 0,
            };
            // Otherwise the device was full once more.
            let _ = word.compare_exchange(seen, limit, Ordering::Relaxed, Ordering::Relaxed);
        }
        Ok(())
    }
}
