//! Stores that are filled, and the processes that have them open.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Run;
use super::rounds::Rounds;
use crate::Answer;
use crate::process::{Peer, number};
use crate::report::{Cell, thousands};
use crate::values::{Needs, worker};

/// How many have a shared store open at once, in turn.
pub const PROCESSES: [usize; 3] = [1, 2, 4];
/// Of each of four processes, as far as they get.
const INCREMENTS: u64 = 10_000;
/// Filling has to be done within it.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of each peer.
pub struct Stores<'a> {
    names: &'a [&'a str],
    keys: u64,
    open: Vec<Answer<Vec<Peer>>>,
    dir: TempDir,
}

impl<'a> Stores<'a> {
    /// Made and filled, with one process each.
    pub fn open(run: &Run, names: &'a [&'a str], keys: u64) -> Answer<Stores<'a>> {
        let dir = tempfile::tempdir_in(&run.dir)?;
        let open = Vec::new();
        let mut stores = Stores {
            names,
            keys,
            open,
            dir,
        };
        for (at, name) in names.iter().enumerate() {
            run.progress(format!("{name}: {} keys", thousands(keys)));
            let filled = stores.start(run, at, false).and_then(|mut peer| {
                fill(&mut peer, keys)?;
                Ok(vec![peer])
            });
            stores.open.push(filled);
        }
        Ok(stores)
    }

    /// Has others open them, as many as are needed for all of `PROCESSES`.
    pub fn share(&mut self, run: &Run) {
        for at in 0..self.names.len() {
            if self.open[at].is_ok() {
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
        if peers[0].ask(&format!("get {} 1 1", self.keys)).is_err() {
            fill(&mut peers[0], self.keys)?;
        }
        Ok(peers)
    }

    fn start(&self, run: &Run, at: usize, shared: bool) -> Answer<Peer> {
        let place = self.dir.path().join(at.to_string());
        fs::create_dir_all(&place)?;
        let keys = self.keys as usize;
        Peer::start(worker::command(
            self.names[at],
            &place,
            Needs { keys, shared },
            &run.python,
        )?)
    }

    /// An operation of each peer.
    pub fn repeat(&mut self, run: &Run, op: &str) -> Vec<Cell> {
        run.progress(format!("{op}, {} keys", self.keys));
        let mut rounds = Rounds::of(self.open.len());
        // Deleted is what has just been made.
        let keys = if op == "delete" { 64 } else { self.keys };
        let ms = run.among(60, 5);
        for round in 1..=run.among(5, 1) {
            rounds.go(|who| {
                let peers = self.open[who].as_mut().map_err(|why| why.to_string())?;
                peers[0].ask_number(&format!("{op} {keys} {round} {ms}"))
            });
        }
        let answers = rounds.finish().into_iter();
        answers.map(|samples| Cell::median(samples, 1e-3)).collect()
    }

    /// So many processes of each peer at once, in thousands of operations a second.
    pub fn mix(&mut self, run: &Run, processes: usize) -> Vec<Cell> {
        run.progress(format!("nine gets to a set, {processes} processes"));
        let mut rounds = Rounds::of(self.open.len());
        let (keys, ms) = (self.keys, run.among(200, 30));
        for round in 0..run.among(5, 1) {
            rounds.go(|who| {
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
        let answers = rounds.finish().into_iter();
        answers.map(|samples| Cell::median(samples, 1e3)).collect()
    }

    /// How many increments are lost, of each peer.
    pub fn lost(&mut self, run: &Run) -> Vec<Cell> {
        let one = |peers: &mut Answer<Vec<Peer>>| {
            let lost = match peers {
                Ok(peers) => lost(peers, run),
                Err(why) => Err(why.to_string().into()),
            };
            lost.map_or_else(|why| Cell::Missing(why.to_string()), Cell::Said)
        };
        self.open.iter_mut().map(one).collect()
    }
}

/// One counter, incremented by all of them at once: what is missing in the end.
fn lost(peers: &mut [Peer], run: &Run) -> Answer<String> {
    let line = format!("count {} {}", INCREMENTS, run.among(1_500, 200));
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

fn fill(peer: &mut Peer, keys: u64) -> Answer<()> {
    let (start, mut from) = (Instant::now(), 0);
    while from < keys {
        let (share, taken) = (from as f64 / keys as f64, start.elapsed());
        // The first moments do not tell how long it takes.
        let known = taken > Duration::from_millis(500);
        if known && taken.as_secs_f64() > PATIENCE.as_secs_f64() * share {
            return Err(format!("filling takes more than {} s", PATIENCE.as_secs()).into());
        }
        // A transaction each, where there are such.
        let to = keys.min(from + if from == 0 { 2_000 } else { 20_000 });
        peer.ask(&format!("fill {from} {to}"))?;
        from = to;
    }
    Ok(())
}
