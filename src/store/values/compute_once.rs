//! Turns to compute a value that is not there, or will not be for long: one process has the turn,
//! for all.
//!
//! A turn is a lock in a namespace of its own, so that the key itself can be the value's. Its
//! holder looks at the value again, computes it, sets it, notes in the hold's stamp how long it
//! took, and gives the turn back; waiters leave as soon as the value is there. Everything else,
//! from waking to taking over from the dead, is the lock's.
//!
//! A turn that ends without a value says so in the stamp, and so does the one that follows it: who
//! has waited for the first need not wait for the second, too. All of them compute at once, and the
//! one with the turn keeps it.
//!
//! A turn that is over stays beside its value for as long as it is good for something, and is
//! reclaimed like any lock when the value is not there.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::os::{clock, futex};
use crate::record::{Force, Hold, Lease, Stamp, Word, waiting};
use crate::slab::{SlotId, Tenant};
use crate::store::holds::fast::{Grant, Holding};
use crate::store::holds::handle::Handle;
use crate::store::holds::slow::Acquirer;
use crate::store::index::chains::{Index, VALUE_SLOTS};
use crate::store::index::retire::Retirer;
use crate::store::key_entry::{KeyEntry, SlotRef, hash_as};
use crate::store::members::deadlock::{Deadlocks, Noted};
use crate::store::patience::Patience;
use crate::store::slots::by_slot::Slots;
use crate::store::{Store, names};
use crate::sync::{Ordering, fence};
use crate::types::Predecessor;

/// How long to wait for a stripe to void a turn.
const A_WHILE: Duration = Duration::from_millis(5);

/// The turn to compute a value, given back when this is dropped, also by a panic. In the child of a
/// fork it is inert, as every hold.
pub(crate) struct Turn {
    handle: Handle,
    grant: Grant,
    /// How long the one before took, if anybody wants to know: kept if this one is not finished.
    before: Option<Stamp>,
    /// Whether the slot is worth having once this is over.
    stays: bool,
    _noted: Noted,
}

/// What came of waiting for a turn.
pub(crate) enum Begun {
    Turn(Box<Turn>),
    /// Perhaps the value is there.
    NotNeeded,
    /// The turn that was waited for ended without a value, and somebody has the next one.
    Beside,
}

impl Begun {
    /// `before`: a holder of the turn that has not ended it.
    fn of(handle: Handle, grant: Grant, before: Option<Predecessor>) -> Begun {
        Begun::Turn(Box::new(Turn::new(handle, grant, before.is_some())))
    }
}

/// A turn, as it was seen.
#[derive(Clone, Copy)]
struct Glance {
    slot: SlotId,
    sequence: u64,
    is_held: bool,
    is_in_vain: bool,
}

impl Glance {
    /// Whether this one follows one that ended without a value, after `first` was seen.
    fn follows_in_vain(self, first: Glance) -> bool {
        self.is_in_vain && (first.slot, first.sequence) != (self.slot, self.sequence)
    }
}

/// Whose turn it is to compute a value that is missing.
#[derive(Clone, Copy)]
pub(crate) struct Turns<'s>(pub(crate) &'s Arc<Store>);

impl<'s> Turns<'s> {
    /// Waits for the turn of a key, until `is_there` says that the value is.
    pub(crate) fn begin_turn(self, key: &[u8], is_there: &dyn Fn() -> bool) -> Result<Begun> {
        let handle = Handle::new(Arc::clone(self.0), Tenant::Turn, key, 0);
        // Without waiting, so that it is seen which one is waited for.
        match Acquirer(&handle).acquire(Patience::Never) {
            Ok(Some((grant, before))) => return Ok(Begun::of(handle, grant, before)),
            Ok(None) | Err(Error::StructureBusy { .. }) => {}
            Err(error) => return Err(error),
        }
        let first = Cell::new(self.look(&handle).filter(|first| first.is_held));
        let is_in_vain = || {
            let now = self.look(&handle).filter(|now| now.is_held);
            let first = first.get().or_else(|| {
                first.set(now);
                now
            });
            now.zip(first)
                .is_some_and(|(now, first)| now.follows_in_vain(first))
        };
        let is_needless = || is_there() || is_in_vain();
        let granted = Acquirer(&handle).acquire_unless(Patience::Forever, &is_needless)?;
        Ok(match granted {
            Some((grant, before)) => Begun::of(handle, grant, before),
            None if is_in_vain() => Begun::Beside,
            None => Begun::NotNeeded,
        })
    }

    /// The turn of a key as it is now, if there is any.
    fn look(self, handle: &Handle) -> Option<Glance> {
        let found = Index(self.0).find_unlocked(handle.key(), handle.hash(), 1)?;
        let hold = &self.0.slab.slot(found.id).hold;
        let word = hold.load();
        Some(Glance {
            slot: found.id,
            sequence: word.sequence(),
            is_held: !word.is_free(),
            is_in_vain: hold.stamp_of(word).is_some_and(Stamp::is_in_vain),
        })
    }

    /// Takes the turn of a key if nobody has it.
    pub(crate) fn try_begin_turn(self, key: &[u8]) -> Result<Option<Turn>> {
        let handle = Handle::new(Arc::clone(self.0), Tenant::Turn, key, 0);
        let granted = match Acquirer(&handle).acquire(Patience::Never) {
            // A caller that would only have computed it early does without.
            Err(Error::StructureBusy { .. }) => None,
            granted => granted?,
        };
        Ok(granted.map(|(grant, before)| Turn::new(handle, grant, before.is_some())))
    }

    /// Voids the turn of a key, if anybody has it: the value is about to be changed or deleted, and
    /// what is being computed may be of what was before. Comes before a look for the value; the
    /// holder looks for this mark with the value's latch, so that one of the two sees the other.
    ///
    /// (As the leases of memcached do: Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013.)
    #[inline]
    pub(crate) fn void_turn(self, key: &[u8], hash: u64) {
        let hash = hash_as(Tenant::Turn, hash);
        if !Index(self.0).is_miss(key, hash) {
            self.void_known_turn(key, hash);
        }
    }

    /// As `void_turn`, and says on the way where the value lies, if that is found at once.
    #[inline]
    pub(crate) fn void_turn_beside(self, key: &[u8], hash: u64) -> Option<KeyEntry> {
        let (found, may_have_turn) = Index(self.0).find_beside_turn(key, hash, VALUE_SLOTS);
        if may_have_turn {
            self.void_known_turn(key, hash_as(Tenant::Turn, hash));
        }
        found
    }

    #[cold]
    fn void_known_turn(self, key: &[u8], hash: u64) {
        // While a process is stopped that makes or removes keys there, the turn cannot be found for
        // certain.
        let found = Index(self.0).find(key, hash, Patience::strictly(A_WHILE));
        if let Ok(Some(found)) = found {
            let hold = &self.0.slab.slot(found.id).hold;
            hold.void(|| Slots(self.0).is_still(found));
            // Pairs with the fence of a holder that has just made the value's key.
            fence(Ordering::SeqCst);
        }
    }

    /// How long the last turn of a key took. `None`: nobody knows, or one is under way.
    pub(crate) fn last_turn(self, key: &[u8]) -> Option<Duration> {
        let found =
            Index(self.0).find_unlocked(key, hash_as(Tenant::Turn, Index(self.0).hash(key)), 1)?;
        let hold = &self.0.slab.slot(found.id).hold;
        let seen = hold.load();
        let us = hold
            .stamp_of(seen)
            .filter(|_| seen.is_plainly_free())?
            .took_us()?;
        Some(Duration::from_micros(us))
    }

    /// Whether it is time to compute a value again before it is over: with a probability that grows
    /// as the end comes near, so that of all callers about one does, early enough for the new value
    /// to be there in time.
    ///
    /// Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention"
    /// (VLDB 2015).
    pub(crate) fn is_due(self, key: &[u8], expires_ms: u64, beta: f64) -> Result<bool> {
        /// No `-ln` of a number that is drawn is larger.
        const FAR: f64 = 37.0;
        let Some(took) = self.last_turn(key).filter(|_| expires_ms != 0) else {
            return Ok(false);
        };
        let left_us = (expires_ms * 1_000).saturating_sub(clock::wall_us()) as f64;
        let scale_us = took.as_micros() as f64 * beta;
        if left_us > scale_us * FAR {
            return Ok(false);
        }
        let drawn = (names::random(self.0.dir())? >> 11) + 1;
        let drawn = drawn as f64 / (1_u64 << 53) as f64;
        Ok(left_us <= -drawn.ln() * scale_us)
    }
}

impl Turn {
    /// `follows_dead`: the holder before has left it without coming to an end.
    fn new(handle: Handle, grant: Grant, follows_dead: bool) -> Turn {
        let last = Word::free(grant.word.sequence() - 1);
        let stamp = handle.slot(grant.spot).hold.stamp_of(last);
        let before = stamp.filter(|stamp| stamp.took_us().is_some());
        if stamp.is_some_and(Stamp::is_in_vain) && !follows_dead {
            let slot = handle.slot(grant.spot);
            slot.hold.set_stamp(grant.word, Stamp::in_vain(before));
            waiting::wake(&slot.wake, || futex::wake(&slot.wake, i32::MAX));
        }
        let SlotRef { id, generation } = grant.spot;
        let noted = Deadlocks(handle.store()).note_slot(id, generation);
        Turn {
            _noted: noted,
            handle,
            grant,
            stays: before.is_some(),
            before,
        }
    }

    fn hold(&self) -> &Hold {
        &self.handle.slot(self.grant.spot).hold
    }

    /// Whether it is this process's, and nobody has cleared the store meanwhile: otherwise what was
    /// computed is not to be kept.
    pub(crate) fn is_ours(&self) -> bool {
        let word = self.grant.word;
        Holding(&self.handle).is_ours(word) && self.hold().load().same_hold(word)
    }

    /// Whether what was computed may be kept: it is ours, and the value was not changed or deleted
    /// since it began. Asked with the latch of the value.
    pub(crate) fn may_be_kept(&self) -> bool {
        // Pairs with the fence of a process that voids it: that finds the value's key, or this sees
        // the mark.
        fence(Ordering::SeqCst);
        let is_void = || self.hold().lease_of(self.grant.word) == Lease::Over;
        self.is_ours() && !is_void()
    }

    /// What there is to say when it is not ours.
    pub(crate) fn lost(&self) -> Error {
        match Holding(&self.handle).is_ours(self.grant.word) {
            true => Holding(&self.handle).lost(&self.grant),
            false => Holding(&self.handle).not_holder(),
        }
    }

    /// Ends the turn: the value is there. Releases all waiters for that. With `stays`, keeps how
    /// long it took for `Turns::last_turn`.
    pub(crate) fn finish(mut self, took: Duration, stays: bool) {
        self.stays |= stays;
        let took = Stamp::took(clock::duration_us(took));
        self.hold().set_stamp(self.grant.word, took);
        let is_waited_for = self.hold().load().is_contended();
        let returned = Holding(&self.handle).give_back(&self.grant.take());
        // One was woken, and would wake the next; but they need not leave one by one. A waiter that
        // comes between the look and the return is woken by the one before.
        if returned.is_ok() && is_waited_for {
            let wake = &self.handle.slot(self.grant.spot).wake;
            waiting::wake(wake, || futex::wake(wake, i32::MAX));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_ours() {
            self.hold()
                .set_stamp(self.grant.word, Stamp::in_vain(self.before));
            // The waiters are to find that.
            self.stays |= self.hold().load().is_contended();
            // Lost in this moment: then there is nobody to tell.
            let _ = Holding(&self.handle).give_back(&self.grant);
        }
        // Not in the child of a fork, which has not joined.
        if !self.stays && self.handle.store().me().is_some() {
            let _ = take_away(&self.handle);
        }
    }
}

/// Frees the slot of a turn that nobody has and nobody needs. If that is not possible now, it is
/// done when room is needed.
fn take_away(handle: &Handle) -> Result<()> {
    let store = handle.store();
    let (hash, key) = (handle.hash(), handle.key());
    if let Some(stripe) =
        Index(store).lock_stripe_within(Index(store).stripe_of(hash), Patience::Never)?
        && let Some(found) = stripe.find(key, hash)?
    {
        Retirer(&stripe).retire(found, stripe.bucket_of(hash), Force::Idle, || true)?;
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests;
