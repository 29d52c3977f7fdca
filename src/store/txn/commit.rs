//! The end of a transaction: from what it has collected to the moment in which all of it has
//! happened, and what is to be done then.
//!
//! 1. Room for the list of flips is made, and what lies in segments that were closed meanwhile is
//!    written again. Both may compact; nothing after that does, for then idle cells would have to
//!    be looked at.
//! 2. The idle cells are filled. They mean nothing yet.
//! 3. The list is written to the log. With durability *power loss*, all of that is on the device
//!    before 4.
//! 4. Its place is put into the journal: that is the decision, if its segment is not closed.
//!    Otherwise 3 again.
//! 5. The list is carried out, from memory, as by any process that meets it; the latches are given
//!    back, then what is garbage by it.

use std::sync::Arc;

use crate::error::Result;
use crate::log::Location;
use crate::record::deciding;
use crate::slab::value_cells::{Content, Form, tag_hash};
use crate::store::Store;
use crate::store::journal::decided::Journal;
use crate::store::log::decided_list::{Flip, LIST_KEY, list_bytes};
use crate::store::log::garbage::{Collector, Garbage};
use crate::store::log::segments::{Room, Segments};
use crate::store::log::sync::Syncing;
use crate::store::members::config::InForce;
use crate::store::members::device::{Known, OnDevice};
use crate::store::members::range::Ranges;
use crate::store::patience::Patience;
use crate::store::space::make_room::Space;
use crate::store::space::wait::Wait;
#[cfg(any(fuzzing, test))]
use crate::store::txn::absence::Absence;
use crate::store::txn::transaction::{Ongoing, Part};

impl Ongoing<'_> {
    /// Makes all changes at once.
    ///
    /// Killed before the journal is set: nothing has happened, the idle cells mean nothing. After
    /// it: all has, and the next process to meet it carries it out.
    ///
    /// `NotDurable`: it has happened, and the device may not have it. Any other error: nothing has.
    pub(crate) fn commit(mut self) -> Result<()> {
        let Some(decided) = self.decide()? else {
            return Ok(());
        };
        let home = self.home;
        // Whatever becomes of it now, what was written for it is needed.
        self.parts.iter_mut().for_each(|part| part.place = None);
        // From memory: it has happened, so nothing that can fail stands between it and its end.
        let changed = || self.parts.iter().filter(|part| part.is_changed);
        let stores: Vec<&Store> = changed().map(|part| &**part.store).collect();
        let flips = || {
            let parts = changed().zip(&decided.flips);
            parts.for_each(|(part, flip)| part.latched.cells.flip(flip.version));
        };
        let ended = Journal(home).flip_durably(&stores, flips);
        if ended.is_ok() {
            Journal(home).end_journal(decided.list, decided.flips.len());
        }
        let garbage: Vec<_> = changed()
            .filter_map(|part| Some((part.store, part.done()?)))
            .collect();
        // Without the latches.
        drop(self);
        for (store, garbage) in garbage {
            match ended {
                Ok(()) => Collector(store).punch(garbage),
                Err(_) => Collector(store).count(garbage),
            }
        }
        ended.map_err(|error| OnDevice(home).not_durable(error))
    }

    /// Everything up to the moment in which it has happened. `None`: there is nothing to be
    /// changed.
    fn decide(&mut self) -> Result<Option<Decision>> {
        let first = self.parts.first();
        self.check_process(first.map_or(&[], |part| &part.key[..]))?;
        let changed = self.parts.iter().filter(|part| part.is_changed).count();
        if changed == 0 {
            return Ok(None);
        }
        let home = self.home;
        let known = self.known()?;
        let bytes = list_bytes(changed);
        Space(home).make_room(bytes, &Wait::begin(), &self.mine(home))?;
        self.write_anew()?;
        // From here on nothing is compacted by us: idle cells are not looked at for that.
        let changed = self.parts.iter_mut().filter(|part| part.is_changed);
        let flips: Vec<Flip> = changed.map(Part::prepare).collect::<Result<_>>()?;
        let list: Vec<u8> = flips.iter().flat_map(|flip| flip.encode()).collect();
        loop {
            let place = Segments(home).append(LIST_KEY, &[], &list, Room::ToMove)?;
            let place = place.ok_or_else(|| Segments(home).over_limit())?;
            let garbage = Garbage { place, bytes };
            let led = self
                .make_durable(&known)
                .and_then(|()| self.lead_to(place))
                .inspect_err(|_| Collector(home).count(garbage))?;
            if led {
                return Ok(Some(Decision { list: place, flips }));
            }
            Collector(home).count(garbage);
        }
    }

    /// Writes once more what lies in segments that were closed since. That may compact others, by
    /// ourselves, and we do not wait for our latches: until nothing lies in such any more. Other
    /// compactors do wait.
    fn write_anew(&mut self) -> Result<()> {
        let is_stale = |part: &Part<'_>| {
            let place = part.place.filter(|_| part.is_changed);
            place.is_some_and(|place| !Segments(part.store).may_lead_to(place))
        };
        while let Some(at) = self.parts.iter().position(is_stale) {
            let part = &self.parts[at];
            let new = part.new_value();
            let append =
                |new| Space(part.store).append_for(&part.key, &new, &self.mine(part.store));
            let placed = new.map(append).transpose()?;
            let part = &mut self.parts[at];
            part.forget_place();
            part.place = placed.as_ref().map(|new| new.place);
            part.writing = placed.and_then(|new| new.writing);
        }
        Ok(())
    }

    /// Puts the place of the list into the journal: by that it has happened. `false`: its segment
    /// is closed.
    fn lead_to(&self, place: Location) -> Result<bool> {
        let home = self.home;
        // The compactor of the segment looks at the journal after it has had the lock for growing
        // (G3).
        let _growth = Ranges(home).lock_growth_within(Patience::Forever)?;
        if !Segments(home).may_lead_to(place) {
            return Ok(false);
        }
        deciding::decide(Journal(home).journal(), place.bits());
        Ok(true)
    }

    /// Ends as by a death at this moment, or, with `prepared` and `decided`, after these steps of
    /// [`decide`](Ongoing::decide): the latches stay taken, the lock of transactions is free.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn abandon(mut self, prepared: bool, decided: bool) -> Result<()> {
        if decided {
            self.decide()?;
        } else if prepared {
            let mut changed = self.parts.iter_mut().filter(|part| part.is_changed);
            changed.try_for_each(|part| part.prepare().map(drop))?;
        }
        for mut part in self.parts.drain(..) {
            (part.key, part.now) = (Vec::new(), None);
            std::mem::forget(part);
        }
        self.absent.drain(..).for_each(Absence::abandon);
        Ok(())
    }

    /// The stores in which anything is changed, and the one with the journal, each once.
    fn stores(&self) -> Vec<&Arc<Store>> {
        let changed = self.parts.iter().filter(|part| part.is_changed);
        let mut stores = vec![self.home];
        for store in changed.map(|part| part.store) {
            if !stores.iter().any(|known| Arc::ptr_eq(known, store)) {
                stores.push(store);
            }
        }
        stores
    }

    /// What is known of the device of each, if that is asked for; otherwise nothing.
    fn known(&self) -> Result<Vec<Known>> {
        match InForce(self.home).is_durable() {
            true => self
                .stores()
                .into_iter()
                .map(|one| OnDevice(one).known())
                .collect(),
            false => Ok(Vec::new()),
        }
    }

    fn make_durable(&self, known: &[Known]) -> Result<()> {
        let mut stores = self.stores().into_iter().zip(known);
        stores.try_for_each(|(store, known)| Syncing(store).sync_values_since(*known))
    }
}

/// What has happened.
struct Decision {
    /// Where the list of flips lies.
    list: Location,
    /// Those of the parts that are changed, in their order.
    flips: Vec<Flip>,
}

impl Part<'_> {
    /// Fills the idle cell.
    fn prepare(&mut self) -> Result<Flip> {
        self.latched.sync_before_change()?;
        let (content, tag, value) = match (&self.now, self.place) {
            (None, _) => (Content::ABSENT, &[][..], &[][..]),
            (Some(now), place) => {
                let len = now.value.len();
                let form = match place {
                    None => Form::Inline { len },
                    Some(place) => Form::Logged {
                        place,
                        len,
                        tag_hash: tag_hash(&now.tag),
                    },
                };
                let content = Content {
                    expires_ms: now.expires_ms,
                    tag_len: now.tag.len(),
                    flags: 0,
                    form,
                };
                match place {
                    None => (content, &now.tag[..], &now.value[..]),
                    Some(_) => (content, &[][..], &[][..]),
                }
            }
        };
        let version = self.latched.cells.prepare(content, tag, value);
        Ok(Flip {
            shard: self.shard,
            slot: self.latched.found.id.index(),
            generation: self.latched.found.meta.generation,
            version,
        })
    }

    /// What is garbage after the change was carried out.
    fn done(&self) -> Option<Garbage> {
        self.latched.note_stored();
        self.latched.left_before()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Cache;
    use crate::store::space::set::{New, When, Writer};

    /// Nothing in the first shard is latched then, so no compactor waits there.
    #[test]
    fn a_list_that_was_compacted_away_decides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::options()
            .size_limit(8 << 20)
            .shards(2)
            .open(dir.path())
            .unwrap();
        let stores = cache.stores();
        let mut ongoing = Ongoing::begin(&stores[0]).unwrap();
        let new = New {
            value: b"set",
            tag: &[],
            expires_ms: 0,
        };
        ongoing.set(1, &stores[1], b"key", &new).unwrap();
        let list = vec![0; 20];
        let place = Segments(&stores[0])
            .append(LIST_KEY, &[], &list, Room::ToMove)
            .unwrap()
            .unwrap();
        for _ in 0..100 {
            let large = New {
                value: &[7; 200_000],
                ..new
            };
            Writer(&stores[0])
                .put(b"large", &large, When::Always)
                .unwrap();
        }
        Space(&stores[0]).cull().unwrap();
        let mut read = Vec::new();
        let log = &stores[0].process().unwrap().log;
        assert!(!log.read_sized(place, LIST_KEY, &mut read).unwrap());
        assert!(!ongoing.lead_to(place).unwrap());
        let place = Segments(&stores[0])
            .append(LIST_KEY, &[], &list, Room::ToMove)
            .unwrap()
            .unwrap();
        assert!(ongoing.lead_to(place).unwrap());
    }
}
