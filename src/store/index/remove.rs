//! Taking keys away: by name, by tag, or all of them.

use std::cell::Cell;

use crate::error::{Result, show_key};
use crate::os::futex;
use crate::record::Force;
use crate::slab::Tenant;
use crate::store::Store;
use crate::store::index::chains::Index;
use crate::store::index::pieces::Pieces;
use crate::store::index::retire::Retirer;
use crate::store::index::stripe::StripeGuard;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::members::deadlock::Deadlocks;
use crate::store::slots::by_slot::Slots;
use crate::sync::Ordering;

/// Taking keys away.
#[derive(Clone, Copy)]
pub(crate) struct Removing<'s>(pub(crate) &'s Store);

impl<'s> Removing<'s> {
    /// Takes a key away, also one that is held. `false`: there is no such key.
    pub(crate) fn remove(self, key: &[u8]) -> Result<bool> {
        let hash = Index(self.0).hash(key);
        let find = |stripe: &StripeGuard<'_>| stripe.find(key, hash);
        self.remove_waiting(Index(self.0).stripe_of(hash), find, |_, found| {
            !Slots(self.0).is_vacant(found)
        })
    }

    /// Takes away what `find` finds. Waits for an average or a value that is being changed, without
    /// the stripe, for the writer may be stopped.
    fn remove_waiting(
        self,
        stripe: u32,
        find: impl Fn(&StripeGuard<'_>) -> Result<Option<KeyEntry>>,
        wanted: impl Fn(&StripeGuard<'_>, KeyEntry) -> bool,
    ) -> Result<bool> {
        loop {
            let guard = Index(self.0).lock_stripe(stripe)?;
            let found = find(&guard)?;
            if let Some(found) = found {
                Journal(self.0).finish_decided_of(found)?;
            }
            let Some(found) = found.filter(|found| wanted(&guard, *found)) else {
                return Ok(false);
            };
            let bucket = Retirer(&guard).bucket_of(found);
            let wake = &self.0.slab.slot(found.id).wake;
            let seen = wake.load(Ordering::Acquire);
            if Retirer(&guard).retire(found, bucket, force_for(found.kind), || {
                wanted(&guard, found)
            })? {
                return Ok(true);
            }
            let busy = wanted(&guard, found);
            drop(guard);
            if busy {
                let key = || {
                    Slots(self.0)
                        .key_of(found)
                        .map_or_else(String::new, |key| show_key(&key))
                };
                Deadlocks(self.0).check_not_mine(found.id, found.meta.generation, key)?;
                futex::wait(wake, seen, crate::store::patience::TICK);
            }
        }
    }

    /// Takes away every key that carries a tag, and says how many. An error if that cannot be found
    /// out of some, which stay.
    pub(crate) fn remove_tagged(self, tag: &[u8]) -> Result<usize> {
        let unread = Cell::new(None);
        let carries = |guard: &StripeGuard<'_>, found: KeyEntry| {
            let carries = match found.kind {
                Tenant::Value => Slots(self.0).value_has_tag(found, tag),
                _ if found.meta.tag_len != tag.len() => return false,
                _ => guard.tag_of(found).map(|of| of == tag),
            };
            carries.unwrap_or_else(|error| {
                unread.set(Some(error));
                false
            })
        };
        let removed = self.remove_all(carries)?;
        unread.into_inner().map_or(Ok(removed), Err)
    }

    /// Takes away every key that `wanted` wants, and says how many: many of a stripe while it is
    /// locked, and then, one by one, those that were being changed.
    pub(in crate::store) fn remove_all(
        self,
        wanted: impl Fn(&StripeGuard<'_>, KeyEntry) -> bool,
    ) -> Result<usize> {
        let (mut removed, mut busy) = (0, Vec::new());
        Pieces(self.0).each_chain(|guard, bucket, ids| {
            for found in ids.into_iter().filter_map(|id| guard.found(id)) {
                Journal(self.0).finish_decided_of(found)?;
                // Turns are not looked for by their keys: `remove_turns`.
                if found.kind == Tenant::Turn || !wanted(guard, found) {
                    continue;
                }
                let is_wanted = || wanted(guard, found);
                match Retirer(guard).retire(found, bucket, force_for(found.kind), is_wanted)? {
                    true => removed += 1,
                    false => busy.extend(Slots(self.0).key_of(found)),
                }
            }
            Ok(())
        })?;
        for key in busy {
            let hash = Index(self.0).hash(&key);
            let find = |guard: &StripeGuard<'_>| guard.find(&key, hash);
            let stripe = Index(self.0).stripe_of(hash);
            removed += usize::from(self.remove_waiting(stripe, find, &wanted)?);
        }
        Ok(removed)
    }
}

/// Nobody takes an average or a value from a living process that is changing it.
fn force_for(kind: Tenant) -> Force {
    match kind {
        Tenant::Averager | Tenant::Value => Force::NotTheLiving,
        _ => Force::Anybody,
    }
}
