//! 4,095 processes in one store.

use std::collections::HashMap;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use slablock::{Cache, Lock, LockGuard};

use crate::kit::{
    Child, Place, Role, alone, exit_now, fork, reap, reap_killed, reap_well, run, say, until,
};
use crate::{Gate, is_full, took};

/// How many numbers there are.
const ALL: u64 = 4_095;

// What the numbers on the board are; from PIDS on, who has the lock of each.
const JOINED: usize = 0;
const PIDS: usize = 100;

/// At full size all numbers are taken, and then once more by others. The short form has fewer
/// processes and no error, which `tests/processes.rs` sees with numbers that are taken from
/// outside.
#[test]
fn as_many_processes_as_there_are_numbers_and_no_more() {
    let _alone = alone("participants");
    let dir = Place::new();
    run("crowd", dir.root(), &[]);
}

fn lock_of(cache: &Cache, number: u64) -> Lock {
    Lock::new(cache, format!("of {number}"))
}

/// Opens the store, takes the lock of that number, and is seen to have done so.
fn joins(role: &Role, number: u64) -> LockGuard<'static> {
    let cache = Cache::open(role.store()).unwrap();
    let lock = lock_of(&cache, number);
    // `try_acquire` may be told that others make keys, where thousands do.
    let guard = lock.acquire().unwrap().into_owned();
    let board = role.board();
    board.set(PIDS + number as usize, std::process::id().into());
    board.add(JOINED, 1);
    guard
}

/// Forks processes that join and then wait at the gate. This process has not opened the store: they
/// do so themselves.
fn start(role: &Role, gate: &mut Gate, numbers: std::ops::Range<u64>) -> Vec<Pid> {
    let start = |number| {
        fork(|| {
            gate.keep_out();
            let guard = joins(role, number);
            gate.wait();
            match number % 3 {
                0 => guard.release().unwrap(),
                1 => exit_now(0),
                _ => drop(guard),
            }
        })
    };
    numbers.map(start).collect()
}

fn until_joined(role: &Role, count: u64) {
    let board = role.board();
    until("all have joined", || board.get(JOINED) == count);
}

/// What another process gets that opens the store: nothing, or an error; and whom it succeeds in
/// these locks.
pub fn newcomer(role: &Role) {
    let begun = Instant::now();
    let cache = match Cache::open(role.store()) {
        Ok(cache) => cache,
        Err(error) => return say(format!("refused {error}")),
    };
    took("a newcomer opens the store", begun, 1);
    let board = role.board();
    let numbers = role.number(0)..role.number(1);
    let begun = Instant::now();
    let guards: Vec<_> = numbers
        .clone()
        .map(|n| {
            lock_of(&cache, n)
                .try_acquire()
                .unwrap()
                .map(LockGuard::into_owned)
        })
        .collect();
    took(
        "and takes over from the dead",
        begun,
        numbers.end - numbers.start,
    );
    for (number, guard) in numbers.zip(&guards) {
        let guard = guard.as_ref().unwrap_or_else(|| panic!("{number} is held"));
        let dead = guard.recovered().expect("who died is told");
        assert_eq!(u64::from(dead.pid), board.get(PIDS + number as usize));
    }
    assert!(cache.check().unwrap().is_sound());
    say("done");
}

fn newcomer_takes_over(role: &Role, numbers: std::ops::Range<u64>) {
    let (from, to) = (numbers.start.to_string(), numbers.end.to_string());
    let child = Child::start("newcomer", &role.dir, &[&from, &to]);
    child.expect("done");
    child.finish();
}

fn newcomer_is_refused(role: &Role) {
    let begun = Instant::now();
    let child = Child::start("newcomer", &role.dir, &["0", "0"]);
    let error = child.expect("refused");
    assert!(error.contains("4095"), "{error}");
    child.finish();
    took("one too many is told so", begun, 1);
}

pub fn crowd(role: &Role) {
    let all = if is_full() { ALL } else { 300 };
    let mut gate = Gate::new();
    let begun = Instant::now();
    // This process is one of them, and the last but one joins when all others have.
    let mut children = start(role, &mut gate, 1..all - 1);
    until_joined(role, all - 2);
    took(
        "processes started, store opened, a lock taken",
        begun,
        all - 2,
    );
    let begun = Instant::now();
    children.extend(start(role, &mut gate, all - 1..all));
    until_joined(role, all - 1);
    took("the same of one more", begun, 1);
    let begun = Instant::now();
    let cache = Cache::open(role.store()).unwrap();
    took("opening as the last one", begun, 1);
    if is_full() {
        newcomer_is_refused(role);
    }
    looks_well(&cache, role, &children);
    // One is killed, and there is room for one, who succeeds it, and leaves room again.
    reap_killed(children[233]);
    children[233] = Pid::from_raw(0);
    newcomer_takes_over(role, 234..235);
    newcomer_takes_over(role, 1..1);
    drop(cache);
    let begun = Instant::now();
    let alive = children.into_iter().filter(|pid| pid.as_raw() != 0);
    let alive: Vec<Pid> = alive.collect();
    alive
        .iter()
        .for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
    for pid in &alive {
        reap(*pid);
    }
    took("killed", begun, all - 2);
    newcomer_takes_over(role, 1..234);
    newcomer_takes_over(role, 235..all);
    role.board().set(JOINED, 0);
    if is_full() {
        all_leave_in_peace(role, gate);
    }
}

/// As many once more, which all give back what they have in one way or another.
fn all_leave_in_peace(role: &Role, mut gate: Gate) {
    let begun = Instant::now();
    let children = start(role, &mut gate, 1..ALL);
    until_joined(role, ALL - 1);
    took("as many once more", begun, ALL - 1);
    let cache = Cache::open(role.store()).unwrap();
    newcomer_is_refused(role);
    let begun = Instant::now();
    gate.open();
    children.into_iter().for_each(reap_well);
    took("closed, or ended", begun, ALL - 1);
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    // Of those who ended without giving back.
    assert_eq!(
        report.dead_holds as u64,
        (1..ALL).filter(|n| n % 3 == 1).count() as u64
    );
    let taken = (1..ALL).filter(|n| {
        lock_of(&cache, *n)
            .try_acquire()
            .unwrap()
            .unwrap()
            .recovered()
            .is_some()
    });
    assert_eq!(taken.count(), report.dead_holds);
}

/// Each of them is seen by the last one, with what it holds.
fn looks_well(cache: &Cache, role: &Role, children: &[Pid]) {
    let begun = Instant::now();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.dead_holds, 0);
    took("check, beside all of them", begun, 1);
    let begun = Instant::now();
    let keys = cache.keys().unwrap();
    took("who holds what, of all keys", begun, 1);
    let holder = |info: slablock::KeyInfo| match info.state {
        slablock::KeyState::Lock {
            holder: Some(holder),
        } if holder.alive => (info.key, holder.pid),
        other => panic!("{other:?}"),
    };
    let holders: HashMap<Vec<u8>, u32> = keys.into_iter().map(holder).collect();
    assert_eq!(holders.len(), children.len());
    for (number, pid) in (1..).zip(children) {
        let key = format!("of {number}").into_bytes();
        assert_eq!(holders[&key] as i32, pid.as_raw());
        assert_eq!(role.board().get(PIDS + number) as i32, pid.as_raw());
    }
}
