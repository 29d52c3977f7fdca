//! What is shown: of a key, of all keys, and whether the store is sound.

use std::time::Duration;

use slablock::{Holder, KeyInfo, KeyState, Kind};

use super::{World, agree};
use crate::fuzz::input::Input;
use crate::fuzz::operations::model::{Grant, HANDED_ON, Stand};
use crate::fuzz::operations::setting::{Handle, key};

impl World {
    pub(super) fn look(&mut self, seat: usize, input: &mut Input) {
        let Some((of, handle, met, me)) = self.handle(seat, input) else {
            return;
        };
        if of.kind == Kind::Averager {
            return;
        }
        let found = self.meet(seat, &of, met, false);
        let holds = match found {
            Ok(true) => self.model.keys[&of.key].holds.clone(),
            _ => vec![None; of.value as usize],
        };
        let stands = holds.iter().map(|hold| self.model.stand(hold));
        let available = stands.filter(|stand| *stand != Stand::Held).count();
        let expected = found.map(drop);
        let (waiters, holders) = match &handle {
            Handle::Lock(lock) => {
                let locked = agree(lock.is_locked(), expected, &of);
                assert!(
                    locked.is_none_or(|locked| locked == (available == 0)),
                    "{of:?}"
                );
                let holder = lock.holder().map(|holder| holder.into_iter().collect());
                (lock.waiters(), holder)
            }
            Handle::RLock(lock) => {
                let locked = agree(lock.is_locked(), expected, &of);
                assert!(
                    locked.is_none_or(|locked| locked == (available == 0)),
                    "{of:?}"
                );
                let mine = holds[0].as_ref().filter(|grant| grant.by == me);
                let depth = mine.map_or(0, |grant| grant.depth);
                assert!(
                    agree(lock.depth(), expected, &of).is_none_or(|d| d == depth),
                    "{of:?}"
                );
                let holder = lock.holder().map(|holder| holder.into_iter().collect());
                (lock.waiters(), holder)
            }
            Handle::Semaphore(semaphore) => {
                let told = agree(semaphore.available(), expected, &of);
                assert!(
                    told.is_none_or(|told| told as usize == available),
                    "{of:?}: {told:?}"
                );
                (semaphore.waiters(), semaphore.holders())
            }
            Handle::Averager(_) => return,
        };
        assert!(agree(waiters, expected, &of).is_none_or(|waiters| waiters == 0));
        if let Some(holders) = agree(holders, expected, &of) {
            self.compare_holders(&holders, &holds);
        }
    }

    fn compare_holders(&self, holders: &[Holder], holds: &[Option<Grant>]) {
        let expected: Vec<_> = holds.iter().flatten().collect();
        assert_eq!(
            holders.len(),
            expected.len(),
            "{holders:?} instead of {expected:?}"
        );
        for (holder, grant) in holders.iter().zip(expected) {
            let alive = self.model.alive.contains(&grant.by);
            let told = (holder.alive, holder.pid);
            assert_eq!(told, (alive, std::process::id()), "{holder:?}");
            let same = grant.token == HANDED_ON || holder.token.get() == grant.token;
            assert!(same, "{holder:?} instead of {grant:?}");
            let left = holder.lease_left;
            let fits = match grant.lease {
                None => left.is_none(),
                Some(_) if self.model.is_over(grant) => left == Some(Duration::ZERO),
                Some(lease) => left.is_some_and(|left| {
                    let end_us = self.model.now_us + left.as_micros() as u64;
                    (lease.least_us..=lease.most_us).contains(&end_us)
                }),
            };
            assert!(
                fits,
                "{holder:?} instead of {grant:?} at {}",
                self.model.now_us
            );
        }
    }

    pub(super) fn key(&mut self, seat: usize, input: &mut Input) {
        let key = key(self.sort, input.byte());
        if let Some(here) = self.take_seat(seat) {
            let info = here.cache.key_info(&key).expect("look at a key");
            self.compare(&key, info.as_ref());
        }
    }

    fn compare(&self, key: &[u8], info: Option<&KeyInfo>) {
        let (Some(info), Some(due)) = (info, self.model.keys.get(key)) else {
            let there = self.model.keys.contains_key(key);
            assert_eq!(info.is_some(), there, "{key:?}: {info:?}");
            return;
        };
        let tag = (!due.tag.is_empty()).then_some(&due.tag);
        assert_eq!((info.kind, info.tag.as_ref()), (due.kind, tag), "{info:?}");
        assert_eq!((&info.key[..], info.waiters), (key, 0));
        match &info.state {
            KeyState::Lock { holder } => self.compare_holders(holder.as_slice(), &due.holds),
            KeyState::Semaphore {
                value,
                available,
                holders,
            } => {
                let stands = due.holds.iter().map(|hold| self.model.stand(hold));
                let had = stands.filter(|stand| *stand != Stand::Held).count();
                let told = (*value as usize, *available as usize);
                assert_eq!(told, (due.holds.len(), had), "{info:?}");
                self.compare_holders(holders, &due.holds);
            }
            KeyState::Averager { summary } => {
                let now = due.average.at(self.model.wall_us);
                assert_eq!(summary.map(|s| s.mean), now.mean(), "{info:?}");
                assert_eq!(summary.map_or(0, |s| s.count), now.count, "{info:?}");
            }
            // There may be more kinds one day, for who is not in the crate.
            #[allow(unreachable_patterns)]
            other => panic!("{other:?}"),
        }
    }

    /// All there is, and whether it is sound.
    pub(super) fn look_at_all(&mut self, seat: usize) {
        let Some(here) = self.take_seat(seat) else {
            return;
        };
        let infos = here.cache.keys().expect("list");
        let (len, report) = (here.cache.len(), here.cache.check());
        let (len, report) = (len.expect("count"), report.expect("check"));
        assert_eq!(infos.len(), self.model.keys.len(), "{infos:?}");
        assert_eq!((len, report.keys), (infos.len(), infos.len()));
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(report.dead_holds, self.model.dead_holds(), "{report:?}");
        for info in &infos {
            self.compare(&info.key, Some(info));
        }
    }
}
