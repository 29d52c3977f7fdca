//! The values' part of a rebuild: whole cells in force, and a log in which each segment is known with what is
//! still needed of it. Alone with the store.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result, show_key};
use crate::log::{Log, Place as LogPlace, RECORD_ALIGN, SEGMENT_HEADER_BYTES, Wanted};
use crate::os::dir::Dir;
use crate::slab::layout::SEGMENTS;
use crate::slab::{Gone, Growing, Meta, Slab, SlotId};
use crate::store::index::{Found, Place, read_bytes, span_of};
use crate::store::open;
use crate::store::transact;
use crate::store::value::{Content, Form, ValueCells};
use crate::sync::Ordering;
use crate::types::Kind;

/// Puts a whole cell of a value in force, and says what it did about one that was not.
pub(super) fn mend_value(slab: &Slab, id: SlotId, meta: Meta, key: &[u8]) -> Option<String> {
    let cells = ValueCells::within(slab, id, span_of(slab, id), meta.key_len)?;
    if cells.read(&mut ()).is_ok() {
        return None;
    }
    let shown = show_key(key);
    Some(match cells.restore() {
        true => format!("set the value of {shown} back to what it was before the last change"),
        false => {
            cells.reset(meta.generation);
            format!("dropped the value of {shown}, of which no cell was whole")
        }
    })
}

/// Makes the table of segments anew from the files and from what leads there; removes files to which nothing
/// leads. With `thorough`, reads every value and drops those that are damaged. Returns what it did.
pub(super) fn adopt_log(slab: &Slab, thorough: bool) -> Result<Vec<String>> {
    let log = log_of(slab)?;
    let io = |action| {
        let path = log.dir().to_path_buf();
        move |e| Error::io(action, &path, e)
    };
    let mut actions = Vec::new();
    let mut live: HashMap<u32, u64> = HashMap::new();
    for (found, content) in logged(slab) {
        let Some((place, bytes)) = content.logged(found.meta.key_len) else {
            continue;
        };
        if thorough && !is_whole(slab, &log, found, &content)? {
            let key = key_of(slab, found).unwrap_or_default();
            drop_value(slab, found);
            actions.push(format!(
                "dropped the value of {}, which was damaged",
                show_key(&key)
            ));
            continue;
        }
        *live.entry(place.segment()).or_default() += bytes;
    }
    let header = slab.header();
    // Decided and not carried out: whoever comes first flips to what is prepared, and counts the list as dead.
    if let Some(list) = LogPlace::from_bits(header.journal.load(Ordering::Relaxed)) {
        match transact::list_of(slab) {
            Ok(None) => header.journal.store(0, Ordering::Relaxed),
            Ok(Some(flips)) => {
                *live.entry(list.segment()).or_default() += transact::list_bytes(flips.len());
            }
            // Told when values are used; locks are not concerned.
            Err(_) => drop(live.entry(list.segment()).or_default()),
        }
    }
    for (found, content) in prepared(slab) {
        if let Some((place, bytes)) = content.logged(found.meta.key_len) {
            *live.entry(place.segment()).or_default() += bytes;
        }
    }
    header.tail.store(0, Ordering::Relaxed);
    for at in 0..SEGMENTS {
        slab.segment(at).number.store(0, Ordering::Relaxed);
    }
    // A repair finds out anew: the word may be what was damaged, and too high is the end of all numbers.
    let mut last = match thorough {
        true => 0,
        false => header.last_segment.load(Ordering::Relaxed),
    };
    for number in log.numbers().map_err(io("read"))? {
        let Some(live) = live.get(&number) else {
            // One that only has such a name would use up the numbers below it.
            if log.is_ours(number).map_err(io("read"))? {
                last = last.max(number.into());
            }
            log.remove(number).map_err(io("remove a segment of"))?;
            continue;
        };
        let (len, there) = log.size_of(number).map_err(io("read"))?.unwrap_or((0, 0));
        // The last record takes room up to there, although nothing was written behind it.
        let len = len.next_multiple_of(RECORD_ALIGN);
        let segment = slab.segment(number);
        let dead = len.saturating_sub(SEGMENT_HEADER_BYTES + live);
        segment.end.store(len, Ordering::Relaxed);
        // What is not on the device is some dead record's, however it came to that.
        let given = len.saturating_sub(there).min(dead);
        let gone = Gone::none(number);
        let gone = gone.and(dead, given).unwrap_or(gone.bits());
        segment.gone.store(gone, Ordering::Relaxed);
        segment.cursor.store(0, Ordering::Relaxed);
        segment.number.store(number.into(), Ordering::Release);
    }
    // Also above what only slots know of: a place is never given twice.
    let named = live.keys().copied().max().unwrap_or(0);
    header
        .last_segment
        .store(last.max(named.into()), Ordering::Relaxed);
    Ok(actions)
}

/// The log of a slab, to be read or cleared up: nothing is made, so the mode does not matter.
pub(super) fn log_of(slab: &Slab) -> Result<Log> {
    let store = open::parent(slab.path());
    let home = Dir::open(&store).map_err(|e| Error::io("open", &store, e))?;
    Ok(Log::new(&store, Arc::new(home), 0o600, slab.part().id))
}

/// What is in idle cells and may be in force next, of values with a cell in the log.
fn prepared(slab: &Slab) -> impl Iterator<Item = (Found, Content)> {
    values(slab).filter_map(|(found, cells)| {
        let content = cells.idle()?;
        matches!(content.form, Form::Logged { .. }).then_some((found, content))
    })
}

/// All values that lie in the log.
fn logged(slab: &Slab) -> impl Iterator<Item = (Found, Content)> {
    values(slab).filter_map(|(found, cells)| {
        let content = cells.read(&mut ()).ok()?.content;
        matches!(content.form, Form::Logged { .. }).then_some((found, content))
    })
}

fn values(slab: &Slab) -> impl Iterator<Item = (Found, ValueCells<'_>)> {
    let slots = (0..slab.allocated(Growing::Slots)).map_while(|at| slab.slot_id(at));
    slots.filter_map(move |id| {
        let meta = slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Kind::Value)?;
        let found = Found { id, meta, kind };
        Some((found, ValueCells::of(slab, found)?))
    })
}

fn key_of(slab: &Slab, found: Found) -> Option<Vec<u8>> {
    let place = Place::of(found.kind, found.meta.key_len, 0);
    read_bytes(slab, found.id, place.key_at, found.meta.key_len)
}

fn is_whole(slab: &Slab, log: &Log, found: Found, content: &Content) -> Result<bool> {
    let (Some(key), Form::Logged { place, len, .. }) = (key_of(slab, found), content.form) else {
        return Ok(false);
    };
    let wanted = Wanted {
        place,
        key: &key,
        tag_len: content.tag_len,
        len,
        trusting: None,
    };
    log.read(wanted, &mut Vec::new(), None)
        .map_err(|e| Error::io("read", &log.path(place.segment()), e))
}

fn drop_value(slab: &Slab, found: Found) {
    if let Some(cells) = ValueCells::of(slab, found) {
        cells.write(Content::ABSENT, &[], &[]);
    }
}
