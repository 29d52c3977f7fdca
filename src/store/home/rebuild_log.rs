//! The log's part of a rebuild: a table in which each segment is known with what is still needed of
//! it. Alone with the store.

use std::collections::HashMap;
use std::io;

use crate::error::{Error, Result, show_key};
use crate::log::{Location as LogPlace, Log, RECORD_ALIGN, SEGMENT_HEADER_BYTES};
use crate::slab::layout::SEGMENTS;
use crate::slab::value_cells::{Content, Form};
use crate::slab::{Lost, Slab};
use crate::store::home::rebuild_values::list_of;
use crate::store::in_slab::{key_of, logged, values, wanted};
use crate::store::key_entry::KeyEntry;
use crate::store::log::decided_list::{self, log_of};
use crate::sync::Ordering;

/// Makes the table of segments again from the files and from what points to them; removes files to
/// which nothing points. With `thorough`, reads every value and drops those that are damaged.
/// Returns what it did.
pub(super) fn adopt_log(slab: &Slab, thorough: bool) -> Result<Vec<String>> {
    let mut adoption = LogAdoption {
        slab,
        log: log_of(slab)?,
        live: HashMap::new(),
    };
    let actions = adoption.count_in_force(thorough)?;
    adoption.count_decided();
    adoption.count_prepared();
    clear_table(slab);
    adoption.adopt_segments(thorough)?;
    Ok(actions)
}

/// A log that is being adopted: the files, and what points to them.
struct LogAdoption<'a> {
    slab: &'a Slab,
    log: Log,
    /// By the number of the segment, how many bytes of it are needed.
    live: HashMap<u32, u64>,
}

impl LogAdoption<'_> {
    fn count(&mut self, found: KeyEntry, content: &Content) {
        if let Some((place, bytes)) = content.logged(found.meta.key_len) {
            *self.live.entry(place.segment()).or_default() += bytes;
        }
    }

    /// Counts the values in force. With `thorough`, reads each of them, drops those that are
    /// damaged, and returns which.
    fn count_in_force(&mut self, thorough: bool) -> Result<Vec<String>> {
        let mut actions = Vec::new();
        for (found, content) in logged(self.slab) {
            if thorough && !is_whole(self.slab, &self.log, found, &content)? {
                let key = key_of(self.slab, found).unwrap_or_default();
                drop_value(self.slab, found);
                actions.push(format!(
                    "dropped the value of {}, which was damaged",
                    show_key(&key)
                ));
                continue;
            }
            self.count(found, &content);
        }
        Ok(actions)
    }

    /// Decided and not carried out: the first process to see it flips to what is prepared, and
    /// counts the list as garbage.
    fn count_decided(&mut self) {
        let journal = &self.slab.header().journal;
        let Some(list) = LogPlace::from_bits(journal.load(Ordering::Relaxed)) else {
            return;
        };
        let live = &mut self.live;
        match list_of(self.slab, &self.log) {
            Ok(None) => journal.store(0, Ordering::Relaxed),
            Ok(Some(flips)) => {
                *live.entry(list.segment()).or_default() += decided_list::list_bytes(flips.len());
            }
            // Told when values are used; locks are not concerned.
            Err(_) => drop(live.entry(list.segment()).or_default()),
        }
    }

    fn count_prepared(&mut self) {
        for (found, content) in prepared(self.slab) {
            self.count(found, &content);
        }
    }

    /// Describes each file to which something points, removes the others, and notes the last number
    /// that was given out.
    fn adopt_segments(&self, thorough: bool) -> Result<()> {
        let header = self.slab.header();
        // A repair finds out again: the word may be what was damaged, and too high is the end of
        // all numbers.
        let mut last = match thorough {
            true => 0,
            false => header.last_segment.load(Ordering::Relaxed),
        };
        for number in self.log.numbers().map_err(|e| self.unread(e))? {
            if let Some(live) = self.live.get(&number) {
                self.describe(number, *live)?;
                continue;
            }
            // One that only has such a name would use up the numbers below it.
            if self.log.is_ours(number).map_err(|e| self.unread(e))? {
                last = last.max(number.into());
            }
            self.log
                .remove(number)
                .map_err(|e| Error::io("remove", &self.log.path(number), e))?;
        }
        // Also above what only slots know of: a place is never given twice.
        let named = self.live.keys().copied().max().unwrap_or(0);
        header
            .last_segment
            .store(last.max(named.into()), Ordering::Relaxed);
        Ok(())
    }

    /// Enters a segment into the table, of which so many bytes are needed.
    fn describe(&self, number: u32, live: u64) -> Result<()> {
        let size = self.log.size_of(number).map_err(|e| self.unread(e))?;
        let (len, there) = size.unwrap_or((0, 0));
        // The last record takes room up to there, although nothing was written behind it.
        let len = len.next_multiple_of(RECORD_ALIGN);
        let segment = self.slab.segment(number);
        let garbage = len.saturating_sub(SEGMENT_HEADER_BYTES + live);
        let end = LogPlace::new(number, len.next_multiple_of(RECORD_ALIGN));
        segment.end.store(end.bits(), Ordering::Relaxed);
        // What is not on the device is garbage, however it came to that.
        let given = len.saturating_sub(there).min(garbage);
        let lost = Lost::none(number);
        let lost = lost.and(garbage, given).unwrap_or(lost.bits());
        segment.lost.store(lost, Ordering::Relaxed);
        segment.cursor.store(0, Ordering::Relaxed);
        segment.number.store(number.into(), Ordering::Release);
        Ok(())
    }

    fn unread(&self, e: io::Error) -> Error {
        Error::io("read", self.log.dir(), e)
    }
}

fn clear_table(slab: &Slab) {
    slab.header().tail.store(0, Ordering::Relaxed);
    for at in 0..SEGMENTS {
        let segment = slab.segment(at);
        // Numbers may be given once more: nothing may be known of them.
        for word in [&segment.number, &segment.end, &segment.lost] {
            word.store(0, Ordering::Relaxed);
        }
    }
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
    use crate::store::journal::decided::tests::{KEYS, decided_by_a_dead_one, is_done};
    use crate::store::log::decided_list::list_bytes;
    use crate::store::log::segments::Segments;
    use crate::{Cache, FanoutCache};

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
        assert_eq!(segment.garbage + SEGMENT_HEADER_BYTES, segment.bytes);
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
