//! Syncing: the slab, segments, all of it; and making good what a failed sync has left.

use std::io;
use std::sync::PoisonError;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::log::device::{LogDevice, Note};
use crate::log::{Location, Log};
use crate::os::file;
use crate::slab::Slab;
use crate::store::log::decided_list;
use crate::store::log::segments::Segments;
use crate::store::members::device::{
    Fresh, Known, OnDevice, failed, known_of, made_good, note_failed, note_made_good, word_of,
};
use crate::store::members::process::Process;
use crate::store::{Store, in_slab};
use crate::sync::{Ordering, crash_point};

/// The slab among the files that are synced; no segment has that number.
const SLAB_NUMBER: u32 = 0;

/// Makes all that is there dirty once more: the pages of the slab, and each record that anything
/// points to. Those that are just being written are not concerned: their writers see that a sync
/// failed meanwhile.
fn write_once_more(slab: &Slab, log: &Log) -> Result<()> {
    slab.reach()?;
    slab.dirty_pages();
    let list = Location::from_bits(slab.header().journal.load(Ordering::Acquire));
    let list = list.map(|place| (place, None));
    let values = in_slab::logged(slab).filter_map(|(found, content)| {
        let (place, bytes) = content.logged(found.meta.key_len)?;
        Some((place, Some(bytes)))
    });
    for (place, bytes) in values.chain(list) {
        match LogDevice(log).write_once_more(place, bytes) {
            // What cannot be read was on the device only, and is told when it is asked for.
            Err(e) if e.raw_os_error() == Some(Errno::EIO as i32) => {
                slab.header().damaged.fetch_add(1, Ordering::Relaxed);
            }
            other => {
                let path = log.path(place.segment());
                other.map_err(|e| Error::io("rewrite", &path, e))?;
            }
        }
    }
    Ok(())
}

/// Alone with a slab: everything is on the device. Says what was done if syncs had failed before.
pub(in crate::store) fn sync_alone(slab: &Slab) -> Result<Option<String>> {
    let word = word_of(slab);
    let has_failed = known_of(slab).is_none();
    if has_failed {
        let log = decided_list::log_of(slab)?;
        write_once_more(slab, &log)?;
        let io = |e| Error::io("sync", log.dir(), e);
        for number in log.numbers().map_err(io)? {
            let synced = LogDevice(&log).sync(number, &|e| note_failed(slab, e));
            synced.map_err(io)?;
        }
    }
    slab.sync()?;
    // Alone, so it is still that word, unless this sync failed, too; and whatever damage has made
    // of the halves.
    let both = u64::from(failed(word)) << 32 | u64::from(failed(word));
    let failed_syncs = &slab.header().failed_syncs;
    let _ = failed_syncs.compare_exchange(word, both, Ordering::AcqRel, Ordering::Relaxed);
    let done = "wrote everything to the device once more, after a sync that had failed";
    Ok(has_failed.then(|| done.to_string()))
}

/// What of a store has to be on the device, and gets there.
#[derive(Clone, Copy)]
pub(crate) struct Syncing<'s>(pub(crate) &'s Store);

impl<'s> Syncing<'s> {
    /// Waits for the device to have a value of the log, and what points to it.
    pub(crate) fn sync_place(self, place: Location, known: Known) -> Result<()> {
        // Without its segment it is damaged, and to be replaced.
        self.sync_segment(place.segment())?;
        self.sync_slab_since(known)
    }

    /// Waits until the slab is on the device, and so is what was changed since `known`.
    #[cold]
    pub(crate) fn sync_slab_since(self, known: Known) -> Result<()> {
        self.sync_slab()?;
        OnDevice(self.0).still_known(known)
    }

    /// Waits until the slab is on the device, as far as this process is told.
    pub(crate) fn sync_slab(self) -> Result<()> {
        let process = self.0.process()?;
        self.see_what_is_made_good(process)?;
        let slab = self.0.slab.file()?;
        let synced = LogDevice(&process.log).syncs().sync(SLAB_NUMBER, || {
            let fresh = process.device.fresh.lock();
            let fresh = fresh.unwrap_or_else(PoisonError::into_inner);
            crash_point();
            let file = match &fresh.slab {
                Some(fresh) => fresh.proven()?,
                None => slab,
            };
            file.sync_all()
                .inspect_err(|e| note_failed(&self.0.slab, e))
        });
        synced.map_err(|e| Error::io("sync", self.0.slab.path(), e))
    }

    /// Waits until a segment, and its name, are on the device. `false`: there is no such segment.
    pub(crate) fn sync_segment(self, number: u32) -> Result<bool> {
        self.sync_in_log(number, LogDevice::sync)
    }

    /// Waits until the bytes of a segment are on the device. `false`: there is no such segment.
    fn sync_segment_bytes(self, number: u32) -> Result<bool> {
        self.sync_in_log(number, LogDevice::sync_bytes)
    }

    /// Waits until the name of a segment is on the device.
    pub(crate) fn sync_segment_name(self, number: u32) -> Result<()> {
        self.sync_in_log(number, LogDevice::sync_name).map(drop)
    }

    fn sync_in_log(
        self,
        number: u32,
        sync: impl FnOnce(LogDevice<'s>, u32, Note<'_>) -> io::Result<()>,
    ) -> Result<bool> {
        let process = self.0.process()?;
        self.see_what_is_made_good(process)?;
        let log = &process.log;
        match sync(LogDevice(log), number, &|e| note_failed(&self.0.slab, e)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other
                .map(|()| true)
                .map_err(Segments(self.0).log_error("sync", log, number)),
        }
    }

    /// Waits until all that was set is on the device, as far as this process is told.
    pub(crate) fn sync_values(self) -> Result<()> {
        self.sync_log()?;
        self.sync_slab()
    }

    /// The log alone.
    fn sync_log(self) -> Result<()> {
        let segments = Segments(self.0).segments()?;
        for segment in &segments {
            // It may have been removed meanwhile.
            self.sync_segment_bytes(segment.number)?;
        }
        if segments.is_empty() {
            return Ok(());
        }
        let log = &self.0.process()?.log;
        let synced = LogDevice(log).sync_names(&|e| note_failed(&self.0.slab, e));
        synced.map_err(|e| Error::io("sync", log.dir(), e))
    }

    /// Waits until all that was set is on the device, and so is what was changed since `known`.
    pub(crate) fn sync_values_since(self, known: Known) -> Result<()> {
        self.sync_values()?;
        OnDevice(self.0).still_known(known)
    }

    /// Waits until everything that was set is on the device, also if a sync has failed before.
    pub(crate) fn sync_all(self) -> Result<()> {
        match OnDevice(self.0).known() {
            Ok(known) => self.sync_values_since(known),
            Err(_) => self.make_good(),
        }
    }

    /// Writes everything once more, and waits until it is on the device. Several may do it at once.
    ///
    /// Killed before the last step: nothing is made good.
    fn make_good(self) -> Result<()> {
        let process = self.0.process()?;
        let word = word_of(&self.0.slab);
        // Before anything is made dirty: what is told of it from then on is told to these.
        self.renew(process, made_good(word))?;
        write_once_more(&self.0.slab, &process.log)?;
        self.sync_values()?;
        note_made_good(&self.0.slab, failed(word));
        OnDevice(self.0).known().map(drop)
    }

    /// Renews what is synced if others have made a failure good: this process wants to hear no more
    /// of it.
    fn see_what_is_made_good(self, process: &Process) -> Result<()> {
        let now = made_good(word_of(&self.0.slab));
        let is_new = {
            let fresh = process.device.fresh.lock();
            fresh.unwrap_or_else(PoisonError::into_inner).made_good != now
        };
        match is_new {
            true => self.renew(process, now),
            false => Ok(()),
        }
    }

    /// Opens once more what is synced. An error that no caller was told of yet is told to the next
    /// one, also then.
    fn renew(self, process: &Process, made_good: u32) -> Result<()> {
        let io = |e| Error::io("open", self.0.slab.path(), e);
        let slab = file::open_with_names(self.0.slab.path());
        let (slab, identity) = slab.map_err(io)?;
        if identity.number() != self.0.slab_identity {
            let path = self.0.known_as().to_path_buf();
            return Err(Error::Replaced { path });
        }
        process.log.close(|_| false);
        let fresh = process.device.fresh.lock();
        *fresh.unwrap_or_else(PoisonError::into_inner) = Fresh {
            made_good,
            slab: Some(slab),
        };
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::home::open;
    use crate::store::settings::Settings;
    use crate::{Cache, Durability, Options};

    fn settings(options: &Options) -> &Settings {
        options.settings()
    }

    fn failure() -> io::Error {
        io::Error::from_raw_os_error(Errno::EIO as i32)
    }

    #[test]
    fn what_fails_while_all_is_made_good_is_not_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = open::open_apart(dir.path(), settings(&Options::default())).unwrap();
        let before = word_of(&store.slab);
        note_failed(&store.slab, &failure());
        let read = failed(word_of(&store.slab));
        note_failed(&store.slab, &failure());
        note_made_good(&store.slab, read);
        assert!(OnDevice(&store).is_unsynced());
        note_made_good(&store.slab, read + 1);
        assert!(!OnDevice(&store).is_unsynced());
        // The one that began earlier ends later.
        note_made_good(&store.slab, read);
        assert!(!OnDevice(&store).is_unsynced());
        assert_eq!(word_of(&store.slab), before + 2 * ((1 << 32) + 1));
        // What could not be asked for.
        for errno in [Errno::EMFILE, Errno::EBADF, Errno::ENOENT] {
            note_failed(&store.slab, &io::Error::from_raw_os_error(errno as i32));
        }
        assert!(!OnDevice(&store).is_unsynced());
    }

    /// A setter's record was written, the device failed to, and another process made good all that
    /// anything pointed to.
    #[test]
    fn what_is_being_written_while_all_else_is_made_good_is_not_claimed() {
        let dir = tempfile::tempdir().unwrap();
        let options = Cache::options().durability(Durability::PowerLoss);
        let [one, other] =
            [(); 2].map(|()| open::open_apart(dir.path(), settings(&options)).unwrap());
        let known = OnDevice(&one).known().unwrap();
        note_failed(&other.slab, &failure());
        Syncing(&other).sync_all().unwrap();
        OnDevice(&one).known().unwrap();
        assert!(matches!(
            OnDevice(&one).still_known(known),
            Err(Error::Unsynced { .. })
        ));
    }

    /// The kernel would tell it of what was made good.
    #[test]
    fn who_finds_a_failure_made_good_syncs_by_another_description() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::default();
        let [one, other] =
            [(); 2].map(|()| open::open_apart(dir.path(), settings(&options)).unwrap());
        let is_fresh = |store: &Arc<Store>| {
            let fresh = store.process().unwrap().device.fresh.lock();
            fresh.unwrap().slab.is_some()
        };
        Syncing(&one).sync_all().unwrap();
        assert!(!is_fresh(&one));
        note_failed(&other.slab, &failure());
        Syncing(&other).sync_all().unwrap();
        Syncing(&one).sync_all().unwrap();
        assert!(is_fresh(&one) && is_fresh(&other));
    }

    #[test]
    fn what_a_shard_s_device_failed_to_do_is_told_of_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let options = Cache::options().durability(Durability::PowerLoss);
        let cache = options.shards(2).open(dir.path()).unwrap();
        let shard = &cache.each()[1];
        note_failed(&shard.store.slab, &failure());
        let refused = shard.set("k", "v").unwrap_err();
        assert!(matches!(refused, Error::Unsynced { .. }));
        for error in [
            OnDevice(&shard.store).not_durable(failure_of(shard)),
            refused,
        ] {
            let (said, dir) = (error.to_string(), dir.path().display());
            assert!(said.contains(&format!("of {dir} ")), "{said}");
        }
    }

    fn failure_of(cache: &Cache) -> Error {
        Error::io("sync", cache.store.slab.path(), failure())
    }

    #[test]
    fn nothing_is_given_back_while_the_device_may_have_what_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for key in 0..4_u8 {
            cache.set(format!("{key}"), vec![key; 200_000]).unwrap();
        }
        let garbage = || Segments(&cache.store).usage().unwrap().garbage;
        assert!(cache.delete("0").unwrap());
        let before = garbage();
        assert!(before < 100_000);
        note_failed(&cache.store.slab, &failure());
        assert!(cache.delete("1").unwrap());
        assert!(garbage() > before + 200_000);
        cache.sync().unwrap();
        let before = garbage();
        assert!(cache.delete("2").unwrap());
        assert!(garbage() < before + 100_000);
        assert_eq!(cache.get("3").unwrap(), Some(vec![3; 200_000]));
    }
}
