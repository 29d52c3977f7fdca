//! How the holds of a key stand, as an onlooker sees them.

use crate::Holder;
use crate::error::Result;
use crate::os::clock;
use crate::record::{Hold, Judgement, ParticipantId};
use crate::slab::{Slab, Tenant};
use crate::store::Store;
use crate::store::holds::handle::Handle;
use crate::store::holds::locate::Finder;
use crate::store::in_slab::permits_of;
use crate::store::key_entry::KeyEntry;
use crate::store::members::holder::holder;
use crate::store::members::participants::Members;
use crate::store::members::process::Process;

/// How the holds of a key stand.
pub(crate) struct Standing {
    pub(crate) value: u32,
    pub(crate) available: u32,
    pub(crate) holders: Vec<Holder>,
}

/// What is seen of holds: the slab, and what the onlooker knows besides.
#[derive(Clone, Copy)]
pub(in crate::store) struct Onlooker<'a> {
    pub(in crate::store) slab: &'a Slab,
    /// The onlooker's own.
    pub(in crate::store) pid_namespace: u64,
    pub(in crate::store) is_dead: &'a dyn Fn(ParticipantId) -> bool,
}

impl Onlooker<'_> {
    /// How a single hold stands: whether it is available, and the holder that has or had it.
    fn stand(self, hold: &Hold) -> (bool, Option<Holder>) {
        loop {
            let seen = hold.load();
            let judgement = Judgement::of(hold, seen, clock::uptime_us, self.is_dead);
            let alive = !matches!(judgement, Judgement::Dead | Judgement::Abandoned);
            let holder = match judgement {
                Judgement::Free | Judgement::Retiring => None,
                _ => Some(holder(self.slab, self.pid_namespace, hold, seen, alive)),
            };
            // What was read belongs to this hold only if it is still there.
            if hold.load().same_hold(seen) {
                return (judgement != Judgement::Held, holder);
            }
        }
    }

    /// How the holds of a key stand.
    pub(in crate::store) fn standing(self, found: KeyEntry) -> Result<Standing> {
        let (first, value) = match found.kind {
            Tenant::Semaphore => permits_of(self.slab, found.id)?,
            _ => (0, 1),
        };
        let mut standing = Standing {
            value,
            available: 0,
            holders: Vec::new(),
        };
        for index in 0..value {
            let permit = self.slab.permit(first, index).map(|p| &p.hold);
            let hold = match found.kind {
                Tenant::Semaphore => permit,
                _ => Some(&self.slab.slot(found.id).hold),
            };
            let (available, holder) = hold.map_or((false, None), |hold| self.stand(hold));
            standing.available += u32::from(available);
            standing.holders.extend(holder);
        }
        Ok(standing)
    }

    /// How many holds of a key are left by the dead.
    pub(in crate::store) fn dead_holds(self, found: KeyEntry) -> usize {
        if found.kind.is_latched() {
            let hold = &self.slab.slot(found.id).hold;
            let judgement = Judgement::of(hold, hold.load(), || 0, self.is_dead);
            return usize::from(judgement == Judgement::Dead);
        }
        match self.standing(found) {
            Ok(standing) => standing.holders.iter().filter(|h| !h.alive).count(),
            // The check of the permits reports that.
            Err(_) => 0,
        }
    }
}

impl Handle {
    /// How the key stands; as if free when it does not exist.
    pub(crate) fn standing(&self) -> Result<Standing> {
        while let Some(spot) = Finder(self).locate()? {
            let Some(found) = self.found_at(spot) else {
                continue;
            };
            let seen = standing(self.store(), found);
            // What was read is of this key only if it is still there.
            if self.is_current(spot) {
                return seen;
            }
        }
        let value = self.permits().max(1);
        Ok(Standing {
            value,
            available: value,
            holders: Vec::new(),
        })
    }

    /// How many threads wait for the key.
    pub(crate) fn waiters(&self) -> Result<usize> {
        let process = self.store().process()?;
        let spot = Finder(self).locate()?;
        Ok(spot.map_or(0, |spot| Members(self.store()).waiters(process, spot.id)))
    }
}

/// What `look` says, as this process sees it.
pub(in crate::store) fn looking<T>(
    store: &Store,
    process: &Process,
    look: impl FnOnce(Onlooker<'_>) -> T,
) -> T {
    look(Onlooker {
        slab: &store.slab,
        pid_namespace: process.identity.pid_namespace,
        is_dead: &|p| Members(store).is_dead(process, p),
    })
}

/// How the holds of a key stand.
pub(crate) fn standing(store: &Store, found: KeyEntry) -> Result<Standing> {
    looking(store, store.process()?, |onlooker| onlooker.standing(found))
}
