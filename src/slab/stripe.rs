//! What a stripe keeps beside its lock: the change that is under way, for the next process to lock
//! it if this one dies over it; and what it counts.

use std::mem::offset_of;

use crate::record::changes;
use crate::slab::layout::STRIPE_BYTES;
use crate::slab::{Tenant, pack, unpack};
use crate::sync::{AtomicU64, Ordering};

/// A change of structure that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    None = 0,
    /// A key is being made: undone unless it has its kind.
    Create = 1,
    /// A key is being taken away if it is not held: undone unless its kind is "none" already.
    Reclaim = 2,
    /// A key is being taken away, held or not: finished if all its words were taken, otherwise
    /// undone.
    Remove = 3,
    /// Claimed slots and blocks are being given back: finished.
    Free = 4,
    /// A bucket is being added, and takes keys from another: finished if readers look there.
    Split = 5,
}

/// What the next process that locks a stripe needs to finish or undo what a dead process left.
#[repr(C)]
pub(crate) struct Stripe {
    pub(crate) intent: AtomicU64,
    /// `first << 32 | count` of the slots and blocks concerned.
    pub(crate) slots: AtomicU64,
    pub(crate) blocks: AtomicU64,
    pub(crate) bucket: AtomicU64,
    /// No sequence of a key that was taken away was higher.
    pub(crate) floor: AtomicU64,
    /// How many slots left its chains (I8).
    pub(crate) departures: AtomicU64,
    /// The process that died with a semaphore that is being made again: see [`Stripe::untold`].
    untold: AtomicU64,
    /// Which keys are not to be made: see [`Stripe::is_watched`].
    watched: AtomicU64,
    /// How many slots its keys take; see [`Tally`]. And how many they take once what the intent
    /// names is finished, so that it is as good if that is done twice.
    taken: AtomicU64,
    taken_next: AtomicU64,
    _more: [AtomicU64; 6],
}

/// How many slots the keys of a stripe take, and how many of these are those of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) slots: u32,
    pub(crate) of_values: u32,
}

impl Tally {
    pub(crate) fn by(kind: Tenant, slots: u32) -> Tally {
        Tally {
            slots,
            of_values: if kind == Tenant::Value { slots } else { 0 },
        }
    }

    pub(crate) fn and(self, more: Tally) -> Tally {
        Tally {
            slots: self.slots.saturating_add(more.slots),
            of_values: self.of_values.saturating_add(more.of_values),
        }
    }

    pub(crate) fn without(self, less: Tally) -> Tally {
        Tally {
            slots: self.slots.saturating_sub(less.slots),
            of_values: self.of_values.saturating_sub(less.of_values),
        }
    }
}

/// Beside the process id, which may be 0: there is one to tell of.
const UNTOLD: u64 = 1 << 31;

const _: () = {
    assert!(size_of::<Stripe>() == STRIPE_BYTES as usize);
    assert!(offset_of!(Stripe, taken) == 64);
};

impl Stripe {
    pub(crate) fn intent(&self) -> Option<Intent> {
        // Acquire: pairs with the Release in `set_intent`, so the other fields are those of the
        // intent.
        Some(match self.intent.load(Ordering::Acquire) {
            0 => Intent::None,
            1 => Intent::Create,
            2 => Intent::Reclaim,
            3 => Intent::Remove,
            4 => Intent::Free,
            5 => Intent::Split,
            _ => return None,
        })
    }

    pub(crate) fn set_intent(&self, intent: Intent) {
        // Release: what it is about was noted before, and what came of the last one is done.
        self.intent.store(intent as u64, Ordering::Release);
    }

    /// The process that died with the last semaphore of that hash, if an acquirer of the next one
    /// is to be told and no word says so: there is none yet.
    pub(crate) fn untold(&self, hash: u32) -> Option<u32> {
        let bits = self.untold.load(Ordering::Acquire);
        let is_its = bits & UNTOLD != 0 && bits >> 32 == u64::from(hash);
        is_its.then_some((bits & (UNTOLD - 1)) as u32)
    }

    pub(crate) fn taken(&self) -> Tally {
        let (slots, of_values) = unpack(self.taken.load(Ordering::Relaxed));
        Tally { slots, of_values }
    }

    /// Notes what the keys take once the intent that follows is finished. Only under the stripe.
    pub(crate) fn note_taken_next(&self, next: Tally) {
        let next = pack(next.slots, next.of_values);
        self.taken_next.store(next, Ordering::Relaxed);
    }

    /// What the intent names is finished, but for itself.
    pub(crate) fn take_next(&self) {
        let next = self.taken_next.load(Ordering::Relaxed);
        self.taken.store(next, Ordering::Relaxed);
    }

    /// Alone.
    pub(crate) fn set_taken(&self, now: Tally) {
        self.taken
            .store(pack(now.slots, now.of_values), Ordering::Relaxed);
    }

    /// What changes whenever a key of the stripe is made or taken away.
    pub(crate) fn changes(&self) -> (Tally, u64) {
        (self.taken(), self.departures.load(Ordering::Acquire))
    }

    /// Notes a death before the words that say so are taken. Only under the stripe. A note of
    /// another key stays: it is there because a process was killed, and this one is needed only if
    /// a process will be.
    pub(crate) fn note_untold(&self, hash: u32, pid: u32) {
        let note = u64::from(hash) << 32 | UNTOLD | u64::from(pid) & (UNTOLD - 1);
        // Release: pairs with the Acquire of a process that finds it under the stripe after us.
        let none = 0;
        let _ = self
            .untold
            .compare_exchange(none, note, Ordering::Release, Ordering::Relaxed);
    }

    /// A word of the key says it now. Only under the stripe.
    pub(crate) fn forget_untold(&self, hash: u32) {
        if self.untold(hash).is_some() {
            self.untold.store(0, Ordering::Release);
        }
    }

    /// Notes that a key of that hash is not there, and is not to be made as long as the lock of
    /// transactions is held. Only under the stripe, and with that lock.
    pub(crate) fn watch(&self, hash: u64) {
        self.watched.fetch_or(watch_bits(hash), Ordering::Relaxed);
    }

    /// Whether a transaction that is under way, or was when it died, may have found no key of that
    /// hash: a Bloom filter (Bloom, "Space/time trade-offs in hash coding with allowable errors",
    /// CACM 13, 1970) before [`Absences`](crate::slab::Absences), which says it for certain. Only
    /// under the stripe.
    pub(crate) fn is_watched(&self, hash: u64) -> bool {
        let bits = watch_bits(hash);
        self.watched.load(Ordering::Relaxed) & bits == bits
    }

    /// No transaction is under way, or ours ends. Only with the lock of transactions.
    pub(crate) fn forget_watched(&self) {
        self.watched.store(0, Ordering::Relaxed);
    }

    /// What `look` says, if no slot left a chain of the stripe meanwhile; otherwise `false`.
    pub(crate) fn is_unchanged_while(&self, look: impl FnOnce() -> bool) -> bool {
        changes::is_unchanged_while(&self.departures, look)
    }
}

/// How many bits of 64 a watched key sets: in a stripe with one such key another one has them by
/// chance once in a million times, in one with sixteen every fourth time; then all are looked at.
const WATCH_BITS: u32 = 6;

fn watch_bits(hash: u64) -> u64 {
    // Of both halves: the lowest six bits are the same in all of a stripe.
    let mixed = (hash as u32 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash >> 44;
    (0..WATCH_BITS).fold(0, |bits, n| bits | 1 << (mixed >> (6 * n + 16) & 63))
}
