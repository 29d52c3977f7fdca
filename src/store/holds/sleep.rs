//! Waiting: how long, for which holders, and when to look again.
//!
//! A releaser wakes a waiter; nobody wakes one because a holder died. So no sleep is longer than a
//! tick, after which the waiter looks whether the holders live, and a long wait has them watched.

use std::cell::{Ref, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::os::{clock, futex};
use crate::record::waiting::nap;
use crate::record::{Lease, ParticipantId};
use crate::store::Store;
use crate::store::holds::slow::Acquirer;
use crate::store::key_entry::SlotRef;
use crate::store::members::participants::{Members, WaitingMark};
use crate::store::members::process::Process;
use crate::store::members::watch::{Watch, Watching};
use crate::store::patience::{Patience, TICK};
use crate::sync::Ordering;

/// When a wait has become a long one, so that having the holders watched pays.
const WATCH_AFTER: Duration = Duration::from_millis(50);
/// How long a waiter sleeps while the holders are watched: against what a watch does not see.
const WATCHED_TICK: Duration = Duration::from_millis(150);
/// From how many permits on a waiter does not look at all of them for each tick, and when it does.
const MANY: u32 = 64;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl<'h> Acquirer<'h> {
    /// Sleeps until woken, or until something may have changed that nobody is woken for: a death,
    /// the end of a lease or of the patience. Of a semaphore with many permits not all are
    /// looked at for each tick, only whether one of the holders died.
    pub(in crate::store) fn sleep(
        self,
        waiting: &mut Waiting<'h>,
        wakes: u32,
        patience: Patience,
        held: &HeldBy,
    ) {
        let wake = &self.0.slot(waiting.spot).wake;
        let look_again = Instant::now() + LOOK_AGAIN;
        loop {
            let Some(left) = patience.left() else {
                return;
            };
            let tick = waiting.tick(self.0.store(), held);
            futex::wait(wake, wakes, nap(left, until_lease(held.lease_us), tick));
            if wake.load(Ordering::Acquire) != wakes {
                // A holder that died has been reported, and is watched no more.
                waiting.watch = None;
                return;
            }
            let process = waiting.process;
            let lease_over = held.lease_us.is_some_and(|end| clock::uptime_us() >= end);
            let someone_died = || {
                held.by()
                    .iter()
                    .any(|p| Members(self.0.store()).is_dead(process, *p))
            };
            let few = held.holds <= MANY;
            if lease_over || someone_died() || few || Instant::now() >= look_again {
                return;
            }
        }
    }
}

/// How long the lease lasts that ends first.
fn until_lease(lease_us: Option<u64>) -> Duration {
    lease_us.map_or(Duration::MAX, |until| {
        // A microsecond more, so that it is over when we look.
        Duration::from_micros(until.saturating_sub(clock::uptime_us()) + 1)
    })
}

/// A waiter's standing while it waits for a slot.
pub(in crate::store) struct Waiting<'a> {
    pub(in crate::store) spot: SlotRef,
    process: &'a Process,
    since: Instant,
    _mark: Option<WaitingMark<'a>>,
    watch: Option<Watch<'a>>,
}

impl<'a> Waiting<'a> {
    pub(in crate::store) fn new(
        store: &'a Store,
        process: &'a Process,
        spot: SlotRef,
    ) -> Waiting<'a> {
        Waiting {
            spot,
            process,
            since: Instant::now(),
            _mark: Members(store).mark_waiting(process, spot.id),
            watch: None,
        }
    }

    /// How long to sleep at the most: long when somebody will say if a holder dies.
    fn tick(&mut self, store: &Arc<Store>, held: &HeldBy) -> Duration {
        if self.since.elapsed() < WATCH_AFTER {
            return TICK;
        }
        let watched = self.watch.as_ref().is_some_and(|w| w.is_over(&held.by()));
        if !watched {
            // The old one first: it has descriptors.
            self.watch = None;
            self.watch = Watching(store).watch(self.process, &held.by(), self.spot.id);
        }
        match self.watch {
            Some(_) => WATCHED_TICK,
            None => TICK,
        }
    }
}

/// What a look at the holds of a key found: their holders, each asked once whether it lives, and
/// when the first lease ends.
#[derive(Default)]
pub(in crate::store) struct HeldBy {
    pub(in crate::store) holds: u32,
    lease_us: Option<u64>,
    by: RefCell<Vec<ParticipantId>>,
}

impl HeldBy {
    fn by(&self) -> Ref<'_, Vec<ParticipantId>> {
        self.by.borrow()
    }

    pub(in crate::store) fn is_dead(
        &self,
        store: &Store,
        process: &Process,
        other: ParticipantId,
    ) -> bool {
        if self.by().contains(&other) {
            return false;
        }
        if Members(store).is_dead(process, other) {
            return true;
        }
        self.by.borrow_mut().push(other);
        false
    }

    pub(in crate::store) fn until(&mut self, lease: Lease) {
        if let Lease::Until(end) = lease {
            self.lease_us = Some(self.lease_us.map_or(end, |other| other.min(end)));
        }
    }
}
