//! The latch of a value: the writer that has it changes the value, and nobody else does. It is
//! taken from the dead, and never from the living.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::os::{fork, futex};
use crate::record::{Word, life, next_sequence, waiting};
use crate::slab::value_cells::{Content, Form, Payload, ValueCells, cell_words};
use crate::slab::{Meta, Slot, SlotId, Tenant};
use crate::store::Store;
use crate::store::era::Eras;
use crate::store::expiry::is_over;
use crate::store::holds::handle::Handle;
use crate::store::holds::slow::Acquirer;
use crate::store::index::chains::{Index, VALUE_SLOTS};
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::{Collector, Garbage};
use crate::store::log::sync::Syncing;
use crate::store::members::device::{Known, OnDevice};
use crate::store::patience::Patience;
use crate::store::values::get::Values;

/// A slot, and the version that was in force there: no two states of a key have both in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instance {
    id: SlotId,
    version: u64,
}

/// Something else is in force, and this is garbage by that.
pub(super) struct Written {
    pub(super) garbage: Option<Garbage>,
}

/// A value with its latch, which we have.
pub(crate) struct Latched<'a> {
    store: &'a Store,
    pub(crate) found: KeyEntry,
    pub(crate) cells: ValueCells<'a>,
    word: Word,
    /// See [`fork::epoch`].
    epoch: u32,
}

impl Latched<'_> {
    fn slot(&self) -> &Slot {
        self.store.slab.slot(self.found.id)
    }

    pub(crate) fn seen(&self) -> Instance {
        Instance {
            id: self.found.id,
            version: self.cells.version(),
        }
    }

    /// A forked child has nothing of what its parent has.
    pub(crate) fn is_ours(&self) -> bool {
        self.epoch == fork::epoch()
    }

    /// What is in force and not over; what is damaged is as good as nothing.
    #[inline]
    pub(crate) fn current(&self, payload: &mut impl Payload) -> Option<Content> {
        let content = self.cells.read(payload).ok()?.content;
        (!content.is_absent() && !is_over(content.expires_ms)).then_some(content)
    }

    /// Puts something else in force, and says what is garbage by that.
    #[inline]
    #[must_use]
    pub(in crate::store) fn write(
        &self,
        content: Content,
        tag: &[u8],
        value: &[u8],
    ) -> Option<Garbage> {
        let old = self.cells.logged_now();
        self.cells.write(content, tag, value);
        self.outlived(old?, &content)
    }

    /// What `old` had in the log, unless `now` has it.
    fn outlived(&self, old: Content, now: &Content) -> Option<Garbage> {
        let key_len = self.found.meta.key_len;
        let now = Garbage::of(now, key_len);
        Garbage::of(&old, key_len).filter(|old| now.is_none_or(|now| now.place != old.place))
    }

    /// Ends a change that is in force: waits for the device if values are to survive a power
    /// failure, with the latch, for the next writer writes over what was in force before; then
    /// gives back what is garbage by it.
    ///
    /// `NotDurable`, and nothing else: it is in force, and the device may not have it.
    #[inline]
    pub(in crate::store) fn end(
        self,
        garbage: Option<Garbage>,
        known: Option<Known>,
    ) -> Result<()> {
        let store = self.store;
        let ended = match known {
            Some(known) => Syncing(store).sync_slab_since(known),
            None => Ok(()),
        };
        drop(self);
        if let Some(garbage) = garbage {
            match ended {
                Ok(()) => Collector(store).punch(garbage),
                Err(_) => Collector(store).count(garbage),
            }
        }
        ended.map_err(|error| OnDevice(store).not_durable(error))
    }

    /// Ends the deletion of a value that was `content` with this payload; undoes it if the device
    /// may not have it. What is written then is what the device has for certain, but for the seal:
    /// torn, it is whole all the same.
    pub(super) fn end_deletion(
        self,
        garbage: Option<Garbage>,
        known: Known,
        content: Content,
        payload: &[u8],
    ) -> Result<()> {
        let Err(error) = Syncing(self.store).sync_slab_since(known) else {
            return self.end(garbage, None);
        };
        let (tag, value) = match content.form {
            Form::Inline { .. } => payload.split_at(content.tag_len),
            _ => (&[][..], &[][..]),
        };
        // Nothing was in force that could be garbage by that.
        let _ = self.write(content, tag, value);
        Err(error)
    }

    /// Comes before the idle cell is filled, if values are to survive a power failure: what is in
    /// that cell may be all that the device has. A writer waits for the device with the latch, but
    /// the compactor does not. Nothing is known of the device after a sync that failed: then
    /// nothing is written there.
    #[inline]
    pub(crate) fn sync_before_change(&self) -> Result<Option<Known>> {
        let Some(known) = OnDevice(self.store).known_if_durable()? else {
            return Ok(None);
        };
        let now = self.cells.logged_now().map(|content| content.form);
        if let Some(Form::Logged { place, .. }) = now {
            Syncing(self.store).sync_place(place, known)?;
        }
        Ok(Some(known))
    }

    /// What is garbage after a transaction.
    pub(in crate::store) fn left_before(&self) -> Option<Garbage> {
        let now = self.cells.logged_now().unwrap_or(Content::ABSENT);
        self.outlived(self.cells.before()?, &now)
    }

    /// Notes that a value was changed: it counts as stored now, and as used once more.
    pub(in crate::store) fn note_changed(&self) {
        let word = self.cells.use_word();
        word.inspect(|word| Eras(self.store).note_change(word));
    }

    pub(crate) fn note_stored(&self) {
        let word = self.cells.use_word();
        word.inspect(|word| Eras(self.store).note_stored(word));
    }
}

impl Drop for Latched<'_> {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        let slot = self.slot();
        // Nobody takes a latch from the living, so it is still ours.
        if !slot.hold.try_give_back(self.word) {
            waiting::give_back(&slot.hold, self.word, &slot.wake, || {
                futex::wake(&slot.wake, 1)
            });
        }
    }
}

/// The latches of values.
#[derive(Clone, Copy)]
pub(crate) struct Latches<'s>(pub(crate) &'s Arc<Store>);

impl<'s> Latches<'s> {
    /// Takes the latch of a value. With `make`, makes the key if need be, with cells of so many
    /// words.
    #[inline]
    pub(crate) fn latch(
        self,
        key: &[u8],
        hash: u64,
        make: Option<usize>,
    ) -> Result<Option<Latched<'s>>> {
        self.latch_within(key, hash, make, Patience::Forever)
    }

    /// Takes the latch of a value, waiting no longer than `patience` allows: then `None`, too.
    #[inline]
    pub(crate) fn latch_within(
        self,
        key: &[u8],
        hash: u64,
        make: Option<usize>,
        patience: Patience,
    ) -> Result<Option<Latched<'s>>> {
        let found = Index(self.0).find_unlocked(key, hash, VALUE_SLOTS);
        self.latch_found(found, key, hash, make, patience)
    }

    /// Takes the latch of a value that was found there a moment ago, or was not.
    #[inline]
    pub(crate) fn latch_found(
        self,
        found: Option<KeyEntry>,
        key: &[u8],
        hash: u64,
        make: Option<usize>,
        patience: Patience,
    ) -> Result<Option<Latched<'s>>> {
        if let Some(found) = found
            && found.kind == Tenant::Value
            && let Some(me) = self.0.me()
        {
            let slot = self.0.slab.slot(found.id);
            let of = Meta::life_of(found.meta.generation, Tenant::Value);
            let is_current = || life::is_current(&slot.meta, of);
            if let Some(word) = slot
                .hold
                .take_if_free(me, is_current, next_sequence, || None)
            {
                return self.latched(found, word).map(Some);
            }
        }
        self.latch_slowly(key, hash, make, patience)
    }

    #[cold]
    fn latch_slowly(
        self,
        key: &[u8],
        hash: u64,
        make: Option<usize>,
        patience: Patience,
    ) -> Result<Option<Latched<'s>>> {
        if make.is_none() && Values(self.0).find_value(key, hash)?.is_none() {
            return Ok(None);
        }
        let words = make.unwrap_or(cell_words(0));
        let handle = Handle::of_value(Arc::clone(self.0), key, hash, words);
        let not_holder = || Error::NotHolder { key: key.to_vec() };
        let granted = match Acquirer(&handle).acquire(patience) {
            Err(Error::StructureBusy { .. }) => None,
            granted => granted?,
        };
        let Some((grant, _)) = granted else {
            return Ok(None);
        };
        let found = handle.found_at(grant.spot).ok_or_else(not_holder)?;
        let latched = self.latched(found, grant.word)?;
        // The holder before may have died after changing the value and before the device had it.
        if let Some(known) = OnDevice(self.0).known_if_durable()? {
            Syncing(self.0).sync_slab_since(known)?;
        }
        Ok(Some(latched))
    }

    #[inline]
    fn latched(self, found: KeyEntry, word: Word) -> Result<Latched<'s>> {
        let cells = found.cells(&self.0.slab);
        let Some(cells) = cells else {
            let slot = self.0.slab.slot(found.id);
            waiting::give_back(&slot.hold, word, &slot.wake, || futex::wake(&slot.wake, 1));
            let what = format!("slot {} has no room for a value", found.id.index());
            return Err(self.0.slab.corrupt(what));
        };
        let latched = Latched {
            store: self.0,
            found,
            cells,
            word,
            epoch: fork::epoch(),
        };
        // Before anything is read or written: a dead process's transaction may have decided about
        // this value.
        Journal(self.0).finish_decided()?;
        Ok(latched)
    }
}
