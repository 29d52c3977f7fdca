//! Looking at the whole index without keeping anybody from it: in pieces of about a millisecond,
//! each under the lock of its stripe. A maker or remover of a key waits for a piece at the most.
//!
//! Stripes take turns, so that a process that asks for one again and again finds it free for most
//! of the time. What is seen is whole for each of the rows that a stripe had at first, with all
//! that came of it since: a key that is there all the time is seen once, however many buckets are
//! added meanwhile.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::os::memory;
use crate::slab::buckets::Buckets;
use crate::slab::layout::STRIPES;
use crate::slab::{Slab, SlotId};
use crate::store::Store;
use crate::store::index::chains::Index;
use crate::store::index::stripe::StripeGuard;
use crate::store::key_entry::KeyEntry;
use crate::store::slots::by_slot::Slots;
use crate::sync::{AtomicU32, Ordering};

/// How long a stripe is kept locked. Others ask twice as often, and give up after 50 ms.
const PIECE: Duration = Duration::from_millis(1);

/// How many buckets are looked at between two looks at the clock.
const CLOCKED: u32 = 8;

/// Has the processor fetch what a walk over the buckets of a stripe will come to soon: where chains
/// begin, and the first slots of those that come before.
#[inline(always)]
fn prefetch(slab: &Slab, bucket: u32) {
    const SLOT_AHEAD: u32 = 8;
    const HEAD_AHEAD: u32 = 24;
    let ahead = |rows| Buckets(slab).head(bucket.saturating_add(rows * STRIPES));
    let (Some(near), Some(far)) = (ahead(SLOT_AHEAD), ahead(HEAD_AHEAD)) else {
        return;
    };
    let far: *const AtomicU32 = far;
    memory::hint(far.cast());
    if let Some(id) = slab.follow(near.load(Ordering::Relaxed)) {
        slab.slot(id).prefetch(1);
    }
}

/// How far a stripe has been looked at.
#[derive(Clone, Copy)]
struct Walkthrough {
    stripe: u32,
    /// How many rows it had at first; `None`: it was not looked at yet.
    rows: Option<u32>,
    next: u32,
}

impl Walkthrough {
    fn is_over(&self) -> bool {
        self.rows.is_some_and(|rows| self.next >= rows)
    }

    fn end(&mut self) {
        self.rows = Some(0);
    }

    /// The buckets that have the next row.
    fn next_of(&mut self, guard: &StripeGuard<'_>) -> Option<impl Iterator<Item = u32> + use<>> {
        let now = guard.rows();
        let rows = *self.rows.get_or_insert(now);
        let row = self.next;
        self.next += 1;
        (row < rows).then(|| Buckets::of_row(self.stripe, row, rows, now))
    }
}

/// All keys of a store, a piece of the structure at a time.
#[derive(Clone, Copy)]
pub(in crate::store) struct Pieces<'s>(pub(in crate::store) &'s Store);

impl<'s> Pieces<'s> {
    /// Hands out every bucket under its stripe. A stripe that cannot be locked is handed out once,
    /// as the error.
    pub(in crate::store) fn each_bucket(
        self,
        visit: impl FnMut(Result<(&StripeGuard<'_>, u32)>) -> Result<()>,
    ) -> Result<()> {
        self.each_bucket_of(0..STRIPES, visit)
    }

    /// Hands out every bucket of these stripes.
    fn each_bucket_of(
        self,
        stripes: Range<u32>,
        mut visit: impl FnMut(Result<(&StripeGuard<'_>, u32)>) -> Result<()>,
    ) -> Result<()> {
        let begin = |stripe| Walkthrough {
            stripe,
            rows: None,
            next: 0,
        };
        let mut all: Vec<Walkthrough> = stripes.map(begin).collect();
        let mut last = None;
        while all.iter().any(|stripe| !stripe.is_over()) {
            for progress in all.iter_mut().filter(|stripe| !stripe.is_over()) {
                let stripe = progress.stripe;
                if last.replace(stripe) == Some(stripe) {
                    // No other has its turn in between: the processes that ask for this one do.
                    std::thread::sleep(PIECE);
                }
                match Index(self.0).lock_stripe(stripe) {
                    Ok(guard) => {
                        let begun = Instant::now();
                        // The clock takes longer than most buckets.
                        let mut visited = 0_u32;
                        while (!visited.is_multiple_of(CLOCKED) || begun.elapsed() < PIECE)
                            && let Some(buckets) = progress.next_of(&guard)
                        {
                            visited += 1;
                            for bucket in buckets {
                                prefetch(self.0.slab(), bucket);
                                visit(Ok((&guard, bucket)))?;
                            }
                        }
                    }
                    Err(error) => {
                        progress.end();
                        visit(Err(error))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Hands out what is in every bucket. The first stripe that cannot be locked, and the first
    /// damaged chain, is the end of it.
    pub(in crate::store) fn each_chain(
        self,
        visit: impl FnMut(&StripeGuard<'_>, u32, Vec<SlotId>) -> Result<()>,
    ) -> Result<()> {
        self.each_chain_of(0..STRIPES, visit)
    }

    /// Hands out what is in every bucket of these stripes.
    fn each_chain_of(
        self,
        stripes: Range<u32>,
        mut visit: impl FnMut(&StripeGuard<'_>, u32, Vec<SlotId>) -> Result<()>,
    ) -> Result<()> {
        self.each_bucket_of(stripes, |bucket| {
            let (guard, bucket) = bucket?;
            let mut ids = Vec::new();
            guard.walk(bucket, |id| {
                ids.push(id);
                true
            })?;
            visit(guard, bucket, ids)
        })
    }
    /// The keys of a stripe that `wanted` wants.
    pub(in crate::store) fn list_stripe(
        self,
        stripe: u32,
        wanted: impl Fn(&StripeGuard<'_>, KeyEntry) -> bool,
    ) -> Result<Vec<Vec<u8>>> {
        let mut keys = Vec::new();
        self.each_chain_of(stripe..stripe + 1, |guard, _, ids| {
            let found = ids.into_iter().filter_map(|id| guard.found(id));
            let found = found.filter(|found| wanted(guard, *found));
            keys.extend(found.filter_map(|found| Slots(self.0).key_of(found)));
            Ok(())
        })?;
        Ok(keys)
    }
}
