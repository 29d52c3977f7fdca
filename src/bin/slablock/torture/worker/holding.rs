//! Taking, holding, giving back, and what happens in between.

use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use slablock::Error;

use super::Worker;
use crate::failure::Failure;
use crate::torture::guard::{Guard, Patience};
use crate::torture::journal::{Event, now_ns};
use crate::torture::site::{Handle, What, Where};

/// Holds within holds, of keys in ascending order, so that no workers wait in a circle.
const NESTING_MAX: usize = 2;

impl Worker<'_> {
    /// Takes `key`, holds it for a moment, gives it back. A key that is not for holding is passed.
    pub(super) fn hold(&mut self, key: usize, nesting: usize) -> Result<(), Failure> {
        if !self.site.keys[key].is_told() {
            return Ok(());
        }
        let patience = self.patience();
        if !matches!(patience, Patience::None) {
            self.tell(Event::Want { key: key as u64 })?;
        }
        let asked = now_ns()?;
        match self.site.handles[key].acquire(patience) {
            Ok(Some(guard)) => {
                self.tell_take(key, &guard, asked)?;
                self.use_and_give_back(key, guard, nesting)
            }
            Ok(None) => self.passed(key, asked, patience),
            Err(Error::Full { .. }) if self.site.keys[key].place == Where::Small => {
                // Dead processes hold too many of its few slots: make room, as the error says.
                self.passed(key, asked, patience)?;
                self.cut(key)
            }
            Err(error) => self.refused(key, asked, patience, &error),
        }
    }

    /// The only refusal of a key that can be right, for an acquirer with a time limit: another
    /// process was stopped in the middle of a change of the structure.
    pub(super) fn refused(
        &self,
        key: usize,
        asked: u64,
        patience: Patience,
        error: &Error,
    ) -> Result<(), Failure> {
        match (error, patience.ns()) {
            (Error::StructureBusy { .. }, Some(patience)) => self.tell(Event::Busy {
                key: key as u64,
                asked,
                patience,
            }),
            _ => self.complain(error),
        }
    }

    pub(super) fn tell_take(
        &self,
        key: usize,
        guard: &Guard<'_>,
        asked: u64,
    ) -> Result<(), Failure> {
        let dead = guard.recovered().map(|dead| u64::from(dead.pid));
        self.tell(Event::Take {
            key: key as u64,
            token: guard.token(),
            asked,
            permit: guard.permit(),
            died: dead.map_or(0, |pid| pid + 1),
            overran: u64::from(guard.overran()),
        })
    }

    fn patience(&mut self) -> Patience {
        match self.random.below(10) {
            0..3 => Patience::None,
            3..6 => Patience::For(Duration::from_micros(self.random.spread(50, 30_000))),
            _ => Patience::Endless,
        }
    }

    fn passed(&self, key: usize, asked: u64, patience: Patience) -> Result<(), Failure> {
        let Some(patience) = patience.ns() else {
            return self.complain("an endless wait ended in vain");
        };
        let key = key as u64;
        self.tell(Event::Passed {
            key,
            asked,
            patience,
        })
    }

    fn use_and_give_back(
        &mut self,
        key: usize,
        guard: Guard<'_>,
        nesting: usize,
    ) -> Result<(), Failure> {
        let token = guard.token();
        let count = self.count(key)?;
        let mut guard = Some(guard);
        for _ in 0..self.random.below(3) {
            self.while_holding(key, &mut guard, nesting)?;
        }
        let key_number = key as u64;
        self.tell(Event::Give {
            key: key_number,
            token,
            count,
        })?;
        let Some(guard) = guard else { return Ok(()) };
        let answer = match self.random.below(4) {
            // The outcome of dropping a guard is not told.
            0 => {
                drop(guard);
                return Ok(());
            }
            1 => self.give_back_by_token(key, guard),
            _ => guard.release(),
        };
        self.answered(key, token, answer, |worker| {
            match worker.site.keys[key].is_plain() {
                true => Ok(()),
                false => worker.tell(Event::Kept {
                    key: key_number,
                    token,
                }),
            }
        })
    }

    /// Gives back as programs do that take and give back in different functions.
    fn give_back_by_token(&self, key: usize, guard: Guard<'_>) -> slablock::Result<()> {
        let lost = |token| Error::Lost {
            key: self.site.keys[key].name.clone().into(),
            token,
        };
        match (&self.site.handles[key], guard) {
            (Handle::Lock(lock), Guard::Lock(guard)) => {
                let token = guard.into_token();
                match lock.release(token) {
                    Err(Error::NotHolder { .. }) => Err(lost(token)),
                    released => released,
                }
            }
            (Handle::Semaphore(semaphore), Guard::Semaphore(guard)) => {
                let token = guard.into_token();
                semaphore.release(token).map_err(|error| match error {
                    Error::NotHolder { .. } => lost(token),
                    other => other,
                })
            }
            (_, guard) => guard.release(),
        }
    }

    /// Writes down a loss, does `well` when there was none, and complains of everything else.
    fn answered(
        &mut self,
        key: usize,
        token: u64,
        answer: slablock::Result<()>,
        well: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match answer {
            Ok(()) => well(self),
            Err(Error::Lost { .. }) => self.tell(Event::Lost {
                key: key as u64,
                token,
            }),
            Err(error) => self.complain(error),
        }
    }

    fn while_holding(
        &mut self,
        key: usize,
        guard: &mut Option<Guard<'_>>,
        nesting: usize,
    ) -> Result<(), Failure> {
        match self.random.below(200) {
            0..3 => self.fork_holding(guard),
            3 => self.exec(),
            4..6 => self.exit_holding(),
            6..26 if nesting < NESTING_MAX && key + 1 < self.site.keys.len() => {
                let above = (self.site.keys.len() - key - 1) as u64;
                let other = key + 1 + self.random.below(above) as usize;
                self.hold(other, nesting + 1)
            }
            26..60 => self.ask(key, guard),
            60..90 => self.go_deeper(key, guard),
            90..110 => {
                match self.site.keys[key].lease {
                    Some(lease) => sleep(lease.mul_f64(1.3)),
                    None => self.dawdle(),
                }
                Ok(())
            }
            _ => {
                self.dawdle();
                Ok(())
            }
        }
    }

    /// Asks whether the hold stands, or renews it.
    fn ask(&mut self, key: usize, guard: &Option<Guard<'_>>) -> Result<(), Failure> {
        let Some(guard) = guard else { return Ok(()) };
        let (key_number, token, asked) = (key as u64, guard.token(), now_ns()?);
        if self.random.once_in(2) {
            let stands = Event::Stands {
                key: key_number,
                token,
                asked,
            };
            self.answered(key, token, guard.check(), |worker| worker.tell(stands))
        } else {
            let renewed = Event::Renewed {
                key: key_number,
                token,
                asked,
            };
            self.answered(key, token, guard.renew(), |worker| worker.tell(renewed))
        }
    }

    /// A re-entrant lock that cannot be lost is available at once to its holder, under the same
    /// token.
    fn go_deeper(&mut self, key: usize, guard: &Option<Guard<'_>>) -> Result<(), Failure> {
        let spec = &self.site.keys[key];
        let (Some(guard), Handle::RLock(lock)) = (guard, &self.site.handles[key]) else {
            return Ok(());
        };
        if spec.what != What::RLock || !spec.is_plain() {
            return Ok(());
        }
        let deeper = match lock.try_acquire() {
            Ok(Some(deeper)) => deeper,
            other => return self.complain(format_args!("re-entering said {other:?}")),
        };
        if deeper.token().get() != guard.token() {
            self.complain("re-entering gave another token")?;
        }
        self.dawdle();
        match deeper.release() {
            Ok(()) => Ok(()),
            Err(error) => self.complain(error),
        }
    }

    /// Adds one to the plain file under the key: reads, and writes, with nothing to help it but the
    /// lock. Returns what was written, 0 if the key has no such file.
    pub(super) fn count(&mut self, key: usize) -> Result<u64, Failure> {
        let Some(counter) = self.site.counter(key) else {
            return Ok(0);
        };
        let mut bytes = [0; 8];
        match counter.read_at(&mut bytes, 0)? {
            0 | 8 => {}
            read => return Err(Failure::new(format!("a counter of {read} bytes"))),
        }
        let count = u64::from_le_bytes(bytes) + 1;
        if self.random.once_in(8) {
            self.dawdle();
        }
        counter.write_all_at(&count.to_le_bytes(), 0)?;
        Ok(count)
    }
}
