//! The list of what a transaction has decided, as it lies in the log.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::{Location, Log, record_bytes};
use crate::os::dir::Dir;
use crate::slab::{Meta, Slab, SlotId, Tenant};
use crate::store::key_entry::KeyEntry;
use crate::store::log::segments::RECORD_OF_NO_KEY;
use crate::store::names;

/// A selector that is to be flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Flip {
    pub(in crate::store) shard: u32,
    pub(in crate::store) slot: u32,
    pub(in crate::store) generation: u32,
    /// In force before.
    pub(in crate::store) version: u64,
}

const FLIP_BYTES: usize = 20;

/// What the record of a list of flips has for a key, so that it passes for no value.
pub(in crate::store) const LIST_KEY: &[u8] = RECORD_OF_NO_KEY;

impl Flip {
    pub(in crate::store) fn encode(self) -> [u8; FLIP_BYTES] {
        let mut bytes = [0; FLIP_BYTES];
        bytes[..4].copy_from_slice(&self.shard.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.slot.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_le_bytes());
        bytes[12..].copy_from_slice(&self.version.to_le_bytes());
        bytes
    }

    pub(in crate::store) fn decode(bytes: &[u8; FLIP_BYTES]) -> Flip {
        let u32_at =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        Flip {
            shard: u32_at(0),
            slot: u32_at(4),
            generation: u32_at(8),
            version: u64::from(u32_at(12)) | u64::from(u32_at(16)) << 32,
        }
    }

    /// Flips the selector in the slab of its shard; nothing, if that was done, or the key is gone.
    pub(in crate::store) fn carry_out(self, slab: &Slab) {
        let Some(found) = self.value_in(slab) else {
            return;
        };
        if let Some(cells) = found.cells(slab) {
            cells.flip(self.version);
        }
    }

    fn value_in(self, slab: &Slab) -> Option<KeyEntry> {
        let id: SlotId = slab.slot_id(self.slot)?;
        let meta: Meta = slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Tenant::Value)?;
        (meta.generation == self.generation).then_some(KeyEntry { id, meta, kind })
    }
}

/// How much of a segment a list takes.
pub(in crate::store) fn list_bytes(flips: usize) -> u64 {
    record_bytes(LIST_KEY.len(), 0, flips * FLIP_BYTES)
}

/// What a journal lists. `None`: there is no whole list, and nothing was decided.
pub(in crate::store) fn read_list(log: &Log, journal: u64) -> io::Result<Option<Vec<Flip>>> {
    let Some(place) = Location::from_bits(journal) else {
        return Ok(None);
    };
    let mut list = Vec::new();
    let whole = log.read_sized(place, LIST_KEY, &mut list)?;
    let (flips, rest) = list.as_chunks::<FLIP_BYTES>();
    let is_list = whole && rest.is_empty();
    Ok(is_list.then(|| flips.iter().map(Flip::decode).collect()))
}

/// The log of a slab, to be read or cleared up.
pub(in crate::store) fn log_of(slab: &Slab) -> Result<Log> {
    let store = names::parent(slab.path());
    let home = Dir::open(&store).map_err(|e| Error::io("open", &store, e))?;
    Ok(Log::new(
        &store,
        Arc::new(home),
        names::SLAB,
        slab.part().id,
    ))
}
