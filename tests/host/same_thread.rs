//! A thread that waits for itself, as far as that is certain: in a process that has no other
//! thread, for what its own guards hold. The tests run in forked children, which have one thread;
//! whoever waits in vain there is ended by an alarm.

use std::path::Path;

use nix::unistd::Pid;
use slablock::{BoundedSemaphore, Cache, Error, Lock, RLock};

use crate::kit::{LONG, Place, SHORT, Watchdog, fork, reap_killed, reap_well, until};

/// Runs a test in a process that has one thread.
fn alone(test: impl FnOnce(&Cache)) {
    let place = Place::new();
    let store = place.store();
    reap_well(fork(|| test(&Cache::open(store).unwrap())));
}

#[test]
fn a_lock_taken_twice_by_the_only_thread_is_an_error_at_once() {
    let _watchdog = Watchdog::new("twice");
    alone(|cache| {
        let lock = Lock::new(cache, "k");
        let guard = lock.acquire().unwrap();
        // By any handle.
        for again in [
            &lock,
            &Lock::new(cache, "k"),
            &Lock::new(cache, "k").lease(LONG),
        ] {
            assert_error!(
                again.acquire(),
                Error::Deadlock { .. },
                ["this thread", "k"]
            );
        }
        // Nothing was changed by that, and no mark of a waiter is left.
        guard.check().unwrap();
        assert_eq!(lock.waiters().unwrap(), 0);
        // Who does not wait for ever is told that it is held.
        assert!(lock.try_acquire().unwrap().is_none());
        assert!(lock.acquire_timeout(SHORT).unwrap().is_none());
        let guard = guard.into_owned();
        assert_error!(lock.acquire(), Error::Deadlock { .. }, ["this thread"]);
        drop(guard);
        lock.acquire().unwrap().release().unwrap();
    });
}

#[test]
fn all_permits_taken_by_the_only_thread_are_an_error_and_a_re_entrant_lock_is_none() {
    let _watchdog = Watchdog::new("permits");
    alone(|cache| {
        let permits = BoundedSemaphore::new(cache, "permits", 3);
        let mut guards: Vec<_> = (0..3).map(|_| permits.acquire().unwrap()).collect();
        assert_error!(
            permits.acquire(),
            Error::Deadlock { .. },
            ["all permits of \"permits\""]
        );
        guards.pop();
        permits.acquire().unwrap().release().unwrap();
        let lock = RLock::new(cache, "again");
        let _both = (lock.acquire().unwrap(), lock.acquire().unwrap());
        assert_eq!(lock.depth().unwrap(), 2);
    });
}

/// Starts a process that waits without a limit for what it takes.
fn waiter(store: &Path, take: impl FnOnce(&Cache)) -> Pid {
    fork(|| take(&Cache::open(store).unwrap()))
}

/// Not what is certain: each of them waits, and gets it when it comes free.
#[test]
fn what_another_may_give_back_is_waited_for() {
    let _watchdog = Watchdog::new("others");
    // By token: whoever knows it.
    let place = Place::new();
    let cache = place.open();
    let lock = Lock::new(&cache, "k");
    let pid = waiter(&place.store(), |cache| {
        let lock = Lock::new(cache, "k");
        let _token = lock.acquire().unwrap().into_token();
        drop(lock.acquire().unwrap());
    });
    until("the thread waits", || lock.waiters().unwrap() == 1);
    let token = lock.holder().unwrap().unwrap().token;
    lock.release(token).unwrap();
    reap_well(pid);
    // One permit of two by token.
    let permits = BoundedSemaphore::new(&cache, "permits", 2);
    let pid = waiter(&place.store(), |cache| {
        let permits = BoundedSemaphore::new(cache, "permits", 2);
        let _guard = permits.acquire().unwrap();
        let _token = permits.acquire().unwrap().into_token();
        drop(permits.acquire().unwrap());
    });
    until("the thread waits", || permits.waiters().unwrap() == 1);
    let token = permits.holders().unwrap().pop().unwrap().token;
    permits.release(token).unwrap();
    reap_well(pid);
    // With a lease, which ends.
    alone(|cache| {
        let lock = Lock::new(cache, "leased").lease(SHORT);
        let _late = lock.acquire().unwrap();
        assert!(crate::kit::late(lock.acquire().unwrap().predecessor()).is_some());
    });
    // Another process has it, or one of the permits.
    let held = (lock.acquire().unwrap(), permits.acquire().unwrap());
    let pid = waiter(&place.store(), |cache| {
        let permits = BoundedSemaphore::new(cache, "permits", 2);
        let _mine = permits.acquire().unwrap();
        drop(permits.acquire().unwrap());
    });
    until("it waits for the permit", || {
        permits.waiters().unwrap() == 1
    });
    drop(held.1);
    reap_well(pid);
    let pid = waiter(&place.store(), |cache| {
        drop(Lock::new(cache, "k").acquire().unwrap());
    });
    until("it waits for the lock", || lock.waiters().unwrap() == 1);
    reap_killed(pid);
}

/// The guard was moved, and the thread that took it waits for the other one to drop it.
#[test]
fn a_guard_that_another_thread_drops_is_waited_for() {
    let _watchdog = Watchdog::new("moved");
    alone(|cache| {
        let lock = Lock::new(cache, "k");
        for _ in 0..20 {
            let guard = lock.acquire().unwrap().into_owned();
            let other = Lock::new(cache, "k");
            let dropping = std::thread::spawn(move || {
                until("the thread that took it waits", || {
                    other.waiters().unwrap() == 1
                });
                drop(guard);
            });
            drop(lock.acquire().unwrap());
            dropping.join().unwrap();
        }
        // Lent: it does not even change its place.
        let mut lent = Some(lock.acquire().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until("it waits", || lock.waiters().unwrap() == 1);
                lent = None;
            });
            drop(lock.acquire().unwrap());
        });
        // When the other one has ended without, nobody is left to drop it.
        let guard = lock.acquire().unwrap().into_owned();
        let ending = std::thread::spawn(move || std::mem::forget(guard));
        ending.join().unwrap();
        // A thread that was waited for is in the list for a moment yet: then it is found out at the
        // next look.
        assert_error!(lock.acquire(), Error::Deadlock { .. }, ["this thread"]);
    });
}
