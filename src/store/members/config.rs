//! The settings in force.

use crate::Config;
use crate::Durability;
use crate::Eviction;
use crate::error::Result;
use crate::store::Store;
use crate::store::settings::config_of;
use crate::store::settings::durability_of;
use crate::store::settings::eviction_of;
use crate::store::settings::size_limit_of;

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
