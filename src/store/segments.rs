//! Whose room is which in the log. The slab says which segments there are, where the next value goes, and how
//! much of each segment nobody needs any more; `log` has the files.
//!
//! Room is handed out by one exchange of the tail: who gets it writes there, then puts the place into the
//! key's slots. Who dies in between leaves a gap, which nobody will miss. A segment is begun under the lock
//! for growing (G1).

use crate::error::{Error, Result};
use crate::log::{LOG, Log, Place, RECORD_ALIGN, SEGMENT_HEADER_BYTES, record_bytes};
use crate::record::closing;
use crate::slab::layout::SEGMENTS;
use crate::slab::{Gone, SEGMENT_CLOSING, Segment};
use crate::slab::{KEY_BYTES_MAX, TAG_BYTES_MAX};
use crate::store::Store;
use crate::store::dead::Dead;
use crate::store::value::VALUE_BYTES_MAX;
use crate::store::waiting::Patience;
use crate::sync::Ordering;

/// Segments are a 64th of what the log may take, but not shorter or longer than this.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The key of records that are no values. No value has it: a key has a byte at least.
pub(crate) const RECORD_OF_NO_KEY: &[u8] = b"";

/// How the log stands, in bytes of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of the device, as far as records go.
    pub(crate) bytes: u64,
    /// Nobody needs them, and they are still there.
    pub(crate) dead: u64,
}

/// No segment is longer: one with a single value of the greatest length.
fn longest() -> u64 {
    SEGMENT_HEADER_BYTES + record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, VALUE_BYTES_MAX)
}

/// One segment, as the slab describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentState {
    pub(crate) number: u32,
    pub(crate) is_closing: bool,
    /// Values are still appended to it.
    pub(crate) is_active: bool,
    /// How long it is.
    pub(crate) bytes: u64,
    /// So many of them nobody needs any more.
    pub(crate) dead: u64,
    /// So many of the dead are not on the device any more.
    pub(crate) given: u64,
}

impl SegmentState {
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            bytes: self.bytes - self.given,
            dead: self.dead - self.given,
        }
    }

    pub(crate) fn live(&self) -> u64 {
        self.bytes
            .saturating_sub(SEGMENT_HEADER_BYTES)
            .saturating_sub(self.dead)
    }
}

impl Store {
    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.size_limit() / 64).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    pub(crate) fn log_error(
        &self,
        action: &'static str,
        log: &Log,
        number: u32,
    ) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = log.path(number);
        move |e| Error::io(action, &path, e)
    }

    /// All segments that the slab knows of.
    pub(crate) fn segments(&self) -> Result<Vec<SegmentState>> {
        let log = &self.process()?.log;
        let tail = self.tail();
        let mut all = Vec::new();
        for at in 0..SEGMENTS {
            let segment = self.slab.segment(at);
            let bits = segment.number.load(Ordering::Acquire);
            let number = bits as u32;
            // In another's place is damage: what is done about it would be done to that one, again and again.
            if number == 0 || number % SEGMENTS != at {
                continue;
            }
            let is_active = tail.is_some_and(|tail| tail.segment() == number);
            let end = segment.end.load(Ordering::Relaxed);
            let bytes = match tail.filter(|_| is_active) {
                Some(tail) => tail.offset(),
                None if (1..=longest()).contains(&end) => end,
                // Who was to note it died.
                None => log
                    .len_of(number)
                    .map_err(self.log_error("look at", log, number))?
                    .unwrap_or(0),
            };
            // Whatever the words say: these are summed up.
            let bytes = bytes.min(longest());
            let gone = Gone::of(number, segment.gone.load(Ordering::Acquire));
            let gone = gone.unwrap_or(Gone::none(number));
            let dead = gone.dead().min(bytes);
            all.push(SegmentState {
                number,
                is_closing: bits & SEGMENT_CLOSING != 0,
                is_active,
                bytes,
                dead,
                given: gone.given().min(dead),
            });
        }
        Ok(all)
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        let all = self.segments()?;
        Ok(Usage {
            bytes: all.iter().map(|s| s.usage().bytes).sum(),
            dead: all.iter().map(|s| s.usage().dead).sum(),
        })
    }

    /// Whether values are appended to the segment.
    pub(crate) fn is_tail_in(&self, number: u32) -> bool {
        self.tail().is_some_and(|tail| tail.segment() == number)
    }

    fn tail(&self) -> Option<Place> {
        Place::from_bits(self.slab.header().tail.load(Ordering::Acquire))
    }

    /// The description of a segment that is there.
    pub(crate) fn segment_of(&self, number: u32) -> Option<&Segment> {
        let segment = self.slab.segment(number);
        let is = segment.number.load(Ordering::Acquire) as u32 == number;
        is.then_some(segment)
    }

    /// Whether a place may be put into slots: its segment is there, and stays. Asked by who has the key's
    /// latch, after it was taken (G2).
    pub(crate) fn may_lead_to(&self, place: Place) -> bool {
        let segment = self.slab.segment(place.segment());
        closing::may_lead_there(&segment.number, place.segment().into())
    }

    /// Writes a value to the log, and says where.
    pub(crate) fn append(&self, key: &[u8], tag: &[u8], value: &[u8]) -> Result<Place> {
        let bytes = record_bytes(key.len(), tag.len(), value.len());
        let log = &self.process()?.log;
        loop {
            let place = self.reserve(log, bytes)?;
            match log.write(place, key, tag, value) {
                Ok(()) => return Ok(place),
                // Compacted away before it was written, as when we were stopped for long.
                Err(_) if !self.may_lead_to(place) => self.check_in_place()?,
                Err(error) => {
                    self.check_in_place()?;
                    self.give_back(Dead { place, bytes });
                    return Err(self.log_error("write", log, place.segment())(error));
                }
            }
        }
    }

    /// The same, and waits for the medium if values are to survive a power failure: before a cell leads there.
    pub(crate) fn append_durably(&self, key: &[u8], tag: &[u8], value: &[u8]) -> Result<Place> {
        let place = self.append(key, tag, value)?;
        if self.is_durable() {
            let log = &self.process()?.log;
            match log.sync(place.segment()) {
                // Compacted away meanwhile: the value is written anew, for nothing may lead there.
                Err(_) if !self.may_lead_to(place) => {}
                synced => synced
                    .map_err(self.log_error("sync", log, place.segment()))
                    .inspect_err(|_| {
                        let bytes = record_bytes(key.len(), tag.len(), value.len());
                        self.give_back(Dead { place, bytes });
                    })?,
            }
        }
        Ok(place)
    }

    /// Room for so many bytes that is nobody else's.
    fn reserve(&self, log: &Log, bytes: u64) -> Result<Place> {
        let segment_bytes = self.segment_bytes();
        if bytes > segment_bytes / 4 {
            return self.begin_segment(log, Some(bytes));
        }
        let word = &self.slab.header().tail;
        let mut tail = self.tail();
        loop {
            let room = tail.filter(|t| t.offset() + bytes <= segment_bytes && self.may_lead_to(*t));
            let Some(place) = room else {
                tail = Some(self.begin_segment(log, None)?);
                continue;
            };
            let next = place.bits() + bytes / RECORD_ALIGN;
            match word.compare_exchange(place.bits(), next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(place),
                Err(now) => tail = Place::from_bits(now),
            }
        }
    }

    /// Begins a segment: for one value of its own, or to append to, unless somebody else just did.
    ///
    /// Killed after each step: a file that the next one makes anew; a segment that nothing leads to, which is
    /// compacted away; the one before without its end, for which its file's length stands in.
    fn begin_segment(&self, log: &Log, alone: Option<u64>) -> Result<Place> {
        let before = self.tail();
        let _growth = self.lock_growth_within(Patience::Forever)?;
        let now = self.tail();
        if let Some(tail) =
            now.filter(|now| alone.is_none() && Some(*now) != before && self.may_lead_to(*now))
        {
            return Ok(tail);
        }
        // Another store in its place would lose a segment to this one.
        self.check_in_place()?;
        let number = self.next_number()?;
        log.create(number)
            .map_err(self.log_error("create", log, number))?;
        if self.is_durable() {
            log.sync_names()
                .map_err(self.log_error("sync", log, number))?;
        }
        let segment = self.slab.segment(number);
        let end = alone.map_or(0, |bytes| SEGMENT_HEADER_BYTES + bytes);
        segment.end.store(end, Ordering::Relaxed);
        let none = Gone::none(number).bits();
        segment.gone.store(none, Ordering::Relaxed);
        segment.cursor.store(0, Ordering::Relaxed);
        segment.number.store(number.into(), Ordering::SeqCst);
        let first = Place::new(number, SEGMENT_HEADER_BYTES);
        if alone.is_some() {
            return Ok(first);
        }
        let old = self.slab.header().tail.swap(first.bits(), Ordering::AcqRel);
        if let Some(old) = Place::from_bits(old)
            && let Some(segment) = self.segment_of(old.segment())
        {
            segment.end.store(old.offset(), Ordering::Relaxed);
        }
        Ok(first)
    }

    /// A number above all that there are, whose place in the table is free. Only under the lock for growing.
    fn next_number(&self) -> Result<u32> {
        let last = &self.slab.header().last_segment;
        let highest = u32::try_from(last.load(Ordering::Acquire)).unwrap_or(u32::MAX);
        let mut numbers = (highest..u32::MAX).skip(1).take(SEGMENTS as usize);
        let free = |number: &u32| self.slab.segment(*number).number.load(Ordering::Acquire) == 0;
        let number = numbers.find(free).ok_or_else(|| self.over_limit())?;
        last.store(number.into(), Ordering::Release);
        Ok(number)
    }

    pub(crate) fn over_limit(&self) -> Error {
        Error::OverLimit {
            path: self.dir.join(LOG),
            limit: self.size_limit(),
        }
    }
}
