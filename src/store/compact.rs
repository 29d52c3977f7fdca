//! Compacting the log: what is still needed of a segment moves to the end of the log, and the file goes.
//!
//! A segment is closed first: nothing new may lead into it. Then every slot is looked at once, a few thousand
//! at a time, by whoever sets a large value and has the lock for it; a value that lies in the segment is
//! written anew, and its cell changed under the latch as by anybody who sets a value. When all slots were
//! looked at nothing leads there any more.
//!
//! Who sets a value takes the latch, then looks whether the segment is closed, then changes the cell. Who
//! compacts closes the segment, then looks at the latch, waits for who has it, then reads the cell. There are
//! fences between the first two of each, so at least one of the two sees the other (G2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::os::futex;
use crate::record::closing;
use crate::slab::{Growing, SEGMENT_CLOSING, SlotId};
use crate::store::dead::Dead;
use crate::store::index::Found;
use crate::store::segments::SegmentState;
use crate::store::value::{Content, Form};
use crate::store::waiting::Patience;
use crate::store::{Process, Store};
use crate::sync::Ordering;
use crate::types::Kind;

/// At least so much moves in a step, if there is so much.
const STEP_BYTES: u64 = 1 << 20;
/// How many bytes move for each that is to be set: a segment that is compacted may have no more than a quarter of dead
/// ones or so, and three quarters to move.
const PACE: u64 = 4;
/// So many slots are looked at in a step, or a 64th of all.
const STEP_SLOTS: u32 = 16_384;
/// A segment is worth it from so many dead bytes on: one in so many.
const WORTH: u64 = 8;
/// How long to wait for who is changing a value: it may be stopped.
const LATCH_PATIENCE: Duration = Duration::from_millis(5);

/// What came of a look at a slot.
enum Visit {
    Clear,
    /// So many bytes were written anew.
    Moved(u64),
    /// Somebody is changing the value, and takes long.
    Busy,
}

impl Store {
    /// Goes on compacting, for `bytes` that are to be set. `false`: there is nothing to gain, or somebody
    /// else is at it.
    ///
    /// Killed after each step: a segment that is closed is compacted first; what was written anew and is not
    /// in force is a gap; the slot to go on from is noted after it was looked at.
    pub(crate) fn compact(self: &Arc<Store>, bytes: u64) -> Result<bool> {
        let process = self.process()?;
        let Some(_lock) = self.try_lock_compaction()? else {
            return Ok(false);
        };
        let Some(number) = self.close_segment()? else {
            return Ok(false);
        };
        let segment = self.slab.segment(number);
        let slots = self.slab.allocated(Growing::Slots);
        let mut at = segment.cursor.load(Ordering::Relaxed).min(slots.into()) as u32;
        let most = at.saturating_add(STEP_SLOTS.max(slots / 64)).min(slots);
        let budget = bytes.saturating_mul(PACE).max(STEP_BYTES);
        let mut moved = 0;
        while at < most && moved < budget {
            let id = self.slab.slot_id(at);
            match id.map_or(Ok(Visit::Clear), |id| self.visit(process, id, number))? {
                Visit::Clear => {}
                Visit::Moved(bytes) => moved += bytes,
                Visit::Busy => break,
            }
            at += 1;
        }
        segment.cursor.store(at.into(), Ordering::Release);
        if at < slots {
            return Ok(at == most || moved >= budget);
        }
        // The list of a transaction may lie there. Whoever decides one looks under this lock whether the segment is
        // closed: now it was decided, or is not any more.
        match self.lock_growth_within(Patience::of(LATCH_PATIENCE))? {
            Some(growth) => drop(growth),
            None => return Ok(false),
        }
        self.settle()?;
        if self.is_durable() {
            // What moved is on the medium before what it was moved from is gone.
            self.sync_values()?;
        }
        self.check_in_place()?;
        let log = &process.log;
        log.remove(number)
            .map_err(self.log_error("remove", log, number))?;
        segment.number.store(0, Ordering::Release);
        Ok(true)
    }

    /// The segment that is being compacted, or one that is worth it, closed.
    fn close_segment(&self) -> Result<Option<u32>> {
        let segments = self.segments()?;
        if let Some(closed) = segments.iter().find(|s| s.is_closing) {
            closing::go_on();
            return Ok(Some(closed.number));
        }
        let is_worth = |s: &&SegmentState| {
            let usage = s.usage();
            !s.is_active && (usage.dead >= usage.bytes / WORTH || s.live() == 0)
        };
        let share = |s: &&SegmentState| s.usage().dead * 1_000 / s.usage().bytes.max(1);
        let Some(best) = segments.iter().filter(is_worth).max_by_key(share) else {
            return Ok(None);
        };
        let segment = self.slab.segment(best.number);
        segment.cursor.store(0, Ordering::Relaxed);
        let closed = u64::from(best.number) | SEGMENT_CLOSING;
        closing::close(&segment.number, closed);
        Ok(Some(best.number))
    }

    /// Sees to it that a slot does not lead into a closed segment.
    fn visit(self: &Arc<Store>, process: &Process, id: SlotId, number: u32) -> Result<Visit> {
        let slot = self.slab.slot(id);
        let begun = Instant::now();
        loop {
            let wakes = slot.wake.load(Ordering::Acquire);
            // The hold before the cell (G2).
            let is_settled = closing::is_settled(&slot.hold, |p| self.is_dead(process, p));
            let Some(found) = slot.meta().and_then(|meta| {
                let kind = meta.kind.filter(|kind| *kind == Kind::Value)?;
                Some(Found { id, meta, kind })
            }) else {
                return Ok(Visit::Clear);
            };
            if is_settled {
                // A dead one may have decided that its idle cell is to be in force.
                self.settle()?;
                return self.move_value(found, number);
            }
            if begun.elapsed() > LATCH_PATIENCE {
                return Ok(Visit::Busy);
            }
            futex::wait(&slot.wake, wakes, Duration::from_micros(100));
        }
    }

    fn move_value(self: &Arc<Store>, found: Found, number: u32) -> Result<Visit> {
        let leads_there = |content: &Content| {
            content
                .logged(found.meta.key_len)
                .filter(|(place, _)| place.segment() == number)
        };
        loop {
            let Some(Ok(reading)) = self.read_value(found, &mut ()) else {
                return Ok(Visit::Clear);
            };
            let Some((_, bytes)) = leads_there(&reading.content) else {
                return Ok(Visit::Clear);
            };
            let Some(key) = self.key_of(found) else {
                return Ok(Visit::Clear);
            };
            let (mut value, mut tag) = (Vec::new(), Vec::new());
            let whole = self.read_logged(&key, &reading.content, &mut value, Some(&mut tag))?;
            let content = match reading.content.form {
                Form::Logged { len, tag_hash, .. } if whole => Content {
                    form: Form::Logged {
                        place: self.append_durably(&key, &tag, &value)?,
                        len,
                        tag_hash,
                    },
                    ..reading.content
                },
                _ => Content::ABSENT,
            };
            let wasted = || {
                let new = Dead::of(&content, key.len());
                new.inspect(|new| self.give_back(*new));
            };
            let patience = Patience::of(LATCH_PATIENCE);
            let latched = self.latch_within(&key, self.hash(&key), None, patience)?;
            let Some(latched) = latched else {
                wasted();
                return Ok(Visit::Busy);
            };
            let same = latched.found.id == found.id
                && latched.found.meta.generation == found.meta.generation
                && latched.cells.version() == reading.version;
            let stays = content
                .logged(key.len())
                .is_none_or(|(new, _)| self.may_lead_to(new));
            if same && stays {
                let dead = latched.write(content, &[], &[]);
                drop(latched);
                match dead {
                    // The medium is not waited for before the end: then all of the segment goes.
                    Some(dead) if self.is_durable() => self.mark_dead(dead),
                    Some(dead) => self.give_back(dead),
                    None => {}
                }
                if !whole {
                    self.count_damaged();
                }
                return Ok(Visit::Moved(bytes));
            }
            drop(latched);
            wasted();
            // It was changed meanwhile: look again, where it leads now.
        }
    }
}
