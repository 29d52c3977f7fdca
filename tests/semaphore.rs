//! What a `BoundedSemaphore` means, point by point, within one process.

#![allow(missing_docs)]

mod kit;

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use kit::{
    LEASE, LONG, SHORT, bounded, is_lost, is_not_holder, is_within, kept_at_last, store, until,
};
use slablock::{BoundedSemaphore, Error, KeyState, SemaphoreGuard, Token};

#[test]
fn there_are_as_many_permits_as_said_and_they_come_back() {
    bounded(|| {
        let (_place, cache) = store();
        // Around the number of permits that lie together.
        for value in [1_u32, 2, 3, 4, 5, 8, 9, 33] {
            let semaphore = BoundedSemaphore::new(&cache, format!("s{value}"), value);
            assert_eq!(
                (semaphore.value(), semaphore.available().unwrap()),
                (value, value)
            );
            let mut guards = Vec::new();
            for left in (0..value).rev() {
                guards.push(semaphore.try_acquire().unwrap().unwrap());
                assert_eq!(semaphore.available().unwrap(), left);
            }
            let permits: HashSet<_> = guards.iter().map(SemaphoreGuard::permit).collect();
            assert_eq!(permits.len(), value as usize);
            assert!(semaphore.try_acquire().unwrap().is_none());
            assert_eq!(semaphore.holders().unwrap().len(), value as usize);
            guards.pop().unwrap().release().unwrap();
            assert_eq!(semaphore.available().unwrap(), 1);
            drop(semaphore.try_acquire().unwrap().unwrap());
            drop(guards);
            assert_eq!(semaphore.available().unwrap(), value);
            assert!(semaphore.holders().unwrap().is_empty());
        }
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
fn the_largest_semaphore_works() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 65_535);
        let first = semaphore.acquire().unwrap();
        let second = semaphore.acquire().unwrap();
        assert_ne!(first.permit(), second.permit());
        assert_eq!(semaphore.available().unwrap(), 65_533);
        assert_eq!(semaphore.holders().unwrap().len(), 2);
        drop((first, second));
        assert!(cache.remove("s").unwrap());
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
fn never_more_hold_it_than_there_are_permits() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 3);
        let all: Vec<_> = (0..3).map(|_| semaphore.acquire().unwrap()).collect();
        assert!(semaphore.try_acquire().unwrap().is_none());
        drop(all);
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _guard = semaphore.acquire().unwrap();
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                    }
                });
            }
        });
        assert_eq!(semaphore.available().unwrap(), 3);
        assert_eq!(semaphore.waiters().unwrap(), 0);
    });
}

#[test]
fn a_semaphore_in_use_has_one_number_of_permits() {
    bounded(|| {
        let (_place, cache) = store();
        let three = BoundedSemaphore::new(&cache, "s", 3);
        let guard = three.acquire().unwrap();
        let other = BoundedSemaphore::new(&cache, "s", 4);
        let told = |error| match error {
            Error::ConfigMismatch {
                found, expected, ..
            } => (found.parse(), expected.parse()),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(other.try_acquire().unwrap_err()), (Ok(3), Ok(4)));
        assert_eq!(told(other.acquire().unwrap_err()), (Ok(3), Ok(4)));
        assert_eq!(told(other.available().unwrap_err()), (Ok(3), Ok(4)));
        assert_eq!(told(other.holders().unwrap_err()), (Ok(3), Ok(4)));
        assert_eq!(
            BoundedSemaphore::new(&cache, "s", 3).available().unwrap(),
            2
        );
        drop(guard);
        // Looking decides nothing: it is as if there were no key.
        assert_eq!(other.available().unwrap(), 4);
        assert_eq!(other.waiters().unwrap(), 0);
        assert!(other.release(slablock::Token::new(1)).is_err());
        assert_eq!(three.available().unwrap(), 3);
        drop(other.acquire().unwrap());
        assert_eq!(three.available().unwrap(), 3);
        assert_eq!(
            BoundedSemaphore::new(&cache, "s", 4).available().unwrap(),
            4
        );
    });
}

#[test]
fn looking_makes_no_key() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 3).tag("t").lease(LONG);
        assert_eq!(semaphore.available().unwrap(), 3);
        assert!(semaphore.holders().unwrap().is_empty());
        assert!(is_not_holder(semaphore.release(Token::new(1))));
        assert_eq!(cache.len().unwrap(), 0);
    });
}

#[test]
fn an_expired_permit_comes_back_alone() {
    bounded(|| {
        let (_place, cache) = store();
        let leased = BoundedSemaphore::new(&cache, "s", 3).lease(LEASE);
        let plain = BoundedSemaphore::new(&cache, "s", 3);
        let one = plain.acquire().unwrap();
        let late = leased.acquire().unwrap();
        let other = plain.acquire().unwrap();
        assert!(plain.try_acquire().unwrap().is_none());
        until("the lease is over", || late.check().is_err());
        assert_eq!(plain.available().unwrap(), 1);
        let next = plain.try_acquire().unwrap().expect("the lease is over");
        assert_eq!(next.permit(), late.permit());
        assert_eq!(
            kit::late(next.predecessor()).map(|h| h.token),
            Some(late.token())
        );
        assert!(next.recovered().is_none());
        assert!(plain.try_acquire().unwrap().is_none());
        assert!(is_lost(late.renew()));
        assert!(is_lost(late.release()));
        // The late release gave nothing back.
        assert_eq!(plain.available().unwrap(), 0);
        for guard in [&one, &other, &next] {
            guard.check().unwrap();
        }
    });
}

#[test]
fn a_waiter_gets_the_first_permit_whose_lease_is_over() {
    bounded(|| {
        let (_place, cache) = store();
        let long = BoundedSemaphore::new(&cache, "s", 2).lease(LONG);
        let short = BoundedSemaphore::new(&cache, "s", 2).lease(Duration::from_millis(40));
        let _long = long.acquire().unwrap();
        let start = Instant::now();
        let late = short.acquire().unwrap();
        let next = long.acquire_timeout(LONG).unwrap().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(40));
        assert_eq!(next.permit(), late.permit());
    });
}

#[test]
fn a_renewed_permit_stays() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 1).lease(LEASE);
        let guard = semaphore.acquire().unwrap();
        until("the lease is over", || guard.check().is_err());
        guard.renew().unwrap();
        guard.check().unwrap();
        assert_eq!(semaphore.available().unwrap(), 0);
        guard.release().unwrap();
    });
}

#[test]
fn releasing_what_is_not_held_changes_nothing() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 2);
        let kept = semaphore.acquire().unwrap();
        let token = semaphore.acquire().unwrap().into_token();
        semaphore.release(token).unwrap();
        for stale in [token, Token::new(0), Token::new(u64::MAX)] {
            assert!(is_not_holder(semaphore.release(stale)));
            assert_eq!(semaphore.available().unwrap(), 1);
        }
        // One who knows the token may release in the holder's stead; then the holder has lost it.
        semaphore.release(kept.token()).unwrap();
        assert!(is_lost(kept.release()));
        assert_eq!(semaphore.available().unwrap(), 2);
    });
}

#[test]
fn tokens_are_unique_and_grow_for_the_key() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 6);
        let mut last = 0;
        for _ in 0..4 {
            for _ in 0..5 {
                let guards: Vec<_> = (0..6).map(|_| semaphore.acquire().unwrap()).collect();
                for guard in &guards {
                    assert!(guard.token().get() > last);
                    last = guard.token().get();
                }
            }
            assert!(cache.remove("s").unwrap());
        }
        // Also when the key comes back as something else, and with fewer permits.
        let lock = slablock::Lock::new(&cache, "s");
        let token = lock.acquire().unwrap().token().get();
        assert!(token > last);
        assert!(cache.remove("s").unwrap());
        let single = BoundedSemaphore::new(&cache, "s", 1);
        assert!(single.acquire().unwrap().token().get() > token);
    });
}

#[test]
fn tokens_are_unique_among_threads() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 3);
        let tokens = thread::scope(|scope| {
            let threads = [(); 4].map(|()| {
                scope.spawn(|| {
                    let take = |_| semaphore.acquire().unwrap().token();
                    (0..300).map(take).collect::<Vec<_>>()
                })
            });
            let taken = threads.map(|t| t.join().unwrap());
            taken.concat()
        });
        let unique: HashSet<_> = tokens.iter().collect();
        assert_eq!(unique.len(), 1_200);
    });
}

#[test]
fn a_release_wakes_a_waiter() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 2);
        let handover = |round: usize| {
            let mut guards = [(); 2].map(|()| Some(semaphore.acquire().unwrap()));
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let _guard = semaphore.acquire().unwrap();
                    Instant::now()
                });
                until("somebody waits", || semaphore.waiters().unwrap() == 1);
                thread::sleep(Duration::from_micros(300));
                let released = Instant::now();
                guards[round % 2] = None;
                waiter.join().unwrap() - released
            })
        };
        kept_at_last("five of twelve hand-overs within 2 ms", || {
            let mut handovers: Vec<_> = (0..12).map(handover).collect();
            handovers.sort();
            is_within(handovers[4], Duration::from_millis(2))
        });
    });
}

#[test]
fn every_waiter_is_served_when_permits_come_back_at_once() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 3);
        let guards = [(); 3].map(|()| semaphore.acquire().unwrap());
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| drop(semaphore.acquire().unwrap()));
            }
            until("six wait", || semaphore.waiters().unwrap() == 6);
            drop(guards);
        });
        assert_eq!(semaphore.available().unwrap(), 3);
    });
}

#[test]
fn a_timeout_ends_in_none() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 1);
        let _guard = semaphore.acquire().unwrap();
        let start = Instant::now();
        assert!(semaphore.acquire_timeout(SHORT).unwrap().is_none());
        assert!(start.elapsed() >= SHORT);
        assert!(semaphore.acquire_timeout(Duration::ZERO).unwrap().is_none());
    });
}

#[test]
fn all_holders_are_told() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 5).lease(LONG);
        let guards = [(); 3].map(|()| semaphore.acquire().unwrap());
        let holders = semaphore.holders().unwrap();
        let tokens: HashSet<_> = holders.iter().map(|h| h.token).collect();
        assert_eq!(tokens, guards.iter().map(SemaphoreGuard::token).collect());
        for holder in &holders {
            assert_eq!(holder.pid, std::process::id());
            assert!(holder.alive && holder.lease_left.is_some());
        }
        match cache.key_info("s").unwrap().unwrap().state {
            KeyState::Semaphore {
                value,
                available,
                holders,
            } => assert_eq!((value, available, holders.len()), (5, 2, 3)),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn eviction_takes_every_permit_and_waiters_start_over() {
    bounded(|| {
        let (_place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 2).tag("t");
        let guards = [(); 2].map(|()| semaphore.acquire().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| drop(semaphore.acquire().unwrap()));
            until("somebody waits", || semaphore.waiters().unwrap() == 1);
            assert_eq!(cache.remove_tagged("t").unwrap(), 1);
        });
        for guard in guards {
            assert!(is_lost(guard.check()));
            assert!(is_lost(guard.release()));
        }
        assert_eq!(semaphore.available().unwrap(), 2);
    });
}

#[test]
fn owned_permits_outlive_their_handle_and_tokens_everything() {
    bounded(|| {
        let (place, cache) = store();
        let semaphore = BoundedSemaphore::new(&cache, "s", 2);
        let owned: SemaphoreGuard<'static> = semaphore.acquire().unwrap().into_owned();
        let token = semaphore.acquire().unwrap().into_token();
        drop((semaphore, cache));
        let cache = place.open();
        let semaphore = BoundedSemaphore::new(&cache, "s", 2);
        assert!(semaphore.try_acquire().unwrap().is_none());
        thread::spawn(move || owned.release())
            .join()
            .unwrap()
            .unwrap();
        semaphore.release(token).unwrap();
        assert_eq!(semaphore.available().unwrap(), 2);
        fn everywhere<T: Clone + Send + Sync + 'static>() {}
        everywhere::<BoundedSemaphore>();
    });
}
