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
use crate::store::log::garbage::{Collector, Garbage};
use crate::store::log::segments::{Room, Segments};
use crate::store::log::sync::Syncing;
use crate::store::members::device::{Known, OnDevice};
use crate::store::members::participants::Members;
use crate::store::members::process::Process;
use crate::store::patience::Patience;
use crate::store::slots::by_slot::Slots;
use crate::store::space::compact::{LATCH_PATIENCE, Mine};
use crate::store::space::latch::{Latched, Latches, Written};
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

/// Writes values again that lie in closed segments, and lets their cells point there.
#[derive(Clone, Copy)]
pub(super) struct Mover<'s>(pub(super) &'s Arc<Store>);

impl<'s> Mover<'s> {
    /// Writes the value of a key again if its cell points into a closed segment.
    pub(super) fn visit_key(
        self,
        process: &Process,
        key: &[u8],
        at: u64,
        closed: u32,
        mine: &Mine<'_>,
    ) -> Result<Visit> {
        let (index, hash) = (Index(self.0), Index(self.0).hash(key));
        let found = match index.find_unlocked(key, hash, VALUE_SLOTS) {
            None if index.is_miss(key, hash) => None,
            None => match index.find(key, hash, Patience::of(LATCH_PATIENCE)) {
                Err(Error::StructureBusy { .. }) => return Ok(Visit::Busy),
                found => found?,
            },
            found => found,
        };
        match found {
            Some(found) => self.visit(process, found.id, at, closed, mine),
            // No writer puts it in force any more: it would see that the segment is closed.
            None => Ok(Visit::Clear),
        }
    }

    /// Writes the value in a slot again if its cell points into a closed segment.
    pub(super) fn visit(
        self,
        process: &Process,
        id: SlotId,
        at: u64,
        closed: u32,
        mine: &Mine<'_>,
    ) -> Result<Visit> {
        let slot = self.0.slab.slot(id);
        let mut begun = None;
        loop {
            let wakes = slot.wake.load(Ordering::Acquire);
            // The hold before the cell (G2).
            let is_settled =
                closing::is_settled(&slot.hold, |p| Members(self.0).is_dead(process, p));
            let Some(found) = slot.meta().and_then(|meta| {
                let kind = meta.kind.filter(|kind| *kind == Tenant::Value)?;
                Some(KeyEntry { id, meta, kind })
            }) else {
                return Ok(Visit::Clear);
            };
            if is_settled || mine.iter().any(|latched| latched.found.id == id) {
                // A dead process may have decided that the idle cell is to be in force.
                Journal(self.0).finish_decided()?;
                return self.write_anew(found, at, closed);
            }
            if begun.get_or_insert_with(Instant::now).elapsed() > LATCH_PATIENCE {
                return Ok(Visit::Busy);
            }
            futex::wait(&slot.wake, wakes, Duration::from_micros(100));
        }
    }

    fn write_anew(self, found: KeyEntry, at: u64, closed: u32) -> Result<Visit> {
        loop {
            let Some(Ok(reading)) = Slots(self.0).read_value(found, &mut ()) else {
                return Ok(Visit::Clear);
            };
            let logged = reading.content.logged(found.meta.key_len);
            let Some((place, bytes)) = logged.filter(|(place, _)| place.segment() == closed) else {
                return Ok(Visit::Clear);
            };
            let Some(key) = Slots(self.0).key_of(found) else {
                return Ok(Visit::Clear);
            };
            let (mut value, mut tag) = (Vec::new(), Vec::new());
            let read =
                Slots(self.0).read_logged(&key, &reading.content, &mut value, Some(&mut tag));
            if !Slots(self.0).is_in_force(found, &reading) {
                // The value was replaced while it was read: look again, where its cell points now.
                continue;
            }
            let whole = match read {
                Err(error) if is_of_the_device(&error) => {
                    return Ok(Visit::Unreadable(place.segment()));
                }
                other => other?,
            };
            let content = match reading.content.form {
                Form::Logged { len, tag_hash, .. } if whole => {
                    let Some(place) = Segments(self.0).append(&key, &tag, &value, Room::ToMove)?
                    else {
                        return Ok(Visit::NoRoom);
                    };
                    let form = Form::Logged {
                        place,
                        len,
                        tag_hash,
                    };
                    Content {
                        form,
                        ..reading.content
                    }
                }
                _ => Content::ABSENT,
            };
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

    /// Lets the cells point to what was written again: after the device has that, if values are to
    /// survive a power failure. From where on to look again, if that is to be.
    pub(super) fn put_in_force(
        self,
        moves: Vec<Move>,
        known: Option<Known>,
        mine: &Mine<'_>,
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
            let synced =
                segments.try_for_each(|number| Syncing(self.0).sync_segment(*number).map(drop));
            if let Err(error) = synced.and_then(|()| OnDevice(self.0).still_known(known)) {
                moves
                    .iter()
                    .filter_map(new)
                    .for_each(|new| Collector(self.0).punch(new));
                return Err(error);
            }
        }
        let (mut again, mut garbage, mut failed) = (None, Vec::new(), None);
        for one in &moves {
            match self.move_to(one, mine) {
                Ok(Some(written)) => garbage.extend(written.garbage),
                other => {
                    // They come in the order in which they were looked at.
                    again = again.or(Some(one.at));
                    failed = failed.or(other.err());
                    new(one)
                        .into_iter()
                        .for_each(|new| Collector(self.0).punch(new));
                }
            }
        }
        Collector(self.0).punch_synced(&garbage);
        match failed {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }

    /// Moves a value. `None`: it was changed meanwhile, or is about to be.
    fn move_to(self, one: &Move, mine: &Mine<'_>) -> Result<Option<Written>> {
        let write = |latched: &Latched<'_>| {
            let same = latched.found.id == one.found.id
                && latched.found.meta.generation == one.found.meta.generation
                && latched.cells.version() == one.version;
            let new = Garbage::of(&one.content, one.key.len());
            let stays = new.is_none_or(|new| Segments(self.0).may_lead_to(new.place));
            (same && stays).then(|| Written {
                garbage: latched.write(one.content, &[], &[]),
            })
        };
        let written = match mine.iter().find(|latched| latched.found.id == one.found.id) {
            Some(latched) => write(latched),
            None => {
                let patience = Patience::of(LATCH_PATIENCE);
                let latched = Latches(self.0).latch_within(
                    &one.key,
                    Index(self.0).hash(&one.key),
                    None,
                    patience,
                )?;
                latched.and_then(|latched| write(&latched))
            }
        };
        if written.is_some() && !one.whole {
            self.0.count_damaged();
        }
        Ok(written)
    }
}
