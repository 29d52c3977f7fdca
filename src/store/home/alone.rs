//! Being alone with a slab, whatever became of the lock files' names.
//!
//! Whoever is attached alone is alone with those who have the same lock files. A cleaner that removes them, or somebody
//! who does so by hand, leaves living participants who have others. What tells is the witness that each of them has
//! locked on the slab's own inode; so who repairs a slab, or gives it other lock files, takes all witnesses first. It
//! never waits for them: somebody who may only read the slab can lock them, too, and must not be able to stop more than
//! that.

use crate::error::{Error, Result};
use crate::os::process::{self, Identity};
use crate::slab::layout::PARTICIPANTS;
use crate::slab::{Growing, PARTICIPANT_USED, Slab};
use crate::store::home::lock_files::Locks;
use crate::store::members::participants;
use crate::store::names::known_as;
use crate::sync::Ordering;
use crate::types::ProcessInfo;

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
        if slab.try_lock_all_witnesses()? {
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
        self.slab.unlock_all_witnesses();
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

/// Who takes part, by beacon or by witness. A locked witness alone proves no life: whoever may read the slab can lock it.
/// So those are left out whose process is gone.
pub(in crate::store) fn living(slab: &Slab, locks: &Locks) -> Result<Vec<ProcessInfo>> {
    let mut living = Vec::new();
    let mut me = None;
    for number in numbers(slab) {
        let is_locked = locks.is_beacon_locked(number)? || slab.is_witness_locked(number)?;
        if is_locked && !is_gone(slab, &mut me, number)? {
            living.extend(describe(slab, number));
        }
    }
    Ok(living)
}

/// `me`: this process, once it was asked for.
fn is_gone(slab: &Slab, me: &mut Option<Identity>, number: u16) -> Result<bool> {
    if me.is_none() {
        let identity = Identity::of_this_process();
        *me = Some(identity.map_err(|e| Error::io("identify", slab.path(), e))?);
    }
    let gone = me.as_ref();
    Ok(gone.is_some_and(|me| participants::is_gone_by_process(slab, me, number)))
}

fn numbers(slab: &Slab) -> impl Iterator<Item = u16> {
    let allocated = slab.allocated(Growing::Participants).min(PARTICIPANTS);
    let numbers = (1..allocated).map(|number| number as u16);
    numbers.filter(|number| {
        let record = slab.participant(*number);
        record.is_some_and(|r| r.state.load(Ordering::Acquire) & PARTICIPANT_USED != 0)
    })
}

fn describe(slab: &Slab, number: u16) -> Option<ProcessInfo> {
    let described =
        participants::describe(slab.participant(number)?, process::own_pid_namespace())?;
    let command = match described.same_pid_namespace {
        true => process::command_line(described.pid),
        false => None,
    };
    Some(ProcessInfo {
        pid: described.pid,
        program: described.program,
        command,
    })
}

pub(in crate::store) fn busy(slab: &Slab, processes: Vec<ProcessInfo>) -> Error {
    Error::Busy {
        path: known_as(slab.path()),
        lost: Vec::new(),
        processes,
    }
}

/// Somebody uses lock files that are not in their place any more.
pub(in crate::store) fn lock_files_lost(
    slab: &Slab,
    lost: &[&'static str],
    processes: Vec<ProcessInfo>,
) -> Error {
    Error::Busy {
        path: known_as(slab.path()),
        lost: lost.to_vec(),
        processes,
    }
}
