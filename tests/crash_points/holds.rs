//! Deaths while something is taken, kept, waited for, given back, stolen, taken over from the dead.

use std::time::Duration;

use slablock::{BoundedSemaphore, Cache, Lock, RLock};

use crate::drive::{Operation, STANDARD, Stage};
use crate::kit::until;
use crate::scene::{Entry, Scene, Trap};
use crate::stage::{KEY, die_holding, open, take_over, told, with_a_crowd};

const LEASE: Duration = Duration::from_secs(60);
const PERMITS: u32 = 9;

pub const ALL: &[Operation] = &[
    Operation {
        name: "acquire",
        prepare: with_key,
        act: |scene, trap| acquire(scene, trap, false, None),
        look: is_free,
        ..STANDARD
    },
    Operation {
        name: "acquire, fast path",
        prepare: with_key,
        act: |scene, trap| acquire(scene, trap, true, None),
        look: is_free,
        ..STANDARD
    },
    Operation {
        name: "acquire with a lease",
        prepare: with_key,
        act: |scene, trap| acquire(scene, trap, true, Some(LEASE)),
        look: is_free,
        ..STANDARD
    },
    Operation {
        name: "renew",
        prepare: with_key,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY).lease(LEASE);
            let guard = take_over(scene, &lock);
            scene.board.set(Entry::Holder, std::process::id().into());
            let renewed = trap.armed(|| guard.renew());
            renewed.unwrap();
            scene.board.set(Entry::Holder, 0);
            guard.release().unwrap();
        },
        look: is_free,
        ..STANDARD
    },
    Operation {
        name: "release",
        prepare: with_key,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY).lease(LEASE);
            let guard = take_over(scene, &lock);
            let released = trap.armed(|| guard.release());
            released.unwrap();
        },
        look: is_free,
        ..STANDARD
    },
    Operation {
        name: "release by token",
        prepare: with_key,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            let token = take_over(scene, &lock).into_token();
            let other = Lock::new(&cache, KEY);
            let released = trap.armed(|| other.release(token));
            released.unwrap();
        },
        look: is_free,
        ..STANDARD
    },
    Operation {
        name: "release to a waiter",
        prepare: with_key,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            if scene.board.get(Entry::Own) == 0 {
                let guard = take_over(scene, &lock);
                scene.board.set(Entry::Own, 1);
                until("it is waited for", || lock.waiters().unwrap() == 1);
                // Counted first, marked after that.
                std::thread::sleep(Duration::from_micros(500));
                let released = trap.armed(|| guard.release());
                return released.unwrap();
            }
            until("the waiter had it", || scene.board.get(Entry::Own) == 2);
            let guard = take_over(scene, &lock);
            let released = trap.armed(|| guard.release());
            released.unwrap();
        },
        look: |scene, cache, stage| {
            until("the waiter had it", || scene.board.get(Entry::Own) == 2);
            is_free(scene, cache, stage);
        },
        companion: Some(|scene| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            scene.board.set(Entry::Ready, 1);
            until("the first one has it", || scene.board.get(Entry::Own) == 1);
            let guard = lock.acquire().unwrap();
            scene.saw(guard.token());
            guard.release().unwrap();
            scene.board.set(Entry::Own, 2);
            scene.accompany(|| false);
        }),
        ..STANDARD
    },
    Operation {
        name: "wait in vain",
        prepare: with_key,
        act: |scene, trap| wait(scene, trap, 4),
        look: is_still_held,
        companion: Some(hold),
        ..STANDARD
    },
    Operation {
        name: "wait for long",
        prepare: with_key,
        act: |scene, trap| wait(scene, trap, 70),
        look: is_still_held,
        companion: Some(hold),
        ..STANDARD
    },
    Operation {
        name: "re-entrant: acquire and release",
        prepare: with_a_crowd,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = RLock::new(&cache, KEY).lease(LEASE);
            trap.arm();
            let outer = lock.try_acquire().unwrap().expect("free, or a dead one's");
            let inner = lock.try_acquire().unwrap().expect("our own");
            let token = outer.token();
            let ended = (inner.release(), outer.release());
            trap.disarm();
            scene.saw(token);
            ended.0.unwrap();
            ended.1.unwrap();
        },
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            let lock = RLock::new(cache, KEY);
            assert!(!lock.is_locked().unwrap());
            assert!(stage == Stage::Between || lock.holder().unwrap().is_none());
        },
        ..STANDARD
    },
    Operation {
        name: "steal an expired hold",
        prepare: with_key,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            let guard = trap.armed(|| lock.try_acquire());
            let guard = guard.unwrap().expect("expired, or a dead one's");
            let before = crate::kit::late(guard.predecessor()).or(guard.recovered());
            let free = scene.board.get(Entry::Done) > 0 || scene.board.get(Entry::Own) > 0;
            assert!(before.is_some() || free, "whose it was is told");
            scene.saw(guard.token());
            scene.board.set(Entry::Own, 1);
            assert!(scene.companion_has_lost());
            guard.release().unwrap();
        },
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            assert!(stage == Stage::Between || !Lock::new(cache, KEY).is_locked().unwrap());
        },
        companion: Some(|scene| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY).lease(Duration::from_micros(100));
            let guard = lock.acquire().unwrap();
            scene.saw(guard.token());
            until("the lease is over", || guard.check().is_err());
            scene.accompany(|| guard.renew().is_err());
            assert!(guard.renew().is_err(), "stolen long ago");
            assert!(guard.release().is_err(), "stolen long ago");
        }),
        ..STANDARD
    },
    Operation {
        name: "recover from a dead holder",
        prepare: |scene| {
            with_key(scene);
            die_holding(scene, |cache| {
                Lock::new(cache, KEY).acquire().unwrap().into_token()
            });
        },
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            let guard = trap.armed(|| lock.try_acquire());
            let guard = guard.unwrap().expect("a dead one's");
            let first = scene.board.get(Entry::Done) == 0;
            assert!(!first || guard.recovered().is_some(), "who died is told");
            scene.saw(guard.token());
            guard.release().unwrap();
        },
        look: is_free,
        ..STANDARD
    },
    Operation {
        name: "semaphore: acquire three",
        prepare: with_pool,
        act: |scene, trap| {
            let cache = open(scene);
            let pool = BoundedSemaphore::new(&cache, KEY, PERMITS).lease(LEASE);
            let three = trap.armed(|| [(); 3].map(|()| pool.try_acquire()));
            let three = three.map(|guard| guard.unwrap().expect("a permit"));
            three.iter().for_each(|guard| scene.saw(guard.token()));
            three.into_iter().for_each(|guard| guard.release().unwrap());
        },
        look: are_free,
        companion: Some(hold_permits),
        ..STANDARD
    },
    Operation {
        name: "semaphore: release three",
        prepare: with_pool,
        act: |scene, trap| {
            let cache = open(scene);
            let pool = BoundedSemaphore::new(&cache, KEY, PERMITS);
            let three = [(); 3].map(|()| pool.try_acquire().unwrap().expect("a permit"));
            three.iter().for_each(|guard| scene.saw(guard.token()));
            let released = trap.armed(|| three.map(|guard| guard.release()));
            released.into_iter().for_each(|one| one.unwrap());
        },
        look: are_free,
        companion: Some(hold_permits),
        ..STANDARD
    },
    Operation {
        name: "semaphore: recover from a dead holder",
        prepare: with_pool,
        act: |scene, trap| {
            let cache = open(scene);
            let pool = BoundedSemaphore::new(&cache, KEY, PERMITS);
            let all = trap.armed(|| [(); 5].map(|()| pool.try_acquire()));
            let all = all.map(|guard| guard.unwrap().expect("a dead one's"));
            all.iter().for_each(|guard| scene.saw(guard.token()));
            let told = all.iter().filter(|guard| guard.recovered().is_some());
            assert!(scene.board.get(Entry::Done) > 0 || told.count() == 5);
            assert!(pool.try_acquire().unwrap().is_none());
            all.into_iter().for_each(|guard| guard.release().unwrap());
        },
        look: are_free,
        companion: Some(|scene| {
            let cache = open(scene);
            let pool = BoundedSemaphore::new(&cache, KEY, PERMITS);
            let four = [(); 4].map(|()| pool.acquire().unwrap());
            die_holding(scene, |cache| {
                let pool = BoundedSemaphore::new(cache, KEY, PERMITS);
                let five = [(); 5].map(|()| pool.acquire().unwrap().into_token());
                five.into_iter().max().expect("five of them")
            });
            scene.accompany(|| four.iter().any(|guard| guard.check().is_err()));
        }),
        ..STANDARD
    },
];

/// The key exists, and nobody has it.
fn with_key(scene: &Scene) {
    let cache = open(scene);
    scene.crowd(&cache);
    let lock = Lock::new(&cache, KEY).lease(LEASE);
    scene.saw(lock.acquire().unwrap().token());
}

fn with_pool(scene: &Scene) {
    let cache = open(scene);
    scene.crowd(&cache);
    let pool = BoundedSemaphore::new(&cache, KEY, PERMITS);
    scene.saw(pool.acquire().unwrap().token());
}

/// Takes the lock; with `fast` by a handle that knows it. Held when this process ends.
fn acquire(scene: &Scene, trap: &Trap, fast: bool, lease: Option<Duration>) {
    let cache = open(scene);
    let lock = Lock::new(&cache, KEY);
    let lock = match lease {
        Some(lease) => lock.lease(lease),
        None => lock,
    };
    if fast {
        take_over(scene, &lock).release().unwrap();
    }
    let guard = trap.armed(|| lock.try_acquire());
    let guard = guard.unwrap().expect("free, or a dead one's");
    told(scene, guard.recovered().map(|dead| dead.pid));
    scene.saw(guard.into_token());
    scene.board.set(Entry::Holder, std::process::id().into());
}

/// Nobody alive has it but this process, after `act`.
fn is_free(scene: &Scene, cache: &Cache, stage: Stage) {
    scene.crowd_is_well(cache);
    let holder = Lock::new(cache, KEY).holder().unwrap();
    let own = |pid| stage == Stage::After && pid == std::process::id();
    assert!(holder.is_none_or(|holder| !holder.alive || own(holder.pid)));
}

/// The companion has the lock throughout.
fn hold(scene: &Scene) {
    let cache = open(scene);
    let lock = Lock::new(&cache, KEY);
    let guard = lock.acquire().unwrap();
    scene.saw(guard.token());
    scene.accompany(|| guard.check().is_err());
}

fn wait(scene: &Scene, trap: &Trap, ms: u64) {
    let cache = open(scene);
    let lock = Lock::new(&cache, KEY);
    let waited = trap.armed(|| lock.acquire_timeout(Duration::from_millis(ms)));
    assert!(waited.unwrap().is_none());
}

fn is_still_held(scene: &Scene, cache: &Cache, _: Stage) {
    scene.crowd_is_well(cache);
    assert!(!scene.companion_has_lost());
    let lock = Lock::new(cache, KEY);
    assert!(lock.try_acquire().unwrap().is_none());
    assert_eq!(lock.waiters().unwrap(), 0, "the dead do not wait");
}

/// The companion has four permits throughout.
fn hold_permits(scene: &Scene) {
    let cache = open(scene);
    let pool = BoundedSemaphore::new(&cache, KEY, PERMITS);
    let mut free: Vec<_> = (0..PERMITS)
        .map_while(|_| pool.try_acquire().unwrap())
        .collect();
    let four: Vec<_> = (0..4).map(|n| free.remove(n % free.len())).collect();
    four.iter().chain(&free).for_each(|_| ());
    drop(free);
    scene.accompany(|| four.iter().any(|guard| guard.check().is_err()));
}

fn are_free(scene: &Scene, cache: &Cache, stage: Stage) {
    scene.crowd_is_well(cache);
    assert!(!scene.companion_has_lost());
    let pool = BoundedSemaphore::new(cache, KEY, PERMITS);
    assert_eq!(pool.available().unwrap(), PERMITS - 4);
    if stage == Stage::Between {
        // Who takes one over is told of the dead, and then nobody else is.
        return;
    }
    let free: Vec<_> = (0..=PERMITS)
        .map_while(|_| pool.try_acquire().unwrap())
        .collect();
    assert_eq!(free.len() as u32, PERMITS - 4);
}
