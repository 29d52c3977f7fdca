//! What is marked as used and nobody has, in a store that is in use: looked at again before it is
//! called leaked.
//!
//! The index was walked in pieces, so a key that was made behind the walk was not seen, and its
//! slots look as if they were nobody's. They are told apart in steps: a slot leads to the key that
//! it would belong to, which is looked for under its own stripe; whatever is in the middle of being
//! made or taken away has an end when every stripe was locked once; and a slot that is used again
//! meanwhile has another meta word. What nobody has then, and is as it was, is leaked. Blocks lead
//! to nobody: for them the semaphores are walked again, until none was removed meanwhile.

use crate::error::Result;
use crate::slab::bytes::{SPAN_MAX, span_of};
use crate::slab::layout::{PERMITS_PER_BLOCK, STRIPES};
use crate::slab::{CLAIMED, STATE_FREE, STATE_TAIL, STATE_USED, SlotId, Tenant};
use crate::store::Store;
use crate::store::care::check::load;
use crate::store::index::chains::Index;
use crate::store::index::pieces::Pieces;
use crate::store::key_entry::{KeyEntry, hash_as};
use crate::store::slots::by_slot::Slots;
use crate::sync::Ordering;

/// How often to look again at what others change all the time.
const LOOKS: u32 = 8;

/// What a slot that nobody has looks like: the first slot of its run, and the states and the life
/// there. In another life something of it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stray {
    state: u8,
    head: u32,
    head_state: u8,
    head_meta: u64,
}

/// What a look at a slot found.
enum Verdict {
    /// It is free, or a key has it.
    Fine,
    /// Somebody is making or removing a key there.
    Changing,
    Stray(Stray),
}

/// Slots and blocks that belong to nothing.
#[derive(Clone, Copy)]
pub(in crate::store) struct Leaks<'s>(pub(in crate::store) &'s Store);

impl<'s> Leaks<'s> {
    /// Those of the `suspects` that no key has. They were seen to be marked as used.
    pub(in crate::store) fn leaked_slots(self, suspects: Vec<u32>) -> Vec<u32> {
        let look = |at| (at, None, self.look_at_slot(at));
        let mut left: Vec<_> = suspects.into_iter().map(look).collect();
        for _ in 0..LOOKS {
            left.retain(|(_, _, look)| !matches!(look, Verdict::Fine));
            if left.is_empty() || left.iter().all(is_certain) {
                break;
            }
            self.let_changes_end();
            for (at, before, look) in &mut left {
                *before = match look {
                    Verdict::Stray(stray) => Some(*stray),
                    _ => None,
                };
                *look = self.look_at_slot(*at);
            }
        }
        let leaked = left.iter().filter(|one| is_certain(one));
        leaked.map(|(at, _, _)| *at).collect()
    }

    /// Locks each stripe once: what was in the middle of being changed there is done, or is ended
    /// for a dead one.
    fn let_changes_end(self) {
        for stripe in 0..STRIPES {
            // The walk before has reported a stripe that cannot be locked.
            let _ = Index(self.0).lock_stripe(stripe);
        }
    }

    fn look_at_slot(self, at: u32) -> Verdict {
        let slab = self.0.slab();
        let state_of = |at| load(slab.slot_state(at));
        let state = state_of(at);
        if state == STATE_FREE {
            return Verdict::Fine;
        }
        let mut head = at;
        while state_of(head) == STATE_TAIL && head > 0 && at - head < SPAN_MAX {
            head -= 1;
        }
        let head_state = state_of(head);
        for state in [state, head_state] {
            if state & CLAIMED != 0 && !self.is_claimed_for_good(at, head, state) {
                return Verdict::Changing;
            }
        }
        let id = slab.slot_id(head);
        let meta = id.map(|id| (id, slab.slot(id).meta.load(Ordering::Acquire)));
        let head_meta = meta.map_or(0, |(_, bits)| bits);
        if let Some((id, _)) = meta
            && head_state == STATE_USED
            && self.has_key(id, at)
        {
            return Verdict::Fine;
        }
        let stray = Stray {
            state,
            head,
            head_state,
            head_meta,
        };
        let is_as_it_was = state_of(at) == state
            && state_of(head) == head_state
            && id.is_none_or(|id| slab.slot(id).meta.load(Ordering::Acquire) == head_meta);
        match is_as_it_was {
            true => Verdict::Stray(stray),
            false => Verdict::Changing,
        }
    }

    /// Whether a claim stands also under the stripe that it names: no process is working on it.
    fn is_claimed_for_good(self, at: u32, head: u32, claim: u8) -> bool {
        // The walk before has reported a stripe that cannot be locked.
        let _guard = Index(self.0).lock_stripe(u32::from(claim & !CLAIMED)).ok();
        let states = [at, head].map(|at| load(self.0.slab().slot_state(at)));
        states.contains(&claim)
    }

    /// Whether the slot `at` belongs to a key that begins in the slot `id`, and is found.
    fn has_key(self, id: SlotId, at: u32) -> bool {
        let Some(meta) = self.0.slab().slot(id).meta() else {
            return false;
        };
        let Some(kind) = meta.kind else {
            return false;
        };
        let Some(key) = Slots(self.0).key_of(KeyEntry { id, meta, kind }) else {
            return false;
        };
        let hash = hash_as(kind, Index(self.0).hash(&key));
        let Ok(guard) = Index(self.0).lock_stripe(Index(self.0).stripe_of(hash)) else {
            return false;
        };
        let now = guard.find(&key, hash).ok().flatten();
        now.is_some_and(|now| now.id == id) && at - id.index() < span_of(self.0.slab(), id)
    }

    /// Those of the `suspects` that no semaphore has. They were seen to be marked as used.
    pub(in crate::store) fn leaked_blocks(self, mut suspects: Vec<u32>) -> Result<Vec<u32>> {
        let slab = self.0.slab();
        for _ in 0..LOOKS {
            suspects.retain(|at| load(slab.block_state(*at)) != STATE_FREE);
            if suspects.is_empty() {
                break;
            }
            let before = self.departures();
            Pieces(self.0).each_bucket(|bucket| {
                // The walk before has reported what cannot be locked or walked, or makes no sense.
                let Ok((guard, bucket)) = bucket else {
                    return Ok(());
                };
                let _ = guard.walk(bucket, |id| {
                    let found = guard.found(id).filter(|f| f.kind == Tenant::Semaphore);
                    if let Some(Ok((first, permits))) =
                        found.map(|f| Slots(self.0).permits_of(f.id))
                    {
                        let blocks = first..first + permits.div_ceil(PERMITS_PER_BLOCK);
                        suspects.retain(|at| !blocks.contains(at));
                    }
                    true
                });
                Ok(())
            })?;
            // Then what was made meanwhile is in none of them.
            if self.departures() == before {
                break;
            }
        }
        suspects.retain(|at| load(slab.block_state(*at)) != STATE_FREE);
        Ok(suspects)
    }

    /// How many slots have left their chains.
    fn departures(self) -> u64 {
        let of = |stripe| {
            self.0
                .slab()
                .stripe(stripe)
                .departures
                .load(Ordering::Acquire)
        };
        (0..STRIPES).fold(0, |sum, stripe| sum.wrapping_add(of(stripe)))
    }
}

/// It looked the same before all changes had ended, and after that.
fn is_certain((_, before, look): &(u32, Option<Stray>, Verdict)) -> bool {
    matches!(look, Verdict::Stray(stray) if *before == Some(*stray))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::slab::Growing;
    use crate::sync::AtomicBool;
    use crate::{BoundedSemaphore, Cache, Lock};

    /// A store with keys of one slot and of several, and semaphores.
    fn store_with_keys() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::options().capacity(4_096).open(dir.path()).unwrap();
        for n in 0..50 {
            drop(Lock::new(&cache, format!("lock {n}")).acquire().unwrap());
            cache.set(format!("value {n}"), vec![7; 150]).unwrap();
            drop(
                BoundedSemaphore::new(&cache, format!("pool {n}"), 9)
                    .acquire()
                    .unwrap(),
            );
        }
        (dir, cache)
    }

    /// Ends what runs beside a test, also when the test fails.
    struct Ends<'a>(&'a AtomicBool);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Makes and removes keys of all sizes, as fast as it goes, until `done`.
    fn churn(cache: &Cache, done: &AtomicBool) {
        for n in (0..30).cycle() {
            if done.load(Ordering::Relaxed) {
                return;
            }
            drop(Lock::new(cache, format!("new lock {n}")).acquire().unwrap());
            cache.set(format!("new value {n}"), vec![7; 150]).unwrap();
            drop(
                BoundedSemaphore::new(cache, format!("new pool {n}"), 9)
                    .acquire()
                    .unwrap(),
            );
            for kind in ["lock", "value", "pool"] {
                cache
                    .remove(format!("new {kind} {}", (n + 17) % 30))
                    .unwrap();
            }
        }
    }

    #[test]
    fn what_is_leaked_is_found_beside_others_who_make_and_remove_keys() {
        let (_dir, cache) = store_with_keys();
        let slab = cache.store.slab();
        for grows in [Growing::Slots, Growing::Blocks] {
            while slab.allocated(grows) <= 2_000 {
                assert!(slab.extent().grow(grows).unwrap());
            }
        }
        assert!(cache.check().unwrap().is_sound());
        // A first slot without a key, a further one behind it, a claim that no process works on;
        // and a block.
        let leaks = [
            (300, STATE_USED),
            (301, STATE_TAIL),
            (1_000, CLAIMED | 5),
            (2_000, 0x7f),
        ];
        for (at, state) in leaks {
            slab.slot_state(at).unwrap().store(state, Ordering::Relaxed);
        }
        slab.block_state(2_000)
            .unwrap()
            .store(STATE_USED, Ordering::Relaxed);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| churn(&cache, &done));
            let _ends = Ends(&done);
            for _ in 0..30 {
                let report = cache.check().unwrap();
                assert_eq!(report.slots_leaked, leaks.len(), "{report:?}");
                assert_eq!(report.problems.len(), 1, "{report:?}");
                assert!(report.problems[0].contains("block 2000"), "{report:?}");
            }
        });
    }

    #[test]
    fn what_others_are_making_and_removing_is_not_leaked() {
        let (_dir, cache) = store_with_keys();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| churn(&cache, &done));
            let _ends = Ends(&done);
            for _ in 0..200 {
                let report = cache.check().unwrap();
                assert!(report.is_sound() && report.keys >= 150, "{report:?}");
            }
        });
    }
}
