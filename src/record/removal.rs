//! Removing a key, held or only if free, as far as its words are concerned. Only under the key's
//! stripe (H6); the index is the caller's.

use crate::record::controls::{Rule, left_out};
use crate::record::{Hold, ParticipantId, Stamp, Word, life, reachable, waiting};
use crate::sync::{AtomicU32, AtomicU64};

/// Which keys may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Force {
    /// Only if every word is plainly free. What a dead holder left for its successor is kept.
    Idle,
    /// Only if every word is free; also what a dead holder left for its successor, if the removal
    /// knows of it and hands it on.
    Unheld,
    /// Also words of dead holders, but none of a live one: for averages, which a live holder is
    /// writing just now.
    NotTheLiving,
    /// Any key, whatever its words say.
    Anybody,
}

impl Force {
    fn allows(self, seen: Word, is_dead: impl Fn(ParticipantId) -> bool) -> bool {
        // A retiring word is a dead remover's: we have the stripe.
        let is_living = || !seen.is_retiring() && seen.participant().is_some_and(|p| !is_dead(p));
        seen.is_plainly_free()
            || match self {
                Force::Idle => left_out(Rule::IdleTakesNobodys),
                Force::Unheld => seen.is_free() || left_out(Rule::UnheldTakesNobodys),
                Force::NotTheLiving => !is_living() || left_out(Rule::LivingUndisturbed),
                Force::Anybody => true,
            }
    }
}

/// A key that is being taken away.
pub(crate) struct Removal<'a, H> {
    /// All its hold words.
    pub(crate) holds: H,
    pub(crate) meta: &'a AtomicU64,
    pub(crate) wake: &'a AtomicU32,
    /// The numbers of the words that were abandoned, in order, and the stamps of the dead holders:
    /// these words are abandoned again if the removal is undone.
    pub(crate) untold: &'a [(usize, Stamp)],
}

/// Whether a waiter may have marked a word that was taken for good.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marked(bool);

impl Marked {
    /// A dead process has taken the words.
    pub(crate) const UNKNOWN: Marked = Marked(true);
}

/// What to do about a removal that a dead process began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The key is gone: the rest can be done again.
    Finish,
    /// Every word was taken for good, so that no process can have acquired it since: done again.
    Again,
    /// A process may have acquired a word since, and must not lose it to the dead remover.
    Undo,
}

impl<'a, H: Iterator<Item = &'a Hold> + Clone> Removal<'a, H> {
    /// Takes all words for good, tells `agree` the highest sequence that they had, and ends the
    /// life. `None`: a word is not available, or `agree` does not agree, and all is as it was. If
    /// a waiter had marked a word that was taken, all waiters are woken, because the mark is gone.
    pub(crate) fn begin(
        &self,
        me: ParticipantId,
        force: Force,
        is_dead: impl Fn(ParticipantId) -> bool,
        agree: impl FnOnce(u64) -> bool,
        futex_wake_all: impl FnOnce(),
    ) -> Option<Marked> {
        if left_out(Rule::WordsBeforeLife) {
            life::end(self.meta);
        }
        let mut sequence = 0;
        let mut marked = false;
        for (at, hold) in self.holds.clone().enumerate() {
            let allows = |seen| force.allows(seen, &is_dead) && self.hands_on(force, at, seen);
            let taken = retire(hold, me, allows);
            let Some((before, mine)) = taken else {
                self.take_back(marked, futex_wake_all);
                return None;
            };
            // A remover that died before us may have taken a mark away with the word.
            marked |= before.is_contended() || before.is_retiring();
            sequence = sequence.max(reachable(mine.sequence()).unwrap_or(0));
        }
        if !agree(sequence) && !left_out(Rule::VetoHeeded) {
            self.take_back(marked, futex_wake_all);
            return None;
        }
        life::end(self.meta);
        Some(Marked(marked))
    }

    /// Whether what a dead holder left in a word is handed on exactly if the word says so: an
    /// acquirer may have taken the word since it was listed, and have been told.
    fn hands_on(&self, force: Force, at: usize, seen: Word) -> bool {
        force != Force::Unheld
            || seen.is_abandoned() == self.untold_of(at).is_some()
            || left_out(Rule::HandedOnOnce)
    }

    fn untold_of(&self, at: usize) -> Option<Stamp> {
        let found = self.untold.binary_search_by_key(&at, |untold| untold.0);
        found.ok().map(|found| self.untold[found].1)
    }

    fn take_back(&self, marked: bool, futex_wake_all: impl FnOnce()) {
        match marked && !left_out(Rule::VetoWakes) {
            true => self.give_up(futex_wake_all),
            false => self.undo(),
        }
    }

    /// Does the rest: `unlink` takes the key out of the index; then the words are freed, and all
    /// waiters are woken to find the key gone, if there are any: nobody sleeps without a mark, nor
    /// by a word that is taken for good. Every part of this can be done again.
    pub(crate) fn finish<E>(
        &self,
        marked: Marked,
        unlink: impl FnOnce() -> Result<(), E>,
        futex_wake_all: impl FnOnce(),
    ) -> Result<(), E> {
        unlink()?;
        self.end();
        if marked.0 && !left_out(Rule::RemovalWakes) {
            waiting::wake(self.wake, futex_wake_all);
        }
        Ok(())
    }

    /// Undoes a removal, as one that a dead process began, and wakes all waiters: their marks were
    /// taken with the words.
    pub(crate) fn give_up(&self, futex_wake_all: impl FnOnce()) {
        self.undo();
        if !left_out(Rule::RemovalWakes) {
            waiting::wake(self.wake, futex_wake_all);
        }
    }

    /// Ends every retirement, of whichever process.
    fn undo(&self) {
        for (at, hold) in self.holds.clone().enumerate() {
            match self.untold_of(at).filter(|_| hold.load().is_retiring()) {
                Some(stamp) if !left_out(Rule::UndoneIsTold) => hold.leave_untold(stamp),
                _ => hold.end_retirement(),
            }
        }
    }

    /// Ends every retirement of a key that is gone: what was to be told is noted elsewhere.
    fn end(&self) {
        let untold = &[];
        let holds = self.holds.clone();
        Removal {
            holds,
            untold,
            ..*self
        }
        .undo();
    }

    /// Judges what a dead process left of a removal under `force`.
    pub(crate) fn left(&self, force: Force) -> Left {
        let mut holds = self.holds.clone();
        if life::is_over(self.meta) {
            return Left::Finish;
        }
        let all = holds.all(|hold| hold.load().is_retiring()) || left_out(Rule::UndoneUnlessAll);
        match force {
            Force::Anybody if all => Left::Again,
            _ => Left::Undo,
        }
    }
}

/// Takes one word for good: what it was, and what it is. `None`: `allows` forbids it.
fn retire(hold: &Hold, me: ParticipantId, allows: impl Fn(Word) -> bool) -> Option<(Word, Word)> {
    let mut seen = hold.load();
    while allows(seen) {
        match hold.retire(seen, me) {
            Ok(mine) => return Some((seen, mine)),
            Err(now) => seen = now,
        }
    }
    None
}
