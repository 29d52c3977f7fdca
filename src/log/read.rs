//! Reading values: a short one in one piece with its head, a long one behind its head and chunk by
//! chunk, each summed up, unless it was found whole before and is needed still.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crc32fast::Hasher;

use crate::log::known::FoundWhole;
use crate::log::record::{HEAD_BYTES, Head, Location, record_bytes};
use crate::log::{CHUNK_BYTES, Log, SMALL_BYTES};
use crate::os::dir::Access;
use crate::os::kept::Kept;
use crate::os::{file, memory};
use crate::sync::{Ordering, crash_point, fence};

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

impl Wanted<'_> {
    /// How much of the record is before the value.
    fn head_len(&self) -> usize {
        HEAD_BYTES + self.key.len() + self.tag_len
    }

    /// The tag in what was read before the value.
    fn tag_in<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        &head[HEAD_BYTES + self.key.len()..]
    }

    /// Whether what was read before the value is of what is wanted.
    fn fits(&self, head: &[u8]) -> bool {
        let key = head.get(HEAD_BYTES..HEAD_BYTES + self.key.len());
        key == Some(self.key)
            && Head::decode(head).is_some_and(|h| {
                h.place == self.place
                    && h.value_len == self.len
                    && h.key_len == self.key.len()
                    && h.tag_len == self.tag_len
            })
    }
}

impl Log {
    /// Puts the value, and on request its tag, into `into`. `false`: it is not there, or not whole.
    pub(crate) fn read(
        &self,
        wanted: Wanted<'_>,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> io::Result<bool> {
        let mut tag = tag;
        let read = |file: &Kept| {
            let value = BeingRead {
                kept: file,
                wanted,
                known: &self.known,
            };
            value.read(into, tag.as_deref_mut())
        };
        let number = wanted.place.segment();
        match self.files.with_segment(number, Access::Read, read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other,
        }
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
            Ok(there && wanted.fits(&head))
        };
        let number = wanted.place.segment();
        match self.files.with_segment(number, Access::Read, read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|whole| whole.then(|| head.split_off(tag_at))),
        }
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
        let read = |file: &Kept| {
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
        };
        let read = self.files.with_segment(place.segment(), Access::Read, read);
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
}

/// One value that is being read.
struct BeingRead<'a> {
    kept: &'a Kept,
    wanted: Wanted<'a>,
    known: &'a FoundWhole,
}

impl BeingRead<'_> {
    /// What is read is summed up, or the file is proved afterwards.
    fn file(&self) -> &File {
        self.kept.unproven()
    }

    fn read(&self, into: &mut Vec<u8>, tag: Option<&mut Vec<u8>>) -> io::Result<bool> {
        into.clear();
        match self.wanted.len <= SMALL_BYTES {
            true => self.read_with_head(into, tag),
            false => self.read_behind_head(into, tag),
        }
    }

    /// Together with what is before it.
    fn read_with_head(&self, into: &mut Vec<u8>, tag: Option<&mut Vec<u8>>) -> io::Result<bool> {
        let wanted = &self.wanted;
        let head_len = wanted.head_len();
        memory::reserve(into, head_len + wanted.len)?;
        into.resize(head_len + wanted.len, 0);
        crash_point();
        if !read_whole(self.file(), into, wanted.place.offset())? {
            return Ok(false);
        }
        let (head, value) = into.split_at(head_len);
        let mut crc = Head::checksum(head);
        crc.update(value);
        if !(wanted.fits(head) && is_sum(crc, head)) {
            return Ok(false);
        }
        tag.into_iter()
            .for_each(|tag| *tag = wanted.tag_in(head).to_vec());
        into.drain(..head_len);
        Ok(true)
    }

    /// After what is before it, which says whether there is anything to read.
    fn read_behind_head(&self, into: &mut Vec<u8>, tag: Option<&mut Vec<u8>>) -> io::Result<bool> {
        let wanted = &self.wanted;
        let Some(head) = self.head()? else {
            return Ok(false);
        };
        let trusting = wanted.trusting.filter(|_| self.known.has(wanted.place));
        let mut crc = Head::checksum(&head);
        memory::reserve_exact(into, wanted.len)?;
        let is_there = match trusting {
            Some(_) => file::read_behind(self.file(), into, wanted.len, self.value_at())?,
            None => self.read_and_sum_up(into, &mut crc)?,
        };
        if !is_there {
            return Ok(false);
        }
        tag.into_iter()
            .for_each(|tag| *tag = wanted.tag_in(&head).to_vec());
        if let Some(is_needed) = trusting {
            // Pairs with the fence in `punch`: if any byte above came from after that, `is_needed`
            // finds that the record was not needed any more.
            fence(Ordering::Acquire);
            if self.kept.proven().is_ok() && is_needed() {
                return Ok(true);
            }
            crc.update(into);
        }
        let whole = is_sum(crc, &head);
        match whole {
            true => self.known.note(wanted.place),
            false => self.known.forget(wanted.place),
        }
        Ok(whole)
    }

    /// What is before a long value; `None`: it is not that of what is wanted, or the value is not
    /// all there.
    fn head(&self) -> io::Result<Option<Vec<u8>>> {
        let wanted = &self.wanted;
        let mut head = memory::filled(0, wanted.head_len())?;
        crash_point();
        if !read_whole(self.file(), &mut head, wanted.place.offset())? || !wanted.fits(&head) {
            return Ok(None);
        }
        let end = self.value_at() + wanted.len as u64;
        // No memory for what is not there, whatever is said of it; a chunk is not worth the
        // question.
        if wanted.len > CHUNK_BYTES && len_of(self.kept)? < end {
            return Ok(None);
        }
        Ok(Some(head))
    }

    /// Where the value begins in the file.
    fn value_at(&self) -> u64 {
        self.wanted.place.offset() + self.wanted.head_len() as u64
    }

    /// `false`: the file ends before.
    fn read_and_sum_up(&self, into: &mut Vec<u8>, crc: &mut Hasher) -> io::Result<bool> {
        while into.len() < self.wanted.len {
            let done = into.len();
            let chunk = CHUNK_BYTES.min(self.wanted.len - done);
            let from = self.value_at() + done as u64;
            if !file::read_behind(self.file(), into, chunk, from)? {
                return Ok(false);
            }
            crc.update(&into[done..]);
        }
        Ok(true)
    }
}

/// How long a record without a key or a tag says that it is; 0: there is none.
pub(super) fn sized(file: &File, place: Location) -> io::Result<u64> {
    let head = head_at(file, place)?;
    Ok(head.map_or(0, |head| record_bytes(0, 0, head.value_len)))
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
pub(super) fn read_whole(file: &File, into: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(into, at) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    }
}

/// Whether the checksum of a record is that which its head says.
fn is_sum(crc: Hasher, head: &[u8]) -> bool {
    Head::decode(head).is_some_and(|h| h.crc == crc.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::SEGMENT_HEADER_BYTES;

    /// The file ends long before: no process is to run out of memory over that.
    #[test]
    fn a_length_that_is_not_there_takes_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::of_one_segment(dir.path());
        let place = Location::new(1, SEGMENT_HEADER_BYTES);
        let mut head = Head::of(place, b"key", &[], &[]);
        head.value_len = 1 << 30;
        let bytes = head.encode(b"key", &[], &[]);
        let segment = log.files.segment(1, Access::Write).unwrap();
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
