//! What fuzz targets may do beyond the public interface: set the clock, be several participants in one
//! process, and die. Compiled for fuzzing (`--cfg fuzzing`, which cargo-fuzz sets) and for this crate's own
//! tests, never into what users get.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::cache::{Cache, Options};
use crate::error::Result;
use crate::os::range_lock;
use crate::record::{PAYLOAD_WORDS, seal_of};
use crate::slab::header::{STATIC_BYTES, seal_static};
use crate::store::open;

pub use crate::os::pretend::{Moment, chance, time};

/// Opens the store in `path` as a further process would: with descriptors, a beacon and a participant number
/// of its own, however often this process has opened it already.
pub fn open_apart(path: impl AsRef<Path>, options: &Options) -> Result<Cache> {
    let store = open::open_apart(path.as_ref(), options.settings())?;
    Ok(Cache { store })
}

/// Ends a participant as the death of its process would: its beacon is free unless it was handed on, its words
/// stay as they are, and guards that were copied out of their handles (`into_owned`) are inert.
pub fn die(cache: &Cache) {
    cache.store.die();
}

/// The number of a participant.
pub fn participant(cache: &Cache) -> u16 {
    cache.store.me().map_or(0, |me| me.get())
}

/// Locks bytes of a lock file, as others would, for as long as the descriptor is open.
pub fn lock_bytes(file: &File, bytes: Range<u64>) -> std::io::Result<()> {
    for at in bytes {
        range_lock::lock(file, at)?;
    }
    Ok(())
}

/// Forgets which re-entrant locks the calling thread has, as the end of the thread would.
pub fn forget_thread() {
    crate::rlock::forget_thread();
}

/// Makes the checksum of the static part of a header right.
pub fn seal_header(bytes: &mut [u8; STATIC_BYTES]) {
    seal_static(bytes);
}

/// The seal of an average's cell.
pub fn seal_cell(payload: &[u64; PAYLOAD_WORDS], version: u64) -> u64 {
    seal_of(payload, version)
}
