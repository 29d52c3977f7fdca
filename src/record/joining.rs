//! Participant numbers: taken, described, and freed again after death (P3, P4). Beacons are the
//! caller's.

use crate::record::controls::{self, Rule, left_out};
use crate::record::{Cleared, Hold, ParticipantId};
use crate::sync::{AtomicU64, Ordering};

/// Flags of a participant's state word, above the number of joins. The number may be named by
/// words.
pub(crate) const PARTICIPANT_USED: u64 = 1 << 32;
/// The beacon was handed to other processes: the process id is no proof of death.
pub(crate) const PARTICIPANT_SHARED: u64 = 1 << 33;

/// Takes a number, if it is unused and its beacon is available: locks the beacon first, then
/// describes, then marks as used. Only under the lock for joining.
pub(crate) fn take_number<E>(
    state: &AtomicU64,
    lock_beacon: impl FnOnce() -> Result<bool, E>,
    describe: impl FnOnce(),
) -> Result<bool, E> {
    let before = state.load(Ordering::Acquire);
    if before & PARTICIPANT_USED != 0 {
        return Ok(false);
    }
    // A child may have a dead parent's beacon; the child's end would then be taken for ours.
    if !lock_beacon()? && !left_out(Rule::BeaconLocked) {
        return Ok(false);
    }
    // Pairs with the fence in `read_whole`: a reader that sees a word of this description sees that
    // the number was unused.
    controls::fence(Rule::RecordFenced, Ordering::Release);
    describe();
    let joins = before.wrapping_add(1) & 0xffff_ffff;
    // Release: a reader that sees the number used sees the description.
    state.store(joins | PARTICIPANT_USED, Ordering::Release);
    Ok(true)
}

/// Reads a description with its state, or nothing: the number may be on its way to another process.
pub(crate) fn read_whole<T>(state: &AtomicU64, read: impl FnOnce() -> T) -> Option<(u64, T)> {
    let before = state.load(Ordering::Acquire);
    let read = read();
    // Pairs with the fence in `take_number`.
    controls::fence(Rule::RecordFenced, Ordering::Acquire);
    let same = state.load(Ordering::Relaxed) == before || left_out(Rule::RecordReread);
    same.then_some((before, read))
}

/// Frees every word that names a dead participant, and then the numbers of the dead. Only under the
/// lock for joining, so that no number is taken again meanwhile. `dead` is by number; `each_hold`
/// shows every hold there is.
pub(crate) fn sweep<'a>(
    dead: &mut [bool],
    each_hold: impl FnOnce(&mut dyn FnMut(&Hold)),
    pid: impl Fn(ParticipantId) -> u32,
    state: impl Fn(ParticipantId) -> Option<&'a AtomicU64>,
) {
    if left_out(Rule::NumbersLast) {
        free_numbers(dead, &state);
    }
    each_hold(&mut |hold| {
        if left_out(Rule::WordsSwept) {
            return;
        }
        let cleared = hold.free_dead(|p| dead[usize::from(p.get())].then(|| pid(p)));
        // The process that locks the stripe next ends the removal; until then the number stays
        // taken.
        if let Cleared::Retiring(holder) = cleared
            && !left_out(Rule::RetiringKeepsNumber)
        {
            dead[usize::from(holder.get())] = false;
        }
    });
    free_numbers(dead, state);
}

fn free_numbers<'a>(dead: &[bool], state: impl Fn(ParticipantId) -> Option<&'a AtomicU64>) {
    let numbers = (0..).zip(dead).filter(|(_, dead)| **dead);
    for id in numbers.filter_map(|(number, _)| ParticipantId::new(number)) {
        if let Some(state) = state(id) {
            state.fetch_and(!(PARTICIPANT_USED | PARTICIPANT_SHARED), Ordering::AcqRel);
        }
    }
}
