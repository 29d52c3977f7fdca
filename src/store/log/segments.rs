//! Which room in the log is which record's. The slab says which segments there are, where the next
//! value is written, and how much of each segment is garbage; `log` has the files.
//!
//! Room is handed out by one exchange of the tail: the writer that gets it writes there, then puts
//! the place into the key's slots. A writer that dies in between leaves a gap, which nobody will
//! miss (G1).
//!
//! How much there is on the device is looked at after room was handed out, when it counts already:
//! of several at once at least one sees that it is too much, and leaves its room unused (G5).

use crate::error::{Error, Result};
use crate::log::{
    LOG, Location, Log, PAGE, RECORD_ALIGN, SEGMENT_HEADER_BYTES, needs_another, record_bytes,
};
use crate::record::closing;
use crate::slab::layout::SEGMENTS;
use crate::slab::value_cells::VALUE_BYTES_MAX;
use crate::slab::{
    KEY_BYTES_MAX, Lost, SEGMENT_BEGUN, SEGMENT_CLOSING, Segment, Slab, TAG_BYTES_MAX,
};
use crate::store::Store;
use crate::store::log::garbage::{Collector, Garbage};
use crate::store::log::new_segment::NewSegment;
use crate::store::log::sync::Syncing;
use crate::store::log::writing::{Placed, Writing};
use crate::store::members::config::InForce;
use crate::store::members::device::OnDevice;
use crate::store::members::recount::{SegmentState, Usage};
use crate::store::settings::segment_bytes_of;
use crate::sync::{Ordering, fence};

/// The key of records that are no values. No value has it: a key has a byte at least.
pub(crate) const RECORD_OF_NO_KEY: &[u8] = b"";

/// For what room is asked, and how much the log may take then.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    /// A value that is to be set.
    ToSet(u64),
    /// One that is moved: also what nobody else may have, but while the log takes more than a limit
    /// that was lowered.
    ToMove,
}

/// What files may take besides the bytes that are counted: of each the rest of its last page, and a
/// block for where its holes are; and one file that is being made.
pub(crate) fn slack_of(segments: usize) -> u64 {
    2 * PAGE * (segments as u64 + 1)
}

fn longest_of(all: &[SegmentState]) -> u64 {
    all.iter().map(|s| s.bytes).max().unwrap_or(0)
}

/// No segment is longer: one with a single value of the greatest length.
fn longest() -> u64 {
    SEGMENT_HEADER_BYTES + record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, VALUE_BYTES_MAX)
}

/// All segments that a slab knows of, as [`Segments::segments`] says.
pub(in crate::store) fn segments(slab: &Slab, log: &Log) -> Result<Vec<SegmentState>> {
    // What is gone before how long all is: otherwise room that is reserved in between, refused and
    // given back would be deducted and not counted. Pairs with the release of the setter that
    // counts it as given back. Not in a frame: the thread may have a small stack.
    let lost = (0..SEGMENTS).map(|at| slab.segment(at).lost.load(Ordering::Acquire));
    let lost: Vec<u64> = lost.collect();
    let tail = tail_of(slab);
    let mut all = Vec::new();
    for (at, lost) in (0..SEGMENTS).zip(lost) {
        let segment = slab.segment(at);
        let bits = segment.number.load(Ordering::Acquire);
        let number = bits as u32;
        // In another's place is damage: what is done about it would be done to that one, again and
        // again.
        if number == 0 || number % SEGMENTS != at {
            continue;
        }
        let is_begun = bits & SEGMENT_BEGUN != 0;
        let is_active = tail.is_some_and(|tail| tail.segment() == number);
        let end = Location::from_bits(segment.end.load(Ordering::Acquire));
        let end = end.filter(|end| end.segment() == number);
        let end = end.map_or(0, Location::offset);
        let bytes = match tail.filter(|_| is_active) {
            // None of its room is used before it is open; its maker may be dead.
            _ if is_begun => SEGMENT_HEADER_BYTES,
            Some(tail) => tail.offset(),
            None if (1..=longest()).contains(&end) => end,
            // The process that was to note it died.
            None => log
                .len_of(number)
                .map_err(|e| Error::io("look at", &log.path(number), e))?
                .unwrap_or(0),
        };
        // Whatever the words say: these are summed up.
        let bytes = bytes.min(longest());
        let lost = Lost::of(number, lost).unwrap_or(Lost::none(number));
        let garbage = lost.garbage().min(bytes);
        all.push(SegmentState {
            number,
            is_closing: bits & SEGMENT_CLOSING != 0,
            is_begun,
            is_active,
            bytes,
            garbage,
            punched: lost.punched().min(garbage),
        });
    }
    Ok(all)
}

/// What segments come to, together.
pub(in crate::store) fn usage_of(all: &[SegmentState]) -> Usage {
    Usage {
        bytes: all.iter().map(|s| s.usage().bytes).sum(),
        garbage: all.iter().map(|s| s.usage().garbage).sum(),
    }
}

fn tail_of(slab: &Slab) -> Option<Location> {
    Location::from_bits(slab.header().tail.load(Ordering::Acquire))
}

/// The segments of a log: what each has in it, and where the next record goes.
#[derive(Clone, Copy)]
pub(crate) struct Segments<'s>(pub(crate) &'s Store);

impl<'s> Segments<'s> {
    pub(crate) fn segment_bytes(self) -> u64 {
        segment_bytes_of(InForce(self.0).chosen_size_limit())
    }

    pub(crate) fn log_error<'l>(
        self,
        action: &'static str,
        log: &'l Log,
        number: u32,
    ) -> impl FnOnce(std::io::Error) -> Error + use<'l> {
        move |e| Error::io(action, &log.path(number), e)
    }

    /// All segments that the slab knows of. Of bytes that are appended or given back meanwhile
    /// there may be counted too many, and never too few (G5).
    pub(crate) fn segments(self) -> Result<Vec<SegmentState>> {
        segments(&self.0.slab, &self.0.process()?.log)
    }

    pub(crate) fn usage(self) -> Result<Usage> {
        Ok(self.usage_and_segments()?.0)
    }

    /// How much the log takes, and of how many segments it consists.
    pub(crate) fn usage_and_segments(self) -> Result<(Usage, usize)> {
        let all = self.segments()?;
        Ok((usage_of(&all), all.len()))
    }

    /// Whether values are appended to the segment.
    pub(crate) fn is_tail_in(self, number: u32) -> bool {
        self.tail().is_some_and(|tail| tail.segment() == number)
    }

    pub(in crate::store) fn tail(self) -> Option<Location> {
        tail_of(&self.0.slab)
    }

    /// The description of a segment that is there.
    pub(crate) fn segment_of(self, number: u32) -> Option<&'s Segment> {
        let segment = self.0.slab.segment(number);
        let is = segment.number.load(Ordering::Acquire) as u32 == number;
        is.then_some(segment)
    }

    /// Whether a place may be put into slots: its segment is there, and stays. Asked by the writer
    /// with the key's latch, after it was taken (G2).
    pub(crate) fn may_lead_to(self, place: Location) -> bool {
        let segment = self.0.slab.segment(place.segment());
        closing::may_lead_there(&segment.number, place.segment().into())
    }

    /// Writes a value to the log, and says where. `None`: there is no room for it.
    pub(crate) fn append(
        self,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
        room: Room,
    ) -> Result<Option<Location>> {
        let placed = self.append_to_room(key, tag, value, room, &mut || {})?;
        Ok(placed.map(|placed| placed.place))
    }

    /// As `append`. `is_ours` is called once the room is, before the value is written.
    fn append_to_room(
        self,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
        room: Room,
        is_ours: &mut dyn FnMut(),
    ) -> Result<Option<Placed<'s>>> {
        let bytes = record_bytes(key.len(), tag.len(), value.len());
        let process = self.0.process()?;
        let log = &process.log;
        loop {
            let place = self.reserve(log, bytes)?;
            let is_alone = self.is_alone(bytes);
            let writing = is_alone.then(|| Writing::begin(self.0, process, place));
            let garbage = Garbage { place, bytes };
            if !self.is_within(room)? {
                Collector(self.0).count_unused(garbage);
                return Ok(None);
            }
            is_ours();
            match log.write(place, key, tag, value) {
                Ok(()) => return Ok(Some(Placed { place, writing })),
                // Compacted away before it was written, as when we were stopped for long.
                Err(_) if !self.may_lead_to(place) => {
                    self.0.check_in_place()?;
                    Collector(self.0).count(garbage);
                }
                // Another's, and this process may not write to it, or removed by a cleaner: to
                // another one, then.
                Err(error) if needs_another(&error) && self.is_tail_in(place.segment()) => {
                    Collector(self.0).count(garbage);
                    NewSegment(self.0).begin_segment(log, None)?;
                }
                Err(error) => {
                    self.0.check_in_place()?;
                    Collector(self.0).punch(garbage);
                    return Err(self.log_error("write", log, place.segment())(error));
                }
            }
        }
    }

    /// Appends, and waits for the device if values are to survive a power failure: before a cell
    /// points to the place. `is_ours` is called once the room is.
    pub(crate) fn append_durably(
        self,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
        room: Room,
        is_ours: &mut dyn FnMut(),
    ) -> Result<Option<Placed<'s>>> {
        let known = OnDevice(self.0).known_if_durable()?;
        let Some(placed) = self.append_to_room(key, tag, value, room, is_ours)? else {
            return Ok(None);
        };
        let place = placed.place;
        if let Some(known) = known {
            let synced = Syncing(self.0).sync_segment(place.segment());
            match synced.and_then(|_| OnDevice(self.0).still_known(known)) {
                // Compacted away meanwhile: the value is written again, for nothing may point
                // there.
                Err(_) if !self.may_lead_to(place) => {}
                synced => synced.inspect_err(|_| {
                    let bytes = record_bytes(key.len(), tag.len(), value.len());
                    Collector(self.0).punch(Garbage { place, bytes });
                })?,
            }
        }
        Ok(Some(placed))
    }

    /// Whether what was reserved may stay. It is counted already: of all setters that reserve, the
    /// last one counts what all others have, so there is never more on the device than the bound of
    /// some of them (G5). Also what another one is about to give back: several may refuse each
    /// other, so a setter that is refused tries again.
    fn is_within(self, room: Room) -> Result<bool> {
        // Pairs with itself in all others: at least one of two sees what the other has reserved.
        fence(Ordering::SeqCst);
        let all = self.segments()?;
        let bytes: u64 = all.iter().map(|s| s.usage().bytes).sum();
        let most = self.bound().saturating_sub(slack_of(all.len()));
        let most_moving = self.bound_for_moving().saturating_sub(slack_of(all.len()));
        Ok(match room {
            Room::ToSet(limit) => bytes <= limit.min(most),
            Room::ToMove => bytes <= most_moving,
        })
    }

    /// What the log never takes more of the device than: a segment more than its limit.
    pub(crate) fn bound(self) -> u64 {
        InForce(self.0)
            .log_limit()
            .saturating_add(self.segment_bytes())
    }

    /// What the log never takes more than while values are moved: after the limit was lowered, what
    /// it was before, and then ever less.
    fn bound_for_moving(self) -> u64 {
        let bound = self.bound();
        bound.max(self.0.slab.header().shrinking.load(Ordering::Acquire))
    }

    /// Whether the limit was lowered, and the log does not fit yet.
    pub(crate) fn is_shrinking(self) -> bool {
        self.bound_for_moving() > self.bound()
    }

    /// Lowers the bound after a segment or values were removed: if the log does not fit yet, it
    /// takes no more than now, and what is moved; once it fits, and any segment could be moved, no
    /// more than its bound.
    pub(crate) fn let_bound_shrink(self) -> Result<()> {
        let shrinking = &self.0.slab.header().shrinking;
        let seen = shrinking.load(Ordering::Acquire);
        let bound = self.bound();
        if seen <= bound {
            return Ok(());
        }
        let all = self.segments()?;
        let longest = longest_of(&all).max(self.segment_bytes());
        let bytes: u64 = all.iter().map(|s| s.usage().bytes).sum();
        let with_one = bytes + slack_of(all.len()) + longest;
        // One for what is moved, one for what is set meanwhile.
        let now = match with_one <= bound {
            true => bound,
            false => with_one + longest,
        };
        // Otherwise somebody has lowered the limit again.
        let _ =
            shrinking.compare_exchange(seen, now.min(seen), Ordering::AcqRel, Ordering::Relaxed);
        Ok(())
    }

    /// How much may be moved, as things stand.
    pub(crate) fn room_for_moving(self, all: &[SegmentState]) -> u64 {
        let bytes: u64 = all.iter().map(|s| s.usage().bytes).sum();
        self.bound_for_moving()
            .saturating_sub(bytes + slack_of(all.len()))
    }

    /// Whether a record of so many bytes gets a segment of its own.
    pub(in crate::store) fn is_alone(self, bytes: u64) -> bool {
        bytes > self.segment_bytes() / 4
    }

    /// Room for so many bytes that is nobody else's.
    pub(in crate::store) fn reserve(self, log: &Log, bytes: u64) -> Result<Location> {
        let segment_bytes = self.segment_bytes();
        if self.is_alone(bytes) {
            return NewSegment(self.0).begin_segment(log, Some(bytes));
        }
        let word = &self.0.slab.header().tail;
        let mut tail = self.tail();
        loop {
            let room = tail.filter(|t| t.offset() + bytes <= segment_bytes && self.may_lead_to(*t));
            let Some(place) = room else {
                tail = Some(NewSegment(self.0).begin_segment(log, None)?);
                continue;
            };
            let next = place.bits() + bytes / RECORD_ALIGN;
            match word.compare_exchange(place.bits(), next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(place),
                Err(now) => tail = Location::from_bits(now),
            }
        }
    }

    pub(crate) fn over_limit(self) -> Error {
        Error::OverLimit {
            path: self.0.dir().join(LOG),
            limit: InForce(self.0).chosen_size_limit(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
