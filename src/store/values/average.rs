//! Averages: a compensated sum with count, extremes and expiry, in two cells under a latch.
//!
//! The sum is Neumaier's ("Rundungsfehleranalyse einiger Verfahren zur Summation endlicher Summen",
//! ZAMM 54, 1974): the rounding error of each addition is kept beside the total and added at the
//! end.

use crate::error::{Error, Result, show_key};
use crate::os::clock;
use crate::record::{Damaged, NO_VERSION, PAYLOAD_WORDS};
use crate::slab::{SlotId, Tenant};
use crate::store::Store;
use crate::store::holds::fast::Holding;
use crate::store::holds::handle::Handle;
use crate::store::holds::locate::Finder;
use crate::store::holds::slow::Acquirer;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::SlotRef;
use crate::store::patience::Patience;
use crate::types::Summary;

/// What a cell holds. All zeros is the average of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Average {
    count: u64,
    total: f64,
    /// What rounding took from `total`.
    lost: f64,
    min: f64,
    max: f64,
    /// Wall-clock microseconds; 0: never.
    expires_us: u64,
}

impl Average {
    #[inline(always)]
    pub(in crate::store) fn from_words(words: [u64; PAYLOAD_WORDS]) -> Average {
        let [count, total, lost, min, max, expires_us] = words;
        Average {
            count,
            total: f64::from_bits(total),
            lost: f64::from_bits(lost),
            min: f64::from_bits(min),
            max: f64::from_bits(max),
            expires_us,
        }
    }

    #[inline(always)]
    fn to_words(self) -> [u64; PAYLOAD_WORDS] {
        [
            self.count,
            self.total.to_bits(),
            self.lost.to_bits(),
            self.min.to_bits(),
            self.max.to_bits(),
            self.expires_us,
        ]
    }

    /// With one more value, or `None` if the sum would not be finite.
    #[inline(always)]
    fn with(self, value: f64) -> Option<Average> {
        if self.count == 0 {
            return Some(Average {
                count: 1,
                total: value,
                lost: 0.0,
                min: value,
                max: value,
                expires_us: 0,
            });
        }
        let total = self.total + value;
        let lost = if self.total.abs() >= value.abs() {
            (self.total - total) + value
        } else {
            (value - total) + self.total
        };
        let new = Average {
            count: self.count.checked_add(1)?,
            total,
            lost: self.lost + lost,
            min: self.min.min(value),
            max: self.max.max(value),
            expires_us: 0,
        };
        (new.total + new.lost).is_finite().then_some(new)
    }

    /// This average, or an empty one if its time is over.
    #[inline(always)]
    fn at(self, now_us: impl FnOnce() -> u64) -> Average {
        if self.expires_us != 0 && now_us() >= self.expires_us {
            return Average::default();
        }
        self
    }

    #[inline(always)]
    pub(crate) fn mean(self, now_us: impl FnOnce() -> u64) -> Option<f64> {
        let now = self.at(now_us);
        (now.count > 0).then(|| (now.total + now.lost) / now.count as f64)
    }

    pub(crate) fn summary(self, now_us: impl FnOnce() -> u64) -> Option<Summary> {
        let now = self.at(now_us);
        let total = now.total + now.lost;
        (now.count > 0).then(|| Summary {
            count: now.count,
            total,
            mean: total / now.count as f64,
            min: now.min,
            max: now.max,
        })
    }
}

/// The average in a slot.
#[inline]
pub(crate) fn read(store: &Store, id: SlotId, key: &str) -> Result<Average> {
    match store.slab().slot(id).cells().read(NO_VERSION) {
        Ok((words, _)) => Ok(Average::from_words(words)),
        Err(Damaged) => Err(damaged(store, key)),
    }
}

#[cold]
fn damaged(store: &Store, key: &str) -> Error {
    store
        .slab()
        .corrupt(format!("the average {key} fails its checksum"))
}

/// The average of a key.
#[derive(Clone, Copy)]
pub(crate) struct Averaging<'h>(pub(crate) &'h Handle);

impl<'h> Averaging<'h> {
    /// Adds a value and re-arms the expiry.
    pub(crate) fn add(self, value: f64) -> Result<()> {
        if !value.is_finite() {
            let what = format!("{value} is not finite and has no place in an average");
            return Err(Error::Invalid { what });
        }
        let too_large = || Error::Invalid {
            what: format!(
                "{value} would make the sum of {} infinite",
                self.0.show_key()
            ),
        };
        self.change(|old| {
            let mut new = old.with(value).ok_or_else(too_large)?;
            let expire = self.0.lease_us;
            new.expires_us = expire.map_or(0, |e| clock::wall_us().saturating_add(e));
            Ok((new, ()))
        })
    }

    /// Where the average is. Whether a value is there instead is for a transaction to say, if one
    /// was decided.
    fn locate(self) -> Result<Option<SlotRef>> {
        let store = self.0.store();
        let spot = Finder(self.0).locate()?;
        if spot.is_some() || Journal(store).nothing_is_decided() {
            return Ok(spot);
        }
        Journal(store).finish_decided()?;
        Finder(self.0).locate()
    }

    /// What there is now, and nothing from now on, in one step.
    pub(crate) fn pop(self) -> Result<Option<f64>> {
        // Popping what does not exist does not make it.
        if self.locate()?.is_none() {
            return Ok(None);
        }
        self.change(|old| Ok((Average::default(), old.mean(|| 0))))
    }

    /// Replaces the average by what `new` makes of it, under the latch. Returns what `new` says
    /// besides.
    ///
    /// Killed after each step: with the latch, the next one takes it from the dead, and finds the
    /// old value in force (before the flip) or the new one (after it).
    #[inline(always)]
    fn change<T>(self, new: impl FnOnce(Average) -> Result<(Average, T)>) -> Result<T> {
        let (grant, hold) = match Holding(self.0).try_fast(Tenant::Averager) {
            Some(granted) => granted,
            None => match Acquirer(self.0).acquire(Patience::Forever)? {
                Some((grant, _)) => (grant, Holding(self.0).hold_of(&grant)?),
                None => return Err(Holding(self.0).not_holder()),
            },
        };
        let cells = self.0.slot(grant.spot).cells();
        let failed = match cells.read(self.0.known_version()) {
            Err(Damaged) => damaged(self.0.store(), &self.0.show_key()),
            Ok((words, version)) => match new(Average::from_words(words).at(clock::wall_us)) {
                Err(refused) => refused,
                Ok((new, besides)) => {
                    let version = cells.write(&new.to_words(), version);
                    self.0.know_version(grant.spot, version);
                    // Nobody takes a latch from the living, so it is still ours.
                    if !hold.try_give_back(grant.word) {
                        // It has happened, and what was popped is the caller's, whatever becomes of
                        // the latch.
                        let _ = Holding(self.0).give_back(&grant);
                    }
                    return Ok(besides);
                }
            },
        };
        Holding(self.0).give_back(&grant)?;
        Err(failed)
    }

    /// The average as it stands, without the latch; `None` if there is no such key.
    #[inline(always)]
    pub(crate) fn average(self) -> Result<Option<Average>> {
        loop {
            let spot = match self.0.remembered() {
                Some(spot) if self.0.is_current(spot) => spot,
                _ => match self.locate()? {
                    Some(spot) => spot,
                    None => return Ok(None),
                },
            };
            let words = self.0.slot(spot).cells().read(self.0.known_version());
            // What was read is of this key only if the slot still is.
            if !self.0.is_current(spot) {
                continue;
            }
            return match words {
                Ok((words, version)) => {
                    self.0.know_version(spot, version);
                    Ok(Some(Average::from_words(words)))
                }
                Err(Damaged) => Err(damaged(self.0.store(), &show_key(self.0.key()))),
            };
        }
    }

    /// The mean, or `None` when nothing was added or it is over.
    #[inline(always)]
    pub(crate) fn mean(self) -> Result<Option<f64>> {
        Ok(self.average()?.and_then(|a| a.mean(clock::wall_us)))
    }

    /// Everything about the average.
    pub(crate) fn summary(self) -> Result<Option<Summary>> {
        Ok(self.average()?.and_then(|a| a.summary(clock::wall_us)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn average_of(values: impl IntoIterator<Item = f64>) -> Average {
        values
            .into_iter()
            .fold(Average::default(), |a, v| a.with(v).unwrap())
    }

    #[test]
    fn ten_million_tenths_average_to_a_tenth() {
        let average = average_of(std::iter::repeat_n(0.1, 10_000_000));
        let mean = average.mean(|| 0).unwrap();
        assert!((mean - 0.1).abs() <= 2.0 * f64::EPSILON * 0.1, "{mean}");
    }

    #[test]
    fn what_a_plain_sum_forgets_is_kept() {
        let average = average_of([1e100, 1.0, -1e100]);
        assert_eq!(average.summary(|| 0).unwrap().total, 1.0);
    }

    #[test]
    fn a_sum_that_is_not_finite_is_refused() {
        assert_eq!(average_of([f64::MAX]).with(f64::MAX), None);
        assert!(average_of([f64::MAX]).with(f64::MIN).is_some());
    }

    #[test]
    fn words_come_back_and_time_ends_an_average() {
        let mut average = average_of([3.0, -1.0]);
        average.expires_us = 50;
        assert_eq!(Average::from_words(average.to_words()), average);
        assert_eq!(average.mean(|| 49), Some(1.0));
        assert_eq!(average.mean(|| 50), None);
    }
}
