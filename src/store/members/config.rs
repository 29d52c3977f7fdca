//! The settings in force.

use crate::error::Result;
use crate::store::Store;
use crate::store::settings::{config_of, durability_of, eviction_of, size_limit_of};
use crate::{Config, Durability, Eviction};

/// As the header has it; what it cannot have is the default.
impl Store {
    pub(crate) fn config(&self) -> Result<Config> {
        config_of(&self.slab)
    }

    pub(crate) fn size_limit(&self) -> u64 {
        size_limit_of(&self.slab)
    }

    #[inline]
    pub(crate) fn eviction(&self) -> Eviction {
        eviction_of(&self.slab)
    }

    pub(crate) fn durability(&self) -> Durability {
        durability_of(&self.slab)
    }
}

impl Store {
    pub(crate) fn is_durable(&self) -> bool {
        self.durability() == Durability::PowerLoss
    }
}
