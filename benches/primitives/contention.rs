//! Four processes that want one thing all the time: each adds to a plain counter under it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use slablock::{Cache, Lock};

use crate::Effort;
use crate::child::{Peer, listen, tell};
use crate::mutex::RobustMutex;
use crate::report::{Row, Spread};
use crate::shared::Words;

const PROCESSES: usize = 4;
const ROUND: Duration = Duration::from_millis(100);
// Of the page that the processes share; each in cache lines of its own.
const RUNNING: usize = 0;
const COUNTER: usize = 256;
const MUTEX: usize = 512;

/// Millions of increments a second under each, and their ratio in each round.
pub fn measure(effort: Effort) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let (store, page) = (dir.path().join("store"), dir.path().join("page"));
    drop(Cache::open(&store).expect("a store can be made"));
    let words = Words::create(&page, 4096);
    let _mutex = RobustMutex::create(&words, MUTEX);

    let start = |_| Peer::start("count", [&store, &page]);
    let mut peers: Vec<Peer> = (0..PROCESSES).map(start).collect();
    peers.iter_mut().for_each(|peer| drop(peer.hear()));

    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.times(25) {
        ours.push(round("lock", &mut peers, &words));
        theirs.push(round("mutex", &mut peers, &words));
        ratios.push(ours[ours.len() - 1] / theirs[theirs.len() - 1]);
    }
    let row = |name, unit, samples: &mut [f64]| Row::new(name, unit, Spread::median(samples));
    vec![
        row("4 processes, one Lock, beside the mutex", "x", &mut ratios)
            .at_least(1.5)
            .note("every increment counted, under both"),
        row("  the Lock", "M/s", &mut ours),
        row(
            "  a robust process-shared pthread mutex",
            "M/s",
            &mut theirs,
        ),
    ]
}

/// Lets all count for a while. Every increment has to be in the counter.
fn round(what: &str, peers: &mut [Peer], words: &Words) -> f64 {
    words.at(COUNTER).store(0, Ordering::SeqCst);
    words.at(RUNNING).store(1, Ordering::SeqCst);
    let start = Instant::now();
    peers.iter_mut().for_each(|peer| peer.say(what));
    thread::sleep(ROUND);
    words.at(RUNNING).store(0, Ordering::SeqCst);
    let seconds = start.elapsed().as_secs_f64();
    let done: f64 = peers.iter_mut().map(Peer::hear_number).sum();
    let counted = words.at(COUNTER).load(Ordering::SeqCst) as f64;
    assert_eq!(counted, done, "increments were lost under the {what}");
    done / seconds / 1e6
}

/// The part of one of them.
pub fn count(store: &str, page: &str) {
    let cache = Cache::open(store).expect("the store is there");
    let lock = Lock::new(&cache, "hot");
    let words = Words::map(Path::new(page));
    let mutex = RobustMutex::attach(&words, MUTEX);
    let (running, counter) = (words.at(RUNNING), words.at(COUNTER));
    let running = || running.load(Ordering::Relaxed) != 0;
    tell("ready");
    while let Some(what) = listen() {
        let mut done = 0u64;
        while running() {
            if what == "lock" {
                let _guard = lock.acquire().expect("the store works");
                add_one(counter);
            } else {
                mutex.lock();
                add_one(counter);
                mutex.unlock();
            }
            done += 1;
        }
        tell(done);
    }
}

/// Not in one step, on purpose.
fn add_one(counter: &AtomicU64) {
    let seen = counter.load(Ordering::Relaxed);
    counter.store(seen + 1, Ordering::Relaxed);
}
