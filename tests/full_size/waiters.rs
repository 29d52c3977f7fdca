//! 10,000 threads of 50 processes that wait for one lock.

use std::time::Instant;

use nix::unistd::Pid;
use slablock::{Cache, Lock};

use crate::kit::{Board, Place, Role, alone, fork, reap_killed, reap_well, run, until};
use crate::{Gate, is_full, took};

/// What a thread needs that only waits and counts.
const STACK_BYTES: usize = 256 * 1024;

// What the numbers on the board are.
const COUNT: usize = 0;
const LAST_TOKEN: usize = 1;
const RECOVERED: usize = 2;
const HOLDS: usize = 3;

/// Processes, and threads of each.
fn size() -> (u64, u64) {
    match is_full() {
        true => (50, 200),
        false => (20, 50),
    }
}

#[test]
fn thousands_wait_for_one_lock_and_each_gets_it_once() {
    let _alone = alone("waiters");
    let dir = Place::new();
    run("waiters", dir.root(), &["released"]);
}

#[test]
fn thousands_wait_for_one_lock_and_its_holder_is_killed() {
    let _alone = alone("waiters for a dead one");
    let dir = Place::new();
    run("waiters", dir.root(), &["killed"]);
}

fn lock(role: &Role) -> Lock {
    Lock::new(&Cache::open(role.store()).unwrap(), "key")
}

/// One step for which nobody else has the lock.
fn count_one(lock: &Lock, board: &Board) {
    let guard = lock.acquire().unwrap();
    assert!(guard.token().get() > board.get(LAST_TOKEN), "tokens grow");
    board.set(LAST_TOKEN, guard.token().get());
    board.increment_badly(COUNT);
    if guard.recovered().is_some() {
        board.increment_badly(RECOVERED);
    }
    guard.release().unwrap();
}

fn start_waiters(role: &Role, gate: &mut Gate, threads: u64) -> Pid {
    fork(|| {
        gate.keep_out();
        let (lock, board) = (&lock(role), &role.board());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                thread
                    .spawn_scoped(scope, || count_one(lock, board))
                    .unwrap();
            }
        });
    })
}

pub fn waiters(role: &Role) {
    let board = role.board();
    let (processes, threads) = size();
    let all = processes * threads;
    let mut gate = Gate::new();
    let holder = fork(|| {
        gate.keep_out();
        let lock = lock(role);
        let guard = lock.acquire().unwrap();
        board.set(LAST_TOKEN, guard.token().get());
        board.set(HOLDS, 1);
        gate.wait();
        guard.release().unwrap();
    });
    until("it holds", || board.get(HOLDS) == 1);
    let begun = Instant::now();
    let waiters: Vec<_> = (0..processes)
        .map(|_| start_waiters(role, &mut gate, threads))
        .collect();
    let lock = lock(role);
    until("all wait", || lock.waiters().unwrap() as u64 == all);
    took("threads started, and waiting", begun, all);
    assert_eq!(board.get(COUNT), 0);
    assert_eq!(lock.holder().unwrap().unwrap().pid as i32, holder.as_raw());
    assert!(lock.try_acquire().unwrap().is_none());
    let processors = processor_time(&waiters);
    let begun = Instant::now();
    until("they have waited for a while", || {
        begun.elapsed().as_millis() > 1_500
    });
    let used = (processor_time(&waiters) - processors) as f64 * 10.0;
    let each = used / begun.elapsed().as_secs_f64() / all as f64;
    eprintln!("processor time of each of {all} waiters: {each:.3} ms a second");
    let begun = Instant::now();
    match &*role.args[0] {
        "killed" => reap_killed(holder),
        _ => {
            gate.open();
            reap_well(holder);
        }
    }
    until("the first of them has it", || board.get(COUNT) > 0);
    took("until the first waiter has it", begun, 1);
    waiters.into_iter().for_each(reap_well);
    took("the lock handed on", begun, all);
    assert_eq!(board.get(COUNT), all);
    assert_eq!(board.get(RECOVERED), u64::from(role.args[0] == "killed"));
    assert_eq!(lock.waiters().unwrap(), 0);
    assert!(!lock.is_locked().unwrap());
    let cache = Cache::open(role.store()).unwrap();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.dead_holds, 0);
}

/// Of all of them, in hundredths of a second.
fn processor_time(pids: &[Pid]) -> u64 {
    let of = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
        fields
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    pids.iter().map(of).sum()
}

/// A process is seen to wait for six keys at once, and may wait for more.
#[test]
fn a_process_waits_for_more_keys_than_it_is_seen_to() {
    let _alone = alone("seven keys");
    let dir = Place::new();
    run("seven keys", dir.root(), &[]);
}

const SEEN: u64 = 6;

pub fn seven_keys(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let keys = SEEN + 3;
    let locks: Vec<_> = (0..keys)
        .map(|n| Lock::new(&cache, format!("{n}")))
        .collect();
    let guards: Vec<_> = locks.iter().map(|lock| lock.acquire().unwrap()).collect();
    let waiter = fork(|| {
        let (locks, board) = (&locks, &role.board());
        std::thread::scope(|scope| {
            for lock in locks {
                // Two of each key count as two.
                for _ in 0..2 {
                    scope.spawn(|| {
                        let _guard = lock.acquire().unwrap();
                        board.add(COUNT, 1);
                    });
                }
            }
        });
    });
    let waiters = || locks.iter().map(|lock| lock.waiters().unwrap() as u64);
    until("six keys are waited for by two", || {
        waiters().filter(|count| *count == 2).count() as u64 == SEEN
    });
    assert_eq!(waiters().sum::<u64>(), 2 * SEEN);
    drop(guards);
    reap_well(waiter);
    assert_eq!(role.board().get(COUNT), 2 * keys);
    assert_eq!(waiters().sum::<u64>(), 0);
}
