//! Taking by the fast path, and giving back. `slow` has the slow path.

use crate::error::{Error, Result};
use crate::os::{clock, fork, futex, process};
use crate::record::{Hold, Lease, Stamp, Word, next_sequence, ticket, waiting};
use crate::slab::Tenant;
use crate::store::holds::handle::Handle;
use crate::store::holds::locate::Finder;
use crate::store::holds::slow::Acquirer;
use crate::store::key_entry::SlotRef;
use crate::sync::Ordering;
use crate::types::Token;

/// A hold that is ours until it is given back or lost.
#[derive(Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) spot: SlotRef,
    /// Which permit, for a semaphore, and in which block they begin: what the slot says of them
    /// may be another key's by the time they are given back.
    pub(crate) permit: u32,
    pub(crate) first_block: u32,
    /// See [`fork::epoch`].
    pub(crate) epoch: u32,
    pub(crate) word: Word,
}

impl Grant {
    /// `permit`: the block in which they begin, and which it is.
    #[inline(always)]
    pub(crate) fn new(spot: SlotRef, permit: (u32, u32), word: Word) -> Grant {
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

/// The holds of a key that this process takes without waiting, keeps and gives back.
#[derive(Clone, Copy)]
pub(crate) struct Holding<'h>(pub(crate) &'h Handle);

impl<'h> Holding<'h> {
    /// Takes a lock or a latch: the fast path, of a word that is plainly free, in a slot that is
    /// remembered. No system call, no allocation, and but for the lease no precise clock. Inlined
    /// as a whole, so that a guard stays in registers: passing it through memory costs more than
    /// the two atomic operations.
    #[inline(always)]
    pub(crate) fn try_fast(self, kind: Tenant) -> Option<(Grant, &'h Hold)> {
        let me = self.0.store().me()?;
        let spot = self.0.remembered()?;
        let slot = self.0.slot(spot);
        let is_current = || spot.is_current(slot, kind);
        let terms = || self.terms(kind);
        let word = slot
            .hold
            .take_if_free(me, is_current, next_sequence, terms)?;
        Some((Grant::new(spot, (0, 0), word), &slot.hold))
    }

    /// Takes the permit of a semaphore that was free last time.
    #[inline(always)]
    pub(crate) fn try_fast_permit(self) -> Option<(Grant, &'h Hold)> {
        let me = self.0.store().me()?;
        let spot = self.0.remembered()?;
        let permit = self.0.hint.load(Ordering::Relaxed);
        let slot = self.0.slot(spot);
        let (first, permits) = slot.permits();
        if permit >= permits {
            return None;
        }
        let slab = self.0.store().slab();
        let hold = &slab.permit(first, permit)?.hold;
        let is_current = || spot.is_current(slot, Tenant::Semaphore);
        let token = |seen| ticket::draw(&slab.permit(first, 0)?.ticket, seen);
        let terms = || self.terms(Tenant::Semaphore);
        let word = hold.take_if_free(me, is_current, token, terms)?;
        Some((Grant::new(spot, (first, permit), word), hold))
    }

    /// The lease of a hold that begins now, and its stamp. An average's latch is held for
    /// nanoseconds, and nobody asks since when.
    #[inline(always)]
    pub(in crate::store) fn terms(self, kind: Tenant) -> Option<(Lease, Stamp)> {
        (!kind.is_latched()).then(|| self.lease_from_now())
    }

    #[inline(always)]
    fn lease_from_now(self) -> (Lease, Stamp) {
        let tid = process::tid();
        match self.0.lease_us {
            None => (Lease::None, Stamp::in_seconds(tid, clock::wall_s())),
            Some(lease_us) => {
                let (end_us, now_ns) = clock::lease_end_us(lease_us);
                (Lease::Until(end_us), Stamp::precise(tid, now_ns))
            }
        }
    }

    /// Whether the hold is this process's: a child of a fork holds nothing that its parent held.
    #[inline(always)]
    pub(crate) fn is_ours(self, word: Word) -> bool {
        let me = self.0.store().me();
        me.is_some() && me == word.participant()
    }
}

/// What can be done with a grant.
impl<'h> Holding<'h> {
    pub(crate) fn hold_of(self, grant: &Grant) -> Result<&'h Hold> {
        Acquirer(self.0).hold(grant.spot, grant.first_block, grant.permit)
    }

    /// Gives the grant back. Errors: `NotHolder` in a forked child, `Lost` if it was taken over.
    #[inline(never)]
    pub(crate) fn give_back(self, grant: &Grant) -> Result<()> {
        if !self.is_ours(grant.word) {
            return Err(self.not_holder());
        }
        match self.return_word(grant) {
            true => Ok(()),
            false => Err(self.lost(grant)),
        }
    }

    /// `false`: it was lost.
    #[inline(always)]
    fn return_word(self, grant: &Grant) -> bool {
        let slot = self.0.slot(grant.spot);
        let hold = match self.0.kind() {
            Tenant::Semaphore => match self.hold_of(grant) {
                Ok(hold) => hold,
                Err(_) => return false,
            },
            _ => &slot.hold,
        };
        waiting::give_back(hold, grant.word, &slot.wake, || futex::wake(&slot.wake, 1))
    }

    /// Starts the lease again. Without one, only says whether the grant still stands.
    pub(crate) fn renew(self, grant: &Grant) -> Result<()> {
        let hold = self.own_hold(grant)?;
        if self.0.expire.is_some() {
            self.0.store().check_in_place()?;
        }
        let stands = match self.0.expire {
            Some(_) => hold.renew(grant.word, self.lease_from_now().0),
            None => hold.is_valid(grant.word, clock::uptime_us),
        };
        stands.then_some(()).ok_or_else(|| self.lost(grant))
    }

    /// Whether the grant still stands and its lease is not over.
    pub(crate) fn check(self, grant: &Grant) -> Result<()> {
        let stands = self.own_hold(grant)?.is_valid(grant.word, clock::uptime_us);
        stands.then_some(()).ok_or_else(|| self.lost(grant))
    }

    fn own_hold(self, grant: &Grant) -> Result<&'h Hold> {
        if !self.is_ours(grant.word) {
            return Err(self.not_holder());
        }
        self.hold_of(grant)
    }

    #[cold]
    pub(crate) fn lost(self, grant: &Grant) -> Error {
        Error::Lost {
            key: self.0.key().to_vec(),
            token: grant.token(),
        }
    }

    #[cold]
    pub(crate) fn not_holder(self) -> Error {
        Error::NotHolder {
            key: self.0.key().to_vec(),
        }
    }

    /// Gives back whatever grant has `token`, also another process's: any caller that knows it may.
    ///
    /// Errors: `Lost` if a hold was granted after it, or it ended just now; `NotHolder` if there is
    /// none with it. Which permit of several it was is not known once it has ended, so of these
    /// it is always `NotHolder`.
    pub(crate) fn release_token(self, token: Token) -> Result<()> {
        let lost = || Error::Lost {
            key: self.0.key().to_vec(),
            token,
        };
        let Some(spot) = Finder(self.0).locate()? else {
            return Err(self.not_holder());
        };
        let Some((first, count)) = Acquirer(self.0).current_range(spot)? else {
            return Err(self.not_holder());
        };
        let mut last = 0;
        for permit in 0..count {
            let hold = Acquirer(self.0).hold(spot, first, permit)?;
            let Some(word) = hold.held_as(token.get(), || self.0.is_current(spot)) else {
                last = hold.load().sequence();
                continue;
            };
            let grant = Grant::new(spot, (first, permit), word);
            return self.return_word(&grant).then_some(()).ok_or_else(lost);
        }
        Err(match count == 1 && last > token.get() {
            true => lost(),
            false => self.not_holder(),
        })
    }

    /// Starts the lease of a hold that is ours, if the handle has one. `false`: it is lost.
    #[inline(always)]
    pub(crate) fn rearm(self, hold: &Hold, word: Word) -> bool {
        match self.0.expire {
            // It may have been taken through a handle with a lease.
            None => hold.is_valid(word, clock::uptime_us),
            Some(_) => hold.renew(word, self.lease_from_now().0),
        }
    }
}
