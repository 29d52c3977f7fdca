//! Room for a large value among many writers: one of them at a time has precedence.
//!
//! A writer that wants a segment of its own needs more room at once than others leave free for a
//! moment: they would take what it has made, again and again, and two of them would refuse each
//! other. So where there is no room at once such a writer waits for its turn, and says in the
//! header how much it wants; the others make room for that, too, before they take any themselves.
//! They do so for as long as anybody makes room for others, so one that is stopped keeps nobody
//! from setting.
//!
//! Killed at any time: what it wanted stays in the header, and the next writer that asks gets the
//! lock at once, and clears it.

use std::sync::Arc;

use crate::error::Result;
use crate::os::fork;
use crate::store::Store;
use crate::store::members::range::{RangeGuard, Ranges};
use crate::store::patience::Patience;
use crate::store::space::wait::Wait;
use crate::sync::Ordering;

/// That others leave room for this writer, until this is dropped.
pub(in crate::store) struct Precedence<'s> {
    store: &'s Store,
    _turn: RangeGuard<'s>,
    epoch: u32,
}

impl<'s> Precedence<'s> {
    /// Waits for those that wanted as much before us. `None`: one of them takes too long; then we
    /// go without.
    pub(super) fn take(
        store: &'s Arc<Store>,
        bytes: u64,
        patience: Patience,
    ) -> Result<Option<Precedence<'s>>> {
        let turn = Ranges(store).lock_large_within(patience)?;
        Ok(turn.map(|turn| {
            store.slab.header().wanted.store(bytes, Ordering::Relaxed);
            Precedence {
                store,
                _turn: turn,
                epoch: fork::epoch(),
            }
        }))
    }
}

impl Drop for Precedence<'_> {
    fn drop(&mut self) {
        // Before the next one has its turn. The child of a fork has none.
        if self.epoch == fork::epoch() {
            self.store.slab.header().wanted.store(0, Ordering::Relaxed);
        }
    }
}

/// How much of the room that is made is for somebody else.
pub(super) fn wanted_by_others(
    store: &Store,
    ours: Option<&Precedence<'_>>,
    wait: &Wait,
) -> Result<u64> {
    let word = &store.slab.header().wanted;
    let wanted = word.load(Ordering::Relaxed);
    if wanted == 0 || ours.is_some() || wait.is_over() {
        return Ok(0);
    }
    let Some(_turn) = Ranges(store).try_lock_large()? else {
        return Ok(wanted);
    };
    // It died.
    word.store(0, Ordering::Relaxed);
    Ok(0)
}
