//! Stores that are filled, and the processes that have them open.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Run;
use super::rounds::Rounds;
use crate::process::{Peer, number};
use crate::report::{Cell, thousands};
use crate::values::{NO_SUCH, Needs, is_limit, keys_max, worker};
use crate::{Answer, Failure, temporary};

/// How many have a shared store open at once, in turn.
pub const PROCESSES: [usize; 3] = [1, 2, 4];
/// Of each of four processes, as far as they get.
const INCREMENTS: u64 = 10_000;
/// Filling has to be done within it.
const PATIENCE: Duration = Duration::from_secs(15);
/// So many are filled in at a time: a transaction each, where there are such.
const STEP: u64 = 20_000;
/// At first, when it is not known how long it takes.
const FIRST_STEP: u64 = 2_000;

/// One of each peer.
pub struct Stores {
    names: Vec<&'static str>,
    /// How many each of them has.
    keys: Vec<u64>,
    open: Vec<Answer<Vec<Peer>>>,
    dir: TempDir,
}

/// What becomes of a store that takes too long to fill.
#[derive(Clone, Copy, PartialEq)]
pub enum Slow {
    /// It is measured with a tenth of the keys, or with as many as it has by then.
    HasFewer,
    /// It is left out.
    IsLeftOut,
}

impl Stores {
    /// Made and filled, with one process each.
    pub fn open(run: &Run, names: &[&'static str], keys: u64, slow: Slow) -> Answer<Stores> {
        let mut stores = Stores {
            names: names.to_vec(),
            keys: names.iter().map(|name| keys.min(keys_max(name))).collect(),
            open: Vec::new(),
            dir: temporary::directory(&run.dir)?,
        };
        for (at, name) in names.iter().enumerate() {
            run.progress(format!("{name}: {} keys", thousands(keys)));
            let filled = stores.filled(run, at, keys, slow);
            stores.open.push(filled);
        }
        Ok(stores)
    }

    fn filled(&mut self, run: &Run, at: usize, keys: u64, slow: Slow) -> Answer<Vec<Peer>> {
        if slow == Slow::IsLeftOut && self.keys[at] < keys {
            return Err(format!("{} files are enough", thousands(self.keys[at])).into());
        }
        let mut peer = self.start(run, at, false)?;
        self.keys[at] = fill(&mut peer, self.keys[at], slow)?;
        Ok(vec![peer])
    }

    /// The name of each, and how many keys it has if that is not what was asked for.
    pub fn names(&self, asked: u64) -> Vec<String> {
        let name = |(name, keys): (&&str, &u64)| match *keys == asked {
            true => name.to_string(),
            false => format!("{name} ({} keys)", thousands(*keys)),
        };
        self.names.iter().zip(&self.keys).map(name).collect()
    }

    /// Which of them have fewer.
    pub fn fewer(&self, asked: u64) -> Vec<bool> {
        self.keys.iter().map(|keys| *keys < asked).collect()
    }

    /// Has others open them, as many as are needed for all of `PROCESSES`.
    pub fn share(&mut self, run: &Run) {
        for at in 0..self.names.len() {
            if is_limit(self.names[at]) {
                self.open[at] = Err(NO_SUCH.into());
            } else if self.open[at].is_ok() {
                // Closed, before others open it.
                self.open[at] = Err("it is closed".into());
                self.open[at] = self.reopen(run, at);
            }
        }
    }

    fn reopen(&self, run: &Run, at: usize) -> Answer<Vec<Peer>> {
        let peers = (0..PROCESSES[2]).map(|_| self.start(run, at, true));
        let mut peers = peers.collect::<Answer<Vec<Peer>>>()?;
        // Those who keep values in the memory of one process until they are synced have lost them.
        let keys = self.keys[at];
        if peers[0].ask(&format!("get {keys} 1 1")).is_err() {
            fill(&mut peers[0], keys, Slow::IsLeftOut)?;
        }
        Ok(peers)
    }

    fn start(&self, run: &Run, at: usize, shared: bool) -> Answer<Peer> {
        let place = self.dir.path().join(at.to_string());
        fs::create_dir_all(&place)?;
        let keys = self.keys[at] as usize;
        Peer::start(worker::command(
            self.names[at],
            &place,
            Needs { keys, shared },
            &run.python,
        )?)
    }

    /// An operation of each peer.
    pub fn repeat(&mut self, run: &Run, op: &str) -> Vec<Cell> {
        run.progress(op);
        let mut rounds = Rounds::of(self.open.len());
        let ms = run.among(50, 5);
        for round in 1..=run.among(5, 1) {
            rounds.go(|who| {
                // Deleted is what has just been made.
                let keys = if op == "delete" { 64 } else { self.keys[who] };
                let peers = self.open[who].as_mut().map_err(|why| why.to_string())?;
                peers[0].ask_number(&format!("{op} {keys} {round} {ms}"))
            });
        }
        cells(rounds, 1e-3)
    }

    /// So many processes of each peer at once, in thousands of operations a second.
    pub fn mix(&mut self, run: &Run, processes: usize) -> Vec<Cell> {
        run.progress(format!("nine gets to a set, {processes} processes"));
        let mut rounds = Rounds::of(self.open.len());
        let ms = run.among(100, 30);
        for round in 0..run.among(5, 1) {
            rounds.go(|who| {
                let keys = self.keys[who];
                let peers = self.open[who].as_mut().map_err(|why| why.to_string())?;
                let line = |at: usize| format!("mix {keys} {} {ms}", round * 16 + at);
                let rate = rate(&mut peers[..processes], line);
                if let Err(failure) = &rate {
                    // What the others say now would be taken for answers to the next question.
                    self.open[who] = Err(failure.to_string().into());
                }
                rate
            });
        }
        cells(rounds, 1e3)
    }

    /// How many increments are lost, of each peer.
    pub fn lost(&mut self, run: &Run) -> Vec<Cell> {
        let one = |peers: &mut Answer<Vec<Peer>>| {
            let lost = match peers {
                Ok(peers) => lost(peers, run),
                Err(why) => Err(why.to_string().into()),
            };
            lost.map_or_else(|why| missing(&why), Cell::Said)
        };
        self.open.iter_mut().map(one).collect()
    }
}

/// One counter, incremented by all of them at once: what is missing in the end.
fn lost(peers: &mut [Peer], run: &Run) -> Answer<String> {
    let line = format!("count {} {}", INCREMENTS, run.among(700, 200));
    let mut done = 0.0;
    for peer in peers.iter_mut() {
        peer.say(&line)?;
    }
    for peer in peers.iter_mut() {
        done += number(&peer.hear()?)?;
    }
    let kept = peers[0].ask_number("counted")?;
    Ok(format!("{} of {done}", done - kept))
}

/// Operations a microsecond, of all together, each with a line of its own.
fn rate(peers: &mut [Peer], line: impl Fn(usize) -> String) -> Answer<f64> {
    for (at, peer) in peers.iter_mut().enumerate() {
        peer.say(&line(at))?;
    }
    let mut rate = 0.0;
    for peer in peers {
        let told = peer.hear()?;
        let (done, micros) = told.split_once(' ').ok_or("two numbers are due")?;
        rate += number(done)? / number(micros)?;
    }
    Ok(rate)
}

fn cells(rounds: Rounds<f64>, scale: f64) -> Vec<Cell> {
    let cell = |samples: Answer<Vec<f64>>| match samples {
        Err(why) => missing(&why),
        samples => Cell::median(samples, scale),
    };
    rounds.finish().into_iter().map(cell).collect()
}

fn missing(why: &Failure) -> Cell {
    match why.to_string() {
        why if why == NO_SUCH => Cell::said("-"),
        why => Cell::Missing(why),
    }
}

/// Fills in so many keys, or fewer if that takes too long. Returns how many.
fn fill(peer: &mut Peer, mut keys: u64, slow: Slow) -> Answer<u64> {
    let (start, mut from) = (Instant::now(), 0);
    while from < keys {
        let taken = start.elapsed();
        // The first moments do not tell how long it takes.
        let known = taken > Duration::from_millis(500);
        if known && taken.as_secs_f64() * keys as f64 > PATIENCE.as_secs_f64() * from as f64 {
            match slow {
                Slow::HasFewer if from <= keys / 10 => keys /= 10,
                Slow::HasFewer => return Ok(from),
                Slow::IsLeftOut => {
                    return Err(format!("filling takes more than {} s", PATIENCE.as_secs()).into());
                }
            }
            continue;
        }
        let to = keys.min(from + if known { STEP } else { FIRST_STEP });
        peer.ask(&format!("fill {from} {to}"))?;
        from = to;
    }
    Ok(keys)
}
