//! A key as all rooms speak of it: where its slot is, what was found there, and what is to be made.

use crate::error::{Error, Result};
use crate::record::{Stamp, life};
use crate::slab::bytes::{KeyPlace, span_of};
use crate::slab::value_cells::ValueCells;
use crate::slab::{KEY_BYTES_MAX, Meta, Slab, Slot, SlotId, TAG_BYTES_MAX, Tenant};

/// By what the hash of a turn differs from that of its key. In none of the bits that say on which
/// bucket it hangs, of however many: a turn hangs on that of its key, and no walk takes one for the
/// other, for both compare their own hash first (I9).
const TURN_SALT: u64 = 0x9e00_0000;

/// A key, found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyEntry {
    pub(crate) id: SlotId,
    pub(crate) meta: Meta,
    pub(crate) kind: Tenant,
}

impl KeyEntry {
    /// The cells of a value. `None`: its slots have no room for any.
    #[inline]
    pub(crate) fn cells(self, slab: &Slab) -> Option<ValueCells<'_>> {
        ValueCells::within(slab, self.id, span_of(slab, self.id), self.meta.key_len)
    }
}

/// What a key is to be, when it has to be made.
pub(crate) struct NewKey<'a> {
    pub(crate) kind: Tenant,
    pub(crate) key: &'a [u8],
    pub(crate) hash: u64,
    pub(crate) tag: &'a [u8],
    /// Of a semaphore, otherwise 0.
    pub(crate) permits: u32,
    /// Of a semaphore: the stamps of holders that died with the one before. Its first permits say
    /// so.
    pub(crate) untold: &'a [Stamp],
    /// Of a value: how many words each of its cells is to have, at least. Otherwise 0.
    pub(crate) cell_words: usize,
    /// To be looked for all over the slots, however many there are: nothing more can go.
    pub(crate) thorough: bool,
}

impl NewKey<'_> {
    pub(crate) fn place(&self) -> KeyPlace {
        KeyPlace::of(self.kind, self.key.len(), self.tag.len()).with_cells(self.cell_words)
    }
}

/// The hash under which a key of that kind is found, from that of its bytes: turns have a namespace
/// of their own, so that the key itself may be a value.
pub(crate) fn hash_as(kind: Tenant, hash: u64) -> u64 {
    match kind {
        Tenant::Turn => hash ^ TURN_SALT,
        _ => hash,
    }
}

/// Refuses keys and tags of impossible lengths.
pub(crate) fn check_lengths(key: &[u8], tag: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::KeyLength { len: key.len() });
    }
    if tag.len() > TAG_BYTES_MAX {
        return Err(Error::TagLength { len: tag.len() });
    }
    Ok(())
}

/// A slot in a certain life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotRef {
    pub(crate) id: SlotId,
    pub(crate) generation: u32,
}

impl SlotRef {
    /// Whether the slot is still in that life. Read after the hold word: a remover takes a key's
    /// words first, so a word read in this life cannot be taken in the next (H4).
    #[inline]
    pub(crate) fn is_current(self, slot: &Slot, kind: Tenant) -> bool {
        life::is_current(&slot.meta, Meta::life_of(self.generation, kind))
    }
}
