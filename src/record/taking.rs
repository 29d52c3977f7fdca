//! Taking a hold: the quick way if it is free, and the judging way if it needs a closer look.
//!
//! Both load the word, then check that the hold is still a part of the same key, then exchange
//! exactly that word (H4); and both read the deadline before the take that they publish theirs
//! after (L2).

use crate::record::controls::{Rule, left_out};
use crate::record::{Hold, Judgement, Lease, ParticipantId, Stamp, Word};

/// What an acquirer that looks at holds knows of the world, and brings along.
pub(crate) trait Taker {
    type Error;

    fn me(&self) -> ParticipantId;

    /// Whether the hold is still a part of the key that it was a part of.
    fn is_current(&self) -> bool;

    fn is_dead(&self, other: ParticipantId) -> bool;

    fn now_us(&self) -> u64;

    /// Whether the deadline means anything: that of a latch is from another life of the slot (L5).
    fn is_leased(&self) -> bool;

    /// The sequence for a grant after `seen`.
    fn sequence_after(&self, seen: Word) -> Result<u64, Self::Error>;

    /// What is about to be taken, and why it can be. Last called for what was taken.
    fn note_predecessor(&mut self, hold: &Hold, seen: Word, judgement: Judgement);

    /// Another holder has a hold until then.
    fn note_held(&mut self, lease: Lease);

    /// Asked once the hold is taken: a lease must not begin before it (L4).
    fn terms(&self) -> Option<(Lease, Stamp)>;
}

/// What one look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Which of the holds, and as what.
    Taken(u32, Word),
    /// All are held.
    Held,
    /// The key is not there any more.
    Gone,
    /// A remover is taking the key away.
    Retiring,
}

impl Hold {
    /// Takes the hold if it is plainly free and `is_current`.
    #[inline(always)]
    pub(crate) fn take_if_free(
        &self,
        me: ParticipantId,
        is_current: impl Fn() -> bool,
        sequence: impl FnOnce(Word) -> Option<u64>,
        terms: impl FnOnce() -> Option<(Lease, Stamp)>,
    ) -> Option<Word> {
        let early = left_out(Rule::LifeAfterWord).then(&is_current);
        let seen = self.load();
        if !seen.is_plainly_free() || !early.unwrap_or_else(is_current) {
            return None;
        }
        self.take_on(seen, me, sequence(seen)?, false, terms).ok()
    }

    /// Takes exactly `seen`, and says since when and for how long.
    #[inline(always)]
    pub(crate) fn take_on(
        &self,
        seen: Word,
        me: ParticipantId,
        sequence: u64,
        contended: bool,
        terms: impl FnOnce() -> Option<(Lease, Stamp)>,
    ) -> Result<Word, Word> {
        let deadline = self.deadline_bits();
        let mine = self.take(seen, me, sequence, contended)?;
        if let Some((lease, stamp)) = terms() {
            self.set_stamp(mine, stamp);
            self.set_lease(mine, deadline, lease);
        }
        Ok(mine)
    }

    /// The word, if it is held under that sequence and `is_current`: in the next life of a block
    /// that sequence is another holder's, so the life is checked after the word, as for taking
    /// (H4).
    pub(crate) fn held_as(&self, sequence: u64, is_current: impl Fn() -> bool) -> Option<Word> {
        let seen = self.load();
        let held = !seen.is_free() && !seen.is_retiring() && seen.sequence() == sequence;
        (held && (is_current() || left_out(Rule::TokenLifeChecked))).then_some(seen)
    }

    /// Takes the hold if it is available: free, or its holder dead or late. `number` is only for
    /// the answer.
    pub(crate) fn look<T: Taker>(
        &self,
        number: u32,
        slept: bool,
        taker: &mut T,
    ) -> Result<Look, T::Error> {
        let mut seen = self.load();
        loop {
            if !taker.is_current() && !left_out(Rule::LifeAfterWord) {
                return Ok(Look::Gone);
            }
            let judgement =
                Judgement::of(self, seen, || taker.now_us(), |other| taker.is_dead(other));
            match judgement {
                _ if slept && left_out(Rule::WokenJudge) => {}
                Judgement::Expired if !taker.is_leased() && !left_out(Rule::LatchUnleased) => {
                    return Ok(Look::Held);
                }
                Judgement::Held => {
                    if taker.is_leased() {
                        taker.note_held(self.lease_of(seen));
                    }
                    return Ok(Look::Held);
                }
                Judgement::Retiring => return Ok(Look::Retiring),
                Judgement::Expired if !self.mark_over(seen, || taker.now_us()) => {
                    seen = self.load();
                    continue;
                }
                _ => {}
            }
            taker.note_predecessor(self, seen, judgement);
            let sequence = taker.sequence_after(seen)?;
            match self.take_on(seen, taker.me(), sequence, slept, || taker.terms()) {
                Ok(mine) => return Ok(Look::Taken(number, mine)),
                Err(now) => seen = now,
            }
        }
    }
}

/// Takes the first of a key's holds that is available.
pub(crate) fn look_at_all<'a, T: Taker>(
    holds: impl IntoIterator<Item = Result<(u32, &'a Hold), T::Error>>,
    slept: bool,
    taker: &mut T,
) -> Result<Look, T::Error> {
    for hold in holds {
        let (number, hold) = hold?;
        match hold.look(number, slept, taker)? {
            Look::Held => {}
            other => return Ok(other),
        }
    }
    Ok(Look::Held)
}
