//! Rebuilding: from the slots alone, everything that can be derived from them. What `repair` does,
//! and what the first to attach does after a reboot, when pages may have reached the disk in any
//! order.
//!
//! Needs to be alone. It only ever computes the same from the same slots, and marks the slab as
//! being rebuilt until it is done: a process that dies over it leaves the work to the next one.
//!
//! Here are the steps in their order, and the holds' part; those of the keys, the values, the
//! log and the tokens have files of their own.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::record::{Hold, ParticipantId, SEQUENCE_LEAP, SEQUENCE_MAX, Word};
use crate::slab::header::{STATE_READY, STATE_REBUILDING};
use crate::slab::{Growing, PARTICIPANT_SHARED, PARTICIPANT_USED, Slab};
use crate::store::home::alone::{self, Alone};
use crate::store::home::boots::{self, BootSeen};
use crate::store::home::rebuild_keys::Rebuild;
use crate::store::home::rebuild_tokens::{
    Leap, catch_up, floor_of_clock, leap_tickets, raise_floors, refuse_used_up, set_floors,
};
use crate::store::home::{open, original, rebuild_log, rebuild_values, slab_file};
use crate::store::log::sync;
use crate::store::members::join::each_hold;
use crate::store::members::living;
use crate::store::members::lock_files::Locks;
use crate::store::names;
use crate::store::names::Site;
use crate::sync::Ordering;

/// What a repair did.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// Keys that are there afterwards.
    pub keys_kept: usize,
    /// Keys of which the slots made no sense any more, and which are gone.
    pub keys_lost: usize,
    /// Slots that were marked as used and belonged to no key.
    pub slots_freed: usize,
    /// What was mended, one sentence each. Empty if nothing had to be.
    pub actions: Vec<String>,
}

/// What was done, a line each, and the counts in the last one.
impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(f, "{action}")?;
        }
        let (kept, lost, freed) = (self.keys_kept, self.keys_lost, self.slots_freed);
        write!(f, "{kept} keys kept, {lost} lost, {freed} slots freed")
    }
}

impl RepairReport {
    pub(crate) fn merge(&mut self, other: RepairReport) {
        self.keys_kept += other.keys_kept;
        self.keys_lost += other.keys_lost;
        self.slots_freed += other.slots_freed;
        self.actions.extend(other.actions);
    }
}

/// Repairs the store in `dir`.
pub(crate) fn repair(dir: &Path, mode: u32) -> Result<RepairReport> {
    let (slab, locks) = alone_with(dir, mode)?;
    let Some(slab) = slab else {
        // Never finished: the next one to open it makes it.
        return Ok(RepairReport::default());
    };
    original::check(&slab)?;
    // Also of participants with lock files that were removed meanwhile.
    let _alone = Alone::with(&slab, &locks, &locks.strangers(&slab))?;
    let cut_off = slab.extent().clamp_to_file()?;
    slab.extent().fill_holes()?;
    slab_file::write_static(slab.file()?, slab.path(), slab.part())?;
    if cut_off.is_some() {
        // Nobody knows how far the tokens of what is gone had come.
        raise_floors(&slab, 0);
        refuse_used_up(&slab, SEQUENCE_LEAP)?;
        raise_floors(&slab, SEQUENCE_LEAP);
    }
    // First, so that one repair is enough for what comes of it.
    let emptied = rebuild_values::finish(&slab)?;
    let leap = match boots::is_known(&slab, BootSeen::now()?) {
        true => Leap::None,
        false => Leap::Reboot,
    };
    let mut report = rebuild(&slab, &locks, leap, true)?;
    let before = cut_off.into_iter().chain(emptied);
    report.actions.splice(0..0, before);
    report.actions.extend(sync::sync_alone(&slab)?);
    Ok(report)
}

/// Attaches to a store for something that can only be done alone. `None`: the slab was never
/// finished.
fn alone_with(dir: &Path, mode: u32) -> Result<(Option<Box<Slab>>, Locks)> {
    open::refuse_sandbox(dir)?;
    let site = Site::of(dir)?;
    let dir = &site.dir;
    if !names::is_there(&dir.join(names::SLAB))? {
        return Err(names::not_a_store(
            dir,
            "it has no slab; name the directory of a store",
        ));
    }
    let locks = Locks::open(&site, site.likeness(mode)?)?;
    let attached = locks.try_attach_alone()?;
    let slab = slab_file::map_unchecked(dir)?;
    let is_in_use = match &slab {
        Some(slab) => !attached || alone::has_beacons(slab, &locks)?,
        None => !attached,
    };
    match (slab, is_in_use) {
        (slab, false) => Ok((slab, locks)),
        (Some(slab), true) => Err(living::busy(&slab, living::living(&slab, &locks)?)),
        (None, true) => Err(Error::Busy {
            path: site.locks.clone(),
            lost: Vec::new(),
            processes: Vec::new(),
        }),
    }
}

/// Makes the store in `dir` one of its own, whether or not it is seen to be a copy.
pub(crate) fn adopt_by_hand(dir: &Path, mode: u32) -> Result<()> {
    let (slab, locks) = alone_with(dir, mode)?;
    match slab {
        Some(slab) => adopt(&slab, &locks),
        // Never finished: the next one to open it makes it.
        None => Ok(()),
    }
}

/// Makes a copy a store of its own: nobody holds anything in it, and its tokens go on above all
/// that the store that it was made of can have granted, as far as a clock knows. All values and
/// averages stay.
pub(in crate::store) fn adopt(slab: &Slab, locks: &Locks) -> Result<()> {
    let _alone = Alone::with(slab, locks, &[])?;
    slab.extent().fill_holes()?;
    rebuild_values::finish(slab)?;
    let report = restructure(slab, locks, Leap::Copy, false)?;
    drop(report);
    // Before it passes for itself: should the power fail, it is a copy again, or has leapt.
    slab.sync()?;
    name(slab, locks)?;
    slab.header().state.store(STATE_READY, Ordering::Release);
    slab.sync()
}

/// Rebuilds the slab. With `thorough`, all values of the log are read, too.
pub(in crate::store) fn rebuild(
    slab: &Slab,
    locks: &Locks,
    leap: Leap,
    thorough: bool,
) -> Result<RepairReport> {
    let report = restructure(slab, locks, leap, thorough)?;
    if leap.is_of_nobody() {
        // Before this boot is known, and anybody is given a token: should the power fail again
        // while what the sequences leapt to is not on the device, they would leap from and
        // to the same numbers once more.
        sync::sync_alone(slab)?;
    }
    name(slab, locks)?;
    slab.header().state.store(STATE_READY, Ordering::Release);
    Ok(report)
}

fn restructure(slab: &Slab, locks: &Locks, leap: Leap, thorough: bool) -> Result<RepairReport> {
    slab.reach()?;
    refuse_used_up(slab, leap.length())?;
    let state = &slab.header().state;
    if !original::names_itself(slab) {
        // Never finished: named first, so that nobody takes what is begun here for a copy.
        original::name(slab);
    }
    // A rebuild that was begun after a reboot and not finished has left this state; then it is
    // begun again as one, for the boot is noted last.
    state.store(STATE_REBUILDING, Ordering::Release);
    slab.extent().clear_unallocated()?;
    let mut work = Rebuild::new(slab);
    work.clear_structure();
    work.keep_what_makes_sense();
    work.count_freed();
    let about_values = rebuild_log::adopt_log(slab, thorough)?;
    work.report.actions.extend(about_values);
    rebuild_values::restore_era(slab);
    void_holds(slab, locks, leap)?;
    let mut floor = raise_floors(slab, leap.length());
    if leap.is_of_nobody() {
        floor = floor.max(floor_of_clock());
        set_floors(slab, floor);
        catch_up(slab, floor);
    }
    Ok(work.report)
}

/// Lets the slab name itself, its lock files and this boot. The last step before it is ready.
pub(in crate::store) fn name(slab: &Slab, locks: &Locks) -> Result<()> {
    locks.adopt(slab);
    original::name(slab);
    boots::remember(slab, BootSeen::now()?);
    Ok(())
}

/// Frees what the dead hold, and all of it when nobody can live. Keeps for the successors that
/// somebody died.
fn void_holds(slab: &Slab, locks: &Locks, leap: Leap) -> Result<()> {
    let participants = slab.allocated(Growing::Participants);
    let ids = (1..participants).filter_map(|n| ParticipantId::new(n as u16));
    let mut living = vec![false; participants as usize];
    for id in ids.clone().filter(|_| !leap.is_of_nobody()) {
        // A participant that handed its beacon on lives although it is not attached.
        living[usize::from(id.get())] = locks.is_beacon_locked(id.get())?;
    }
    let lives = |id: ParticipantId| living.get(usize::from(id.get())) == Some(&true);
    each_hold(slab, |hold| void_hold(slab, hold, lives, leap.length()));
    for record in ids
        .filter(|id| !lives(*id))
        .filter_map(|id| slab.participant(id.get()))
    {
        record
            .state
            .fetch_and(!(PARTICIPANT_USED | PARTICIPANT_SHARED), Ordering::AcqRel);
    }
    if leap.is_of_nobody() {
        leap_tickets(slab, leap.length());
    }
    Ok(())
}

fn void_hold(slab: &Slab, hold: &Hold, lives: impl Fn(ParticipantId) -> bool, leap: u64) {
    hold.end_retirement();
    let seen = hold.load();
    if let Some(holder) = seen.participant().filter(|p| !lives(*p)) {
        let pid = slab.participant(holder.get());
        let pid = pid.map_or(0, |r| r.pid_uid.load(Ordering::Relaxed) as u32);
        hold.abandon(seen, pid);
    }
    if leap > 0 {
        let left = hold.load();
        let raised = Word::free(left.sequence().saturating_add(leap).min(SEQUENCE_MAX));
        let raised = if left.is_abandoned() {
            raised.abandoned()
        } else {
            raised
        };
        hold.reset(raised);
    }
}
