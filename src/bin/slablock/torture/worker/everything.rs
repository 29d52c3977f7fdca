//! The last worker: when no other is left, everything is available, whichever holders have died.

use std::time::Duration;

use slablock::Error;

use super::{Standing, Worker, WorkerPlan};
use crate::failure::Failure;
use crate::torture::guard::{Guard, Patience};
use crate::torture::journal::{Event, id_of_worker, now_ns};
use crate::torture::site::Site;

/// Takes every lock and every permit, each within `bound`, and gives them back.
pub fn take_everything(site: &Site, seed: u64, bound: Duration) -> Result<(), Failure> {
    let plan = WorkerPlan {
        master: 0,
        seed,
        parent: 0,
        id: id_of_worker(0) + 1,
        until_ns: 0,
    };
    let mut last = Worker::new(site, plan, Standing::Child);
    last.tell_birth()?;
    for (key, spec) in site.keys.iter().enumerate() {
        let mut guards = Vec::new();
        for _ in 0..spec.permits() {
            guards.extend(last.take_one(key, bound)?);
        }
        last.expect_no_more(key, &guards)?;
        for (guard, count) in guards {
            last.give_one_back(key, guard, count)?;
        }
    }
    last.tell(Event::Exit {})
}

impl<'a> Worker<'a> {
    /// Takes one hold. Returns the guard, and what the counter was set to.
    fn take_one(
        &mut self,
        key: usize,
        bound: Duration,
    ) -> Result<Option<(Guard<'a>, u64)>, Failure> {
        let name = &self.site.keys[key].name;
        loop {
            let asked = now_ns()?;
            let handle = &self.site.handles[key];
            match handle.acquire(Patience::For(bound)) {
                Ok(Some(guard)) => {
                    if self.site.keys[key].is_told() {
                        self.tell_take(key, &guard, asked)?;
                    }
                    let count = self.count(key)?;
                    return Ok(Some((guard, count)));
                }
                Ok(None) => {
                    self.complain(format_args!(
                        "{name}: nobody is left, and it could not be had in {bound:?}"
                    ))?;
                    return Ok(None);
                }
                // Its few slots belong to dead holders of other keys: one of these keys has to be
                // removed.
                Err(Error::Full { .. }) => {
                    if !self.make_room()? {
                        self.complain(format_args!("{name}: there is no room, and no key"))?;
                        return Ok(None);
                    }
                }
                Err(error) => {
                    self.complain(error)?;
                    return Ok(None);
                }
            }
        }
    }

    fn make_room(&mut self) -> Result<bool, Failure> {
        let held = match self.site.small.keys() {
            Ok(held) => held,
            Err(error) => return self.complain(error).map(|()| false),
        };
        let Some(info) = held.first() else {
            return Ok(false);
        };
        let mut keys = self.site.keys.iter();
        match keys.position(|spec| spec.name.as_bytes() == info.key) {
            Some(key) => self.cut(key).map(|()| true),
            None => Ok(false),
        }
    }

    fn expect_no_more(&self, key: usize, guards: &[(Guard<'_>, u64)]) -> Result<(), Failure> {
        // The holder of a re-entrant lock gets it again; a lease may be over by now.
        let spec = &self.site.keys[key];
        let is_plain_semaphore = spec.permits() > 1 && spec.lease.is_none();
        if !is_plain_semaphore || guards.is_empty() {
            return Ok(());
        }
        match self.site.handles[key].acquire(Patience::None) {
            Ok(None) => Ok(()),
            Err(error) => self.complain(error),
            Ok(Some(_)) => self.complain(format_args!(
                "{}: more permits than its value could be had",
                spec.name
            )),
        }
    }

    fn give_one_back(&self, key: usize, guard: Guard<'_>, count: u64) -> Result<(), Failure> {
        let (token, spec) = (guard.token(), &self.site.keys[key]);
        let key = key as u64;
        if spec.is_told() {
            self.tell(Event::Give { key, token, count })?;
        }
        match guard.release() {
            Ok(()) => Ok(()),
            // It may have taken long to take the others.
            Err(Error::Lost { .. }) if spec.lease.is_some() => {
                self.tell(Event::Lost { key, token })
            }
            Err(error) => self.complain(error),
        }
    }
}
