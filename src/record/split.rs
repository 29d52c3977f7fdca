//! A bucket more: from one chain come two, while readers walk them without the lock.
//!
//! The new bucket first shows the whole chain of the old one, its parent. Then there is one more,
//! so that readers look there. Then the chain is unzipped, from its front on: of a link that leads
//! to keys of the other bucket, these are left out (Triplett, McKenney and Walpole, "Resizable,
//! scalable, concurrent hash tables via relativistic programming", USENIX ATC 2011). At each moment
//! both buckets lead to all of their own keys, and from some slot on to the same ones.
//!
//! Where that paper waits for the readers between two steps, here a step counts as a departure
//! (I8): a reader that stood on a slot whose link was changed under it, and found nothing, looks
//! again. The count is raised *before* the link is changed: a reader that sees the new link sees
//! the count, and one that begins after the count is led there by links of the steps before.
//!
//! What has been done can be seen from the chains, so that the successor of a dead process goes on
//! where that was.

use crate::record::controls::{Rule, left_out, ordered};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The slots of a stripe, as links: 0 is none.
pub(crate) trait Chained {
    /// The slot's link to the next one. `None`: there is no such slot.
    fn next(&self, link: u32) -> Option<&AtomicU32>;
    /// Whether the slot belongs to the new bucket.
    fn moves(&self, link: u32) -> bool;
}

/// A chain leads somewhere, or on and on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Astray;

/// The heads of two buckets, of which the new one takes over what belongs to it.
pub(crate) struct Split<'a, C> {
    pub(crate) old: &'a AtomicU32,
    pub(crate) new: &'a AtomicU32,
    pub(crate) slots: &'a C,
    /// More than there are slots in both.
    pub(crate) steps: u32,
}

impl<'a, C: Chained> Split<'a, C> {
    /// Shows the chain of the old bucket under the new one, and then that there is one more: raises
    /// `rows` to so many. Only under the stripe.
    pub(crate) fn begin(&self, rows: &AtomicU32, now: u32) {
        let chain = self.old.load(Ordering::Relaxed);
        if left_out(Rule::SharedFirst) {
            rows.store(now, Ordering::Release);
            return self.new.store(chain, Ordering::Release);
        }
        self.new.store(chain, Ordering::Relaxed);
        // Release: a reader that looks there finds the chain.
        rows.store(now, ordered(Rule::RowsRelease, Ordering::Release));
    }

    /// Parts the chains, from wherever that was left. Only under the stripe.
    pub(crate) fn unzip(&self, departures: &AtomicU64) -> Result<(), Astray> {
        let mut left = self.steps;
        let (mut stays, mut moves) = (self.old, self.new);
        loop {
            // The last link of each that its own keys alone have led to.
            stays = self.last_of_run(stays, false, &mut left)?;
            moves = self.last_of_run(moves, true, &mut left)?;
            let (foreign, other) = (stays.load(Ordering::Acquire), moves.load(Ordering::Acquire));
            left = left.checked_sub(1).ok_or(Astray)?;
            // Where both lead to the same slots, the first of these is foreign to one, and the
            // other has gone past it: what it has come to is what the one is to lead
            // to.
            let (behind, to) = if foreign == 0 && other == 0 {
                return Ok(());
            } else if other != 0 && self.first_of(other, true, &mut left)? == foreign {
                (moves, foreign)
            } else if foreign != 0 && self.first_of(foreign, false, &mut left)? == other {
                (stays, other)
            } else {
                return Err(Astray);
            };
            let count = departures.load(Ordering::Relaxed).wrapping_add(1);
            if left_out(Rule::StepCountedFirst) {
                behind.store(to, Ordering::Release);
                departures.store(count, Ordering::Release);
                continue;
            }
            if !left_out(Rule::StepCounted) {
                // Release: a walk that begins with this count sees the steps before.
                departures.store(count, ordered(Rule::StepReleases, Ordering::Release));
            }
            // Release: a reader that sees the link sees that it was counted.
            behind.store(to, ordered(Rule::LinkReleases, Ordering::Release));
        }
    }

    /// From a link, along the slots that move or along those that stay: the link of the last one.
    fn last_of_run(
        &self,
        from: &'a AtomicU32,
        moves: bool,
        left: &mut u32,
    ) -> Result<&'a AtomicU32, Astray> {
        let mut last = from;
        loop {
            let link = last.load(Ordering::Acquire);
            if link == 0 || self.slots.moves(link) != moves {
                return Ok(last);
            }
            last = self.step(link, left)?;
        }
    }

    /// From a slot on the first that moves, or the first that stays.
    fn first_of(&self, mut link: u32, moves: bool, left: &mut u32) -> Result<u32, Astray> {
        while link != 0 && self.slots.moves(link) != moves {
            link = self.step(link, left)?.load(Ordering::Acquire);
        }
        Ok(link)
    }

    fn step(&self, link: u32, left: &mut u32) -> Result<&'a AtomicU32, Astray> {
        *left = left.checked_sub(1).ok_or(Astray)?;
        self.slots.next(link).ok_or(Astray)
    }
}
