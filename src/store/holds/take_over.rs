//! Another number of permits: a semaphore that no living process has or waits for is made again
//! with the number that a handle asks for, and the acquirers of its first permits are told which
//! holders died, or were late, with the old ones.

use crate::error::{Error, Result};
use crate::os::{clock, futex};
use crate::record::{Force, Hold, Judgement, Returned, Stamp, Word, waiting};
use crate::slab::Slot;
use crate::store::holds::handle::Handle;
use crate::store::holds::locate::Finder;
use crate::store::holds::standing::standing;
use crate::store::in_slab::permits_of;
use crate::store::index::allocate::{Claimed, NoRoom};
use crate::store::index::retire::Retirer;
use crate::store::index::stripe::StripeGuard;
use crate::store::key_entry::{KeyEntry, NewKey};
use crate::store::members::participants::Members;
use crate::store::members::process::Process;
use crate::store::patience::Patience;
use crate::store::slots::by_slot::Slots;
use crate::sync::Ordering;
use crate::types::{Holder, Predecessor};

/// How often to try to take a semaphore over that somebody has for moments.
const TRIES: u32 = 4;

/// What was found out while the permits of the dead and the late were freed.
#[derive(Default)]
struct Before {
    /// Which of the key's words are abandoned, and the stamps of the dead.
    untold: Vec<(usize, Stamp)>,
    /// The first of the dead.
    dead: Option<Predecessor>,
    /// The first of the late. Noted nowhere else.
    late: Option<Predecessor>,
}

/// Takes holds that the dead have left, or a lease that is over.
#[derive(Clone, Copy)]
pub(in crate::store) struct TakeOver<'h>(pub(in crate::store) &'h Handle);

impl<'h> TakeOver<'h> {
    /// Makes a semaphore of `permits` again with this handle's number, if no living process has a
    /// permit within its lease, or waits. Also the predecessor: that of the new permit 0, if it
    /// died.
    ///
    /// Killed after each step: (1) the permits of the dead are abandoned, which the next one is
    /// told of in whatever number; (2) the old key is taken away as an idle one is reclaimed,
    /// so that handles which know it find it gone: undone, or one of the dead is noted in the
    /// stripe and there is no such key, also where there is no room for the new one; its tokens
    /// go on above the floor; (3) the new one is there, and its first permits are abandoned.
    pub(in crate::store) fn take_over(
        self,
        stripe: &StripeGuard<'_>,
        found: KeyEntry,
        permits: u32,
        patience: Patience,
    ) -> Claimed<(KeyEntry, Option<Predecessor>)> {
        let process = self.0.store().process()?;
        let tag = match self.0.tag.is_empty() {
            true => stripe.tag_of(found)?,
            false => self.0.tag.to_vec(),
        };
        let bucket = stripe.bucket_of(self.0.hash());
        // Asked once nobody can acquire: a waiter is counted before it sleeps, and one that is not
        // yet counted finds the key gone, as if it had come later.
        let nobody_waits = || Members(self.0.store()).waiters(process, found.id) == 0;
        let mut before = Before::default();
        for _ in 0..TRIES {
            if self.refuse_if_in_use(found, permits)? {
                break;
            }
            // 1
            self.free_permits(process, found, &mut before)?;
            // 2. Not, if somebody has taken one of these meanwhile, and was told.
            let untold = &before.untold;
            if !Retirer(stripe).retire_untold(found, bucket, Force::Unheld, untold, nobody_waits)? {
                continue;
            }
            // 3
            let untold: Vec<_> = untold.iter().map(|(_, stamp)| *stamp).collect();
            let new = NewKey {
                untold: &untold,
                ..Finder(self.0).new_key(&tag)
            };
            let made = stripe.create(&new, patience)?;
            self.0.hint.store(0, Ordering::Relaxed);
            return Ok((made, before.dead.or(before.late)));
        }
        self.refuse_if_in_use(found, permits)?;
        // Each time a permit was held, and was given back before we looked for its holder.
        Err(NoRoom::Failed(self.other_permits(permits, Vec::new())))
    }

    /// Refuses a semaphore of `permits` that somebody alive has a permit of within its lease, or
    /// waits for. Under the stripe, or without. `true`: it was taken away meanwhile.
    pub(in crate::store) fn refuse_if_in_use(self, found: KeyEntry, permits: u32) -> Result<bool> {
        let process = self.0.store().process()?;
        let standing = standing(self.0.store(), found);
        let waiters = Members(self.0.store()).waiters(process, found.id);
        // What was read is of this key only if it is still there.
        if !Slots(self.0.store()).is_still(found) {
            return Ok(true);
        }
        let mut holders = standing?.holders;
        holders
            .retain(|holder| holder.alive && holder.lease_left.is_none_or(|left| !left.is_zero()));
        match holders.is_empty() && waiters == 0 {
            true => Ok(false),
            false => Err(self.other_permits(permits, holders)),
        }
    }

    fn other_permits(self, permits: u32, holders: Vec<Holder>) -> Error {
        Error::ConfigMismatch {
            what: "permits",
            of: self.0.show_key(),
            found: permits.to_string(),
            expected: self.0.permits().to_string(),
            holders,
        }
    }

    /// Takes from the dead and the late what an acquirer of the stored number could take. The dead
    /// are found again by the next acquirer; a late holder, which has lost its hold now, is not.
    fn free_permits(self, process: &Process, found: KeyEntry, before: &mut Before) -> Result<()> {
        let slab = self.0.store().slab();
        let (first, permits) = permits_of(slab, found.id)?;
        (before.untold, before.dead) = (Vec::new(), None);
        for number in 0..permits {
            let Some(permit) = slab.permit(first, number) else {
                break;
            };
            let look = || self.free_permit(process, slab.slot(found.id), &permit.hold);
            let Some((seen, predecessor)) = look() else {
                continue;
            };
            if !predecessor.has_died() {
                before.late.get_or_insert(predecessor);
                continue;
            }
            let stamp = permit.hold.stamp_of(seen);
            let pid = predecessor.holder.pid;
            let stamp = stamp.unwrap_or_else(|| Stamp::precise(pid, clock::coarse_ns()));
            // The slot's own word comes before those of the permits.
            before.untold.push((number as usize + 1, stamp));
            before.dead.get_or_insert(predecessor);
        }
        Ok(())
    }

    /// Takes one permit from a dead or late holder: its word then, and that holder. `None`: the
    /// permit is free, or held.
    fn free_permit(
        self,
        process: &Process,
        slot: &Slot,
        hold: &Hold,
    ) -> Option<(Word, Predecessor)> {
        let wake = || futex::wake(&slot.wake, 1);
        loop {
            let seen = hold.load();
            let is_dead = |other| Members(self.0.store()).is_dead(process, other);
            let judgement = Judgement::of(hold, seen, clock::uptime_us, is_dead);
            let died = judgement != Judgement::Expired;
            let holder = || Members(self.0.store()).holder(process, hold, seen, !died);
            let (holder, freed) = match judgement {
                Judgement::Free | Judgement::Held | Judgement::Retiring => return None,
                Judgement::Abandoned => (holder(), true),
                Judgement::Dead => {
                    let holder = holder();
                    let freed = hold.abandon(seen, holder.pid);
                    if freed == Returned::Wake {
                        waiting::wake(&slot.wake, wake);
                    }
                    (holder, freed != Returned::Lost)
                }
                // Otherwise it was renewed, or given back.
                Judgement::Expired => {
                    let is_over = hold.mark_over(seen, clock::uptime_us);
                    let freed = is_over && waiting::give_back(hold, seen, &slot.wake, wake);
                    (holder(), freed)
                }
            };
            if freed {
                return Some((seen, Predecessor::of(holder, died)));
            }
        }
    }
}
