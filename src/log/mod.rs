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
//! Numbers are little-endian. A record begins at a multiple of 16 bytes, at which one is in its place, and
//! its checksum is over everything behind it. Which room is whose is the slab's to say: here are only files.
//! They are read and written by system calls, not mapped: then a file that was cut off is an error, not a
//! signal, and nobody else's writes are seen through a reference.

pub(crate) mod medium;
mod record;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use record::{HEAD_BYTES, Head};
pub(crate) use record::{Place, RECORD_ALIGN, record_bytes};

use crate::os::dir::Dir;
use crate::os::syncs::Syncs;
use crate::os::{file, memory};
use crate::sync::{AtomicBool, AtomicU64, Ordering, crash_point, fence};

/// The directory of the segments, in that of the store.
pub(crate) const LOG: &str = "log";
/// Where the first record of a segment begins.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 48;
const SEGMENT_MAGIC: [u8; 8] = *b"slablog\0";
const FORMAT_VERSION: u32 = 1;
/// How many segments a process keeps open. More are opened and closed as they are needed.
const OPEN_MAX: usize = 64;
/// Values up to that length are read together with what is before them: copying them down is cheaper than
/// another system call.
const SMALL_BYTES: usize = 16 * 1024;
/// How much is read and summed up at a time, so that it is still in the processor's cache.
const CHUNK_BYTES: usize = 128 * 1024;

/// Of a dead record that many bytes are worth a system call to give them back at once; what is less stays until its
/// segment goes.
const PUNCH_BYTES_MIN: u64 = 64 * 1024;
/// A record that long is worth it, wherever it lies.
pub(crate) const LARGE_BYTES: u64 = PUNCH_BYTES_MIN + 2 * PAGE;
/// What is given back is made of these.
pub(crate) const PAGE: u64 = 4096;

/// The segments of a store, as one process sees them.
pub(crate) struct Log {
    /// For messages; the store may have been moved since.
    dir: PathBuf,
    /// That of the store.
    home: Arc<Dir>,
    mode: u32,
    store_id: u128,
    open: Mutex<HashMap<u32, Arc<File>>>,
    /// Places of records that were found whole, each where its bits say.
    known: [AtomicU64; KNOWN],
    /// The name of the directory is on the medium; and those of some segments.
    is_named: AtomicBool,
    named: Mutex<HashSet<u32>>,
    syncs: Syncs,
    /// The file system has said that it makes no holes.
    cannot_punch: AtomicBool,
    /// Segments that could not be read, or removed, when they were to be compacted.
    left: Mutex<HashSet<u32>>,
}

/// So many records are known at a time.
const KNOWN: usize = 256;

fn known_at(place: Place) -> usize {
    // Fibonacci hashing: places that follow one another go to different ones.
    (place.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % KNOWN
}

/// What a reader wants: the value of that length, under that key, at that place.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) place: Place,
    pub(crate) key: &'a [u8],
    pub(crate) tag_len: usize,
    pub(crate) len: usize,
    /// A long value that this process has read whole before, or written, need not be summed up again if this says,
    /// after it was read, that it is still needed: no place is given twice, so then only damage of the file could
    /// have changed it (G4). Otherwise it may have been given back meanwhile, and is zeros.
    pub(crate) trusting: Option<&'a dyn Fn() -> bool>,
}

impl Log {
    pub(crate) fn new(store: &Path, home: Arc<Dir>, mode: u32, store_id: u128) -> Log {
        Log {
            dir: store.join(LOG),
            home,
            mode,
            store_id,
            open: Mutex::default(),
            known: std::array::from_fn(|_| AtomicU64::new(0)),
            is_named: AtomicBool::new(false),
            named: Mutex::default(),
            syncs: Syncs::default(),
            cannot_punch: AtomicBool::new(false),
            left: Mutex::default(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08x}"))
    }

    /// In the store's directory.
    fn name(number: u32) -> PathBuf {
        Path::new(LOG).join(format!("{number:08x}"))
    }

    /// The segment, opened once.
    fn segment(&self, number: u32) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.home.file(&Log::name(number), false, self.mode)?);
        self.refuse_anothers(&file)?;
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// Should another store have been put in the place of ours, its segments have the same names.
    fn refuse_anothers(&self, file: &File) -> io::Result<()> {
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        crash_point();
        // Without a whole header it may be anybody's, also ours after a power failure.
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
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|number, _| wanted(*number));
    }

    /// Makes a segment, or begins one anew that was made and never used. Only for who has its number.
    pub(crate) fn create(&self, number: u32) -> io::Result<()> {
        // Search permission goes with read permission.
        let mode = self.mode | (self.mode & 0o444) >> 2;
        self.home.make_dir(Path::new(LOG), mode)?;
        self.close(|other| other != number);
        let name = Log::name(number);
        let file = self.home.file(&name, true, self.mode)?;
        self.refuse_anothers(&file)?;
        crash_point();
        let emptied = file.set_len(0);
        crash_point();
        let header = segment_header(number, self.store_id);
        let begun = emptied.and_then(|()| file.write_all_at(&header, 0));
        begun.inspect_err(|_| {
            // Nobody knows of it, so nobody would remove it.
            let _ = self.home.remove(&name);
        })
    }

    /// Writes a record into room that is the caller's alone.
    pub(crate) fn write(
        &self,
        place: Place,
        key: &[u8],
        tag: &[u8],
        value: &[u8],
    ) -> io::Result<()> {
        let file = self.segment(place.segment())?;
        let head = Head::of(place, key, tag, value).encode(key, tag, value);
        if value.len() <= SMALL_BYTES {
            crash_point();
            return file.write_all_at(&[&head, value].concat(), place.offset());
        }
        crash_point();
        file.write_all_at(&head, place.offset())?;
        crash_point();
        file.write_all_at(value, place.offset() + head.len() as u64)?;
        self.know(place);
        Ok(())
    }

    /// Puts the value, and on request its tag, into `into`. `false`: it is not there, or not whole.
    pub(crate) fn read(
        &self,
        wanted: Wanted<'_>,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> io::Result<bool> {
        let file = match self.segment(wanted.place.segment()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let head_len = HEAD_BYTES + wanted.key.len() + wanted.tag_len;
        let at = wanted.place.offset();
        into.clear();
        if wanted.len <= SMALL_BYTES {
            memory::reserve(into, head_len + wanted.len)?;
            into.resize(head_len + wanted.len, 0);
            crash_point();
            if !read_whole(&file, into, at)? {
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
        if !read_whole(&file, &mut head, at)? || !fits(wanted, &head) {
            return Ok(false);
        }
        let end = at + (head_len + wanted.len) as u64;
        // No memory for what is not there, whatever is said of it; a chunk is not worth the question.
        if wanted.len > CHUNK_BYTES {
            crash_point();
            if file.metadata()?.len() < end {
                return Ok(false);
            }
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
            if !file::read_behind(&file, into, chunk, from)? {
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
            // Pairs with the fence of who gives it back: if any byte above came from after that, what is read in
            // there says that it was not needed any more.
            fence(Ordering::Acquire);
            if is_needed() {
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

    /// The tag of a value without the rest, whose sum would be over all of it. `None`: it is not there, or its head is
    /// damaged.
    pub(crate) fn read_tag(&self, wanted: Wanted<'_>) -> io::Result<Option<Vec<u8>>> {
        let file = match self.segment(wanted.place.segment()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let tag_at = HEAD_BYTES + wanted.key.len();
        let mut head = memory::filled(0, tag_at + wanted.tag_len)?;
        crash_point();
        let whole = read_whole(&file, &mut head, wanted.place.offset())? && fits(wanted, &head);
        Ok(whole.then(|| head.split_off(tag_at)))
    }

    /// Whether the record at `place` was read whole, or written, by this process lately.
    fn is_known(&self, place: Place) -> bool {
        self.known[known_at(place)].load(Ordering::Relaxed) == place.bits()
    }

    fn know(&self, place: Place) {
        self.known[known_at(place)].store(place.bits(), Ordering::Relaxed);
    }

    /// What is damaged was whole before.
    #[cold]
    fn forget(&self, place: Place) {
        let known = &self.known[known_at(place)];
        let _ = known.compare_exchange(place.bits(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The same for a record of which only the key is known, and that it has no tag.
    pub(crate) fn read_sized(
        &self,
        place: Place,
        key: &[u8],
        into: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let file = match self.segment(place.segment()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let Some(head) = head_at(&file, place)? else {
            return Ok(false);
        };
        crash_point();
        // Never more than the file has, whatever is said there.
        let end = place.offset() + head.value_len as u64;
        if head.key_len != key.len() || file.metadata()?.len() < end {
            return Ok(false);
        }
        let wanted = Wanted {
            place,
            key,
            tag_len: 0,
            len: head.value_len,
            trusting: None,
        };
        self.read(wanted, into, None)
    }

    /// How long such a record says that it is; 0: there is none.
    fn sized(&self, file: &File, place: Place) -> io::Result<u64> {
        let head = head_at(file, place)?;
        Ok(head.map_or(0, |head| record_bytes(0, 0, head.value_len)))
    }

    /// Notes that a segment is of no use to who compacts.
    pub(crate) fn leave(&self, number: u32) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.insert(number);
    }

    pub(crate) fn is_left(&self, number: u32) -> bool {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.contains(&number)
    }

    /// Gives back what it can of a record to which nothing leads, nor ever will; how many bytes. Its head stays. What
    /// cannot be given back stays, too, until its segment goes.
    pub(crate) fn punch(&self, place: Place, bytes: u64) -> u64 {
        let Some((from, to)) = interior(place, bytes) else {
            return 0;
        };
        if self.cannot_punch.load(Ordering::Relaxed) {
            return 0;
        }
        // Pairs with the fence of who reads it without its sum.
        fence(Ordering::SeqCst);
        let file = self.segment(place.segment());
        match file.and_then(|file| file::punch(&file, from, to)) {
            Ok(true) => to - from,
            Ok(false) => {
                self.cannot_punch.store(true, Ordering::Relaxed);
                0
            }
            Err(_) => 0,
        }
    }

    /// Removes a segment that nothing leads to, whosever it was. Cut off first: whoever has it open does not keep
    /// its room. With an error it is as it was; once it was cut off it is gone, also if its name stays.
    pub(crate) fn remove(&self, number: u32) -> io::Result<()> {
        match self.home.file(&Log::name(number), false, self.mode) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => {
                crash_point();
                file?.set_len(0)?;
            }
        }
        self.close(|open| open != number);
        // An empty file takes no room, and nobody gets its number: a repair tries again.
        let _ = self.home.remove(&Log::name(number));
        Ok(())
    }

    /// How long a segment is; `None`: there is none.
    pub(crate) fn len_of(&self, number: u32) -> io::Result<Option<u64>> {
        Ok(self.size_of(number)?.map(|(len, _)| len))
    }

    /// The same, and how much of the device it takes.
    pub(crate) fn size_of(&self, number: u32) -> io::Result<Option<(u64, u64)>> {
        match self.home.size(&Log::name(number)) {
            Ok(size) => Ok(Some(size)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a file was begun by this store as that very segment.
    pub(crate) fn is_ours(&self, number: u32) -> io::Result<bool> {
        let file = match self.home.file(&Log::name(number), false, self.mode) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        crash_point();
        let whole = read_whole(&file, &mut header, 0)?;
        Ok(whole && header == segment_header(number, self.store_id))
    }

    /// The numbers of all files that are named like segments.
    pub(crate) fn numbers(&self) -> io::Result<Vec<u32>> {
        crash_point();
        let entries = match std::fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().filter(|name| name.len() == 8);
            numbers.extend(number.and_then(|n| u32::from_str_radix(n, 16).ok()));
        }
        Ok(numbers)
    }
}

/// The whole pages of a record behind its head, if they are worth giving back.
pub(crate) fn interior(place: Place, bytes: u64) -> Option<(u64, u64)> {
    let from = (place.offset() + HEAD_BYTES as u64).next_multiple_of(PAGE);
    let to = (place.offset() + bytes) / PAGE * PAGE;
    (from + PUNCH_BYTES_MIN <= to).then_some((from, to))
}

/// `None`: what is there is no head.
fn head_at(file: &File, place: Place) -> io::Result<Option<Head>> {
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

    /// The file ends long before: nobody is to run out of memory over that.
    #[test]
    fn a_length_that_is_not_there_takes_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Dir::open(dir.path()).unwrap());
        let log = Log::new(dir.path(), home, 0o600, 7);
        log.create(1).unwrap();
        let place = Place::new(1, SEGMENT_HEADER_BYTES);
        let mut head = Head::of(place, b"key", &[], &[]);
        head.value_len = 1 << 30;
        let bytes = head.encode(b"key", &[], &[]);
        let file = log.segment(1).unwrap();
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
