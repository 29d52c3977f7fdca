//! What a `Cache` and a `FanoutCache` have in common.

use crate::cache::{Cache, FanoutCache};
use crate::error::Result;
use crate::store::care::check::CheckReport;
use crate::store::settings::Config;
use crate::types::{KeyInfo, Stats};

/// A place for keys: a [`Cache`] or a [`FanoutCache`]. Sealed; everything that needs a place takes either.
pub trait Keyspace: sealed::Sealed {
    /// All caches behind it: one, or the shards.
    fn caches(&self) -> &[Cache];

    /// The cache in which `key` lives.
    fn cache_for(&self, key: &[u8]) -> &Cache;

    /// Removes every key that carries `tag`. See [`Cache::evict`].
    fn evict(&self, tag: impl AsRef<[u8]>) -> Result<usize> {
        let tag = tag.as_ref();
        self.caches().iter().map(|c| c.evict(tag)).sum()
    }

    /// Removes a key. See [`Cache::remove`].
    fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        self.cache_for(key).remove(key)
    }

    /// Removes every key. See [`Cache::clear`].
    fn clear(&self) -> Result<usize> {
        self.caches().iter().map(Cache::clear).sum()
    }

    /// All keys and how they stand. See [`Cache::keys`].
    fn keys(&self) -> Result<Vec<KeyInfo>> {
        let mut keys = Vec::new();
        for cache in self.caches() {
            keys.extend(cache.keys()?);
        }
        Ok(keys)
    }

    /// One key and how it stands. See [`Cache::key`].
    fn key(&self, key: impl AsRef<[u8]>) -> Result<Option<KeyInfo>> {
        let key = key.as_ref();
        self.cache_for(key).key(key)
    }

    /// How many keys there are. See [`Cache::len`].
    fn len(&self) -> Result<usize> {
        self.caches().iter().map(Cache::len).sum()
    }

    /// Whether there are no keys.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Removes values whose time is over. See [`Cache::expire`].
    fn expire(&self) -> Result<usize> {
        self.caches().iter().map(Cache::expire).sum()
    }

    /// Makes room. See [`Cache::cull`].
    fn cull(&self) -> Result<usize> {
        self.caches().iter().map(Cache::cull).sum()
    }

    /// How many bytes of disk everything takes. See [`Cache::volume`].
    fn volume(&self) -> Result<u64> {
        self.caches().iter().map(Cache::volume).sum()
    }

    /// How it fares. See [`Cache::stats`].
    fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        for cache in self.caches() {
            stats.merge(cache.stats()?);
        }
        Ok(stats)
    }

    /// Waits for the medium. See [`Cache::sync`].
    fn sync(&self) -> Result<()> {
        self.caches().iter().try_for_each(Cache::sync)
    }

    /// The settings in force, of all shards together. See [`Cache::config`].
    fn config(&self) -> Result<Config> {
        let caches = self.caches();
        let mut whole = caches[0].config()?;
        for cache in &caches[1..] {
            whole.add(&cache.config()?);
        }
        Ok(whole)
    }

    /// Verifies everything. See [`Cache::check`].
    fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        for cache in self.caches() {
            report.merge(cache.check()?);
        }
        Ok(report)
    }
}

impl Keyspace for Cache {
    fn caches(&self) -> &[Cache] {
        std::slice::from_ref(self)
    }

    fn cache_for(&self, _key: &[u8]) -> &Cache {
        self
    }
}

impl Keyspace for FanoutCache {
    fn caches(&self) -> &[Cache] {
        self.shard_caches()
    }

    fn cache_for(&self, key: &[u8]) -> &Cache {
        self.shard_of(key)
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Cache {}
    impl Sealed for super::FanoutCache {}
}
