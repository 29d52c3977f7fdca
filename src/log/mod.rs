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

pub(crate) mod medium;
mod open;
mod record;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use nix::errno::Errno;
use open::{OpenSegments, SegmentFile};
use record::{HEAD_BYTES, Head};
pub(crate) use record::{Location, RECORD_ALIGN, record_bytes};

use crate::os::dir::{Access, Dir};
use crate::os::file::{self, Unfit};
use crate::os::kept::Kept;
use crate::os::syncs::Syncs;
use crate::os::{clock, memory};
use crate::sync::{AtomicBool, AtomicU64, Ordering, crash_point, fence};

/// The directory of the segments, in that of the store.
pub(crate) const LOG: &str = "log";
/// Where the first record of a segment begins.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 48;
const SEGMENT_MAGIC: [u8; 8] = *b"slablog\0";
const FORMAT_VERSION: u32 = 1;
/// How often a segment is opened again because its descriptor was closed or replaced; beyond that,
/// other code is doing so all the time.
const ATTEMPTS: u32 = 8;
/// Values up to that length are read together with what is before them: copying them down is
/// cheaper than another system call.
const SMALL_BYTES: usize = 16 * 1024;
/// How much is read and summed up at a time, so that it is still in the processor's cache.
const CHUNK_BYTES: usize = 128 * 1024;

/// So many garbage bytes of a record are worth a system call to give them back at once; fewer stay
/// until its segment is removed.
const PUNCH_BYTES_MIN: u64 = 64 * 1024;
/// A record that long is worth it, wherever it lies.
pub(crate) const LARGE_BYTES: u64 = PUNCH_BYTES_MIN + 2 * PAGE;
/// What is given back is made of these.
pub(crate) const PAGE: u64 = 4096;

/// The segments of a store, as one process sees them.
pub(crate) struct Log {
    /// For messages; the store may have been moved since.
    dir: PathBuf,
    /// That of the store, found wherever it is moved.
    home: Mutex<Arc<Dir>>,
    /// The file in `home` that has the owner, group and mode of all of the log.
    like: &'static str,
    store_id: u128,
    open: Arc<OpenSegments>,
    /// How segments are opened, even if more is allowed.
    access: Access,
    /// Places of records that were found whole, each where its bits say.
    // Not in a frame: the thread that makes it may have a small stack.
    known: Box<[AtomicU64]>,
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

/// Whether a segment cannot be appended to, and another one perhaps can: this process may not write
/// to it, or it was removed.
pub(crate) fn needs_another(error: &io::Error) -> bool {
    may_not_write(error) || error.kind() == io::ErrorKind::NotFound
}

/// Whether the error says that this process may not write one file; it may still write others.
fn may_not_write(error: &io::Error) -> bool {
    let refusals = [Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::ETXTBSY];
    let said = error.raw_os_error();
    refusals.iter().any(|e| said == Some(*e as i32))
}

/// So many records are known at a time.
const KNOWN: usize = 256;

fn known_at(place: Location) -> usize {
    // Fibonacci hashing: places that follow one another are put into different entries.
    (place.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % KNOWN
}

/// What a reader wants: the value of that length, under that key, at that place.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) place: Location,
    pub(crate) key: &'a [u8],
    pub(crate) tag_len: usize,
    pub(crate) len: usize,
    /// A long value that this process has read whole before, or written, need not be summed up
    /// again if this says, after it was read, that it is still needed: no place is given
    /// twice, so then only damage of the file could have changed it (G4). Otherwise it may
    /// have been given back meanwhile, and is zeros.
    pub(crate) trusting: Option<&'a dyn Fn() -> bool>,
}

impl Log {
    /// The log of the store in `home`, which is or was at the path `store`. What is made in it gets
    /// owner, group and mode of the file `like` there.
    pub(crate) fn new(store: &Path, home: Arc<Dir>, like: &'static str, store_id: u128) -> Log {
        Log {
            dir: store.join(LOG),
            home: Mutex::new(home),
            like,
            store_id,
            open: Arc::default(),
            access: Access::Write,
            known: (0..KNOWN).map(|_| AtomicU64::new(0)).collect(),
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
            access: Access::Read,
            ..self
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(Log::name(number))
    }

    /// In its directory.
    fn name(number: u32) -> PathBuf {
        format!("{number:08x}").into()
    }

    /// Closes what the child of a fork has inherited, and its parent continues to use. The segments
    /// are closed by [`OpenSegments`].
    pub(crate) fn disown(&self) {
        // A thread of the parent may just have had the lock, which no thread unlocks here: then it
        // stays open.
        match self.home.try_lock() {
            Ok(home) => home.close(),
            Err(TryLockError::Poisoned(home)) => home.into_inner().close(),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// The store's directory. Opened again if its descriptor was closed or replaced, as in the
    /// child of a fork: then by its path, where it has to be that very directory.
    fn home(&self) -> io::Result<Arc<Dir>> {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if !home.is_attached() {
            let again = Dir::open(self.dir.parent().unwrap_or(&self.dir))?;
            if again.identity() != home.identity() {
                return Err(Errno::EBADF.into());
            }
            *home = Arc::new(again);
        }
        Ok(Arc::clone(&home))
    }

    /// The directory of the segments. Opened each time: any process that may write to the store's
    /// can put another one, or a link, there.
    fn directory(&self) -> io::Result<Dir> {
        self.home()?.dir(Path::new(LOG))
    }

    /// The segment, opened once.
    fn segment(&self, number: u32, access: Access) -> io::Result<Arc<SegmentFile>> {
        if let Some(segment) = self.open.get(number, access) {
            return Ok(segment);
        }
        self.open.open(number, || {
            let (dir, name) = (self.directory()?, Log::name(number));
            let opened = match dir.file(&name, self.access) {
                Err(e) if access == Access::Read && may_not_write(&e) => {
                    (dir.file(&name, Access::Read)?, Access::Read)
                }
                other => (other?, self.access),
            };
            self.refuse_anothers(&opened.0)?;
            Ok(opened)
        })
    }

    /// Does something with a segment, and believes no failure, and no "no", of a descriptor that is
    /// not that of the segment any more: then it is opened again.
    fn with_segment(
        &self,
        number: u32,
        access: Access,
        mut action: impl FnMut(&Kept) -> io::Result<bool>,
    ) -> io::Result<bool> {
        for _ in 0..ATTEMPTS {
            let segment = self.segment(number, access)?;
            let done = action(&segment.file);
            if matches!(done, Ok(true)) || segment.file.proven().is_ok() {
                return done;
            }
            self.open.forget_lost(number, &segment);
        }
        Err(Errno::EBADF.into())
    }

    /// Refuses segments of another store: one that was put in the place of ours has segments of the
    /// same names.
    fn refuse_anothers(&self, file: &File) -> io::Result<()> {
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        crash_point();
        // Without a whole header it may be any store's, also ours after a power failure.
        let store_id = match read_whole(file, &mut header, 0)? {
            true => store_id_in(&header),
            false => None,
        };
        match store_id.is_none_or(|id| id == self.store_id) {
            true => Ok(()),
            false => Err(io::Error::other("it is a segment of another store")),
        }
    }

    /// Forgets the descriptors of segments that are not `wanted` any more.
    pub(crate) fn close(&self, wanted: impl Fn(u32) -> bool) {
        self.open.close(wanted);
    }

    /// Makes a segment, or begins one again that was made and never used. Only for the owner of its
    /// number. With an error there is no more of it than before.
    pub(crate) fn create(&self, number: u32) -> io::Result<Created> {
        let home = self.home()?;
        let like = home.likeness_of(Path::new(self.like))?;
        home.make_dir(Path::new(LOG), like)?;
        self.close(|other| other != number);
        let (dir, name) = (home.dir(Path::new(LOG))?, Log::name(number));
        let file = match dir.create(&name, like) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                match dir.file(&name, Access::Write) {
                    Err(e) if may_not_write(&e) => return Ok(Created::NotWritable),
                    other => other?,
                }
            }
            other => other?,
        };
        self.refuse_anothers(&file)?;
        crash_point();
        let emptied = file.set_len(0);
        crash_point();
        let header = segment_header(number, self.store_id);
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
        self.with_segment(place.segment(), Access::Write, write)?;
        self.see_that_it_has_a_name(place.segment())?;
        if value.len() > SMALL_BYTES {
            self.know(place);
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
        let segment = self.segment(number, Access::Write)?;
        match segment.file.stat() {
            Ok(stat) if stat.st_nlink == 0 => {
                self.open.forget_lost(number, &segment);
                Err(io::ErrorKind::NotFound.into())
            }
            // That the descriptor was closed meanwhile says nothing about the name.
            _ => Ok(()),
        }
    }

    /// Puts the value, and on request its tag, into `into`. `false`: it is not there, or not whole.
    pub(crate) fn read(
        &self,
        wanted: Wanted<'_>,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> io::Result<bool> {
        let mut tag = tag;
        let read = |file: &Kept| self.read_from(file, wanted, into, tag.as_deref_mut());
        match self.with_segment(wanted.place.segment(), Access::Read, read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other,
        }
    }

    fn read_from(
        &self,
        kept: &Kept,
        wanted: Wanted<'_>,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> io::Result<bool> {
        // What is read is summed up, or the file is proved afterwards.
        let file = kept.unproven();
        let head_len = HEAD_BYTES + wanted.key.len() + wanted.tag_len;
        let at = wanted.place.offset();
        into.clear();
        if wanted.len <= SMALL_BYTES {
            memory::reserve(into, head_len + wanted.len)?;
            into.resize(head_len + wanted.len, 0);
            crash_point();
            if !read_whole(file, into, at)? {
                return Ok(false);
            }
            let (head, value) = into.split_at(head_len);
            if !is_whole(wanted, head, |crc| crc.update(value)) {
                return Ok(false);
            }
            tag.into_iter()
                .for_each(|tag| *tag = head[HEAD_BYTES + wanted.key.len()..].to_vec());
            into.drain(..head_len);
            return Ok(true);
        }
        let mut head = memory::filled(0, head_len)?;
        crash_point();
        if !read_whole(file, &mut head, at)? || !fits(wanted, &head) {
            return Ok(false);
        }
        let end = at + (head_len + wanted.len) as u64;
        // No memory for what is not there, whatever is said of it; a chunk is not worth the
        // question.
        if wanted.len > CHUNK_BYTES && len_of(kept)? < end {
            return Ok(false);
        }
        let trusting = wanted.trusting.filter(|_| self.is_known(wanted.place));
        let known = trusting.is_some();
        let mut crc = Head::checksum(&head);
        let mut from = at + head_len as u64;
        memory::reserve_exact(into, wanted.len)?;
        while into.len() < wanted.len {
            let done = into.len();
            let left = wanted.len - done;
            let chunk = if known { left } else { left.min(CHUNK_BYTES) };
            if !file::read_behind(file, into, chunk, from)? {
                return Ok(false);
            }
            if !known {
                crc.update(&into[done..]);
            }
            from += chunk as u64;
        }
        tag.into_iter()
            .for_each(|tag| *tag = head[HEAD_BYTES + wanted.key.len()..].to_vec());
        if let Some(is_needed) = trusting {
            // Pairs with the fence in `punch`: if any byte above came from after that, `is_needed`
            // finds that the record was not needed any more.
            fence(Ordering::Acquire);
            if kept.proven().is_ok() && is_needed() {
                return Ok(true);
            }
            crc.update(into);
        }
        let whole = Head::decode(&head).is_some_and(|h| h.crc == crc.finalize());
        match whole {
            true => self.know(wanted.place),
            false => self.forget(wanted.place),
        }
        Ok(whole)
    }

    /// The tag of a value without the rest: the sum would be over all of it. `None`: it is not
    /// there, or its head is damaged.
    pub(crate) fn read_tag(&self, wanted: Wanted<'_>) -> io::Result<Option<Vec<u8>>> {
        let tag_at = HEAD_BYTES + wanted.key.len();
        let mut head = memory::filled(0, tag_at + wanted.tag_len)?;
        let read = |file: &Kept| {
            crash_point();
            let there = read_whole(file.unproven(), &mut head, wanted.place.offset())?;
            // It is not summed up.
            file.proven()?;
            Ok(there && fits(wanted, &head))
        };
        match self.with_segment(wanted.place.segment(), Access::Read, read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|whole| whole.then(|| head.split_off(tag_at))),
        }
    }

    /// Whether the record at `place` was read whole, or written, by this process lately.
    fn is_known(&self, place: Location) -> bool {
        self.known[known_at(place)].load(Ordering::Relaxed) == place.bits()
    }

    fn know(&self, place: Location) {
        self.known[known_at(place)].store(place.bits(), Ordering::Relaxed);
    }

    /// Forgets a record that was whole before, and is damaged now.
    #[cold]
    fn forget(&self, place: Location) {
        let known = &self.known[known_at(place)];
        let _ = known.compare_exchange(place.bits(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Reads a record of which only the key is known, and that it has no tag. `false`: it is
    /// damaged.
    pub(crate) fn read_sized(
        &self,
        place: Location,
        key: &[u8],
        into: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut len = None;
        let read = self.with_segment(place.segment(), Access::Read, |file| {
            let mut head = [0; HEAD_BYTES];
            crash_point();
            if !read_whole(file.unproven(), &mut head, place.offset())? {
                return Ok(false);
            }
            let head = Head::decode(&head).filter(|head| head.key_len == key.len());
            // Never more than the file has, whatever is said there.
            let end = |head: &Head| place.offset() + head.value_len as u64;
            let there = len_of(file)?;
            len = head.filter(|h| there >= end(h)).map(|h| h.value_len);
            Ok(len.is_some())
        });
        let len = match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map(|_| len)?,
        };
        let Some(len) = len else {
            return Ok(false);
        };
        let wanted = Wanted {
            place,
            key,
            tag_len: 0,
            len,
            trusting: None,
        };
        self.read(wanted, into, None)
    }

    /// How long such a record says that it is; 0: there is none.
    fn sized(&self, file: &File, place: Location) -> io::Result<u64> {
        let head = head_at(file, place)?;
        Ok(head.map_or(0, |head| record_bytes(0, 0, head.value_len)))
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
        match self.with_segment(place.segment(), Access::Write, punch) {
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
        let dir = match self.directory() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let name = Log::name(number);
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
        match self
            .directory()
            .and_then(|dir| dir.size(&Log::name(number)))
        {
            Ok(size) => Ok(Some(size)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a file was begun by this store as that very segment.
    pub(crate) fn is_ours(&self, number: u32) -> io::Result<bool> {
        let name = Log::name(number);
        let file = match self
            .directory()
            .and_then(|dir| dir.file(&name, Access::Read))
        {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            // What this process may not even look at it has not begun.
            Err(e) if Unfit::is(&e) || may_not_write(&e) => return Ok(false),
            file => file?,
        };
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        crash_point();
        let whole = read_whole(&file, &mut header, 0)?;
        Ok(whole && header == segment_header(number, self.store_id))
    }

    /// The numbers of all files that are named like segments.
    pub(crate) fn numbers(&self) -> io::Result<Vec<u32>> {
        let names = match self.home()?.names(Path::new(LOG)) {
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

/// The whole pages of a record behind its head, if they are worth giving back.
pub(crate) fn interior(place: Location, bytes: u64) -> Option<(u64, u64)> {
    let from = (place.offset() + HEAD_BYTES as u64).next_multiple_of(PAGE);
    let to = (place.offset() + bytes) / PAGE * PAGE;
    (from + PUNCH_BYTES_MIN <= to).then_some((from, to))
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

/// How long a segment is that is open.
// Types of the fields differ between machines.
#[allow(clippy::unnecessary_cast)]
fn len_of(file: &Kept) -> io::Result<u64> {
    Ok(file.stat()?.st_size as u64)
}

/// `None`: what is there is no head.
fn head_at(file: &File, place: Location) -> io::Result<Option<Head>> {
    let mut head = [0; HEAD_BYTES];
    crash_point();
    let whole = read_whole(file, &mut head, place.offset())?;
    Ok(Head::decode(&head).filter(|_| whole))
}

/// `false`: the file ends before.
fn read_whole(file: &File, into: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(into, at) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

fn fits(wanted: Wanted<'_>, head: &[u8]) -> bool {
    let key = head.get(HEAD_BYTES..HEAD_BYTES + wanted.key.len());
    key == Some(wanted.key)
        && Head::decode(head).is_some_and(|h| {
            h.place == wanted.place
                && h.value_len == wanted.len
                && h.key_len == wanted.key.len()
                && h.tag_len == wanted.tag_len
        })
}

fn is_whole(wanted: Wanted<'_>, head: &[u8], rest: impl FnOnce(&mut crc32fast::Hasher)) -> bool {
    let mut crc = Head::checksum(head);
    rest(&mut crc);
    fits(wanted, head) && Head::decode(head).is_some_and(|h| h.crc == crc.finalize())
}

/// `None`: it is no whole header of a segment.
fn store_id_in(header: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Option<u128> {
    let (mut number, mut id) = ([0; 4], [0; 16]);
    number.copy_from_slice(&header[12..16]);
    id.copy_from_slice(&header[16..32]);
    let id = u128::from_le_bytes(id);
    (segment_header(u32::from_le_bytes(number), id) == *header).then_some(id)
}

fn segment_header(number: u32, store_id: u128) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..32].copy_from_slice(&store_id.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A failed sync may have left pages clean that are not on the device: only a write makes them
    /// dirty again.
    #[test]
    fn a_record_that_is_written_once_more_is_written_and_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Dir::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("like"), b"").unwrap();
        let log = Log::new(dir.path(), home, "like", 7);
        assert_eq!(log.create(1).unwrap(), Created::Yes);
        let place = Location::new(1, SEGMENT_HEADER_BYTES);
        log.write(place, b"key", b"tag", &[7; 300_000]).unwrap();
        let path = log.path(1);
        let before = std::fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        for bytes in [None, Some(record_bytes(3, 3, 300_000))] {
            file.set_modified(long_ago).unwrap();
            log.write_once_more(place, bytes).unwrap();
            let written = file.metadata().unwrap().modified().unwrap();
            assert_ne!(written, long_ago, "{bytes:?}");
            assert!(std::fs::read(&path).unwrap() == before);
        }
        // What is gone is not needed; what cannot be written is told.
        let elsewhere = |number| Location::new(number, SEGMENT_HEADER_BYTES);
        log.write_once_more(elsewhere(2), None).unwrap();
        std::fs::create_dir(log.path(3)).unwrap();
        assert!(log.write_once_more(elsewhere(3), None).is_err());
    }

    /// Wherever it lies. Its head stays, and what is before and behind it.
    #[test]
    fn whole_pages_of_a_record_are_given_back_and_nothing_else() {
        let most = LARGE_BYTES + PAGE;
        for offset in (SEGMENT_HEADER_BYTES..3 * PAGE).step_by(RECORD_ALIGN as usize) {
            for bytes in (PUNCH_BYTES_MIN..most).step_by(7 * RECORD_ALIGN as usize) {
                let (first, end) = (offset + HEAD_BYTES as u64, offset + bytes);
                let whole = (first / PAGE..=end / PAGE).map(|page| page * PAGE);
                let whole: Vec<u64> = whole.filter(|at| (first..=end).contains(at)).collect();
                let all = (whole[0], whole[whole.len() - 1]);
                let is_worth_it = all.1 - all.0 >= PUNCH_BYTES_MIN;
                let given = interior(Location::new(1, offset), bytes);
                assert_eq!(given, is_worth_it.then_some(all), "{bytes} at {offset}");
                assert!(given.is_some() || bytes < LARGE_BYTES);
            }
        }
    }

    /// The file ends long before: no process is to run out of memory over that.
    #[test]
    fn a_length_that_is_not_there_takes_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Dir::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("like"), b"").unwrap();
        let log = Log::new(dir.path(), home, "like", 7);
        assert_eq!(log.create(1).unwrap(), Created::Yes);
        let place = Location::new(1, SEGMENT_HEADER_BYTES);
        let mut head = Head::of(place, b"key", &[], &[]);
        head.value_len = 1 << 30;
        let bytes = head.encode(b"key", &[], &[]);
        let segment = log.segment(1, Access::Write).unwrap();
        let file = segment.file.proven().unwrap();
        file.write_all_at(&bytes, place.offset()).unwrap();
        let wanted = Wanted {
            place,
            key: b"key",
            tag_len: 0,
            len: head.value_len,
            trusting: Some(&|| true),
        };
        let mut into = Vec::new();
        assert!(!log.read(wanted, &mut into, None).unwrap());
        assert_eq!(into.capacity(), 0);
    }
}
