//! Several values changed all or not at all: what a transaction has collected so far, and what it
//! sees.
//!
//! It takes the latch of each key that it reads or sets, and keeps it: nobody else changes these
//! values meanwhile. Of a key that is read and is not there it makes none, but notes in the stripe
//! that none is to be made (`absence`). One transaction at a time, so there is no circle of
//! waiters. Large values are written to the log as they are set, small ones kept here; nobody sees
//! any of it yet. At the end `commit` fills the idle cells, writes to the log which selectors are
//! to be flipped, and puts the place of that list into the journal, a word of the header: by that
//! store all has happened, and any process that meets the word carries it out (`journal`).
//!
//! In a cache of several shards the journal is that of the first shard, for all of them
//! (`siblings`).

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::log::{Location, record_bytes};
use crate::os::{fork, memory};
use crate::slab::value_cells::{Form, cell_words};
use crate::store::index::chains::Index;
use crate::store::index::pieces::Pieces;
use crate::store::journal::decided::Journal;
use crate::store::journal::siblings::Siblings;
use crate::store::key_entry::check_lengths;
use crate::store::log::garbage::{Collector, Garbage};
use crate::store::log::writing::Writing;
use crate::store::members::deadlock::{Deadlocks, Noted};
use crate::store::members::range::{RangeGuard, Ranges};
use crate::store::patience::Patience;
use crate::store::slots::by_slot::{Slots, Whole};
use crate::store::space::latch::{Latched, Latches};
use crate::store::space::make_room::Space;
use crate::store::space::set::New;
use crate::store::txn::absence::{Absence, Marking};
use crate::store::values::compute_once::Turns;
use crate::store::{Store, TRANSACT_BYTE};

/// What a transaction has to do with one key.
pub(super) struct Part<'a> {
    /// This thread cannot wait for it.
    _noted: Noted,
    pub(super) shard: u32,
    pub(super) store: &'a Arc<Store>,
    pub(super) key: Vec<u8>,
    pub(super) latched: Latched<'a>,
    /// As the transaction sees it; `None`: no value.
    pub(super) now: Option<Whole>,
    pub(super) is_changed: bool,
    /// Where in the log it was put, if it does not fit the cell.
    pub(super) place: Option<Location>,
    /// What keeps its segment until then.
    pub(super) writing: Option<Writing<'a>>,
}

/// A transaction that is under way. Dropped without [`commit`](Ongoing::commit), it has not
/// happened.
pub(crate) struct Ongoing<'a> {
    /// This thread cannot wait for it.
    _noted: Noted,
    pub(super) home: &'a Arc<Store>,
    pub(super) parts: Vec<Part<'a>>,
    /// What was read and is not there.
    pub(super) absent: Vec<Absence<'a>>,
    epoch: u32,
    _alone: RangeGuard<'a>,
}

impl<'a> Ongoing<'a> {
    /// Waits until no other transaction is under way.
    ///
    /// `Invalid` for a shard that was opened alone: its journal is another one's.
    pub(crate) fn begin(home: &'a Arc<Store>) -> Result<Ongoing<'a>> {
        if !std::ptr::eq(Siblings(home).home(), Arc::as_ptr(home)) {
            let what = format!(
                "{} is a shard, and a transaction is one of all shards; open the cache in {}",
                home.dir().display(),
                home.known_as().display()
            );
            return Err(Error::Invalid { what });
        }
        Deadlocks(home).check_no_transaction()?;
        let alone = Ranges(home).lock_transactions_within(Patience::Forever)?;
        let alone = alone.ok_or_else(|| Pieces(home).structure_busy(TRANSACT_BYTE))?;
        Journal(home).finish_for_good()?;
        Ok(Ongoing {
            _noted: Deadlocks(home).note_transaction(),
            home,
            parts: Vec::new(),
            absent: Vec::new(),
            epoch: fork::epoch(),
            _alone: alone,
        })
    }

    fn known_part(&self, shard: usize, key: &[u8]) -> Result<Option<usize>> {
        self.check_process(key)?;
        check_lengths(key, &[])?;
        let is_its = |part: &Part<'_>| part.shard == shard as u32 && part.key == key;
        Ok(self.parts.iter().position(is_its))
    }

    /// Which part is that of a key, which is made if it is not there. Its latch is kept from the
    /// first time on.
    fn part(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
        bytes: usize,
    ) -> Result<usize> {
        if let Some(at) = self.known_part(shard, key)? {
            return Ok(at);
        }
        // The mark in the stripe stays: nobody else makes it before we do.
        let mut absence = self
            .absent
            .iter_mut()
            .find(|absence| absence.is_of(store, key));
        absence
            .iter_mut()
            .for_each(|absence| absence.let_us_make_it());
        let latched = latch(store, key, Some(cell_words(bytes)));
        absence
            .iter_mut()
            .filter(|_| latched.is_err())
            .for_each(|absence| absence.note());
        let latched = latched?.ok_or_else(|| Error::NotHolder { key: key.to_vec() })?;
        self.parts.push(Part::new(shard, store, key, latched)?);
        Ok(self.parts.len() - 1)
    }

    /// Which part is that of a key, if there is such a key. `None`: there is none before we have
    /// ended, unless we make it.
    fn part_if_there(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
    ) -> Result<Option<usize>> {
        if let Some(at) = self.known_part(shard, key)? {
            return Ok(Some(at));
        }
        if self.absent.iter().any(|absence| absence.is_of(store, key)) {
            return Ok(None);
        }
        loop {
            if let Some(latched) = latch(store, key, None)? {
                self.parts.push(Part::new(shard, store, key, latched)?);
                return Ok(Some(self.parts.len() - 1));
            }
            match Absence::of(store, key)? {
                Marking::Yes(absence) => {
                    self.absent.push(absence);
                    return Ok(None);
                }
                Marking::NoRoom => return self.part(shard, store, key, 0).map(Some),
                Marking::IsThere => {}
            }
        }
    }

    /// The latches in a store: a compactor in this transaction need not wait for them.
    pub(super) fn mine(&self, store: &Arc<Store>) -> Vec<&Latched<'a>> {
        let there = self
            .parts
            .iter()
            .filter(|part| Arc::ptr_eq(part.store, store));
        there.map(|part| &part.latched).collect()
    }

    /// In the child of a fork nothing is held.
    pub(super) fn check_process(&self, key: &[u8]) -> Result<()> {
        match self.epoch == fork::epoch() {
            true => Ok(()),
            false => Err(Error::NotHolder { key: key.to_vec() }),
        }
    }

    pub(crate) fn get(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
    ) -> Result<Option<&Whole>> {
        let at = self.part_if_there(shard, store, key)?;
        Ok(at.and_then(|at| self.parts[at].now.as_ref()))
    }

    pub(crate) fn set(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
        new: &New<'_>,
    ) -> Result<()> {
        check_lengths(key, new.tag)?;
        Space(store).check_length(new.value.len())?;
        let bytes = new.tag.len() + new.value.len();
        Turns(store).void_turn(key, Index(store).hash(key));
        let at = self.part(shard, store, key, bytes)?;
        let value = memory::copy(new.value).map_err(|e| Error::io("copy", store.dir(), e))?;
        // Before anything else: if that fails, nothing is to be different.
        let placed = match self.parts[at].latched.cells.fits(bytes) {
            true => None,
            false => Some(Space(store).append_for(key, new, &self.mine(store))?),
        };
        let part = &mut self.parts[at];
        part.forget_place();
        part.is_changed = true;
        part.now = Some(Whole {
            value,
            tag: new.tag.to_vec(),
            expires_ms: new.expires_ms,
        });
        part.place = placed.as_ref().map(|new| new.place);
        part.writing = placed.and_then(|new| new.writing);
        Ok(())
    }

    /// `false`: there was none.
    pub(crate) fn delete(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
    ) -> Result<bool> {
        Turns(store).void_turn(key, Index(store).hash(key));
        let Some(at) = self.part_if_there(shard, store, key)? else {
            return Ok(false);
        };
        let part = &mut self.parts[at];
        part.forget_place();
        let was = part.now.take().is_some();
        part.is_changed |= was;
        Ok(was)
    }
}

/// Takes the latch of a key, which is made with cells of so many words if `make` says so. `None`:
/// there is none.
fn latch<'a>(
    store: &'a Arc<Store>,
    key: &[u8],
    make: Option<usize>,
) -> Result<Option<Latched<'a>>> {
    let hash = Index(store).hash(key);
    loop {
        let latched = Latches(store).latch(key, hash, make)?;
        if latched.is_some() || make.is_none() {
            return Ok(latched);
        }
    }
}

impl<'a> Part<'a> {
    fn new(
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
        latched: Latched<'a>,
    ) -> Result<Part<'a>> {
        let mut now = Whole::default();
        let content = latched.current(&mut now.value);
        let there = match content {
            None => false,
            Some(content) => {
                now.expires_ms = content.expires_ms;
                match content.form {
                    Form::Inline { .. } => {
                        now.tag = content.tag_in(&now.value).to_vec();
                        content.keep_value(&mut now.value);
                        true
                    }
                    _ => Slots(store).read_logged(
                        key,
                        &content,
                        &mut now.value,
                        Some(&mut now.tag),
                    )?,
                }
            }
        };
        let found = latched.found;
        Ok(Part {
            _noted: Deadlocks(store).note_slot(found.id, found.meta.generation),
            shard: shard as u32,
            store,
            key: key.to_vec(),
            latched,
            now: there.then_some(now),
            is_changed: false,
            place: None,
            writing: None,
        })
    }

    pub(super) fn new_value(&self) -> Option<New<'_>> {
        self.now.as_ref().map(|now| New {
            value: &now.value,
            tag: &now.tag,
            expires_ms: now.expires_ms,
        })
    }

    /// What was put into the log for this key is not needed after all.
    pub(super) fn forget_place(&mut self) {
        self.writing = None;
        if let (Some(place), Some(new)) = (self.place.take(), self.new_value()) {
            let bytes = record_bytes(self.key.len(), new.tag.len(), new.value.len());
            Collector(self.store).punch(Garbage { place, bytes });
        }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // In the child of a fork it is the parent's, which may come to need it.
        if self.place.is_some() && self.latched.is_ours() {
            self.forget_place();
        }
    }
}
