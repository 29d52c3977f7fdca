//! Compacting the log: what is still needed of a segment moves to the end of the log, and the file
//! is removed.
//!
//! A segment is closed first: nothing new may point into it. Then every slot is looked at once, a
//! few thousand at a time, by a writer of a large value that has the lock for it, the compactor; a
//! value that lies in the segment is written again, and its cell changed under the latch as by any
//! writer. When all slots were looked at nothing points there any more. Segments of which nothing
//! is needed are removed together, with one look at each slot.
//!
//! A writer (1) takes the latch, (2) looks whether the segment is closed, (3) changes the cell. The
//! compactor (1) closes the segment, (2) waits until no writer holds the latch, (3) reads the cell.
//! There are fences between (1) and (2) of each, so at least one of the two sees the other (G2).
//!
//! What can not be emptied (there is no room for what is to be moved, or it can not be read) is
//! opened again, and another one is taken.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::os::futex;
use crate::record::closing;
use crate::slab::layout::SEGMENTS;
use crate::slab::value_cells::{Content, Form};
use crate::slab::{Growing, SEGMENT_CLOSING, SlotId, Tenant};
use crate::store::index::chains::Index;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::Dead;
use crate::store::log::garbage::Garbage;
use crate::store::log::segments::Room;
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::device::Known;
use crate::store::members::device::OnDevice;
use crate::store::members::participants::Members;
use crate::store::members::range::Ranges;
use crate::store::members::recount::SegmentState;
use crate::store::patience::Patience;
use crate::store::slots::by_slot::Slots;
use crate::store::space::set::Latched;
use crate::store::space::set::Writer;
use crate::store::{Process, Store};
use crate::sync::Ordering;

/// At least so much moves in a step, if there is so much, and no more than that.
const STEP_BYTES: u64 = 1 << 20;
const STEP_BYTES_MAX: u64 = 16 << 20;
/// How many bytes move for each that is to be set: a segment that is compacted may have no more
/// than a quarter of garbage or so, and three quarters to move.
const PACE: u64 = 4;
/// So many slots are looked at in a step, or a 64th of all.
const STEP_SLOTS: u32 = 16_384;
/// No step begins anything new after that time; it is looked at every so many slots.
const STEP_TIME: Duration = Duration::from_millis(15);
const SLOTS_A_LOOK: u32 = 256;
/// A segment is worth it from so much garbage on: one byte in so many.
const WORTH: u64 = 8;
/// When so many segments are described, some with little in them are compacted, however little of
/// that is garbage.
pub(crate) const CROWDED: usize = SEGMENTS as usize / 4 * 3;
/// How long to wait for the writer of a value: it may be stopped.
pub(crate) const LATCH_PATIENCE: Duration = Duration::from_millis(5);

/// Latches that the compactor has itself: it need not wait for them.
pub(crate) type Mine<'a> = [&'a Latched<'a>];

/// What came of a look at a slot.
enum Visit {
    Clear,
    /// A cell pointed into a closed segment, and its value was written again.
    Written(Move),
    /// Somebody is changing the value, and takes long.
    Busy,
    /// There is no room to write it again.
    NoRoom,
    /// It can not be read.
    Unreadable(u32),
}

/// A value that was written again, and a cell that is to point to it.
struct Move {
    at: u32,
    found: KeyEntry,
    key: Vec<u8>,
    /// In force when it was written.
    version: u64,
    content: Content,
    bytes: u64,
    whole: bool,
}

/// Whether trying again will bring the same error: it is not this process that lacks something.
fn is_of_the_device(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    let lacking = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];
    let lacks = |errno: Errno| source.raw_os_error() == Some(errno as i32);
    // Memory that was not even asked of the system comes without its number.
    source.kind() != io::ErrorKind::OutOfMemory && !lacking.into_iter().any(lacks)
}

/// Moving values out of segments that are mostly garbage.
#[derive(Clone, Copy)]
pub(crate) struct Compactor<'s>(pub(crate) &'s Arc<Store>);

impl<'s> Compactor<'s> {
    /// Compacts one step more, for `bytes` that are to be set. `false`: there is nothing to gain,
    /// or another compactor is running.
    ///
    /// Killed after each step: a segment that is closed is compacted first; what was written again
    /// and is not in force is a gap; the slot to continue from is noted after it was looked at.
    pub(crate) fn compact(self, bytes: u64, mine: &Mine<'_>) -> Result<bool> {
        let process = self.0.process()?;
        let Some(_lock) = Ranges(self.0).try_lock_compaction()? else {
            return Ok(false);
        };
        let known = OnDevice(self.0).known_if_durable()?;
        let closed = self.close_segments(process)?;
        if closed.is_empty() {
            return Ok(false);
        }
        let slots = self.0.slab.allocated(Growing::Slots);
        let cursors = closed
            .iter()
            .map(|number| &self.0.slab.segment(*number).cursor);
        let noted = cursors.clone().map(|cursor| cursor.load(Ordering::Relaxed));
        let from = noted.min().unwrap_or(0).min(slots.into()) as u32;
        let most = from.saturating_add(STEP_SLOTS.max(slots / 64)).min(slots);
        let budget = bytes.saturating_mul(PACE).clamp(STEP_BYTES, STEP_BYTES_MAX);
        let begun = Instant::now();
        let (mut at, mut moved, mut moves) = (from, 0, Vec::new());
        let (mut last, mut failed) = (Visit::Clear, None);
        while at < most && moved < budget {
            if at % SLOTS_A_LOOK == 0 && begun.elapsed() > STEP_TIME {
                break;
            }
            let id = self.0.slab.slot_id(at);
            match id.map_or(Ok(Visit::Clear), |id| {
                self.visit(process, id, &closed, mine)
            }) {
                Ok(Visit::Clear) => {}
                Ok(Visit::Written(one)) => {
                    moved += one.bytes;
                    moves.push(one);
                    if begun.elapsed() > STEP_TIME {
                        at += 1;
                        break;
                    }
                }
                Ok(other) => {
                    last = other;
                    break;
                }
                // What was written before is needed, or garbage, whatever comes of the rest.
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            at += 1;
        }
        // What could not be put in force is looked at again.
        let reached = self.put_in_force(moves, known, mine)?.unwrap_or(at).min(at);
        for cursor in cursors {
            cursor.store(reached.into(), Ordering::Release);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let is_open_again = matches!(last, Visit::Unreadable(_) | Visit::NoRoom);
        if is_open_again && let Some(known) = known {
            // What has moved, now or in an earlier step, may move once more before anybody waits
            // for the device, and would be written over what the device has.
            Syncing(self.0).sync_slab_since(known)?;
        }
        match last {
            Visit::Unreadable(number) => {
                self.leave(process, number);
                return Ok(true);
            }
            Visit::NoRoom => {
                // With what has moved less is to be moved the next time.
                closed.iter().for_each(|number| self.reopen(*number));
                return Ok(moved > 0);
            }
            _ => {}
        }
        if reached < slots {
            return Ok(reached > from);
        }
        self.remove_emptied(process, &closed, known)
    }

    /// Removes the closed segments when all slots were looked at: nothing points there any more.
    fn remove_emptied(
        self,
        process: &Process,
        closed: &[u32],
        known: Option<Known>,
    ) -> Result<bool> {
        // The list of a transaction may lie there. A transaction looks under this lock whether the
        // segment is closed: now it has decided, or does not any more.
        match Ranges(self.0).lock_growth_within(Patience::strictly(LATCH_PATIENCE))? {
            Some(growth) => drop(growth),
            None => return Ok(false),
        }
        Journal(self.0).settle()?;
        if let Some(known) = known {
            // Nothing that the device has points there either.
            Syncing(self.0).sync_values_since(known)?;
        }
        self.0.check_in_place()?;
        for number in closed {
            match process.log.remove(*number) {
                Ok(()) => {
                    let segment = self.0.slab.segment(*number);
                    segment.number.store(0, Ordering::Release);
                }
                Err(e) => {
                    let error = Segments(self.0).log_error("remove", &process.log, *number)(e);
                    match is_of_the_device(&error) {
                        true => self.leave(process, *number),
                        false => return Err(error),
                    }
                }
            }
        }
        Segments(self.0).let_bound_fall()?;
        Ok(true)
    }

    /// A segment that the device cannot read, or remove, stays as it is; this process does not try
    /// again.
    fn leave(self, process: &Process, number: u32) {
        process.log.leave(number);
        self.0.count_damaged();
        self.reopen(number);
    }

    fn reopen(self, number: u32) {
        closing::reopen(&self.0.slab.segment(number).number, number.into());
    }

    /// The segments that are being compacted, or all of which nothing is needed, or one that is
    /// worth it, closed.
    fn close_segments(self, process: &Process) -> Result<Vec<u32>> {
        let all = Segments(self.0).segments()?;
        let is_closed = |s: &&SegmentState| s.is_closing && !s.is_begun;
        let mut closed: Vec<_> = all.iter().filter(is_closed).map(|s| s.number).collect();
        // Of one that somebody was beginning, and gave up: the table is full of numbers above it.
        let last = self.0.slab.header().last_segment.load(Ordering::Acquire);
        let is_given_up =
            |s: &&SegmentState| s.is_begun && last > u64::from(s.number) + CROWDED as u64 / 2;
        closed.extend(all.iter().filter(is_given_up).filter_map(|s| self.close(s)));
        if !closed.is_empty() {
            closing::go_on();
            return Ok(closed);
        }
        let candidates = || {
            let is_candidate =
                |s: &&SegmentState| !s.is_active && !s.is_begun && !process.log.is_left(s.number);
            all.iter().filter(is_candidate)
        };
        // The last one may not be the tail yet.
        let is_empty = |s: &&SegmentState| s.live() == 0 && u64::from(s.number) != last;
        let closed: Vec<_> = candidates()
            .filter(is_empty)
            .filter_map(|s| self.close(s))
            .collect();
        if !closed.is_empty() {
            return Ok(closed);
        }
        let room = Segments(self.0).room_for_moving(&all);
        let fits = candidates().filter(|s| s.live() <= room);
        let best = match all.len() >= CROWDED {
            true => fits.min_by_key(|s| s.live()),
            false => {
                let is_worth = |s: &&SegmentState| s.usage().dead >= s.usage().bytes / WORTH;
                let share = |s: &&SegmentState| s.usage().dead * 1_000 / s.usage().bytes.max(1);
                fits.filter(is_worth).max_by_key(share)
            }
        };
        Ok(best.and_then(|s| self.close(s)).into_iter().collect())
    }

    /// `None`: it is gone meanwhile.
    fn close(self, state: &SegmentState) -> Option<u32> {
        let segment = self.0.slab.segment(state.number);
        segment.cursor.store(0, Ordering::Relaxed);
        let number = u64::from(state.number);
        closing::close(&segment.number, state.word(), number | SEGMENT_CLOSING)
            .then_some(state.number)
    }

    /// Writes the value in a slot again if its cell points into a closed segment.
    fn visit(
        self,
        process: &Process,
        id: SlotId,
        closed: &[u32],
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
                Journal(self.0).settle()?;
                return self.write_anew(found, closed);
            }
            if begun.get_or_insert_with(Instant::now).elapsed() > LATCH_PATIENCE {
                return Ok(Visit::Busy);
            }
            futex::wait(&slot.wake, wakes, Duration::from_micros(100));
        }
    }

    fn write_anew(self, found: KeyEntry, closed: &[u32]) -> Result<Visit> {
        loop {
            let Some(Ok(reading)) = Slots(self.0).read_value(found, &mut ()) else {
                return Ok(Visit::Clear);
            };
            let logged = reading.content.logged(found.meta.key_len);
            let Some((place, bytes)) =
                logged.filter(|(place, _)| closed.contains(&place.segment()))
            else {
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
                at: found.id.index(),
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
    /// survive a power failure. Which slot is to be looked at again, the first if there are
    /// several.
    fn put_in_force(
        self,
        moves: Vec<Move>,
        known: Option<Known>,
        mine: &Mine<'_>,
    ) -> Result<Option<u32>> {
        if moves.is_empty() {
            return Ok(None);
        }
        let new = |one: &Move| Dead::of(&one.content, one.key.len());
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
                    .for_each(|new| Garbage(self.0).give_back(new));
                return Err(error);
            }
        }
        let (mut again, mut dead, mut failed) = (None, Vec::new(), None);
        for one in &moves {
            match self.move_to(one, mine) {
                Ok(Some(old)) => dead.extend(old),
                other => {
                    // They come in the order of the slots.
                    again = again.or(Some(one.at));
                    failed = failed.or(other.err());
                    new(one)
                        .into_iter()
                        .for_each(|new| Garbage(self.0).give_back(new));
                }
            }
        }
        Garbage(self.0).give_back_soon(&dead);
        match failed {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }

    /// Moves a value, and says what is garbage by that. `None`: it was changed meanwhile, or is
    /// about to be.
    fn move_to(self, one: &Move, mine: &Mine<'_>) -> Result<Option<Option<Dead>>> {
        let write = |latched: &Latched<'_>| {
            let same = latched.found.id == one.found.id
                && latched.found.meta.generation == one.found.meta.generation
                && latched.cells.version() == one.version;
            let new = Dead::of(&one.content, one.key.len());
            let stays = new.is_none_or(|new| Segments(self.0).may_lead_to(new.place));
            (same && stays).then(|| latched.write(one.content, &[], &[]))
        };
        let dead = match mine.iter().find(|latched| latched.found.id == one.found.id) {
            Some(latched) => write(latched),
            None => {
                let patience = Patience::of(LATCH_PATIENCE);
                let latched = Writer(self.0).latch_within(
                    &one.key,
                    Index(self.0).hash(&one.key),
                    None,
                    patience,
                )?;
                latched.and_then(|latched| write(&latched))
            }
        };
        if dead.is_some() && !one.whole {
            self.0.count_damaged();
        }
        Ok(dead)
    }
}
