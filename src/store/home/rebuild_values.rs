//! The values' part of a rebuild: what was decided is carried out, and of each value a whole cell
//! is in force. Alone with the store.

use std::path::Path;

use crate::error::{Error, Result, show_key};
use crate::log::Log;
use crate::slab::bytes::span_of;
use crate::slab::value_cells::ValueCells;
use crate::slab::{Meta, Slab, SlotId};
use crate::store::home::slab_file;
use crate::store::log::decided_list::{Flip, log_of};
use crate::store::log::{decided_list, sync};
use crate::store::names::Shard;
use crate::store::{era, in_slab, names};
use crate::sync::Ordering;

/// Before a repair, alone with a slab: carries out there what was decided, so that what comes of it
/// is mended, too. Says what it did about a journal that lists nothing.
///
/// Others of the same cache may be in use: a process with this one in a transaction is attached to
/// it.
pub(super) fn finish(slab: &Slab) -> Result<Option<String>> {
    slab.reach()?;
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
pub(super) fn list_of(slab: &Slab, log: &Log) -> Result<Option<Vec<Flip>>> {
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

/// Lets no stamp of a value be younger than the slab's era.
pub(super) fn restore_era(slab: &Slab) {
    era::restore(
        slab,
        in_slab::values(slab).filter_map(|(_, cells)| cells.use_word()),
    );
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::store::journal::decided::tests::{
        KEYS, decided, decided_by_a_dead_one, is_done, key, shard_dir,
    };
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
}
