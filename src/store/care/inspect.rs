//! Showing: who holds what, how keys stand. Decides nothing, disturbs nobody.

use std::time::Duration;

use crate::error::{Result, show_key};
use crate::os::clock;
use crate::record::{Hold, Judgement, Lease, ParticipantId, Word};
use crate::slab::Slab;
use crate::slab::Tenant;
use crate::slab::value_cells::Content;
use crate::store::expiry::left_until;
use crate::store::holds::handle::Handle;
use crate::store::index::chains::key_of;
use crate::store::index::remove::permits_of;
use crate::store::key_entry::KeyEntry;
use crate::store::members::participants::describe;
use crate::store::values::average;
use crate::store::{Process, Store};
use crate::types::{Holder, KeyInfo, KeyState, Token};

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
    /// How a single hold stands: whether it can be had, and who has or had it.
    fn stand(self, hold: &Hold) -> (bool, Option<Holder>) {
        loop {
            let seen = hold.load();
            let judgement = hold.judge(seen, clock::uptime_us, self.is_dead);
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
            let judgement = hold.judge(hold.load(), || 0, self.is_dead);
            return usize::from(judgement == Judgement::Dead);
        }
        match self.standing(found) {
            Ok(standing) => standing.holders.iter().filter(|h| !h.alive).count(),
            // Said by who looks at the permits.
            Err(_) => 0,
        }
    }
}

/// Who has, or had, the hold `of`, told to somebody in that PID namespace.
fn holder(slab: &Slab, pid_namespace: u64, hold: &Hold, of: Word, alive: bool) -> Holder {
    let stamp = hold.stamp_of(of);
    let tid = stamp.map_or(0, |s| s.tid);
    let record = of.participant().and_then(|p| slab.participant(p.get()));
    let described = record.and_then(|record| describe(record, pid_namespace));
    let lease_left = match hold.lease_of(of) {
        Lease::None => None,
        Lease::Over => Some(Duration::ZERO),
        Lease::Until(until) => {
            let left = until.saturating_sub(clock::uptime_us());
            Some(Duration::from_micros(left))
        }
    };
    Holder {
        // Of an abandoned hold, the process id was put where the thread id had been.
        pid: described.as_ref().map_or(tid, |d| d.pid),
        tid,
        same_pid_namespace: described.as_ref().is_some_and(|d| d.same_pid_namespace),
        program: described.map(|d| d.program).unwrap_or_default(),
        held_for: stamp.map(|s| s.age(clock::coarse_ns(), clock::wall_s())),
        lease_left,
        token: Token::new(of.sequence()),
        alive,
    }
}

impl Store {
    /// Who has, or had, the hold `of`.
    pub(crate) fn holder(&self, process: &Process, hold: &Hold, of: Word, alive: bool) -> Holder {
        holder(&self.slab, process.identity.pid_namespace, hold, of, alive)
    }

    /// What `look` says, as this process sees it.
    pub(in crate::store) fn looking<T>(
        &self,
        process: &Process,
        look: impl FnOnce(Onlooker<'_>) -> T,
    ) -> T {
        look(Onlooker {
            slab: &self.slab,
            pid_namespace: process.identity.pid_namespace,
            is_dead: &|p| self.is_dead(process, p),
        })
    }

    /// How the holds of a key stand.
    pub(crate) fn standing(&self, found: KeyEntry) -> Result<Standing> {
        self.looking(self.process()?, |onlooker| onlooker.standing(found))
    }

    /// The bytes of a key.
    pub(crate) fn key_of(&self, found: KeyEntry) -> Option<Vec<u8>> {
        key_of(&self.slab, found)
    }

    /// Everything about a key.
    fn info(&self, found: KeyEntry, key: Vec<u8>, tag: Vec<u8>) -> Result<KeyInfo> {
        let process = self.process()?;
        let state = match found.kind {
            Tenant::Averager => KeyState::Averager {
                summary: average::read(self, found.id, &show_key(&key))?.summary(clock::wall_us),
            },
            Tenant::Semaphore => {
                let standing = self.standing(found)?;
                KeyState::Semaphore {
                    value: standing.value,
                    available: standing.available,
                    holders: standing.holders,
                }
            }
            Tenant::Value => {
                let content = self.content_of(found).unwrap_or(Content::ABSENT);
                KeyState::Value {
                    bytes: content.len(),
                    expires_in: left_until(content.expires_ms),
                }
            }
            Tenant::Lock | Tenant::RLock | Tenant::Turn => KeyState::Lock {
                holder: self.standing(found)?.holders.pop(),
            },
        };
        Ok(KeyInfo {
            key,
            kind: found.kind.kind(),
            tag: (!tag.is_empty()).then_some(tag),
            state,
            waiters: self.waiters(process, found.id),
        })
    }

    /// How one key stands.
    pub(crate) fn key_info(&self, key: &[u8]) -> Result<Option<KeyInfo>> {
        let hash = self.hash(key);
        let guard = self.lock_stripe(self.stripe_of(hash))?;
        let found = guard.find(key, hash)?;
        let Some(found) = found.filter(|found| self.is_listed(*found)) else {
            return Ok(None);
        };
        self.info(found, key.to_vec(), guard.tag_of(found)?)
            .map(Some)
    }

    /// How all keys stand, each as it was at some moment of the call.
    pub(crate) fn key_infos(&self) -> Result<Vec<KeyInfo>> {
        let mut infos = Vec::new();
        self.each_chain(|guard, _, ids| {
            let found = ids.into_iter().filter_map(|id| guard.found(id));
            for found in found.filter(|found| self.is_listed(*found)) {
                if let Some(key) = self.key_of(found) {
                    infos.push(self.info(found, key, guard.tag_of(found)?)?);
                }
            }
            Ok(())
        })?;
        Ok(infos)
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> Result<usize> {
        let mut len = 0;
        self.each_chain(|guard, _, ids| {
            let found = ids.into_iter().filter_map(|id| guard.found(id));
            len += found.filter(|found| self.is_listed(*found)).count();
            Ok(())
        })?;
        Ok(len)
    }
}

impl Handle {
    /// How the key stands; as if free when it does not exist.
    pub(crate) fn standing(&self) -> Result<Standing> {
        while let Some(spot) = self.locate()? {
            let Some(found) = self.found_at(spot) else {
                continue;
            };
            let standing = self.store().standing(found);
            // What was read is of this key only if it is still there.
            if self.is_current(spot) {
                return standing;
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
        let spot = self.locate()?;
        Ok(spot.map_or(0, |spot| self.store().waiters(process, spot.id)))
    }
}
