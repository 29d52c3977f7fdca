//! The process that takes and gives back what it is told. `python/` has the same for Python.
//!
//! A line is `verb`, `name`, `key`, `permits`, `number`, with tabs between. Locks are opened when they are
//! first named, and kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Lock, Words, open};
use crate::Answer;
use crate::clock::now_ns;
use crate::process::{listen, tell, tell_answer};
use crate::stats::{Times, at_share};

/// The answer of who has held something.
pub const GIVEN_BACK: &str = "given back";
/// Long enough for the clock, short enough to be rarely interrupted.
const SLICE: Duration = Duration::from_micros(250);
/// How long it is inside, and then outside, when it takes turns with another one.
const TURN: Duration = Duration::from_micros(100);

struct Worker<'a> {
    dir: &'a Path,
    page: Rc<Words>,
    opened: HashMap<(String, String), Opened>,
}

struct Opened {
    lock: Box<dyn Lock>,
    /// How many pairs fill a slice; 0: not known yet.
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
            "timed" => self.timed(page),
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

    /// The nanoseconds that a pair takes in the middle one of the slices that fill `time`: what interrupts
    /// one of them does not count.
    fn pairs(&mut self, time: Duration) -> Answer<String> {
        if self.pairs == 0 {
            self.pairs = self.calibrate()?;
        }
        let (start, mut slices) = (Instant::now(), Vec::new());
        while slices.is_empty() || start.elapsed() < time {
            slices.push(self.lock.pairs(self.pairs)?.as_nanos() as u64);
        }
        slices.sort_unstable();
        let middle = at_share(&slices, 0.5);
        Ok((middle as f64 / self.pairs as f64).to_string())
    }

    /// How many fill a slice. The first ones, which make files and keys, are not counted, and the best of
    /// several tries is: one that was interrupted would make all slices too short.
    fn calibrate(&mut self) -> Answer<u64> {
        const TRIES: usize = 3;
        let mut times = 8;
        self.lock.pairs(times)?;
        loop {
            let tries = (0..TRIES).map(|_| self.lock.pairs(times));
            let tries = tries.collect::<Answer<Vec<Duration>>>()?;
            let best = tries.into_iter().min().unwrap_or_default();
            if best >= SLICE / 2 {
                let each = best.as_secs_f64() / times as f64;
                return Ok((SLICE.as_secs_f64() / each).ceil() as u64);
            }
            times *= 2;
        }
    }

    /// How many, and how long one took: half of them at the most, 99 %, 99.9 %, all.
    fn timed(&mut self, page: &Words) -> Answer<String> {
        let mut times = Times::new();
        self.lock.count_timed(page, &mut times)?;
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| times.at_share(share));
        let (count, longest) = (times.count(), times.longest());
        Ok(format!("{count} {p50} {p99} {p999} {longest}"))
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
        Ok(GIVEN_BACK.into())
    }
}
