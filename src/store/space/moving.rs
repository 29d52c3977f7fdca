//! Moving one value after the other out of the segments that are compacted.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::os::futex;
use crate::record::closing;
use crate::slab::value_cells::{Content, Form};
use crate::slab::{SlotId, Tenant};
use crate::store::Store;
use crate::store::index::chains::{Index, VALUE_SLOTS};
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::{Collector, Garbage, GarbageList};
use crate::store::log::segments::{Room, Segments};
use crate::store::log::sync::Syncing;
use crate::store::members::device::{Known, OnDevice};
use crate::store::members::participants::Members;
use crate::store::patience::Patience;
use crate::store::reclaim::evict::{Evictor, Want};
use crate::store::reclaim::free_slots::Taken;
use crate::store::slots::by_slot::Slots;
use crate::store::space::compact::LATCH_PATIENCE;
use crate::store::space::latch::{Latched, Latches, Written};
use crate::store::space::walk::{Emptying, How};
use crate::sync::Ordering;

/// What came of a look at a slot.
pub(super) enum Visit {
    Clear,
    /// A cell pointed into a closed segment, and its value was written again.
    Written(Move),
    /// Somebody is changing the value, and takes long.
    Busy,
    /// There is no room to write it again.
    NoRoom,
    /// It cannot be read.
    Unreadable(u32),
}

/// A value that was written again, and a cell that is to point to it.
pub(super) struct Move {
    /// How far the compactor had come before it.
    pub(super) at: u64,
    found: KeyEntry,
    key: Vec<u8>,
    /// In force when it was written.
    version: u64,
    content: Content,
    pub(super) bytes: u64,
    whole: bool,
}

/// Whether trying again will bring the same error: it is not this process that lacks something.
pub(in crate::store) fn is_of_the_device(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    let lacking = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];
    let lacks = |errno: Errno| source.raw_os_error() == Some(errno as i32);
    // Memory that was not even asked of the system comes without its number.
    source.kind() != io::ErrorKind::OutOfMemory && !lacking.into_iter().any(lacks)
}

/// Writes values again that lie in a closed segment, and lets their cells point there; or evicts
/// them.
#[derive(Clone, Copy)]
pub(super) struct Mover<'a>(pub(super) Emptying<'a>);

impl<'a> Mover<'a> {
    fn store(self) -> &'a Arc<Store> {
        self.0.store
    }

    /// Writes the value of a key again if its cell points into the segment. `at`: how far all was
    /// looked at before.
    pub(super) fn visit_key(self, key: &[u8], at: u64) -> Result<Visit> {
        let (index, hash) = (Index(self.store()), Index(self.store()).hash(key));
        let found = match index.find_unlocked(key, hash, VALUE_SLOTS) {
            None if index.is_miss(key, hash) => None,
            None => match index.find(key, hash, Patience::of(LATCH_PATIENCE)) {
                Err(Error::StructureBusy { .. }) => return Ok(Visit::Busy),
                // A chain is damaged: if anything of it is needed here, its slot says so.
                Err(Error::Corrupt { .. }) => None,
                found => found?,
            },
            found => found,
        };
        match found {
            Some(found) => self.visit(found.id, at),
            // No writer puts it in force any more: it would see that the segment is closed.
            None => Ok(Visit::Clear),
        }
    }

    /// As [`visit_key`](Mover::visit_key), for the value in a slot.
    pub(super) fn visit(self, id: SlotId, at: u64) -> Result<Visit> {
        let Emptying { process, mine, .. } = self.0;
        let slot = self.store().slab.slot(id);
        let mut begun = None;
        loop {
            let wakes = slot.wake.load(Ordering::Acquire);
            // The hold before the cell (G2).
            let is_settled =
                closing::is_settled(&slot.hold, |p| Members(self.store()).is_dead(process, p));
            let Some(found) = slot.meta().and_then(|meta| {
                let kind = meta.kind.filter(|kind| *kind == Tenant::Value)?;
                Some(KeyEntry { id, meta, kind })
            }) else {
                return Ok(Visit::Clear);
            };
            if is_settled || mine.iter().any(|latched| latched.found.id == id) {
                // A dead process may have decided that the idle cell is to be in force.
                Journal(self.store()).finish_decided()?;
                return self.write_anew(found, at);
            }
            if begun.get_or_insert_with(Instant::now).elapsed() > LATCH_PATIENCE {
                return Ok(Visit::Busy);
            }
            futex::wait(&slot.wake, wakes, Duration::from_micros(100));
        }
    }

    fn write_anew(self, found: KeyEntry, at: u64) -> Result<Visit> {
        loop {
            let Some(Ok(reading)) = Slots(self.store()).read_value(found, &mut ()) else {
                return Ok(Visit::Clear);
            };
            let logged = reading.content.logged(found.meta.key_len);
            let Some((place, bytes)) =
                logged.filter(|(place, _)| place.segment() == self.0.segment)
            else {
                return Ok(Visit::Clear);
            };
            if self.0.how == How::Evicts {
                return self.evict(found);
            }
            if self.was_written(found, reading.version) {
                return Ok(Visit::Clear);
            }
            let slots = Slots(self.store());
            let Some(key) = slots.key_of(found) else {
                return Ok(Visit::Clear);
            };
            let (mut value, mut tag) = (Vec::new(), Vec::new());
            let read = slots.read_logged(&key, &reading.content, &mut value, Some(&mut tag));
            if !slots.is_in_force(found, &reading) {
                // The value was replaced while it was read: look again, where its cell points now.
                continue;
            }
            let whole = match read {
                Err(error) if is_of_the_device(&error) => {
                    return Ok(Visit::Unreadable(place.segment()));
                }
                other => other?,
            };
            let Some(content) = self.elsewhere(reading.content, whole, &key, &tag, &value)? else {
                return Ok(Visit::NoRoom);
            };
            let mut written = self.0.written.borrow_mut();
            written.insert((found.id.index(), reading.version));
            return Ok(Visit::Written(Move {
                at,
                found,
                key,
                version: reading.version,
                content,
                bytes,
                whole,
            }));
        }
    }

    /// Writes a value to the end of the log, and says so; one that is not whole is no value.
    /// `None`: there is no room for it.
    fn elsewhere(
        self,
        content: Content,
        whole: bool,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
    ) -> Result<Option<Content>> {
        let Form::Logged { len, tag_hash, .. } = content.form else {
            return Ok(Some(Content::ABSENT));
        };
        if !whole {
            return Ok(Some(Content::ABSENT));
        }
        let place = match Segments(self.store()).append(key, tag, value, Room::ToMove) {
            Err(Error::NoSpace { .. }) => None,
            appended => appended?,
        };
        Ok(place.map(|place| {
            let form = Form::Logged {
                place,
                len,
                tag_hash,
            };
            Content { form, ..content }
        }))
    }

    /// Whether it was written again in this step, for another record of its key.
    fn was_written(self, found: KeyEntry, version: u64) -> bool {
        let written = self.0.written.borrow();
        written.contains(&(found.id.index(), version))
    }

    /// Takes the value away, whatever it is worth.
    fn evict(self, found: KeyEntry) -> Result<Visit> {
        let evictor = Evictor(self.store());
        let Some(value) = evictor.candidate(found.id) else {
            // It is being changed.
            return Ok(Visit::Busy);
        };
        // Given back when this has been done, with the stripe unlocked.
        let garbage = GarbageList::new(self.store());
        let taken = evictor.evict_value(
            &value,
            Want::Device,
            Patience::strictly(LATCH_PATIENCE),
            &garbage,
        )?;
        Ok(match taken {
            Taken::Yes => Visit::Clear,
            Taken::NotNow | Taken::StripeBusy => Visit::Busy,
        })
    }

    /// Lets the cells point to what was written again: after the device has that, if values are to
    /// survive a power failure. From where on to look again, if that is to be.
    pub(super) fn put_in_force(
        self,
        moves: Vec<Move>,
        known: Option<Known>,
    ) -> Result<Option<u64>> {
        if moves.is_empty() {
            return Ok(None);
        }
        let new = |one: &Move| Garbage::of(&one.content, one.key.len());
        if let Some(known) = known {
            let mut segments: Vec<_> = moves
                .iter()
                .filter_map(|m| Some(new(m)?.place.segment()))
                .collect();
            segments.dedup();
            let mut segments = segments.iter();
            let synced = segments
                .try_for_each(|number| Syncing(self.store()).sync_segment(*number).map(drop));
            if let Err(error) = synced.and_then(|()| OnDevice(self.store()).still_known(known)) {
                moves
                    .iter()
                    .filter_map(new)
                    .for_each(|new| Collector(self.store()).punch(new));
                return Err(error);
            }
        }
        let (mut again, mut garbage, mut failed) = (None, Vec::new(), None);
        for one in &moves {
            match self.move_to(one) {
                Ok(Some(written)) => garbage.extend(written.garbage),
                other => {
                    // They come in the order in which they were looked at.
                    again = again.or(Some(one.at));
                    failed = failed.or(other.err());
                    new(one)
                        .into_iter()
                        .for_each(|new| Collector(self.store()).punch(new));
                }
            }
        }
        Collector(self.store()).punch_synced(&garbage);
        match failed {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }

    /// Moves a value. `None`: it was changed meanwhile, or is about to be.
    fn move_to(self, one: &Move) -> Result<Option<Written>> {
        let write = |latched: &Latched<'_>| {
            let same = latched.found.id == one.found.id
                && latched.found.meta.generation == one.found.meta.generation
                && latched.cells.version() == one.version;
            let new = Garbage::of(&one.content, one.key.len());
            let stays = new.is_none_or(|new| Segments(self.store()).may_lead_to(new.place));
            (same && stays).then(|| Written {
                garbage: latched.write(one.content, &[], &[]),
            })
        };
        let written = match self
            .0
            .mine
            .iter()
            .find(|latched| latched.found.id == one.found.id)
        {
            Some(latched) => write(latched),
            None => {
                let patience = Patience::of(LATCH_PATIENCE);
                let latched = Latches(self.store()).latch_within(
                    &one.key,
                    Index(self.store()).hash(&one.key),
                    None,
                    patience,
                )?;
                latched.and_then(|latched| write(&latched))
            }
        };
        if written.is_some() && !one.whole {
            self.store().count_damaged();
        }
        Ok(written)
    }
}
