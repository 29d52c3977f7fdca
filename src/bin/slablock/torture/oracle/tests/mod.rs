//! The judge is judged: journals with each kind of violation, and ones that only look like it.

mod counts_and_waits;
mod holding;

use std::time::Duration;

use super::*;
use crate::torture::journal::id_of_worker;
use crate::torture::site::{What, keys};

const MS: u64 = 1_000_000;
const BOUND: Duration = Duration::from_secs(1);

/// A journal that is made up, with times in milliseconds. Worker n has the process id 100 + n.
struct Story {
    lines: Vec<Line>,
    keys: Vec<KeySpec>,
    leftovers: Leftovers,
}

impl Story {
    fn new() -> Story {
        let keys = keys();
        let leftovers = Leftovers {
            counters: vec![None; keys.len()],
            sums: vec![None; keys.len()],
            ..Leftovers::default()
        };
        Story {
            lines: Vec::new(),
            keys,
            leftovers,
        }
    }

    fn key(&self, name: &str) -> u64 {
        let mut keys = self.keys.iter();
        keys.position(|key| key.name == name).unwrap() as u64
    }

    fn line(&mut self, at_ms: u64, worker: u64, event: Event) -> &mut Story {
        self.lines.push(Line {
            at: at_ms * MS,
            id: id_of_worker(worker),
            pid: 100 + worker as u32,
            event,
        });
        self
    }

    /// A worker begins to live in the process of another one, a child of a third.
    fn born_of(&mut self, at_ms: u64, worker: u64, process: u64, parent: u64) -> &mut Story {
        self.lines.push(Line {
            at: at_ms * MS,
            id: id_of_worker(worker),
            pid: 100 + process as u32,
            event: Event::Born {
                parent: id_of_worker(parent),
            },
        });
        self
    }

    /// What the torturer does to a worker.
    fn fate(&mut self, at_ms: u64, worker: u64, fate: fn(u64) -> Event) -> &mut Story {
        self.lines.push(Line {
            at: at_ms * MS,
            id: 0,
            pid: 99,
            event: fate(100 + worker),
        });
        self
    }

    fn killed(&mut self, at_ms: u64, worker: u64) -> &mut Story {
        self.fate(at_ms, worker, |pid| Event::Kill { pid });
        self.fate(at_ms + 1, worker, |pid| Event::Dead { pid })
    }

    fn take(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        self.take_told(at_ms, worker, key, token, 0, None)
    }

    /// The worker asked a millisecond before.
    fn take_told(
        &mut self,
        at_ms: u64,
        worker: u64,
        key: &str,
        token: u64,
        permit: u64,
        dead: Option<u64>,
    ) -> &mut Story {
        let key = self.key(key);
        let event = Event::Take {
            key,
            token,
            asked: (at_ms - 1) * MS,
            permit,
            died: dead.map_or(0, |worker| 100 + worker + 1),
            overran: 0,
        };
        self.line(at_ms, worker, event)
    }

    fn give(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        self.give_counted(at_ms, worker, key, token, 0)
    }

    fn give_counted(
        &mut self,
        at_ms: u64,
        worker: u64,
        key: &str,
        token: u64,
        count: u64,
    ) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Give { key, token, count })
    }

    fn kept(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Kept { key, token })
    }

    fn lost(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Lost { key, token })
    }

    /// The worker asked at `asked_ms`.
    fn renewed(
        &mut self,
        at_ms: u64,
        worker: u64,
        key: &str,
        token: u64,
        asked_ms: u64,
    ) -> &mut Story {
        let (key, asked) = (self.key(key), asked_ms * MS);
        self.line(at_ms, worker, Event::Renewed { key, token, asked })
    }

    fn want(&mut self, at_ms: u64, worker: u64, key: &str) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Want { key })
    }

    fn add(&mut self, at_ms: u64, worker: u64, value: u64, times: u64) -> &mut Story {
        let key = self.key("average");
        self.line(at_ms, worker, Event::Add { key, value, times })
    }

    fn added(&mut self, at_ms: u64, worker: u64, value: u64, times: u64) -> &mut Story {
        let key = self.key("average");
        self.line(at_ms, worker, Event::Added { key, value, times })
    }

    fn left(&mut self, name: &str, count: u64, total: f64) -> &mut Story {
        let key = self.key(name) as usize;
        match self.keys[key].what {
            What::Average | What::PoppedAverage => {
                self.leftovers.sums[key] = Some((count, total));
            }
            _ => self.leftovers.counters[key] = Some(count),
        }
        self
    }

    fn verdict(&self) -> (Facts, Vec<Violation>) {
        Oracle::new(&self.keys, BOUND).judge(&self.lines, &self.leftovers)
    }

    fn is_clean(&self) {
        let (_, violations) = self.verdict();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// There are violations, and all are of this kind. Returns one with its evidence.
    fn is_caught(&self, words: &str) -> Vec<String> {
        let mut oracle = Oracle::new(&self.keys, BOUND);
        let (_, violations) = oracle.judge(&self.lines, &self.leftovers);
        assert!(!violations.is_empty(), "nothing was found");
        for violation in &violations {
            assert!(violation.what.contains(words), "{violation:?}");
        }
        oracle.evidence(&violations[0], &self.lines)
    }
}
