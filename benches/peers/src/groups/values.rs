//! Values under keys: what an operation costs, alone and among others, and with many keys.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Run;
use super::rounds::{Rounds, is_like_another};
use crate::Answer;
use crate::process::{Peer, number};
use crate::report::{Cell, Table};
use crate::values::{self, Needs};

const ABOUT: &str = "Keys of 16 bytes, values of 100, in random order; each operation stands for itself \
    (a transaction, where there are such), and what is read is copied into memory of the reader. A \
    counter is one of 1,000. Nothing is synced where that can be chosen: LMDB has NO_SYNC, SQLite a \
    write-ahead log with synchronous = NORMAL, redb Durability::None, and the files are not synced.";
const ABOUT_KEYS: &str = "The same, for stores of so many keys.";
const ABOUT_MIX: &str = "Processes that get nine values and set one, at random, all the time. redb \
    allows several processes only if each commit is synced. Then four of them add one to the same \
    counter, 10,000 times each or as often as they can in the time.";

/// In microseconds.
const OPERATIONS: [(&str, &str); 7] = [
    ("get", "get"),
    ("set", "set, existing"),
    ("new", "set, new"),
    ("delete", "delete"),
    ("incr", "increment"),
    ("write", "write 1 MiB"),
    ("read", "read 1 MiB"),
];
/// Of each of four processes, as far as they get.
const INCREMENTS: u64 = 10_000;
const PROCESSES: [usize; 3] = [1, 2, 4];
/// Filling has to be done within it.
const PATIENCE: Duration = Duration::from_secs(25);

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let keys: [u64; 3] = run.among([1_000, 100_000, 1_000_000], [100, 1_000, 1_000]);
    let mut names = values::names();
    names.retain(|name| !(run.quick && is_like_another(name)));
    let columns: Vec<_> = OPERATIONS.iter().map(|(_, name)| (*name, "us")).collect();
    let title = format!("Values: operations in a store of {} keys", keys[1]);
    let mut operations = Table::new("values", &title, ABOUT, &columns);
    let mut get_columns = Vec::new();
    let mut stores = Stores::open(run, &names, keys[0], false)?;
    get_columns.push(stores.repeat(run, "get"));
    let mut stores = Stores::open(run, &names, keys[1], false)?;
    let cells: Vec<_> = OPERATIONS.map(|(op, _)| stores.repeat(run, op)).into();
    for (name, row) in names.iter().zip(turned(&cells)) {
        operations.row(name, row);
    }
    get_columns.push(cells.into_iter().next().unwrap_or_default());
    if !run.quick {
        let mut stores = Stores::open(run, &names, keys[2], false)?;
        get_columns.push(stores.repeat(run, "get"));
    }
    drop(stores);
    let columns: Vec<String> = keys.iter().map(|keys| format!("{keys} keys")).collect();
    let columns: Vec<_> = columns.iter().map(|name| (name.as_str(), "us")).collect();
    let columns = &columns[..get_columns.len()];
    let mut many = Table::new(
        "values-keys",
        "Values: a get, by number of keys",
        ABOUT_KEYS,
        columns,
    );
    for (name, row) in names.iter().zip(turned(&get_columns)) {
        many.row(name, row);
    }
    Ok(vec![operations, many, mixed(run, &names, keys[1])?])
}

/// Columns to rows.
fn turned(columns: &[Vec<Cell>]) -> Vec<Vec<Cell>> {
    let rows = columns.first().map_or(0, Vec::len);
    let row = |at: usize| columns.iter().map(|column| column[at].clone()).collect();
    (0..rows).map(row).collect()
}

fn mixed(run: &Run, names: &[&str], keys: u64) -> Answer<Table> {
    let columns = PROCESSES.map(|n| format!("{n} process{}", if n == 1 { "" } else { "es" }));
    let columns = columns.iter().map(|name| (name.as_str(), "1000/s"));
    let columns: Vec<_> = columns.chain([("increments lost", "")]).collect();
    let mut stores = Stores::open(run, names, keys, true)?;
    let mut cells = PROCESSES
        .map(|processes| stores.mix(run, processes))
        .to_vec();
    cells.push(stores.lost(run));
    let title = "Values: several processes";
    let mut table = Table::new("values-mixed", title, ABOUT_MIX, &columns);
    for (name, row) in names.iter().zip(turned(&cells)) {
        table.row(name, row);
    }
    Ok(table)
}

/// A filled store of each peer, with the processes that have it open.
struct Stores {
    keys: u64,
    open: Vec<Answer<Vec<Peer>>>,
    _dir: TempDir,
}

impl Stores {
    fn open(run: &Run, names: &[&str], keys: u64, shared: bool) -> Answer<Stores> {
        let dir = tempfile::tempdir_in(&run.dir)?;
        let open = names.iter().enumerate().map(|(at, name)| {
            run.progress(format!("{name}: {keys} keys"));
            let place = dir.path().join(at.to_string());
            fs::create_dir_all(&place)?;
            let keys_max = keys as usize;
            let needs = Needs {
                keys: keys_max,
                shared,
            };
            let start = || Peer::start(values::worker::command(name, &place, needs, &run.python)?);
            let mut peers = vec![start()?];
            fill(&mut peers[0], keys)?;
            for _ in 1..if shared { PROCESSES[2] } else { 1 } {
                peers.push(start()?);
            }
            Ok(peers)
        });
        let open = open.collect();
        Ok(Stores {
            keys,
            open,
            _dir: dir,
        })
    }

    /// An operation of each peer.
    fn repeat(&mut self, run: &Run, op: &str) -> Vec<Cell> {
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
    fn mix(&mut self, run: &Run, processes: usize) -> Vec<Cell> {
        run.progress(format!("nine gets to a set, {processes} processes"));
        let mut rounds = Rounds::of(self.open.len());
        let (keys, ms) = (self.keys, run.among(200, 30));
        for round in 0..run.among(5, 1) {
            rounds.go(|who| {
                let peers = self.open[who].as_mut().map_err(|why| why.to_string())?;
                let peers = &mut peers[..processes];
                for (at, peer) in peers.iter_mut().enumerate() {
                    peer.say(&format!("mix {keys} {} {ms}", round * 16 + at))?;
                }
                let rates: Vec<f64> = peers.iter_mut().map(rate).collect::<Answer<_>>()?;
                Ok(rates.iter().sum())
            });
        }
        let answers = rounds.finish().into_iter();
        answers.map(|samples| Cell::median(samples, 1e3)).collect()
    }

    /// How many increments are lost, of each peer.
    fn lost(&mut self, run: &Run) -> Vec<Cell> {
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

/// Operations a microsecond.
fn rate(peer: &mut Peer) -> Answer<f64> {
    let line = peer.hear()?;
    let (done, micros) = line.split_once(' ').ok_or("two numbers are due")?;
    Ok(number(done)? / number(micros)?)
}

fn fill(peer: &mut Peer, keys: u64) -> Answer<()> {
    const STEP: u64 = 5_000;
    let start = Instant::now();
    for from in (0..keys).step_by(STEP as usize) {
        let share = from as f64 / keys as f64;
        // Not before it is known how long it takes.
        if from >= 2 * STEP && start.elapsed().as_secs_f64() > PATIENCE.as_secs_f64() * share {
            let text = format!("filling takes more than {} s", PATIENCE.as_secs());
            return Err(text.into());
        }
        peer.ask(&format!("fill {from} {}", keys.min(from + STEP)))?;
    }
    Ok(())
}
