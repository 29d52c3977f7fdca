//! Taking and giving back: the fast path, the slow one, and taking over from the dead and the late.

use crate::error::{Error, Result};
use crate::os::{clock, fork, futex, process};
use crate::record::{
    Hold, Judgement, Lease, ParticipantId, Returned, SEQUENCE_MAX, Stamp, Word, next_sequence,
};
use crate::store::Process;
use crate::store::binding::{Binding, Spot};
use crate::store::waiting::{HeldBy, Patience, Waiting};
use crate::sync::Ordering;
use crate::types::{Holder, Kind, Token};

/// How often a waiter looks before it sleeps: a hold is often shorter than the way into the kernel.
const SPINS: u32 = 60;

/// What was had before, by somebody who did not give it back.
#[derive(Clone, Debug)]
pub(crate) struct Predecessor {
    pub(crate) holder: Holder,
    /// Died; otherwise only let its lease run out.
    pub(crate) died: bool,
}

/// A hold that is ours until it is given back or lost.
#[derive(Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) spot: Spot,
    /// Which permit, for a semaphore, and in which block they begin: what the slot says of them may be
    /// another key's by the time they are given back.
    pub(crate) permit: u32,
    pub(crate) first_block: u32,
    /// See [`fork::epoch`].
    pub(crate) epoch: u32,
    pub(crate) word: Word,
}

impl Grant {
    /// `permit`: the block in which they begin, and which it is.
    #[inline(always)]
    pub(crate) fn new(spot: Spot, permit: (u32, u32), word: Word) -> Grant {
        Grant {
            spot,
            permit: permit.1,
            first_block: permit.0,
            epoch: fork::epoch(),
            word,
        }
    }

    /// Takes it out and leaves nobody's: no process gives that back.
    pub(crate) fn take(&mut self) -> Grant {
        let word = std::mem::replace(&mut self.word, Word::free(0));
        Grant { word, ..*self }
    }

    pub(crate) fn token(&self) -> Token {
        Token::new(self.word.sequence())
    }
}

/// What one look at all holds of a key came to.
enum Attempt {
    Granted(Grant, Option<Predecessor>),
    /// All are held.
    Held(HeldBy),
    /// The key is not where it was.
    Gone,
    /// Somebody is taking the key away.
    Retiring,
}

/// The fast path: a word that is plainly free, in a slot that is remembered. No system call, no
/// allocation, and but for the lease no precise clock. Inlined as a whole, so that a guard stays in
/// registers: passing it through memory costs more than the two atomic operations.
impl Binding {
    /// Takes a lock or a latch.
    #[inline(always)]
    pub(crate) fn try_fast(&self, kind: Kind) -> Option<(Grant, &Hold)> {
        let me = self.store().me()?;
        let spot = self.remembered()?;
        let hold = &self.slot(spot).hold;
        let seen = hold.load();
        if !seen.is_plainly_free() || !spot.is_current(self.slot(spot), kind) {
            return None;
        }
        let word = self.take(hold, seen, me, next_sequence(seen)?, false, kind);
        let word = word.ok()?;
        Some((Grant::new(spot, (0, 0), word), hold))
    }

    /// Takes the permit of a semaphore that was free last time.
    #[inline(always)]
    pub(crate) fn try_fast_permit(&self) -> Option<(Grant, &Hold)> {
        let me = self.store().me()?;
        let spot = self.remembered()?;
        let permit = self.hint.load(Ordering::Relaxed);
        let (first, permits) = self.slot(spot).permits();
        if permit >= permits {
            return None;
        }
        let slab = self.store().slab();
        let hold = &slab.permit(first, permit)?.hold;
        let seen = hold.load();
        if !seen.is_plainly_free() || !spot.is_current(self.slot(spot), Kind::Semaphore) {
            return None;
        }
        let sequence = slab.permit(first, 0)?.next_ticket();
        if sequence <= seen.sequence() || sequence > SEQUENCE_MAX {
            return None;
        }
        let word = self.take(hold, seen, me, sequence, false, Kind::Semaphore);
        let word = word.ok()?;
        Some((Grant::new(spot, (first, permit), word), hold))
    }

    /// Takes exactly `seen`, and says since when and for how long.
    #[inline(always)]
    fn take(
        &self,
        hold: &Hold,
        seen: Word,
        me: ParticipantId,
        sequence: u64,
        contended: bool,
        kind: Kind,
    ) -> std::result::Result<Word, Word> {
        let deadline = hold.deadline_bits();
        let mine = hold.take(seen, me, sequence, contended)?;
        // An average's latch is held for nanoseconds, and nobody asks since when.
        if kind != Kind::Averager {
            let (lease, stamp) = self.lease_from_now();
            hold.set_stamp(mine, stamp);
            hold.set_lease(mine, deadline, lease);
        }
        Ok(mine)
    }

    /// The lease of a hold that begins now, and its stamp.
    #[inline(always)]
    fn lease_from_now(&self) -> (Lease, Stamp) {
        let tid = process::tid();
        match self.lease_us {
            None => (Lease::None, Stamp::in_seconds(tid, clock::wall_s())),
            Some(lease_us) => {
                let (end_us, now_ns) = clock::lease_end_us(lease_us);
                (Lease::Until(end_us), Stamp::precise(tid, now_ns))
            }
        }
    }

    /// Whether the hold is this process's: a child of a fork holds nothing that its parent held.
    #[inline(always)]
    pub(crate) fn is_ours(&self, word: Word) -> bool {
        let me = self.store().me();
        me.is_some() && me == word.participant()
    }
}

/// The slow path.
impl Binding {
    /// Takes the key, or one of its permits, as `patience` allows. `None`: it is held.
    #[cold]
    pub(crate) fn acquire(
        &self,
        patience: Patience,
    ) -> Result<Option<(Grant, Option<Predecessor>)>> {
        let mut slept = false;
        let mut spins = SPINS;
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let process = self.store().process()?;
            let Some(spot) = self.locate_or_create(patience)? else {
                return Ok(None);
            };
            let slot = self.slot(spot);
            // Before looking: whoever frees a word after that look also changes this (W1).
            let wakes = slot.wake.load(Ordering::Acquire);
            let held = match self.attempt(process, spot, slept)? {
                Attempt::Granted(grant, before) => return Ok(Some((grant, before))),
                Attempt::Gone => continue,
                Attempt::Retiring if self.await_retirement(spot, patience)? => continue,
                Attempt::Retiring => return Ok(None),
                Attempt::Held(held) => held,
            };
            if patience.left().is_none() {
                return Ok(None);
            }
            if spins > 0 && self.spin(spot, &mut spins) {
                continue;
            }
            // For another slot anew, the old one first: a process can be seen to wait for a few keys only.
            let mut here = match waiting.take().filter(|w| w.spot == spot) {
                Some(here) => here,
                None => Waiting::new(self.store(), process, spot),
            };
            if self.mark_contended(spot)? {
                self.sleep(&mut here, wakes, patience, &held);
                slept = true;
            }
            waiting = Some(here);
        }
    }

    /// Looks at all holds of the key once and takes the first that can be had.
    fn attempt(&self, process: &Process, spot: Spot, contended: bool) -> Result<Attempt> {
        let mut held_by = HeldBy::default();
        let Some((first, count)) = self.current_range(spot)? else {
            return Ok(Attempt::Gone);
        };
        held_by.holds = count;
        let start = self.hint.load(Ordering::Relaxed) % count;
        for permit in (start..count).chain(0..start) {
            let hold = self.hold(spot, first, permit)?;
            let mut seen = hold.load();
            loop {
                if !self.is_current(spot) {
                    return Ok(Attempt::Gone);
                }
                let is_dead = |other| held_by.is_dead(self.store(), process, other);
                let judgement = match hold.judge(seen, clock::boot_us, is_dead) {
                    // A latch has no lease. What is in its deadline word is from another life of the slot.
                    Judgement::Expired if self.kind() == Kind::Averager => Judgement::Held,
                    other => other,
                };
                match judgement {
                    Judgement::Held => {
                        held_by.until(hold.lease_of(seen));
                        break;
                    }
                    Judgement::Retiring => return Ok(Attempt::Retiring),
                    Judgement::Expired if !hold.mark_over(seen, clock::boot_us) => {
                        seen = hold.load();
                        continue;
                    }
                    _ => {}
                }
                let predecessor = self.predecessor(process, hold, seen, judgement);
                let sequence = self.sequence_after(first, seen)?;
                match self.take(hold, seen, process.id, sequence, contended, self.kind()) {
                    Ok(word) => {
                        // Whoever took the slow way can afford the better clock.
                        let stamp = Stamp::precise(process::tid(), clock::coarse_ns());
                        hold.set_stamp(word, stamp);
                        self.hint.store(permit, Ordering::Relaxed);
                        let grant = Grant::new(spot, (first, permit), word);
                        return Ok(Attempt::Granted(grant, predecessor));
                    }
                    Err(now) => seen = now,
                }
            }
        }
        Ok(Attempt::Held(held_by))
    }

    /// First block and number of permits; of anything but a semaphore `(0, 1)`.
    fn hold_range(&self, spot: Spot) -> Result<(u32, u32)> {
        match self.kind() {
            Kind::Semaphore => self.store().permits_of(spot.id),
            _ => Ok((0, 1)),
        }
    }

    /// The same while the key is where it was; `None` when it is not.
    fn current_range(&self, spot: Spot) -> Result<Option<(u32, u32)>> {
        let range = self.hold_range(spot);
        // What is read of another life's permits, and be it nonsense, means nothing.
        match self.is_current(spot) {
            true => range.map(Some),
            false => Ok(None),
        }
    }

    /// The hold of a lock, or of permit number `permit`.
    fn hold(&self, spot: Spot, first: u32, permit: u32) -> Result<&Hold> {
        if self.kind() != Kind::Semaphore {
            return Ok(&self.slot(spot).hold);
        }
        let slab = self.store().slab();
        slab.permit(first, permit)
            .map(|permit| &permit.hold)
            .ok_or_else(|| slab.corrupt(format!("permit {permit} of block {first}")))
    }

    /// The sequence for a grant after `seen`: one more, and for a permit one that the semaphore never gave.
    fn sequence_after(&self, first: u32, seen: Word) -> Result<u64> {
        let slab = self.store().slab();
        let used_up = || slab.corrupt(format!("the sequence of {} is used up", self.show_key()));
        let least = next_sequence(seen).ok_or_else(used_up)?;
        if self.kind() != Kind::Semaphore {
            return Ok(least);
        }
        let ticket = &slab.permit(first, 0).ok_or_else(used_up)?.ticket;
        // After damage the ticket may be behind its permits.
        ticket.fetch_max(least - 1, Ordering::Relaxed);
        let sequence = ticket.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        (least..=SEQUENCE_MAX)
            .contains(&sequence)
            .then_some(sequence)
            .ok_or_else(used_up)
    }

    fn predecessor(
        &self,
        process: &Process,
        hold: &Hold,
        seen: Word,
        judgement: Judgement,
    ) -> Option<Predecessor> {
        let died = match judgement {
            Judgement::Dead | Judgement::Abandoned => true,
            Judgement::Expired => false,
            Judgement::Free | Judgement::Held | Judgement::Retiring => return None,
        };
        let holder = self.store().holder(process, hold, seen, !died);
        (self.kind() != Kind::Averager).then_some(Predecessor { holder, died })
    }

    /// Looks again and again for a little while. Whether anything looks free.
    fn spin(&self, spot: Spot, spins: &mut u32) -> bool {
        let Ok((first, count)) = self.hold_range(spot) else {
            return true;
        };
        let permit = self.hint.load(Ordering::Relaxed) % count;
        while *spins > 0 {
            *spins -= 1;
            std::hint::spin_loop();
            if self
                .hold(spot, first, permit)
                .is_ok_and(|h| h.load().is_free())
            {
                return true;
            }
        }
        false
    }

    /// Asks to be woken by whoever gives back any of the holds. `false`: one of them looks free.
    fn mark_contended(&self, spot: Spot) -> Result<bool> {
        let Some((first, count)) = self.current_range(spot)? else {
            return Ok(false);
        };
        for permit in 0..count {
            let hold = self.hold(spot, first, permit)?;
            let mut seen = hold.load();
            loop {
                if seen.is_free() || seen.is_retiring() || !self.is_current(spot) {
                    return Ok(false);
                }
                match hold.mark_contended(seen) {
                    Ok(_) => break,
                    Err(now) => seen = now,
                }
            }
        }
        Ok(true)
    }

    /// Waits until nobody is in the middle of taking the key away: under its stripe nobody is, for a dead
    /// one's work is ended there. `false`: the patience was over first.
    fn await_retirement(&self, spot: Spot, patience: Patience) -> Result<bool> {
        let stripe = self.store().stripe_of(self.hash());
        let Some(_guard) = self.store().lock_stripe_within(stripe, patience)? else {
            return Ok(false);
        };
        // Still there, and no intent said so: damage, which would keep us coming back for ever.
        if let Some((first, count)) = self.current_range(spot)? {
            for permit in 0..count {
                self.hold(spot, first, permit)?.end_retirement();
            }
        }
        Ok(true)
    }
}

/// What can be done with a grant.
impl Binding {
    pub(crate) fn hold_of(&self, grant: &Grant) -> Result<&Hold> {
        self.hold(grant.spot, grant.first_block, grant.permit)
    }

    /// Gives the grant back. Errors: `NotHolder` in a forked child, `Lost` if it was taken over.
    #[inline(never)]
    pub(crate) fn give_back(&self, grant: &Grant) -> Result<()> {
        if !self.is_ours(grant.word) {
            return Err(self.not_holder());
        }
        match self.return_word(grant) {
            Returned::Free => Ok(()),
            Returned::Wake => {
                self.wake_one(grant.spot);
                Ok(())
            }
            Returned::Lost => Err(self.lost(grant)),
        }
    }

    fn return_word(&self, grant: &Grant) -> Returned {
        match self.kind() {
            Kind::Semaphore => self
                .hold_of(grant)
                .map_or(Returned::Lost, |hold| hold.give_back(grant.word)),
            _ => self.slot(grant.spot).hold.give_back(grant.word),
        }
    }

    #[cold]
    fn wake_one(&self, spot: Spot) {
        let wake = &self.slot(spot).wake;
        // Release: pairs with the Acquire at the head of the waiting loop (W1).
        wake.fetch_add(1, Ordering::Release);
        futex::wake(wake, 1);
    }

    /// Starts the lease anew. Without one, only says whether the grant still stands.
    pub(crate) fn renew(&self, grant: &Grant) -> Result<()> {
        let hold = self.own_hold(grant)?;
        let stands = match self.expire {
            Some(_) => hold.renew(grant.word, self.lease_from_now().0),
            None => hold.is_valid(grant.word, clock::boot_us),
        };
        stands.then_some(()).ok_or_else(|| self.lost(grant))
    }

    /// Whether the grant still stands and its lease is not over.
    pub(crate) fn check(&self, grant: &Grant) -> Result<()> {
        let stands = self.own_hold(grant)?.is_valid(grant.word, clock::boot_us);
        stands.then_some(()).ok_or_else(|| self.lost(grant))
    }

    fn own_hold(&self, grant: &Grant) -> Result<&Hold> {
        if !self.is_ours(grant.word) {
            return Err(self.not_holder());
        }
        self.hold_of(grant)
    }

    #[cold]
    pub(crate) fn lost(&self, grant: &Grant) -> Error {
        Error::Lost {
            key: self.show_key(),
            token: grant.token(),
        }
    }

    #[cold]
    pub(crate) fn not_holder(&self) -> Error {
        Error::NotHolder {
            key: self.show_key(),
        }
    }

    /// Gives back whatever grant has `token`, also another process's: who knows the token may. `false` if
    /// none has it, or none any more.
    pub(crate) fn release_token(&self, token: Token) -> Result<bool> {
        let Some(spot) = self.locate()? else {
            return Ok(false);
        };
        let Some((first, count)) = self.current_range(spot)? else {
            return Ok(false);
        };
        for permit in 0..count {
            let word = self.hold(spot, first, permit)?.load();
            if word.is_free() || word.is_retiring() || word.sequence() != token.get() {
                continue;
            }
            let grant = Grant::new(spot, (first, permit), word);
            let returned = self.return_word(&grant);
            if returned == Returned::Wake {
                self.wake_one(spot);
            }
            return Ok(returned != Returned::Lost);
        }
        Ok(false)
    }

    /// Starts the lease of a hold that is ours, if the handle has one. `false`: it is lost.
    #[inline(always)]
    pub(crate) fn rearm(&self, hold: &Hold, word: Word) -> bool {
        match self.expire {
            // It may have been taken through a handle with a lease.
            None => hold.is_valid(word, clock::boot_us),
            Some(_) => hold.renew(word, self.lease_from_now().0),
        }
    }
}
