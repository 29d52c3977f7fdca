//! The settings in force.

use crate::error::Result;
use crate::store::Store;
use crate::store::settings::{
    SEGMENT_BYTES_MIN, config_of, durability_of, eviction_of, size_limit_of, value_limit_of,
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

    /// What the log may take: what was chosen, or less, if the device has less.
    pub(crate) fn size_limit(self) -> u64 {
        self.chosen_size_limit().min(self.device_limit())
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
