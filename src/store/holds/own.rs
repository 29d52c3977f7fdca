//! Whether a thread waits for what it holds itself.

use crate::error::{Error, Result};
use crate::os::process;
use crate::record::{Lease, ParticipantId, Word};
use crate::slab::Tenant;
use crate::store::holds::fast::{Grant, Holding};
use crate::store::holds::slow::Acquirer;
use crate::store::key_entry::SlotRef;

impl<'h> Holding<'h> {
    /// Notes that a hold has no guard any more, but a token.
    pub(in crate::store) fn note_token(self, grant: &Grant) {
        let which = (grant.spot.id, grant.permit);
        let sequence = grant.word.sequence();
        self.0
            .store()
            .tokens
            .with(|tokens| tokens.insert(which, sequence));
    }

    /// Refuses to wait for ever for holds that are all this process's, by guards and without
    /// leases, while it has no thread but this one.
    pub(in crate::store) fn check_not_all_ours(
        self,
        me: ParticipantId,
        spot: SlotRef,
    ) -> Result<()> {
        let asked = matches!(self.0.kind(), Tenant::Lock | Tenant::Semaphore);
        if !asked || !self.are_all_ours(me, spot)? || !process::is_only_thread() {
            return Ok(());
        }
        Err(Error::Deadlock {
            what: match self.0.kind() {
                Tenant::Semaphore => format!("all permits of {}", self.0.show_key()),
                _ => self.0.show_key(),
            },
        })
    }

    fn are_all_ours(self, me: ParticipantId, spot: SlotRef) -> Result<bool> {
        let Some((first, count)) = Acquirer(self.0).current_range(spot)? else {
            return Ok(false);
        };
        let is_token = |permit, word: Word| {
            let sequence = Some(word.sequence());
            let tokens = &self.0.store().tokens;
            tokens.with(|tokens| tokens.get(&(spot.id, permit)).copied()) == sequence
        };
        for permit in 0..count {
            let hold = Acquirer(self.0).hold(spot, first, permit)?;
            let word = hold.load();
            let is_held = word.participant() == Some(me) && !word.is_retiring();
            if !is_held || hold.lease_of(word) != Lease::None || is_token(permit, word) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
