//! More buckets for more keys: each stripe adds its own, when keys are made in it, so that no maker
//! waits for another stripe, and none does more than a little of it.
//!
//! How many there are to be follows from how many slots are allocated, which never falls: no count
//! of keys has to be kept, that a death could leave wrong.

use crate::error::Result;
use crate::record::split::{Astray, Chained, Split};
use crate::slab::buckets::Buckets;
use crate::slab::{Growing, Intent, Slab};
use crate::store::index::stripe::StripeGuard;
use crate::sync::{AtomicU32, Ordering};

/// How many buckets the maker of a key adds at the most: one for each of the slots that it may
/// take, as a rule.
const AT_A_TIME: u32 = 2;

/// Adds buckets to a stripe that is locked.
#[derive(Clone, Copy)]
pub(super) struct Splitter<'g>(pub(super) &'g StripeGuard<'g>);

/// The slots of a slab, for the new bucket of a split.
struct Chain<'g> {
    slab: &'g Slab,
    new: u32,
}

impl Chained for Chain<'_> {
    fn next(&self, link: u32) -> Option<&AtomicU32> {
        let id = self.slab.follow(link)?;
        Some(&self.slab.slot(id).next)
    }

    fn moves(&self, link: u32) -> bool {
        let hash = |id| self.slab.slot(id).hash.load(Ordering::Relaxed);
        let hash = self.slab.follow(link).map(hash);
        hash.is_some_and(|hash| Buckets::takes(self.new, hash))
    }
}

impl Splitter<'_> {
    /// Adds what buckets are due, or some of them.
    ///
    /// Killed after each step of [`split`](Self::split): (1) nobody looks at the new bucket, which
    /// is forgotten; (2) the same; (3) readers look there and find the parent's keys beside its
    /// own; (4) is continued.
    pub(super) fn split_what_is_due(self) -> Result<()> {
        let slab = self.0.store.slab();
        for _ in 0..AT_A_TIME {
            let rows = self.0.rows();
            let bucket = Buckets::last(self.0.number, rows + 1);
            if rows >= Buckets::rows_for(slab.allocated(Growing::Slots))
                || !self.split(bucket, rows)?
            {
                break;
            }
        }
        Ok(())
    }

    /// `false`: the chain that is to be parted does not end. That is told to those who look for its
    /// keys; others are not to go without for that.
    fn split(self, new: u32, rows: u32) -> Result<bool> {
        let stripe = self.0.stripe();
        let counter = Buckets(self.0.store.slab()).counter(self.0.number);
        let is_sound = self.with_both(new, false, |split| {
            // 1
            stripe.slots.store(0, Ordering::Relaxed);
            stripe.blocks.store(0, Ordering::Relaxed);
            stripe.bucket.store(new.into(), Ordering::Relaxed);
            stripe.set_intent(Intent::Split);
            // 2 and 3
            split.begin(counter, rows + 1);
            // 4
            split.unzip(&stripe.departures)
        })?;
        stripe.set_intent(Intent::None);
        Ok(is_sound)
    }

    /// Finishes what a dead process has begun, if readers look at the new bucket.
    pub(super) fn recover(self) -> Result<()> {
        let stripe = self.0.stripe();
        let new = stripe.bucket.load(Ordering::Relaxed) as u32;
        if Buckets::last(self.0.number, self.0.rows()) == new {
            self.with_both(new, true, |split| split.unzip(&stripe.departures))?;
        }
        stripe.set_intent(Intent::None);
        Ok(())
    }

    /// Works on the new bucket and its parent, if their chains end. Before readers look at the new
    /// one, nothing is known of what it leads to, and nothing has to be done about a chain without
    /// an end: `false`.
    fn with_both(
        self,
        new: u32,
        is_looked_at: bool,
        work: impl FnOnce(Split<'_, Chain<'_>>) -> std::result::Result<(), Astray>,
    ) -> Result<bool> {
        let slab = self.0.store.slab();
        let astray = || slab.corrupt(format!("bucket {new} cannot be parted from another"));
        let parent = Buckets::parent(new).ok_or_else(astray)?;
        let mut slots = 0_u32;
        for bucket in [Some(parent), is_looked_at.then_some(new)]
            .into_iter()
            .flatten()
        {
            let walked = self.0.walk(bucket, |_| {
                slots += 1;
                true
            });
            match walked {
                Err(_) if !is_looked_at => return Ok(false),
                walked => walked?,
            }
        }
        let split = Split {
            old: self.0.head(parent)?,
            new: self.0.head(new)?,
            slots: &Chain { slab, new },
            // Each slot is passed by both, and looked at once more before each step.
            steps: (slots + 2).saturating_mul(4 * (slots + 2)),
        };
        work(split).map_err(|Astray| astray())?;
        Ok(true)
    }
}
