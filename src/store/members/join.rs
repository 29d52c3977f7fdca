//! Taking part: a process takes a number and says there what it is, and numbers of the dead are
//! freed when there are none left.

use crate::error::{Error, Result};
use crate::os::process::Identity;
use crate::record::joining::{self, take_number};
use crate::record::{Hold, PARTICIPANT_MAX, ParticipantId};
use crate::slab::layout::PERMITS_PER_BLOCK;
use crate::slab::{Growing, PARTICIPANT_USED, Participant, Slab};
use crate::store::JOIN_BYTE;
use crate::store::members::living;
use crate::store::members::lock_files::Locks;
use crate::store::members::participants::{is_gone, pid_of};
use crate::store::names::known_as;
use crate::sync::{AtomicU64, Ordering, crash_point};

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
    slab.witnesses().unlock(id.get());
    locks.unlock_beacon(id.get());
    let living = living::living(slab, locks)?;
    Err(living::lock_files_lost(slab, &strangers, living))
}

/// `None`: somebody is alone with the slab just now.
fn join_locked(slab: &Slab, locks: &Locks, identity: &Identity) -> Result<Option<ParticipantId>> {
    if let Some(joined) = next_unused(slab, locks, identity)? {
        return Ok(joined.number());
    }
    // One sweep for as many joins as there are numbers.
    sweep(slab, locks, identity)?;
    let joined = next_unused(slab, locks, identity)?;
    joined
        .map(Joined::number)
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
    fn number(self) -> Option<ParticipantId> {
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
            not_now = !slab.witnesses().lock(number)?;
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
        if !slab.extent().grow(Growing::Participants)? {
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
    slab.reach()?;
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
