//! Finding keys without a stripe: one by its chain, which others may change meanwhile, and all of
//! them by their slots.

use crate::error::{Error, Result};
use crate::slab::buckets::{Buckets, stripe_of};
use crate::slab::hash::hash;
use crate::slab::{Growing, STATE_FREE, STATE_TAIL, Tenant};
use crate::store::care::check;
use crate::store::care::reader::ReadStore;
use crate::store::index::chains::matches;
use crate::store::key_entry::{KeyEntry, check_lengths};
use crate::sync::Ordering;

/// So often a chain is walked that changes meanwhile. Each time it is some keys of its 64th of the
/// store that were removed within a microsecond.
const WALKS: u32 = 10_000;

/// How a walk along a chain ended.
enum Walked {
    Found(KeyEntry),
    /// At its end, and nothing left the stripe meanwhile.
    Missed,
    /// At its end, or somewhere else, and something did.
    Disturbed,
    /// In a circle, or where there is no slot.
    Astray,
}

/// Finds keys.
#[derive(Clone, Copy)]
pub(super) struct ReadFinder<'r>(pub(super) &'r ReadStore);

impl ReadFinder<'_> {
    /// Looks for a key, as often as others change its chain meanwhile.
    pub(super) fn find(self, key: &[u8]) -> Result<Option<KeyEntry>> {
        check_lengths(key, &[])?;
        let hash = hash(self.0.slab.part().seed, key);
        let mut walked = Walked::Disturbed;
        for _ in 0..WALKS {
            walked = self.walk(key, hash);
            match walked {
                Walked::Found(found) => return Ok(Some(found)),
                Walked::Missed => return Ok(None),
                Walked::Astray => break,
                Walked::Disturbed => std::hint::spin_loop(),
            }
        }
        Err(match walked {
            Walked::Astray => {
                let bucket = Buckets(&self.0.slab).of(hash);
                let what = format!("the chain of bucket {bucket} does not end");
                self.0.slab.corrupt(what)
            }
            _ => Error::StructureBusy {
                path: self.0.site.locks.clone(),
                pids: Vec::new(),
            },
        })
    }

    /// Looks for a key, which must not be one of another kind.
    pub(super) fn find_as(self, key: &[u8], expected: Tenant) -> Result<Option<KeyEntry>> {
        match self.find(key)? {
            Some(found) if found.kind != expected => Err(Error::KindMismatch {
                key: key.to_vec(),
                found: found.kind.kind(),
                expected: expected.kind(),
            }),
            found => Ok(found),
        }
    }

    fn walk(self, key: &[u8], hash: u64) -> Walked {
        let slab = &self.0.slab;
        let stripe = slab.stripe(stripe_of(hash));
        let (mut found, mut ended) = (None, false);
        let unchanged = stripe.is_unchanged_while(|| {
            // Which bucket it is may change with what is counted (I10).
            let Some(head) = Buckets(slab).head(Buckets(slab).of(hash)) else {
                return true;
            };
            let mut link = head.load(Ordering::Acquire);
            let mut marked = 0;
            for step in 0..=slab.layout().capacity {
                ended = link == 0;
                // As the walk under a stripe: a circle is noticed before it was gone round many
                // times.
                if ended || link == marked {
                    break;
                }
                if step.is_power_of_two() {
                    marked = link;
                }
                let Some(id) = slab.follow(link) else {
                    break;
                };
                found = matches(slab, id, key, hash);
                if found.is_some() {
                    break;
                }
                link = slab.slot(id).next.load(Ordering::Acquire);
            }
            true
        });
        match found {
            Some(found) => Walked::Found(found),
            None if !unchanged => Walked::Disturbed,
            None if ended => Walked::Missed,
            None => Walked::Astray,
        }
    }

    /// Visits every key that there is, by its slots.
    pub(super) fn each(self, mut visit: impl FnMut(KeyEntry) -> Result<()>) -> Result<()> {
        for number in 0..self.0.slab.allocated(Growing::Slots) {
            let state = check::load(self.0.slab.slot_state(number));
            // Also what is claimed: the maker of a key there may be dead, or stopped, and the key
            // exists.
            if matches!(state, STATE_FREE | STATE_TAIL) {
                continue;
            }
            let Some(id) = self.0.slab.slot_id(number) else {
                continue;
            };
            let Some(meta) = self.0.slab.slot(id).meta() else {
                continue;
            };
            if let Some(kind) = meta.kind {
                visit(KeyEntry { id, meta, kind })?;
            }
        }
        Ok(())
    }
}
