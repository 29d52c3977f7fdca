//! No store, but what no store of this kind can go below. A key is looked up in a table that says where its
//! value lies, and the value is copied from there: two reads at random places of a mapped file, the second
//! of which has to wait for the first. What is large goes to one file that stays open.
//!
//! There are two of them. One has the densest table there is, and of each value its bytes alone; a large value
//! is written over the one before. The other does what slablock asks of memory and of the file system, and
//! nothing else: a get reads a table of as many places, the first line of a record, that of its key, and one
//! of two cells; a large value is appended, and the room of the one before given back.

use std::fs::{self, File};
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use memmap2::MmapMut;
use slablock::Cache;

use super::worker::{FILL, LARGE_BYTES, LARGE_KEYS, VALUE_BYTES};
use super::{Key, NO_SUCH, Needs, Store, key, slablock as ours};
use crate::Answer;
use crate::locks::{Words, writable};

/// Of a place in the table.
const PLACE_BYTES: usize = 4;
/// Where the key of a record of slablock's is, and each of the two cells of a value of 100 bytes.
const KEY_AT: usize = 64;
const CELLS_AT: [usize; 2] = [80, 256];

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Densest,
    Slablock,
}

struct Limit {
    shape: Shape,
    table: Words,
    values: Words,
    places: u64,
    /// From value to value.
    stride: usize,
    filled: u32,
    /// The end of what was read last.
    last: u8,
    large: File,
    /// How many large values were written, or read.
    large_done: u64,
    /// Where a page begins, as it is quickest.
    room: MmapMut,
}

pub fn open(dir: &Path, needs: Needs) -> Answer<Box<dyn Store>> {
    open_as(Shape::Densest, dir, needs)
}

pub fn open_like_slablock(dir: &Path, needs: Needs) -> Answer<Box<dyn Store>> {
    open_as(Shape::Slablock, dir, needs)
}

fn open_as(shape: Shape, dir: &Path, needs: Needs) -> Answer<Box<dyn Store>> {
    let stride = slablock_bytes_a_key(&dir.join("like"))?;
    let places = match shape {
        Shape::Densest => needs.keys,
        // Its buckets.
        Shape::Slablock => ours::slots(needs).div_ceil(2).next_power_of_two(),
    };
    let map = |name, count, each| Words::with_bytes(&dir.join(name), (count * each) as u64);
    Ok(Box::new(Limit {
        shape,
        table: map("table", places, PLACE_BYTES)?,
        values: map("values", needs.keys, stride)?,
        places: places as u64,
        stride,
        filled: 0,
        last: FILL,
        large: writable(&dir.join("large"))?,
        large_done: 0,
        room: MmapMut::map_anon(LARGE_BYTES)?,
    }))
}

/// How much longer slablock's own file is with each key, so that the values lie as far apart as there.
fn slablock_bytes_a_key(dir: &Path) -> Answer<usize> {
    const KEYS: u64 = 10_000;
    /// A cache line.
    const ALIGN: u64 = 64;
    let cache = Cache::options().capacity(1 << 20).open(dir)?;
    let length_with = |keys: std::ops::Range<u64>| -> Answer<u64> {
        keys.into_iter()
            .try_for_each(|number| cache.set(key(number), [0; VALUE_BYTES]).map(drop))?;
        Ok(dir.join("slab").metadata()?.len())
    };
    let (few, many) = (length_with(0..KEYS)?, length_with(KEYS..2 * KEYS)?);
    drop(cache);
    fs::remove_dir_all(dir)?;
    let each = (many - few).div_ceil(KEYS);
    Ok((each / ALIGN * ALIGN) as usize)
}

impl Limit {
    /// Where in the table that key is looked up.
    fn place(&self, key: &Key) -> usize {
        let halves = key.split_at(8);
        let [high, low] =
            [halves.0, halves.1].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")));
        let hash = (high ^ low.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((u128::from(hash) * u128::from(self.places)) >> 64) as usize * PLACE_BYTES
    }

    /// Where its value lies.
    fn value(&self, key: &Key) -> usize {
        // Nothing, as the processor knows once it has it: a get begins when the last one is over.
        let waited = usize::from(self.last ^ FILL) * PLACE_BYTES;
        let place = self.table.ptr(self.place(key) + waited, PLACE_BYTES);
        let place: *const u32 = place.cast();
        // SAFETY: within the mapping, by `ptr`, and aligned; only this process has it.
        let number = unsafe { place.read() };
        number as usize * self.stride
    }

    /// Where in its record the value is.
    fn bytes(&self, record: usize) -> usize {
        match self.shape {
            Shape::Densest => record,
            Shape::Slablock => record + CELLS_AT[record / self.stride % 2],
        }
    }

    fn put(&self, record: usize, value: &[u8]) {
        let at = self.bytes(record);
        let at = self.values.ptr(at, VALUE_BYTES);
        // SAFETY: within the mapping, by `ptr`, for all that is copied; nobody else has it.
        unsafe { at.copy_from_nonoverlapping(value.as_ptr(), value.len().min(VALUE_BYTES)) };
        black_box(at);
    }

    /// Of the other shape little is measured.
    fn is_the_densest(&self) -> Answer<()> {
        match self.shape {
            Shape::Densest => Ok(()),
            Shape::Slablock => Err(NO_SUCH.into()),
        }
    }

    /// One large value after the other, as they are asked for.
    fn next_large(&mut self) -> u64 {
        self.large_done += 1;
        match self.shape {
            Shape::Densest => self.large_done % LARGE_KEYS * LARGE_BYTES as u64,
            Shape::Slablock => self.large_done * LARGE_BYTES as u64,
        }
    }
}

impl Store for Limit {
    fn get(&mut self, key: &Key, into: &mut Vec<u8>) -> Answer<bool> {
        let record = self.value(key);
        if self.shape == Shape::Slablock {
            // Neither waits for the other, nor the value for them.
            for at in [record, record + KEY_AT] {
                black_box(self.values.at(at).load(Ordering::Relaxed));
            }
        }
        let value = self.values.ptr(self.bytes(record), VALUE_BYTES);
        into.clear();
        // SAFETY: within the mapping, by `ptr`; nobody writes meanwhile.
        into.extend_from_slice(unsafe { std::slice::from_raw_parts(value, VALUE_BYTES) });
        // Increments change the first bytes.
        self.last = black_box(&*into)[VALUE_BYTES - 1];
        Ok(true)
    }

    fn set(&mut self, key: &Key, value: &[u8]) -> Answer<()> {
        self.is_the_densest()?;
        self.put(self.value(key), value);
        Ok(())
    }

    fn incr(&mut self, key: &Key) -> Answer<i64> {
        self.is_the_densest()?;
        let old = self
            .values
            .at(self.value(key))
            .fetch_add(1, Ordering::AcqRel);
        Ok(old as i64 + 1)
    }

    fn delete(&mut self, _: &Key) -> Answer<bool> {
        Err(NO_SUCH.into())
    }

    fn add(&mut self, _: &Key, _: &[u8]) -> Answer<()> {
        Err(NO_SUCH.into())
    }

    /// Each key leads to some value, if not to its own.
    fn fill(&mut self, keys: &[Key], value: &[u8]) -> Answer<()> {
        for key in keys {
            let at = self.filled as usize * self.stride;
            let place = match self.shape {
                // Whatever the keys, no place is empty.
                Shape::Densest => self.filled as usize * PLACE_BYTES,
                Shape::Slablock => self.place(key),
            };
            let place: *mut u32 = self.table.ptr(place, PLACE_BYTES).cast();
            // SAFETY: as in `value`.
            unsafe { place.write(self.filled) };
            self.put(at, value);
            self.filled += 1;
        }
        Ok(())
    }

    fn read(&mut self, _: &Key, _: &mut Vec<u8>) -> Answer<bool> {
        // It would be the same.
        self.is_the_densest()?;
        let at = self.next_large();
        self.large.read_exact_at(&mut self.room, at)?;
        Ok(true)
    }

    fn write(&mut self, _: &Key, value: &[u8]) -> Answer<()> {
        let at = self.next_large();
        self.large.write_all_at(value, at)?;
        let before = at.checked_sub(LARGE_KEYS * LARGE_BYTES as u64);
        match before.filter(|_| self.shape == Shape::Slablock) {
            Some(before) => give_back(&self.large, before, LARGE_BYTES as u64),
            None => Ok(()),
        }
    }
}

fn give_back(file: &File, at: u64, len: u64) -> Answer<()> {
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: of an open file; no memory is passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), hole, at as i64, len as i64) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}
