//! Room for keys: runs of slots, and runs of blocks for the permits of semaphores.
//!
//! The state bytes are the truth about what is used. A run is noted in the stripe's intent *before*
//! its states are claimed, so a dead claimer's can be told from everyone else's: claimed by this
//! stripe, and in the intent. Claims of different stripes race by compare-exchange.

use std::ops::Range;

use crate::error::Error;
use crate::slab::layout::{PERMITS_PER_BLOCK, STRIPES, section_behind};
use crate::slab::{CLAIMED, Growing, STATE_FREE, Slab, pack};
use crate::store::index::stripe::StripeGuard;
use crate::store::members::range::Ranges;
use crate::store::patience::Patience;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// So many states are looked at for free ones before others are allocated: some ten microseconds.
const NEAR: u32 = 16_384;

/// The most blocks that a semaphore has.
pub(in crate::store) const BLOCKS_MAX: u32 = 65_536 / PERMITS_PER_BLOCK;

/// Room that was asked for.
pub(in crate::store) type Claimed<T> = Result<T, NoRoom>;

/// Why there is no room.
pub(in crate::store) enum NoRoom {
    /// There is no run of that length.
    Full,
    /// Values take as many bytes as they may.
    OverLimit,
    /// The slab has to be made longer, and another process was still doing so when the patience was
    /// over.
    Late,
    /// What is left of a deleted value is in the way, and somebody alive has its latch just now.
    Busy,
    /// A transaction that may be under way counts on there being no such key.
    Watched,
    Failed(Error),
}

impl From<Error> for NoRoom {
    fn from(error: Error) -> NoRoom {
        NoRoom::Failed(error)
    }
}

/// So many in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Run {
    pub(in crate::store) first: u32,
    pub(in crate::store) count: u32,
}

impl Run {
    fn numbers(self) -> Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// What to claim from: slots or blocks.
#[derive(Clone, Copy)]
pub(in crate::store) enum Pool {
    Slots,
    Blocks,
}

impl Pool {
    pub(in crate::store) fn state(self, slab: &Slab, at: u32) -> Option<&AtomicU8> {
        match self {
            Pool::Slots => slab.slot_state(at),
            Pool::Blocks => slab.block_state(at),
        }
    }

    fn growing(self) -> Growing {
        match self {
            Pool::Slots => Growing::Slots,
            Pool::Blocks => Growing::Blocks,
        }
    }

    fn len(self, slab: &Slab) -> u32 {
        match self {
            Pool::Slots => slab.layout().slots.count,
            Pool::Blocks => slab.layout().blocks.count,
        }
    }

    fn hint(self, slab: &Slab) -> &AtomicU32 {
        match self {
            Pool::Slots => &slab.header().slot_hint,
            Pool::Blocks => &slab.header().block_hint,
        }
    }
}

/// Slots and blocks for a key that is made, under its stripe.
#[derive(Clone, Copy)]
pub(in crate::store) struct Allocator<'g>(pub(in crate::store) &'g StripeGuard<'g>);

impl<'g> Allocator<'g> {
    /// Claims `count` in a row and returns the first. Looks near where somebody has found some,
    /// then behind all that there is, and then, if it is worth it or is to be `thorough`,
    /// everywhere: so no maker of a key looks at all slots only because few of them are free.
    pub(in crate::store) fn claim(
        self,
        pool: Pool,
        count: u32,
        thorough: bool,
        patience: Patience,
    ) -> Claimed<u32> {
        let slab = self.0.store.slab();
        let hint = pool.hint(slab).load(Ordering::Relaxed);
        let (all, allocated) = (pool.len(slab), slab.allocated(pool.growing()));
        let near = hint.saturating_add(NEAR).min(all);
        let first = self.claim_within(pool, count, hint..near, patience);
        match first {
            Ok(first) => {
                pool.hint(slab).store(first + count, Ordering::Relaxed);
                return Ok(first);
            }
            Err(NoRoom::Full) => {}
            // Nothing more can be allocated.
            Err(NoRoom::Failed(_)) => return self.claim_anywhere(pool, count, patience),
            Err(other) => return Err(other),
        }
        let is_sparse = self.is_sparse(pool, allocated);
        if near < allocated && !is_sparse {
            let behind = allocated.saturating_sub(count)..all;
            if let Ok(first) = self.claim_within(pool, count, behind, patience) {
                // What is free before is for the next ones.
                pool.hint(slab).store(near, Ordering::Relaxed);
                return Ok(first);
            }
        }
        if near >= allocated && hint > 0 {
            // Round again: makers have gone past what was free and too short for them.
            let begin = NEAR.min(hint.saturating_add(count - 1)).min(all);
            let again = self.claim_within(pool, count, 0..begin, patience);
            let next = again.as_ref().map_or(begin, |first| first + count);
            pool.hint(slab).store(next, Ordering::Relaxed);
            if let Ok(first) = again {
                return Ok(first);
            }
        }
        if !thorough && !is_sparse && allocated > NEAR {
            return Err(NoRoom::Full);
        }
        self.claim_anywhere(pool, count, patience)
    }

    /// Whether half of what is allocated is free, of which no more is to be allocated then.
    fn is_sparse(self, pool: Pool, allocated: u32) -> bool {
        let slab = self.0.store.slab();
        match pool {
            Pool::Slots => {
                let taken = (0..STRIPES).map(|stripe| slab.stripe(stripe).taken().slots);
                let taken: u64 = taken.map(u64::from).sum();
                allocated > NEAR && taken < u64::from(allocated) / 2
            }
            Pool::Blocks => false,
        }
    }

    fn claim_anywhere(self, pool: Pool, count: u32, patience: Patience) -> Claimed<u32> {
        let slab = self.0.store.slab();
        let hint = pool.hint(slab).load(Ordering::Relaxed);
        let all = pool.len(slab);
        let first = match self.claim_within(pool, count, hint..all, patience) {
            // Rows that begin before the hint, also where none can be made.
            Err(why @ (NoRoom::Full | NoRoom::Failed(_))) if hint != 0 => {
                let end = hint.saturating_add(count - 1).min(all);
                match self.claim_within(pool, count, 0..end, patience) {
                    Err(NoRoom::Full) => return Err(why),
                    other => other?,
                }
            }
            other => other?,
        };
        pool.hint(slab).store(first + count, Ordering::Relaxed);
        Ok(first)
    }

    /// Looks at the last of each row first: if that is in use, no row begins before it that far.
    fn claim_within(
        self,
        pool: Pool,
        count: u32,
        within: Range<u32>,
        patience: Patience,
    ) -> Claimed<u32> {
        let slab = self.0.store.slab();
        let allocated = slab.allocated(pool.growing());
        let is_free = |at: &u32| match pool.state(slab, *at) {
            Some(state) => state.load(Ordering::Relaxed) == STATE_FREE,
            None => *at >= allocated,
        };
        let mut first = within.start;
        while first.saturating_add(count) <= within.end {
            if let Pool::Slots = pool
                && let Some(next) = section_behind(first, count)
            {
                // A key's slots lie in one section.
                first = next;
                continue;
            }
            let run = Run { first, count };
            match run.numbers().rev().find(|at| !is_free(at)) {
                // The header promises more than this process can reach.
                Some(used) if pool.state(slab, used).is_none() => {
                    return Err(self.unreachable(pool, used).into());
                }
                Some(used) => first = used + 1,
                None => {
                    self.ensure_allocated(pool, first + count, patience)?;
                    if self.claim_run(pool, run) {
                        return Ok(first);
                    }
                    // Another process was quicker with some of it.
                    first += 1;
                }
            }
        }
        Err(NoRoom::Full)
    }

    /// Claims exactly this run, or nothing if somebody else was quicker.
    fn claim_run(self, pool: Pool, run: Run) -> bool {
        let slab = self.0.store.slab();
        self.noted_run(pool)
            .store(pack(run.first, run.count), Ordering::Release);
        for at in run.numbers() {
            let mine = pool.state(slab, at).is_some_and(|state| {
                state
                    .compare_exchange(
                        STATE_FREE,
                        self.claim_mark(),
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    )
                    .is_ok()
            });
            if !mine {
                let count = at - run.first;
                self.unclaim(pool, Run { count, ..run });
                return false;
            }
        }
        true
    }

    /// Gives back what of this run is claimed by this stripe.
    pub(in crate::store) fn unclaim(self, pool: Pool, run: Run) {
        let slab = self.0.store.slab();
        for at in run.numbers() {
            let Some(state) = pool.state(slab, at) else {
                return;
            };
            // A failure means that it is not our claim: then it is not ours to give back.
            let _ = state.compare_exchange(
                self.claim_mark(),
                STATE_FREE,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
        if run.count > 0 {
            // The lowest first, so that a store that shrinks and grows stays in the blocks it has.
            pool.hint(slab).fetch_min(run.first, Ordering::Relaxed);
        }
    }

    /// Sets the states of a run that is this stripe's.
    pub(in crate::store) fn set_states(self, pool: Pool, run: Run, to: u8) {
        let slab = self.0.store.slab();
        for at in run.numbers() {
            let Some(state) = pool.state(slab, at) else {
                return;
            };
            state.store(to, Ordering::Release);
        }
    }

    pub(in crate::store) fn claim_mark(self) -> u8 {
        CLAIMED | self.0.number as u8
    }

    fn noted_run(self, pool: Pool) -> &'g AtomicU64 {
        match pool {
            Pool::Slots => &self.0.stripe().slots,
            Pool::Blocks => &self.0.stripe().blocks,
        }
    }

    fn ensure_allocated(self, pool: Pool, count: u32, patience: Patience) -> Claimed<()> {
        let slab = self.0.store.slab();
        let grows = pool.growing();
        debug_assert!(count <= pool.len(slab));
        if slab.covers(grows, count - 1) {
            return Ok(());
        }
        let growth = Ranges(self.0.store).lock_growth_within(patience)?;
        let _growth = growth.ok_or(NoRoom::Late)?;
        while slab.allocated(grows) < count {
            if !slab.extent().grow(grows)? {
                break;
            }
        }
        if slab.covers(grows, count - 1) {
            return Ok(());
        }
        Err(self.unreachable(pool, count - 1).into())
    }

    fn unreachable(self, pool: Pool, at: u32) -> Error {
        let what = || "it is shorter than its header says".to_string();
        let extent = self.0.store.slab().extent();
        extent.unreachable(pool.growing(), at, what)
    }
}
