//! Deaths while all is written to the device, again after a sync that failed; while it is changed
//! what values survive, and while values that survive a power failure are set; while a slab that
//! was cut off is repaired.

use slablock::{BoundedSemaphore, Cache, Durability, Eviction, FanoutCache, Limits};

use crate::drive::{Operation, Order, STANDARD, Stage, no_leak};
use crate::kit::layout;
use crate::places::{furnish, furniture_is_well, repair_armed, verify_repair};
use crate::scene::{Entry, NEVER, Scene, Trap};
use crate::stage::{CAPACITY, KEY, open};
use crate::values::{
    LARGE, OTHER_LARGE, OTHER_SMALL, SMALL, is_one_of, large, prepare_large, prepare_small, set,
    value_stays,
};

pub const ALL: &[Operation] = &[
    Operation {
        name: "sync",
        prepare: prepare_large,
        act: sync,
        look: value_stays,
        ..STANDARD
    },
    Operation {
        name: "sync after a failed one",
        prepare: fail_a_sync,
        act: sync,
        look: value_stays,
        verify: verify_made_good,
        ..STANDARD
    },
    Operation {
        name: "sync after a failed one, by two",
        prepare: fail_a_sync,
        act: sync,
        look: value_stays,
        companion: Some(|scene| {
            let cache = open(scene);
            // By its own description, of before what was made good.
            scene.accompany(|| cache.sync().is_err());
        }),
        verify: |operation, scene, order| {
            assert!(!scene.companion_has_lost(), "it makes all good as well");
            verify_made_good(operation, scene, order);
            assert!(!scene.companion_has_lost());
        },
        ..STANDARD
    },
    Operation {
        name: "repair after a sync that failed",
        prepare: fail_a_sync,
        act: repair_armed,
        look: value_stays,
        verify: verify_made_good,
        is_thinned: true,
        ..STANDARD
    },
    Operation {
        name: "repair what was cut off",
        prepare: |scene| {
            furnish(scene);
            // What is cut off is then nobody's.
            let cache = open(scene);
            let wide = BoundedSemaphore::new(&cache, "wide", 2_000);
            wide.acquire().unwrap().release().unwrap();
            assert!(cache.remove("wide").unwrap());
            drop(cache);
            let slab = std::fs::File::options()
                .write(true)
                .open(scene.store().join("slab"))
                .unwrap();
            let len = slab.metadata().unwrap().len();
            slab.set_len(len - layout::PAGE).unwrap();
        },
        act: repair_armed,
        look: furniture_is_well,
        verify: verify_repair,
        is_thinned: true,
        ..STANDARD
    },
    Operation {
        name: "configure",
        prepare: |scene| {
            let options = Cache::options().capacity(64).size_limit(OLD_LIMIT);
            let cache = options.open(scene.store()).unwrap();
            scene.crowd(&cache);
            for name in 0..12 {
                cache.set(format!("{name}"), large(400_000)).unwrap();
            }
            cache.set(KEY, SMALL).unwrap();
        },
        act: |scene, trap| {
            let cache = open(scene);
            let configured = trap.armed(|| cache.configure(&chosen()));
            configured.unwrap();
        },
        look: is_configured,
        ..STANDARD
    },
    Operation {
        name: "value: small by small, durable",
        prepare: |scene| {
            prepare_small(scene);
            make_durable(scene);
        },
        act: |scene, trap| set(scene, trap, OTHER_SMALL),
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(SMALL), Some(OTHER_SMALL)])
        },
        ..STANDARD
    },
    Operation {
        name: "value: large by large, durable",
        prepare: |scene| {
            prepare_large(scene);
            make_durable(scene);
        },
        act: |scene, trap| set(scene, trap, &large(OTHER_LARGE)),
        look: |scene, cache, stage| {
            let (old, new) = (large(LARGE), large(OTHER_LARGE));
            is_one_of(scene, cache, stage, &[Some(&old), Some(&new)]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: transact, durable",
        prepare: |scene| {
            prepare_large(scene);
            make_durable(scene);
        },
        act: |scene, trap| {
            let cache = open(scene);
            let done = trap.armed(|| {
                cache.transact_as(|all| {
                    all.set(KEY, large(OTHER_LARGE))?;
                    all.set("made", SMALL)
                })
            });
            done.unwrap();
        },
        look: |scene, cache, stage| {
            let made = cache.get("made").unwrap();
            let new = large(OTHER_LARGE);
            match &made {
                None => is_one_of(scene, cache, stage, &[Some(&large(LARGE)), Some(&new)]),
                Some(_) => is_one_of(scene, cache, Stage::After, &[None, Some(&new)]),
            }
            let both = cache.get(KEY).unwrap() == Some(new);
            assert_eq!(made.as_deref(), both.then_some(SMALL), "half of it");
        },
        ..STANDARD
    },
    Operation {
        name: "value: transact over shards",
        prepare: |scene| {
            let cache = Cache::options()
                .capacity(2 * CAPACITY)
                .shards(2)
                .open(scene.store())
                .unwrap();
            for name in NAMES {
                cache.set(name, large(LARGE)).unwrap();
            }
            cache.set("bystander", SMALL).unwrap();
        },
        act: |scene, trap| {
            let cache = FanoutCache::open(scene.store(), 2).unwrap();
            let done = trap.armed(|| {
                cache
                    .transact_as(|all| NAMES.iter().try_for_each(|name| all.set(name, OTHER_SMALL)))
            });
            done.unwrap();
        },
        look: |_, _, _| (),
        verify: |operation, scene, order| {
            let look = |stage| {
                let cache = FanoutCache::open(scene.store(), 2).unwrap();
                if order == Order::LookFirst {
                    for shard in crate::kit::shards(&cache) {
                        let report = shard.check().unwrap();
                        assert!(report.is_sound(), "{report:?}");
                    }
                }
                let all = NAMES.map(|name| cache.get(name).unwrap().expect("a value"));
                let new = all.iter().filter(|value| *value == OTHER_SMALL).count();
                let old = all.iter().filter(|value| **value == large(LARGE)).count();
                let is_new = (new, old) == (NAMES.len(), 0);
                assert!(is_new || stage == Stage::Between && (new, old) == (0, NAMES.len()));
                assert_eq!(cache.get("bystander").unwrap().as_deref(), Some(SMALL));
            };
            if order == Order::LookFirst || scene.board.get(Entry::Begun) == 2 {
                look(Stage::Between);
            }
            (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
            look(Stage::After);
            let cache = FanoutCache::open(scene.store(), 2).unwrap();
            crate::kit::shards(&cache).iter().for_each(no_leak);
        },
        ..STANDARD
    },
];

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

fn sync(scene: &Scene, trap: &Trap) {
    let cache = open(scene);
    let synced = trap.armed(|| cache.sync());
    synced.unwrap();
}

/// From now on a sync of the store has failed: one in the high half, none made good in the low one.
fn fail_a_sync(scene: &Scene) {
    prepare_large(scene);
    scene.poke(layout::FAILED_SYNCS, &(1_u64 << 32).to_le_bytes());
}

fn is_made_good(scene: &Scene) -> bool {
    let word = u64::from_le_bytes(scene.peek(layout::FAILED_SYNCS));
    word >> 32 == word & 0xffff_ffff
}

/// Nothing is made good by halves: `check` tells of it until it is.
fn verify_made_good(operation: &Operation, scene: &Scene, order: Order) {
    if order == Order::LookFirst {
        let cache = Cache::open(scene.store()).unwrap();
        let problems = cache.check().unwrap().problems;
        match is_made_good(scene) {
            true => assert!(problems.is_empty(), "{problems:?}"),
            false => assert!(problems.len() == 1 && problems[0].contains("sync")),
        }
        (operation.look)(scene, &cache, Stage::Between);
    }
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    assert!(is_made_good(scene));
    let cache = Cache::open(scene.store()).unwrap();
    (operation.look)(scene, &cache, Stage::After);
    no_leak(&cache);
}

const OLD_LIMIT: u64 = 16 << 20;
const NEW_LIMIT: u64 = 4 << 20;

fn chosen() -> Limits {
    Limits::new()
        .size_limit(NEW_LIMIT)
        .eviction(Eviction::LeastRecentlyUsed)
        .durability(Durability::PowerLoss)
}

fn make_durable(scene: &Scene) {
    let durable = Limits::new().durability(Durability::PowerLoss);
    open(scene).configure(&durable).unwrap();
}

/// Each setting is the old one or the new one; each value is there, whole, or was evicted.
fn is_configured(scene: &Scene, cache: &Cache, stage: Stage) {
    scene.crowd_is_well(cache);
    let config = cache.config().unwrap();
    let is_new = (
        config.size_limit == NEW_LIMIT,
        config.eviction == Eviction::LeastRecentlyUsed,
        config.durability == Durability::PowerLoss,
    );
    let is_old = (
        config.size_limit == OLD_LIMIT,
        config.eviction == Eviction::default(),
        config.durability == Durability::default(),
    );
    assert!((is_new.0 || is_old.0) && (is_new.1 || is_old.1) && (is_new.2 || is_old.2));
    assert!(stage == Stage::Between || is_new == (true, true, true));
    let names = (0..12).map(|name| format!("{name}"));
    let values = names.filter_map(|name| cache.get(name).unwrap());
    let left = values.inspect(|value| assert!(*value == large(400_000)));
    let left = left.count() as u64;
    assert!(left == 12 || !is_old.0, "evicted below the old limit");
    assert!(stage == Stage::Between || left * 400_000 <= NEW_LIMIT);
    assert_eq!(cache.get(KEY).unwrap().as_deref(), Some(SMALL));
}
