//! Deaths while keys are made, given tags, removed, evicted, cleared, reclaimed, listed; and while
//! the slab grows for them.

use slablock::{Averager, BoundedSemaphore, Cache, Kind, Lock, LockGuard};

use crate::drive::{Operation, STANDARD, Stage, without_strangers};
use crate::scene::{Entry, Scene, Trap};
use crate::stage::{KEY, a_dead_one_has_the_lock, die_holding, open, told, with_a_crowd};

const TAG: &str = "tag";
/// More than one block of permits, the last one not full.
const PERMITS: u32 = 9;
/// A store whose slots are allocated in more than one step.
const LARGE: usize = 300;
/// And one in more steps than that.
const LARGE_ENOUGH: usize = 1_000;

pub const ALL: &[Operation] = &[
    Operation {
        name: "create a lock",
        prepare: with_a_crowd,
        act: |scene, trap| take_new(scene, trap, KEY, TAG),
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            is_old_or_new(cache, KEY, Kind::Lock, TAG, stage);
        },
        ..STANDARD
    },
    Operation {
        name: "create a key of many slots",
        prepare: with_a_crowd,
        act: |scene, trap| take_new(scene, trap, &long_key(0), TAG),
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            is_old_or_new(cache, &long_key(0), Kind::Lock, TAG, stage);
        },
        ..STANDARD
    },
    Operation {
        name: "create a semaphore",
        prepare: with_a_crowd,
        act: take_permit,
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            is_old_or_new(cache, KEY, Kind::Semaphore, TAG, stage);
            if cache.key_info(KEY).unwrap().is_some() {
                all_permits(cache, PERMITS, stage);
            }
        },
        ..STANDARD
    },
    Operation {
        name: "create a key again",
        prepare: |scene| {
            let cache = open(scene);
            scene.crowd(&cache);
            let lock = Lock::new(&cache, KEY);
            (0..5).for_each(|_| scene.saw(lock.acquire().unwrap().token()));
            assert!(cache.remove(KEY).unwrap());
        },
        act: take_permit,
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            is_old_or_new(cache, KEY, Kind::Semaphore, TAG, stage);
        },
        ..STANDARD
    },
    Operation {
        name: "grow the slots",
        prepare: |scene| {
            let cache = Cache::options().capacity(LARGE).open(scene.store());
            let cache = cache.unwrap();
            // Eight slots each: all 256 that are allocated at once.
            for n in 1..=32 {
                Lock::new(&cache, long_key(n))
                    .acquire()
                    .unwrap()
                    .release()
                    .unwrap();
            }
            let allocated = u32::from_le_bytes(scene.peek(crate::kit::layout::COUNTERS + 4));
            assert_eq!(allocated, 256);
        },
        act: |scene, trap| take_new(scene, trap, &long_key(0), TAG),
        look: |_, cache, stage| {
            is_old_or_new(cache, &long_key(0), Kind::Lock, TAG, stage);
            (1..=32).for_each(|n| assert!(cache.key_info(long_key(n)).unwrap().is_some()));
        },
        ..STANDARD
    },
    Operation {
        name: "split: add two buckets, with keys that move and keys that stay",
        prepare: |scene| {
            let cache = Cache::options().capacity(LARGE_ENOUGH).open(scene.store());
            let cache = cache.unwrap();
            let make = |name: &str| drop(Lock::new(&cache, name).acquire().unwrap());
            make("first");
            // In the stripe of the key, while there are few rows.
            chain(scene).iter().for_each(|name| make(name));
            let elsewhere = |name: &String| scene.hash_of(name) & 63 != scene.hash_of(KEY) & 63;
            let others: Vec<_> = (0..).map(long_key).filter(elsewhere).take(33).collect();
            others.iter().for_each(|name| make(name));
            let allocated = u32::from_le_bytes(scene.peek(crate::kit::layout::COUNTERS + 4));
            assert_eq!((allocated, scene.rows()), (512, 4));
        },
        act: |scene, trap| take_new(scene, trap, KEY, TAG),
        look: |scene, cache, stage| {
            is_old_or_new(cache, KEY, Kind::Lock, TAG, stage);
            for name in chain(scene) {
                assert!(cache.key_info(&name).unwrap().is_some(), "{name}");
                assert!(Lock::new(cache, name).try_acquire().unwrap().is_some());
            }
            // Two more, and two again by a successor that makes the key once more: as many as are
            // due.
            assert!(stage == Stage::Between || (6..=8).contains(&scene.rows()));
        },
        ..STANDARD
    },
    Operation {
        name: "grow the blocks, twice",
        prepare: with_a_crowd,
        act: |scene, trap| {
            let cache = open(scene);
            let many = BoundedSemaphore::new(&cache, KEY, 200);
            let guard = trap.armed(|| many.try_acquire());
            scene.saw(guard.unwrap().expect("a permit").into_token());
        },
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            if stage == Stage::After || cache.key_info(KEY).unwrap().is_some() {
                all_permits(cache, 200, stage);
            }
        },
        ..STANDARD
    },
    Operation {
        name: "give another tag",
        prepare: |scene| {
            let cache = open(scene);
            scene.crowd(&cache);
            let lock = Lock::new(&cache, KEY).tag("old");
            scene.saw(lock.acquire().unwrap().token());
        },
        act: |scene, trap| take_new(scene, trap, KEY, TAG),
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            let tag = cache.key_info(KEY).unwrap().expect("the key").tag;
            match (stage, tag.as_deref()) {
                // In between it has none for a moment, as docs/protocol.md says.
                (Stage::Between, None | Some(b"old")) | (_, Some(b"tag")) => {}
                (_, other) => panic!("the tag is {other:?}"),
            }
        },
        ..STANDARD
    },
    Operation {
        name: "remove a held lock",
        prepare: with_a_crowd,
        act: remove_key,
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            let there = cache.key_info(KEY).unwrap().is_some();
            assert!(!there || stage == Stage::Between);
            // By force: with the key the hold is gone, and not without it.
            assert_eq!(scene.companion_has_lost(), !there);
            if there {
                assert!(Lock::new(cache, KEY).try_acquire().unwrap().is_none());
            } else {
                made_again(scene, cache);
            }
        },
        companion: Some(holds_the_lock),
        ..STANDARD
    },
    Operation {
        name: "remove a semaphore",
        prepare: with_a_crowd,
        act: remove_key,
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            let lost = scene.companion_has_lost();
            match cache.key_info(KEY).unwrap() {
                // An interrupted removal may have taken some permits, and is then undone: what is
                // held still, nobody else gets.
                Some(_) if stage == Stage::Between => {
                    let pool = BoundedSemaphore::new(cache, KEY, PERMITS);
                    let all = (0..=PERMITS).map_while(|_| pool.try_acquire().unwrap());
                    let available = all.collect::<Vec<_>>().len() as u32;
                    let free = PERMITS - 2;
                    assert!(available == free || lost && available > free, "{available}");
                }
                Some(_) => panic!("it was removed"),
                None => {
                    assert!(lost);
                    made_again(scene, cache);
                }
            }
        },
        companion: Some(|scene| {
            let cache = open(scene);
            let pool = BoundedSemaphore::new(&cache, KEY, PERMITS);
            let guards = [(); 2].map(|()| pool.acquire().unwrap());
            guards.iter().for_each(|guard| scene.saw(guard.token()));
            scene.accompany(|| guards.iter().any(|guard| guard.check().is_err()));
        }),
        ..STANDARD
    },
    Operation {
        name: "remove an average",
        prepare: |scene| {
            let cache = open(scene);
            scene.crowd(&cache);
            Averager::new(&cache, KEY).tag(TAG).add(5.0).unwrap();
        },
        act: remove_key,
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            match Averager::new(cache, KEY).get().unwrap() {
                Some(5.0) if stage == Stage::Between => {}
                None => assert!(cache.key_info(KEY).unwrap().is_none()),
                other => panic!("the average is {other:?}"),
            }
        },
        ..STANDARD
    },
    Operation {
        name: "evict",
        prepare: |scene| {
            let cache = open(scene);
            scene.crowd(&cache);
            family(&cache);
        },
        act: |scene, trap| {
            let cache = open(scene);
            let evicted = trap.armed(|| cache.remove_tagged(TAG));
            assert!(evicted.unwrap() <= 4);
        },
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            let left = family_is_whole(cache);
            assert!(left == 0 || stage == Stage::Between);
            let there = cache.key_info(KEY).unwrap().is_some();
            assert_eq!(scene.companion_has_lost(), !there);
        },
        companion: Some(holds_the_lock),
        ..STANDARD
    },
    Operation {
        name: "clear",
        prepare: |scene| {
            let cache = open(scene);
            scene.crowd(&cache);
            family(&cache);
        },
        act: |scene, trap| {
            let cache = open(scene);
            let cleared = trap.armed(|| cache.clear());
            cleared.unwrap();
        },
        look: |_, cache, stage| {
            family_is_whole(cache);
            if let Some(sum) = Averager::new(cache, "sum").summary().unwrap() {
                assert_eq!((sum.count, sum.total), (3, 6.0));
            }
            if let Some(pool) = cache.key_info("pool").unwrap() {
                assert_eq!(pool.tag.as_deref(), Some(&b"other"[..]));
            }
            assert!(stage == Stage::Between || cache.is_empty().unwrap());
        },
        ..STANDARD
    },
    Operation {
        name: "reclaim idle slots when full",
        prepare: |scene| {
            let cache = Cache::options().capacity(6).open(scene.store()).unwrap();
            Averager::new(&cache, "sum").add(6.0).unwrap();
            for name in ["idle 1", "idle 2", "idle 3", "idle 4"] {
                let pool = BoundedSemaphore::new(&cache, name, 5);
                pool.acquire().unwrap().release().unwrap();
            }
            drop(cache);
            die_holding(scene, |cache| {
                Lock::new(cache, "heirless").acquire().unwrap().into_token()
            });
            // It was another key's.
            scene.board.set(Entry::Token, 0);
        },
        act: |scene, trap| take_new(scene, trap, KEY, TAG),
        look: |scene, cache, stage| {
            // What may not be taken: averages, and what a dead one left for its successor.
            assert_eq!(Averager::new(cache, "sum").get().unwrap(), Some(6.0));
            let lock = Lock::new(cache, "heirless");
            let dead = lock.holder().unwrap().expect("the dead one, to be told of");
            assert_eq!(u64::from(dead.pid), scene.board.get(Entry::Own));
            assert!(!dead.alive);
            for name in ["idle 1", "idle 2", "idle 3", "idle 4"] {
                if cache.key_info(name).unwrap().is_some() {
                    let pool = BoundedSemaphore::new(cache, name, 5);
                    let taken = u32::from(name == "idle 1");
                    assert!(pool.available().unwrap() >= 5 - taken);
                    pool.try_acquire()
                        .unwrap()
                        .expect("an idle one's permit")
                        .release()
                        .unwrap();
                }
            }
            is_old_or_new(cache, KEY, Kind::Lock, TAG, stage);
            assert!(!scene.companion_has_lost(), "only idle ones are reclaimed");
        },
        companion: Some(take_when_asked),
        verify: |operation, scene, order| {
            // Takes a permit, of what a dead one had begun to take away perhaps.
            assert!(!scene.companion_has_lost());
            // Others would have to reclaim what this is about.
            without_strangers(operation, scene, order);
        },
        ..STANDARD
    },
    Operation {
        name: "list and check",
        prepare: |scene| {
            a_dead_one_has_the_lock(scene);
        },
        act: |scene, trap| {
            let cache = open(scene);
            let seen = trap.armed(|| {
                (
                    cache.check(),
                    cache.keys(),
                    cache.len(),
                    cache.key_info(KEY),
                )
            });
            assert!(seen.0.unwrap().is_sound());
            assert!(seen.1.unwrap().len() == 5 && seen.2.unwrap() == 5);
            assert!(seen.3.unwrap().is_some());
        },
        look: |scene, cache, _| {
            scene.crowd_is_well(cache);
            assert!(cache.key_info(KEY).unwrap().is_some());
        },
        ..STANDARD
    },
];

/// When it is asked for the first time, takes the last permit of an idle semaphore by the fast
/// path, which asks no stripe; then answers whether that was lost.
fn take_when_asked(scene: &Scene) {
    let cache = open(scene);
    let pool = BoundedSemaphore::new(&cache, "idle 1", 5);
    // The handle remembers the permit that it had last.
    drop([(); 5].map(|()| pool.acquire().unwrap()));
    let held = std::cell::RefCell::new(None);
    scene.accompany(|| {
        let mut held = held.borrow_mut();
        let guard = held.get_or_insert_with(|| pool.try_acquire());
        match guard {
            Ok(Some(guard)) => guard.check().is_err(),
            // It is gone, and there is no room to make it anew.
            _ => false,
        }
    });
}

/// Eight slots, also with the tag.
fn long_key(number: u32) -> String {
    format!("{number:01024}")
}

/// Names of keys in the first rows of the stripe of the key, of which some move when there are more
/// rows and some stay, mixed.
fn chain(scene: &Scene) -> Vec<String> {
    let rows = |name: &String| scene.hash_of(name) >> 6 & 7;
    let in_stripe = |name: &String| scene.hash_of(name) & 63 == scene.hash_of(KEY) & 63;
    let names = || (0..).map(|n| format!("neighbour {n}")).filter(in_stripe);
    let of_row = |row| names().filter(move |name| rows(name) == row).take(2);
    let [zero, four, one, five] = [0, 4, 1, 5].map(|row| of_row(row).collect::<Vec<_>>());
    let mixed = zero.into_iter().zip(four).chain(one.into_iter().zip(five));
    mixed.flat_map(|(stays, moves)| [stays, moves]).collect()
}

/// Takes a lock that may have to be made. It is held when this process ends.
fn take_new(scene: &Scene, trap: &Trap, key: &str, tag: &str) {
    let cache = open(scene);
    let lock = Lock::new(&cache, key).tag(tag);
    let guard = trap.armed(|| lock.try_acquire());
    let guard = guard.unwrap().expect("free, or a dead one's");
    told(scene, guard.recovered().map(|dead| dead.pid));
    keep(scene, guard);
}

/// The process ends with it, and its successor has to be told.
fn keep(scene: &Scene, guard: LockGuard<'_>) {
    scene.saw(guard.into_token());
    scene.board.set(Entry::Holder, std::process::id().into());
}

fn take_permit(scene: &Scene, trap: &Trap) {
    let cache = open(scene);
    let pool = BoundedSemaphore::new(&cache, KEY, PERMITS).tag(TAG);
    let guard = trap.armed(|| pool.try_acquire());
    scene.saw(guard.unwrap().expect("a permit").into_token());
}

fn remove_key(scene: &Scene, trap: &Trap) {
    let cache = open(scene);
    let removed = trap.armed(|| cache.remove(KEY));
    let was_there = removed.unwrap();
    // Only what a dead one has removed already is not there to be removed.
    assert!(was_there || scene.board.get(Entry::Done) > 0 || scene.board.get(Entry::Place) != 0);
}

/// The key is there, whole; or it is not, which is the old state.
fn is_old_or_new(cache: &Cache, key: &str, kind: Kind, tag: &str, stage: Stage) {
    match cache.key_info(key).unwrap() {
        Some(info) => {
            assert_eq!(info.kind, kind);
            assert_eq!(info.tag.as_deref(), Some(tag.as_bytes()));
        }
        None => assert!(stage == Stage::Between, "it was made"),
    }
}

/// That all permits can be had at once, but for the one that this process has after `act`; and no
/// more.
fn all_permits(cache: &Cache, permits: u32, stage: Stage) {
    let pool = BoundedSemaphore::new(cache, KEY, permits);
    let taken: Vec<_> = (0..=permits)
        .map_while(|_| pool.try_acquire().unwrap())
        .collect();
    let own = u32::from(stage == Stage::After);
    assert_eq!(taken.len() as u32, permits - own);
    let mut tokens: Vec<_> = taken.iter().map(|guard| guard.token()).collect();
    tokens.sort();
    tokens.dedup();
    assert_eq!(tokens.len() as u32, permits - own);
}

/// A removed key that is made again goes on with higher tokens.
fn made_again(scene: &Scene, cache: &Cache) {
    let lock = Lock::new(cache, KEY);
    scene.saw(lock.try_acquire().unwrap().expect("a new key").token());
    assert!(cache.remove(KEY).unwrap());
}

/// Keys of every kind that carry the tag, besides the one that the companion has.
fn family(cache: &Cache) {
    let pool = BoundedSemaphore::new(cache, "pool of the family", PERMITS).tag(TAG);
    drop([pool.acquire().unwrap(), pool.acquire().unwrap()]);
    Averager::new(cache, "sum of the family")
        .tag(TAG)
        .add(5.0)
        .unwrap();
    let long = Lock::new(cache, long_key(0)).tag(TAG);
    long.acquire().unwrap().release().unwrap();
}

/// Each of them is there, whole, or is not. How many are.
fn family_is_whole(cache: &Cache) -> usize {
    let names = [
        ("pool of the family", Kind::Semaphore),
        ("sum of the family", Kind::Averager),
        (&long_key(0), Kind::Lock),
    ];
    let mut left = 0;
    for (name, kind) in names {
        if let Some(info) = cache.key_info(name).unwrap() {
            left += 1;
            is_old_or_new(cache, name, kind, TAG, Stage::Between);
            assert_eq!(info.waiters, 0);
        }
    }
    let sum = Averager::new(cache, "sum of the family").get().unwrap();
    assert!(matches!(sum, None | Some(5.0)));
    left
}

/// Has the lock of the key throughout.
fn holds_the_lock(scene: &Scene) {
    let cache = open(scene);
    let lock = Lock::new(&cache, KEY).tag(TAG);
    let guard = lock.acquire().unwrap();
    scene.saw(guard.token());
    scene.accompany(|| guard.check().is_err());
}
