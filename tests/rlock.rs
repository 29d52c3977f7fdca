//! What an `RLock` means, point by point, within one process.

#![allow(missing_docs)]

mod kit;

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use kit::{LONG, SHORT, bounded, is_lost, is_not_holder, store, until};
use slablock::{RLock, RLockGuard, Token};

/// Asks from another thread whether the lock can be had.
fn free_for_others(lock: &RLock) -> bool {
    thread::scope(|scope| {
        let other = scope.spawn(|| lock.try_acquire().unwrap().is_some());
        other.join().unwrap()
    })
}

#[test]
fn the_owner_goes_deeper_and_the_last_level_frees_it() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        assert_eq!(lock.depth().unwrap(), 0);
        let outer = lock.acquire().unwrap();
        let middle = lock.try_acquire().unwrap().unwrap();
        let inner = lock.acquire_timeout(LONG).unwrap().unwrap();
        assert_eq!(lock.depth().unwrap(), 3);
        assert_eq!(outer.token(), inner.token());
        inner.release().unwrap();
        middle.release().unwrap();
        assert_eq!(lock.depth().unwrap(), 1);
        assert!(!free_for_others(&lock));
        outer.release().unwrap();
        assert_eq!(lock.depth().unwrap(), 0);
        assert!(!lock.is_locked().unwrap());
        assert!(free_for_others(&lock));
    });
}

#[test]
fn guards_go_in_any_order() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut guards = [(); 3].map(|()| Some(lock.acquire().unwrap()));
            for (gone, at) in order.into_iter().enumerate() {
                assert!(!free_for_others(&lock));
                guards[at] = None;
                assert_eq!(lock.depth().unwrap(), 2 - gone as u32);
            }
            assert!(free_for_others(&lock), "{order:?}");
        }
    });
}

#[test]
fn every_handle_of_the_key_is_the_same_lock_to_its_owner() {
    bounded(|| {
        let (place, cache) = store();
        let one = RLock::new(&cache, "k");
        let other = RLock::new(&place.open(), "k");
        let clone = one.clone();
        let guard = one.acquire().unwrap();
        let again = other.try_acquire().unwrap().expect("the same owner");
        let third = clone.try_acquire().unwrap().expect("the same owner");
        for lock in [&one, &other, &clone] {
            assert_eq!(lock.depth().unwrap(), 3);
        }
        drop((guard, third));
        assert!(!free_for_others(&other));
        drop(again);
        assert!(free_for_others(&one));
    });
}

#[test]
fn another_thread_of_the_process_is_another_owner() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        let guard = lock.acquire().unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                assert!(lock.try_acquire().unwrap().is_none());
                assert_eq!(lock.depth().unwrap(), 0);
                assert!(is_not_holder(lock.release(guard_token(&lock))));
            });
            other.join().unwrap();
        });
        guard.check().unwrap();
        guard.release().unwrap();
    });
}

fn guard_token(lock: &RLock) -> Token {
    lock.holder().unwrap().expect("somebody has it").token
}

#[test]
fn a_new_thread_never_passes_for_one_that_ended() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        let token = thread::scope(|scope| {
            let gone = scope.spawn(|| lock.acquire().unwrap().into_token());
            gone.join().unwrap()
        });
        // Threads enough for one to get the stack, and the thread locals, of the one that ended.
        for _ in 0..20 {
            assert!(!free_for_others(&lock));
        }
        assert!(is_not_holder(lock.release(token)));
        assert!(cache.remove("k").unwrap());
        assert!(free_for_others(&lock));
    });
}

#[test]
fn threads_exclude_each_other_at_every_depth() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        let count = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..300 {
                        let _outer = lock.acquire().unwrap();
                        let seen = count.load(Relaxed);
                        let inner = lock.acquire().unwrap();
                        if round % 16 == 0 {
                            thread::yield_now();
                        }
                        drop(inner);
                        count.store(seen + 1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 1_200);
    });
}

#[test]
fn releasing_what_is_not_held_is_told() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        assert!(is_not_holder(lock.release(Token::new(1))));
        assert_eq!(cache.len().unwrap(), 0);
        let token = lock.acquire().unwrap().token();
        assert!(is_not_holder(lock.release(token)));
        let guard = lock.acquire().unwrap();
        assert!(is_not_holder(lock.release(token)));
        assert!(is_not_holder(lock.release(Token::new(token.get() + 2))));
        guard.release().unwrap();
    });
}

#[test]
fn a_token_takes_one_level_away() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        let token = lock.acquire().unwrap().into_token();
        assert_eq!(lock.acquire().unwrap().into_token(), token);
        assert_eq!(lock.depth().unwrap(), 2);
        lock.release(token).unwrap();
        assert!(!free_for_others(&lock));
        lock.release(token).unwrap();
        assert!(free_for_others(&lock));
        assert!(is_not_holder(lock.release(token)));
    });
}

#[test]
fn each_acquire_starts_the_lease_anew() {
    bounded(|| {
        let (_place, cache) = store();
        let short = RLock::new(&cache, "k").lease(SHORT);
        let long = RLock::new(&cache, "k").lease(LONG);
        let outer = short.acquire().unwrap();
        let inner = long.acquire().unwrap();
        assert_eq!(outer.token(), inner.token());
        thread::sleep(SHORT * 2);
        outer.check().unwrap();
        let left = long.holder().unwrap().unwrap().lease_left.unwrap();
        assert!(left > LONG / 2, "{left:?}");
        let innermost = short.acquire().unwrap();
        let left = long.holder().unwrap().unwrap().lease_left.unwrap();
        assert!(left <= SHORT + Duration::from_millis(1), "{left:?}");
        innermost.renew().unwrap();
    });
}

#[test]
fn an_expired_hold_is_lost_at_every_depth() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k").lease(SHORT);
        let outer = lock.acquire().unwrap();
        let inner = lock.acquire().unwrap();
        let token = thread::scope(|scope| {
            let thief = scope.spawn(|| {
                let guard = RLock::new(&cache, "k");
                let guard = guard.acquire().unwrap();
                assert!(kit::late(guard.predecessor()).is_some() && guard.recovered().is_none());
                guard.into_token()
            });
            thief.join().unwrap()
        });
        assert_eq!(lock.depth().unwrap(), 0);
        assert!(is_lost(inner.check()) && is_lost(inner.renew()));
        assert!(is_lost(inner.release()));
        assert!(is_lost(outer.release()));
        assert_eq!(guard_token(&lock), token);
    });
}

#[test]
fn a_lost_guard_says_so_also_after_its_thread_has_the_lock_again() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        let old = lock.acquire().unwrap();
        assert!(cache.remove("k").unwrap());
        let new = lock.acquire().unwrap();
        assert!(new.token() > old.token());
        assert!(is_lost(old.check()) && is_lost(old.renew()));
        assert!(is_lost(old.release()));
        assert_eq!(lock.depth().unwrap(), 1);
        new.release().unwrap();
    });
}

#[test]
fn a_dropped_lost_guard_takes_nothing_from_the_new_hold() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k").tag("t");
        let old = [(); 3].map(|()| lock.acquire().unwrap());
        assert_eq!(cache.remove_tagged("t").unwrap(), 1);
        let new = lock.acquire().unwrap();
        drop(old);
        assert_eq!(lock.depth().unwrap(), 1);
        assert!(!free_for_others(&lock));
        new.release().unwrap();
        assert!(free_for_others(&lock));
    });
}

#[test]
fn going_deeper_never_yields_a_hold_that_is_over() {
    bounded(|| {
        let (_place, cache) = store();
        let leased = RLock::new(&cache, "k").lease(SHORT);
        let plain = RLock::new(&cache, "k");
        let outer = leased.acquire().unwrap();
        until("the lease is over", || outer.check().is_err());
        let inner = plain.acquire().unwrap();
        inner.check().unwrap();
        assert!(!free_for_others(&plain));
    });
}

#[test]
fn a_waiter_is_woken_at_depth_zero_only() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        let outer = lock.acquire().unwrap();
        let inner = lock.acquire().unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let _guard = lock.acquire().unwrap();
                Instant::now()
            });
            until("somebody waits", || lock.waiters().unwrap() == 1);
            drop(inner);
            assert!(lock.is_locked().unwrap());
            thread::sleep(Duration::from_millis(10));
            assert!(!waiter.is_finished());
            let released = Instant::now();
            drop(outer);
            assert!(waiter.join().unwrap() >= released);
        });
    });
}

#[test]
fn an_owned_guard_outlives_its_handle() {
    bounded(|| {
        let (place, cache) = store();
        let guard: RLockGuard<'static> = RLock::new(&cache, "k").acquire().unwrap().into_owned();
        drop(cache);
        let cache = place.open();
        let lock = RLock::new(&cache, "k");
        assert_eq!(lock.depth().unwrap(), 1);
        assert!(!free_for_others(&lock));
        guard.release().unwrap();
        assert!(free_for_others(&lock));
    });
}

#[test]
fn a_guard_kept_in_a_thread_local_is_given_back_when_the_thread_ends() {
    thread_local! {
        static KEPT: RefCell<Option<RLockGuard<'static>>> = const { RefCell::new(None) };
    }
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k");
        thread::scope(|scope| {
            let ended = scope.spawn(|| {
                // Touched before anything of the library's: so it is destroyed after it.
                KEPT.with_borrow(|kept| assert!(kept.is_none()));
                let guard = lock.acquire().unwrap().into_owned();
                KEPT.with_borrow_mut(|kept| *kept = Some(guard));
            });
            ended.join().unwrap();
        });
        assert!(free_for_others(&lock));
    });
}

#[test]
fn guards_stay_in_their_thread() {
    trait AmbiguousIfSend<A> {
        fn told() {}
    }
    impl<T: ?Sized> AmbiguousIfSend<()> for T {}
    impl<T: ?Sized + Send> AmbiguousIfSend<u8> for T {}
    // Does not compile once the guard is `Send`.
    <RLockGuard<'static> as AmbiguousIfSend<_>>::told();
    fn everywhere<T: Clone + Send + Sync + 'static>() {}
    everywhere::<RLock>();
}

#[test]
fn tokens_grow_and_the_holder_is_told() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = RLock::new(&cache, "k").lease(LONG);
        let first = lock.acquire().unwrap().token();
        assert!(cache.remove("k").unwrap());
        let guard = lock.acquire().unwrap();
        assert!(guard.token() > first);
        let holder = lock.holder().unwrap().unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(holder.tid, nix::unistd::gettid().as_raw() as u32);
        assert_eq!(holder.token, guard.token());
        assert!(holder.alive && holder.lease_left.is_some());
        assert!(guard.recovered().is_none() && kit::late(guard.predecessor()).is_none());
    });
}
