//! The file `fanout`: how many shards there are and how keys are spread, so that two programs that
//! disagree are told, instead of excluding nothing.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `slabfan\0` |
//! | 8 | 4 | format version |
//! | 12 | 4 | shards |
//! | 16 | 16 | seed of the key hash |
//! | 32 | 4 | CRC-32 of the bytes before |
//!
//! Each shard has the same bytes in the header of its slab. A cleaner of temporary files takes what
//! is never written, as this file: then an opener makes it again, as any of the shards has it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::{SHARDS_MAX, shard_name, shard_path};
use crate::error::{Error, Result};
use crate::log::LOG;
use crate::os::dir::{names, sync_above, sync_dir};
use crate::os::file::{self, Likeness, NameSeen};
use crate::slab::header::CACHE_OFFSET;
use crate::store::members::lock_files::{self, Locks};
use crate::store::names::{FANOUT, NEW_FANOUT, Site};
use crate::store::settings::{Settings, mismatch};
use crate::store::{Store, names};
use crate::sync::{Ordering, crash_point};

const MAGIC: [u8; 8] = *b"slabfan\0";
const FORMAT_VERSION: u32 = 1;
const RECORD_BYTES: usize = 36;
/// How long to look for a record beside processes that are attached, in milliseconds. A maker has
/// made it by then: it is attached alone until it has.
const PATIENCE_MS: u32 = 2_000;

/// What the file `fanout` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) struct Record {
    pub(in crate::cache) shards: usize,
    pub(in crate::cache) seed: [u64; 2],
}

/// Why bytes are no record.
enum BadRecord {
    NoMagic,
    Version(u32),
    Damaged(&'static str),
}

impl Record {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.shards as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seed[0].to_le_bytes());
        bytes[24..32].copy_from_slice(&self.seed[1].to_le_bytes());
        let crc = crc32fast::hash(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> std::result::Result<Record, BadRecord> {
        let u32_at =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let u64_at =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        if bytes[..8] != MAGIC {
            return Err(BadRecord::NoMagic);
        }
        if u32_at(8) != FORMAT_VERSION {
            return Err(BadRecord::Version(u32_at(8)));
        }
        let shards = u32_at(12) as usize;
        if crc32fast::hash(&bytes[..32]) != u32_at(32) || !(1..=SHARDS_MAX).contains(&shards) {
            return Err(BadRecord::Damaged("it fails its checksum"));
        }
        Ok(Record {
            shards,
            seed: [u64_at(16), u64_at(24)],
        })
    }
}

/// `None`: it is not there, or not finished.
pub(in crate::cache) fn read_record(dir: &Path) -> Result<Option<Record>> {
    let path = dir.join(FANOUT);
    crash_point();
    let file = match file::open_to_read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io("read", &path, e))?,
    };
    // One byte more, to see that it is longer; never all of what may be there.
    let mut bytes = Vec::with_capacity(RECORD_BYTES + 1);
    file.take(RECORD_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", &path, e))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let decoded = match <[u8; RECORD_BYTES]>::try_from(bytes) {
        Ok(bytes) => Record::decode(&bytes),
        Err(_) => Err(BadRecord::Damaged("it has the wrong length")),
    };
    decoded.map(Some).map_err(|refusal| match refusal {
        BadRecord::NoMagic => names::not_a_store(
            dir,
            "its fanout file does not begin as one; name another directory",
        ),
        BadRecord::Version(found) => Error::Version {
            path,
            found,
            supported: FORMAT_VERSION,
        },
        BadRecord::Damaged(what) => Error::Corrupt {
            path,
            what: what.to_string(),
        },
    })
}

/// The record, from the shards if the file is gone. `None`: there are no shards that know of it.
pub(in crate::cache) fn find_record(dir: &Path) -> Result<Option<Record>> {
    match read_record(dir)? {
        Some(record) => Ok(Some(record)),
        None => Ok(record_of_shards(dir)?.map(|(record, _)| record)),
    }
}

/// The record, from the shards if the file is gone: then the opener puts it back.
pub(super) fn find_and_restore(dir: &Path) -> Result<Option<Record>> {
    if let Some(record) = read_record(dir)? {
        return Ok(Some(record));
    }
    let Some((record, like)) = record_of_shards(dir)? else {
        return Ok(None);
    };
    restore(dir, record, like)?;
    Ok(Some(record))
}

/// What the shards say, which all have to say the same; and owner, group and mode of one.
fn record_of_shards(dir: &Path) -> Result<Option<(Record, Likeness)>> {
    // A plain store may have anything beside it.
    if names::is_there(&dir.join(names::SLAB))? {
        return Ok(None);
    }
    let mut found: Option<(Record, Likeness)> = None;
    for number in 0..SHARDS_MAX {
        let path = shard_path(dir, number).join(names::SLAB);
        let Some(record) = record_in_slab(&path)?.filter(|record| number < record.shards) else {
            continue;
        };
        match &found {
            None => {
                let seen = NameSeen::at(&path).map_err(|e| Error::io("look at", &path, e))?;
                found = Some((record, seen.like));
            }
            Some((other, _)) if *other == record => {}
            Some(_) => {
                return Err(Error::Corrupt {
                    path: dir.join(FANOUT),
                    what: "it is gone, and the shards are of different caches".to_string(),
                });
            }
        }
    }
    Ok(found)
}

/// What the slab of a shard says. `None`: it is not there, or no shard's.
fn record_in_slab(path: &Path) -> Result<Option<Record>> {
    let error = |e| Error::io("read", path, e);
    crash_point();
    let slab = match file::open_to_read_with_names(path) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        other => other.map_err(error)?.0,
    };
    let mut bytes = [0; RECORD_BYTES];
    crash_point();
    match slab.unproven().read_exact_at(&mut bytes, CACHE_OFFSET) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        other => other.map_err(error).map(|()| Record::decode(&bytes).ok()),
    }
}

/// Several may do so at once: they write the same.
fn restore(dir: &Path, record: Record, like: Likeness) -> Result<()> {
    let path = dir.join(FANOUT);
    let new = dir.join(format!("{NEW_FANOUT}.{:016x}", names::random(dir)?));
    let put_back = || {
        write_record(&new, &record.encode(), like)?;
        crash_point();
        match path.exists() {
            // Kept as it is, for openers that have looked at it already.
            true => std::fs::remove_file(&new),
            false => std::fs::rename(&new, &path),
        }?;
        sync_dir(dir)
    };
    put_back().map_err(|e| {
        // On a full disk, say: what was begun is nobody's.
        let _ = std::fs::remove_file(&new);
        Error::io("write", &path, e)
    })
}

/// Lets a shard say the same as the file, unless it does.
pub(super) fn note_in_shard(store: &Store, record: Record) {
    let mut bytes = [0; 8 * 5];
    bytes[..RECORD_BYTES].copy_from_slice(&record.encode());
    let words = &store.slab().header().cache;
    for (word, bytes) in words.iter().zip(bytes.chunks_exact(8)) {
        let wanted = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        if word.load(Ordering::Relaxed) != wanted {
            // Not in one step with its neighbours: the checksum is over all of them.
            word.store(wanted, Ordering::Relaxed);
        }
    }
}

/// Makes the record, unless somebody else does so first. Written aside and renamed into place,
/// under a lock, so that nobody ever sees half of it or two of them.
pub(super) fn make_record(
    dir: &Path,
    settings: &Settings,
    wanted: Option<usize>,
) -> Result<Record> {
    let Some(shards) = wanted.filter(|_| settings.create) else {
        return Err(names::not_a_store(
            dir,
            "it has no finished fanout file; name the directory of a cache",
        ));
    };
    refuse_store_by_itself(dir, shards)?;
    refuse_strangers(dir)?;
    // A maker of a store by itself here has the same lane.
    let site = Site {
        dir: dir.to_path_buf(),
        locks: dir.to_path_buf(),
        lane: 0,
    };
    let locks = Locks::open(&site, site.likeness(settings.new_mode())?)?;
    if let Some(record) = wait_for_record(dir, &locks, shards)? {
        return Ok(record);
    }
    refuse_store_by_itself(dir, shards)?;
    let seed = [names::random(dir)?, names::random(dir)?];
    let record = Record { shards, seed };
    write_first(dir, record, Likeness::of_mode(settings.new_mode()))?;
    Ok(record)
}

/// A store that is there by itself has one shard.
fn refuse_store_by_itself(dir: &Path, shards: usize) -> Result<()> {
    match names::is_there(&dir.join(names::SLAB))? {
        true => Err(mismatch("shards", dir, 1, shards)),
        false => Ok(()),
    }
}

/// Waits until another process has made the record. `None`: this one is alone, and is to make it.
fn wait_for_record(dir: &Path, locks: &Locks, shards: usize) -> Result<Option<Record>> {
    let mut waited_ms = 0;
    loop {
        let is_alone = locks.try_attach_alone()?;
        if let Some(record) = read_record(dir)? {
            return Ok(Some(record));
        }
        if is_alone {
            return Ok(None);
        }
        refuse_store_by_itself(dir, shards)?;
        // A maker has as long as its disk takes. Processes that are only attached make no record
        // any more.
        waited_ms = match locks.is_another_alone()? {
            true => 0,
            false => waited_ms + 1,
        };
        if waited_ms >= PATIENCE_MS {
            return Err(names::not_a_store(
                dir,
                "its record and its slabs were removed, and a process that has it open lives; it begins again once that has \
                 ended",
            ));
        }
        // No wait in the kernel: the maker goes on and attaches its shards, for as long as it
        // lives.
        crash_point();
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Aside, and renamed into place; on the device before there are shards.
fn write_first(dir: &Path, record: Record, like: Likeness) -> Result<()> {
    let io = |action, path: &Path| {
        let path = path.to_path_buf();
        move |e| Error::io(action, &path, e)
    };
    let (new, path) = (dir.join(NEW_FANOUT), dir.join(FANOUT));
    write_record(&new, &record.encode(), like).map_err(io("write", &new))?;
    // An opener that finds the record takes that for done. The maker of the directory may have died
    // before.
    sync_above(dir).map_err(io("sync", dir))?;
    crash_point();
    std::fs::rename(&new, &path).map_err(io("write", &path))?;
    // Before there are shards: without the record they would be strangers.
    sync_dir(dir).map_err(io("sync", dir))
}

fn write_record(path: &Path, bytes: &[u8], like: Likeness) -> io::Result<()> {
    let file = file::open_like(path, true, like)?;
    crash_point();
    file.set_len(0)?;
    crash_point();
    file::write_all_at(&file, bytes, 0)?;
    crash_point();
    file.sync_all()
}

/// As for a plain store: a directory with other things in it does not become a cache by a slip.
fn refuse_strangers(dir: &Path) -> Result<()> {
    crash_point();
    for name in names(dir).map_err(|e| Error::io("read", dir, e))? {
        let ours = [FANOUT].into_iter().chain(lock_files::NAMES);
        let mut harmless = ours.chain(names::OTHERS_FILES);
        if !harmless.any(|known| name == known) && !is_left_over(dir, &name)? {
            crash_point();
            if dir.join(FANOUT).exists() || dir.join(names::SLAB).exists() {
                // Made since we looked for it, and with it the shards; or a store by itself, as is
                // found out then.
                return Ok(());
            }
            let why = format!(
                "it has {} in it, and no fanout file; name a new or empty directory",
                name.to_string_lossy()
            );
            return Err(names::not_a_store(dir, &why));
        }
    }
    Ok(())
}

/// Whether that is what a cleaner leaves of a cache: a record that was being written, or the
/// directory of a shard with nothing in it but, perhaps, large values. Where there is a slab in it,
/// it is no leftover.
fn is_left_over(dir: &Path, name: &OsStr) -> Result<bool> {
    let Some(name) = name.to_str() else {
        return Ok(false);
    };
    if name.starts_with(NEW_FANOUT) {
        return Ok(true);
    }
    let is_shard = (0..SHARDS_MAX).any(|number| name == shard_name(number));
    let shard = dir.join(name);
    crash_point();
    if !is_shard || !std::fs::symlink_metadata(&shard).is_ok_and(|meta| meta.is_dir()) {
        return Ok(false);
    }
    crash_point();
    let inside = names(&shard).map_err(|e| Error::io("read", &shard, e))?;
    let harmless = [LOG].into_iter().chain(names::OTHERS_FILES);
    Ok(inside
        .iter()
        .all(|name| harmless.clone().any(|known| name == known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An opener that finds no record, and lists the directory after another process made record
    /// and shards.
    #[test]
    fn shards_that_were_made_meanwhile_are_no_strangers() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("000");
        std::fs::create_dir(&shard).unwrap();
        assert!(refuse_strangers(dir.path()).is_ok(), "nothing is in it");
        std::fs::write(shard.join("slab"), b"").unwrap();
        assert!(refuse_strangers(dir.path()).is_err());
        std::fs::write(dir.path().join(FANOUT), b"").unwrap();
        assert!(refuse_strangers(dir.path()).is_ok());
    }
}
