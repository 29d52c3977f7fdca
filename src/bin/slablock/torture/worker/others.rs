//! Everything but holding: averages, removal by force, rushes, looking.

use slablock::Error;

use super::Worker;
use crate::failure::Failure;
use crate::torture::guard::Patience;
use crate::torture::journal::{Event, now_ns};
use crate::torture::site::{Handle, KeySpec, TAGS, What, Where};

/// Every value leaves this remainder, so a total without its count, or the other way round, shows.
pub const VALUE_STEP: u64 = 1_000;
pub const VALUE_REMAINDER: u64 = 1;
/// What is added to a popped average: whatever is popped when, the mean is this.
pub const POPPED_VALUE: u64 = 7;
/// How many keys there come to be that are never taken away: more than one section of slots has.
const GROWN: u64 = 8_192;
const GROWN_AT_A_TIME: u64 = 16;
/// For `Did`.
const CHECKED: u64 = 1;
const LOOKED: u64 = 2;
const POPPED: u64 = 3;

impl Worker<'_> {
    /// A number of some key that `wanted` describes.
    pub(super) fn some_key(&mut self, wanted: impl Fn(&KeySpec) -> bool) -> usize {
        let keys = self.site.keys.iter().enumerate();
        let found: Vec<_> = keys.filter(|(_, k)| wanted(k)).map(|(at, _)| at).collect();
        found[self.random.below(found.len() as u64) as usize]
    }

    /// Adds a value to an average, again and again without a pause: so deaths strike inside.
    pub(super) fn add(&mut self) -> Result<(), Failure> {
        let key = self.some_key(|key| key.is_average());
        let Handle::Average(average) = &self.site.handles[key] else {
            return Ok(());
        };
        let value = match self.site.keys[key].what {
            What::PoppedAverage => POPPED_VALUE,
            _ => self.random.below(1_000) * VALUE_STEP + VALUE_REMAINDER,
        };
        let times = self.random.spread(1, 1_000);
        let key = key as u64;
        self.tell(Event::Add { key, value, times })?;
        for _ in 0..times {
            if let Err(error) = average.add(value as f64) {
                return self.complain(error);
            }
        }
        self.tell(Event::Added { key, value, times })
    }

    pub(super) fn pop(&mut self) -> Result<(), Failure> {
        let key = self.some_key(|key| key.what == What::PoppedAverage);
        let Handle::Average(average) = &self.site.handles[key] else {
            return Ok(());
        };
        let asked = now_ns()?;
        match average.pop() {
            Ok(None) => {}
            Ok(Some(mean)) if mean == POPPED_VALUE as f64 => {}
            Ok(Some(mean)) => self.complain(format_args!(
                "an average to which only {POPPED_VALUE} is added was popped as {mean}"
            ))?,
            Err(error) => self.complain(error)?,
        }
        let kind = POPPED;
        self.tell(Event::Did { kind, asked })
    }

    /// Takes and gives back without a word in between, so that most deaths strike inside of either.
    pub(super) fn rush(&mut self) -> Result<(), Failure> {
        let key = self.some_key(|key| key.is_hot);
        let mut last = 0;
        for _ in 0..self.random.spread(10, 3_000) {
            let asked = now_ns()?;
            match self.site.handles[key].acquire(Patience::None) {
                Ok(None) => {}
                Ok(Some(guard)) => {
                    let token = guard.token();
                    // Drawn by this process one after the other, so they grow for a semaphore, too.
                    if token <= last {
                        self.complain(format_args!("token {token} came after {last}"))?;
                    }
                    last = token;
                    if let Err(error) = guard.release() {
                        self.complain(error)?;
                    }
                }
                Err(error) => self.refused(key, asked, Patience::None, &error)?,
            }
        }
        Ok(())
    }

    pub(super) fn cut_key(&mut self) -> Result<(), Failure> {
        let key = self.some_key(|key| key.tag == Some(0));
        self.cut(key)
    }

    pub(super) fn cut(&self, key: usize) -> Result<(), Failure> {
        self.tell(Event::Remove { key: key as u64 })?;
        match self.site.remove(key) {
            Ok(_) => self.tell(Event::Cut {}),
            Err(error) => self.complain(error),
        }
    }

    pub(super) fn cut_tag(&mut self) -> Result<(), Failure> {
        let tag = self.random.below(TAGS.len() as u64);
        self.tell(Event::Evict { tag })?;
        match self.site.evict(tag as usize) {
            Ok(_) => self.tell(Event::Cut {}),
            Err(error) => self.complain(error),
        }
    }

    /// A key in the store that is too small: making it takes the slot of another.
    pub(super) fn litter(&mut self) -> Result<(), Failure> {
        let key = self.some_key(|key| key.place == Where::Small);
        self.hold(key, 0)
    }

    /// Keys that nobody takes away: the store grows for them, and what was set is there.
    pub(super) fn grow(&mut self) -> Result<(), Failure> {
        for _ in 0..GROWN_AT_A_TIME {
            let number = self.random.below(GROWN);
            let (key, value) = (format!("grown {number}"), number.to_string());
            let cache = &self.site.cache;
            match cache.set(&key, &value).and_then(|()| cache.get(&key)) {
                Ok(Some(found)) if found == value.as_bytes() => {}
                Ok(found) => self.complain(format_args!("{key} is {found:?} when it was set"))?,
                Err(error) => self.complain(error)?,
            }
        }
        Ok(())
    }

    /// What people see: it must not fail, whatever is being changed meanwhile.
    pub(super) fn look_around(&mut self) -> Result<(), Failure> {
        let asked = now_ns()?;
        let key = self.random.below(self.site.keys.len() as u64) as usize;
        let looked = match self.random.below(4) {
            0 => self.site.cache.keys().map(drop),
            1 => self.site.fanout.keys().map(drop),
            _ => self.look_at(key),
        };
        if let Err(error) = looked {
            self.complain(error)?;
        }
        let kind = LOOKED;
        self.tell(Event::Did { kind, asked })
    }

    fn look_at(&self, key: usize) -> slablock::Result<()> {
        match &self.site.handles[key] {
            Handle::Lock(lock) => {
                lock.is_locked()?;
                lock.waiters()?;
                lock.holder().map(drop)
            }
            Handle::RLock(lock) => lock.holder().map(drop),
            Handle::Semaphore(semaphore) => {
                let (available, value) = (semaphore.available()?, semaphore.value());
                let excess = format!("{available} of {value} permits are available");
                match available <= value {
                    true => semaphore.holders().map(drop),
                    false => Err(Error::Invalid { what: excess }),
                }
            }
            Handle::Average(average) => match average.summary()? {
                Some(seen) if seen.min > seen.mean || seen.mean > seen.max => {
                    let what = format!("an average that contradicts itself: {seen:?}");
                    Err(Error::Invalid { what })
                }
                _ => Ok(()),
            },
        }
    }

    pub(super) fn check(&mut self) -> Result<(), Failure> {
        let asked = now_ns()?;
        match self.site.problems() {
            Ok(problems) => problems.iter().try_for_each(|p| self.complain(p))?,
            Err(error) => self.complain(error)?,
        }
        let kind = CHECKED;
        self.tell(Event::Did { kind, asked })
    }
}
