//! Time in the tests. None fails because the machine is slow: it waits for events, however long
//! they take, and the one clock is the watchdog's, which is generous. Where a bound is a promise of
//! the documents, what is measured leaves out time in which the machine ran others ([`Stopwatch`]),
//! or is measured again ([`kept_at_last`]).

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The watchdog: a waiter that has waited for so long waits in vain. Nothing takes a hundredth of
/// it, unless the machine is very busy.
pub const HANGS: Duration = Duration::from_secs(600);
/// The longest that a child lives, whatever becomes of its parent: the kernel ends it then.
pub const LIFETIME_S: u32 = 3 * HANGS.as_secs() as u32;
/// A lease that ends while a test looks on.
pub const SHORT: Duration = Duration::from_millis(20);
/// A lease that is not over at once, not even on a busy machine, and ends while a test looks on.
pub const LEASE: Duration = Duration::from_millis(150);
/// A lease or a timeout that does not end during a test.
pub const LONG: Duration = Duration::from_secs(3_600);
/// How often a bound is measured before it counts as not kept.
const ATTEMPTS: u32 = 50;

/// Looks again and again until something outside is so: soon after it began, then more seldom.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    let mut nap = Duration::from_micros(20);
    while !is_so() {
        assert!(begun.elapsed() < HANGS, "waited in vain until {what}");
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_micros(200));
    }
}

/// Runs a test, and fails it when it hangs.
pub fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if finished.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
        panic!("the test hangs: not done after {HANGS:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Ends the test binary when a test takes too long, and says which.
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    pub fn new(test: &'static str) -> Watchdog {
        let (alive, ended) = channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(2 * HANGS) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// The test that runs, alone among those that ask for that, until this is dropped.
pub struct Alone {
    _turn: MutexGuard<'static, ()>,
    _watchdog: Watchdog,
}

pub fn alone(test: &'static str) -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    Alone {
        _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
        _watchdog: Watchdog::new(test),
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

/// Measures what a thread does: the time in which it ran or slept, without that in which it was to
/// run and the machine ran others.
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
