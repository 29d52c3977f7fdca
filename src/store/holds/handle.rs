//! What a handle knows of its key: where it lies. Remembered since `locate` found or made it, and
//! checked against the slot's generation each time, so a key that was taken away is noticed.

use std::sync::Arc;
use std::time::Duration;

use crate::error::show_key;
use crate::os::clock;
use crate::record::NO_VERSION;
use crate::slab::{Slot, SlotId, Tenant};
use crate::store::Store;
use crate::store::index::chains::Index;
use crate::store::key_entry::{KeyEntry, SlotRef, hash_as};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A handle's key and settings, and its memory of the slot. Shared by the clones of a handle.
pub(crate) struct Handle {
    store: Arc<Store>,
    kind: Tenant,
    key: Box<[u8]>,
    hash: u64,
    pub(crate) tag: Box<[u8]>,
    /// For locks and semaphores the lease, for averages how long they last.
    pub(crate) expire: Option<Duration>,
    /// That time in microseconds.
    pub(crate) lease_us: Option<u64>,
    /// Of a semaphore, otherwise 0.
    permits: u32,
    /// Of a value: how long its cells are to be, otherwise 0.
    pub(super) cell_words: usize,
    /// `slot's link << 32 | generation`, or 0.
    spot: AtomicU64,
    /// Of an average: the version that was seen last. Seals of other versions are checked.
    version: AtomicU64,
    /// The permit that was free last time. Wrong values cost time only.
    pub(crate) hint: AtomicU32,
}

impl Handle {
    pub(crate) fn new(store: Arc<Store>, kind: Tenant, key: &[u8], permits: u32) -> Handle {
        Handle {
            hash: hash_as(kind, Index(&store).hash(key)),
            store,
            kind,
            key: key.into(),
            tag: Box::default(),
            expire: None,
            lease_us: None,
            permits,
            cell_words: 0,
            spot: AtomicU64::new(0),
            version: AtomicU64::new(NO_VERSION),
            hint: AtomicU32::new(0),
        }
    }

    /// A handle for one change of a value with a latch that is not available at once.
    pub(crate) fn of_value(store: Arc<Store>, key: &[u8], hash: u64, cell_words: usize) -> Handle {
        Handle {
            hash,
            cell_words,
            ..Handle::new(store, Tenant::Value, key, 0)
        }
    }

    /// A handle with other settings, for the builder methods.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Handle)) -> Handle {
        let mut new = Handle {
            store: Arc::clone(&self.store),
            kind: self.kind,
            key: self.key.clone(),
            hash: self.hash,
            tag: self.tag.clone(),
            expire: self.expire,
            lease_us: None,
            permits: self.permits,
            cell_words: self.cell_words,
            spot: AtomicU64::new(0),
            version: AtomicU64::new(NO_VERSION),
            hint: AtomicU32::new(0),
        };
        change(&mut new);
        new.lease_us = new.expire.map(clock::duration_us);
        new
    }

    #[inline]
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    #[inline]
    pub(crate) fn kind(&self) -> Tenant {
        self.kind
    }

    pub(crate) fn permits(&self) -> u32 {
        self.permits
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn show_key(&self) -> String {
        show_key(&self.key)
    }

    #[inline]
    pub(crate) fn slot(&self, spot: SlotRef) -> &Slot {
        self.store.slab().slot(spot.id)
    }

    /// Where the key was last.
    #[inline]
    pub(crate) fn remembered(&self) -> Option<SlotRef> {
        let bits = self.spot.load(Ordering::Relaxed);
        Some(SlotRef {
            id: SlotId::remembered((bits >> 32) as u32)?,
            generation: bits as u32,
        })
    }

    pub(super) fn remember(&self, found: KeyEntry) -> SlotRef {
        let generation = found.meta.generation;
        let bits = u64::from(found.id.link()) << 32 | u64::from(generation);
        self.version.store(NO_VERSION, Ordering::Relaxed);
        self.spot.store(bits, Ordering::Relaxed);
        SlotRef {
            id: found.id,
            generation,
        }
    }

    /// What was remembered as `spot`, as long as it is there.
    pub(crate) fn found_at(&self, spot: SlotRef) -> Option<KeyEntry> {
        let meta = self.slot(spot).meta()?;
        let kind = meta.kind?;
        let same = meta.generation == spot.generation && kind == self.kind;
        same.then_some(KeyEntry {
            id: spot.id,
            meta,
            kind,
        })
    }

    /// Whether the key is still where `spot` says.
    #[inline]
    pub(crate) fn is_current(&self, spot: SlotRef) -> bool {
        spot.is_current(self.slot(spot), self.kind)
    }

    /// The version of the average that this handle has seen last, in the slot that it remembers.
    #[inline]
    pub(crate) fn known_version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Notes a version, so that its seal need not be checked again. Should another thread move the
    /// handle to another slot just now, a check is left out there: those are against damaged
    /// files, not against each other.
    #[inline]
    pub(crate) fn know_version(&self, spot: SlotRef, version: u64) {
        if self.known_version() != version && self.remembered() == Some(spot) {
            self.version.store(version, Ordering::Relaxed);
        }
    }
}
