//! Rebuilding: from the slots alone, everything that can be derived from them. What `repair` does,
//! and what the first to attach does after a reboot, when pages may have reached the disk in any
//! order.
//!
//! Needs to be alone. It only ever computes the same from the same slots, and marks the slab as
//! being rebuilt until it is done: a process that dies over it leaves the work to the next one.

use std::fmt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::os::clock;
use crate::record::{Hold, ParticipantId, SEQUENCE_LEAP, SEQUENCE_MAX, Word, reachable};
use crate::slab::bytes::{KeyPlace, SPAN_MAX, read_bytes};
use crate::slab::hash::hash;
use crate::slab::header::{STATE_READY, STATE_REBUILDING};
use crate::slab::layout::{PERMITS_PER_BLOCK, STRIPES};
use crate::slab::{
    Growing, Intent, Meta, PARTICIPANT_SHARED, PARTICIPANT_USED, STATE_FREE, STATE_TAIL,
    STATE_USED, Slab, SlotId, Tenant,
};
use crate::store::home::alone::{self, Alone};
use crate::store::home::boots::{self, BootSeen};
use crate::store::home::{open, original, rebuild_values, slab_file};
use crate::store::key_entry::hash_as;
use crate::store::log::sync;
use crate::store::members::join::each_hold;
use crate::store::members::living;
use crate::store::members::lock_files::Locks;
use crate::store::names;
use crate::store::names::Site;
use crate::sync::{AtomicU8, AtomicU64, Ordering};

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

/// How far the tokens of a store leap when it is rebuilt, so that none comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leap {
    None,
    /// Every hold is void, and pages with the last grants may not have reached the device.
    Reboot,
    /// A copy, which does not know what was granted since by the store that it was made of.
    Copy,
}

impl Leap {
    fn length(self) -> u64 {
        match self {
            Leap::None => 0,
            Leap::Reboot | Leap::Copy => SEQUENCE_LEAP,
        }
    }

    fn is_of_nobody(self) -> bool {
        self != Leap::None
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
pub(crate) fn rebuild(
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
    let about_values = rebuild_values::adopt_log(slab, thorough)?;
    work.report.actions.extend(about_values);
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

/// Tokens are used up rather than given twice.
fn refuse_used_up(slab: &Slab, leap: u64) -> Result<()> {
    let highest = survey(slab).highest;
    match reachable(highest + leap) {
        Some(_) => Ok(()),
        None => Err(slab.corrupt(format!(
            "its tokens are used up (the highest is {highest}, and they have to leap); make a new store"
        ))),
    }
}

/// Of a new store, so that its tokens are above those of one that was in its place.
pub(in crate::store) fn begin_floors(slab: &Slab) {
    let from = floor_of_clock();
    for number in 0..STRIPES {
        slab.stripe(number).floor.fetch_max(from, Ordering::Relaxed);
    }
}

fn set_floors(slab: &Slab, floor: u64) {
    for number in 0..STRIPES {
        slab.stripe(number).floor.store(floor, Ordering::Relaxed);
    }
}

/// Microseconds since 2025: what no store can have granted that was made since, unless it granted a
/// million a second. It stops at three quarters of all sequences, in 2051, so that a clock that is
/// wrong does not use them up.
fn floor_of_clock() -> u64 {
    const SINCE_US: u64 = 1_735_689_600_000_000;
    clock::wall_us()
        .saturating_sub(SINCE_US)
        .min(SEQUENCE_MAX / 4 * 3)
}

struct Rebuild<'a> {
    slab: &'a Slab,
    report: RepairReport,
    /// The states as they were.
    before: Vec<u8>,
    unfinished: usize,
}

impl<'a> Rebuild<'a> {
    fn new(slab: &'a Slab) -> Rebuild<'a> {
        let layout = slab.layout();
        let states = (0..layout.slots.count).map(|at| load(slab.slot_state(at)));
        Rebuild {
            slab,
            report: RepairReport::default(),
            before: states.collect(),
            unfinished: 0,
        }
    }

    fn clear_structure(&mut self) {
        let slab = self.slab;
        for number in 0..STRIPES {
            let stripe = slab.stripe(number);
            if stripe.intent() != Some(Intent::None) {
                self.unfinished += 1;
            }
            stripe.set_intent(Intent::None);
        }
        if self.unfinished > 0 {
            let what = format!("ended {} unfinished changes", self.unfinished);
            self.report.actions.push(what);
        }
        for bucket in 0..slab.layout().buckets {
            slab.bucket(bucket).store(0, Ordering::Relaxed);
        }
        for at in 0..slab.layout().slots.count {
            set(slab.slot_state(at), STATE_FREE);
        }
        for at in 0..slab.layout().blocks.count {
            set(slab.block_state(at), STATE_FREE);
        }
        let header = slab.header();
        header.slot_hint.store(0, Ordering::Relaxed);
        header.block_hint.store(0, Ordering::Relaxed);
    }

    fn keep_what_makes_sense(&mut self) {
        for number in 0..self.slab.allocated(Growing::Slots) {
            let Some(id) = self.slab.slot_id(number) else {
                break;
            };
            let slot = self.slab.slot(id);
            let bits = slot.meta.load(Ordering::Relaxed);
            let meta = Meta::decode(bits);
            if meta.is_some_and(|m| m.kind.is_none()) {
                continue;
            }
            match meta.and_then(|meta| self.accept(id, meta)) {
                Some(()) => {
                    // Nobody has heard of turns.
                    let is_key = meta.is_some_and(|meta| meta.kind != Some(Tenant::Turn));
                    self.report.keys_kept += usize::from(is_key);
                }
                None => {
                    self.report.keys_lost += 1;
                    let what = format!("dropped slot {number}, which made no sense");
                    self.report.actions.push(what);
                    let next_life = (bits as u32).wrapping_add(1);
                    slot.meta.store(next_life.into(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Links a key again, if everything about it fits.
    fn accept(&mut self, id: SlotId, meta: Meta) -> Option<()> {
        let slab = self.slab;
        let slot = slab.slot(id);
        let kind = meta.kind?;
        let span = slot.span.load(Ordering::Relaxed);
        let place = KeyPlace::of(kind, meta.key_len, meta.tag_len);
        if span > SPAN_MAX || span < place.span() {
            return None;
        }
        let key = read_bytes(slab, id, place.key_at, meta.key_len)?;
        let hash = hash_as(kind, hash(slab.part().seed, &key));
        if slot.hash.load(Ordering::Relaxed) != hash as u32 {
            return None;
        }
        let bucket = (hash >> 32) as u32 & (slab.layout().buckets - 1);
        if self.is_linked_already(bucket, &key, hash as u32) {
            return None;
        }
        let (first_block, blocks) = self.blocks_of(kind, id)?;
        let free = |state: Option<&AtomicU8>| load(state) == STATE_FREE;
        let slots = id.index()..id.index().checked_add(span)?;
        let blocks = first_block..first_block.checked_add(blocks)?;
        let room = slots
            .clone()
            .all(|at| at < slab.layout().slots.count && free(slab.slot_state(at)))
            && blocks
                .clone()
                .all(|at| at < slab.layout().blocks.count && free(slab.block_state(at)));
        if !room {
            return None;
        }
        for at in slots.skip(1) {
            set(slab.slot_state(at), STATE_TAIL);
        }
        for at in blocks {
            set(slab.block_state(at), STATE_USED);
        }
        set(slab.slot_state(id.index()), STATE_USED);
        match kind {
            Tenant::Averager => self.mend_average(id, meta.generation, &key),
            Tenant::Value => {
                let mended = rebuild_values::mend_value(slab, id, meta, &key);
                self.report.actions.extend(mended);
            }
            _ => {}
        }
        let head = slab.bucket(bucket);
        slot.next
            .store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(id.link(), Ordering::Relaxed);
        Some(())
    }

    fn blocks_of(&self, kind: Tenant, id: SlotId) -> Option<(u32, u32)> {
        if kind != Tenant::Semaphore {
            return Some((0, 0));
        }
        let (first, permits) = self.slab.slot(id).permits();
        let last = permits.checked_sub(1)?;
        let inside = permits <= u32::from(u16::MAX) && self.slab.permit(first, last).is_some();
        inside.then_some((first, permits.div_ceil(PERMITS_PER_BLOCK)))
    }

    fn mend_average(&mut self, id: SlotId, life: u32, key: &[u8]) {
        let cells = self.slab.slot(id).cells();
        if cells.is_whole() {
            return;
        }
        let shown = crate::error::show_key(key);
        let what = if cells.restore() {
            format!("set the average {shown} back to its value before the last change")
        } else {
            cells.reset(&[0; crate::record::PAYLOAD_WORDS], life);
            format!("emptied the average {shown}, of which no value was whole")
        };
        self.report.actions.push(what);
    }

    /// The hash tells a key from its turn.
    fn is_linked_already(&self, bucket: u32, key: &[u8], hash: u32) -> bool {
        let slab = self.slab;
        let mut link = slab.bucket(bucket).load(Ordering::Relaxed);
        while let Some(id) = slab.follow(link) {
            let slot = slab.slot(id);
            let same = slot.meta().and_then(|meta| {
                let place = KeyPlace::of(meta.kind?, meta.key_len, meta.tag_len);
                read_bytes(slab, id, place.key_at, meta.key_len)
            });
            if same.as_deref() == Some(key) && slot.hash.load(Ordering::Relaxed) == hash {
                return true;
            }
            link = slot.next.load(Ordering::Relaxed);
        }
        false
    }

    fn count_freed(&mut self) {
        let freed = self.before.iter().enumerate().filter(|(at, before)| {
            **before != STATE_FREE && load(self.slab.slot_state(*at as u32)) == STATE_FREE
        });
        self.report.slots_freed = freed.count();
        if self.report.slots_freed > 0 {
            let what = format!("freed {} slots without a key", self.report.slots_freed);
            self.report.actions.push(what);
        }
    }
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

/// How far the tokens of a slab have come.
struct Survey {
    /// Of those that a grant can reach.
    highest: u64,
    /// There is one that no grant reaches, which is damage.
    is_damaged: bool,
}

fn survey(slab: &Slab) -> Survey {
    let mut survey = Survey {
        highest: 0,
        is_damaged: false,
    };
    let mut look = |sequence| match reachable(sequence) {
        Some(sequence) => survey.highest = survey.highest.max(sequence),
        None => survey.is_damaged = true,
    };
    each_hold(slab, |hold| look(hold.load().sequence()));
    tickets(slab).for_each(|ticket| look(ticket.load(Ordering::Relaxed)));
    for number in 0..STRIPES {
        look(slab.stripe(number).floor.load(Ordering::Relaxed));
    }
    survey
}

fn tickets(slab: &Slab) -> impl Iterator<Item = &AtomicU64> {
    let blocks = 0..slab.allocated(Growing::Blocks);
    blocks.filter_map(|block| Some(&slab.permit(block, 0)?.ticket))
}

/// Raises the floors of all stripes: whatever key was lost, when it is made again, its tokens are
/// above all there ever were. Sequences that no grant can reach are damage, and begin there again,
/// too. Returns the floor, above which there is no sequence.
fn raise_floors(slab: &Slab, leap: u64) -> u64 {
    for number in 0..STRIPES {
        let floor = &slab.stripe(number).floor;
        let leapt = floor.load(Ordering::Relaxed).saturating_add(leap);
        floor.store(leapt, Ordering::Relaxed);
    }
    let Survey {
        mut highest,
        is_damaged,
    } = survey(slab);
    if is_damaged {
        highest += SEQUENCE_LEAP;
    }
    set_floors(slab, highest);
    for ticket in tickets(slab).filter(|t| reachable(t.load(Ordering::Relaxed)).is_none()) {
        ticket.store(highest, Ordering::Relaxed);
    }
    each_hold(slab, |hold| {
        if reachable(hold.load().sequence()).is_none() {
            hold.reset(Word::free(highest));
        }
    });
    highest
}

/// Lets every sequence begin at the floor. A key that is removed and made again continues above the
/// floor, and if the power fails before that is on the device, it is back where it was: then one
/// leap from there has to be above all tokens of this boot.
fn catch_up(slab: &Slab, floor: u64) {
    /// What stamps know of a sequence: its lowest bits, which stay.
    const STAMPED: u64 = 1 << 8;
    each_hold(slab, |hold| {
        let seen = hold.load();
        let behind = floor.saturating_sub(seen.sequence());
        let sequence = seen.sequence() + behind.next_multiple_of(STAMPED);
        let word = Word::free(sequence.min(SEQUENCE_MAX));
        hold.reset(if seen.is_abandoned() {
            word.abandoned()
        } else {
            word
        });
    });
    for block in 0..slab.allocated(Growing::Blocks) {
        if let Some(first) = slab.permit(block, 0) {
            first.ticket.fetch_max(floor + STAMPED, Ordering::Relaxed);
        }
    }
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

/// The tickets of semaphores leap with their permits.
fn leap_tickets(slab: &Slab, leap: u64) {
    for block in 0..slab.allocated(Growing::Blocks) {
        if let Some(first) = slab.permit(block, 0) {
            first.ticket.fetch_add(leap, Ordering::Relaxed);
        }
    }
}

fn load(state: Option<&AtomicU8>) -> u8 {
    state.map_or(STATE_FREE, |s| s.load(Ordering::Relaxed))
}

fn set(state: Option<&AtomicU8>, to: u8) {
    if let Some(state) = state {
        state.store(to, Ordering::Relaxed);
    }
}
