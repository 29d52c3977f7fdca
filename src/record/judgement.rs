//! Judging a hold word: whether it may be taken, and from which holder.

use crate::record::controls::{Rule, left_out};
use crate::record::{Hold, ParticipantId, Word};

/// What a look at a held word found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is free.
    Free,
    /// It is free, and the last holder died with it.
    Abandoned,
    /// A live holder has it, within the lease.
    Held,
    /// A remover is taking the key away.
    Retiring,
    /// The holder is dead.
    Dead,
    /// The lease is over; the holder may be alive.
    Expired,
}

impl Judgement {
    /// What `seen` is, as the word of `hold`, given which participants are dead and what time it
    /// is. Dead comes before expired, because a dead holder's successor has to be told.
    pub(crate) fn of(
        hold: &Hold,
        seen: Word,
        now: impl Fn() -> u64,
        is_dead: impl FnOnce(ParticipantId) -> bool,
    ) -> Judgement {
        let Some(holder) = seen.participant() else {
            return if seen.is_abandoned() {
                Judgement::Abandoned
            } else {
                Judgement::Free
            };
        };
        if seen.is_retiring() {
            Judgement::Retiring
        } else if left_out(Rule::DeadFirst) && hold.lease_of(seen).is_over(&now) {
            Judgement::Expired
        } else if is_dead(holder) {
            Judgement::Dead
        } else if hold.lease_of(seen).is_over(now) {
            Judgement::Expired
        } else {
            Judgement::Held
        }
    }
}
