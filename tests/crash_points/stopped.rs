//! Stopping instead of dying: a process that is stopped at any point of making a key, for which the
//! slab has to grow twice, keeps nobody who will not wait from an answer in time. It was for ever,
//! while it grew the slab. And who is stopped at any point of setting a large value, while others
//! fill the log again and again, has set it when it goes on; the others were answered in time.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use slablock::{BoundedSemaphore, Cache, Error, Eviction, Lock};

use crate::kit::{Board, Stopwatch, fork};
use crate::scene::{End, Entry, NEVER, Scene, Trap, place_of_death, reap, stopped_at_point};
use crate::stage::{KEY, open};

/// What `acquire_timeout` is given.
const TIMEOUT: Duration = Duration::from_millis(20);
/// Time, and 50 ms for each lock that somebody may have been stopped with, as docs/guarantees.md
/// promises; the rest is for what else is to be done. Time in which the machine ran others does not
/// count.
const IN_TIME: Duration = Duration::from_secs(2);

/// Runs all of it; says for how many points, and at how many of them somebody went away
/// empty-handed.
pub fn run(root: &Path, board: &'static Board) {
    let (mut at, mut refused, mut longest) = (1, 0, Duration::ZERO);
    while let Some((none, took)) = one_stop(root, board, at) {
        at += 1;
        refused += u32::from(none);
        longest = longest.max(took);
    }
    println!(
        "stopped at {} points of making a semaphore; {refused} times nobody else could make a key; \
         the longest answer took {longest:?}",
        at - 1
    );
    assert!(refused > 0, "nobody was stopped with a lock");
}

/// Like [`run`], for setting a value and for compacting; says how often others were refused room,
/// which a stopped process may keep.
pub fn run_values(root: &Path, board: &'static Board) {
    for what in &VALUES {
        let (mut at, mut refused, mut longest) = (1, 0, Duration::ZERO);
        while let Some((none, took)) = one_stopped(root, board, what, at) {
            // Most are of one loop.
            at += if at < 40 { 1 } else { 11 };
            refused += u32::from(none);
            longest = longest.max(took);
        }
        println!(
            "stopped at some of {} points of {}; {refused} times others were refused room; \
             the longest answer took {longest:?}",
            at - 1,
            what.name
        );
        assert!(at > 8, "there is more to it");
    }
}

const LIMIT: u64 = 4 << 20;
/// What nobody waits longer for room, as docs/guarantees.md promises, and what the rest of it may
/// take.
const ROOM_IN_TIME: Duration = Duration::from_millis(50 + 850);

/// What somebody is stopped at, and what the value of `KEY` is afterwards.
struct Stopped {
    name: &'static str,
    act: fn(&Cache),
    left: (u8, usize),
}

const VALUES: [Stopped; 3] = [
    Stopped {
        name: "setting a value",
        act: |cache| cache.set(KEY, vec![2; 20_000]).unwrap(),
        left: (2, 20_000),
    },
    Stopped {
        name: "setting a value with a segment of its own",
        act: |cache| cache.set(KEY, vec![2; 300_000]).unwrap(),
        left: (2, 300_000),
    },
    Stopped {
        name: "compacting",
        act: |cache| assert_eq!(cache.cull().unwrap(), 0),
        left: (1, 3_000),
    },
];

fn one_stopped(
    root: &Path,
    board: &'static Board,
    what: &Stopped,
    at: u64,
) -> Option<(bool, Duration)> {
    let scene = Scene::new(root, board);
    let prepared = fork(|| {
        let options = Cache::options().capacity(256).size_limit(LIMIT);
        let cache = options.eviction(Eviction::None).open(scene.store());
        let cache = cache.unwrap();
        cache.set(KEY, vec![1; 3_000]).unwrap();
        // So that nobody needs a stripe for them, which somebody may be stopped with.
        for filler in 0..20 {
            cache.set(format!("filler {filler}"), "").unwrap();
        }
        // The first segment is worth it to be compacted.
        for key in 0..24 {
            cache.set(format!("{key}"), vec![3; 50_000]).unwrap();
        }
        for key in 2..24 {
            cache.delete(format!("{key}")).unwrap();
        }
    });
    assert_eq!(reap(prepared), End::Done);
    let stopped = fork(|| {
        let cache = open(&scene);
        let trap = Trap::stopping(board, at);
        trap.arm();
        (what.act)(&cache);
        trap.disarm();
    });
    let stopped = stopped_at_point(stopped)?;
    let others = reap(fork(|| fill_and_compact(&scene, board)));
    kill(stopped, Signal::SIGCONT).expect("to wake a child");
    let end = reap(stopped);
    assert_eq!(
        (others, end),
        (End::Done, End::Done),
        "stopped at {:?}",
        place_of_death(board)
    );
    let last = fork(|| {
        let cache = open(&scene);
        let (byte, len) = what.left;
        assert!(cache.get(KEY).unwrap() == Some(vec![byte; len]));
        for key in 0..2 {
            assert!(cache.get(format!("{key}")).unwrap() == Some(vec![3; 50_000]));
        }
        assert!(cache.check().unwrap().is_sound());
        assert_eq!(cache.stats().unwrap().damaged, 0);
    });
    assert_eq!(
        reap(last),
        End::Done,
        "stopped at {:?}",
        place_of_death(board)
    );
    let took = Duration::from_micros(board.get(Entry::Done));
    Some((board.get(Entry::Own) > 0, took))
}

/// Fills the log with values that replace one another, so that every segment of before is
/// compacted, unless somebody keeps that from ending.
fn fill_and_compact(scene: &Scene, board: &'static Board) {
    // Without a trap, whose count is that of the stopped one.
    let cache = open(scene);
    let (mut refused, mut longest) = (false, Duration::ZERO);
    for round in 0..200 {
        let start = Stopwatch::start();
        match cache.set(format!("filler {}", round % 20), vec![round; 40_000]) {
            Ok(()) => {}
            Err(Error::OverLimit { .. }) => refused = true,
            Err(other) => panic!("{other}"),
        }
        longest = longest.max(start.elapsed());
        if refused {
            // Not before all there is was used.
            let stats = cache.stats().unwrap();
            assert!(stats.bytes_live + stats.bytes_garbage > LIMIT, "{stats:?}");
            break;
        }
    }
    assert!(longest < ROOM_IN_TIME, "an answer took {longest:?}");
    board.set(Entry::Own, u64::from(refused));
    board.set(Entry::Done, longest.as_micros() as u64);
}

/// `None`: there is no such point. Otherwise whether somebody else was refused a new key, and how
/// long the answers took.
fn one_stop(root: &Path, board: &'static Board, at: u64) -> Option<(bool, Duration)> {
    let scene = Scene::new(root, board);
    assert_eq!(reap(fork(|| drop(open(&scene)))), End::Done);
    let stopped = fork(|| {
        let cache = open(&scene);
        let pool = BoundedSemaphore::new(&cache, KEY, 9);
        let trap = Trap::stopping(board, at);
        trap.arm();
        let guard = pool.try_acquire();
        trap.disarm();
        scene.saw(guard.unwrap().expect("a permit").into_token());
    });
    let stopped = stopped_at_point(stopped)?;
    let others = reap(fork(|| ask(&scene, board)));
    kill(stopped, Signal::SIGKILL).expect("to kill a child");
    assert_eq!(reap(stopped), End::Killed);
    assert_eq!(others, End::Done, "stopped at {:?}", place_of_death(board));
    let last = fork(|| {
        let cache = open(&scene);
        let pool = BoundedSemaphore::new(&cache, KEY, 9);
        let all: Vec<_> = (0..9).map(|_| pool.try_acquire().unwrap()).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(cache.check().unwrap().is_sound());
    });
    assert_eq!(reap(last), End::Done);
    let took = board.get(Entry::Done);
    let refused = board.get(Entry::Own) > 0;
    Some((refused, Duration::from_micros(took)))
}

/// Nobody has any of the keys: it is the structure that is busy.
fn is_had<G>(answer: slablock::Result<Option<G>>) -> bool {
    match answer {
        Err(Error::StructureBusy { .. }) => false,
        answer => {
            assert!(answer.unwrap().is_some(), "it is said to be held");
            true
        }
    }
}

/// Asks for new keys of both kinds, without patience and with a little.
fn ask(scene: &Scene, board: &'static Board) {
    Trap::set(board, NEVER, 0);
    let cache = open(scene);
    // Who reads waits for nobody: enough keys for every stripe, in a store whose stripes are
    // stopped in.
    for n in 0..500 {
        assert_eq!(cache.get(format!("absent {n}")).unwrap(), None);
    }
    let (mut refused, mut longest) = (false, Duration::ZERO);
    for n in 0..2 {
        let lock = Lock::new(&cache, format!("lock {n}"));
        let pool = BoundedSemaphore::new(&cache, format!("pool {n}"), 5);
        let timeout = if n == 0 { Duration::ZERO } else { TIMEOUT };
        for kind in 0..2 {
            let start = Stopwatch::start();
            let got = match kind {
                0 => is_had(lock.acquire_timeout(timeout)),
                _ => is_had(pool.acquire_timeout(timeout)),
            };
            refused |= !got;
            longest = longest.max(start.elapsed());
        }
    }
    assert!(longest < IN_TIME, "an answer took {longest:?}");
    board.set(Entry::Own, u64::from(refused));
    board.set(Entry::Done, longest.as_micros() as u64);
}
