//! What is on the device: segments, their names, and the name of the directory that they are in.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use crate::log::open::OPEN_MAX;
use crate::log::read::sized;
use crate::log::{CHUNK_BYTES, LOG, Location, Log, RECORD_ALIGN, SEGMENT_HEADER_BYTES};
use crate::os::dir::Access;
use crate::os::kept::Kept;
use crate::os::syncs::Syncs;
use crate::os::{file, memory};
use crate::sync::{Ordering, crash_point};

/// Told of each failure, before any caller is.
pub(crate) type Note<'a> = &'a dyn Fn(&io::Error);

/// The log, as far as it is on the device.
#[derive(Clone, Copy)]
pub(crate) struct LogDevice<'l>(pub(crate) &'l Log);

impl<'l> LogDevice<'l> {
    /// Those of this process's threads, of segments by their numbers.
    pub(crate) fn syncs(self) -> &'l Syncs {
        &self.0.syncs
    }

    /// Waits until a segment, and its name, are on the device: it may have been begun when no
    /// caller asked for that.
    pub(crate) fn sync(self, number: u32, note: Note<'_>) -> io::Result<()> {
        self.sync_bytes(number, note)?;
        let is_named = self.named().contains(&number);
        match is_named {
            true => Ok(()),
            false => self.sync_name(number, note),
        }
    }

    /// Waits until the bytes of a segment are on the device, and not for its name.
    pub(crate) fn sync_bytes(self, number: u32, note: Note<'_>) -> io::Result<()> {
        self.0.syncs.sync(number, || {
            // Reading is enough for that, of a segment that this process may not write.
            let sync = |file: &Kept| {
                let file = file.proven()?;
                crash_point();
                file.sync_data().inspect_err(note).map(|()| true)
            };
            let files = &self.0.files;
            files.with_segment(number, Access::Read, sync).map(drop)
        })
    }

    /// Waits until the name of a segment is on the device.
    pub(crate) fn sync_name(self, number: u32, note: Note<'_>) -> io::Result<()> {
        self.sync_names(note)?;
        let mut named = self.named();
        if named.len() >= OPEN_MAX {
            named.clear();
        }
        named.insert(number);
        Ok(())
    }

    fn named(self) -> MutexGuard<'l, HashSet<u32>> {
        self.0.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the names of all segments are on the device; with the first, that of their
    /// directory: its maker may have died before that name was there.
    pub(crate) fn sync_names(self, note: Note<'_>) -> io::Result<()> {
        let home = self.0.files.home()?;
        home.sync(Path::new(LOG)).inspect_err(note)?;
        if !self.0.is_named.load(Ordering::Relaxed) {
            home.sync_own().inspect_err(note)?;
            self.0.is_named.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes a record over itself, and the head of its segment, so that the next sync writes them
    /// to the device. A record is never changed, so no reader is disturbed; if the record is given
    /// back in this moment, it takes its room until its segment is removed. Without `bytes`, as
    /// long as the record says itself that it is, if it has no key.
    pub(crate) fn write_once_more(self, place: Location, bytes: Option<u64>) -> io::Result<()> {
        let write = |file: &Kept| {
            let bytes = match bytes {
                Some(bytes) => bytes,
                None => sized(file.proven()?, place)?,
            };
            write_over(file, 0, SEGMENT_HEADER_BYTES)?;
            write_over(file, place.offset(), bytes.next_multiple_of(RECORD_ALIGN))?;
            Ok(true)
        };
        let files = &self.0.files;
        match files.with_segment(place.segment(), Access::Write, write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Reads bytes, and writes the same ones: as many as there are.
fn write_over(file: &Kept, from: u64, len: u64) -> io::Result<()> {
    let mut chunk = memory::filled(0, CHUNK_BYTES)?;
    let (mut at, end) = (from, from + len);
    while at < end {
        chunk.resize((end - at).min(CHUNK_BYTES as u64) as usize, 0);
        crash_point();
        let read = match file.proven()?.read_at(&mut chunk, at) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if read == 0 {
            return Ok(());
        }
        crash_point();
        file::write_all_at(file.proven()?, &chunk[..read], at)?;
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::log::record_bytes;

    /// A failed sync may have left pages clean that are not on the device: only a write makes them
    /// dirty again.
    #[test]
    fn a_record_that_is_written_once_more_is_written_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::of_one_segment(dir.path());
        let place = Location::new(1, SEGMENT_HEADER_BYTES);
        log.write(place, b"key", b"tag", &[7; 300_000]).unwrap();
        let path = log.path(1);
        let before = std::fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        for bytes in [None, Some(record_bytes(3, 3, 300_000))] {
            file.set_modified(long_ago).unwrap();
            LogDevice(&log).write_once_more(place, bytes).unwrap();
            let written = file.metadata().unwrap().modified().unwrap();
            assert_ne!(written, long_ago, "{bytes:?}");
            assert!(std::fs::read(&path).unwrap() == before);
        }
        // What is gone is not needed; what cannot be written is told.
        let elsewhere = |number| Location::new(number, SEGMENT_HEADER_BYTES);
        LogDevice(&log).write_once_more(elsewhere(2), None).unwrap();
        std::fs::create_dir(log.path(3)).unwrap();
        assert!(LogDevice(&log).write_once_more(elsewhere(3), None).is_err());
    }
}
