//! What is in the slots of a slab, also of one that is no store yet.

use crate::error::Result;
use crate::log::Wanted;
use crate::record::life;
use crate::slab::bytes::{KeyPlace, read_bytes};
use crate::slab::layout::PERMITS_PER_BLOCK;
use crate::slab::value_cells::{Content, Form, ValueCells};
use crate::slab::{Growing, Meta, Slab, SlotId, Tenant};
use crate::store::key_entry::KeyEntry;

/// The bytes of a key.
pub(in crate::store) fn key_of(slab: &Slab, found: KeyEntry) -> Option<Vec<u8>> {
    let place = KeyPlace::of(found.kind, found.meta.key_len, 0);
    read_bytes(slab, found.id, place.key_at, found.meta.key_len)
}

/// A semaphore's first block and its permits, as its slot says.
pub(in crate::store) fn permits_of(slab: &Slab, id: SlotId) -> Result<(u32, u32)> {
    let (first, permits) = slab.slot(id).permits();
    let last = permits.saturating_sub(1);
    let inside = (1..=u32::from(u16::MAX)).contains(&permits) && slab.permit(first, last).is_some();
    if inside {
        return Ok((first, permits));
    }
    let what = || {
        format!(
            "slot {} says {permits} permits from block {first}",
            id.index()
        )
    };
    let block = first.saturating_add(last / PERMITS_PER_BLOCK);
    Err(slab.extent().unreachable(Growing::Blocks, block, what))
}

/// Whether a slot is still in the life in which it was found.
#[inline(always)]
pub(in crate::store) fn is_still(slab: &Slab, found: KeyEntry) -> bool {
    let of = Meta::life_of(found.meta.generation, found.kind);
    life::is_current(&slab.slot(found.id).meta, of)
}

/// What to read of the log for a value. `None`: it does not lie there.
pub(in crate::store) fn wanted<'k>(key: &'k [u8], content: &Content) -> Option<Wanted<'k>> {
    let Form::Logged { place, len, .. } = content.form else {
        return None;
    };
    Some(Wanted {
        place,
        key,
        tag_len: content.tag_len,
        len,
        trusting: None,
    })
}

/// All values that lie in the log.
pub(in crate::store) fn logged(slab: &Slab) -> impl Iterator<Item = (KeyEntry, Content)> {
    values(slab).filter_map(|(found, cells)| {
        let content = cells.read(&mut ()).ok()?.content;
        matches!(content.form, Form::Logged { .. }).then_some((found, content))
    })
}

pub(in crate::store) fn values(slab: &Slab) -> impl Iterator<Item = (KeyEntry, ValueCells<'_>)> {
    let slots = (0..slab.allocated(Growing::Slots)).map_while(|at| slab.slot_id(at));
    slots.filter_map(move |id| {
        let meta = slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Tenant::Value)?;
        let found = KeyEntry { id, meta, kind };
        Some((found, found.cells(slab)?))
    })
}
