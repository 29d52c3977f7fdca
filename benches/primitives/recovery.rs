//! Waiting: how soon a waiter has what a killed process held, and what it costs to wait.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use slablock::{Cache, Lock};

use crate::Effort;
use crate::child::{Peer, listen, tell};
use crate::report::{Row, Spread, at_share};

/// From the kill to the acquired, with a thread that is asleep in `acquire`.
pub fn takeover(effort: Effort) -> Vec<Row> {
    // At any moment of whatever rhythm the waiter has; and so late that it has the holder watched.
    let soon = |number| Duration::from_micros(number * 617 % 10_000);
    let late = |number| Duration::from_millis(120 + number * 7 % 60);
    let taken = kills(effort.times(1_000), soon);
    let taken_late = kills(effort.times(40), late);
    let row =
        |name, taken: &[f64], share| Row::new(name, "ms", Spread::exactly(at_share(taken, share)));
    vec![
        row("takeover from a killed holder, p50", &taken, 0.50),
        row("takeover from a killed holder, p99", &taken, 0.99)
            .at_most(10.0)
            .note(format!("{} kills", taken.len())),
        row("takeover from a killed holder, max", &taken, 1.0),
        row("  after a long wait, p50", &taken_late, 0.50),
        row("  after a long wait, max", &taken_late, 1.0)
            .note(format!("{} kills", taken_late.len())),
    ]
}

/// How long each of so many takeovers took, in milliseconds, in ascending order. The holder is
/// killed when the waiter has waited for `pause`.
fn kills(count: u64, pause: impl Fn(u64) -> Duration) -> Vec<f64> {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let store = dir.path().join("store");
    let cache = Cache::open(&store).expect("a store can be made");
    let lock = Lock::new(&cache, "lock");

    let (begin, beginnings) = mpsc::channel::<()>();
    let (end, ends) = mpsc::channel::<(Instant, bool)>();
    let waiting = lock.clone();
    let waiter = thread::spawn(move || {
        while beginnings.recv().is_ok() {
            let guard = waiting.acquire().expect("the store works");
            let told = (Instant::now(), guard.recovered().is_some());
            drop(guard);
            end.send(told).expect("the other thread listens");
        }
    });

    let mut taken_ms = Vec::new();
    for number in 0..count {
        let mut holder = Peer::start("hold", [&store]);
        holder.hear();
        begin.send(()).expect("the waiter lives");
        while lock.waiters().expect("the store works") == 0 {
            thread::yield_now();
        }
        thread::sleep(pause(number));
        let killed = Instant::now();
        holder.kill();
        let (acquired, told) = ends.recv().expect("the waiter lives");
        assert!(told, "the successor of a dead holder is told");
        taken_ms.push((acquired - killed).as_secs_f64() * 1e3);
    }
    drop(begin);
    waiter.join().expect("the waiter does not panic");
    taken_ms.sort_by(f64::total_cmp);
    taken_ms
}

/// Holds the lock until killed.
pub fn hold(store: &str) {
    let cache = Cache::open(store).expect("the store is there");
    let lock = Lock::new(&cache, "lock");
    let _guard = lock.acquire().expect("the store works");
    tell("held");
    listen();
}

/// The processor time of a process that waits for what is not given back.
pub fn waiter(effort: Effort) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let store = dir.path().join("store");
    let cache = Cache::open(&store).expect("a store can be made");
    let lock = Lock::new(&cache, "lock");
    let _guard = lock.acquire().expect("it is free");
    let ms: u64 = effort.among(3_000, 200);

    let mut rows = Vec::new();
    for (count, name) in [(1, "CPU of a waiter"), (8, "CPU of a waiter, one of 8")] {
        let start = |_| Peer::start("wait", [store.as_os_str(), ms.to_string().as_ref()]);
        let mut peers: Vec<Peer> = (0..count).map(start).collect();
        let mut used: Vec<f64> = peers
            .iter_mut()
            .map(|peer| peer.hear_number() / (ms as f64 / 1e3))
            .collect();
        used.sort_by(f64::total_cmp);
        let spread = Spread {
            value: at_share(&used, 1.0),
            low: used[0],
            high: at_share(&used, 1.0),
        };
        rows.push(
            Row::new(name, "ms/s", spread)
                .at_most(1.0)
                .note("the worst"),
        );
    }
    rows
}

/// Waits in vain, and tells what that cost, in milliseconds of processor time.
pub fn wait(store: &str, ms: &str) {
    let cache = Cache::open(store).expect("the store is there");
    let lock = Lock::new(&cache, "lock");
    assert!(lock.try_acquire().expect("the store works").is_none());
    let patience = Duration::from_millis(ms.parse().expect("a number"));
    let before = cpu_ms();
    let got = lock.acquire_timeout(patience).expect("the store works");
    let used = cpu_ms() - before;
    assert!(got.is_none());
    tell(used);
}

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has that clock");
    time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6
}
