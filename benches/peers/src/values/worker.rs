//! The process that has a store open and does to it what it is told. `python/` has the same for Python.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Key, Needs, Op, PYTHON, Store, key, mixed, open};
use crate::process::{Peer, listen, tell, tell_answer};
use crate::python::Python;
use crate::stats::at_share;
use crate::{Answer, Failure};

/// Keys are made before the clock starts, so many at a time.
const BATCH: usize = 64;
/// Of which the values consist.
pub const FILL: u8 = b'v';
pub const VALUE_BYTES: usize = 100;
pub const LARGE_BYTES: usize = 1 << 20;
// Numbers of keys that nothing else uses.
const COUNTERS_FROM: u64 = 1 << 40;
const COUNTERS: u64 = 1_000;
const COMMON: u64 = COUNTERS_FROM - 1;
const NEW_FROM: u64 = 1 << 41;
const LARGE_FROM: u64 = 1 << 42;
pub const LARGE_KEYS: u64 = 8;

const CLOSED: &str = "the store could not be opened again";

struct Worker<'a> {
    name: &'a str,
    dir: &'a Path,
    needs: Needs,
    store: Option<Box<dyn Store>>,
    into: Vec<u8>,
    value: Vec<u8>,
    large: Vec<u8>,
}

/// What starts it, or its like in Python.
pub fn command(name: &str, dir: &Path, needs: Needs, python: &Python) -> Answer<Command> {
    let mut command = match PYTHON.contains(&name) {
        true => python.worker("diskcache")?,
        false => Peer::myself()?,
    };
    command.args(["values", name]).arg(dir);
    if !PYTHON.contains(&name) {
        let shared = if needs.shared { "shared" } else { "alone" };
        command.args([&needs.keys.to_string(), shared]);
    }
    Ok(command)
}

/// Opens the store and works until nobody listens any more.
pub fn play(name: &str, dir: &str, keys: &str, shared: &str) {
    let needs = Needs {
        keys: keys.parse().expect("a number of keys"),
        shared: shared == "shared",
    };
    let dir = Path::new(dir);
    let store = match open(name, dir, needs) {
        Ok(store) => store,
        Err(failure) => return tell_answer(Err(failure)),
    };
    let mut worker = Worker {
        name,
        dir,
        needs,
        store: Some(store),
        into: Vec::new(),
        value: vec![FILL; VALUE_BYTES],
        large: vec![b'w'; LARGE_BYTES],
    };
    tell("ready");
    while let Some(line) = listen() {
        tell_answer(worker.answer(&line));
    }
}

impl Worker<'_> {
    fn answer(&mut self, line: &str) -> Answer<String> {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        match (what, &numbers[..]) {
            ("fill", &[from, to]) => {
                let keys: Vec<Key> = (from..to).map(key).collect();
                let store = self.store.as_mut().ok_or(CLOSED)?;
                store.fill(&keys, &self.value)?;
                Ok("filled".into())
            }
            ("mix", &[keys, seed, ms]) => self.mix(keys, seed, Duration::from_millis(ms)),
            ("count", &[most, ms]) => self.count(most, Duration::from_millis(ms)),
            ("counted", &[]) => {
                let store = self.store.as_mut().ok_or(CLOSED)?;
                Ok((store.incr(&key(COMMON))? - 1).to_string())
            }
            ("reopen", &[ms]) => self.reopen(Duration::from_millis(ms)),
            (op, &[keys, seed, ms]) => {
                let ns = self.repeat(op, keys, seed, Duration::from_millis(ms))?;
                Ok(ns.to_string())
            }
            _ => Err(format!("{line:?} is not understood").into()),
        }
    }

    /// The nanoseconds that an operation takes, from batches that fill `time` together.
    fn repeat(&mut self, op: &str, keys: u64, seed: u64, time: Duration) -> Answer<f64> {
        let (kind, number): (Op, fn(u64, u64, u64) -> u64) = match op {
            "get" => (Op::Get, |at, keys, seed| at_random(at, keys, seed)),
            "set" => (Op::Set, |at, keys, seed| at_random(at, keys, seed)),
            "new" => (Op::Add, |at, _, seed| NEW_FROM + (seed << 24) + at),
            "delete" => (Op::Delete, |at, _, seed| NEW_FROM + (seed << 24) + at),
            "incr" => (Op::Incr, |at, _, seed| {
                COUNTERS_FROM + at_random(at, COUNTERS, seed)
            }),
            "write" => (Op::Write, |at, _, _| LARGE_FROM + at % LARGE_KEYS),
            "read" => (Op::Read, |at, _, _| LARGE_FROM + at % LARGE_KEYS),
            _ => return Err(Failure::from(format!("{op:?} is not understood"))),
        };
        let large = matches!(op, "write" | "read");
        let batch = if large { LARGE_KEYS } else { BATCH as u64 };
        // Deleting takes away what so many batches have made.
        let most = if op == "delete" { keys } else { u64::MAX };
        let (mut taken, mut at) = (Duration::ZERO, 0);
        while taken < time && at < most {
            let keys: Vec<Key> = (at..at + batch)
                .map(|at| key(number(at, keys, seed)))
                .collect();
            let value = if large { &self.large } else { &self.value };
            let store = self.store.as_mut().ok_or(CLOSED)?;
            taken += store.run(kind, &keys, value, &mut self.into)?;
            at += batch;
        }
        Ok(taken.as_nanos() as f64 / at as f64)
    }

    /// Adds one to the counter that all have in common. Tells how often.
    fn count(&mut self, most: u64, time: Duration) -> Answer<String> {
        let (start, mut done) = (Instant::now(), 0);
        let store = self.store.as_mut().ok_or(CLOSED)?;
        while done < most && start.elapsed() < time {
            store.incr(&key(COMMON))?;
            done += 1;
        }
        Ok(done.to_string())
    }

    /// The nanoseconds that opening takes, and closing; the middle ones of those that `time` has room for.
    fn reopen(&mut self, time: Duration) -> Answer<String> {
        let (mut opening, mut closing) = (Vec::new(), Vec::new());
        let begin = Instant::now();
        while begin.elapsed() < time {
            let start = Instant::now();
            drop(self.store.take());
            closing.push(start.elapsed().as_nanos() as u64);
            let start = Instant::now();
            self.store = Some(open(self.name, self.dir, self.needs)?);
            opening.push(start.elapsed().as_nanos() as u64);
        }
        opening.sort_unstable();
        closing.sort_unstable();
        let [opening, closing] = [opening, closing].map(|sorted| at_share(&sorted, 0.5));
        Ok(format!("{opening} {closing}"))
    }

    /// Nine gets to a set, until the time is up. Tells how many, and in how many microseconds.
    fn mix(&mut self, keys: u64, seed: u64, time: Duration) -> Answer<String> {
        let start = Instant::now();
        let mut done = 0;
        while start.elapsed() < time {
            let chosen: [Key; 10] = std::array::from_fn(|i| {
                let at = done + i as u64;
                key(at_random(at, keys, seed))
            });
            let (set, get) = chosen.split_at(1);
            let store = self.store.as_mut().ok_or(CLOSED)?;
            store.run(Op::Set, set, &self.value, &mut self.into)?;
            store.run(Op::Get, get, &self.value, &mut self.into)?;
            done += 10;
        }
        Ok(format!("{done} {}", start.elapsed().as_micros()))
    }
}

fn at_random(at: u64, keys: u64, seed: u64) -> u64 {
    mixed(at ^ (seed << 32)) % keys.max(1)
}
