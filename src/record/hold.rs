//! A hold: one hold word with its deadline and its stamp. The one mechanism behind every primitive.
//!
//! Rules that every function here keeps (docs/protocol.md, invariants H and L):
//! the hold word changes by compare-exchange of the exact word that was judged, never by a blind
//! store; each grant raises the sequence; the deadline word arbitrates between renewing and
//! stealing.
//!
//! Orderings: a take is `Acquire` and pairs with the `Release` of the give-back before it, so the
//! successor sees what the predecessor did. Everything else about the word needs no more than that.

use crate::record::controls::{Rule, left_out, ordered};
use crate::record::{Lease, ParticipantId, SEQUENCE_MAX, Stamp, Word};
use crate::sync::{AtomicU64, Ordering};

/// Three words of shared memory. Holds live at places that are never used for anything else,
/// because a process that was stopped for an hour may still write its stamp here (S3).
#[repr(C)]
pub(crate) struct Hold {
    word: AtomicU64,
    deadline: AtomicU64,
    stamp: AtomicU64,
}

/// What came of giving a hold back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// Free now, and no waiter has marked it.
    Free,
    /// Free now; wake a waiter.
    Wake,
    /// It was not ours any more; nothing was changed.
    Lost,
}

/// What came of freeing a dead holder's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cleared {
    /// It is free, or its holder lives.
    Nothing,
    Freed,
    /// This dead process was taking the key away: the process that locks the stripe next ends that.
    Retiring(ParticipantId),
}

impl Hold {
    #[cfg(any(loom, test))]
    pub(crate) fn new() -> Hold {
        Hold {
            word: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
        }
    }

    /// The word as it is. `Acquire`: what is read after it (generation, deadline, stamp) is at
    /// least as new as what the writer of this word had done.
    #[inline]
    pub(crate) fn load(&self) -> Word {
        let bits = self
            .word
            .load(ordered(Rule::TakeAcquires, Ordering::Acquire));
        Word::from_bits(bits)
    }

    /// Takes exactly `seen` for `me` under `sequence`, which has to be above that of `seen`. `Err`:
    /// what is there instead. A waiter that has slept sets `contended`: there may be more sleepers,
    /// and the wake-up took their mark away. A mark that is there stays.
    #[inline(always)]
    pub(crate) fn take(
        &self,
        seen: Word,
        me: ParticipantId,
        sequence: u64,
        contended: bool,
    ) -> Result<Word, Word> {
        let mine = Word::held(me, sequence);
        if left_out(Rule::TakeExact) {
            self.word.store(mine.bits(), Ordering::Release);
            return Ok(mine);
        }
        let asked = contended && !left_out(Rule::SleeperMarks);
        if asked || seen.is_contended() && !left_out(Rule::MarkStays) {
            return self.exchange(seen, mine.contended());
        }
        self.exchange(seen, mine)
    }

    /// Gives back exactly the hold `mine`, as it was taken. `false`: nothing was changed; a waiter
    /// has marked it, or it is lost.
    #[inline(always)]
    pub(crate) fn try_give_back(&self, mine: Word) -> bool {
        let free = Word::free(mine.sequence());
        // Release: pairs with the Acquire of the next take.
        !mine.is_contended()
            && self
                .word
                .compare_exchange(
                    mine.bits(),
                    free.bits(),
                    ordered(Rule::GiveBackReleases, Ordering::Release),
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// Gives back exactly the hold `mine`. Whatever else is there stays (H2).
    pub(crate) fn give_back(&self, mine: Word) -> Returned {
        let mut seen = mine;
        if left_out(Rule::GiveBackExchanges) {
            seen = self.load();
        }
        loop {
            let free = Word::free(mine.sequence());
            // Release: pairs with the Acquire of the next take.
            match self.word.compare_exchange(
                seen.bits(),
                free.bits(),
                ordered(Rule::GiveBackReleases, Ordering::Release),
                Ordering::Relaxed,
            ) {
                Ok(_) if seen.is_contended() => return Returned::Wake,
                Ok(_) => return Returned::Free,
                // A waiter set or the taker inherited the contended bit: still our hold.
                Err(now) if Word::from_bits(now).same_hold(mine) => seen = Word::from_bits(now),
                Err(_) => return Returned::Lost,
            }
        }
    }

    /// Marks exactly `seen` as waited for, so that giving it back wakes a waiter.
    pub(crate) fn mark_contended(&self, seen: Word) -> Result<Word, Word> {
        if seen.is_contended() {
            return Ok(seen);
        }
        self.exchange(seen, seen.contended())
    }

    /// Frees exactly `seen`, of a dead holder, and marks it abandoned for the next taker. Before
    /// that the process id replaces the thread id in the stamp: a dead holder writes no more.
    pub(crate) fn abandon(&self, seen: Word, pid: u32) -> Returned {
        if let Some(stamp) = self.stamp_of(seen) {
            self.stamp
                .store(stamp.with_tid(pid).encode(seen), Ordering::Relaxed);
        }
        let left = match left_out(Rule::AbandonedSaysSo) {
            true => Word::free(seen.sequence()),
            false => seen.abandoned(),
        };
        match self.exchange(seen, left) {
            Ok(_) if seen.is_contended() => Returned::Wake,
            Ok(_) => Returned::Free,
            Err(_) => Returned::Lost,
        }
    }

    /// Frees the word if its holder is dead, in a sweep. `dead` says whether a participant is dead,
    /// and which process it was.
    pub(crate) fn free_dead(&self, dead: impl Fn(ParticipantId) -> Option<u32>) -> Cleared {
        let mut seen = self.load();
        // Tried again: a waiter may just have set the contended bit of the dead holder's word.
        while let Some(holder) = seen.participant() {
            let Some(pid) = dead(holder) else {
                return Cleared::Nothing;
            };
            if seen.is_retiring() {
                return Cleared::Retiring(holder);
            }
            // Waiters are not woken from here: they look again soon by themselves. (If an acquirer
            // takes over between the steps of `abandon`, the stamp of this acquirer is lost, which
            // is for showing only.)
            if self.abandon(seen, pid) != Returned::Lost {
                return Cleared::Freed;
            }
            seen = self.load();
        }
        Cleared::Nothing
    }

    /// Begins to take the key away: exactly `seen` becomes `me`'s, retiring, one sequence higher,
    /// so that no compare-exchange prepared before can succeed after (H4).
    pub(crate) fn retire(&self, seen: Word, me: ParticipantId) -> Result<Word, Word> {
        // At the very end, which no machine reaches, it stays where it is.
        let sequence = match left_out(Rule::RetiringRaises) {
            true => seen.sequence(),
            false => next_sequence(seen).unwrap_or(SEQUENCE_MAX),
        };
        self.exchange(seen, Word::retiring(me, sequence))
    }

    /// Ends a retirement, of whichever process: the word is plainly free afterwards. Only under the
    /// stripe.
    pub(crate) fn end_retirement(&self) {
        let seen = self.load();
        if seen.is_retiring() {
            // A failure means that another process ended it: then there is nothing left to do.
            let _ = self.exchange(seen, Word::free(seen.sequence()));
        }
    }

    /// Makes a word abandoned that no process may take: retiring, or of a key that is not there
    /// yet. `stamp` is that of the dead holder, with the process id. Only under the stripe.
    pub(crate) fn leave_untold(&self, stamp: Stamp) {
        let seen = self.load();
        if seen.is_retiring() || seen.is_plainly_free() {
            self.stamp.store(stamp.encode(seen), Ordering::Relaxed);
            // As above.
            let _ = self.exchange(seen, seen.abandoned());
        }
    }

    /// Makes the word plainly free with a sequence of at least `floor`, before its slot is given to
    /// a new key.
    pub(crate) fn raise_sequence(&self, floor: u64) {
        let floor = match left_out(Rule::FloorHeeded) {
            true => 0,
            false => floor.min(SEQUENCE_MAX),
        };
        let mut seen = self.load();
        while seen.sequence() < floor || !seen.is_plainly_free() {
            let raised = Word::free(seen.sequence().max(floor));
            match self.exchange(seen, raised) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Overwrites the word whatever it is. Only for a process that is alone with the slab.
    #[cfg(not(loom))]
    pub(crate) fn reset(&self, word: Word) {
        self.word.store(word.bits(), Ordering::Relaxed);
        self.deadline.store(0, Ordering::Relaxed);
    }

    #[inline(always)]
    fn exchange(&self, seen: Word, new: Word) -> Result<Word, Word> {
        // AcqRel: takes acquire, and what a retirement or recovery did before is released with it.
        let success = match left_out(Rule::ExchangeReleases) {
            true => Ordering::Acquire,
            false => ordered(Rule::TakeAcquires, Ordering::AcqRel),
        };
        self.word
            .compare_exchange(
                seen.bits(),
                new.bits(),
                success,
                ordered(Rule::TakeAcquires, Ordering::Acquire),
            )
            .map(|_| new)
            .map_err(Word::from_bits)
    }
}

/// Leases.
impl Hold {
    /// The deadline word as it is: read before a take, handed to [`set_lease`](Hold::set_lease)
    /// after.
    #[inline]
    pub(crate) fn deadline_bits(&self) -> u64 {
        self.deadline.load(Ordering::Acquire)
    }

    /// Makes the deadline word that of the hold `mine`. `seen` is what it was before the take: if
    /// it is something else by now, only the holder of `mine` may still write it (L2).
    #[inline(always)]
    pub(crate) fn set_lease(&self, mine: Word, seen: u64, lease: Lease) {
        let new = lease.encode(mine);
        if seen != new {
            self.exchange_lease(mine, seen, new);
        }
    }

    #[inline(never)]
    fn exchange_lease(&self, mine: Word, mut seen: u64, new: u64) {
        if left_out(Rule::DeadlineExchanged) {
            seen = self.deadline_bits();
        }
        while let Err(now) =
            self.deadline
                .compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire)
        {
            // Read after `now`: if the hold is still ours here, it was ours when `now` was there.
            let lost = !self.load().same_hold(mine) && !left_out(Rule::DeadlineLooksAgain);
            if lost || now == new {
                return;
            }
            seen = now;
        }
    }

    /// Sets a new lease for the hold `mine`. `false`: the hold is lost, or a thief was first.
    pub(crate) fn renew(&self, mine: Word, lease: Lease) -> bool {
        loop {
            let seen = self.deadline_bits();
            let is_marked = || Lease::decode(seen, mine) == Lease::Over;
            if !self.load().same_hold(mine) || is_marked() && !left_out(Rule::RenewalHeedsMark) {
                return false;
            }
            let new = lease.encode(mine);
            // L3: a thief marks the deadline before it takes the word. Either our exchange is
            // first, and the thief's fails, or its mark is, and ours does.
            if self
                .deadline
                .compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                return self.load().same_hold(mine);
            }
        }
    }

    /// The lease of the hold `of`.
    pub(crate) fn lease_of(&self, of: Word) -> Lease {
        Lease::decode(self.deadline_bits(), of)
    }

    /// Whether the hold `mine` still stands and its lease is not over.
    #[inline]
    pub(crate) fn is_valid(&self, mine: Word, now: impl FnOnce() -> u64) -> bool {
        let lease = self.lease_of(mine);
        self.load().same_hold(mine) && !lease.is_over(now)
    }

    /// Voids a hold that has no lease, if there is one and it `is_current`: it counts as over from
    /// now on. A holder that has only just taken it may come first with its lease, and has done
    /// nothing with the hold yet.
    ///
    /// The deadline is read first: if the hold becomes another's after the look, and that has a
    /// lease, it is another word, and nothing is exchanged.
    pub(crate) fn void(&self, is_current: impl FnOnce() -> bool) {
        let deadline = self.deadline_bits();
        let seen = self.load();
        if seen.is_free() || !is_current() {
            return;
        }
        let over = Lease::Over.encode(seen);
        let _ = self
            .deadline
            .compare_exchange(deadline, over, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Prepares the theft of `seen`, which has a lease that is over: marks the deadline so that the
    /// holder cannot renew any more. `false`: the holder renewed, or another thief was first; look
    /// again.
    pub(crate) fn mark_over(&self, seen: Word, now: impl Fn() -> u64) -> bool {
        let deadline = self.deadline_bits();
        let lease = Lease::decode(deadline, seen);
        if lease == Lease::Over || left_out(Rule::ThiefMarks) && lease.is_over(&now) {
            return true;
        }
        lease.is_over(now)
            && self
                .deadline
                .compare_exchange(
                    deadline,
                    Lease::Over.encode(seen),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }
}

/// Showing.
impl Hold {
    /// Notes which thread took the hold `mine`, and when.
    #[inline]
    pub(crate) fn set_stamp(&self, mine: Word, stamp: Stamp) {
        self.stamp.store(stamp.encode(mine), Ordering::Relaxed);
    }

    /// The stamp of the hold `of`, if that is known by now.
    pub(crate) fn stamp_of(&self, of: Word) -> Option<Stamp> {
        Stamp::decode(self.stamp.load(Ordering::Relaxed), of)
    }
}

/// The sequence of the grant after `seen`, or `None` when they are used up: a word that says so is
/// damaged, for no machine gets there.
#[inline]
pub(crate) fn next_sequence(seen: Word) -> Option<u64> {
    let next = seen.sequence() + u64::from(!left_out(Rule::SequenceGrows));
    (seen.sequence() < SEQUENCE_MAX).then_some(next)
}

#[cfg(all(test, not(loom)))]
mod tests;
