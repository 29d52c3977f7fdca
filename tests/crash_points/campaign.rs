//! All operations at all points: divided into units, spread over worker processes, counted,
//! reported.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::choice::choose;
use crate::drive::{Operation, Order, Outcome, TRACE, TRACE_MAX, one_death, survey, two_deaths};
use crate::kit::{Board, Place, Random, fork_for, seed_of};
use crate::scene::{End, NEVER, reap};
use crate::{late, stopped};

/// What is tried for each operation. Of pairs so many, or for so long.
struct Limits {
    singles: u64,
    pairs: u64,
    pairs_us: u64,
    seed: u64,
}

impl Limits {
    fn from_environment() -> Limits {
        let number = |name: &str, default: u64| match std::env::var(name).as_deref() {
            Ok("all") => NEVER,
            Ok(number) => number.parse().expect(name),
            Err(_) => default,
        };
        Limits {
            singles: number("SLABLOCK_CRASH_SINGLES", 600),
            pairs: number("SLABLOCK_CRASH_PAIRS", 2_000),
            pairs_us: number("SLABLOCK_CRASH_SECONDS", 4).saturating_mul(1_000_000),
            seed: seed_of("crash points"),
        }
    }
}

/// Some points of one operation, as work for one process.
struct Unit {
    operation: usize,
    first: u64,
    /// How many second deaths for this first one.
    pairs: u64,
}

/// What is counted for each operation.
#[derive(Clone, Copy)]
enum Count {
    Singles,
    Pairs,
    Failures,
    SinglesUs,
    PairsUs,
}

const COUNTS: usize = 5;

/// Where on the tally it is: the first cell counts the units that are taken.
fn cell_of(operation: usize, count: usize) -> usize {
    1 + operation * COUNTS + count
}

struct Worker<'a> {
    operations: &'a [Operation],
    tally: &'static Board,
    board: &'static Board,
    root: PathBuf,
    limits: &'a Limits,
}

/// After so many failures there is nothing new to learn.
const ENOUGH: u64 = 10;

impl Worker<'_> {
    fn get(&self, operation: usize, what: Count) -> u64 {
        self.tally.get(cell_of(operation, what as usize))
    }

    fn add(&self, operation: usize, what: Count, number: u64) {
        self.tally.add(cell_of(operation, what as usize), number);
    }

    /// Counts a death, and what came of it. Whether there was one.
    fn note(&self, operation: usize, what: Count, outcome: Outcome) -> bool {
        let Some(verdict) = outcome else {
            return false;
        };
        self.add(operation, what, 1);
        if let Err(why) = verdict {
            self.add(operation, Count::Failures, 1);
            let name = self.operations[operation].name;
            let _ = writeln!(std::io::stderr(), "FAILED {name}: {why}");
        }
        true
    }

    fn work(&self, units: &[Unit]) {
        loop {
            let next = self.tally.add(0, 1);
            let Some(unit) = units.get(next as usize) else {
                return;
            };
            if self.get(unit.operation, Count::Failures) < ENOUGH {
                self.singles(unit);
            }
            if unit.pairs > 0 && !self.has_enough_pairs(unit) {
                self.pairs(unit);
            }
        }
    }

    fn has_enough_pairs(&self, unit: &Unit) -> bool {
        self.get(unit.operation, Count::Failures) >= ENOUGH
            || self.get(unit.operation, Count::PairsUs) > self.limits.pairs_us
    }

    fn singles(&self, unit: &Unit) {
        let operation = &self.operations[unit.operation];
        for order in [Order::LookFirst, Order::ActFirst] {
            let start = Instant::now();
            let outcome = one_death(operation, &self.root, self.board, unit.first, order);
            self.note(unit.operation, Count::Singles, outcome);
            let us = start.elapsed().as_micros() as u64;
            self.add(unit.operation, Count::SinglesUs, us);
        }
    }

    fn pairs(&self, unit: &Unit) {
        let operation = &self.operations[unit.operation];
        // How many points the second one has, after this death of the first.
        let places = survey(operation, &self.root, self.board, Some(unit.first));
        let places = match places {
            Ok(places) => places,
            Err(why) => {
                self.note(unit.operation, Count::Pairs, Some(Err(why)));
                return;
            }
        };
        let mut random = Random::new(self.limits.seed ^ unit.first << 16 ^ unit.operation as u64);
        let mut seconds = choose(&places, unit.pairs, &mut random);
        random.shuffle(&mut seconds);
        for second in seconds {
            if self.has_enough_pairs(unit) {
                return;
            }
            let start = Instant::now();
            let deaths = (unit.first, second);
            let outcome = two_deaths(operation, &self.root, self.board, deaths);
            self.note(unit.operation, Count::Pairs, outcome);
            let us = start.elapsed().as_micros() as u64;
            self.add(unit.operation, Count::PairsUs, us);
        }
    }
}

/// Whether the command line chooses this: by a part of its name, or by nothing.
fn is_chosen(name: &str) -> bool {
    let words = std::env::args().skip(1).filter(|w| !w.starts_with('-'));
    let words: Vec<String> = words.collect();
    words.is_empty() || words.iter().any(|word| name.contains(word))
}

/// Runs what the command line chooses, or all; panics when anything failed.
pub fn run(all: &[Operation]) {
    let chosen = |operation: &&Operation| is_chosen(operation.name);
    let operations: Vec<Operation> = all.iter().filter(chosen).copied().collect();
    let limits = Limits::from_environment();
    let start = Instant::now();
    let place = Place::in_memory();
    println!("in {}", place.root().display());
    let tally: &'static Board = Box::leak(Box::new(Board::unnamed(1 + operations.len() * COUNTS)));
    let surveyor: &'static Board = Box::leak(Box::new(Board::unnamed(TRACE + TRACE_MAX)));
    if is_chosen("stopped") {
        stopped::run(place.root(), surveyor);
        stopped::run_values(place.root(), surveyor);
        late::run(place.root(), surveyor);
    }
    let (units, points) = plan(&operations, place.root(), surveyor, &limits);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let children: Vec<Pid> = (0..workers)
        .map(|number| {
            let own = place.root().join(number.to_string());
            std::fs::create_dir(&own).expect("a directory");
            let worker = Worker {
                operations: &operations,
                tally,
                board: Box::leak(Box::new(Board::unnamed(TRACE + TRACE_MAX))),
                root: own,
                limits: &limits,
            };
            fork_for(None, || worker.work(&units))
        })
        .collect();
    let ended: Vec<End> = children.into_iter().map(reap).collect();
    let failed = report(&operations, &points, tally, start.elapsed());
    drop(place);
    let well = ended.iter().all(|end| *end == End::Done);
    assert!(
        well && failed == 0,
        "{failed} failures, workers: {ended:?}; SLABLOCK_TEST_SEED={}",
        limits.seed
    );
}

/// Divides the operations into units. Also how many points each has.
fn plan(
    operations: &[Operation],
    root: &Path,
    board: &'static Board,
    limits: &Limits,
) -> (Vec<Unit>, Vec<usize>) {
    let mut random = Random::new(limits.seed);
    let (mut units, mut points) = (Vec::new(), Vec::new());
    for (number, operation) in operations.iter().enumerate() {
        let places = survey(operation, root, board, None);
        let places = places.unwrap_or_else(|why| panic!("{}: {why}", operation.name));
        assert!(!places.is_empty(), "{} has no points", operation.name);
        let singles = match operation.is_thinned && limits.singles != NEVER {
            true => limits.singles / 3,
            false => limits.singles,
        };
        let mut firsts = choose(&places, singles, &mut random);
        // The time for pairs may be over before all were tried.
        random.shuffle(&mut firsts);
        let of_pairs = choose(&places, limits.pairs.div_ceil(20), &mut random);
        let each = limits.pairs.div_ceil(of_pairs.len().max(1) as u64);
        units.extend(firsts.into_iter().map(|first| Unit {
            operation: number,
            first,
            pairs: if of_pairs.contains(&first) { each } else { 0 },
        }));
        points.push(places.len());
    }
    (units, points)
}

/// Prints what was done, and says how many failures there were.
fn report(operations: &[Operation], points: &[usize], tally: &Board, took: Duration) -> u64 {
    let line = |name: &str, columns: [String; 5]| {
        let [points, kills, pairs, failed, ms] = columns;
        println!("{name:38}{points:>8}{kills:>8}{pairs:>8}{failed:>8}{ms:>9}");
    };
    let heads = ["points", "kills", "pairs", "failed", "ms each"];
    line("operation", heads.map(str::to_string));
    let mut sums = [0; COUNTS];
    let numbers = |points: usize, counts: [u64; COUNTS]| {
        let [singles, pairs, failed, singles_us, pairs_us] = counts;
        let each = (singles_us + pairs_us) as f64 / 1e3 / (singles + pairs).max(1) as f64;
        let [points, singles, pairs, failed] =
            [points as u64, singles, pairs, failed].map(|number| number.to_string());
        [points, singles, pairs, failed, format!("{each:.1}")]
    };
    for (number, operation) in operations.iter().enumerate() {
        let counts: [u64; COUNTS] = std::array::from_fn(|what| tally.get(cell_of(number, what)));
        line(operation.name, numbers(points[number], counts));
        for (sum, one) in sums.iter_mut().zip(counts) {
            *sum += one;
        }
    }
    line("all", numbers(points.iter().sum(), sums));
    println!("in {:.1} s", took.as_secs_f64());
    sums[Count::Failures as usize]
}
