//! The log: files of values that are too large for the slots, one after another, never changed.
//!
//! ```text
//! segment    0        8       12       16                     32      36      48
//!            +--------+-------+--------+----------------------+-------+-------+----------
//!            | magic  |version| number |     id of the store  |CRC-32 |   0   | records ...
//!            +--------+-------+--------+----------------------+-------+-------+----------
//!
//! record     0        4       8                16      20       22   23   24
//!            +--------+-------+----------------+-------+--------+----+----+-----+-----+-------+
//!            | magic  |CRC-32 |     place      | value |  key   |tag | 0  | key | tag | value |
//!            |        |       |                |  len  |  len   |len |    |     |     |       |
//!            +--------+-------+----------------+-------+--------+----+----+-----+-----+-------+
//! ```
//!
//! Numbers are little-endian. A record begins at a multiple of 16 bytes, at which one is in its
//! place, and its checksum is over everything behind it. The slab says which room belongs to which
//! value: here are only files. The files are read and written by system calls, not mapped: then a
//! file that was cut off is an error, not a signal, and no write of another process is seen through
//! a reference.
//!
//! Here segments and records are made and removed; how files are found is in `files`, how values
//! are read in `read`, a whole segment in `walk`, and how all of it gets to the device in `device`.

pub(crate) mod device;
mod files;
mod header;
mod holes;
mod known;
mod open;
mod read;
mod record;
pub(crate) mod walk;

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use files::needs_another;
use files::{SegmentFiles, may_not_write, name_of};
pub(crate) use header::SEGMENT_HEADER_BYTES;
use header::segment_header;
pub(crate) use holes::{LARGE_BYTES, PAGE, interior};
use known::FoundWhole;
pub(crate) use read::Wanted;
use read::read_whole;
use record::Head;
pub(crate) use record::{Location, RECORD_ALIGN, record_bytes};

use crate::os::clock;
use crate::os::dir::{Access, Dir};
use crate::os::file::{self, Unfit};
use crate::os::kept::Kept;
use crate::os::syncs::Syncs;
use crate::sync::{AtomicBool, AtomicU64, Ordering, crash_point, fence};

/// The directory of the segments, in that of the store.
pub(crate) const LOG: &str = "log";
/// Values up to that length are read together with what is before them: copying them down is
/// cheaper than another system call.
const SMALL_BYTES: usize = 16 * 1024;
/// How much is read and summed up at a time, so that it is still in the processor's cache.
const CHUNK_BYTES: usize = 128 * 1024;

/// The segments of a store, as one process sees them.
pub(crate) struct Log {
    files: SegmentFiles,
    /// The file in the store's directory that has the owner, group and mode of all of the log.
    like: &'static str,
    known: FoundWhole,
    /// The name of the directory is on the device; and those of some segments.
    is_named: AtomicBool,
    named: Mutex<HashSet<u32>>,
    syncs: Syncs,
    /// The file system has said that it makes no holes.
    cannot_punch: AtomicBool,
    /// In which period of the clock a segment was last seen to have a name.
    looked_in: AtomicU64,
    /// Segments that could not be read, or removed, when they were to be compacted.
    left: Mutex<HashSet<u32>>,
}

/// What became of making a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    Yes,
    /// There is a file of that name, which this process may not write. Another number will do.
    NotWritable,
}

impl Log {
    /// The log of the store in `home`, which is or was at the path `store`. What is made in it gets
    /// owner, group and mode of the file `like` there.
    pub(crate) fn new(store: &Path, home: Arc<Dir>, like: &'static str, store_id: u128) -> Log {
        Log {
            files: SegmentFiles::new(store, home, store_id),
            like,
            known: FoundWhole::default(),
            is_named: AtomicBool::new(false),
            named: Mutex::default(),
            syncs: Syncs::default(),
            cannot_punch: AtomicBool::new(false),
            looked_in: AtomicU64::new(0),
            left: Mutex::default(),
        }
    }

    /// The log of a process that opens nothing for writing.
    pub(crate) fn reading_only(self) -> Log {
        Log {
            files: self.files.reading_only(),
            ..self
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.files.dir()
    }

    pub(crate) fn path(&self, number: u32) -> PathBuf {
        self.dir().join(name_of(number))
    }

    /// Closes what the child of a fork has inherited, and its parent continues to use.
    pub(crate) fn disown(&self) {
        self.files.disown();
    }

    /// Forgets the descriptors of segments that are not `wanted` any more.
    pub(crate) fn close(&self, wanted: impl Fn(u32) -> bool) {
        self.files.close(wanted);
    }

    /// Makes a segment, or begins one again that was made and never used. Only for the owner of its
    /// number. With an error there is no more of it than before.
    pub(crate) fn create(&self, number: u32) -> io::Result<Created> {
        let home = self.files.home()?;
        let like = home.likeness_of(Path::new(self.like))?;
        home.make_dir(Path::new(LOG), like)?;
        self.close(|other| other != number);
        let (dir, name) = (home.dir(Path::new(LOG))?, name_of(number));
        let file = match dir.create(&name, like) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                match dir.file(&name, Access::Write) {
                    Err(e) if may_not_write(&e) => return Ok(Created::NotWritable),
                    other => other?,
                }
            }
            other => other?,
        };
        self.files.refuse_anothers(&file)?;
        crash_point();
        let emptied = file.set_len(0);
        crash_point();
        let header = segment_header(number, self.files.store_id);
        let begun = emptied.and_then(|()| file::write_all_at(&file, &header, 0));
        match begun {
            Ok(()) => Ok(Created::Yes),
            Err(e) => {
                // No process knows of it, so none would remove it.
                let _ = dir.remove(&name);
                Err(e)
            }
        }
    }

    /// Writes a record into room that is the caller's alone.
    pub(crate) fn write(
        &self,
        place: Location,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
    ) -> io::Result<()> {
        let head = Head::of(place, key, tag, value).encode(key, tag, value);
        let write = |file: &Kept| write_record(file, place, &head, value).map(|()| true);
        self.files
            .with_segment(place.segment(), Access::Write, write)?;
        self.see_that_it_has_a_name(place.segment())?;
        if value.len() > SMALL_BYTES {
            self.known.note(place);
        }
        Ok(())
    }

    /// `NotFound` if a segment was removed, and has no name any more: only this process would find
    /// again what is written to it. Looked at once in some milliseconds, for it takes a system
    /// call.
    fn see_that_it_has_a_name(&self, number: u32) -> io::Result<()> {
        let now = clock::period();
        if self.looked_in.swap(now, Ordering::Relaxed) == now {
            return Ok(());
        }
        let segment = self.files.segment(number, Access::Write)?;
        match segment.file.stat() {
            Ok(stat) if stat.st_nlink == 0 => {
                self.files.forget_lost(number, &segment);
                Err(io::ErrorKind::NotFound.into())
            }
            // That the descriptor was closed meanwhile says nothing about the name.
            _ => Ok(()),
        }
    }

    /// Notes that a segment is of no use to a compactor.
    pub(crate) fn leave(&self, number: u32) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.insert(number);
    }

    pub(crate) fn is_left(&self, number: u32) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.contains(&number)
    }

    /// Gives back what it can of a record to which nothing points, nor ever will; how many bytes.
    /// Its head stays. What cannot be given back stays, too, until its segment is removed.
    pub(crate) fn punch(&self, place: Location, bytes: u64) -> u64 {
        let Some((from, to)) = interior(place, bytes) else {
            return 0;
        };
        if self.cannot_punch.load(Ordering::Relaxed) {
            return 0;
        }
        // Pairs with the fence of a reader that does not sum it up.
        fence(Ordering::SeqCst);
        let punch = |file: &Kept| file::punch(file.proven()?, from, to);
        let number = place.segment();
        match self.files.with_segment(number, Access::Write, punch) {
            Ok(true) => to - from,
            Ok(false) => {
                self.cannot_punch.store(true, Ordering::Relaxed);
                0
            }
            Err(_) => 0,
        }
    }

    /// Removes a segment that nothing points to, of whichever process. Cut off first: a process
    /// that has it open does not keep its room. With an error it is as it was; once it was cut off
    /// it is gone, also if its name stays.
    pub(crate) fn remove(&self, number: u32) -> io::Result<()> {
        let dir = match self.files.directory() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let name = name_of(number);
        match dir.file(&name, Access::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Nothing that is ours to cut off: a link, say. But its name is.
            Err(e) if Unfit::is(&e) || may_not_write(&e) => {
                self.close(|open| open != number);
                return dir.remove(&name);
            }
            file => {
                crash_point();
                file?.set_len(0)?;
            }
        }
        self.close(|open| open != number);
        // An empty file takes no room, and no segment gets its number: a repair tries again.
        let _ = dir.remove(&name);
        Ok(())
    }

    /// How long a segment is; `None`: there is none.
    pub(crate) fn len_of(&self, number: u32) -> io::Result<Option<u64>> {
        Ok(self.size_of(number)?.map(|(len, _)| len))
    }

    /// How long a segment is, and how much of the device it takes; `None`: there is none.
    pub(crate) fn size_of(&self, number: u32) -> io::Result<Option<(u64, u64)>> {
        let dir = self.files.directory();
        match dir.and_then(|dir| dir.size(&name_of(number))) {
            Ok(size) => Ok(Some(size)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a file was begun by this store as that very segment.
    pub(crate) fn is_ours(&self, number: u32) -> io::Result<bool> {
        let name = name_of(number);
        let dir = self.files.directory();
        let file = match dir.and_then(|dir| dir.file(&name, Access::Read)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            // What this process may not even look at it has not begun.
            Err(e) if Unfit::is(&e) || may_not_write(&e) => return Ok(false),
            file => file?,
        };
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        crash_point();
        let whole = read_whole(&file, &mut header, 0)?;
        Ok(whole && header == segment_header(number, self.files.store_id))
    }

    /// The numbers of all files that are named like segments.
    pub(crate) fn numbers(&self) -> io::Result<Vec<u32>> {
        let names = match self.files.home()?.names(Path::new(LOG)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let number = |name: &std::ffi::OsString| {
            let name = name.to_str().filter(|name| name.len() == 8)?;
            u32::from_str_radix(name, 16).ok()
        };
        Ok(names.iter().filter_map(number).collect())
    }
}

/// Each write follows a proof: it must not go into what is a file of the program's by now.
fn write_record(file: &Kept, place: Location, head: &[u8], value: &[u8]) -> io::Result<()> {
    let at = place.offset();
    if value.len() <= SMALL_BYTES {
        crash_point();
        return file::write_all_at(file.proven()?, &[head, value].concat(), at);
    }
    let behind = at + head.len() as u64;
    file::growing(|| {
        crash_point();
        file.proven()?.write_all_at(head, at)?;
        crash_point();
        file.proven()?.write_all_at(value, behind)
    })
}

#[cfg(test)]
impl Log {
    /// A log in an empty directory, with its first segment.
    fn of_one_segment(store: &Path) -> Log {
        let home = Arc::new(Dir::open(store).unwrap());
        std::fs::write(store.join("like"), b"").unwrap();
        let log = Log::new(store, home, "like", 7);
        assert_eq!(log.create(1).unwrap(), Created::Yes);
        log
    }
}
