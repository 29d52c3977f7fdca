//! The tokens of a store that is made, rebuilt or adopted: none comes twice, whatever was lost. The
//! floors of the stripes, above which a key begins that is made again, and the leap of every
//! sequence where nobody knows how far the tokens had come.

use crate::error::Result;
use crate::os::clock;
use crate::record::{SEQUENCE_LEAP, SEQUENCE_MAX, Word, reachable};
use crate::slab::layout::STRIPES;
use crate::slab::{Growing, Slab};
use crate::store::members::join::each_hold;
use crate::sync::{AtomicU64, Ordering};

/// How far the tokens of a store leap when it is rebuilt, so that none comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Leap {
    None,
    /// Every hold is void, and pages with the last grants may not have reached the device.
    Reboot,
    /// A copy, which does not know what was granted since by the store that it was made of.
    Copy,
}

impl Leap {
    pub(super) fn length(self) -> u64 {
        match self {
            Leap::None => 0,
            Leap::Reboot | Leap::Copy => SEQUENCE_LEAP,
        }
    }

    pub(super) fn is_of_nobody(self) -> bool {
        self != Leap::None
    }
}

/// Tokens are used up rather than given twice.
pub(super) fn refuse_used_up(slab: &Slab, leap: u64) -> Result<()> {
    let highest = survey(slab).highest;
    match reachable(highest + leap) {
        Some(_) => Ok(()),
        None => Err(slab.corrupt(format!(
            "its tokens are used up (the highest is {highest}, and they have to leap); make a new store"
        ))),
    }
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

/// Of a new store, so that its tokens are above those of one that was in its place.
pub(super) fn begin_floors(slab: &Slab) {
    let from = floor_of_clock();
    for number in 0..STRIPES {
        slab.stripe(number).floor.fetch_max(from, Ordering::Relaxed);
    }
}

/// Raises the floors of all stripes: whatever key was lost, when it is made again, its tokens are
/// above all there ever were. Sequences that no grant can reach are damage, and begin there again,
/// too. Returns the floor, above which there is no sequence.
pub(super) fn raise_floors(slab: &Slab, leap: u64) -> u64 {
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

pub(super) fn set_floors(slab: &Slab, floor: u64) {
    for number in 0..STRIPES {
        slab.stripe(number).floor.store(floor, Ordering::Relaxed);
    }
}

/// Microseconds since 2025: what no store can have granted that was made since, unless it granted a
/// million a second. It stops at three quarters of all sequences, in 2051, so that a clock that is
/// wrong does not use them up.
pub(super) fn floor_of_clock() -> u64 {
    const SINCE_US: u64 = 1_735_689_600_000_000;
    clock::wall_us()
        .saturating_sub(SINCE_US)
        .min(SEQUENCE_MAX / 4 * 3)
}

/// Lets every sequence begin at the floor. A key that is removed and made again continues above the
/// floor, and if the power fails before that is on the device, it is back where it was: then one
/// leap from there has to be above all tokens of this boot.
pub(super) fn catch_up(slab: &Slab, floor: u64) {
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

/// The tickets of semaphores leap with their permits.
pub(super) fn leap_tickets(slab: &Slab, leap: u64) {
    for block in 0..slab.allocated(Growing::Blocks) {
        if let Some(first) = slab.permit(block, 0) {
            first.ticket.fetch_add(leap, Ordering::Relaxed);
        }
    }
}
