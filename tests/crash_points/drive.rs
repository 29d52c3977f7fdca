//! Who dies where: all points of each operation one by one, then pairs of them, spread over worker processes.
//!
//! Everything is forked, by processes that have one thread and no store open: a death takes a millisecond or
//! two, and no descriptor of one scene gets into another.

use std::collections::HashMap;
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use slablock::{BoundedSemaphore, Cache};

use crate::scene::{Board, End, Entry, NEVER, Scene, Trap, fast_dir, fork, fork_for, reap};
use crate::stopped;

/// What is done at every point.
#[derive(Clone, Copy)]
pub struct Operation {
    pub name: &'static str,
    /// Makes what the operation finds, in a process of its own.
    pub prepare: fn(&Scene),
    /// A process that lives throughout: it calls `Scene::accompany`.
    pub companion: Option<fn(&Scene)>,
    /// Gets ready, arms the trap, does it, disarms. Also what those do who come after a death: it has to
    /// succeed whatever the dead one had done of it.
    pub act: fn(&Scene, &Trap),
    /// Looks whether what is there is the old state or the new one; after `act` succeeded, the new one.
    pub look: fn(&Scene, &Cache, Stage),
    /// What the one who comes last does.
    pub verify: fn(&Operation, &Scene, Order),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Between,
    After,
}

/// What comes first after a death: a look at everything, which ends what was left in every stripe, or the
/// operation again, after others have taken the room that may have been in the dead one's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    LookFirst,
    ActFirst,
}

/// How a store is looked after at the end: sound, in one of two states, and without a leak.
pub fn standard(operation: &Operation, scene: &Scene, order: Order) {
    let again = || (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    match order {
        Order::LookFirst => {
            let cache = Cache::open(scene.store()).unwrap();
            let report = cache.check().unwrap();
            assert!(report.is_sound(), "{report:?}");
            (operation.look)(scene, &cache, Stage::Between);
            again();
            (operation.look)(scene, &cache, Stage::After);
        }
        Order::ActFirst => {
            if scene.store().join("slab").exists() {
                fill_and_empty(&Cache::open(scene.store()).unwrap());
            }
            again();
            (operation.look)(scene, &Cache::open(scene.store()).unwrap(), Stage::After);
        }
    }
    no_leak(&Cache::open(scene.store()).unwrap());
}

/// Takes room, uses all of it at once, and gives it back.
fn fill_and_empty(cache: &Cache) {
    let names: Vec<String> = (0..3).map(|n| format!("stranger {n}")).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| BoundedSemaphore::new(cache, name, 6))
        .collect();
    let held: Vec<_> = all
        .iter()
        .flat_map(|one| (0..6).map(|_| one.try_acquire().unwrap()))
        .collect();
    assert!(held.iter().all(Option::is_some), "a stranger's permit");
    drop(held);
    for name in &names {
        assert!(cache.remove(name).unwrap());
    }
}

/// With all keys gone all room has to be free again.
pub fn no_leak(cache: &Cache) {
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    cache.clear().unwrap();
    let report = cache.check().unwrap();
    assert!(report.is_sound() && report.slots_used == 0, "{report:?}");
}

/// A scene with everybody on it.
struct Play<'a> {
    operation: &'a Operation,
    scene: Scene,
    companion: Option<Pid>,
}

/// What went wrong, in a sentence.
type Verdict = Result<(), String>;

impl Play<'_> {
    fn begin<'a>(operation: &'a Operation, root: &Path, board: &'static Board) -> Play<'a> {
        let scene = Scene::new(root, board);
        assert_eq!(reap(fork(|| (operation.prepare)(&scene))), End::Done);
        let companion = operation.companion.map(|role| fork(|| role(&scene)));
        if companion.is_some() {
            scene.until("the companion is there", || board.get(Entry::Ready) == 1);
        }
        Play {
            operation,
            scene,
            companion,
        }
    }

    /// Does the operation in a child that is killed at point `fatal`.
    fn act(&self, fatal: u64, trace: usize) -> End {
        let board = self.scene.board;
        reap(fork(|| {
            let trap = Trap::set(board, fatal, trace);
            board.add(Entry::Begun, 1);
            (self.operation.act)(&self.scene, &trap);
            board.add(Entry::Done, 1);
        }))
    }

    /// The last one comes, and looks. Then the companion goes.
    fn end(self, order: Order) -> Verdict {
        let verify = || (self.operation.verify)(self.operation, &self.scene, order);
        let verified = reap(fork(verify));
        self.scene.board.set(Entry::Over, 1);
        let left = self.companion.map_or(End::Done, reap);
        match (verified, left) {
            (End::Done, End::Done) => Ok(()),
            (End::Done, other) => Err(format!("the companion: {other:?}")),
            (other, _) => Err(format!("the last one, {order:?}: {other:?}")),
        }
    }

    fn give_up(self, why: String) -> Verdict {
        if let Some(companion) = self.companion {
            let _ = kill(companion, Signal::SIGKILL);
            reap(companion);
        }
        Err(why)
    }
}

/// What came of a death. `None`: the operation has no such point.
type Outcome = Option<Verdict>;

fn one_death(
    operation: &Operation,
    root: &Path,
    board: &'static Board,
    at: u64,
    order: Order,
) -> Outcome {
    let play = Play::begin(operation, root, board);
    match play.act(at, 0) {
        End::Killed => {}
        End::Done => {
            let _ = play.end(order);
            return None;
        }
        other => return Some(play.give_up(format!("the first one: {other:?}"))),
    }
    let place = board.place();
    let verdict = play.end(order);
    Some(verdict.map_err(|why| format!("killed at {at}, {}: {why}", show(place))))
}

/// The places of all points that the operation has, or that it has after a death at `first`.
fn survey(
    operation: &Operation,
    root: &Path,
    board: &'static Board,
    first: Option<u64>,
) -> Result<Vec<u64>, String> {
    let play = Play::begin(operation, root, board);
    if let Some(first) = first {
        play.act(first, 0);
    }
    let end = play.act(NEVER, TRACE);
    let places = trace_of(board);
    let verdict = match end {
        End::Done => play.end(Order::LookFirst),
        _ => play.give_up(format!("{end:?}")),
    };
    match verdict {
        Ok(()) => Ok(places),
        Err(why) => Err(format!("alive after a death at {first:?}: {why}")),
    }
}

/// Killed at `first`; the next one at its own point `second`.
fn two_deaths(
    operation: &Operation,
    root: &Path,
    board: &'static Board,
    (first, second): (u64, u64),
) -> Outcome {
    let order = match (first + second) % 2 {
        0 => Order::LookFirst,
        _ => Order::ActFirst,
    };
    let play = Play::begin(operation, root, board);
    let ends = [first, second].map(|at| (play.act(at, 0), board.place()));
    let [(one, first_place), (two, second_place)] = ends;
    let places = [show(first_place), show(second_place)];
    let verdict = match (one, two) {
        (End::Killed, End::Killed) => play.end(order),
        // Not every run has the same number of points.
        (End::Killed | End::Done, End::Done) => {
            let _ = play.end(order);
            return None;
        }
        other => play.give_up(format!("{other:?}")),
    };
    Some(verdict.map_err(|why| format!("killed at {first} and {second}, {places:?}: {why}")))
}

fn show(place: Option<&Location<'_>>) -> String {
    place.map_or(String::new(), |p| format!("{}:{}", p.file(), p.line()))
}

// ---- Which points ----

/// A small generator (xorshift64*).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

/// At most `limit` of the points whose places are given, counted from 1: the first and the last two of each
/// place in the source, then any.
fn choose(places: &[u64], limit: u64, random: &mut Random) -> Vec<u64> {
    let all = 1..=places.len() as u64;
    if places.len() as u64 <= limit {
        return all.collect();
    }
    let mut of_place: HashMap<u64, Vec<u64>> = HashMap::new();
    for (point, place) in all.zip(places) {
        of_place.entry(*place).or_default().push(point);
    }
    let mut chosen: Vec<u64> = of_place
        .into_values()
        .flat_map(|points| {
            let last = points.len().saturating_sub(2);
            let ends = |at: &usize| *at < 2 || *at >= last;
            (0..points.len())
                .filter(ends)
                .map(|at| points[at])
                .collect::<Vec<_>>()
        })
        .collect();
    while chosen.len() > limit as usize {
        chosen.swap_remove(random.below(chosen.len() as u64) as usize);
    }
    while chosen.len() < limit as usize {
        let point = 1 + random.below(places.len() as u64);
        if !chosen.contains(&point) {
            chosen.push(point);
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Where on the board the places of a trace begin, and how long a trace can be.
const TRACE: usize = 64;
const TRACE_MAX: usize = 1 << 17;

fn trace_of(board: &Board) -> Vec<u64> {
    let passed = (board.get(Entry::Passed) as usize).min(TRACE_MAX);
    let place = |at| board.at(TRACE + at).load(Ordering::SeqCst);
    (0..passed).map(place).collect()
}

// ---- All of it ----

/// What is tried for each operation.
struct Limits {
    singles: u64,
    pairs: u64,
    seed: u64,
}

impl Limits {
    fn from_environment() -> Limits {
        let number = |name: &str, default: u64| match std::env::var(name).as_deref() {
            Ok("all") => NEVER,
            Ok(number) => number.parse().expect(name),
            Err(_) => default,
        };
        let clock = SystemTime::UNIX_EPOCH.elapsed().expect("a clock");
        Limits {
            singles: number("SLABLOCK_CRASH_SINGLES", 1_500),
            pairs: number("SLABLOCK_CRASH_PAIRS", 2_000),
            seed: number("SLABLOCK_CRASH_SEED", clock.as_nanos() as u64) | 1,
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

/// What is counted for each operation: single deaths, pairs, failures, and microseconds.
const COUNTS: usize = 4;

struct Worker<'a> {
    operations: &'a [Operation],
    tally: &'static Board,
    board: &'static Board,
    root: PathBuf,
    seed: u64,
}

/// After so many failures there is nothing new to learn.
const ENOUGH: u64 = 10;

impl Worker<'_> {
    fn count(&self, operation: usize, what: usize) -> &std::sync::atomic::AtomicU64 {
        self.tally.at(1 + operation * COUNTS + what)
    }

    fn note(&self, operation: usize, what: usize, outcome: Outcome) -> bool {
        let Some(verdict) = outcome else {
            return false;
        };
        self.count(operation, what).fetch_add(1, Ordering::SeqCst);
        if let Err(why) = verdict {
            self.count(operation, 2).fetch_add(1, Ordering::SeqCst);
            let name = self.operations[operation].name;
            let _ = writeln!(std::io::stderr(), "FAILED {name}: {why}");
        }
        true
    }

    fn work(&self, units: &[Unit]) {
        loop {
            let next = self.tally.at(0).fetch_add(1, Ordering::SeqCst);
            let Some(unit) = units.get(next as usize) else {
                return;
            };
            if self.count(unit.operation, 2).load(Ordering::SeqCst) < ENOUGH {
                let start = Instant::now();
                self.one_unit(unit);
                let took = start.elapsed().as_micros() as u64;
                self.count(unit.operation, 3)
                    .fetch_add(took, Ordering::SeqCst);
            }
        }
    }

    fn one_unit(&self, unit: &Unit) {
        let operation = &self.operations[unit.operation];
        for order in [Order::LookFirst, Order::ActFirst] {
            let outcome = one_death(operation, &self.root, self.board, unit.first, order);
            if !self.note(unit.operation, 0, outcome) {
                return;
            }
        }
        if unit.pairs == 0 {
            return;
        }
        let places = survey(operation, &self.root, self.board, Some(unit.first));
        let places = match places {
            Ok(places) => places,
            Err(why) => {
                self.note(unit.operation, 1, Some(Err(why)));
                return;
            }
        };
        let mut random = Random(self.seed ^ unit.first << 16 ^ unit.operation as u64);
        let seconds = choose(&places, unit.pairs, &mut random);
        for second in seconds {
            let deaths = (unit.first, second);
            let outcome = two_deaths(operation, &self.root, self.board, deaths);
            self.note(unit.operation, 1, outcome);
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
    let root = tempfile::Builder::new()
        .prefix("crash")
        .tempdir_in(fast_dir());
    let root = root.expect("a directory");
    println!("seed {}, in {}", limits.seed, root.path().display());
    let tally: &'static Board = Box::leak(Box::new(Board::new(1 + operations.len() * COUNTS)));
    let surveyor: &'static Board = Box::leak(Box::new(Board::new(TRACE + TRACE_MAX)));
    if is_chosen("stopped") {
        stopped::run(root.path(), surveyor);
    }
    let (units, points) = plan(&operations, root.path(), surveyor, &limits);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let children: Vec<Pid> = (0..workers)
        .map(|number| {
            let own = root.path().join(number.to_string());
            std::fs::create_dir(&own).expect("a directory");
            let worker = Worker {
                operations: &operations,
                tally,
                board: Box::leak(Box::new(Board::new(TRACE + TRACE_MAX))),
                root: own,
                seed: limits.seed,
            };
            fork_for(None, || worker.work(&units))
        })
        .collect();
    let ended: Vec<End> = children.into_iter().map(reap).collect();
    let failed = report(&operations, &points, tally, start.elapsed());
    drop(root);
    let well = ended.iter().all(|end| *end == End::Done);
    assert!(
        well && failed == 0,
        "{failed} failures, workers: {ended:?}; seed {}",
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
    let mut random = Random(limits.seed);
    let (mut units, mut points) = (Vec::new(), Vec::new());
    for (number, operation) in operations.iter().enumerate() {
        let places = survey(operation, root, board, None);
        let places = places.unwrap_or_else(|why| panic!("{}: {why}", operation.name));
        assert!(!places.is_empty(), "{} has no points", operation.name);
        let firsts = choose(&places, limits.singles, &mut random);
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
    let numbers = |points: usize, [singles, pairs, failed, us]: [u64; COUNTS]| {
        let each = us as f64 / 1e3 / (singles + pairs).max(1) as f64;
        let [points, singles, pairs, failed] =
            [points as u64, singles, pairs, failed].map(|number| number.to_string());
        [points, singles, pairs, failed, format!("{each:.1}")]
    };
    for (number, operation) in operations.iter().enumerate() {
        let counts = [0, 1, 2, 3].map(|what| tally.at(1 + number * COUNTS + what));
        let counts = counts.map(|count| count.load(Ordering::SeqCst));
        line(operation.name, numbers(points[number], counts));
        for (sum, one) in sums.iter_mut().zip(counts) {
            *sum += one;
        }
    }
    line("all", numbers(points.iter().sum(), sums));
    println!("in {:.1} s", took.as_secs_f64());
    sums[2]
}
