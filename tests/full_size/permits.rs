//! Semaphores of 65,535 permits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use slablock::{BoundedSemaphore, Cache, Error, SemaphoreGuard};

use crate::kit::{Place, Role, alone, fork, reap_killed, reap_well, run, store, until};
use crate::{Gate, is_full, took};

const ALL: u32 = 65_535;
/// So many processes have as many each.
const PROCESSES: u32 = 15;
const EACH: u32 = ALL / PROCESSES;

// What the numbers on the board are.
const READY: usize = 0;
const GOT: usize = 1;

#[test]
fn all_permits_of_the_largest_semaphore_are_taken_and_come_back() {
    let _alone = alone("permits");
    let dir = Place::new();
    run("permits", dir.root(), &[]);
}

/// The first one makes the key, which takes longer than `try_acquire` has patience with.
fn take(semaphore: &BoundedSemaphore, count: u32) -> Vec<SemaphoreGuard<'static>> {
    let take = |_| semaphore.acquire().unwrap().into_owned();
    (0..count).map(take).collect()
}

pub fn permits(role: &Role) {
    let board = role.board();
    let semaphore = || BoundedSemaphore::new(&Cache::open(role.store()).unwrap(), "key", ALL);
    let (mut gate, mut waiters_gate) = (Gate::new(), Gate::new());
    let begun = Instant::now();
    let holders: Vec<_> = (0..PROCESSES)
        .map(|_| {
            fork(|| {
                gate.keep_out();
                waiters_gate.keep_out();
                let _taken = take(&semaphore(), EACH);
                board.add(READY, 1);
                gate.wait();
            })
        })
        .collect();
    until("all are taken", || board.get(READY) == u64::from(PROCESSES));
    took("permits taken by 15 processes", begun, ALL.into());
    let waiter = fork(|| {
        gate.keep_out();
        waiters_gate.keep_out();
        let semaphore = semaphore();
        let guard = semaphore.acquire().unwrap();
        board.set(GOT, guard.recovered().expect("who died is told").pid.into());
        waiters_gate.wait();
    });
    let cache = Cache::open(role.store()).unwrap();
    let semaphore = BoundedSemaphore::new(&cache, "key", ALL);
    until("it waits", || semaphore.waiters().unwrap() == 1);
    all_are_held(&semaphore);
    let begun = Instant::now();
    assert!(semaphore.try_acquire().unwrap().is_none());
    took("one too many is told so", begun, 1);
    let more = semaphore.acquire_timeout(Duration::from_millis(20));
    assert!(more.unwrap().is_none());
    // What the dead one had, and no more, comes back: one for the waiter, the others for this
    // process.
    let dead = holders[3];
    reap_killed(dead);
    let begun = Instant::now();
    until("the waiter has one", || board.get(GOT) != 0);
    took("until the waiter has a dead one's", begun, 1);
    assert_eq!(board.get(GOT), dead.as_raw() as u64);
    assert_eq!(semaphore.available().unwrap(), EACH - 1);
    let begun = Instant::now();
    let mine = take(&semaphore, EACH - 1);
    took("a dead one's permits taken over", begun, mine.len() as u64);
    let pids: BTreeSet<_> = mine
        .iter()
        .map(|guard| guard.recovered().unwrap().pid as i32)
        .collect();
    assert_eq!(pids, BTreeSet::from([dead.as_raw()]));
    assert!(semaphore.try_acquire().unwrap().is_none());
    assert!(cache.check().unwrap().is_sound());
    drop(mine);
    gate.open();
    waiters_gate.open();
    let alive = holders.into_iter().filter(|pid| *pid != dead);
    alive.chain([waiter]).for_each(reap_well);
    one_has_them_all(&cache, &semaphore);
}

fn all_are_held(semaphore: &BoundedSemaphore) {
    assert_eq!(semaphore.available().unwrap(), 0);
    let begun = Instant::now();
    let holders = semaphore.holders().unwrap();
    took("listing all holders", begun, 1);
    let tokens: BTreeSet<_> = holders.iter().map(|holder| holder.token).collect();
    assert_eq!(tokens.len(), ALL as usize);
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    for holder in &holders {
        assert!(holder.alive);
        *counts.entry(holder.pid).or_default() += 1;
    }
    assert_eq!(counts.len(), PROCESSES as usize);
    assert!(counts.values().all(|count| *count == EACH), "{counts:?}");
}

/// Nothing is left of the others.
fn one_has_them_all(cache: &Cache, semaphore: &BoundedSemaphore) {
    assert_eq!(semaphore.available().unwrap(), ALL);
    let begun = Instant::now();
    let all = take(semaphore, ALL);
    took("permits taken by one process", begun, ALL.into());
    assert!(all.iter().all(|guard| guard.recovered().is_none()));
    let numbers: BTreeSet<_> = all.iter().map(SemaphoreGuard::permit).collect();
    assert_eq!(numbers.len(), ALL as usize);
    assert!(semaphore.try_acquire().unwrap().is_none());
    let begun = Instant::now();
    drop(all);
    took("and given back", begun, ALL.into());
    assert_eq!(semaphore.available().unwrap(), ALL);
    assert!(cache.remove("key").unwrap());
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.slots_leaked + report.dead_holds, 0);
}

#[test]
fn one_permit_too_many_is_refused() {
    let _alone = alone("a permit too many");
    let (_place, cache) = store();
    for wrong in [0, ALL + 1, u32::MAX] {
        let semaphore = BoundedSemaphore::new(&cache, "key", wrong);
        let words = ["1 to 65535 permits", &wrong.to_string()];
        assert_error!(semaphore.try_acquire(), Error::Invalid { .. }, words);
        assert_error!(semaphore.acquire(), Error::Invalid { .. }, words);
        assert_error!(semaphore.available(), Error::Invalid { .. }, words);
    }
    assert!(cache.is_empty().unwrap());
    drop(BoundedSemaphore::new(&cache, "key", ALL).acquire().unwrap());
}

/// A store of the default capacity has room for five of that size at once; a sixth is told that it
/// is full, and fits in as soon as one is idle.
#[test]
fn a_store_has_room_for_five_of_the_largest_semaphores() {
    if !is_full() {
        return;
    }
    let _alone = alone("five semaphores");
    let place = Place::new();
    let cache = place.open();
    let semaphore = |n: u32| BoundedSemaphore::new(&cache, format!("{n}"), ALL);
    let five = [0, 1, 2, 3, 4].map(semaphore);
    let mut held: Vec<_> = five.iter().map(|one| one.acquire().unwrap()).collect();
    let begun = Instant::now();
    assert_error!(semaphore(5).try_acquire(), Error::Full { .. }, ["full"]);
    took("a sixth semaphore is told that there is no room", begun, 1);
    assert!(five.iter().all(|one| one.available().unwrap() == ALL - 1));
    held.pop();
    let begun = Instant::now();
    drop(semaphore(5).try_acquire().unwrap().unwrap());
    took("a sixth semaphore takes the place of an idle one", begun, 1);
    drop(held);
    assert!(cache.check().unwrap().is_sound());
    assert_eq!(cache.clear().unwrap(), 5);
}
