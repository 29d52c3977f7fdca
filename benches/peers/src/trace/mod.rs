//! A trace: which keys a cache is asked for, one after the other, and what a limit is for them.

pub mod exact;
mod law;
pub mod worker;

use std::fs;
use std::path::Path;

use crate::Answer;
use crate::values::Key;
use law::{Chance, Zipf};

pub use law::{VALUE_MAX, value_bytes};

/// One in so many steps is a set.
const SETS: f64 = 10.0;
const EXPONENT: f64 = 0.99;
/// One in so many gets is of the scan, where there is one.
const SCANS: u32 = 3;
/// The limit is that part of all that there would be without one.
const LIMIT: u64 = 10;

/// What is done in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// A get; the key is set when it is missed.
    Get,
    /// The same, by the scan: whether it hits is not counted.
    Scan,
    Set,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub key: u32,
    pub act: Act,
}

/// What a file has of a step: the key above, the length of its value, and what is done in the last two bits.
impl From<Step> for u64 {
    fn from(Step { key, act }: Step) -> u64 {
        let act = match act {
            Act::Get => 0,
            Act::Scan => 1,
            Act::Set => 2,
        };
        u64::from(key) << 32 | u64::from(value_bytes(key)) << 2 | act
    }
}

impl From<u64> for Step {
    fn from(word: u64) -> Step {
        let act = match word & 3 {
            0 => Act::Get,
            1 => Act::Scan,
            _ => Act::Set,
        };
        let key = (word >> 32) as u32;
        Step { key, act }
    }
}

/// Which keys come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// By Zipf's law.
    Steady,
    /// The same, and every third get is of a scan over all keys.
    Scan,
    /// One after the other, in a cycle a quarter longer than what the limit has room for.
    Loop,
    /// By Zipf's law; after half of the steps those that came most seldom come most often.
    Shift,
}

/// Keys, and how much of them there may be.
pub struct Keys {
    pub count: u32,
    law: Zipf,
    /// A part of all keys with their values, in bytes.
    pub limit: u64,
}

impl Keys {
    pub fn new(count: u32) -> Keys {
        let all: u64 = (0..count).map(bytes).sum();
        Keys {
            count,
            law: Zipf::new(count, EXPONENT),
            limit: all / LIMIT,
        }
    }

    /// The trace of that shape, the same each time.
    pub fn trace(&self, shape: Shape, steps: usize) -> Vec<Step> {
        let mut chance = Chance::of(shape as u64);
        let cycle = self.cycle();
        let mut gets = 0;
        let step = |at: usize| {
            let sets = chance.part() * SETS < 1.0;
            gets += u32::from(!sets);
            let drawn = self.law.draw(&mut chance);
            let act = if sets { Act::Set } else { Act::Get };
            let usual = Step { key: drawn, act };
            match shape {
                Shape::Scan if !sets && gets % SCANS == 0 => Step {
                    key: gets / SCANS % self.count,
                    act: Act::Scan,
                },
                Shape::Loop => Step {
                    key: at as u32 % cycle,
                    ..usual
                },
                Shape::Shift if at >= steps / 2 => Step {
                    key: self.count - 1 - drawn,
                    ..usual
                },
                _ => usual,
            }
        };
        (0..steps).map(step).collect()
    }

    /// So many keys take a quarter more than the limit.
    fn cycle(&self) -> u32 {
        let mut sum = 0;
        let more = |key: &u32| {
            sum += bytes(*key);
            sum <= self.limit + self.limit / 4
        };
        (0..self.count).take_while(more).count().max(1) as u32
    }
}

/// What a key takes, with its value.
pub fn bytes(key: u32) -> u64 {
    size_of::<Key>() as u64 + u64::from(value_bytes(key))
}

/// Keeps numbers, in the byte order of this machine.
pub fn keep(path: &Path, words: impl Iterator<Item = u64>) -> Answer<()> {
    let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
    Ok(fs::write(path, bytes)?)
}

/// Those that were kept.
pub fn kept(path: &Path) -> Answer<Vec<u64>> {
    let bytes = fs::read(path)?;
    let (words, rest) = bytes.as_chunks();
    match rest {
        [] => Ok(words.iter().map(|word| u64::from_ne_bytes(*word)).collect()),
        _ => Err("numbers of eight bytes are due".into()),
    }
}

/// How many of the gets that count were hits, in percent.
pub struct Hits {
    /// In the second half: by then the cache is warm.
    pub warm: f64,
    pub whole: f64,
}

impl Hits {
    /// From what each step of the trace was.
    pub fn of(trace: &[Step], hit: &[bool]) -> Hits {
        let share = |from: usize| {
            let steps = trace.iter().zip(hit).skip(from);
            let gets: Vec<bool> = steps
                .filter(|(step, _)| step.act == Act::Get)
                .map(|(_, hit)| *hit)
                .collect();
            let hits = gets.iter().filter(|hit| **hit).count();
            100.0 * hits as f64 / gets.len().max(1) as f64
        };
        Hits {
            warm: share(trace.len() / 2),
            whole: share(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: usize = 20_000;

    #[test]
    fn a_tenth_of_the_steps_are_sets_and_all_is_the_same_again() {
        let keys = Keys::new(1_000);
        let trace = keys.trace(Shape::Steady, STEPS);
        let sets = trace.iter().filter(|step| step.act == Act::Set).count();
        assert!(sets.abs_diff(STEPS / 10) < STEPS / 100, "{sets}");
        assert!(trace == keys.trace(Shape::Steady, STEPS));
        assert!(
            trace
                .iter()
                .all(|step| Step::from(u64::from(*step)) == *step)
        );
    }

    #[test]
    fn a_scan_is_every_third_get_and_takes_all_keys_in_their_order() {
        let trace = Keys::new(1_000).trace(Shape::Scan, STEPS);
        let gets: Vec<&Step> = trace.iter().filter(|step| step.act != Act::Set).collect();
        let scan: Vec<&&Step> = gets.iter().skip(2).step_by(3).collect();
        assert!(scan.iter().all(|step| step.act == Act::Scan));
        assert!(
            scan.windows(2)
                .all(|two| two[1].key == (two[0].key + 1) % 1_000)
        );
        let scans = gets.iter().filter(|step| step.act == Act::Scan).count();
        assert_eq!(scans, gets.len() / 3);
    }

    #[test]
    fn a_cycle_is_a_quarter_longer_than_what_there_is_room_for() {
        let keys = Keys::new(1_000);
        let trace = keys.trace(Shape::Loop, STEPS);
        let cycle = trace.iter().map(|step| step.key).max().unwrap_or(0) + 1;
        let all: u64 = (0..cycle).map(bytes).sum();
        assert!(all <= keys.limit * 5 / 4 && all + bytes(cycle) > keys.limit * 5 / 4);
        assert_eq!(trace[cycle as usize].key, 0);
    }

    #[test]
    fn a_shift_turns_the_ranks_round() {
        let trace = Keys::new(1_000).trace(Shape::Shift, STEPS);
        let (before, after) = trace.split_at(STEPS / 2);
        let most = |steps: &[Step], key| steps.iter().filter(|step| step.key == key).count();
        assert!(most(before, 0) > 1_000 && most(after, 999) > 1_000);
        assert!(most(before, 999) < 10 && most(after, 0) < 10);
    }

    #[test]
    fn only_gets_that_count_are_counted() {
        let step = |act| Step { key: 0, act };
        let trace = [Act::Get, Act::Get, Act::Scan, Act::Get, Act::Set, Act::Get].map(step);
        let hits = Hits::of(&trace, &[false, false, true, true, false, false]);
        assert_eq!((hits.warm, hits.whole), (50.0, 25.0));
    }

    #[test]
    fn what_was_kept_comes_back() {
        let dir = tempfile::tempdir().expect("there is room");
        let path = dir.path().join("words");
        keep(&path, [1, u64::MAX].into_iter()).expect("it can be written");
        assert_eq!(kept(&path).expect("it can be read"), [1, u64::MAX]);
    }
}
