//! Taking a key out of its chain, step by step; and what the next process to lock a stripe does
//! about the half-done work of a dead one.

use std::cell::Cell;

use crate::error::{Error, Result};
use crate::os::{clock, futex};
use crate::record::{Force, Hold, Left, Marked, Removal, Stamp, changes, reachable};
use crate::slab::bytes::{SPAN_MAX, span_of};
use crate::slab::layout::PERMITS_PER_BLOCK;
use crate::slab::{Intent, SlotId, Tally, Tenant, pack, unpack};
use crate::store::index::allocate::{Allocator, BLOCKS_MAX, Pool, Run};
use crate::store::index::split::Splitter;
use crate::store::index::stripe::StripeGuard;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::members::participants::Members;
use crate::store::slots::by_slot::Slots;
use crate::sync::Ordering;

fn intent_of(force: Force) -> Intent {
    match force {
        Force::Idle | Force::Unheld | Force::NotTheLiving => Intent::Reclaim,
        Force::Anybody => Intent::Remove,
    }
}

/// Takes keys out of a stripe that is locked.
#[derive(Clone, Copy)]
pub(in crate::store) struct Retirer<'g>(pub(in crate::store) &'g StripeGuard<'g>);

impl<'g> Retirer<'g> {
    /// Takes a key away, or says `false` and leaves it as it was: if a hold is not available, or if
    /// the key turns out not to be `wanted` once nobody else can change it. An error leaves it,
    /// too: of a value, if what was decided cannot be carried out.
    ///
    /// Killed after each step of [`retire_untold`](Retirer::retire_untold): (1) nothing has
    /// changed; (2) some words are retiring: that is undone, unless all are and the removal was
    /// by force: then it is done again; (3) the kind is none: (4) is repeated, every part of it
    /// can be.
    pub(in crate::store) fn retire(
        self,
        found: KeyEntry,
        bucket: u32,
        force: Force,
        wanted: impl FnOnce() -> bool,
    ) -> Result<bool> {
        self.retire_untold(found, bucket, force, &[], wanted)
    }

    /// Takes a semaphore away that is about to be made again, with permits that were abandoned:
    /// `untold` says which words those are, with the stamps of the dead. One of them is noted in
    /// the stripe until a word says it again, of the old key if this is undone, otherwise of the
    /// new one.
    pub(in crate::store) fn retire_untold(
        self,
        found: KeyEntry,
        bucket: u32,
        force: Force,
        untold: &[(usize, Stamp)],
        wanted: impl FnOnce() -> bool,
    ) -> Result<bool> {
        let slab = self.0.store.slab();
        let stripe = self.0.stripe();
        let hash = slab.slot(found.id).hash.load(Ordering::Relaxed);
        let (first_block, permits) = self.permits_of(found.id, found.kind)?;
        // 1
        self.note_intent(found, bucket, force, (first_block, permits));
        if let Some((_, stamp)) = untold.first() {
            stripe.note_untold(hash, stamp.tid);
        }
        // 2 and 3
        let removal = Removal {
            untold,
            ..self.removal(found.id, first_block, permits)
        };
        let is_dead = |other| Members(self.0.store).is_dead(self.0.process, other);
        let wake = &slab.slot(found.id).wake;
        let wake_all = || futex::wake(wake, i32::MAX);
        let (left, unsettled) = (Cell::new(None), Cell::new(None));
        let agree = |sequence: u64| {
            // Not of anything else: there may be no block to look at, which takes a system call to
            // find out.
            let first = (permits > 0).then(|| slab.permit(first_block, 0)).flatten();
            let ticket = first.map_or(0, |first| first.ticket.load(Ordering::Relaxed));
            let highest = sequence.max(reachable(ticket).unwrap_or(0));
            // As after a latch was taken: a dead process may have decided that the idle cell is to
            // be in force.
            if found.kind == Tenant::Value
                && let Err(error) = Journal(self.0.store).finish_decided()
            {
                unsettled.set(Some(error));
                return false;
            }
            if !wanted() {
                return false;
            }
            left.set(Slots(self.0.store).left_by(found));
            stripe.floor.fetch_max(highest, Ordering::Relaxed);
            true
        };
        let begun = removal.begin(self.0.process.id, force, is_dead, agree, wake_all);
        let Some(marked) = begun else {
            stripe.forget_untold(hash);
            stripe.set_intent(Intent::None);
            return unsettled.take().map_or(Ok(false), Err);
        };
        // 4
        self.finish_retire(marked, found.id, first_block, permits)?;
        // Not before: as long as the key is there, its value is.
        self.0.garbage.add(left.take());
        Ok(true)
    }

    /// Notes in the stripe what is about to be taken away, for the next process to lock it if this
    /// one dies.
    fn note_intent(
        self,
        found: KeyEntry,
        bucket: u32,
        force: Force,
        (first_block, permits): (u32, u32),
    ) {
        let stripe = self.0.stripe();
        let span = span_of(self.0.store.slab(), found.id);
        let blocks = permits.div_ceil(PERMITS_PER_BLOCK);
        stripe
            .slots
            .store(pack(found.id.index(), span), Ordering::Relaxed);
        stripe
            .blocks
            .store(pack(first_block, blocks), Ordering::Relaxed);
        stripe.bucket.store(bucket.into(), Ordering::Relaxed);
        let taken = Tally::by(found.kind, span);
        stripe.note_taken_next(stripe.taken().without(taken));
        stripe.set_intent(intent_of(force));
    }

    fn removal(
        self,
        id: SlotId,
        first_block: u32,
        permits: u32,
    ) -> Removal<'g, impl Iterator<Item = &'g Hold> + Clone> {
        let slot = self.0.store.slab().slot(id);
        Removal {
            holds: self.holds(id, first_block, permits),
            meta: &slot.meta,
            wake: &slot.wake,
            untold: &[],
        }
    }

    /// All hold words of a key.
    fn holds(
        self,
        id: SlotId,
        first_block: u32,
        permits: u32,
    ) -> impl Iterator<Item = &'g Hold> + Clone {
        let slab = self.0.store.slab();
        let permits = (0..permits).map_while(move |i| slab.permit(first_block, i));
        std::iter::once(&slab.slot(id).hold).chain(permits.map(|p| &p.hold))
    }

    /// A semaphore's first block and number of permits; of other kinds `(0, 0)`.
    fn permits_of(self, id: SlotId, kind: Tenant) -> Result<(u32, u32)> {
        match kind {
            Tenant::Semaphore => Slots(self.0.store).permits_of(id),
            _ => Ok((0, 0)),
        }
    }

    fn finish_retire(
        self,
        marked: Marked,
        id: SlotId,
        first_block: u32,
        permits: u32,
    ) -> Result<()> {
        let slab = self.0.store.slab();
        let bucket = self.0.stripe().bucket.load(Ordering::Relaxed) as u32;
        let wake = &slab.slot(id).wake;
        self.removal(id, first_block, permits).finish(
            marked,
            || self.unlink(id, bucket),
            || futex::wake(wake, i32::MAX),
        )?;
        // As claims of this stripe they are still nobody else's, so up to here all can be done
        // again. Once the first is free it may be another stripe's, which the mark tells apart.
        let (slots, blocks) = self.noted_runs()?;
        Allocator(self.0).set_states(Pool::Blocks, blocks, Allocator(self.0).claim_mark());
        Allocator(self.0).set_states(Pool::Slots, slots, Allocator(self.0).claim_mark());
        self.0.stripe().take_next();
        self.0.stripe().set_intent(Intent::Free);
        self.free_claims(slots, blocks);
        Ok(())
    }

    fn free_claims(self, slots: Run, blocks: Run) {
        Allocator(self.0).unclaim(Pool::Slots, slots);
        Allocator(self.0).unclaim(Pool::Blocks, blocks);
        self.0.stripe().set_intent(Intent::None);
    }

    /// The runs that the intent is about, if they are what a key can have.
    fn noted_runs(self) -> Result<(Run, Run)> {
        let run = |(first, count)| Run { first, count };
        let slots = run(unpack(self.0.stripe().slots.load(Ordering::Acquire)));
        let blocks = run(unpack(self.0.stripe().blocks.load(Ordering::Acquire)));
        if slots.count > SPAN_MAX || blocks.count > BLOCKS_MAX {
            return Err(self.damaged_intent());
        }
        Ok((slots, blocks))
    }

    fn damaged_intent(self) -> Error {
        let what = format!("the intent of stripe {} makes no sense", self.0.number);
        self.0.store.slab().corrupt(what)
    }

    /// Takes a slot out of its chain, if it is in it.
    fn unlink(self, id: SlotId, bucket: u32) -> Result<()> {
        changes::take_out(&self.0.stripe().departures, || {
            let slab = self.0.store.slab();
            let mut before = None;
            let mut linked = false;
            self.0.walk(bucket, |at| {
                linked = at == id;
                if !linked {
                    before = Some(at);
                }
                !linked
            })?;
            if linked {
                let next = slab.slot(id).next.load(Ordering::Relaxed);
                let link = match before {
                    Some(before) => &slab.slot(before).next,
                    None => self.0.head(bucket)?,
                };
                link.store(next, Ordering::Release);
            }
            Ok(())
        })
    }

    /// Finishes or undoes what a dead process left in this stripe.
    pub(in crate::store) fn recover(self) -> Result<()> {
        let intent = self.0.stripe().intent();
        let intent = intent.ok_or_else(|| self.damaged_intent())?;
        let (slots, blocks) = self.noted_runs()?;
        let id = self.0.store.slab().slot_id(slots.first);
        match (intent, id) {
            (Intent::None, _) => Ok(()),
            (Intent::Split, _) => Splitter(self.0).recover(),
            (Intent::Create, _) => self.recover_create(slots, blocks),
            (Intent::Free, _) => {
                self.free_claims(slots, blocks);
                Ok(())
            }
            (Intent::Reclaim, Some(id)) => self.recover_retire(id, Force::Idle, blocks),
            (Intent::Remove, Some(id)) => self.recover_retire(id, Force::Anybody, blocks),
            (Intent::Reclaim | Intent::Remove, None) => Err(self.damaged_intent()),
        }
    }

    /// Finishes a key that has its kind, undoes one that has not. The slot is this stripe's only if
    /// its state says so: the intent is noted before the claim.
    fn recover_create(self, slots: Run, blocks: Run) -> Result<()> {
        let slab = self.0.store.slab();
        let claimed = |id: &SlotId| {
            let state = slab.slot_state(id.index());
            state.is_some_and(|s| s.load(Ordering::Acquire) == Allocator(self.0).claim_mark())
        };
        if let Some(id) = slab.slot_id(slots.first).filter(claimed) {
            if slab.slot(id).meta().is_some_and(|m| m.kind.is_some()) {
                self.0.finish_create(slots, blocks);
                return Ok(());
            }
            let bucket = self.0.stripe().bucket.load(Ordering::Relaxed) as u32;
            self.unlink(id, bucket)?;
        }
        self.free_claims(slots, blocks);
        Ok(())
    }

    fn recover_retire(self, id: SlotId, force: Force, blocks: Run) -> Result<()> {
        let slab = self.0.store.slab();
        let meta = slab
            .slot(id)
            .meta()
            .ok_or_else(|| slab.corrupt(format!("slot {}", id.index())))?;
        let (first_block, permits) = match meta.kind {
            Some(kind) if force == Force::Anybody => self.permits_of(id, kind)?,
            _ => (blocks.first, blocks.count * PERMITS_PER_BLOCK),
        };
        let removal = self.removal(id, first_block, permits);
        match (removal.left(force), meta.kind) {
            (Left::Again, Some(kind)) => {
                let bucket = self.0.stripe().bucket.load(Ordering::Relaxed) as u32;
                let found = KeyEntry { id, meta, kind };
                self.retire(found, bucket, Force::Anybody, || true)
                    .map(drop)
            }
            (Left::Undo, Some(_)) => {
                self.undo_retire(id, first_block, permits);
                Ok(())
            }
            _ => self.finish_retire(Marked::UNKNOWN, id, first_block, permits),
        }
    }

    fn undo_retire(self, id: SlotId, first_block: u32, permits: u32) {
        let slot = self.0.store.slab().slot(id);
        let hash = slot.hash.load(Ordering::Relaxed);
        // Which permits had something to tell is not known any more: the first that was taken. The
        // first word is the slot's own.
        let mut words = self.holds(id, first_block, permits).enumerate().skip(1);
        let taken = words.find(|(_, hold)| hold.load().is_retiring());
        let untold = taken.and_then(|(at, _)| Some((at, self.untold_of(hash)?)));
        let removal = Removal {
            untold: untold.as_slice(),
            ..self.removal(id, first_block, permits)
        };
        removal.give_up(|| futex::wake(&slot.wake, i32::MAX));
        self.0.stripe().forget_untold(hash);
        self.0.stripe().set_intent(Intent::None);
    }

    /// What is noted of a holder that died with the last semaphore of that hash.
    pub(in crate::store) fn untold_of(self, hash: u32) -> Option<Stamp> {
        let pid = self.0.stripe().untold(hash)?;
        // Since when it had its permit is not noted.
        Some(Stamp::precise(pid, clock::coarse_ns()))
    }

    /// The bucket of a key that was found by its slot.
    pub(in crate::store) fn bucket_of(self, found: KeyEntry) -> u32 {
        let hash = &self.0.store.slab().slot(found.id).hash;
        self.0.bucket_of(hash.load(Ordering::Relaxed).into())
    }
}
