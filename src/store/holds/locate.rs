//! Finding a handle's key, or making it: with room for it, of the right kind, with its tag.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::record::Force;
use crate::slab::Tenant;
use crate::slab::layout::SLOT_BYTES;
use crate::store::holds::handle::Handle;
use crate::store::holds::take_over::TakeOver;
use crate::store::index::allocate::{Claimed, NoRoom};
use crate::store::index::busy::stripe_byte;
use crate::store::index::chains::Index;
use crate::store::index::pieces::Pieces;
use crate::store::index::retire::Retirer;
use crate::store::index::stripe::StripeGuard;
use crate::store::journal::decided::Journal;
use crate::store::journal::siblings::Siblings;
use crate::store::key_entry::{KeyEntry, NewKey, SlotRef, check_lengths};
use crate::store::log::segments::Segments;
use crate::store::members::deadlock::Deadlocks;
use crate::store::members::range::{RangeGuard, Ranges};
use crate::store::patience::{Patience, pause};
use crate::store::reclaim::evict::Want;
use crate::store::reclaim::free_slots::Reclaimer;
use crate::store::reclaim::slot_room::SlotRoom;
use crate::store::slots::by_slot::Slots;
use crate::store::{GROW_BYTE, TRANSACT_BYTE};
use crate::types::Predecessor;

/// How a key that was found fits a handle.
enum Fit {
    Ours,
    /// It was taken away meanwhile.
    Gone,
    /// A semaphore of so many permits, where the handle wants another number.
    Other(u32),
}

/// Finds the key of a handle, or makes it.
#[derive(Clone, Copy)]
pub(crate) struct Finder<'h>(pub(crate) &'h Handle);

impl<'h> Finder<'h> {
    /// Where the key is now, if it is anywhere.
    pub(crate) fn locate(self) -> Result<Option<SlotRef>> {
        self.locate_within(Patience::Forever)
    }

    /// Where the key is now. Errors: `StructureBusy` if the patience was over before it could be
    /// said.
    pub(crate) fn locate_within(self, patience: Patience) -> Result<Option<SlotRef>> {
        if let Some(spot) = self.0.remembered().filter(|s| self.0.is_current(*s)) {
            return Ok(Some(spot));
        }
        self.check_settings()?;
        if !self.0.tag.is_empty() {
            return self.locate_and_tag(patience);
        }
        while let Some(found) = Index(self.0.store()).find(self.0.key(), self.0.hash(), patience)? {
            if self.may_be_in_the_way(found) {
                return Ok(None);
            }
            match self.check_found(found)? {
                Fit::Ours => return Ok(Some(self.0.remember(found))),
                Fit::Other(permits) if !TakeOver(self.0).refuse_if_in_use(found, permits)? => {
                    return Ok(None);
                }
                Fit::Other(_) | Fit::Gone => {}
            }
        }
        Ok(None)
    }

    /// The first use of a handle with a tag, whatever it is, gives the key that tag: the next ones
    /// find it remembered.
    fn locate_and_tag(self, patience: Patience) -> Result<Option<SlotRef>> {
        let stripe = self.lock_stripe_within(patience)?;
        let found = stripe.find(self.0.key(), self.0.hash())?;
        let Some(found) = found.filter(|found| !self.may_be_in_the_way(*found)) else {
            return Ok(None);
        };
        if let Fit::Other(permits) = self.check_found(found)? {
            TakeOver(self.0).refuse_if_in_use(found, permits)?;
            return Ok(None);
        }
        self.give_tag(&stripe, found)?;
        Ok(Some(self.0.remember(found)))
    }

    /// Where the key is now; makes it if it is nowhere, and room for it if there is none. Also the
    /// predecessor, if this handle has taken over a semaphore of another number of permits.
    /// Errors: `StructureBusy` if the patience was over before the structure of the store could be
    /// changed.
    pub(crate) fn locate_or_create(
        self,
        patience: Patience,
    ) -> Result<(SlotRef, Option<Predecessor>)> {
        if let Some(spot) = self.0.remembered().filter(|s| self.0.is_current(*s)) {
            return Ok((spot, None));
        }
        self.check_settings()?;
        if let Some(spot) = self.look_unlocked()? {
            return Ok((spot, None));
        }
        let (mut pauses, mut looked_everywhere, mut made_room) = (0, false, false);
        let (mut no_space, mut alone) = (None, None);
        loop {
            let stripe = self.lock_stripe_within(patience)?;
            if alone.is_some() {
                stripe.stripe().forget_watched();
                self.0.store().slab().absences().forget();
            }
            let want = match self.find_or_create(&stripe, (made_room, looked_everywhere), patience)
            {
                Ok((found, before)) => return Ok((self.0.remember(found), before)),
                Err(NoRoom::Late) => return Err(self.busy(GROW_BYTE)),
                // The device is full: other values may go for one, as if there were no more slots.
                Err(NoRoom::Failed(full @ Error::NoSpace { .. }))
                    if self.0.kind() == Tenant::Value =>
                {
                    no_space = Some(full);
                    Want::Device
                }
                Err(NoRoom::Failed(error)) => return Err(error),
                Err(NoRoom::Busy) => {
                    drop(stripe);
                    match pause(&mut pauses, patience) {
                        true => continue,
                        false => return Err(self.busy(self.byte())),
                    }
                }
                Err(NoRoom::Watched) => {
                    drop(stripe);
                    alone = Some(self.outlast_transaction(patience)?);
                    continue;
                }
                Err(NoRoom::OverLimit) => Want::Bytes,
                Err(NoRoom::Full) => Want::Slots,
            };
            drop(stripe);
            // Others' transactions are not to wait for that.
            drop(alone.take());
            // As much as it takes: that others have too much is made good by those who follow.
            let has_freed = self.free_room(want, patience)?;
            made_room |= has_freed;
            if has_freed || self.free_turns(&mut looked_everywhere, patience)? {
                continue;
            }
            return Err(no_space.unwrap_or_else(|| self.full(want)));
        }
    }

    /// Where the key is, if it is as the handle wants it.
    fn look_unlocked(self) -> Result<Option<SlotRef>> {
        if let Some(found) = Index(self.0.store()).find_unlocked(self.0.key(), self.0.hash(), 1)
            && self.0.tag.is_empty()
            && !self.may_be_in_the_way(found)
            && let Fit::Ours = self.check_found(found)?
        {
            return Ok(Some(self.0.remember(found)));
        }
        Ok(None)
    }

    /// Nothing is left that may go for want of that.
    fn full(self, want: Want) -> Error {
        let store = self.0.store();
        match want {
            Want::Bytes => Segments(store).over_limit(),
            Want::Slots | Want::Device => Error::Full {
                path: store.dir().to_path_buf(),
                capacity: store.slab().layout().capacity as usize,
            },
        }
    }

    /// Takes keys away of which nothing is needed: what is idle, or may be evicted. `false`: there
    /// is nothing that could go.
    fn free_room(self, want: Want, patience: Patience) -> Result<bool> {
        let wanted = self.new_key(&self.0.tag).place().span();
        Ok(Reclaimer(self.0.store()).free_slots(wanted, want, patience)? > 0)
    }

    /// Then, once, takes all turns away, of which nothing is missed but how long computing took;
    /// with that each stripe is locked, and what the dead have begun there ends. `false`: that was
    /// done.
    fn free_turns(self, looked_everywhere: &mut bool, patience: Patience) -> Result<bool> {
        if !std::mem::replace(looked_everywhere, true) {
            Reclaimer(self.0.store()).remove_turns(Force::NotTheLiving, patience)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Waits until no transaction is under way, and keeps others from beginning. Errors:
    /// `StructureBusy` if one was until the patience was over, `Deadlock` if it is this thread's.
    fn outlast_transaction(self, patience: Patience) -> Result<RangeGuard<'h>> {
        let store = self.0.store();
        if matches!(patience, Patience::Forever) {
            Deadlocks(store).check_not_absent(self.0.hash(), || self.0.show_key())?;
        }
        let home = Siblings(store).home();
        let alone = Ranges(home).lock_transactions_within(patience)?;
        alone.ok_or_else(|| Pieces(home).structure_busy(TRANSACT_BYTE))
    }

    /// Whether a transaction of another thread may count on there being no such key.
    fn is_watched(self, stripe: &StripeGuard<'_>) -> bool {
        let store = self.0.store();
        // What our own transaction sets it has forgotten to count on.
        let is_ours = || {
            Deadlocks(Siblings(store).home()).is_in_transaction()
                && Deadlocks(store)
                    .check_not_absent(self.0.hash(), String::new)
                    .is_ok()
        };
        stripe.stripe().is_watched(self.0.hash())
            && store.slab().absences().has(self.0.hash())
            && !is_ours()
    }

    /// The stripe of the key. Errors: `StructureBusy` if somebody has it for longer than `patience`
    /// allows.
    pub(in crate::store) fn lock_stripe_within(
        self,
        patience: Patience,
    ) -> Result<StripeGuard<'h>> {
        let stripe = Index(self.0.store()).stripe_of(self.0.hash());
        let guard = Index(self.0.store()).lock_stripe_within(stripe, patience)?;
        guard.ok_or_else(|| self.busy(self.byte()))
    }

    fn busy(self, byte: u64) -> Error {
        Pieces(self.0.store()).structure_busy(byte)
    }

    /// That of the stripe of the key.
    fn byte(self) -> u64 {
        stripe_byte(Index(self.0.store()).stripe_of(self.0.hash()))
    }

    fn find_or_create(
        self,
        stripe: &StripeGuard<'_>,
        (made_room, thorough): (bool, bool),
        patience: Patience,
    ) -> Claimed<(KeyEntry, Option<Predecessor>)> {
        let mut found = stripe.find(self.0.key(), self.0.hash())?;
        if found.is_some_and(|found| self.is_value_of_others(found)) {
            Journal(self.0.store()).finish_decided()?;
        }
        if let Some(ghost) = found.filter(|found| self.is_in_the_way(*found)) {
            let bucket = stripe.bucket_of(self.0.hash());
            let vacant = || Slots(self.0.store()).is_vacant(ghost);
            // Also if the process that deleted the value died with the latch.
            if Retirer(stripe).retire(ghost, bucket, Force::NotTheLiving, vacant)? {
                found = None;
            } else if vacant() {
                if matches!(patience, Patience::Forever) {
                    let generation = ghost.meta.generation;
                    Deadlocks(self.0.store())
                        .check_not_mine(ghost.id, generation, || self.0.show_key())?;
                }
                return Err(NoRoom::Busy);
            }
        }
        let Some(found) = found else {
            if self.is_watched(stripe) {
                return Err(NoRoom::Watched);
            }
            let new = NewKey {
                thorough,
                ..self.new_key(&self.0.tag)
            };
            let bytes = u64::from(new.place().span()) * SLOT_BYTES;
            let is_value = self.0.kind() == Tenant::Value;
            if is_value && !made_room && !SlotRoom(self.0.store()).take(bytes)? {
                return Err(NoRoom::OverLimit);
            }
            return Ok((stripe.create(&new, patience)?, None));
        };
        if let Fit::Other(permits) = self.check_found(found)? {
            return TakeOver(self.0).take_over(stripe, found, permits, patience);
        }
        self.give_tag(stripe, found)?;
        Ok((found, None))
    }

    pub(in crate::store) fn new_key<'a>(self, tag: &'a [u8]) -> NewKey<'a>
    where
        'h: 'a,
    {
        NewKey {
            kind: self.0.kind(),
            key: self.0.key(),
            hash: self.0.hash(),
            tag,
            permits: self.0.permits(),
            untold: &[],
            cell_words: self.0.cell_words,
            thorough: false,
        }
    }

    fn is_value_of_others(self, found: KeyEntry) -> bool {
        self.0.kind() != Tenant::Value && found.kind == Tenant::Value
    }

    /// Whether a key is only what is left of a value, where this handle wants something else.
    fn is_in_the_way(self, found: KeyEntry) -> bool {
        self.is_value_of_others(found) && Slots(self.0.store()).is_vacant(found)
    }

    /// Whether a key is only what is left of a value, or may be, by what was decided and is not
    /// carried out. In either case it is nothing that this handle looks for. A mere look carries
    /// nothing out, for that opens the other shards; what makes or takes a key does, and then says
    /// whether a value is there.
    fn may_be_in_the_way(self, found: KeyEntry) -> bool {
        let undecided = || !Journal(self.0.store()).nothing_is_decided();
        self.is_value_of_others(found) && (undecided() || Slots(self.0.store()).is_vacant(found))
    }

    /// Gives a key this handle's tag, if it has one.
    fn give_tag(self, stripe: &StripeGuard<'_>, found: KeyEntry) -> Result<()> {
        if !self.0.tag.is_empty() && stripe.tag_of(found)? != *self.0.tag {
            stripe.retag(found, self.0.key(), &self.0.tag)?;
        }
        Ok(())
    }

    /// What the constructor, which cannot fail, was given.
    fn check_settings(self) -> Result<()> {
        check_lengths(self.0.key(), &self.0.tag)?;
        if self.0.expire == Some(Duration::ZERO) {
            let what = match self.0.kind() {
                Tenant::Averager => "an expire",
                _ => "a lease",
            };
            let what = format!("{what} of zero would be over at once; use a longer one, or none");
            return Err(Error::Invalid { what });
        }
        let most = u32::from(u16::MAX);
        if self.0.kind() == Tenant::Semaphore && !(1..=most).contains(&self.0.permits()) {
            let what = format!(
                "a semaphore has 1 to {most} permits, not {}",
                self.0.permits()
            );
            return Err(Error::Invalid { what });
        }
        Ok(())
    }

    /// Whether the key is what this handle takes it for.
    fn check_found(self, found: KeyEntry) -> Result<Fit> {
        if found.kind != self.0.kind() {
            return Err(Error::KindMismatch {
                key: self.0.key().to_vec(),
                found: found.kind.kind(),
                expected: self.0.kind().kind(),
            });
        }
        if self.0.kind() != Tenant::Semaphore {
            return Ok(Fit::Ours);
        }
        Ok(match Slots(self.0.store()).permits_while(found)? {
            None => Fit::Gone,
            Some((_, permits)) if permits == self.0.permits() => Fit::Ours,
            Some((_, permits)) => Fit::Other(permits),
        })
    }
}
