//! What fuzz targets may do beyond the public interface: set the clock, be several participants in
//! one process, and die. Compiled for fuzzing (`--cfg fuzzing`, which cargo-fuzz sets) and for this
//! crate's own tests, never into what users get.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::cache::{Cache, Options, SetOptions};
use crate::error::Result;
use crate::os::range_lock;
pub use crate::os::simulate::{Moment, chance, suspended, time};
use crate::record::{PAYLOAD_WORDS, seal_of};
use crate::slab::header::{STATIC_BYTES, seal_static};
use crate::slab::value_cells::{Content, Form, cell_words, tag_hash};
use crate::store::home::open;
use crate::store::index::chains::Index;
use crate::store::key_entry::check_lengths;
use crate::store::space::latch::{Latched, Latches};
use crate::store::space::make_room::Space;
use crate::store::txn::transaction::Ongoing;
use crate::store::values::compute_once::Turns;

/// Opens the store in `path` as a further process would: with descriptors, a beacon and a
/// participant number of its own, however often this process has opened it already.
pub fn open_apart(path: impl AsRef<Path>, options: &Options) -> Result<Cache> {
    let store = open::open_apart(path.as_ref(), options.settings())?;
    Ok(Cache::of_store(store))
}

/// Ends a participant as the death of its process would: its beacon is free unless it was handed
/// on, its words stay as they are, and guards that were copied out of their handles (`into_owned`)
/// are inert.
pub fn die(cache: &Cache) {
    cache.store.die();
}

/// How far somebody gets with a change before it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The latches are taken, large values are in the log.
    Latched,
    /// The idle cells are filled.
    Prepared,
    /// Everybody sees it; nothing was tidied up.
    Done,
}

/// Begins to set a value, and dies. With an error nobody has died, and nothing has happened.
pub fn die_setting(
    cache: &Cache,
    key: &[u8],
    value: &[u8],
    options: &SetOptions,
    reached: Reached,
) -> Result<()> {
    let (store, new) = (&cache.store, options.new_value(value)?);
    check_lengths(key, new.tag)?;
    let bytes = new.tag.len() + value.len();
    let latch = || Latches(store).latch(key, Index(store).hash(key), Some(cell_words(bytes)));
    // As a writer that finds out that it does not fit.
    let fits = latch()?.is_some_and(|latched| latched.cells.fits(bytes));
    let place = match fits {
        true => None,
        false => Some(Space(store).append_for(key, &new, &[])?.place),
    };
    let Some(latched) = latch()? else {
        return Ok(());
    };
    let len = value.len();
    let (form, tag, value) = match place {
        None => (Form::Inline { len }, new.tag, value),
        Some(place) => {
            let tag_hash = tag_hash(new.tag);
            let form = Form::Logged {
                place,
                len,
                tag_hash,
            };
            (form, &[][..], &[][..])
        }
    };
    let content = Content {
        expires_ms: new.expires_ms,
        tag_len: new.tag.len(),
        flags: 0,
        form,
    };
    match reached {
        Reached::Latched => {}
        Reached::Prepared => drop(latched.cells.prepare(content, tag, value)),
        Reached::Done => latched.cells.write(content, tag, value),
    }
    std::mem::forget::<Latched<'_>>(latched);
    die(cache);
    Ok(())
}

/// Begins to set values all at once, and dies. With an error nobody has died, and nothing has
/// happened.
pub fn die_in_transaction(
    cache: &Cache,
    values: &[(Vec<u8>, Vec<u8>, SetOptions)],
    reached: Reached,
) -> Result<()> {
    let mut ongoing = Ongoing::begin(&cache.store)?;
    for (key, value, options) in values {
        ongoing.set(0, &cache.store, key, &options.new_value(value)?)?;
    }
    ongoing.abandon(reached == Reached::Prepared, reached == Reached::Done)?;
    die(cache);
    Ok(())
}

/// Begins to compute a value, and dies.
pub fn die_computing(cache: &Cache, key: &[u8]) -> Result<()> {
    let turn = Turns(&cache.store).begin_turn(key, &|| false)?;
    die(cache);
    // Inert by now.
    drop(turn);
    Ok(())
}

/// The number of a participant.
pub fn participant(cache: &Cache) -> u16 {
    cache.store.me().map_or(0, |me| me.get())
}

/// Locks bytes of a store by itself in a lock file, as others would, for as long as the descriptor
/// is open.
pub fn lock_bytes(file: &File, bytes: Range<u64>) -> std::io::Result<()> {
    for at in bytes {
        range_lock::lock(file, at << 8)?;
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
