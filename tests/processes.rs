//! What holds between real processes that all live well: exclusion, hand-over, forking, executing,
//! joining and leaving. What holds when they die is in `death.rs`.

mod kit;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kit::{
    Board, Child, HANGS, Place, Role, Watchdog, command, exit_now, fork, hear, is_within,
    kept_at_last, lock_bytes, open_below, reap_killed, reap_well, run, say, until,
};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use slablock::{Averager, BoundedSemaphore, Cache, Error, FanoutCache, Lock, RLock, Token};

// What the numbers on the board are.
const COUNT: usize = 0;
const LAST_TOKEN: usize = 1;
const INSIDE: usize = 2;
const MOST_INSIDE: usize = 3;
const STOP: usize = 4;
const STEP: usize = 5;
const ADDED: usize = 6;

#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    match role.name.as_str() {
        "increment" => increment(&role),
        "occupy" => occupy(&role),
        "add" => add(&role),
        "add_in_order" => add_in_order(&role),
        "chase" => chase(&role),
        "holder" => holder(&role),
        "two_paths" => two_paths(&role),
        "relative_paths" => relative_paths(&role),
        "join_and_leave" => join_and_leave(&role),
        "make_together" => make_together(&role),
        "run_out" => run_out(&role),
        "inert_guards" => inert_guards(&role),
        "parent_dies" => parent_dies(&role),
        "child_dies" => child_dies(&role),
        "grandchildren" => grandchildren(&role),
        "fork_amid_threads" => fork_amid_threads(&role),
        "hold_and_spawn" => hold_and_spawn(&role),
        "hold_and_exec" => hold_and_exec(&role),
        "list_descriptors" => list_descriptors(&role),
        other => panic!("no role {other}"),
    }
}

/// Starts them all before any of them begins.
fn start_together(role: &str, dir: &Path, args: &[&str], count: usize) -> Vec<Child> {
    let mut children: Vec<Child> = (0..count).map(|_| Child::start(role, dir, args)).collect();
    children.iter().for_each(|c| drop(c.expect("ready")));
    children.iter_mut().for_each(|c| c.tell("go"));
    children
}

// ---- Exclusion ----

fn increments_are_all_counted(test: &'static str, kind: &str, processes: usize, threads: usize) {
    let _watchdog = Watchdog::new(test);
    let dir = Place::new();
    let each = 4_000;
    let args = [kind, &each.to_string(), &threads.to_string()];
    let children = start_together("increment", dir.root(), &args, processes);
    children.into_iter().for_each(Child::finish);
    let count = Board::open(dir.root()).get(COUNT);
    assert_eq!(count, (processes * threads * each) as u64);
}

#[test]
fn increments_under_a_lock_are_all_counted() {
    increments_are_all_counted("lock", "lock", 4, 1);
}

#[test]
fn increments_under_a_lock_with_a_lease_are_all_counted() {
    increments_are_all_counted("lease", "lease", 4, 1);
}

#[test]
fn increments_under_a_re_entrant_lock_are_all_counted() {
    increments_are_all_counted("rlock", "rlock", 4, 1);
}

#[test]
fn increments_under_a_semaphore_of_one_are_all_counted() {
    increments_are_all_counted("semaphore", "semaphore", 4, 1);
}

#[test]
fn increments_under_a_lock_of_a_fanout_are_all_counted() {
    increments_are_all_counted("fanout", "fanout", 4, 1);
}

#[test]
fn threads_and_processes_mixed_exclude_each_other() {
    increments_are_all_counted("mixed lock", "lock", 3, 3);
    increments_are_all_counted("mixed rlock", "rlock", 3, 3);
}

fn increment(role: &Role) {
    let board = &role.board();
    let (kind, each) = (role.args[0].as_str(), role.number(1));
    let key = "key";
    let (lock, rlock, semaphore);
    if kind == "fanout" {
        let place = FanoutCache::open(role.store(), 4).unwrap();
        lock = Lock::new(&place, key);
        rlock = RLock::new(&place, key);
        semaphore = BoundedSemaphore::new(&place, key, 1);
    } else {
        let place = Cache::open(role.store()).unwrap();
        lock = Lock::new(&place, key);
        rlock = RLock::new(&place, key);
        semaphore = BoundedSemaphore::new(&place, key, 1);
    }
    let lock = match kind {
        "lease" => lock.lease(Duration::from_secs(3_600)),
        _ => lock,
    };
    let once = || match kind {
        "lock" | "lease" | "fanout" => {
            let guard = lock.acquire().unwrap();
            count_one(board, guard.token());
            guard.release().unwrap();
        }
        "rlock" => {
            let outer = rlock.acquire().unwrap();
            let inner = rlock.acquire().unwrap();
            count_one(board, outer.token());
            drop(outer);
            assert_eq!(rlock.depth().unwrap(), 1);
            inner.release().unwrap();
        }
        "semaphore" => {
            let guard = semaphore.acquire().unwrap();
            count_one(board, guard.token());
            guard.release().unwrap();
        }
        other => panic!("no kind {other}"),
    };
    say("ready");
    hear();
    std::thread::scope(|threads| {
        for _ in 0..role.number(2) {
            threads.spawn(|| (0..each).for_each(|_| once()));
        }
    });
}

/// One non-atomic step, only ever made with the only hold there is.
fn count_one(board: &Board, token: Token) {
    assert!(token.get() > board.get(LAST_TOKEN), "tokens grow");
    board.set(LAST_TOKEN, token.get());
    board.increment_badly(COUNT);
}

#[test]
fn permits_in_use_never_exceed_the_value() {
    let _watchdog = Watchdog::new("permits");
    let dir = Place::new();
    let children = start_together("occupy", dir.root(), &["3", "1500"], 4);
    children.into_iter().for_each(Child::finish);
    let board = Board::open(dir.root());
    assert_eq!(board.get(MOST_INSIDE), 3);
    assert_eq!(board.get(INSIDE), 0);
}

fn occupy(role: &Role) {
    let board = &role.board();
    let cache = Cache::open(role.store()).unwrap();
    let value = role.number(0);
    let semaphore = BoundedSemaphore::new(&cache, "key", value as u32);
    say("ready");
    hear();
    let once = || {
        let guard = semaphore.acquire().unwrap();
        let now = board.add(INSIDE, 1) + 1;
        board.cell(MOST_INSIDE).fetch_max(now, Ordering::SeqCst);
        assert!(now <= value, "{now} of {value} permits in use");
        std::thread::yield_now();
        board.cell(INSIDE).fetch_sub(1, Ordering::SeqCst);
        guard.release().unwrap();
    };
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| (0..role.number(1)).for_each(|_| once()));
        }
    });
}

#[test]
fn an_average_has_every_value_of_every_process_once() {
    let _watchdog = Watchdog::new("average");
    let dir = Place::new();
    let children = start_together("add", dir.root(), &["5000"], 4);
    children.into_iter().for_each(Child::finish);
    let cache = Cache::open(dir.store()).unwrap();
    let summary = Averager::new(&cache, "key").summary().unwrap().unwrap();
    assert_eq!(summary.count, 2 * 4 * 5000);
    assert_eq!(summary.total, 4.0 * (5000.0 * 5001.0));
    assert_eq!((summary.min, summary.max), (1.0, 5000.0));
}

fn add(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let averager = Averager::new(&cache, "key");
    say("ready");
    hear();
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| (1..=role.number(0)).for_each(|n| averager.add(n as f64).unwrap()));
        }
    });
}

/// One process adds 1, 2, 3, ...; so the mean of what a pop took says exactly which ones it took.
#[test]
fn every_value_added_is_in_exactly_one_pop() {
    let _watchdog = Watchdog::new("pop");
    let dir = Place::new();
    let last = 20_000;
    let child = start_together("add_in_order", dir.root(), &[&last.to_string()], 1);
    let cache = Cache::open(dir.store()).unwrap();
    let averager = Averager::new(&cache, "key");
    let (mut popped, mut pops) = (0, 0);
    until("all values were popped", || {
        if let Some(mean) = averager.pop().unwrap() {
            let to = 2.0 * mean - (popped + 1) as f64;
            assert_eq!(to.fract(), 0.0, "a pop took {mean}, not from {popped} on");
            assert!(to > popped as f64, "a pop took {mean} after {popped}");
            (popped, pops) = (to as u64, pops + 1);
        }
        popped == last
    });
    assert!(pops > 1, "all came in one pop, so nothing was tested");
    assert_eq!(averager.pop().unwrap(), None);
    child.into_iter().for_each(Child::finish);
}

fn add_in_order(role: &Role) {
    let board = role.board();
    let cache = Cache::open(role.store()).unwrap();
    let averager = Averager::new(&cache, "key");
    say("ready");
    hear();
    for n in 1..=role.number(0) {
        averager.add(n as f64).unwrap();
        board.set(ADDED, n);
    }
}

/// Two processes chase each other around a ring of three locks, each holding the one it stands on:
/// no step can be made before the other gives back a lock. A lost wake-up costs a tick of six
/// milliseconds.
#[test]
fn locks_are_handed_over_without_losing_wake_ups() {
    let _watchdog = Watchdog::new("hand-over");
    kept_at_last("1 ms a hand-over", || {
        let each = time_of_a_hand_over();
        is_within(each, Duration::from_millis(1))
    });
}

fn time_of_a_hand_over() -> Duration {
    let dir = Place::new();
    let steps = 5_000;
    let mut chasers: Vec<Child> = ["0", "1"]
        .map(|from| Child::start("chase", dir.root(), &[from, &steps.to_string()]))
        .into();
    chasers.iter().for_each(|c| drop(c.expect("ready")));
    let begun = Instant::now();
    chasers.iter_mut().for_each(|c| c.tell("go"));
    chasers.iter().for_each(|c| drop(c.expect("done")));
    begun.elapsed() / (2 * steps)
}

fn chase(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let ring = [0, 1, 2].map(|n| Lock::new(&cache, format!("ring {n}")));
    let mut at = role.number(0) as usize;
    let mut here = ring[at].acquire().unwrap();
    say("ready");
    hear();
    for _ in 0..role.number(1) {
        at = (at + 1) % ring.len();
        // Replacing the guard gives the old lock back after the new one was had.
        here = ring[at].acquire().unwrap();
    }
    drop(here);
    say("done");
}

// ---- Two openings ----

#[test]
fn two_paths_to_one_store_are_one_store() {
    let _watchdog = Watchdog::new("two paths");
    let dir = Place::new();
    run("two_paths", dir.root(), &[]);
}

fn two_paths(role: &Role) {
    let link = role.dir.join("link");
    let one = Cache::open(role.store()).unwrap();
    std::os::unix::fs::symlink(role.store(), &link).unwrap();
    let two = Cache::open(&link).unwrap();
    let guard = Lock::new(&one, "lock").acquire().unwrap().into_owned();
    let other = Lock::new(&two, "lock");
    assert!(other.try_acquire().unwrap().is_none());
    assert_eq!(other.holder().unwrap().unwrap().token, guard.token());
    guard.release().unwrap();
    assert!(other.try_acquire().unwrap().is_some());
    // The same thread is the same owner through both.
    let (inner, outer) = (RLock::new(&one, "rlock"), RLock::new(&two, "rlock"));
    let (first, second) = (inner.acquire().unwrap(), outer.acquire().unwrap());
    assert_eq!(inner.depth().unwrap(), 2);
    assert_eq!(first.token(), second.token());
    // Closing one opening leaves what the other holds.
    drop(two);
    drop(other);
    let mut holder = Child::start("holder", &role.dir, &["rlock"]);
    holder.expect("ready");
    holder.ask("try", "none");
    drop((first, second));
    holder.ask("try", "got");
}

#[test]
fn a_store_is_made_by_a_relative_path_with_all_that_is_missing_above() {
    let _watchdog = Watchdog::new("relative paths");
    let dir = Place::new();
    run("relative_paths", dir.root(), &[]);
}

fn relative_paths(role: &Role) {
    std::env::set_current_dir(&role.dir).unwrap();
    for path in [
        "one",
        "new/one",
        "more/new/one",
        "./another/one",
        "new/../last/one",
    ] {
        let cache = Cache::open(path).unwrap();
        cache.set("key", [7; 1_000]).unwrap();
        assert!(role.dir.join(path).join("slab").is_file(), "{path}");
    }
    FanoutCache::open("shards/in/here", 2).unwrap();
}

/// Does what it is told with one key: `try`, `acquire`, `release`, `end`.
fn holder(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, &role.args[0]);
    let rlock = RLock::new(&cache, &role.args[0]);
    let re_entrant = role.args[0] == "rlock";
    let mut guard = None;
    let mut rguard = None;
    say("ready");
    loop {
        let patience = match hear().as_str() {
            "try" => Duration::ZERO,
            "acquire" => HANGS,
            "release" => {
                drop((guard.take(), rguard.take()));
                say("released");
                continue;
            }
            _ => return,
        };
        let token = if re_entrant {
            rguard = rlock.acquire_timeout(patience).unwrap();
            rguard.as_ref().map(|g| g.token())
        } else {
            guard = lock.acquire_timeout(patience).unwrap();
            guard.as_ref().map(|g| g.token())
        };
        let recovered = guard.as_ref().and_then(|g| g.recovered());
        match (token, recovered) {
            (None, _) => say("none"),
            (Some(token), None) => say(format!("got {token}")),
            (Some(_), Some(dead)) => say(format!("recovered {} {}", dead.pid, dead.token)),
        }
    }
}

// ---- Joining and leaving ----

#[test]
fn two_hundred_processes_join_and_leave() {
    let _watchdog = Watchdog::new("joining");
    let dir = Place::new();
    run("join_and_leave", dir.root(), &[]);
    assert_eq!(Board::open(dir.root()).get(COUNT), 200);
    let cache = Cache::open(dir.store()).unwrap();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.dead_holds, 0);
}

fn join_and_leave(role: &Role) {
    // Half of them find the store open at birth, half open it themselves; half close it, half just
    // end.
    let mut opened = None;
    let mut children = Vec::new();
    for n in 0..200 {
        if n == 100 {
            opened = Some(Cache::open(role.store()).unwrap());
        }
        let opened = opened.clone();
        children.push(fork(|| {
            let cache = opened.unwrap_or_else(|| Cache::open(role.store()).unwrap());
            let lock = Lock::new(&cache, "key");
            let guard = lock.acquire().unwrap();
            count_one(&role.board(), guard.token());
            guard.release().unwrap();
            drop(lock);
            if n % 2 == 0 {
                drop(cache);
            } else {
                exit_now(0);
            }
        }));
    }
    children.into_iter().for_each(reap_well);
}

#[test]
fn processes_that_make_one_store_at_the_same_moment_share_it() {
    let _watchdog = Watchdog::new("making together");
    let dir = Place::new();
    run("make_together", dir.root(), &[]);
}

fn make_together(role: &Role) {
    let board = role.board();
    for round in 1..=60 {
        let store = role.dir.join(format!("store {round}"));
        board.set(COUNT, 0);
        board.set(LAST_TOKEN, 0);
        let makers: Vec<_> = (0..6)
            .map(|_| {
                fork(|| {
                    while board.get(STEP) != round {
                        std::hint::spin_loop();
                    }
                    let cache = Cache::open(&store).unwrap();
                    let guard = Lock::new(&cache, "key").acquire().unwrap().into_owned();
                    count_one(&board, guard.token());
                })
            })
            .collect();
        board.set(STEP, round);
        makers.into_iter().for_each(reap_well);
        assert_eq!(board.get(COUNT), 6);
    }
}

/// Most of the 4,095 numbers are taken from outside, by locking their beacons as live processes do.
#[test]
fn one_process_too_many_is_told_so_and_fits_in_when_another_leaves() {
    let _watchdog = Watchdog::new("running out");
    let dir = Place::new();
    run("run_out", dir.root(), &[]);
}

const ROOM: u64 = 40;

fn run_out(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let guard = Lock::new(&cache, "key").acquire().unwrap().into_owned();
    let board = role.board();
    let beacons = role.store().join("beacons");
    let beacons = std::fs::File::options().write(true).open(beacons).unwrap();
    let all = (ROOM as i64 + 1) << 8..4_096 << 8;
    lock_bytes(&beacons, nix::libc::F_WRLCK, all);
    let live = || {
        fork(|| {
            let cache = Cache::open(role.store()).unwrap();
            // A forked child joins with its first use.
            let lock = Lock::new(&cache, format!("of {}", std::process::id()));
            let _held = lock.acquire().unwrap();
            board.add(COUNT, 1);
            until("the parent says stop", || board.get(STOP) == 1);
        })
    };
    // This process has one number.
    let mut children: Vec<_> = (1..ROOM).map(|_| live()).collect();
    until("all have joined", || board.get(COUNT) == ROOM - 1);
    let is_refused = || {
        fork(|| {
            let lock = Lock::new(&cache, "of nobody");
            match lock.try_acquire() {
                Err(Error::TooManyParticipants { limit: 4_095, .. }) => {}
                other => panic!("{other:?}"),
            }
        })
    };
    reap_well(is_refused());
    // One is killed, and there is room for one.
    reap_killed(children.pop().unwrap());
    children.push(live());
    until("it has joined", || board.get(COUNT) == ROOM);
    reap_well(is_refused());
    guard.check().unwrap();
    board.set(STOP, 1);
    children.into_iter().for_each(reap_well);
    // All have left in peace: their numbers serve again.
    reap_well(fork(|| {
        let cache = Cache::open(role.store()).unwrap();
        assert!(Lock::new(&cache, "key").try_acquire().unwrap().is_none());
    }));
    assert!(cache.check().unwrap().is_sound());
}

// ---- Fork ----

#[test]
fn a_forked_child_holds_nothing_and_its_guards_are_inert() {
    let _watchdog = Watchdog::new("inert guards");
    let dir = Place::new();
    run("inert_guards", dir.root(), &[]);
}

fn inert_guards(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "lock").lease(Duration::from_secs(600));
    let rlock = RLock::new(&cache, "rlock");
    let semaphore = BoundedSemaphore::new(&cache, "semaphore", 1);
    let averager = Averager::new(&cache, "average");
    averager.add(1.0).unwrap();
    let held = lock.acquire().unwrap();
    let (outer, inner) = (rlock.acquire().unwrap(), rlock.acquire().unwrap());
    let permit = semaphore.acquire().unwrap();
    let is_not_ours = |r: slablock::Result<()>| assert!(matches!(r, Err(Error::NotHolder { .. })));
    let all_taken = || {
        assert!(lock.try_acquire().unwrap().is_none());
        assert!(rlock.try_acquire().unwrap().is_none());
        assert_eq!(rlock.depth().unwrap(), 0);
        assert!(semaphore.try_acquire().unwrap().is_none());
        assert!(lock.is_locked().unwrap() && rlock.is_locked().unwrap());
        assert_eq!(semaphore.available().unwrap(), 0);
    };

    let mut kept = Some((held, outer, inner, permit));
    // A child that asks before it does anything else, and one that first joins by using the store.
    for joins_first in [false, true] {
        let mut copies = kept.take();
        let child = fork(|| {
            let (held, outer, inner, permit) = copies.take().unwrap();
            if joins_first {
                averager.add(2.0).unwrap();
                all_taken();
            }
            is_not_ours(held.check());
            is_not_ours(held.renew());
            is_not_ours(outer.check());
            is_not_ours(permit.check());
            is_not_ours(permit.renew());
            is_not_ours(rlock.release(outer.token()).map(drop));
            is_not_ours(inner.release());
            is_not_ours(held.release());
            drop((outer, permit));
            all_taken();
        });
        reap_well(child);
        kept = copies;
    }
    // And one that only drops.
    let mut copies = kept.take();
    reap_well(fork(|| {
        drop(copies.take());
        all_taken();
    }));
    let (held, outer, inner, permit) = copies.take().unwrap();
    // The parent's are what they were.
    held.check().unwrap();
    assert_eq!(rlock.depth().unwrap(), 2);
    permit.check().unwrap();

    // A child that waits gets each as the parent gives it back, and the parent waits for the child.
    let board = role.board();
    let child = fork(|| {
        board.set(STEP, 1);
        let _lock = lock.acquire().unwrap();
        let _rlock = rlock.acquire().unwrap();
        let _permit = semaphore.acquire().unwrap();
        assert_eq!(rlock.depth().unwrap(), 1);
        board.set(STEP, 2);
        until("the parent has seen it", || board.get(STEP) == 3);
    });
    until("the child is about to wait", || board.get(STEP) == 1);
    until("the child waits", || lock.waiters().unwrap() == 1);
    held.release().unwrap();
    inner.release().unwrap();
    outer.release().unwrap();
    permit.release().unwrap();
    until("the child has them all", || board.get(STEP) == 2);
    all_taken();
    let holder = lock.holder().unwrap().unwrap();
    assert_eq!(holder.pid as i32, child.as_raw());
    board.set(STEP, 3);
    reap_well(child);
    assert!(lock.try_acquire().unwrap().is_some());
    assert_eq!(averager.get().unwrap(), Some(1.5));
}

#[test]
fn a_parents_death_frees_its_holds_though_its_child_lives() {
    let _watchdog = Watchdog::new("parent dies");
    let dir = Place::new();
    let mut parent = Child::start("parent_dies", dir.root(), &[]);
    let token: u64 = parent.expect("held").parse().unwrap();
    let child: i32 = parent.expect("child").parse().unwrap();
    let cache = Cache::open(dir.store()).unwrap();
    let lock = Lock::new(&cache, "key");
    assert!(lock.try_acquire().unwrap().is_none());
    let pid = parent.pid();
    parent.kill();
    let guard = lock.acquire_timeout(HANGS).unwrap().unwrap();
    let dead = guard.recovered().unwrap();
    assert_eq!((dead.pid as i32, dead.token.get()), (pid.as_raw(), token));
    assert!(!dead.alive);
    // The child is there, can wait for it like anybody, and gets it.
    let child = nix::unistd::Pid::from_raw(child);
    nix::sys::signal::kill(child, None).unwrap();
    let board = Board::open(dir.root());
    board.set(STEP, 1);
    until("the orphan waits", || lock.waiters().unwrap() == 1);
    guard.release().unwrap();
    until("the orphan has it", || board.get(STEP) == 2);
    let holder = lock.holder().unwrap().unwrap();
    assert_eq!(holder.pid as i32, child.as_raw());
    board.set(STEP, 3);
    until("the orphan has given it back", || {
        !lock.is_locked().unwrap()
    });
}

fn parent_dies(role: &Role) {
    let board = role.board();
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "key");
    let guard = lock.acquire().unwrap();
    say(format!("held {}", guard.token()));
    // The child does nothing with the store at first: it must not even have to join.
    let child = fork(|| {
        until("the parent is dead", || board.get(STEP) == 1);
        let guard = lock.acquire().unwrap();
        board.set(STEP, 2);
        until("the test has seen it", || board.get(STEP) == 3);
        guard.release().unwrap();
    });
    say(format!("child {child}"));
    hear();
}

#[test]
fn a_childs_death_leaves_the_parents_holds_alone() {
    let _watchdog = Watchdog::new("child dies");
    let dir = Place::new();
    run("child_dies", dir.root(), &[]);
}

fn child_dies(role: &Role) {
    let board = role.board();
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "parents");
    let guard = lock.acquire().unwrap();
    for joins in [false, true] {
        board.set(STEP, 0);
        let child = fork(|| {
            let key = Lock::new(&cache, "childs");
            let _held = joins.then(|| key.acquire().unwrap());
            board.set(STEP, 1);
            std::thread::sleep(HANGS);
        });
        until("the child is ready", || board.get(STEP) == 1);
        reap_killed(child);
        guard.check().unwrap();
        guard.renew().unwrap();
        reap_well(fork(|| {
            assert!(lock.try_acquire().unwrap().is_none());
            assert!(lock.holder().unwrap().unwrap().alive);
        }));
        let key = Lock::new(&cache, "childs");
        let after = key.try_acquire().unwrap().unwrap();
        assert_eq!(after.recovered().is_some(), joins);
    }
    guard.release().unwrap();
}

#[test]
fn grandchildren_join_as_processes_of_their_own() {
    let _watchdog = Watchdog::new("grandchildren");
    let dir = Place::new();
    run("grandchildren", dir.root(), &[]);
}

fn grandchildren(role: &Role) {
    let board = role.board();
    let cache = Cache::open(role.store()).unwrap();
    let locks = [0, 1, 2].map(|n| Lock::new(&cache, format!("of generation {n}")));
    let of_parent = locks[0].acquire().unwrap();
    let child = fork(|| {
        let of_child = locks[1].acquire().unwrap();
        let grandchild = fork(|| {
            assert!(matches!(of_parent.check(), Err(Error::NotHolder { .. })));
            assert!(matches!(of_child.check(), Err(Error::NotHolder { .. })));
            let own = locks[2].acquire().unwrap();
            assert!(locks[0].try_acquire().unwrap().is_none());
            assert!(locks[1].try_acquire().unwrap().is_none());
            let pids = locks.each_ref().map(|l| l.holder().unwrap().unwrap().pid);
            assert!(pids[0] != pids[1] && pids[1] != pids[2] && pids[0] != pids[2]);
            board.set(STEP, 1);
            // The child in the middle is killed; its hold can be had at once, with the news.
            until("the middle one is dead", || board.get(STEP) == 2);
            let taken = locks[1].acquire_timeout(HANGS).unwrap().unwrap();
            assert_eq!(taken.recovered().unwrap().pid, pids[1]);
            assert!(locks[0].try_acquire().unwrap().is_none());
            drop((own, taken));
            board.set(STEP, 3);
        });
        reap_well(grandchild);
    });
    until("the grandchild has seen all", || board.get(STEP) == 1);
    reap_killed(child);
    board.set(STEP, 2);
    until("the grandchild is through", || board.get(STEP) == 3);
    of_parent.check().unwrap();
}

#[test]
fn a_fork_amid_busy_threads_leaves_both_sides_usable() {
    let _watchdog = Watchdog::new("fork amid threads");
    let dir = Place::new();
    run("fork_amid_threads", dir.root(), &[]);
}

fn fork_amid_threads(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let stop = AtomicBool::new(false);
    let store = &role.store();
    let board = role.board();
    std::thread::scope(|threads| {
        let busy = |work: fn(&Cache, &Path, u64)| {
            threads.spawn({
                let (cache, stop) = (&cache, &stop);
                move || {
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        work(cache, store, n);
                        n += 1;
                    }
                }
            });
        };
        busy(|cache, _, _| Averager::new(cache, "average").add(1.0).unwrap());
        busy(|cache, _, n| {
            let key = format!("key {}", n % 7);
            drop(Lock::new(cache, &key).acquire().unwrap());
            cache.remove(&key).unwrap();
        });
        busy(|_, store, _| drop(Cache::open(store).unwrap()));
        busy(|_, store, n| {
            // Another store, made, used and closed.
            let other = store.with_file_name(format!("other {}", n % 2));
            let other = Cache::options().capacity(16).open(other).unwrap();
            drop(Lock::new(&other, "key").acquire().unwrap());
        });
        let mut failed = None;
        for n in 0..150 {
            let child = fork(|| {
                let again = Cache::open(store).unwrap();
                drop(Lock::new(&again, "of the children").acquire().unwrap());
                Averager::new(&cache, "average").add(1.0).unwrap();
                drop(
                    Lock::new(&cache, format!("key {}", n % 7))
                        .acquire()
                        .unwrap(),
                );
                board.increment_badly(COUNT);
            });
            // Not `reap`: its panic would leave the threads running, and this scope waiting for
            // them.
            let deadline = Instant::now() + HANGS;
            let status = loop {
                let flag = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
                match nix::sys::wait::waitpid(child, flag).unwrap() {
                    WaitStatus::StillAlive if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    other => break other,
                }
            };
            if status != WaitStatus::Exited(child, 0) {
                let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
                failed = Some((n, status));
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(failed, None, "a forked child hangs or fails");
    });
    assert_eq!(board.get(COUNT), 150);
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
}

// ---- Exec ----

#[test]
fn nothing_leaks_into_an_executed_program() {
    let _watchdog = Watchdog::new("exec");
    let dir = Place::new();
    let mut child = Child::start("hold_and_spawn", dir.root(), &[]);
    child.expect("clean");
    // The program that was started still runs, and does not keep anything alive.
    let pid = child.pid();
    child.kill();
    let cache = Cache::open(dir.store()).unwrap();
    let lock = Lock::new(&cache, "key");
    let guard = lock.acquire_timeout(HANGS).unwrap();
    let guard = guard.expect("a program started by the dead holder keeps its lock");
    assert_eq!(guard.recovered().unwrap().pid as i32, pid.as_raw());
}

fn hold_and_spawn(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "key");
    let guard = lock.acquire().unwrap();
    // It says "clean", and stays for as long as the test.
    let mut program = command("list_descriptors", &role.dir, &[])
        .stdin(Stdio::inherit())
        .spawn()
        .unwrap();
    hear();
    drop(guard);
    program.wait().unwrap();
}

#[test]
fn a_process_that_executes_another_program_holds_nothing_any_more() {
    let _watchdog = Watchdog::new("exec in place");
    let dir = Place::new();
    let child = Child::start("hold_and_exec", dir.root(), &[]);
    child.expect("held");
    child.expect("clean");
    let cache = Cache::open(dir.store()).unwrap();
    let lock = Lock::new(&cache, "key");
    let guard = lock.acquire_timeout(HANGS).unwrap();
    let guard = guard.expect("the program keeps the lock of the one that it replaced");
    // The same process id, and alive; but the holder is gone.
    let dead = guard.recovered().unwrap();
    assert_eq!(dead.pid as i32, child.pid().as_raw());
    nix::sys::signal::kill(child.pid(), None).unwrap();
}

fn hold_and_exec(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "key");
    let _guard = lock.acquire().unwrap();
    say("held");
    panic!("{}", command("list_descriptors", &role.dir, &[]).exec());
}

/// Says `clean` if it has no file of the store open, and stays until the test lets go of its
/// standard input.
fn list_descriptors(role: &Role) {
    for (_, path) in open_below(&role.store()) {
        say(format!("leak {}", path.display()));
    }
    say("clean");
    let _ = std::io::stdin().read_line(&mut String::new());
    exit_now(0);
}
