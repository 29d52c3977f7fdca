//! The process that does its part of a trace to a store. `python/dealt.py` is its like in Python.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::exact::Policy;
use super::{Act, Step, VALUE_MAX, keep, kept, value_bytes};
use crate::process::{Peer, listen, tell, tell_answer};
use crate::python::Python;
use crate::values::{self, FILL, LMDB, LMDB_WRITABLE, Needs, Store, key};
use crate::{Answer, clock};

/// Who keeps the values.
#[derive(Clone, Copy, PartialEq)]
pub enum Keeper {
    Slablock(Policy),
    /// LMDB, which evicts nothing, by its name among the stores.
    Lmdb(&'static str),
    /// Python's, with the policy that it has by default.
    Diskcache,
}

/// All, in the order of the table.
pub const KEEPERS: [(&str, Keeper); 7] = [
    ("slablock, GreedyDual", Keeper::Slablock(Policy::GreedyDual)),
    (
        "slablock, LeastRecentlyUsed",
        Keeper::Slablock(Policy::LeastRecentlyUsed),
    ),
    (
        "slablock, LeastFrequentlyUsed",
        Keeper::Slablock(Policy::LeastFrequentlyUsed),
    ),
    (
        "slablock, LeastRecentlyStored",
        Keeper::Slablock(Policy::LeastRecentlyStored),
    ),
    ("diskcache", Keeper::Diskcache),
    ("LMDB (heed), no limit", Keeper::Lmdb(LMDB)),
    ("LMDB, writable map, no limit", Keeper::Lmdb(LMDB_WRITABLE)),
];

/// What a process works at.
pub struct Place {
    /// The directory of the store.
    pub store: PathBuf,
    /// The file with the steps.
    pub steps: PathBuf,
    /// The file for what each of them took.
    pub taken: PathBuf,
}

/// What starts it, or its like in Python.
pub fn command(name: &str, place: &Place, limit: u64, python: &Python) -> Answer<Command> {
    let mut command = match keeper(name)? {
        Keeper::Diskcache => python.worker("diskcache")?,
        _ => Peer::myself()?,
    };
    command.args(["trace", name, &limit.to_string()]);
    command.args([&place.store, &place.steps, &place.taken]);
    Ok(command)
}

fn keeper(name: &str) -> Answer<Keeper> {
    let found = KEEPERS.iter().find(|(known, _)| *known == name);
    let (_, keeper) = found.ok_or_else(|| format!("no cache is called {name}"))?;
    Ok(*keeper)
}

/// Opens the store, and works until nobody listens any more.
pub fn play(name: &str, limit: &str, store: &str, steps: &str, taken: &str) {
    let place = Place {
        store: store.into(),
        steps: steps.into(),
        taken: taken.into(),
    };
    let mut worker = match Worker::new(name, limit, place) {
        Ok(worker) => worker,
        Err(failure) => return tell_answer(Err(failure)),
    };
    tell("ready");
    while let Some(line) = listen() {
        tell_answer(worker.answer(&line));
    }
}

/// The nanoseconds that the get of a step took, and those of the set.
///
/// 0: there was none. So a get without a set was a hit.
pub type Taken = [u64; 2];

struct Worker {
    store: Box<dyn Store>,
    steps: Vec<Step>,
    taken: Vec<Taken>,
    place: Place,
    into: Vec<u8>,
    value: Vec<u8>,
}

impl Worker {
    fn new(name: &str, limit: &str, place: Place) -> Answer<Worker> {
        let words = kept(&place.steps)?;
        Ok(Worker {
            store: open(keeper(name)?, &place.store, limit.parse()?)?,
            steps: words.into_iter().map(Step::from).collect(),
            taken: Vec::new(),
            place,
            into: Vec::new(),
            value: vec![FILL; VALUE_MAX as usize],
        })
    }

    fn answer(&mut self, line: &str) -> Answer<String> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["until", end] => {
                let before = clock::processor_ns();
                self.work(end.parse()?)?;
                Ok((clock::processor_ns() - before).to_string())
            }
            ["keep"] => {
                let words = self.taken.iter().flatten().copied();
                keep(&self.place.taken, words)?;
                Ok("kept".into())
            }
            _ => Err(format!("{line:?} is not understood").into()),
        }
    }

    /// The next steps, up to the one of that number.
    fn work(&mut self, end: usize) -> Answer<()> {
        for at in self.taken.len()..end.min(self.steps.len()) {
            let taken = self.step(self.steps[at])?;
            self.taken.push(taken);
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Answer<Taken> {
        let (key, bytes) = (key(step.key.into()), value_bytes(step.key) as usize);
        let mut taken = [0; 2];
        if step.act != Act::Set {
            let start = Instant::now();
            let found = self.store.get(&key, &mut self.into)?;
            taken[0] = nanos_since(start);
            if found && self.into.len() != bytes {
                return Err("a value is not what was set".into());
            }
            if found {
                return Ok(taken);
            }
        }
        let value = &self.value[..bytes];
        let start = Instant::now();
        self.store.set(&key, value)?;
        taken[1] = nanos_since(start);
        Ok(taken)
    }
}

fn open(keeper: Keeper, dir: &Path, limit: u64) -> Answer<Box<dyn Store>> {
    let (keys, shared) = (0, true);
    match keeper {
        Keeper::Slablock(policy) => values::open_limited(dir, limit, policy),
        Keeper::Lmdb(name) => values::open(name, dir, Needs { keys, shared }),
        Keeper::Diskcache => Err("it is Python's".into()),
    }
}

/// At least one: it stands for something that was done.
fn nanos_since(start: Instant) -> u64 {
    (start.elapsed().as_nanos() as u64).max(1)
}
