//! The values' part of a rebuild: whole cells in force, and a log in which each segment is known
//! with what is still needed of it. Alone with the store.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result, show_key};
use crate::log::{Location as LogPlace, Log, RECORD_ALIGN, SEGMENT_HEADER_BYTES};
use crate::slab::bytes::span_of;
use crate::slab::layout::SEGMENTS;
use crate::slab::value_cells::{Content, Form, ValueCells};
use crate::slab::{Gone, Meta, Slab, SlotId};
use crate::store::home::slab_file;
use crate::store::in_slab::{key_of, logged, values, wanted};
use crate::store::key_entry::KeyEntry;
use crate::store::log::decided_list::{Flip, log_of};
use crate::store::log::{decided_list, sync};
use crate::store::names;
use crate::store::names::Shard;
use crate::sync::Ordering;

/// Before a repair, alone with a slab: carries out there what was decided, so that what comes of it
/// is mended, too. Says what it did about a journal that lists nothing.
///
/// Others of the same cache may be in use: a process with this one in a transaction is attached to
/// it.
pub(in crate::store) fn finish(slab: &Slab) -> Result<Option<String>> {
    let shard = Shard::at(&names::parent(slab.path()))?.filter(|shard| shard.number != 0);
    let Some(shard) = shard else {
        return finish_at_home(slab);
    };
    let decided = decided_in(&shard.sibling(0))?;
    for flip in decided
        .iter()
        .filter(|flip| flip.shard == u32::from(shard.number))
    {
        flip.carry_out(slab);
    }
    Ok(None)
}

/// Carries out what is decided in the slab that has the journal. The journal stays if other shards
/// have something of it to carry out, wherever they are.
fn finish_at_home(slab: &Slab) -> Result<Option<String>> {
    let journal = &slab.header().journal;
    let bits = journal.load(Ordering::Acquire);
    if bits == 0 {
        return Ok(None);
    }
    let Some(flips) = list_of(slab, &log_of(slab)?)? else {
        journal.store(0, Ordering::Release);
        return Ok(Some("emptied the journal, which led nowhere".to_string()));
    };
    let mut others = 0;
    for flip in &flips {
        match flip.shard {
            0 => flip.carry_out(slab),
            _ => others += 1,
        }
    }
    if others > 0 {
        return Ok(None);
    }
    // Only when the device has the flips: it writes pages in any order.
    let done = sync::sync_alone(slab)?;
    journal.store(0, Ordering::Release);
    Ok(done)
}

/// What the journal of a slab lists, whatever process uses the slab. `None`: no whole list.
fn list_of(slab: &Slab, log: &Log) -> Result<Option<Vec<Flip>>> {
    let bits = slab.header().journal.load(Ordering::Acquire);
    decided_list::read_list(log, bits)
        .map_err(|e| Error::io("read", &log.path((bits >> 32) as u32), e))
}

/// What was decided in another shard's journal.
fn decided_in(home: &Path) -> Result<Vec<Flip>> {
    let decided = match slab_file::map_unchecked(home) {
        Ok(None) => None,
        Ok(Some(slab)) => list_of(&slab, &log_of(&slab)?)?,
        // It cannot be repaired either: nobody will ever know.
        Err(Error::Corrupt { .. } | Error::Version { .. } | Error::NotAStore { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(decided.unwrap_or_default())
}

/// Puts a whole cell of a value in force, and says what it did about one that was not.
pub(in crate::store) fn mend_value(
    slab: &Slab,
    id: SlotId,
    meta: Meta,
    key: &[u8],
) -> Option<String> {
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

/// Makes the table of segments again from the files and from what points to them; removes files to
/// which nothing points. With `thorough`, reads every value and drops those that are damaged.
/// Returns what it did.
pub(in crate::store) fn adopt_log(slab: &Slab, thorough: bool) -> Result<Vec<String>> {
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
    // Decided and not carried out: the first process to see it flips to what is prepared, and
    // counts the list as garbage.
    if let Some(list) = LogPlace::from_bits(header.journal.load(Ordering::Relaxed)) {
        match list_of(slab, &log) {
            Ok(None) => header.journal.store(0, Ordering::Relaxed),
            Ok(Some(flips)) => {
                *live.entry(list.segment()).or_default() += decided_list::list_bytes(flips.len());
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
        let segment = slab.segment(at);
        // Numbers may be given once more: nothing may be known of them.
        for word in [&segment.number, &segment.end, &segment.gone] {
            word.store(0, Ordering::Relaxed);
        }
    }
    // A repair finds out again: the word may be what was damaged, and too high is the end of all
    // numbers.
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
            let path = log.path(number);
            log.remove(number)
                .map_err(|e| Error::io("remove", &path, e))?;
            continue;
        };
        let (len, there) = log.size_of(number).map_err(io("read"))?.unwrap_or((0, 0));
        // The last record takes room up to there, although nothing was written behind it.
        let len = len.next_multiple_of(RECORD_ALIGN);
        let segment = slab.segment(number);
        let dead = len.saturating_sub(SEGMENT_HEADER_BYTES + live);
        let end = LogPlace::new(number, len.next_multiple_of(RECORD_ALIGN));
        segment.end.store(end.bits(), Ordering::Relaxed);
        // What is not on the device is garbage, however it came to that.
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

/// What is in idle cells and may be in force next, of values with a cell in the log.
fn prepared(slab: &Slab) -> impl Iterator<Item = (KeyEntry, Content)> {
    values(slab).filter_map(|(found, cells)| {
        let content = cells.idle()?;
        matches!(content.form, Form::Logged { .. }).then_some((found, content))
    })
}

fn is_whole(slab: &Slab, log: &Log, found: KeyEntry, content: &Content) -> Result<bool> {
    let Some(key) = key_of(slab, found) else {
        return Ok(false);
    };
    let Some(wanted) = wanted(&key, content) else {
        return Ok(false);
    };
    log.read(wanted, &mut Vec::new(), None)
        .map_err(|e| Error::io("read", &log.path(wanted.place.segment()), e))
}

fn drop_value(slab: &Slab, found: KeyEntry) {
    if let Some(cells) = found.cells(slab) {
        cells.write(Content::ABSENT, &[], &[]);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::fs::FileExt;

    use crate::log::SEGMENT_HEADER_BYTES;
    use crate::store::Store;
    use crate::store::journal::decided::tests::{
        KEYS, decided, decided_by_a_dead_one, is_done, key, shard_dir,
    };
    use crate::store::log::decided_list::list_bytes;
    use crate::store::log::segments::Segments;
    use crate::{Cache, FanoutCache};

    /// A repair carries out what was decided before it looks at what is in force.
    #[test]
    fn what_was_decided_above_a_damaged_value_survives_a_repair() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path();
        let cache = Cache::open(shard).unwrap();
        for number in KEYS {
            cache.set(key(number), [7; 1_000]).unwrap();
        }
        drop(cache);
        let segment = shard.join("log/00000001");
        let whole = std::fs::read(&segment).unwrap();
        decided_by_a_dead_one(dir.path(), 1);
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[64..whole.len()].fill(0);
        std::fs::write(&segment, bytes).unwrap();
        let report = Cache::repair(shard).unwrap();
        assert!(report.actions.is_empty(), "{report:?}");
        is_done(&FanoutCache::open(dir.path(), 1).unwrap());
    }

    /// One repair finds the damage, also of what nobody has seen yet.
    #[test]
    fn what_was_decided_and_is_damaged_takes_one_repair() {
        let dir = tempfile::tempdir().unwrap();
        for shards in [1, 3] {
            let dir = dir.path().join(format!("{shards}"));
            decided(&dir, shards, &[7; 1_000]);
            for shard in 0..shards {
                let segment = shard_dir(&dir, shards, shard).join("log/00000001");
                let mut bytes = std::fs::read(&segment).unwrap();
                // The first record there is some value's.
                bytes[500] ^= 1;
                std::fs::write(&segment, bytes).unwrap();
            }
            let report = Cache::repair(&dir).unwrap();
            assert_eq!(report.actions.len(), shards, "{report:?}");
            let cache = FanoutCache::open(&dir, shards).unwrap();
            let check = cache.check().unwrap();
            assert!(check.is_sound(), "{check:?}");
            let there = KEYS.filter(|number| cache.get(key(*number)).unwrap().is_some());
            assert_eq!(there.count(), KEYS.len() - shards);
            let check = cache.check().unwrap();
            assert!(check.is_sound(), "{check:?}");
            drop(cache);
            let report = Cache::repair(&dir).unwrap();
            assert!(report.actions.is_empty(), "{report:?}");
        }
    }

    /// Beside others that are in use, and have not seen yet what was decided.
    #[test]
    fn a_shard_that_is_repaired_by_itself_has_what_was_decided() {
        let dir = tempfile::tempdir().unwrap();
        decided(dir.path(), 3, &[7; 1_000]);
        let last = dir.path().join("002");
        let segment = last.join("log/00000001");
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[500] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        let first = Cache::open(dir.path().join("000")).unwrap();
        let report = Cache::repair(&last).unwrap();
        assert_eq!(report.actions.len(), 1, "{report:?}");
        let report = Cache::repair(&last).unwrap();
        assert!(report.actions.is_empty(), "{report:?}");
        assert_eq!(first.get("something").unwrap(), None);
        drop(first);
        let cache = FanoutCache::open(dir.path(), 3).unwrap();
        let there = KEYS.filter(|number| cache.get(key(*number)).unwrap().is_some());
        assert_eq!(there.count(), KEYS.len() - 1);
        let check = cache.check().unwrap();
        assert!(check.is_sound(), "{check:?}");
    }

    /// As after a reboot, when everything is counted again.
    #[test]
    fn a_list_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 1);
        let slab = dir.path().join("slab");
        let slab = std::fs::File::options().write(true).open(slab).unwrap();
        slab.write_all_at(&[7; 16], 328).unwrap();
        let cache = FanoutCache::open(dir.path(), 1).unwrap();
        let store = &cache.each()[0].store;
        let live = |store: &Store| Segments(store).segments().unwrap()[0].live();
        assert_eq!(live(store), list_bytes(KEYS.len()));
        is_done(&cache);
        let segment = Segments(store).segments().unwrap()[0];
        assert_eq!(segment.dead + SEGMENT_HEADER_BYTES, segment.bytes);
    }

    /// The highest number: nobody could begin a segment any more.
    #[test]
    fn a_journal_that_leads_nowhere_does_not_end_the_log() {
        for thorough in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            drop(Cache::open(dir.path()).unwrap());
            let slab = dir.path().join("slab");
            let slab = std::fs::File::options().write(true).open(slab).unwrap();
            slab.write_all_at(&[0xff; 8], 280).unwrap();
            match thorough {
                true => {
                    let report = Cache::repair(dir.path()).unwrap();
                    assert_eq!(report.actions.len(), 1, "{report:?}");
                }
                false => slab.write_all_at(&[7; 16], 328).unwrap(),
            }
            let cache = Cache::open(dir.path()).unwrap();
            cache.set("key", [7; 1_000]).unwrap();
            assert_eq!(cache.get("key").unwrap(), Some(vec![7; 1_000]));
        }
    }
}
