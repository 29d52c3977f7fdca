//! One thread, nobody else: each operation as a ratio to a bare compare-exchange pair on the same
//! mapped file. After each slice of the pair comes a slice of an operation, and the ratio is that
//! of the two, so that what slows the machine down slows both.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use slablock::{Averager, BoundedSemaphore, Cache, Lock, RLock};

use crate::Effort;
use crate::report::{Row, Spread};
use crate::shared::Words;

/// Long enough for the clock, short enough to be rarely interrupted.
const SLICE: Duration = Duration::from_micros(200);
/// In the header page, where the format has nothing.
const UNUSED_OFFSET: usize = 3072;

pub fn measure(effort: Effort) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let cache = Cache::open(dir.path().join("store")).expect("a store can be made");
    let words = Words::map(&dir.path().join("store/slab"));

    let lock = Lock::new(&cache, "lock");
    let leased = Lock::new(&cache, "leased").lease(Duration::from_secs(60));
    let nested = RLock::new(&cache, "nested");
    let outer = nested.acquire().expect("it is free");
    let semaphore = BoundedSemaphore::new(&cache, "semaphore", 8);
    let average = Averager::new(&cache, "average");

    let mut operations = [
        Operation::new("Lock acquire + release", 2.0, || {
            drop(black_box(&lock).acquire().expect("it is free"));
        }),
        Operation::new("Lock acquire + release, with lease", 5.0, || {
            drop(black_box(&leased).acquire().expect("it is free"));
        }),
        Operation::new("RLock nested acquire + release", 1.5, || {
            drop(black_box(&nested).acquire().expect("it is ours"));
        }),
        Operation::new("BoundedSemaphore(8) acquire + release", 2.5, || {
            drop(black_box(&semaphore).acquire().expect("one is free"));
        }),
        Operation::new("Averager add", 5.0, || {
            black_box(&average)
                .add(black_box(0.1))
                .expect("it is finite");
        }),
        Operation::new("Averager get", 2.0, || {
            black_box(black_box(&average).get().expect("it is sound"));
        }),
    ];
    let mut pair = slices(|| exchange_pair(words.at(UNUSED_OFFSET)));
    let pair_ns = interleave(&mut pair, &mut operations, effort.times(800));
    outer.release().expect("it is ours");

    let base = Row::new("bare compare-exchange pair", "ns", pair_ns);
    let rows = operations.into_iter().map(Operation::row);
    [base].into_iter().chain(rows).collect()
}

/// The least that any lock in shared memory costs: from free to taken, and back.
pub fn exchange_pair(word: &AtomicU64) {
    let word = black_box(word);
    let (taken, free) = (Ordering::Acquire, Ordering::Release);
    let _ = black_box(word.compare_exchange(0, 1, taken, Ordering::Relaxed));
    let _ = black_box(word.compare_exchange(1, 0, free, Ordering::Relaxed));
}

/// Does something so many times in a row.
pub type Slices<'a> = Box<dyn FnMut(u64) + 'a>;

pub fn slices<'a>(mut once: impl FnMut() + 'a) -> Slices<'a> {
    Box::new(move |times| {
        for _ in 0..times {
            once();
        }
    })
}

/// Something to be measured, and the ratios so far.
pub struct Operation<'a> {
    name: &'static str,
    /// Not a number: there is none.
    target: f64,
    run: Slices<'a>,
    ratios: Vec<f64>,
}

impl<'a> Operation<'a> {
    pub fn new(name: &'static str, target: f64, once: impl FnMut() + 'a) -> Operation<'a> {
        Operation {
            name,
            target,
            run: slices(once),
            ratios: Vec::new(),
        }
    }

    /// For what is not the same throughout: `run` does it so many times.
    pub fn in_slices(name: &'static str, target: f64, run: impl FnMut(u64) + 'a) -> Operation<'a> {
        Operation {
            name,
            target,
            run: Box::new(run),
            ratios: Vec::new(),
        }
    }

    pub fn row(mut self) -> Row {
        let row = Row::new(self.name, "x", Spread::median(&mut self.ratios));
        match self.target.is_nan() {
            true => row,
            false => row.at_most(self.target),
        }
    }
}

/// Measures all in turn, each right after a slice of `base`. Returns the nanoseconds that `base`
/// takes.
pub fn interleave(base: &mut Slices, operations: &mut [Operation], rounds: u64) -> Spread {
    let base_times = calibrate(base);
    let times: Vec<u64> = operations
        .iter_mut()
        .map(|o| calibrate(&mut o.run))
        .collect();
    let mut base_ns = Vec::new();
    for _ in 0..rounds {
        for (operation, &times) in operations.iter_mut().zip(&times) {
            let base = nanos_each(base, base_times);
            let taken = nanos_each(&mut operation.run, times);
            operation.ratios.push(taken / base);
            base_ns.push(base);
        }
    }
    Spread::median(&mut base_ns)
}

/// How many times fill a slice. The first uses, which find or make the key, are not counted, and
/// the best of several tries is, for a try that was interrupted would make all slices too short.
fn calibrate(run: &mut Slices) -> u64 {
    const TRIES: usize = 5;
    run(1_000);
    let mut times = 100;
    loop {
        let tries = (0..TRIES).map(|_| nanos_each(run, times));
        let each = tries.fold(f64::MAX, f64::min);
        if each * times as f64 >= SLICE.as_nanos() as f64 / 8.0 {
            return (SLICE.as_nanos() as f64 / each).ceil() as u64;
        }
        times *= 2;
    }
}

fn nanos_each(run: &mut Slices, times: u64) -> f64 {
    let start = Instant::now();
    run(times);
    start.elapsed().as_nanos() as f64 / times as f64
}
