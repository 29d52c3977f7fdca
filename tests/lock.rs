//! What a `Lock` means, point by point, within one process.

#![allow(missing_docs)]

mod kit;

use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread;
use std::time::{Duration, Instant};

use kit::{LEASE, LONG, SHORT, bounded, is_not_holder, is_within, kept_at_last, store, until};
use slablock::{Cache, Error, Lock, LockGuard, Token};

fn assert_lost<T: std::fmt::Debug>(result: Result<T, Error>, token: Token) {
    match result {
        Err(Error::Lost { token: lost, .. }) => assert_eq!(lost, token),
        other => panic!("expected a lost hold, got {other:?}"),
    }
}

#[test]
fn a_held_lock_is_refused_to_others_and_free_after_the_guard() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        assert!(!lock.is_locked().unwrap());
        let guard = lock.acquire().unwrap();
        assert!(lock.is_locked().unwrap());
        assert!(lock.try_acquire().unwrap().is_none());
        assert!(Lock::new(&cache, "k").try_acquire().unwrap().is_none());
        assert!(Lock::new(&cache, "other").try_acquire().unwrap().is_some());
        drop(guard);
        assert!(!lock.is_locked().unwrap() && lock.holder().unwrap().is_none());
        lock.try_acquire().unwrap().unwrap().release().unwrap();
        assert!(!lock.is_locked().unwrap());
    });
}

#[test]
fn the_same_thread_waits_for_itself() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let _guard = lock.acquire().unwrap();
        let again = lock.acquire_timeout(Duration::from_millis(5)).unwrap();
        assert!(again.is_none());
    });
}

#[test]
fn a_timeout_is_exact_to_about_a_millisecond() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let _guard = lock.acquire().unwrap();
        // 20 ms is no multiple of any tick.
        let timeout = Duration::from_millis(20);
        kept_at_last("2 ms late", || {
            let start = Instant::now();
            assert!(lock.acquire_timeout(timeout).unwrap().is_none());
            let waited = start.elapsed();
            assert!(waited >= timeout, "too early: {waited:?}");
            is_within(waited, timeout + Duration::from_millis(2))
        });
    });
}

#[test]
fn a_timeout_of_zero_does_not_wait_and_an_endless_one_does() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let guard = lock.acquire_timeout(Duration::ZERO).unwrap().unwrap();
        assert!(lock.acquire_timeout(Duration::ZERO).unwrap().is_none());
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.acquire_timeout(Duration::MAX).unwrap().is_some());
            until("somebody waits", || lock.waiters().unwrap() == 1);
            guard.release().unwrap();
            assert!(waiter.join().unwrap());
        });
    });
}

#[test]
fn the_release_wakes_the_waiter() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        // A waiter looks for dead holders every few milliseconds; without the wake-up it would
        // notice the release no sooner.
        let handover = || {
            let guard = lock.acquire().unwrap();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let _guard = lock.acquire().unwrap();
                    Instant::now()
                });
                until("somebody waits", || lock.waiters().unwrap() == 1);
                thread::sleep(Duration::from_micros(300));
                let released = Instant::now();
                guard.release().unwrap();
                waiter.join().unwrap() - released
            })
        };
        kept_at_last("five of twelve hand-overs within 2 ms", || {
            let mut handovers = [(); 12].map(|()| handover());
            handovers.sort();
            is_within(handovers[4], Duration::from_millis(2))
        });
    });
}

#[test]
fn threads_exclude_each_other_and_all_are_served() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let count = AtomicU64::new(0);
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..6 {
                let (lock, count, inside) = (&lock, &count, &inside);
                scope.spawn(move || {
                    for round in 0..500 {
                        let _guard = lock.acquire().unwrap();
                        assert_eq!(inside.fetch_add(1, Relaxed), 0, "two at a time");
                        // Not atomic on purpose: what the lock is for.
                        let seen = count.load(Relaxed);
                        if round % 16 == number {
                            thread::yield_now();
                        }
                        count.store(seen + 1, Relaxed);
                        inside.fetch_sub(1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 3_000);
        assert_eq!(lock.waiters().unwrap(), 0);
    });
}

#[test]
fn of_many_that_make_a_key_at_once_one_has_it() {
    bounded(|| {
        let (_place, cache) = store();
        let start = Barrier::new(4);
        for round in 0..40 {
            let key = format!("fresh {round}");
            let got = AtomicUsize::new(0);
            let end = Barrier::new(4);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let lock = Lock::new(&cache, &key);
                        start.wait();
                        let guard = lock.try_acquire().unwrap();
                        got.fetch_add(usize::from(guard.is_some()), Relaxed);
                        end.wait();
                    });
                }
            });
            assert_eq!(got.into_inner(), 1, "round {round}");
        }
        assert_eq!(cache.len().unwrap(), 40);
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
fn tokens_only_grow() {
    bounded(|| {
        let (_place, cache) = store();
        let mut last = Token::new(0);
        let mut grew = |token: Token| {
            assert!(token > last, "{token} after {last}");
            last = token;
        };
        let lock = Lock::new(&cache, "k").lease(SHORT);
        for _ in 0..10 {
            grew(lock.acquire().unwrap().token());
        }
        grew(Lock::new(&cache, "k").acquire().unwrap().token());
        let late = lock.acquire().unwrap();
        grew(late.token());
        grew(lock.acquire().unwrap().token());
        for _ in 0..3 {
            assert!(cache.remove("k").unwrap());
            grew(lock.acquire().unwrap().token());
        }
    });
}

#[test]
fn an_expired_lease_goes_to_the_next_at_once_and_the_late_one_finds_it_lost() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k").lease(LEASE);
        let late = lock.acquire().unwrap();
        assert!(lock.try_acquire().unwrap().is_none());
        until("the lease is over", || late.check().is_err());
        assert!(!lock.is_locked().unwrap());
        let shown = lock.holder().unwrap().unwrap();
        assert_eq!(
            (shown.lease_left, shown.alive),
            (Some(Duration::ZERO), true)
        );
        let next = Lock::new(&cache, "k");
        let next = next.try_acquire().unwrap().expect("the lease is over");
        assert!(next.recovered().is_none());
        assert_eq!(
            kit::late(next.predecessor()).map(|h| h.token),
            Some(late.token())
        );
        let token = late.token();
        assert_lost(late.check(), token);
        assert_lost(late.renew(), token);
        assert_lost(late.release(), token);
        assert_lost(lock.release(token), token);
        next.check().unwrap();
        assert_eq!(lock.holder().unwrap().unwrap().token, next.token());
        next.release().unwrap();
    });
}

#[test]
fn a_dropped_late_guard_leaves_the_successor_alone() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k").lease(SHORT);
        let late = lock.acquire().unwrap();
        let next = Lock::new(&cache, "k");
        let next = next.acquire().unwrap();
        drop(late);
        assert!(lock.is_locked().unwrap());
        next.release().unwrap();
    });
}

#[test]
fn a_waiter_gets_the_lock_when_the_lease_is_over() {
    bounded(|| {
        let (_place, cache) = store();
        // No multiple of any tick.
        let lease = Duration::from_millis(14);
        let lock = Lock::new(&cache, "k").lease(lease);
        kept_at_last("2 ms late", || {
            let start = Instant::now();
            let _late = lock.acquire().unwrap();
            assert!(lock.acquire_timeout(LONG).unwrap().is_some());
            let waited = start.elapsed();
            assert!(waited >= lease, "too early: {waited:?}");
            is_within(waited, lease + Duration::from_millis(2))
        });
    });
}

#[test]
fn renewing_starts_the_lease_anew_also_when_it_was_over_and_nobody_came() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k").lease(LEASE);
        let guard = lock.acquire().unwrap();
        until("the lease is over", || guard.check().is_err());
        guard.renew().unwrap();
        guard.check().unwrap();
        let start = Instant::now();
        while start.elapsed() < LEASE + SHORT {
            guard.renew().unwrap();
            thread::sleep(SHORT);
        }
        guard.check().unwrap();
        guard.release().unwrap();
    });
}

#[test]
fn without_a_lease_a_hold_has_no_end() {
    bounded(|| {
        let (_place, cache) = store();
        // The key had a lease before: none of it may be left.
        drop(Lock::new(&cache, "k").lease(SHORT).acquire().unwrap());
        let lock = Lock::new(&cache, "k");
        let guard = lock.acquire().unwrap();
        assert_eq!(lock.holder().unwrap().unwrap().lease_left, None);
        thread::sleep(SHORT * 2);
        guard.check().unwrap();
        guard.renew().unwrap();
        assert!(lock.try_acquire().unwrap().is_none());
        guard.release().unwrap();
    });
}

#[test]
fn a_lease_of_centuries_is_one() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k").lease(Duration::MAX);
        let guard = lock.acquire().unwrap();
        guard.check().unwrap();
        assert!(lock.try_acquire().unwrap().is_none());
        let left = lock.holder().unwrap().unwrap().lease_left.unwrap();
        assert!(left > LONG);
        guard.renew().unwrap();
        guard.release().unwrap();
    });
}

#[test]
fn the_holder_is_told_in_full() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k").lease(LONG);
        let guard = lock.acquire().unwrap();
        let holder = thread::scope(|scope| {
            let asked = scope.spawn(|| Lock::new(&cache, "k").holder().unwrap());
            asked.join().unwrap().unwrap()
        });
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(holder.tid, nix::unistd::gettid().as_raw() as u32);
        let program = std::fs::read_to_string("/proc/self/comm").unwrap();
        // A test's main thread names the process; other threads may have names of their own.
        let main = format!("/proc/self/task/{}/comm", std::process::id());
        let main = std::fs::read_to_string(main).unwrap();
        let name = holder.program.as_str();
        assert!(
            name == program.trim_end() || name == main.trim_end(),
            "{name}"
        );
        assert_eq!(holder.token, guard.token());
        assert!(holder.alive && holder.same_pid_namespace);
        assert!(holder.held_for.unwrap() < LONG);
        let left = holder.lease_left.unwrap();
        assert!(left <= LONG + Duration::from_millis(51) && left > LONG - kit::HANGS);
    });
}

#[test]
fn the_time_held_is_counted() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let _guard = lock.acquire().unwrap();
        thread::sleep(Duration::from_millis(30));
        let held = lock.holder().unwrap().unwrap().held_for.unwrap();
        assert!(held >= Duration::from_millis(20), "{held:?}");
        assert!(held < kit::HANGS, "{held:?}");
    });
}

#[test]
fn a_token_releases_once_and_only_its_own_hold() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        assert!(is_not_holder(lock.release(Token::new(1))));
        let first = lock.acquire().unwrap().into_token();
        assert!(lock.is_locked().unwrap());
        assert!(is_not_holder(lock.release(Token::new(first.get() + 1))));
        // Of a smaller one, something was granted since.
        assert_lost(lock.release(Token::new(0)), Token::new(0));
        assert!(lock.is_locked().unwrap());
        Lock::new(&cache, "k").release(first).unwrap();
        assert!(!lock.is_locked().unwrap());
        assert!(is_not_holder(lock.release(first)));
        let second = lock.acquire().unwrap();
        assert_lost(lock.release(first), first);
        second.check().unwrap();
        let token = second.token();
        lock.release(token).unwrap();
        assert_lost(second.release(), token);
    });
}

#[test]
fn releasing_by_token_wakes_a_waiter() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let token = lock.acquire().unwrap().into_token();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.acquire().unwrap().token());
            until("somebody waits", || lock.waiters().unwrap() == 1);
            lock.release(token).unwrap();
            assert!(waiter.join().unwrap() > token);
        });
    });
}

#[test]
fn a_token_keeps_the_lock_when_every_handle_is_gone() {
    bounded(|| {
        let (place, cache) = store();
        let token = Lock::new(&cache, "k").acquire().unwrap().into_token();
        drop(cache);
        let cache = place.open();
        let lock = Lock::new(&cache, "k");
        assert!(lock.try_acquire().unwrap().is_none());
        lock.release(token).unwrap();
    });
}

#[test]
fn an_owned_guard_outlives_its_handle_and_moves_between_threads() {
    bounded(|| {
        let (place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let guard: LockGuard<'static> = lock.acquire().unwrap().into_owned();
        drop((lock, cache));
        let cache = place.open();
        let lock = Lock::new(&cache, "k");
        assert!(lock.try_acquire().unwrap().is_none());
        thread::spawn(move || guard.check().and_then(|()| guard.release()))
            .join()
            .unwrap()
            .unwrap();
        assert!(!lock.is_locked().unwrap());
    });
}

#[test]
fn a_guard_is_given_back_when_its_thread_panics() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let panicked = thread::scope(|scope| {
            let held = scope.spawn(|| {
                let _guard = lock.acquire().unwrap();
                std::panic::resume_unwind(Box::new("on purpose"));
            });
            held.join().is_err()
        });
        assert!(panicked && lock.try_acquire().unwrap().is_some());
    });
}

#[test]
fn handles_go_everywhere() {
    fn everywhere<T: Clone + Send + Sync + 'static>() {}
    fn sendable<T: Send>() {}
    everywhere::<Lock>();
    everywhere::<Cache>();
    sendable::<LockGuard<'static>>();
}

#[test]
fn making_a_handle_and_looking_makes_no_key() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k").lease(LONG).tag("t");
        assert_eq!(cache.len().unwrap(), 0);
        assert!(!lock.is_locked().unwrap());
        assert!(lock.holder().unwrap().is_none());
        assert_eq!(lock.waiters().unwrap(), 0);
        assert!(is_not_holder(lock.release(Token::new(7))));
        assert_eq!(cache.len().unwrap(), 0);
        // What is wrong is told by the first use, not by the constructor.
        assert!(Lock::new(&cache, "").acquire().is_err());
        assert_eq!(cache.len().unwrap(), 0);
    });
}

#[test]
fn text_and_bytes_name_the_same_key() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let _guard = lock.acquire().unwrap();
        for other in [
            Lock::new(&cache, b"k"),
            Lock::new(&cache, vec![b'k']),
            Lock::new(&cache, String::from("k")),
        ] {
            assert!(other.is_locked().unwrap());
        }
        let odd = Lock::new(&cache, [0_u8, 0xff, 0]);
        let _odd = odd.acquire().unwrap();
        assert!(!Lock::new(&cache, [0_u8, 0xff]).is_locked().unwrap());
        assert!(Lock::new(&cache, [0_u8, 0xff, 0]).is_locked().unwrap());
    });
}

/// Threads of one process that wait for several keys: each is counted at its own.
#[test]
fn waiters_are_counted_key_by_key() {
    bounded(|| {
        let (_place, cache) = store();
        let [one, two] = ["one", "two"].map(|key| Lock::new(&cache, key));
        let guards = [&one, &two].map(|lock| lock.acquire().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| drop(one.acquire().unwrap()));
            until("somebody waits for one", || one.waiters().unwrap() == 1);
            for _ in 0..2 {
                scope.spawn(|| drop(two.acquire().unwrap()));
            }
            until("two wait for the other", || two.waiters().unwrap() == 2);
            assert_eq!(one.waiters().unwrap(), 1);
            drop(guards);
        });
        assert_eq!([one, two].map(|lock| lock.waiters().unwrap()), [0, 0]);
    });
}

#[test]
fn waiters_are_counted() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let other = Lock::new(&cache, "other");
        let guard = lock.acquire().unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| drop(lock.acquire().unwrap()));
            }
            until("three wait", || lock.waiters().unwrap() == 3);
            assert_eq!(other.waiters().unwrap(), 0);
            assert_eq!(cache.key_info("k").unwrap().unwrap().waiters, 3);
            drop(guard);
        });
        assert_eq!(lock.waiters().unwrap(), 0);
    });
}

#[test]
fn eviction_releases_by_force_and_the_holder_finds_it_lost() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k").tag("jobs");
        let guard = lock.acquire().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.acquire().unwrap().token());
            until("somebody waits", || lock.waiters().unwrap() == 1);
            assert_eq!(cache.remove_tagged("jobs").unwrap(), 1);
            assert!(waiter.join().unwrap() > guard.token());
        });
        let token = guard.token();
        assert_lost(guard.check(), token);
        assert_lost(guard.renew(), token);
        let successor = lock.acquire().unwrap();
        assert_lost(guard.release(), token);
        successor.check().unwrap();
        // Made anew by the waiter's handle, with its tag.
        assert_eq!(cache.remove_tagged("jobs").unwrap(), 1);
    });
}

#[test]
fn removal_wakes_every_waiter_and_they_go_on() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let _guard = lock.acquire().unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| drop(lock.acquire().unwrap()));
            }
            until("three wait", || lock.waiters().unwrap() == 3);
            assert!(cache.remove("k").unwrap());
        });
        assert!(!lock.is_locked().unwrap());
    });
}
