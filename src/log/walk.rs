//! Reading a segment from one record to the next: which keys may have a value there.
//!
//! A record says how long it is, and where it lies. Where one was to begin and none does, because
//! its writer died or was refused, or by damage, the next place is looked for at which one is that
//! says so; then it is not certain that none was passed over.

use std::io;
use std::os::unix::fs::FileExt;

use crate::log::header::SEGMENT_HEADER_BYTES;
use crate::log::record::{HEAD_BYTES, Head, Location, RECORD_ALIGN, record_bytes};
use crate::log::{Log, PAGE};
use crate::os::dir::Access;
use crate::os::kept::Kept;
use crate::sync::crash_point;

/// How much is read at a time.
const CHUNK_BYTES: usize = 32 * 1024;

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A record, with its key.
    Record(Vec<u8>),
    /// Nothing yet: there are more bytes to be looked at.
    Gap,
    End,
}

/// A segment that is read from one record to the next.
pub(crate) struct Records<'l> {
    log: &'l Log,
    number: u32,
    at: u64,
    has_gaps: bool,
    chunk: Vec<u8>,
    /// Where the chunk begins.
    chunk_at: u64,
}

impl<'l> Records<'l> {
    /// From `at` on, where a record begins; 0: from the first.
    pub(crate) fn from(log: &'l Log, number: u32, at: u64) -> Records<'l> {
        Records {
            log,
            number,
            at: at.max(SEGMENT_HEADER_BYTES).next_multiple_of(RECORD_ALIGN),
            has_gaps: false,
            chunk: Vec::new(),
            chunk_at: 0,
        }
    }

    /// Where it goes on.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Whether there were bytes that are no record's.
    pub(crate) fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    /// The next record. That there is no file is a gap, and the end.
    pub(crate) fn next(&mut self) -> io::Result<Next> {
        let first = self.at;
        while self.at < first + PAGE {
            let place = Location::new(self.number, self.at);
            let Some(bytes) = self.bytes(HEAD_BYTES)? else {
                return Ok(Next::End);
            };
            let head = Head::decode(bytes).filter(|head| head.place == place);
            let Some(head) = head else {
                self.has_gaps = true;
                self.at += RECORD_ALIGN;
                continue;
            };
            let Some(bytes) = self.bytes(HEAD_BYTES + head.key_len)? else {
                self.has_gaps = true;
                return Ok(Next::End);
            };
            let key = bytes[HEAD_BYTES..].to_vec();
            self.at += record_bytes(head.key_len, head.tag_len, head.value_len);
            return Ok(Next::Record(key));
        }
        Ok(Next::Gap)
    }

    /// So many of the bytes that come next. `None`: the file ends before.
    fn bytes(&mut self, len: usize) -> io::Result<Option<&[u8]>> {
        if !self.has(len) {
            self.read_chunk()?;
        }
        let from = (self.at - self.chunk_at) as usize;
        Ok(self.chunk.get(from..from + len))
    }

    fn has(&self, len: usize) -> bool {
        let chunk = self.chunk_at..=self.chunk_at + self.chunk.len() as u64;
        chunk.contains(&self.at) && chunk.contains(&(self.at + len as u64))
    }

    fn read_chunk(&mut self) -> io::Result<()> {
        self.chunk.resize(CHUNK_BYTES, 0);
        self.chunk_at = self.at;
        let (chunk, at) = (&mut self.chunk, self.at);
        let mut len = 0;
        let read = |file: &Kept| {
            len = 0;
            while len < chunk.len() {
                crash_point();
                match file.unproven().read_at(&mut chunk[len..], at + len as u64) {
                    Ok(0) => break,
                    Ok(read) => len += read,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            // It is not summed up.
            file.proven()?;
            Ok(true)
        };
        match self.log.files.with_segment(self.number, Access::Read, read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.has_gaps = true;
                len = 0;
            }
            other => drop(other?),
        }
        self.chunk.truncate(len);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn keys(log: &Log) -> (Vec<Vec<u8>>, bool) {
        let (mut records, mut keys) = (Records::from(log, 1, 0), Vec::new());
        loop {
            match records.next().unwrap() {
                Next::Record(key) => keys.push(key),
                Next::Gap => {}
                Next::End => return (keys, records.has_gaps()),
            }
        }
    }

    #[test]
    fn all_records_are_seen_also_behind_what_was_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::of_one_segment(dir.path());
        let mut at = SEGMENT_HEADER_BYTES;
        let mut write = |key: &str, len: usize, is_written: bool| {
            let value = vec![7; len];
            if is_written {
                let place = Location::new(1, at);
                log.write(place, key.as_bytes(), b"tag", &value).unwrap();
            }
            at += record_bytes(key.len(), 3, len);
        };
        let lens = [0, 1, 300, CHUNK_BYTES - 60, CHUNK_BYTES, 200_000];
        for (n, len) in lens.into_iter().enumerate() {
            write(&n.to_string().repeat(1 + 200 * n), len, true);
        }
        let (seen, has_gaps) = keys(&log);
        let is = |n: usize| n.to_string().repeat(1 + 200 * n).into_bytes();
        assert!(seen == (0..lens.len()).map(is).collect::<Vec<_>>() && !has_gaps);
        for (n, len) in [(6, 100), (7, 300_000), (8, 40)] {
            write(&n.to_string(), len, false);
            write(&n.to_string().repeat(1 + 200 * n), len, true);
        }
        let (seen, has_gaps) = keys(&log);
        assert!(seen == (0..9).map(is).collect::<Vec<_>>() && has_gaps);
    }

    #[test]
    fn a_segment_that_is_gone_is_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::of_one_segment(dir.path());
        assert_eq!(keys(&log), (vec![], false));
        log.remove(1).unwrap();
        assert_eq!(keys(&log), (vec![], true));
    }
}
