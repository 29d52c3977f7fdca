//! What must fit together in a slot, and with where it hangs.

use crate::error::Result;
use crate::slab::buckets::Buckets;
use crate::slab::bytes::{KeyPlace, span_of};
use crate::slab::hash::hash;
use crate::slab::{Meta, Slab};
use crate::store::in_slab::key_of;
use crate::store::index::stripe::StripeGuard;
use crate::store::key_entry::{KeyEntry, hash_as};
use crate::sync::Ordering;

/// Whether a search for the key in a slot comes to this slot.
pub(super) fn is_found(guard: &StripeGuard<'_>, found: KeyEntry) -> Result<bool> {
    let slab = guard.store.slab();
    let key = key_of(slab, found).unwrap_or_default();
    let hash = hash_as(found.kind, hash(slab.part().seed, &key));
    Ok(guard
        .find(&key, hash)?
        .is_some_and(|first| first.id == found.id))
}

/// What in a slot contradicts itself, or the bucket it hangs on.
pub(in crate::store) fn contradiction(
    slab: &Slab,
    found: KeyEntry,
    bucket: Option<u32>,
) -> Option<&'static str> {
    let Some(key) = key_of(slab, found) else {
        return Some("has a key that is longer than its slots");
    };
    let hash = hash_as(found.kind, hash(slab.part().seed, &key));
    let slot = slab.slot(found.id);
    let Meta {
        key_len, tag_len, ..
    } = found.meta;
    if slot.hash.load(Ordering::Relaxed) != hash as u32 {
        return Some("has a key that does not fit its hash");
    }
    if bucket.is_some_and(|bucket| Buckets(slab).of(hash) != bucket) {
        return Some("hangs on the wrong bucket");
    }
    if KeyPlace::of(found.kind, key_len, tag_len).span() > span_of(slab, found.id) {
        return Some("has a tag that is longer than its slots");
    }
    None
}
