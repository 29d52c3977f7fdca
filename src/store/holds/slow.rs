//! Contending: the slow way to a key, by looking at all its holds, taking over from the dead and
//! the late, and waiting. The rules of each are in `record`; here is what they need to know of the
//! store.

use crate::error::{Error, Result};
use crate::os::{clock, futex, process};
use crate::record::waiting::{self, Seen, Waiter};
use crate::record::{
    Hold, Judgement, Lease, Look, ParticipantId, Stamp, Taker, Word, look_at_all, next_sequence,
    ticket,
};
use crate::slab::Tenant;
use crate::store::holds::fast::{Grant, Holding};
use crate::store::holds::handle::Handle;
use crate::store::holds::locate::Finder;
use crate::store::holds::sleep::{HeldBy, Waiting};
use crate::store::key_entry::SlotRef;
use crate::store::members::deadlock::Deadlocks;
use crate::store::members::participants::Members;
use crate::store::members::process::Process;
use crate::store::patience::Patience;
use crate::store::slots::by_slot::Slots;
use crate::sync::{AtomicU32, Ordering};
use crate::types::Predecessor;

/// How often a waiter looks before it sleeps: a hold is often shorter than the way into the kernel.
const SPINS: u32 = 60;

/// Takes holds that are not available at once.
#[derive(Clone, Copy)]
pub(crate) struct Acquirer<'h>(pub(crate) &'h Handle);

impl<'h> Acquirer<'h> {
    /// Takes the key, or one of its permits, as `patience` allows. `None`: it is held.
    /// Errors: `StructureBusy` if that could not be said within `patience`.
    #[cold]
    pub(crate) fn acquire(
        self,
        patience: Patience,
    ) -> Result<Option<(Grant, Option<Predecessor>)>> {
        self.acquire_unless(patience, &|| false)
    }

    /// Acquires, unless a waiter that has slept is told by `needless` to give up. `None` then, too.
    #[cold]
    pub(crate) fn acquire_unless(
        self,
        patience: Patience,
        needless: &dyn Fn() -> bool,
    ) -> Result<Option<(Grant, Option<Predecessor>)>> {
        if self.0.lease_us.is_some() && !clock::is_scale_known() {
            return Err(Error::Invalid {
                what: "a lease needs /proc, which is not there: without it nobody knows whether clocks here \
                       mean what they mean to others; mount /proc, or hold without a lease"
                    .to_string(),
            });
        }
        let granted = waiting::wait(&mut Acquiring {
            handle: self.0,
            patience,
            needless,
            spins: SPINS,
            held: HeldBy::default(),
            before: None,
            waiting: None,
        })?;
        if granted.is_none() {
            self.0.store().check_in_place()?;
        }
        Ok(granted)
    }

    /// Looks at all holds of the key once and takes the first that is available. `held` says what
    /// is held.
    fn attempt(
        self,
        at: Here<'_>,
        slept: bool,
        held: &mut HeldBy,
    ) -> Result<Option<(Look, Option<Predecessor>, u32)>> {
        *held = HeldBy::default();
        let Some((first, count)) = self.current_range(at.spot)? else {
            return Ok(None);
        };
        held.holds = count;
        let start = self.0.hint.load(Ordering::Relaxed) % count;
        let numbers = (start..count).chain(0..start);
        let holds = numbers.map(|n| self.hold(at.spot, first, n).map(|hold| (n, hold)));
        let mut looking = Looking {
            handle: self.0,
            at,
            first,
            held,
            predecessor: None,
        };
        let look = look_at_all(holds, slept, &mut looking)?;
        Ok(Some((look, looking.predecessor, first)))
    }

    /// First block and number of permits; of anything but a semaphore `(0, 1)`.
    fn hold_range(self, spot: SlotRef) -> Result<(u32, u32)> {
        match self.0.kind() {
            Tenant::Semaphore => Slots(self.0.store()).permits_of(spot.id),
            _ => Ok((0, 1)),
        }
    }

    /// First block and number of permits while the key is where it was; `None` when it is not.
    pub(in crate::store) fn current_range(self, spot: SlotRef) -> Result<Option<(u32, u32)>> {
        let range = self.hold_range(spot);
        // What is read of another life's permits, and be it nonsense, means nothing.
        match self.0.is_current(spot) {
            true => range.map(Some),
            false => Ok(None),
        }
    }

    /// The hold of a lock, or of permit number `permit`.
    pub(in crate::store) fn hold(self, spot: SlotRef, first: u32, permit: u32) -> Result<&'h Hold> {
        if self.0.kind() != Tenant::Semaphore {
            return Ok(&self.0.slot(spot).hold);
        }
        let slab = self.0.store().slab();
        slab.permit(first, permit)
            .map(|permit| &permit.hold)
            .ok_or_else(|| slab.corrupt(format!("permit {permit} of block {first}")))
    }

    /// The sequence for a grant after `seen`: one more, and for a permit one that the semaphore
    /// never gave.
    fn sequence_after(self, first: u32, seen: Word) -> Result<u64> {
        let slab = self.0.store().slab();
        let used_up = || slab.corrupt(format!("the sequence of {} is used up", self.0.show_key()));
        if self.0.kind() != Tenant::Semaphore {
            return next_sequence(seen).ok_or_else(used_up);
        }
        let permit = slab.permit(first, 0).ok_or_else(used_up)?;
        ticket::draw_above(&permit.ticket, seen).ok_or_else(used_up)
    }

    fn predecessor(
        self,
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
        let holder = Members(self.0.store()).holder(process, hold, seen, !died);
        (!self.0.kind().is_latched()).then_some(Predecessor::of(holder, died))
    }

    /// Looks again and again for a little while. Whether anything looks free.
    fn spin(self, spot: SlotRef, spins: &mut u32) -> bool {
        let Ok((first, count)) = self.hold_range(spot) else {
            return true;
        };
        let permit = self.0.hint.load(Ordering::Relaxed) % count;
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

    /// Asks to be woken when a holder gives back any of the holds. `false`: one of them looks free.
    fn mark_contended(self, spot: SlotRef) -> Result<bool> {
        let Some((first, count)) = self.current_range(spot)? else {
            return Ok(false);
        };
        let holds = (0..count).map(|permit| self.hold(spot, first, permit));
        waiting::mark_all(holds, || self.0.is_current(spot))
    }

    /// Waits until no remover is in the middle of taking the key away: under its stripe none is,
    /// for a dead process's work is ended there. Errors: `StructureBusy` if the patience was over
    /// first.
    fn await_retirement(self, spot: SlotRef, patience: Patience) -> Result<()> {
        let _guard = Finder(self.0).lock_stripe_within(patience)?;
        // Still there, and no intent said so: damage, which would keep us coming back for ever.
        if let Some((first, count)) = self.current_range(spot)? {
            for permit in 0..count {
                self.hold(spot, first, permit)?.end_retirement();
            }
        }
        Ok(())
    }
}

/// Where the key was found, and this process's part there: another one after a fork.
#[derive(Clone, Copy)]
struct Here<'a> {
    process: &'a Process,
    spot: SlotRef,
}

/// One look at the holds of a key.
struct Looking<'a> {
    handle: &'a Handle,
    at: Here<'a>,
    first: u32,
    held: &'a mut HeldBy,
    predecessor: Option<Predecessor>,
}

impl Taker for Looking<'_> {
    type Error = Error;

    fn me(&self) -> ParticipantId {
        self.at.process.id
    }

    fn is_current(&self) -> bool {
        self.handle.is_current(self.at.spot)
    }

    fn is_dead(&self, other: ParticipantId) -> bool {
        let store = self.handle.store();
        self.held.is_dead(store, self.at.process, other)
    }

    fn now_us(&self) -> u64 {
        clock::uptime_us()
    }

    fn is_leased(&self) -> bool {
        !self.handle.kind().is_latched()
    }

    fn sequence_after(&self, seen: Word) -> Result<u64> {
        Acquirer(self.handle).sequence_after(self.first, seen)
    }

    fn note_predecessor(&mut self, hold: &Hold, seen: Word, judgement: Judgement) {
        let process = self.at.process;
        self.predecessor = Acquirer(self.handle).predecessor(process, hold, seen, judgement);
    }

    fn note_held(&mut self, lease: Lease) {
        self.held.until(lease);
    }

    /// The slow way can afford the better clock.
    fn terms(&self) -> Option<(Lease, Stamp)> {
        let (lease, stamp) = Holding(self.handle).terms(self.handle.kind())?;
        match lease {
            Lease::None => Some((lease, Stamp::precise(process::tid(), clock::coarse_ns()))),
            _ => Some((lease, stamp)),
        }
    }
}

/// An acquirer of a key, which waits for it if need be.
struct Acquiring<'a> {
    handle: &'a Handle,
    patience: Patience,
    needless: &'a dyn Fn() -> bool,
    spins: u32,
    held: HeldBy,
    /// The predecessor, if this acquirer has taken over a semaphore of another number of permits,
    /// and where that is.
    before: Option<(SlotRef, Predecessor)>,
    waiting: Option<Waiting<'a>>,
}

impl Acquiring<'_> {
    /// The predecessor of the acquirer that was granted `grant`. The word names a dead one, but not
    /// all that was known of it; and if another acquirer was granted the permit first, that one was
    /// told.
    fn told(&self, grant: &Grant, found: Option<Predecessor>) -> Option<Predecessor> {
        let before = self.before.as_ref();
        let known = before.filter(|before| before.0 == grant.spot);
        match (known, &found) {
            (Some((_, dead)), Some(by_word))
                if dead.has_died() && by_word.has_died() && grant.permit == 0 =>
            {
                Some(dead.clone())
            }
            (Some((_, late)), None) if !late.has_died() => Some(late.clone()),
            _ => found,
        }
    }
}

impl<'a> Waiter for Acquiring<'a> {
    type Place = Here<'a>;
    type Grant = (Grant, Option<Predecessor>);
    type Error = Error;

    fn find_key(&mut self) -> Result<Option<Here<'a>>> {
        let process = self.handle.store().process()?;
        if self.waiting.is_some() && (self.needless)() {
            return Ok(None);
        }
        let (spot, before) = Finder(self.handle).locate_or_create(self.patience)?;
        if let Some(before) = before {
            self.before = Some((spot, before));
        }
        Ok(Some(Here { process, spot }))
    }

    fn wake_word(&self, at: Here<'a>) -> &AtomicU32 {
        &self.handle.slot(at.spot).wake
    }

    fn look(&mut self, at: Here<'a>, slept: bool) -> Result<Seen<Self::Grant>> {
        let looked = Acquirer(self.handle).attempt(at, slept, &mut self.held)?;
        let Some((look, predecessor, first)) = looked else {
            return Ok(Seen::Changed);
        };
        if !matches!(look, Look::Taken(..)) {
            // Without its beacon, or what it sees of others', this process could judge nobody, and
            // would wait for ever.
            at.process.locks.prove()?;
        }
        Ok(match look {
            Look::Taken(permit, word) => {
                self.handle.hint.store(permit, Ordering::Relaxed);
                let grant = Grant::new(at.spot, (first, permit), word);
                let predecessor = self.told(&grant, predecessor);
                Seen::Granted((grant, predecessor))
            }
            Look::Held => Seen::Held,
            Look::Gone => Seen::Changed,
            Look::Retiring => {
                Acquirer(self.handle).await_retirement(at.spot, self.patience)?;
                Seen::Changed
            }
        })
    }

    fn is_patient(&self) -> bool {
        self.patience.left().is_some()
    }

    fn spin(&mut self, at: Here<'a>) -> bool {
        self.spins > 0 && Acquirer(self.handle).spin(at.spot, &mut self.spins)
    }

    fn mark(&mut self, at: Here<'a>) -> Result<bool> {
        // Before each sleep: nobody would ever give it back here, while others have another store;
        // or while this thread waits.
        self.handle.store().check_in_place()?;
        if matches!(self.patience, Patience::Forever) {
            let key = || self.handle.show_key();
            let SlotRef { id, generation } = at.spot;
            Deadlocks(self.handle.store()).check_not_mine(id, generation, key)?;
            Holding(self.handle).check_not_all_ours(at.process.id, at.spot)?;
        }
        Acquirer(self.handle).mark_contended(at.spot)
    }

    fn sleep(&mut self, at: Here<'a>, wakes: u32) {
        // Another slot takes another mark, and the old one is dropped first: a process can be seen
        // to wait for a few keys only.
        let mut here = match self.waiting.take().filter(|w| w.spot == at.spot) {
            Some(here) => here,
            None => Waiting::new(self.handle.store(), at.process, at.spot),
        };
        let held = &self.held;
        Acquirer(self.handle).sleep(&mut here, wakes, self.patience, held);
        self.waiting = Some(here);
    }

    fn wake_one(&self, at: Here<'a>) {
        let wake = self.wake_word(at);
        waiting::wake(wake, || futex::wake(wake, 1));
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
