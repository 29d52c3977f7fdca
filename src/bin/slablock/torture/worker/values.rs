//! Values: set, read, computed, counted, swapped, and changed two at once.

use slablock::SetOptions;

use super::Worker;
use crate::failure::Failure;
use crate::torture::journal::Event;
use crate::torture::site::{COUNTED, COUNTERS, LEFT, RIGHT, SWAPPED, VALUES};

/// In the slots, in the log, in two parts of it.
const LENGTHS: [usize; 5] = [24, 150, 2_000, 20_000, 100_000];
/// A counter of digits has so many of them at times: then it lies in the log.
const DIGITS: [usize; 2] = [16, 500];

/// Bytes that say under which name and number they were set, and end where they should.
fn written(name: usize, number: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at as u64 ^ number) as u8).collect();
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..16].copy_from_slice(&(name as u64).to_le_bytes());
    bytes[16..24].copy_from_slice(&(len as u64).to_le_bytes());
    bytes
}

/// The number of a value, if it is whole.
fn number_of(name: usize, bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let is_whole = bytes.len() >= 24 && bytes == written(name, number, bytes.len());
    is_whole.then_some(number)
}

impl Worker<'_> {
    pub(super) fn use_values(&mut self) -> Result<(), Failure> {
        match self.random.below(14) {
            0..3 => self.set_value(),
            3..6 => self.read_value(),
            6 => self.delete_value(),
            7 => self.count_up(),
            8..10 => self.swap_up(),
            10..12 => self.compute_value(),
            _ => self.change_two(),
        }
    }

    fn some_value(&mut self) -> usize {
        self.random.below(VALUES.len() as u64) as usize
    }

    /// A name, a number, and how many bytes are to say so.
    fn some_new_value(&mut self) -> (usize, u64, usize) {
        let name = self.some_value();
        // Below 2^63, as all numbers of the journal are.
        let number = self.random.next() >> 1;
        let len = LENGTHS[self.random.below(LENGTHS.len() as u64) as usize];
        (name, number, len)
    }

    fn set_value(&mut self) -> Result<(), Failure> {
        let (name, number, len) = self.some_new_value();
        let value = name as u64;
        self.tell(Event::Announce { value, number })?;
        let bytes = written(name, number, len);
        match self.site.values.set(VALUES[name], bytes) {
            Ok(()) => Ok(()),
            Err(error) => self.complain(error),
        }
    }

    /// Takes the value that is there, or that another worker computes, or computes it.
    fn compute_value(&mut self) -> Result<(), Failure> {
        let (name, number, len) = self.some_new_value();
        let (values, kept) = (&self.site.values, SetOptions::new());
        let mut told = Ok(());
        let compute = || {
            std::thread::yield_now();
            let value = name as u64;
            told = self.tell(Event::Announce { value, number });
            slablock::Result::Ok(written(name, number, len))
        };
        let computed = values.get_or_insert_as(VALUES[name], &kept, compute);
        told?;
        match computed {
            Ok(bytes) => self.saw(name, &bytes),
            Err(error) => self.complain(error),
        }
    }

    fn read_value(&mut self) -> Result<(), Failure> {
        let name = self.some_value();
        for _ in 0..self.random.spread(1, 30) {
            match self.site.values.get(VALUES[name]) {
                Ok(None) => {}
                Ok(Some(bytes)) => self.saw(name, &bytes)?,
                Err(error) => self.complain(error)?,
            }
        }
        Ok(())
    }

    fn saw(&self, name: usize, bytes: &[u8]) -> Result<(), Failure> {
        let value = name as u64;
        match number_of(name, bytes) {
            Some(number) => self.tell(Event::Saw { value, number }),
            None => self.complain(format_args!(
                "{}: {} bytes that nobody set",
                VALUES[name],
                bytes.len()
            )),
        }
    }

    fn delete_value(&mut self) -> Result<(), Failure> {
        let name = self.some_value();
        match self.site.values.pop(VALUES[name]) {
            Ok(None) => Ok(()),
            Ok(Some(bytes)) => self.saw(name, &bytes),
            Err(error) => self.complain(error),
        }
    }

    fn count_up(&mut self) -> Result<(), Failure> {
        let (counter, times) = (COUNTED, self.random.spread(1, 2_000));
        self.tell(Event::Count { counter, times })?;
        for _ in 0..times {
            if let Err(error) = self.site.values.incr("counted", 1) {
                return self.complain(error);
            }
        }
        self.tell(Event::Counted { counter, times })
    }

    /// Adds one to both, or to none.
    fn change_two(&mut self) -> Result<(), Failure> {
        let times = self.random.spread(1, 200);
        self.tell(Event::Count {
            counter: LEFT,
            times,
        })?;
        self.tell(Event::Count {
            counter: RIGHT,
            times,
        })?;
        let [.., left, right] = COUNTERS;
        for _ in 0..times {
            let len = DIGITS[self.random.below(2) as usize];
            let changed = self.site.values.transact_as(|t| {
                let lefts = t.incr(left, 1)?;
                let rights = t.get(right)?.and_then(swapped_count).unwrap_or(0) + 1;
                t.set(right, format!("{rights:0len$}"))?;
                slablock::Result::Ok((lefts as u64, rights))
            });
            match changed {
                Ok((lefts, rights)) if lefts == rights => {}
                Ok((lefts, rights)) => {
                    let what = format_args!("{left} is {lefts}, and {right} {rights}");
                    return self.complain(what);
                }
                Err(error) => return self.complain(error),
            }
        }
        self.tell(Event::Counted {
            counter: LEFT,
            times,
        })?;
        self.tell(Event::Counted {
            counter: RIGHT,
            times,
        })
    }

    /// Adds one, by reading and swapping, until no other worker came in between.
    fn swap_up(&mut self) -> Result<(), Failure> {
        let (counter, times) = (SWAPPED, self.random.spread(1, 500));
        self.tell(Event::Count { counter, times })?;
        for _ in 0..times {
            let len = DIGITS[self.random.below(2) as usize];
            while !self.swap_once(len)? {}
        }
        self.tell(Event::Counted { counter, times })
    }

    fn swap_once(&self, len: usize) -> Result<bool, Failure> {
        let values = &self.site.values;
        let swapped = values.get("swapped").and_then(|old| {
            let count: u64 = old.as_deref().and_then(swapped_count).unwrap_or(0);
            let next = format!("{:0len$}", count + 1);
            // Other workers come in between more often then.
            if count.is_multiple_of(4) {
                std::thread::yield_now();
            }
            match old {
                Some(old) => values.compare_and_swap("swapped", old, next),
                None => values.add("swapped", next),
            }
        });
        match swapped {
            Ok(swapped) => Ok(swapped),
            Err(error) => self.complain(error).map(|()| true),
        }
    }
}

/// What a counter of digits says.
pub fn swapped_count(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
