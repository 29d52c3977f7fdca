//! The process that takes and gives back what it is told. `python/` has the same for Python.
//!
//! A line is `verb`, `name`, `key`, `permits`, `number`, with tabs between. Locks are opened when they are
//! first named, and kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::{Lock, Words, open};
use crate::Answer;
use crate::clock::now_ns;
use crate::process::{listen, tell, tell_answer};
use crate::stats::at_share;

/// How long it is inside, and then outside, when it takes turns with another one.
const TURN: Duration = Duration::from_micros(100);
/// So many times are kept at the most.
const TIMES_MAX: u64 = 4_000_000;

struct Worker<'a> {
    dir: &'a Path,
    page: Rc<Words>,
    opened: HashMap<(String, String), Opened>,
}

struct Opened {
    lock: Box<dyn Lock>,
    /// How many pairs fill a slice of time; 0: not known yet.
    pairs: u64,
}

/// Works until nobody listens any more.
pub fn play(dir: &str, page: &str) {
    let page = match Words::open(Path::new(page)) {
        Ok(page) => page,
        Err(failure) => return tell_answer(Err(failure)),
    };
    let mut worker = Worker {
        dir: Path::new(dir),
        page: Rc::new(page),
        opened: HashMap::new(),
    };
    tell("ready");
    while let Some(line) = listen() {
        tell_answer(worker.answer(&line));
    }
}

impl Worker<'_> {
    fn answer(&mut self, line: &str) -> Answer<String> {
        let words: Vec<&str> = line.split('\t').collect();
        let [verb, name, key, permits, number] = words[..] else {
            return Err(format!("{line:?} is not understood").into());
        };
        let page = Rc::clone(&self.page);
        if matches!(verb, "count" | "slowly" | "timed" | "turns") {
            page.wait_for_go();
        }
        let opened = self.opened(name, key, permits.parse()?)?;
        opened.answer(verb, number.parse()?, &page)
    }

    fn opened(&mut self, name: &str, key: &str, permits: u32) -> Answer<&mut Opened> {
        Ok(match self.opened.entry((name.into(), key.into())) {
            Occupied(there) => there.into_mut(),
            Vacant(free) => {
                let lock = open(name, self.dir, key, permits)?;
                free.insert(Opened { lock, pairs: 0 })
            }
        })
    }
}

impl Opened {
    fn answer(&mut self, verb: &str, number: u64, page: &Words) -> Answer<String> {
        let yes = |yes: bool, then: &str, no: &str| (if yes { then } else { no }).to_string();
        match verb {
            "open" => Ok("opened".into()),
            "pairs" => self.pairs(Duration::from_millis(number)),
            "count" => Ok(self.lock.count(page, number)?.to_string()),
            "slowly" => Ok(self.lock.count_slowly(page, number)?.to_string()),
            "timed" => self.timed(page, number),
            "turns" => self.turns(page, number),
            "hold" => self.hold(),
            "lend" => {
                let lent = self.lock.lend(Duration::from_millis(number))?;
                Ok(yes(lent, "lent", "no leases"))
            }
            "late" => Ok(yes(self.lock.give_back_late()?, "done", "no such call")),
            "tally" => Ok(self
                .lock
                .tally()?
                .map_or("-".into(), |count| count.to_string())),
            _ => Err(format!("{verb:?} is not understood").into()),
        }
    }

    /// Nanoseconds a pair, from as many as fill `time`.
    fn pairs(&mut self, time: Duration) -> Answer<String> {
        let mut done = self.pairs.max(8);
        let mut taken = self.lock.pairs(done)?;
        while self.pairs == 0 {
            let each = taken.as_secs_f64() / done as f64;
            let fill = (time.as_secs_f64() / each.max(1e-9)).ceil() as u64;
            // The first few are slower, so that they say little about many.
            done = fill.clamp(1, done * 16);
            taken = self.lock.pairs(done)?;
            if taken >= time / 2 {
                self.pairs = done;
            }
        }
        Ok((taken.as_nanos() as f64 / done as f64).to_string())
    }

    /// How many, and how long one took: half of them at the most, 99 %, 99.9 %, all.
    fn timed(&mut self, page: &Words, most: u64) -> Answer<String> {
        let mut nanos = Vec::new();
        let most = most.min(TIMES_MAX);
        self.lock.count_timed(page, most, &mut nanos)?;
        nanos.sort_unstable();
        let [p50, p99, p999, worst] = [0.5, 0.99, 0.999, 1.0].map(|share| at_share(&nanos, share));
        Ok(format!("{} {p50} {p99} {p999} {worst}", nanos.len()))
    }

    /// Is inside for a while and outside for a while, and notes how long after the other one gave back it
    /// got in.
    fn turns(&mut self, page: &Words, me: u64) -> Answer<String> {
        let mut nanos = Vec::new();
        while page.running() {
            self.lock.once(&mut || {
                let (last, given_back) = page.given_back();
                if last != 0 && last != me {
                    nanos.push(now_ns().saturating_sub(given_back));
                }
                thread::sleep(TURN);
                page.give_back(me, now_ns());
            })?;
            thread::sleep(TURN);
        }
        nanos.sort_unstable();
        let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|share| at_share(&nanos, share));
        Ok(format!("{} {p50} {p99} {worst}", nanos.len()))
    }

    /// Holds it until the next line comes, or until killed.
    fn hold(&mut self) -> Answer<String> {
        tell("asking");
        self.lock.once(&mut || {
            tell(now_ns());
            listen();
        })?;
        Ok("given back".into())
    }
}
