//! A store that is removed, moved or replaced while it is open.

use std::fs;
use std::time::Duration;

use slablock::{Averager, BoundedSemaphore, Cache, Error, FanoutCache, Lock, RLock, Result};

use crate::kit::{
    Child, LONG, Place, Role, Watchdog, bounded, fork, hear, reap_well, run, say, until,
};

fn is_replaced<T>(what: &str, result: Result<T>) {
    match result {
        Err(error @ Error::Replaced { .. }) => {
            crate::kit::says(&error, &["removed or replaced", "open it again"]);
        }
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what} does not notice"),
    }
}

/// Everything that needs more than the words that a handle knows.
fn everybody_notices(cache: &Cache, held: &Lock) {
    is_replaced("making a lock", Lock::new(cache, "new").try_acquire());
    is_replaced("making an average", Averager::new(cache, "new").add(1.0));
    let semaphore = BoundedSemaphore::new(cache, "new", 3);
    is_replaced(
        "making a semaphore",
        semaphore.acquire_timeout(Duration::ZERO),
    );
    is_replaced("looking for a key", RLock::new(cache, "new").is_locked());
    is_replaced("listing", cache.keys());
    is_replaced("counting", cache.len());
    is_replaced("removing", cache.remove("new"));
    is_replaced("evicting", cache.remove_tagged("t"));
    is_replaced("clearing", cache.clear());
    is_replaced("checking", cache.check());
    is_replaced("trying", held.try_acquire());
    is_replaced(
        "waiting a little",
        held.acquire_timeout(Duration::from_millis(1)),
    );
    is_replaced("waiting", held.acquire());
}

#[test]
fn a_store_that_is_removed_is_noticed_by_all_but_the_fast_path() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let lock = Lock::new(&cache, "lock").lease(LONG);
        let guard = lock.acquire().unwrap();
        let average = Averager::new(&cache, "average");
        average.add(2.0).unwrap();
        fs::remove_dir_all(place.store()).unwrap();
        everybody_notices(&cache, &Lock::new(&cache, "lock"));
        is_replaced("renewing", guard.renew());
        // What is known stays usable, and harms nobody.
        average.add(4.0).unwrap();
        assert_eq!(average.get().unwrap(), Some(3.0));
        guard.release().unwrap();
        // The next one has a new store, in this process, too, and the two go their own ways.
        let new = place.open();
        assert!(new.is_empty().unwrap());
        drop(Lock::new(&new, "lock").acquire().unwrap());
        everybody_notices_when_held(&cache, &lock);
        assert!(new.check().unwrap().is_sound());
        assert_eq!(new.len().unwrap(), 1);
    });
}

fn everybody_notices_when_held(cache: &Cache, lock: &Lock) {
    let _guard = lock.acquire().unwrap();
    everybody_notices(cache, &Lock::new(cache, "lock"));
}

#[test]
fn a_store_that_is_moved_is_the_same_store_until_another_is_in_its_place() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let lock = Lock::new(&cache, "lock");
        drop(lock.acquire().unwrap());
        let moved = place.root().join("moved");
        fs::rename(place.store(), &moved).unwrap();
        assert_eq!(cache.len().unwrap(), 1);
        drop(Lock::new(&cache, "another").acquire().unwrap());
        assert_eq!(Cache::open(&moved).unwrap().len().unwrap(), 2);
        let new = place.open();
        // Whether the path leads elsewhere is asked for once in some milliseconds.
        until("it is noticed", || cache.len().is_err());
        everybody_notices_when_held(&cache, &lock);
        drop((lock, cache));
        // Opened again by its name of now.
        assert_eq!(Cache::open(&moved).unwrap().len().unwrap(), 2);
        assert!(new.is_empty().unwrap());
    });
}

#[test]
fn a_slab_that_is_replaced_by_a_copy_is_noticed_by_who_has_the_old_one() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let lock = Lock::new(&cache, "lock");
        let guard = lock.acquire().unwrap();
        let copy = place.root().join("copy");
        fs::copy(place.slab(), &copy).unwrap();
        fs::rename(&copy, place.slab()).unwrap();
        everybody_notices(&cache, &Lock::new(&cache, "lock"));
        drop(guard);
    });
}

#[test]
fn each_shard_of_a_fanout_notices() {
    bounded(|| {
        let place = Place::new();
        let cache = FanoutCache::open(place.store(), 3).unwrap();
        drop(Lock::new(&cache, "lock").acquire().unwrap());
        fs::remove_dir_all(place.store()).unwrap();
        for n in 0..20 {
            let lock = Lock::new(&cache, format!("new {n}"));
            is_replaced("making a lock", lock.try_acquire());
        }
        is_replaced("listing", cache.keys());
    });
}

/// Holds a lock until it is told to end.
pub fn hold(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "lock");
    let _guard = lock.acquire().unwrap();
    say("held");
    hear();
}

#[test]
fn a_waiter_on_a_removed_store_does_not_wait_for_ever() {
    let _watchdog = Watchdog::new("waiting on a removed store");
    for holder_is_another in [false, true] {
        for replaced in [false, true] {
            let place = Place::new();
            let cache = place.open();
            let lock = Lock::new(&cache, "lock");
            let child = holder_is_another.then(|| {
                let child = Child::start("hold", place.root(), &[]);
                child.expect("held");
                child
            });
            let guard = (!holder_is_another).then(|| lock.acquire().unwrap());
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| lock.acquire().map(drop));
                let timed = scope.spawn(|| lock.acquire_timeout(LONG).map(drop));
                // Also one for whom the watch over the holder is already set up.
                until("both wait", || lock.waiters().unwrap() == 2);
                std::thread::sleep(Duration::from_millis(100));
                match replaced {
                    false => fs::remove_dir_all(place.store()).unwrap(),
                    true => {
                        fs::rename(place.store(), place.root().join("old")).unwrap();
                        let new = Child::start("hold", place.root(), &[]);
                        new.expect("held");
                    }
                }
                is_replaced("waiting", waiter.join().unwrap());
                is_replaced("waiting for long", timed.join().unwrap());
            });
            drop((guard, child));
        }
    }
}

/// In a process of its own: one that forks after its store was replaced.
pub fn forked(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "lock");
    drop(lock.acquire().unwrap());
    fs::remove_dir_all(role.store()).unwrap();
    reap_well(fork(|| is_replaced("joining", lock.try_acquire())));
    let new = Cache::open(role.store()).unwrap();
    reap_well(fork(|| is_replaced("joining", lock.try_acquire())));
    reap_well(fork(|| {
        let lock = Lock::new(&new, "lock");
        drop(lock.try_acquire().unwrap().unwrap());
    }));
}

#[test]
fn a_child_does_not_join_a_store_that_was_replaced() {
    let _watchdog = Watchdog::new("joining a removed store");
    let place = Place::new();
    run("forked", place.root(), &[]);
}

/// The segments of the one that is there now are not to be taken for its own.
#[test]
fn large_values_of_a_store_that_was_replaced_do_not_reach_the_new_one() {
    bounded(|| {
        let place = Place::new();
        let small = || Cache::options().size_limit(4 << 20);
        let old = small().open(place.store()).unwrap();
        let value = |byte: u8| vec![byte; 100_000];
        old.set("key", value(1)).unwrap();
        fs::rename(place.store(), place.root().join("away")).unwrap();
        let new = small().open(place.store()).unwrap();
        for key in 0..20 {
            new.set(format!("{key}"), value(2)).unwrap();
        }
        new.set("key", value(3)).unwrap();
        for _ in 0..100 {
            // Whatever comes of it.
            let _ = old.set("key", value(4));
            assert_ne!(old.get("key").ok().flatten(), Some(value(3)));
        }
        for key in 0..20 {
            assert_eq!(new.get(format!("{key}")).unwrap(), Some(value(2)));
        }
        assert_eq!(new.get("key").unwrap(), Some(value(3)));
        assert!(new.check().unwrap().is_sound());
    });
}

#[test]
fn segments_that_were_left_behind_are_in_nobodys_way() {
    let place = Place::new();
    let cache = place.open();
    cache.set("key", vec![1; 100_000]).unwrap();
    drop(cache);
    fs::remove_file(place.slab()).unwrap();
    let cache = place.open();
    assert_eq!(cache.get("key").unwrap(), None);
    cache.set("key", vec![2; 100_000]).unwrap();
    assert_eq!(cache.get("key").unwrap(), Some(vec![2; 100_000]));
}
