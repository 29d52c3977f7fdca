//! Deaths while a store is made, opened, joined, swept, rebuilt, repaired, left.

use std::time::Duration;

use slablock::{Averager, BoundedSemaphore, Cache, FanoutCache, Lock};

use crate::drive::{Operation, Order, STANDARD, Stage, no_leak, standard};
use crate::kit::layout::{self, Layout};
use crate::scene::{Entry, NEVER, Scene, Trap, in_a_fork};
use crate::stage::{
    CAPACITY, KEY, a_dead_one_has_the_lock, die_holding, open, reboot, take_over, with_a_crowd,
};

pub const ALL: &[Operation] = &[
    Operation {
        name: "create a store",
        prepare: |_| (),
        act: |scene, trap| {
            let cache = trap.armed(|| Cache::options().capacity(CAPACITY).open(scene.store()));
            cache.unwrap();
        },
        look: |_, cache, _| assert!(cache.is_empty().unwrap()),
        // Whoever opens it first says how large it is to be.
        verify: |operation, scene, order| {
            (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
            standard(operation, scene, order);
        },
        ..STANDARD
    },
    Operation {
        name: "create a fanout",
        prepare: |_| (),
        act: |scene, trap| {
            let cache = trap.armed(|| {
                Cache::options()
                    .capacity(2 * CAPACITY)
                    .shards(2)
                    .open(scene.store())
            });
            cache.unwrap();
        },
        look: |_, _, _| (),
        verify: verify_fanout,
        ..STANDARD
    },
    Operation {
        name: "open",
        prepare: with_a_crowd,
        act: open_armed,
        look: |scene, cache, _| scene.crowd_is_well(cache),
        ..STANDARD
    },
    Operation {
        name: "open beside others",
        prepare: with_a_crowd,
        act: open_armed,
        look: |scene, cache, _| {
            scene.crowd_is_well(cache);
            assert!(!scene.companion_has_lost());
            assert!(Lock::new(cache, KEY).try_acquire().unwrap().is_none());
        },
        companion: Some(hold_key),
        ..STANDARD
    },
    Operation {
        name: "grow the participants",
        prepare: |scene| {
            scene.crowd(&open(scene));
            // The first chunk is of 32: the next number is beyond it.
            scene.poke(layout::HINTS, &31_u32.to_le_bytes());
            let allocated = u32::from_le_bytes(scene.peek(layout::COUNTERS));
            assert_eq!(allocated, 32);
        },
        act: open_armed,
        look: |scene, cache, _| {
            scene.crowd_is_well(cache);
            assert_eq!(u32::from_le_bytes(scene.peek(layout::COUNTERS)), 64);
        },
        ..STANDARD
    },
    Operation {
        name: "join after a fork",
        prepare: with_a_crowd,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            let guard = take_over(scene, &lock);
            in_a_fork(|| {
                let there = trap.armed(|| lock.try_acquire().unwrap());
                assert!(there.is_none(), "the parent's hold");
            });
            guard.release().unwrap();
        },
        look: |scene, cache, _| scene.crowd_is_well(cache),
        ..STANDARD
    },
    Operation {
        name: "join when all numbers are taken",
        prepare: |scene| {
            a_dead_one_has_the_lock(scene);
            all_numbers_taken(scene);
        },
        act: open_armed,
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            if stage == Stage::After {
                let lock = Lock::new(cache, KEY);
                let guard = lock.try_acquire().unwrap().unwrap();
                let dead = guard.recovered().expect("who died is told");
                assert_eq!(u64::from(dead.pid), scene.board.get(Entry::Own));
                scene.saw(guard.token());
            }
        },
        ..STANDARD
    },
    Operation {
        name: "open after a reboot",
        prepare: |scene| {
            furnish(scene);
            reboot(scene);
        },
        act: open_armed,
        look: |scene, cache, stage| {
            furniture_is_well(scene, cache, stage);
            // A leap for each rebuilding, so that no token that was never written comes twice.
            let leap = 1 << 36;
            assert!(stage == Stage::Between || scene.board.get(Entry::Token) > leap);
        },
        ..STANDARD
    },
    Operation {
        name: "repair what is sound",
        prepare: furnish,
        act: repair_armed,
        look: furniture_is_well,
        verify: |operation, scene, order| {
            if order == Order::LookFirst {
                // Whoever comes next just opens it.
                let cache = Cache::open(scene.store()).unwrap();
                let report = cache.check().unwrap();
                assert!(report.is_sound(), "{report:?}");
                furniture_is_well(scene, &cache, Stage::Between);
            }
            verify_repair(operation, scene, order);
        },
        ..STANDARD
    },
    Operation {
        name: "repair a damaged average",
        prepare: |scene| {
            furnish(scene);
            // The value in force of the average fails its seal: the one before comes back.
            let slot = Layout::new().slot(scene.board.get(Entry::Slot));
            let selector = u64::from_le_bytes(scene.peek(slot + 48));
            let cell = slot + layout::CELLS + layout::CELL_BYTES * (selector % 2);
            scene.poke(cell + 8, &[0xab; 8]);
            scene.board.set(Entry::Damaged, 1);
        },
        act: repair_armed,
        look: furniture_is_well,
        verify: verify_repair,
        ..STANDARD
    },
    Operation {
        name: "lend a lifeline",
        prepare: with_a_crowd,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            let guard = take_over(scene, &lock);
            scene.board.set(Entry::Holder, std::process::id().into());
            let line = trap.armed(|| cache.lifeline());
            line.unwrap();
            scene.board.set(Entry::Holder, 0);
            guard.release().unwrap();
        },
        look: |scene, cache, _| scene.crowd_is_well(cache),
        ..STANDARD
    },
    Operation {
        name: "fork",
        prepare: with_a_crowd,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            let guard = take_over(scene, &lock);
            trap.arm();
            in_a_fork(|| ());
            trap.disarm();
            guard.check().unwrap();
            guard.release().unwrap();
        },
        look: |scene, cache, _| scene.crowd_is_well(cache),
        ..STANDARD
    },
    Operation {
        name: "leave",
        prepare: with_a_crowd,
        act: |scene, trap| {
            let cache = open(scene);
            trap.arm();
            drop(cache);
            trap.disarm();
        },
        look: |scene, cache, _| scene.crowd_is_well(cache),
        ..STANDARD
    },
];

fn open_armed(scene: &Scene, trap: &Trap) {
    let cache = trap.armed(|| Cache::open(scene.store()));
    cache.unwrap();
}

pub fn repair_armed(scene: &Scene, trap: &Trap) {
    let report = trap.armed(|| Cache::repair(scene.store()));
    assert_eq!(report.unwrap().keys_lost, 0);
}

fn hold_key(scene: &Scene) {
    let cache = open(scene);
    let lock = Lock::new(&cache, KEY);
    let guard = lock.acquire().unwrap();
    scene.saw(guard.token());
    scene.accompany(|| guard.check().is_err());
}

fn verify_fanout(operation: &Operation, scene: &Scene, _: Order) {
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    let cache = FanoutCache::open(scene.store(), 2).unwrap();
    assert_eq!(cache.capacity(), 2 * CAPACITY);
    for n in 0..20 {
        let name = format!("key {n}");
        assert!(Lock::new(&cache, &name).try_acquire().unwrap().is_some());
    }
    // Opened again, it finds each key in the same shard.
    drop(cache);
    let cache = FanoutCache::open(scene.store(), 2).unwrap();
    assert_eq!(cache.len().unwrap(), 20);
    for n in 0..20 {
        assert!(cache.key_info(format!("key {n}")).unwrap().is_some());
    }
    for shard in crate::kit::shards(&cache) {
        no_leak(&shard);
    }
}

/// Without a look before, which would rightly find the damage, or be the one that mends.
pub fn verify_repair(operation: &Operation, scene: &Scene, _: Order) {
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    let cache = Cache::open(scene.store()).unwrap();
    assert!(cache.check().unwrap().is_sound());
    (operation.look)(scene, &cache, Stage::After);
    drop(cache);
    no_leak(&Cache::open(scene.store()).unwrap());
}

/// The crowd was made by the first participant, and the second died holding the key.
const DEAD_NUMBER: u32 = 2;

/// Marks all participant numbers as used, by processes whose beacons are free.
fn all_numbers_taken(scene: &Scene) {
    let at = Layout::new().participants;
    let bytes = layout::PARTICIPANT_BYTES as usize;
    let taken = scene.peek::<{ 128 * 4096 }>(at);
    let mut records = taken.to_vec();
    for record in records.chunks_exact_mut(bytes).skip(1) {
        record[4] |= 1;
    }
    scene.poke(at, &records);
    scene.poke(layout::COUNTERS, &4096_u32.to_le_bytes());
    // The next one to join gets the number of the dead holder, or whatever is free after it.
    scene.poke(layout::HINTS, &(DEAD_NUMBER - 1).to_le_bytes());
}

/// A crowd, a key whose holder died, a semaphore with a dead holder, an average.
pub fn furnish(scene: &Scene) {
    let cache = open(scene);
    scene.crowd(&cache);
    drop(cache);
    die_holding(scene, |cache| {
        let pool = BoundedSemaphore::new(cache, "deserted", 5);
        std::mem::forget(pool.acquire().unwrap());
        Lock::new(cache, KEY).acquire().unwrap().into_token()
    });
}

pub fn furniture_is_well(scene: &Scene, cache: &Cache, stage: Stage) {
    scene.crowd_is_well(cache);
    let pool = BoundedSemaphore::new(cache, "deserted", 5);
    assert_eq!(pool.available().unwrap(), 5);
    if stage == Stage::After {
        let lock = Lock::new(cache, KEY).lease(Duration::from_secs(60));
        let guard = lock.try_acquire().unwrap().expect("of a dead one");
        assert!(guard.recovered().is_some(), "who died is told");
        scene.saw(guard.token());
        let permits: Vec<_> = (0..5).map(|_| pool.try_acquire().unwrap()).collect();
        let told = permits.iter().flatten().filter(|p| p.recovered().is_some());
        assert_eq!(told.count(), 1, "of one dead holder");
        let averager = Averager::new(cache, "new average");
        averager.add(1.0).unwrap();
    }
}
