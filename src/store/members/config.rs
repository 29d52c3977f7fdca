//! The settings in force.

use crate::error::Result;
use crate::store::Store;
use crate::store::settings::{
    SEGMENT_BYTES_MIN, SIZE_LIMIT_MIN, config_of, durability_of, eviction_of, in_slots_of,
    size_limit_of, value_limit_of,
};
use crate::sync::Ordering;
use crate::{Config, Durability, Eviction};

/// What was decided for a store once, and is in force for all of its processes, as the header has
/// it; what it cannot have is the default.
#[derive(Clone, Copy)]
pub(crate) struct InForce<'s>(pub(crate) &'s Store);

impl<'s> InForce<'s> {
    pub(crate) fn config(self) -> Result<Config> {
        config_of(&self.0.slab)
    }

    /// What the log may take: of what was chosen all that values do not take in slots, but half of
    /// it at least; or less, if the device has less.
    pub(crate) fn log_limit(self) -> u64 {
        let chosen = self.chosen_size_limit();
        let least = (chosen / 2).max(SIZE_LIMIT_MIN).min(chosen);
        let left = chosen.saturating_sub(self.in_slots()).max(least);
        left.min(self.device_limit())
    }

    /// How many bytes of slots values take.
    pub(crate) fn in_slots(self) -> u64 {
        in_slots_of(&self.0.slab)
    }

    /// Whether values in slots have to make room for one of so many bytes in the log: they take
    /// more than half of what all may take, or it does not fit beside them.
    pub(crate) fn is_crowded_by_slots(self, bytes: u64) -> bool {
        let (chosen, in_slots) = (self.chosen_size_limit(), self.in_slots());
        in_slots > chosen / 2 || in_slots.saturating_add(bytes) > chosen
    }

    pub(crate) fn chosen_size_limit(self) -> u64 {
        size_limit_of(&self.0.slab)
    }

    /// How many bytes one value may have.
    pub(crate) fn value_limit(self) -> u64 {
        value_limit_of(&self.0.slab)
    }

    /// Whether the device is what limits the log.
    pub(crate) fn is_device_short(self) -> bool {
        self.device_limit() < self.chosen_size_limit()
    }

    fn device_limit(self) -> u64 {
        match self.0.slab.header().device_limit.load(Ordering::Relaxed) {
            0 => u64::MAX,
            limit => limit.max(SEGMENT_BYTES_MIN),
        }
    }

    #[inline]
    pub(crate) fn eviction(self) -> Eviction {
        eviction_of(&self.0.slab)
    }

    pub(crate) fn durability(self) -> Durability {
        durability_of(&self.0.slab)
    }
}

impl<'s> InForce<'s> {
    pub(crate) fn is_durable(self) -> bool {
        self.durability() == Durability::PowerLoss
    }
}
