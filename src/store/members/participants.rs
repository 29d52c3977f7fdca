//! Which processes take part, and which are dead.
//!
//! A participant keeps its beacon byte locked for as long as it lives; the kernel unlocks it with
//! the last descriptor. That is the only proof of life. A process id is a second proof of *death*,
//! for the case that a forked child still has the beacon.

use crate::error::{Error, Result};
use crate::os::clock;
use crate::os::process::{self, Identity};
use crate::record::joining::{self, read_whole, take_number};
use crate::record::{Hold, PARTICIPANT_MAX, ParticipantId};
use crate::slab::layout::PERMITS_PER_BLOCK;
use crate::slab::{Growing, PARTICIPANT_SHARED, PARTICIPANT_USED, Participant, Slab, SlotId};
use crate::store::members::living;
use crate::store::members::lock_files::Locks;
use crate::store::names::known_as;
use crate::store::{JOIN_BYTE, Process, Store};
use crate::sync::{AtomicU64, Ordering, crash_point};

/// What a participant's record says, for showing.
pub(crate) struct Described {
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) same_pid_namespace: bool,
}

/// Takes a participant number: locks its beacon first, then describes this process, then marks it
/// used. A joiner that dies in between leaves an unlocked beacon and an unused number. `None`:
/// another process is joining, or alone with the slab.
pub(in crate::store) fn try_join(
    slab: &Slab,
    locks: &Locks,
    identity: &Identity,
) -> Result<Option<ParticipantId>> {
    if !locks.try_lock_range(JOIN_BYTE)? {
        return Ok(None);
    }
    let joined = join_locked(slab, locks, identity);
    locks.unlock_range(JOIN_BYTE);
    let Some(id) = joined? else {
        return Ok(None);
    };
    // A process that gives the slab other lock files has all witnesses meanwhile: these are its
    // own, or it has done so before there was ours, and here is the place to see that.
    let strangers = locks.strangers(slab);
    if strangers.is_empty() {
        return Ok(Some(id));
    }
    slab.unlock_witness(id.get());
    locks.unlock_beacon(id.get());
    let living = living::living(slab, locks)?;
    Err(living::lock_files_lost(slab, &strangers, living))
}

/// `None`: somebody is alone with the slab just now.
fn join_locked(slab: &Slab, locks: &Locks, identity: &Identity) -> Result<Option<ParticipantId>> {
    if let Some(joined) = next_unused(slab, locks, identity)? {
        return Ok(joined.or_wait());
    }
    // One sweep for as many joins as there are numbers.
    sweep(slab, locks, identity)?;
    let joined = next_unused(slab, locks, identity)?;
    joined
        .map(Joined::or_wait)
        .ok_or_else(|| Error::TooManyParticipants {
            path: known_as(slab.path()),
            limit: PARTICIPANT_MAX.into(),
        })
}

/// What became of an unused number.
enum Joined {
    As(ParticipantId),
    /// Its witness could not be locked: somebody is alone with the slab just now.
    NotNow,
}

impl Joined {
    fn or_wait(self) -> Option<ParticipantId> {
        match self {
            Joined::As(id) => Some(id),
            Joined::NotNow => None,
        }
    }
}

/// `None`: all numbers are in use.
fn next_unused(slab: &Slab, locks: &Locks, identity: &Identity) -> Result<Option<Joined>> {
    let cursor = &slab.header().next_participant;
    let from = cursor.load(Ordering::Relaxed) % u32::from(PARTICIPANT_MAX);
    for step in 0..u32::from(PARTICIPANT_MAX) {
        let number = ((from + step) % u32::from(PARTICIPANT_MAX) + 1) as u16;
        let (Some(id), Some(record)) = (ParticipantId::new(number), record(slab, number)?) else {
            continue;
        };
        let mut not_now = false;
        let lock_beacon = || {
            if !locks.try_lock_beacon(number)? {
                return Ok(false);
            }
            // Before the number is marked as used, as the beacon.
            not_now = !slab.lock_witness(number)?;
            if not_now {
                locks.unlock_beacon(number);
            }
            Ok::<_, Error>(!not_now)
        };
        let describe = || describe_self(record, identity, slab.address());
        if take_number(&record.state, lock_beacon, describe)? {
            cursor.store(number.into(), Ordering::Relaxed);
            return Ok(Some(Joined::As(id)));
        }
        if not_now {
            return Ok(Some(Joined::NotNow));
        }
    }
    Ok(None)
}

/// The record of a number, allocating it if need be. Growing is safe here: participants grow under
/// the lock for joining, and by nobody else.
fn record(slab: &Slab, number: u16) -> Result<Option<&Participant>> {
    while !slab.covers(Growing::Participants, number.into()) {
        if !slab.grow(Growing::Participants)? {
            return Err(slab.corrupt("it is shorter than its header says"));
        }
    }
    Ok(slab.participant(number))
}

fn describe_self(record: &Participant, identity: &Identity, mapped_at: u64) {
    let store = |to: &AtomicU64, value: u64| to.store(value, Ordering::Relaxed);
    crash_point();
    let uid = nix::unistd::getuid().as_raw();
    store(
        &record.pid_uid,
        u64::from(identity.pid) | u64::from(uid) << 32,
    );
    store(&record.started, identity.started);
    store(&record.pid_namespace, identity.pid_namespace);
    store(&record.mapped_at, mapped_at);
    let mut name = [0; 24];
    let len = identity.program.len().min(name.len());
    name[..len].copy_from_slice(&identity.program[..len]);
    for (to, from) in record.program.iter().zip(name.chunks_exact(8)) {
        store(to, u64::from_le_bytes(from.try_into().unwrap_or_default()));
    }
    for waiting in &record.waiting {
        store(waiting, 0);
    }
}

/// Frees every word that names a dead participant, and then the numbers of the dead. Only under the
/// lock for joining, so none of them comes back to life meanwhile.
fn sweep(slab: &Slab, locks: &Locks, identity: &Identity) -> Result<()> {
    let mut dead = vec![false; usize::from(PARTICIPANT_MAX) + 1];
    for number in 1..=PARTICIPANT_MAX {
        let used = slab
            .participant(number)
            .is_some_and(|r| r.state.load(Ordering::Acquire) & PARTICIPANT_USED != 0);
        dead[usize::from(number)] = used && is_gone(slab, locks, identity, number, true)?;
    }
    let record = |p: ParticipantId| slab.participant(p.get());
    joining::sweep(
        &mut dead,
        |visit| each_hold(slab, visit),
        |p| record(p).map_or(0, pid_of),
        |p| record(p).map(|record| &record.state),
    );
    Ok(())
}

/// Every hold word that is allocated, whatever it is used for.
pub(in crate::store) fn each_hold(slab: &Slab, mut visit: impl FnMut(&Hold)) {
    let slots = 0..slab.allocated(Growing::Slots);
    for id in slots.map_while(|n| slab.slot_id(n)) {
        visit(&slab.slot(id).hold);
    }
    for block in 0..slab.allocated(Growing::Blocks) {
        for index in 0..PERMITS_PER_BLOCK {
            if let Some(permit) = slab.permit(block, index) {
                visit(&permit.hold);
            }
        }
    }
}

/// Whether a participant is dead, as seen through a descriptor that does not hold its beacon.
fn is_gone(slab: &Slab, locks: &Locks, me: &Identity, number: u16, thorough: bool) -> Result<bool> {
    let record = slab.participant(number);
    if locks.is_beacon_locked(number)? {
        return Ok(record.is_some_and(|r| process_is_gone(r, me, PARTICIPANT_SHARED, thorough)));
    }
    if !slab.is_witness_locked(number)? {
        return Ok(true);
    }
    // It lives and other code in it has closed its descriptors; or a child that it forked still has
    // its map. Whatever was handed on is gone with the beacon.
    Ok(record.is_none_or(|r| process_is_gone(r, me, 0, true) || has_executed(r, me, 0)))
}

/// Whether a participant is dead, as far as a reader can tell: it does not open the lock files, so
/// the witness stands for the beacon. Where the kernel does not answer, the process id decides.
pub(in crate::store) fn is_gone_by_witness(slab: &Slab, me: &Identity, number: u16) -> bool {
    match slab.is_witness_locked(number) {
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
/// it has executed another program. Only asked where nothing but a map is in doubt: a child that it
/// forked may have that, too.
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

fn pid_of(record: &Participant) -> u32 {
    record.pid_uid.load(Ordering::Relaxed) as u32
}

/// The processes that take part in a store: which lives, what is known of it, and which slots it
/// waits for.
#[derive(Clone, Copy)]
pub(crate) struct Members<'s>(pub(crate) &'s Store);

impl<'s> Members<'s> {
    /// Whether `other` is dead. In doubt it is alive, also when the kernel refuses to answer.
    pub(crate) fn is_dead(self, process: &Process, other: ParticipantId) -> bool {
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
    pub(crate) fn describe(self, process: &Process, id: ParticipantId) -> Option<Described> {
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
    pub(crate) fn mark_waiting(self, process: &Process, slot: SlotId) -> Option<WaitingMark<'s>> {
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
    pub(crate) fn waiters(self, process: &Process, slot: SlotId) -> usize {
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
pub(crate) struct WaitingMark<'a> {
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
