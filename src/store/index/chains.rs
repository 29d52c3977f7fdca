//! Finding keys, and making them.
//!
//! Chains of slots hang off a table of buckets. Looking needs no lock: a hit is checked against the
//! key itself and the slot's generation; a miss may be a walk that was led astray by a concurrent
//! change, so it counts only under the stripe. All changes are made there.

use crate::error::Result;
use crate::record::{Stamp, life, reachable};
use crate::slab::buckets::Buckets;
use crate::slab::bytes::{KeyPlace, bytes_equal, clear_waiting, read_bytes, span_of, write_bytes};
use crate::slab::hash::hash;
use crate::slab::layout::PERMITS_PER_BLOCK;
use crate::slab::value_cells::ValueCells;
use crate::slab::{
    Growing, Intent, Meta, STATE_TAIL, STATE_USED, Slab, Slot, SlotId, Tally, Tenant, pack,
};
use crate::store::Store;
use crate::store::index::allocate::{Allocator, Claimed, NoRoom, Pool, Run};
use crate::store::index::busy::stripe_byte;
use crate::store::index::pieces::Pieces;
use crate::store::index::retire::Retirer;
use crate::store::index::split::Splitter;
use crate::store::index::stripe::StripeGuard;
use crate::store::key_entry::{KeyEntry, NewKey, hash_as};
use crate::store::patience::Patience;
use crate::sync::{AtomicU32, Ordering, fence};

/// How far a walk without the lock goes before it gives up and takes the lock.
const UNLOCKED_STEPS: u32 = 64;
/// How many slots a value takes, as a rule, if it does not lie in the log.
pub(crate) const VALUE_SLOTS: u64 = 2;

/// Keys to slots. Knows nothing of holds, values or compaction.
#[derive(Clone, Copy)]
pub(crate) struct Index<'s>(pub(crate) &'s Store);

impl<'s> Index<'s> {
    pub(crate) fn hash(self, key: &[u8]) -> u64 {
        hash(self.0.slab.part().seed, key)
    }

    /// Looks for a key; asks again under the stripe before it says that there is none.
    /// Errors: `StructureBusy` if somebody has the stripe for longer than `patience` allows.
    pub(crate) fn find(
        self,
        key: &[u8],
        hash: u64,
        patience: Patience,
    ) -> Result<Option<KeyEntry>> {
        if let Some(found) = self.find_unlocked(key, hash, 1) {
            return Ok(Some(found));
        }
        let stripe = self.stripe_of(hash);
        match self.lock_stripe_within(stripe, patience)? {
            Some(stripe) => stripe.find(key, hash),
            None => Err(Pieces(self.0).structure_busy(stripe_byte(stripe))),
        }
    }

    /// Whether there is certainly no such key, found out without the lock: its chain is walked
    /// while nothing in the stripe changes (I8). `false`: there may be one.
    pub(crate) fn is_miss(self, key: &[u8], hash: u64) -> bool {
        let stripe = self.0.slab.stripe(self.stripe_of(hash));
        stripe.is_unchanged_while(|| {
            // Which bucket it is may change with what is counted (I10).
            let Some(head) = self.head_of(hash) else {
                return false;
            };
            let mut link = head.load(Ordering::Acquire);
            for _ in 0..UNLOCKED_STEPS {
                let Some(id) = self.0.slab.follow(link) else {
                    return link == 0;
                };
                if matches(&self.0.slab, id, key, hash).is_some() {
                    return false;
                }
                link = self.0.slab.slot(id).next.load(Ordering::Acquire);
            }
            false
        })
    }

    /// Looks for a key, which will take about so many slots: all that is likely to be read is
    /// fetched at once.
    #[inline]
    pub(crate) fn find_unlocked(self, key: &[u8], hash: u64, slots: u64) -> Option<KeyEntry> {
        let mut link = self.head_of(hash)?.load(Ordering::Acquire);
        for _ in 0..UNLOCKED_STEPS {
            let id = self.0.slab.follow(link)?;
            let slot = self.0.slab.slot(id);
            slot.prefetch(slots);
            if let Some(found) = matches_in(&self.0.slab, (id, slot), key, hash) {
                return Some(found);
            }
            link = slot.next.load(Ordering::Acquire);
        }
        None
    }

    /// Looks for a key, and on the same walk for its turn. Also whether there may be one: `false`
    /// is certain, as in [`is_miss`](Self::is_miss).
    #[inline]
    pub(crate) fn find_beside_turn(
        self,
        key: &[u8],
        hash: u64,
        slots: u64,
    ) -> (Option<KeyEntry>, bool) {
        let slab = &self.0.slab;
        let of_turn = hash_as(Tenant::Turn, hash) as u32;
        let mut found = None;
        let has_none = slab.stripe(self.stripe_of(hash)).is_unchanged_while(|| {
            let Some(head) = self.head_of(hash) else {
                return false;
            };
            let mut link = head.load(Ordering::Acquire);
            for _ in 0..UNLOCKED_STEPS {
                let Some(id) = slab.follow(link) else {
                    return link == 0;
                };
                let slot = slab.slot(id);
                slot.prefetch(slots);
                if slot.hash.load(Ordering::Relaxed) == of_turn {
                    return false;
                }
                if found.is_none() {
                    found = matches_in(slab, (id, slot), key, hash);
                }
                link = slot.next.load(Ordering::Acquire);
            }
            false
        });
        (found, !has_none)
    }

    /// Where the chain begins on which a hash hangs just now.
    #[inline]
    fn head_of(self, hash: u64) -> Option<&'s AtomicU32> {
        let buckets = Buckets(&self.0.slab);
        buckets.head(buckets.of(hash))
    }

    /// Reads `len` bytes of a key's bodies from word `at`.
    pub(crate) fn read_bytes(self, id: SlotId, at: usize, len: usize) -> Option<Vec<u8>> {
        read_bytes(&self.0.slab, id, at, len)
    }
}

/// Whether the slot holds `key`, in the life that is returned.
#[inline(always)]
pub(in crate::store) fn matches(
    slab: &Slab,
    id: SlotId,
    key: &[u8],
    hash: u64,
) -> Option<KeyEntry> {
    matches_in(slab, (id, slab.slot(id)), key, hash)
}

#[inline(always)]
fn matches_in(slab: &Slab, (id, slot): (SlotId, &Slot), key: &[u8], hash: u64) -> Option<KeyEntry> {
    let meta = slot.meta()?;
    let kind = meta.kind?;
    if meta.key_len != key.len() || slot.hash.load(Ordering::Relaxed) != hash as u32 {
        return None;
    }
    let at = KeyPlace::of(kind, key.len(), 0).key_at;
    let same = bytes_equal(slab.bodies(id, span_of(slab, id))?, at, key);
    // The key was that of this life only if the life is still the same; read after the key.
    fence(Ordering::Acquire);
    let found = KeyEntry { id, meta, kind };
    // The same tag is not asked for: that it is given another makes no miss.
    let life = Meta::life_of(meta.generation, kind);
    (same && life::is_current(&slot.meta, life)).then_some(found)
}

impl StripeGuard<'_> {
    /// Looks for a key of this stripe. A chain that does not end is damage.
    pub(crate) fn find(&self, key: &[u8], hash: u64) -> Result<Option<KeyEntry>> {
        let bucket = self.bucket_of(hash);
        let mut found = None;
        self.walk(bucket, |id| {
            found = matches(&self.store.slab, id, key, hash);
            found.is_none()
        })?;
        Ok(found)
    }

    /// Visits the slots of a bucket until `visit` says `false`.
    pub(crate) fn walk(&self, bucket: u32, mut visit: impl FnMut(SlotId) -> bool) -> Result<()> {
        let slab = self.store.slab();
        let mut link = self.head(bucket)?.load(Ordering::Acquire);
        let mut marked = 0;
        for step in 0..=slab.layout().capacity {
            if link == 0 {
                return Ok(());
            }
            if link == marked {
                break;
            }
            // Brent's way to notice a circle ("An improved Monte Carlo factorization algorithm",
            // BIT 20, 1980) before it was gone round many times.
            if step.is_power_of_two() {
                marked = link;
            }
            let id = slab.follow(link).ok_or_else(|| {
                let what = || format!("bucket {bucket} leads to slot {link}");
                slab.extent().unreachable(Growing::Slots, link - 1, what)
            })?;
            if !visit(id) {
                return Ok(());
            }
            link = slab.slot(id).next.load(Ordering::Acquire);
        }
        Err(slab.corrupt(format!("the chain of bucket {bucket} does not end")))
    }

    /// Makes a key that `find` did not find.
    ///
    /// Killed after each step: (1) the intent names runs that are not claimed: nothing to undo; (2)
    /// the claims are undone; (3) the same, the contents mean nothing; (4) it is taken out of
    /// the chain, where nobody could find it yet, and the claims are undone; (5) it exists, and
    /// recovery does (6).
    pub(in crate::store) fn create(
        &self,
        new: &NewKey<'_>,
        patience: Patience,
    ) -> Claimed<KeyEntry> {
        let slab = self.store.slab();
        let stripe = self.stripe();
        let place = new.place();
        let (span, blocks) = (place.span(), new.permits.div_ceil(PERMITS_PER_BLOCK));
        Splitter(self).split_what_is_due()?;
        let bucket = self.bucket_of(new.hash);
        // 1
        stripe.slots.store(0, Ordering::Relaxed);
        stripe.blocks.store(0, Ordering::Relaxed);
        stripe.bucket.store(bucket.into(), Ordering::Relaxed);
        stripe.note_taken_next(stripe.taken().and(Tally::by(new.kind, span)));
        stripe.set_intent(Intent::Create);
        // 2
        let claimed = self.claim_room(span, blocks, (new.thorough, patience));
        let (first, first_block) = claimed.inspect_err(|_| stripe.set_intent(Intent::None))?;
        // 3
        let meta = self.fill(new, place, first, first_block)?;
        // 4
        let head = self.head(bucket)?;
        let slot = slab.slot(first);
        slot.next
            .store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        head.store(first.link(), Ordering::Release);
        // 5. Last of all, because a walk that was stopped here in the slot's former life may be the
        // first to find it. Release: a walk that sees the kind sees the rest.
        slot.meta.store(meta.encode(), Ordering::Release);
        // 6
        let slots = Run {
            first: first.index(),
            count: span,
        };
        let blocks = Run {
            first: first_block,
            count: blocks,
        };
        self.finish_create(slots, blocks);
        Ok(KeyEntry {
            id: first,
            meta,
            kind: new.kind,
        })
    }

    /// Claims both runs, or neither.
    fn claim_room(
        &self,
        span: u32,
        blocks: u32,
        (thorough, patience): (bool, Patience),
    ) -> Claimed<(SlotId, u32)> {
        let first = Allocator(self).claim(Pool::Slots, span, thorough, patience)?;
        let first_block = match blocks {
            0 => Ok(0),
            count => Allocator(self).claim(Pool::Blocks, count, true, patience),
        };
        let unclaim = || Allocator(self).unclaim(Pool::Slots, Run { first, count: span });
        let first_block = first_block.inspect_err(|_| unclaim())?;
        // It was allocated, or it could not be claimed.
        let id = self.store.slab().slot_id(first).ok_or(NoRoom::Full);
        Ok((id.inspect_err(|_| unclaim())?, first_block))
    }

    /// Fills slots that nobody else can reach, all but the meta word.
    fn fill(
        &self,
        new: &NewKey<'_>,
        place: KeyPlace,
        id: SlotId,
        first_block: u32,
    ) -> Result<Meta> {
        let slab = self.store.slab();
        let slot = slab.slot(id);
        life::before_filling();
        let floor = self.stripe().floor.load(Ordering::Relaxed);
        slot.hold.raise_sequence(floor);
        slot.hash.store(new.hash as u32, Ordering::Relaxed);
        slot.span.store(place.span() as u16, Ordering::Relaxed);
        let generation = slot.meta().map_or(0, |m| m.generation);
        match new.kind {
            Tenant::Averager => {
                let nothing = [0; crate::record::PAYLOAD_WORDS];
                slot.cells().reset(&nothing, generation);
            }
            Tenant::Value => {
                let cells = ValueCells::within(slab, id, place.span(), new.key.len());
                let cells = cells.ok_or_else(|| slab.corrupt("a new slot is not allocated"))?;
                cells.reset(generation);
            }
            Tenant::Lock | Tenant::RLock | Tenant::Semaphore | Tenant::Turn => {
                if new.kind != Tenant::Turn {
                    clear_waiting(slab, id, place.span());
                }
                let permits = pack(first_block, new.permits);
                slot.aux.store(permits, Ordering::Release);
            }
        }
        let noted = match new.untold {
            [] => Retirer(self).untold_of(new.hash as u32),
            _ => None,
        };
        let untold = noted.as_ref().map_or(new.untold, std::slice::from_ref);
        self.fill_permits(first_block, new.permits, floor, untold);
        let whole = write_bytes(slab, id, place.span(), place.key_at, new.key)
            && write_bytes(slab, id, place.span(), place.tag_at, new.tag);
        if !whole {
            return Err(slab.corrupt("a new slot is not allocated"));
        }
        Ok(Meta {
            generation,
            kind: Some(new.kind),
            key_len: new.key.len(),
            tag_len: new.tag.len(),
        })
    }

    /// Readies the permits of a new semaphore, and sets its ticket above all that their words have
    /// seen.
    fn fill_permits(&self, first_block: u32, permits: u32, floor: u64, untold: &[Stamp]) {
        let slab = self.store.slab();
        if permits == 0 {
            // Not of anything else: there may be no block to look at, which takes a system call to
            // find out.
            return;
        }
        let mut ticket = floor;
        let mut untold = untold.iter();
        for permit in (0..permits).filter_map(|i| slab.permit(first_block, i)) {
            permit.hold.raise_sequence(0);
            if let Some(stamp) = untold.next() {
                // The floor, so that it is no token that somebody else had.
                permit.hold.raise_sequence(floor);
                permit.hold.leave_untold(*stamp);
            }
            ticket = ticket.max(reachable(permit.hold.load().sequence()).unwrap_or(0));
        }
        if let Some(first) = slab.permit(first_block, 0) {
            // Late ones of another life may still draw a number: never back, but from damage.
            let _ = first
                .ticket
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                    Some(reachable(old).map_or(ticket, |old| old.max(ticket)))
                });
        }
    }

    /// Turns the claims into what they are for; the first slot's last, by which recovery knows that
    /// this is not done.
    pub(in crate::store) fn finish_create(&self, slots: Run, blocks: Run) {
        let tail = Run {
            first: slots.first.saturating_add(1),
            count: slots.count.saturating_sub(1),
        };
        Allocator(self).set_states(Pool::Slots, tail, STATE_TAIL);
        Allocator(self).set_states(Pool::Blocks, blocks, STATE_USED);
        // Before the last one, by which a successor knows that this is not done.
        self.stripe().take_next();
        Allocator(self).set_states(Pool::Slots, Run { count: 1, ..slots }, STATE_USED);
        if blocks.count > 0
            && let Some(id) = self.store.slab().slot_id(slots.first)
        {
            // Its words say it now.
            let hash = self.store.slab().slot(id).hash.load(Ordering::Relaxed);
            self.stripe().forget_untold(hash);
        }
        self.stripe().set_intent(Intent::None);
    }
}
