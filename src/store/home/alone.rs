//! Being alone with a slab, whatever became of the lock files' names.
//!
//! An opener that is attached alone is alone among the processes with the same lock files. A
//! cleaner or a user that removes these leaves living participants that have others. What tells is
//! the witness that each participant has locked on the slab's own inode; so a process that repairs
//! a slab, or gives it other lock files, takes all witnesses first. It never waits for witnesses: a
//! reader that may not write the slab can lock them, too, and must not be able to stop more than
//! that.

use crate::error::Result;
use crate::slab::Slab;
use crate::store::members::living::{busy, living, lock_files_lost, numbers};
use crate::store::members::lock_files::Locks;

/// Nobody else takes part, and nobody can begin to, until this is dropped.
pub(in crate::store) struct Alone<'a> {
    slab: &'a Slab,
}

impl<'a> Alone<'a> {
    /// `strangers`: which lock files are not those of the slab. `Busy` if somebody takes part.
    pub(in crate::store) fn with(
        slab: &'a Slab,
        locks: &Locks,
        strangers: &[&'static str],
    ) -> Result<Alone<'a>> {
        if slab.witnesses().try_lock_all()? {
            return Ok(Alone { slab });
        }
        let living = living(slab, locks)?;
        Err(match strangers.is_empty() {
            true => busy(slab, living),
            false => lock_files_lost(slab, strangers, living),
        })
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.slab.witnesses().unlock_all();
    }
}

/// Whether anybody has a beacon locked in these lock files.
pub(in crate::store) fn has_beacons(slab: &Slab, locks: &Locks) -> Result<bool> {
    for number in numbers(slab) {
        if locks.is_beacon_locked(number)? {
            return Ok(true);
        }
    }
    Ok(false)
}
