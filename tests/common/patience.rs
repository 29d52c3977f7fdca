//! Time in the tests. None fails because the machine is slow: it waits for events, however long they take, and the one
//! clock is that of who waits in vain, which is generous. Where a bound is a promise of the documents, what is measured
//! leaves out time in which the machine ran others ([`Stopwatch`]), or is measured again ([`kept_at_last`]).

#![allow(dead_code)]

use std::time::{Duration, Instant};

/// Whoever waits for that long, waits in vain. Nothing takes a hundredth of it, unless the machine is very busy.
pub const HANGS: Duration = Duration::from_secs(600);
/// How often a bound is measured before it counts as not kept.
const ATTEMPTS: u32 = 50;

/// Looks again and again until something outside is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < HANGS, "waited in vain until {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Measures again until a bound is kept: a fault exceeds it each time, a busy machine now and then.
pub fn kept_at_last(bound: &str, mut measure: impl FnMut() -> Result<(), String>) {
    for _ in 0..ATTEMPTS {
        match measure() {
            Ok(()) => return,
            Err(measured) => println!("once more: {bound}: {measured}"),
        }
    }
    panic!("{bound}: not once in {ATTEMPTS} attempts");
}

/// What was measured, if it is too much.
pub fn is_within(measured: Duration, bound: Duration) -> Result<(), String> {
    match measured < bound {
        true => Ok(()),
        false => Err(format!("{measured:?}")),
    }
}

/// Measures what a thread does: the time in which it ran or slept, without that in which it was to run and the machine
/// ran others.
pub struct Stopwatch {
    begun: Instant,
    kept_waiting: Duration,
}

impl Stopwatch {
    pub fn start() -> Stopwatch {
        Stopwatch {
            kept_waiting: kept_waiting(),
            begun: Instant::now(),
        }
    }

    /// For the thread that has started it.
    pub fn elapsed(&self) -> Duration {
        let elapsed = self.begun.elapsed();
        elapsed.saturating_sub(kept_waiting() - self.kept_waiting)
    }
}

/// How long this thread has waited for a processor so far. Zero where the kernel does not count it.
fn kept_waiting() -> Duration {
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = counted.split_whitespace().nth(1).map(str::parse);
    Duration::from_nanos(nanos.and_then(Result::ok).unwrap_or(0))
}
