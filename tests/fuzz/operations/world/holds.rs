//! Taking and giving back.

use slablock::{Error, Kind, Result};

use super::{Held, World, agree};
use crate::fuzz::input::Input;
use crate::fuzz::operations::model::{Before, Grant, HANDED_ON, Lease, Setting};
use crate::fuzz::operations::setting::{Acquire, Handle, with_guard};

impl World {
    pub(super) fn acquire(&mut self, seat: usize, input: &mut Input, how: Acquire) {
        let Some((of, handle, met, me)) = self.handle(seat, input) else {
            return;
        };
        if of.kind == Kind::Averager {
            return self.add(seat, input, of, handle, met);
        }
        let met = self.meet(seat, &of, met, true);
        let deeper = met.is_ok() && self.model.goes_deeper(&of, me);
        let to_be_had = met.is_ok() && (deeper || self.model.can_be_had(&of.key));
        let how = match how {
            Acquire::Wait if met.is_ok() && !to_be_had => Acquire::Try,
            other => other,
        };
        let result = handle.acquire(how);
        let Some(guard) = agree(result, met.map(drop), &of) else {
            return;
        };
        assert_eq!(
            guard.is_some(),
            to_be_had,
            "{of:?} acquired: {:?}",
            self.model.keys[&of.key]
        );
        let Some(guard) = guard else {
            return;
        };
        let (token, recovered, overran) = with_guard!(&guard, g => (g.token(), g.recovered(), crate::fuzz::late(g.predecessor())));
        let (before, grant) = match deeper {
            true => (Before::Nobody, self.model.deeper(&of)),
            false => self.model.grant(&of, guard.at(), me, token.get()),
        };
        assert_eq!(token.get(), grant.token, "{of:?}");
        let told = match (recovered, overran) {
            (None, None) => Before::Nobody,
            (Some(dead), None) if !dead.alive && before == Before::Died(HANDED_ON) => before,
            (Some(dead), None) if !dead.alive => Before::Died(dead.token.get()),
            (None, Some(late)) if late.alive => Before::Overran(late.token.get()),
            other => panic!("{of:?} came from {other:?}"),
        };
        assert_eq!(told, before, "{of:?}");
        let known = recovered
            .or(overran)
            .is_none_or(|holder| holder.pid == std::process::id());
        assert!(known, "{of:?} came from {recovered:?} or {overran:?}");
        self.tokens.push(token);
        let id = grant.id;
        let here = self.seats[seat].as_mut().expect("it was taken");
        here.held.push(Held { guard, of, id });
    }

    /// One of the guards in a seat.
    fn held(&mut self, seat: usize, input: &mut Input) -> Option<(&mut Vec<Held>, usize)> {
        let held = &mut self.seats[seat].as_mut()?.held;
        let at = usize::from(input.byte()).checked_rem(held.len())?;
        Some((held, at))
    }

    pub(super) fn release(&mut self, seat: usize, input: &mut Input, told: bool) {
        let Some((held, at)) = self.held(seat, input) else {
            return;
        };
        let Held { guard, of, id } = held.swap_remove(at);
        let given_back = self.model.give_back(&of.key, id).is_some();
        if told {
            let result = with_guard!(guard, g => g.release());
            assert_stands(result, given_back, &of);
        } else {
            drop(guard);
        }
    }

    pub(super) fn renew(&mut self, seat: usize, input: &mut Input) {
        let now_us = self.model.now_us;
        let Some((held, at)) = self.held(seat, input) else {
            return;
        };
        let Held { guard, of, id } = &held[at];
        let (of, id) = (of.clone(), *id);
        let result = with_guard!(guard, g => g.renew());
        let over = |grant: &Grant| grant.lease.is_some_and(|l| now_us >= l.most_us);
        let grant = self.model.standing(&of.key, id).and_then(Option::as_mut);
        let stands = grant.is_some_and(|grant| match of.lease_us {
            Some(us) => {
                grant.lease = Some(Lease::from(now_us, us));
                true
            }
            None => !over(grant),
        });
        assert_stands(result, stands, &of);
    }

    pub(super) fn check_guard(&mut self, seat: usize, input: &mut Input) {
        let Some((held, at)) = self.held(seat, input) else {
            return;
        };
        let Held { guard, of, id } = &held[at];
        let (of, id) = (of.clone(), *id);
        let result = with_guard!(guard, g => g.check());
        let grant = self.model.standing(&of.key, id).cloned().flatten();
        let stands = grant.is_some_and(|grant| !self.model.is_over(&grant));
        assert_stands(result, stands, &of);
    }

    pub(super) fn release_token(&mut self, seat: usize, input: &mut Input) {
        let Some((of, handle, met, me)) = self.handle(seat, input) else {
            return;
        };
        let which = usize::from(input.byte()) % self.tokens.len();
        let token = self.tokens[self.tokens.len() - 1 - which];
        let found = match of.kind {
            Kind::Averager => return,
            _ => self.meet(seat, &of, met, false),
        };
        let holds = match found {
            Ok(true) => self.model.keys[&of.key].holds.iter().flatten(),
            _ => [].iter().flatten(),
        };
        let mut with_token = holds.filter(|grant| grant.token == token.get());
        let grant = with_token.next().cloned();
        let dead = grant
            .as_ref()
            .is_some_and(|g| !self.model.alive.contains(&g.by));
        // Of a dead one's it depends on whether somebody has tidied up before.
        let either = dead && grant.as_ref().is_some_and(|grant| grant.swept);
        let released = match (&handle, found) {
            (Handle::Lock(lock), found) => match lock.release(token) {
                Err(Error::NotHolder { .. } | Error::Lost { .. }) if found.is_ok() => Some(false),
                result => agree(result.map(|()| true), found.map(drop), &of),
            },
            (Handle::Semaphore(semaphore), found) => match semaphore.release(token) {
                Err(Error::NotHolder { .. }) if found.is_ok() => Some(false),
                result => agree(result.map(|()| true), found.map(drop), &of),
            },
            (Handle::RLock(rlock), found) => {
                let mine = grant.as_ref().is_some_and(|grant| grant.by == me);
                return match rlock.release(token) {
                    Ok(()) if mine => {
                        let id = grant.map_or(0, |grant| grant.id);
                        assert!(self.model.give_back(&of.key, id).is_some(), "{of:?}");
                    }
                    Err(Error::NotHolder { .. } | Error::Lost { .. }) if found.is_ok() && !mine => {
                    }
                    result => {
                        let nothing = agree(result, found.map(drop), &of);
                        assert_eq!(nothing, None, "{of:?}, token {token}");
                    }
                };
            }
            (Handle::Averager(_), _) => return,
        };
        let Some(released) = released else {
            return;
        };
        assert!(
            either || released == grant.is_some(),
            "{of:?}, token {token}: {released}"
        );
        if let Some(grant) = grant.filter(|_| released) {
            self.model.give_back(&of.key, grant.id);
        }
    }
}

fn assert_stands(result: Result<()>, stands: bool, of: &Setting) {
    match (result, stands) {
        (Ok(()), true) | (Err(Error::Lost { .. }), false) => {}
        (result, _) => panic!("{of:?}: {result:?}, and the hold stands: {stands}"),
    }
}
