//! The processes that live beside this one, asked of the slab.

use crate::ProcessInfo;
use crate::error::{Error, Result};
use crate::os::process;
use crate::os::process::Identity;
use crate::record::joining::PARTICIPANT_USED;
use crate::slab::header::STATE_READY;
use crate::slab::layout::PARTICIPANTS;
use crate::slab::{Growing, Slab};
use crate::store::names::known_as;
use crate::store::{Locks, participants};
use crate::sync::Ordering;

/// The processes that take part, by beacon or by witness. A locked witness alone proves no life:
/// any process that may read the slab can lock it. So a participant is left out if its process is
/// gone.
pub(in crate::store) fn living(slab: &Slab, locks: &Locks) -> Result<Vec<ProcessInfo>> {
    let mut living = Vec::new();
    let mut me = None;
    for number in numbers(slab) {
        let is_locked = locks.is_beacon_locked(number)? || slab.witnesses().is_locked(number)?;
        if is_locked && !is_gone(slab, &mut me, number)? {
            living.extend(describe(slab, number));
        }
    }
    Ok(living)
}

/// `me`: this process, once it was asked for.
pub(in crate::store) fn is_gone(
    slab: &Slab,
    me: &mut Option<Identity>,
    number: u16,
) -> Result<bool> {
    if me.is_none() {
        let identity = Identity::of_this_process();
        *me = Some(identity.map_err(|e| Error::io("identify", slab.path(), e))?);
    }
    let gone = me.as_ref();
    Ok(gone.is_some_and(|me| participants::is_gone_by_process(slab, me, number)))
}

pub(in crate::store) fn numbers(slab: &Slab) -> impl Iterator<Item = u16> {
    let allocated = slab.allocated(Growing::Participants).min(PARTICIPANTS);
    let numbers = (1..allocated).map(|number| number as u16);
    numbers.filter(|number| {
        let record = slab.participant(*number);
        record.is_some_and(|r| r.state.load(Ordering::Acquire) & PARTICIPANT_USED != 0)
    })
}

pub(in crate::store) fn describe(slab: &Slab, number: u16) -> Option<ProcessInfo> {
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

pub(in crate::store) fn is_ready(slab: &Slab) -> bool {
    slab.header().state.load(Ordering::Acquire) == STATE_READY
}

/// Attaches a forked child to the slab that it has mapped, with lock files of its own.
pub(in crate::store) fn attach_again(locks: &Locks, slab: &Slab) -> Result<()> {
    locks.attach_shared()?;
    if !is_ready(slab) {
        return Err(slab.corrupt("it is being repaired"));
    }
    let strangers = locks.strangers(slab);
    match strangers.is_empty() {
        true => Ok(()),
        false => {
            let living = living(slab, locks)?;
            Err(lock_files_lost(slab, &strangers, living))
        }
    }
}
