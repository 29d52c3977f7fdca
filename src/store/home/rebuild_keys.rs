//! The keys' part of a rebuild: from the slots alone, which keys there are, the chains that lead to
//! them, and which slots and blocks are taken.

use crate::error::show_key;
use crate::record::PAYLOAD_WORDS;
use crate::slab::buckets::{Buckets, stripe_of};
use crate::slab::bytes::{KeyPlace, SPAN_MAX, read_bytes, write_bytes};
use crate::slab::hash::hash;
use crate::slab::layout::{PERMITS_PER_BLOCK, STRIPES};
use crate::slab::{
    Growing, Intent, Meta, STATE_FREE, STATE_TAIL, STATE_USED, Slab, SlotId, Tally, Tenant,
};
use crate::store::home::rebuild::RepairReport;
use crate::store::home::rebuild_values;
use crate::store::key_entry::hash_as;
use crate::sync::{AtomicU8, AtomicU32, Ordering};

/// The work on the keys of a slab, and what came of it.
pub(super) struct Rebuild<'a> {
    slab: &'a Slab,
    pub(super) report: RepairReport,
    /// The states as they were.
    before: Vec<u8>,
    unfinished: usize,
}

impl<'a> Rebuild<'a> {
    pub(super) fn new(slab: &'a Slab) -> Rebuild<'a> {
        let states = (0..slab.allocated(Growing::Slots)).map(|at| load(slab.slot_state(at)));
        Rebuild {
            slab,
            report: RepairReport::default(),
            before: states.collect(),
            unfinished: 0,
        }
    }

    pub(super) fn clear_structure(&mut self) {
        let slab = self.slab;
        for number in 0..STRIPES {
            let stripe = slab.stripe(number);
            if stripe.intent() != Some(Intent::None) {
                self.unfinished += 1;
            }
            stripe.set_intent(Intent::None);
            stripe.forget_watched();
            stripe.set_taken(Tally::default());
        }
        if self.unfinished > 0 {
            let what = format!("ended {} unfinished changes", self.unfinished);
            self.report.actions.push(what);
        }
        let slots = slab.allocated(Growing::Slots);
        let rows = Buckets::rows_for(slots);
        for stripe in 0..STRIPES {
            Buckets(slab).counter(stripe).store(rows, Ordering::Relaxed);
        }
        let heads = (0..rows * STRIPES).filter_map(|bucket| Buckets(slab).head(bucket));
        heads.for_each(|head| head.store(0, Ordering::Relaxed));
        for at in 0..slots {
            set(slab.slot_state(at), STATE_FREE);
        }
        for at in 0..slab.allocated(Growing::Blocks) {
            set(slab.block_state(at), STATE_FREE);
        }
        slab.absences().forget();
        let header = slab.header();
        header.slot_hint.store(0, Ordering::Relaxed);
        header.block_hint.store(0, Ordering::Relaxed);
    }

    pub(super) fn keep_what_makes_sense(&mut self) {
        for number in 0..self.slab.allocated(Growing::Slots) {
            let Some(id) = self.slab.slot_id(number) else {
                break;
            };
            let slot = self.slab.slot(id);
            let bits = slot.meta.load(Ordering::Relaxed);
            let meta = Meta::decode(bits);
            if meta.is_some_and(|m| m.kind.is_none()) {
                continue;
            }
            match meta.and_then(|meta| self.accept(id, meta)) {
                Some(()) => {
                    // Nobody has heard of turns.
                    let is_key = meta.is_some_and(|meta| meta.kind != Some(Tenant::Turn));
                    self.report.keys_kept += usize::from(is_key);
                }
                None => {
                    self.report.keys_lost += 1;
                    let what = format!("dropped slot {number}, which made no sense");
                    self.report.actions.push(what);
                    let next_life = (bits as u32).wrapping_add(1);
                    slot.meta.store(next_life.into(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Links a key again, if everything about it fits.
    fn accept(&mut self, id: SlotId, meta: Meta) -> Option<()> {
        let slab = self.slab;
        let slot = slab.slot(id);
        let kind = meta.kind?;
        let span = u32::from(slot.span.load(Ordering::Relaxed));
        let place = KeyPlace::of(kind, meta.key_len, meta.tag_len);
        if span > SPAN_MAX || span < place.span() || slab.bodies(id, span).is_none() {
            return None;
        }
        let key = read_bytes(slab, id, place.key_at, meta.key_len)?;
        let hash = hash_as(kind, hash(slab.part().seed, &key));
        if slot.hash.load(Ordering::Relaxed) != hash as u32 {
            return None;
        }
        let head = Buckets(slab).head(Buckets(slab).of(hash))?;
        if self.is_linked_already(head, &key, hash as u32) {
            return None;
        }
        let (first_block, blocks) = self.blocks_of(kind, id)?;
        // What is not allocated has no state.
        let free = |state: Option<&AtomicU8>| {
            state.is_some_and(|state| state.load(Ordering::Relaxed) == STATE_FREE)
        };
        let slots = id.index()..id.index().checked_add(span)?;
        let blocks = first_block..first_block.checked_add(blocks)?;
        let room = slots.clone().all(|at| free(slab.slot_state(at)))
            && blocks.clone().all(|at| free(slab.block_state(at)));
        if !room {
            return None;
        }
        // Behind its last byte a torn page leaves what was there, and keys are compared in words.
        if !write_bytes(slab, id, span, place.key_at, &key) {
            return None;
        }
        for at in slots.skip(1) {
            set(slab.slot_state(at), STATE_TAIL);
        }
        for at in blocks {
            set(slab.block_state(at), STATE_USED);
        }
        set(slab.slot_state(id.index()), STATE_USED);
        match kind {
            Tenant::Averager => self.mend_average(id, meta.generation, &key),
            Tenant::Value => {
                let mended = rebuild_values::mend_value(slab, id, meta, &key);
                self.report.actions.extend(mended);
            }
            _ => {}
        }
        slot.next
            .store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(id.link(), Ordering::Relaxed);
        let stripe = slab.stripe(stripe_of(hash));
        stripe.set_taken(stripe.taken().and(Tally::by(kind, span)));
        Some(())
    }

    fn blocks_of(&self, kind: Tenant, id: SlotId) -> Option<(u32, u32)> {
        if kind != Tenant::Semaphore {
            return Some((0, 0));
        }
        let (first, permits) = self.slab.slot(id).permits();
        let last = permits.checked_sub(1)?;
        let inside = permits <= u32::from(u16::MAX) && self.slab.permit(first, last).is_some();
        inside.then_some((first, permits.div_ceil(PERMITS_PER_BLOCK)))
    }

    fn mend_average(&mut self, id: SlotId, life: u32, key: &[u8]) {
        let cells = self.slab.slot(id).cells();
        if cells.is_whole() {
            return;
        }
        let shown = show_key(key);
        let what = if cells.restore() {
            format!("set the average {shown} back to its value before the last change")
        } else {
            cells.reset(&[0; PAYLOAD_WORDS], life);
            format!("emptied the average {shown}, of which no value was whole")
        };
        self.report.actions.push(what);
    }

    /// The hash tells a key from its turn.
    fn is_linked_already(&self, head: &AtomicU32, key: &[u8], hash: u32) -> bool {
        let slab = self.slab;
        let mut link = head.load(Ordering::Relaxed);
        while let Some(id) = slab.follow(link) {
            let slot = slab.slot(id);
            let same = slot.meta().and_then(|meta| {
                let place = KeyPlace::of(meta.kind?, meta.key_len, meta.tag_len);
                read_bytes(slab, id, place.key_at, meta.key_len)
            });
            if same.as_deref() == Some(key) && slot.hash.load(Ordering::Relaxed) == hash {
                return true;
            }
            link = slot.next.load(Ordering::Relaxed);
        }
        false
    }

    pub(super) fn count_freed(&mut self) {
        let freed = self.before.iter().enumerate().filter(|(at, before)| {
            **before != STATE_FREE && load(self.slab.slot_state(*at as u32)) == STATE_FREE
        });
        self.report.slots_freed = freed.count();
        if self.report.slots_freed > 0 {
            let what = format!("freed {} slots without a key", self.report.slots_freed);
            self.report.actions.push(what);
        }
    }
}

fn load(state: Option<&AtomicU8>) -> u8 {
    state.map_or(STATE_FREE, |s| s.load(Ordering::Relaxed))
}

fn set(state: Option<&AtomicU8>, to: u8) {
    if let Some(state) = state {
        state.store(to, Ordering::Relaxed);
    }
}
