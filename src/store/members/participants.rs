//! Which of the processes that take part are dead, and which wait.
//!
//! A participant keeps its beacon byte locked for as long as it lives; the kernel unlocks it with
//! the last descriptor. A process id is a second proof of *death*, for the case that
//! a forked child still has the beacon; and there are more.

use crate::error::Result;
use crate::os::clock;
use crate::os::process::{self, Identity};
use crate::record::joining::read_whole;
use crate::record::{PARTICIPANT_MAX, ParticipantId};
use crate::slab::{Growing, PARTICIPANT_SHARED, PARTICIPANT_USED, Participant, Slab, SlotId};
use crate::store::Store;
use crate::store::members::lock_files::Locks;
use crate::store::members::process::Process;
use crate::sync::{AtomicU64, Ordering};

/// What a participant's record says, for showing.
pub(in crate::store) struct Described {
    pub(in crate::store) pid: u32,
    pub(in crate::store) program: String,
    pub(in crate::store) same_pid_namespace: bool,
}

/// Whether a participant is dead, as seen through a descriptor that does not hold its beacon.
pub(super) fn is_gone(
    slab: &Slab,
    locks: &Locks,
    me: &Identity,
    number: u16,
    thorough: bool,
) -> Result<bool> {
    let record = slab.participant(number);
    if locks.is_beacon_locked(number)? {
        return Ok(record.is_some_and(|r| {
            process_is_gone(r, me, PARTICIPANT_SHARED, thorough)
                || thorough && has_executed(r, me, PARTICIPANT_SHARED)
        }));
    }
    if !slab.witnesses().is_locked(number)? {
        return Ok(true);
    }
    // It lives and other code in it has closed its descriptors; or a child that it forked still has
    // its map. Whatever was handed on is gone with the beacon.
    Ok(record.is_none_or(|r| process_is_gone(r, me, 0, true) || has_executed(r, me, 0)))
}

/// Whether a participant is dead, as far as a reader can tell: it does not open the lock files, so
/// the witness stands for the beacon. Where the kernel does not answer, the process id decides.
pub(in crate::store) fn is_gone_by_witness(slab: &Slab, me: &Identity, number: u16) -> bool {
    match slab.witnesses().is_locked(number) {
        Ok(false) => true,
        Ok(true) | Err(_) => is_gone_by_process(slab, me, number),
    }
}

/// Whether the process of a participant is gone, or has closed the store, whatever somebody has
/// locked.
pub(in crate::store) fn is_gone_by_process(slab: &Slab, me: &Identity, number: u16) -> bool {
    slab.participant(number).is_some_and(|record| {
        process_is_gone(record, me, PARTICIPANT_SHARED, true)
            || was_here_before(record, me, slab.address())
            || has_executed(record, me, PARTICIPANT_SHARED)
    })
}

/// The second proof: in this PID namespace there is no such process, or another that started later;
/// and the third: all its threads are on their way out. They do not count for a participant with
/// one of the flags `spared`: one that handed its beacon to others on purpose lives by that.
fn process_is_gone(record: &Participant, me: &Identity, spared: u64, thorough: bool) -> bool {
    let read = read_whole(&record.state, || {
        let namespace = record.pid_namespace.load(Ordering::Relaxed);
        let started = record.started.load(Ordering::Relaxed);
        (namespace, pid_of(record), started)
    });
    let Some((state, (namespace, pid, started))) = read else {
        return false;
    };
    let counts = state & (PARTICIPANT_USED | spared) == PARTICIPANT_USED;
    if !counts || namespace == 0 || namespace != me.pid_namespace {
        return false;
    }
    if pid == me.pid && started == me.started {
        return false;
    }
    let replaced = || process::started_otherwise(pid, started);
    let exiting = || process::is_exiting(pid, started);
    !process::pid_exists(pid) || (thorough && me.proc_is_own && (replaced() || exiting()))
}

/// The fourth proof: where the process had the slab mapped it has nothing of the kind any more, for
/// it has executed another program. A child that it forked may have that map, and the beacon until
/// it closes it.
fn has_executed(record: &Participant, me: &Identity, spared: u64) -> bool {
    let read = read_whole(&record.state, || {
        let namespace = record.pid_namespace.load(Ordering::Relaxed);
        let mapped_at = record.mapped_at.load(Ordering::Relaxed);
        (namespace, pid_of(record), mapped_at)
    });
    let Some((state, (namespace, pid, mapped_at))) = read else {
        return false;
    };
    let counts = state & (PARTICIPANT_USED | spared) == PARTICIPANT_USED;
    counts
        && namespace != 0
        && namespace == me.pid_namespace
        && me.proc_is_own
        && process::shares_memory_at(pid, mapped_at) == Some(false)
}

/// Whether it is an opening of this process that has ended: another one has the map in its place.
fn was_here_before(record: &Participant, me: &Identity, mapped_at: u64) -> bool {
    let read = read_whole(&record.state, || {
        let started = record.started.load(Ordering::Relaxed);
        (
            pid_of(record),
            started,
            record.mapped_at.load(Ordering::Relaxed),
        )
    });
    read.is_some_and(|(state, then)| {
        state & (PARTICIPANT_USED | PARTICIPANT_SHARED) == PARTICIPANT_USED
            && then == (me.pid, me.started, mapped_at)
    })
}

pub(in crate::store) fn pid_of(record: &Participant) -> u32 {
    record.pid_uid.load(Ordering::Relaxed) as u32
}

/// The processes that take part in a store: which lives, what is known of it, and which slots it
/// waits for.
#[derive(Clone, Copy)]
pub(in crate::store) struct Members<'s>(pub(in crate::store) &'s Store);

impl<'s> Members<'s> {
    /// Whether `other` is dead. In doubt it is alive, also when the kernel refuses to answer.
    pub(in crate::store) fn is_dead(self, process: &Process, other: ParticipantId) -> bool {
        // Reading /proc costs as much as all the rest of a look: once a second is often enough for
        // the case that it is for, another process with the pid of a dead one that left its beacon
        // to a child.
        let asked = &process.asked[usize::from(other.get()) % process.asked.len()];
        let now = clock::wall_s() << 12 | u64::from(other.get());
        let thorough = asked.load(Ordering::Relaxed) != now;
        let (locks, me) = (&process.locks, &process.identity);
        let gone = other != process.id
            && is_gone(&self.0.slab, locks, me, other.get(), thorough).unwrap_or(false);
        // Only about a living one it is not asked again: one that was found dead has to be so for
        // the next look, too.
        if thorough && !gone {
            asked.store(now, Ordering::Relaxed);
        }
        gone
    }

    /// What a participant says about itself; `None` if the number is not in use.
    pub(in crate::store) fn describe(
        self,
        process: &Process,
        id: ParticipantId,
    ) -> Option<Described> {
        describe(
            self.0.slab.participant(id.get())?,
            process.identity.pid_namespace,
        )
    }
}

/// What a participant says about itself to somebody in the PID namespace `mine`; `None` if the
/// number is not in use.
pub(in crate::store) fn describe(record: &Participant, mine: u64) -> Option<Described> {
    let (state, described) = read_whole(&record.state, || {
        let mut name = [0; 24];
        for (to, from) in name.chunks_exact_mut(8).zip(&record.program) {
            to.copy_from_slice(&from.load(Ordering::Relaxed).to_le_bytes());
        }
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let namespace = record.pid_namespace.load(Ordering::Relaxed);
        Described {
            pid: pid_of(record),
            program: String::from_utf8_lossy(&name[..end]).into_owned(),
            same_pid_namespace: mine != 0 && namespace == mine,
        }
    })?;
    (state & PARTICIPANT_USED != 0).then_some(described)
}

/// Being seen to wait.
impl<'s> Members<'s> {
    /// Notes that a thread of this process waits for `slot`, until the mark is dropped.
    pub(in crate::store) fn mark_waiting(
        self,
        process: &Process,
        slot: SlotId,
    ) -> Option<WaitingMark<'s>> {
        let entries = &self.0.slab.participant(process.id.get())?.waiting;
        let is_ours = |bits: &u64| *bits as u32 == slot.link();
        let is_unused = |bits: &u64| *bits == 0;
        let one_more = |bits: u64| {
            let threads = (bits >> 32).checked_add(1).filter(|t| *t <= 0xffff_ffff)?;
            Some(threads << 32 | u64::from(slot.link()))
        };
        let try_entries = |wanted: &dyn Fn(&u64) -> bool| {
            entries.iter().find(|entry| {
                let changed = entry.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                    Some(bits).filter(wanted).and_then(one_more)
                });
                changed.is_ok()
            })
        };
        if let Some(entry) = try_entries(&is_ours).or_else(|| try_entries(&is_unused)) {
            return Some(WaitingMark { entry });
        }
        // All entries are taken by other keys: this waiter is not seen, and nothing else is lost.
        None
    }

    /// How many threads of living processes wait for `slot`.
    pub(in crate::store) fn waiters(self, process: &Process, slot: SlotId) -> usize {
        waiters(&self.0.slab, slot, |id| self.is_dead(process, id))
    }
}

/// How many threads of participants that are not dead wait for `slot`.
pub(in crate::store) fn waiters(
    slab: &Slab,
    slot: SlotId,
    is_dead: impl Fn(ParticipantId) -> bool,
) -> usize {
    let allocated = slab.allocated(Growing::Participants);
    let numbers = (1..allocated.min(u32::from(PARTICIPANT_MAX) + 1)).map(|n| n as u16);
    let waiting_of = |id: ParticipantId| {
        let record = slab.participant(id.get())?;
        let used = record.state.load(Ordering::Acquire) & PARTICIPANT_USED != 0;
        let counts = record.waiting.iter().map(|e| e.load(Ordering::Relaxed));
        let here = counts.filter(|bits| *bits as u32 == slot.link());
        let threads: u64 = here.map(|bits| bits >> 32).sum();
        (used && threads > 0 && !is_dead(id)).then_some(threads as usize)
    };
    let ids = numbers.filter_map(ParticipantId::new);
    ids.filter_map(waiting_of).sum()
}

/// One thread's count among the waiters.
pub(in crate::store) struct WaitingMark<'a> {
    entry: &'a AtomicU64,
}

impl Drop for WaitingMark<'_> {
    fn drop(&mut self) {
        let one_less = |bits: u64| match bits >> 32 {
            0 => None,
            1 => Some(0),
            _ => Some(bits - (1 << 32)),
        };
        // An entry without a count was overwritten by something that is not us: leave it.
        let _ = self
            .entry
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }
}
