//! Deaths while a value is computed that was missing, or before it is over.

use std::time::Duration;

use slablock::{Cache, Eviction, SetOptions};

use crate::drive::{Operation, STANDARD, Stage, without_strangers};
use crate::scene::{Scene, Trap};
use crate::stage::{KEY, open, open_anew, reboot};

const OLD: &[u8] = b"computed before";
const NEW: &[u8] = b"computed";
/// Nobody is ever not chosen by that to compute early.
const AT_ONCE: f64 = 1e15;

/// Goes to the log.
fn large() -> Vec<u8> {
    vec![7; 3_000]
}

pub const ALL: &[Operation] = &[
    Operation {
        name: "turn: compute",
        prepare,
        act: |scene, trap| assert_eq!(compute(scene, trap, Ok(NEW.to_vec())).unwrap(), NEW),
        look: |scene, cache, stage| is_computed(scene, cache, stage, NEW),
        ..STANDARD
    },
    Operation {
        name: "turn: compute, large",
        prepare,
        act: |scene, trap| assert!(compute(scene, trap, Ok(large())).unwrap() == large()),
        look: |scene, cache, stage| is_computed(scene, cache, stage, &large()),
        ..STANDARD
    },
    Operation {
        name: "turn: compute in vain",
        prepare,
        act: |scene, trap| {
            compute(scene, trap, Err(slablock::Error::KeyLength { len: 0 })).unwrap_err();
        },
        look: |scene, cache, _| {
            scene.crowd_is_well(cache);
            assert!(cache.get(KEY).unwrap().is_none());
        },
        ..STANDARD
    },
    Operation {
        name: "turn: early",
        prepare: prepare_early,
        act: |scene, trap| {
            let cache = open(scene);
            let value = trap.armed(|| early(&cache, KEY, NEW));
            // Once somebody has died over it, nobody knows how long it takes until it is over.
            assert!(value == NEW || value == OLD);
        },
        look: is_either,
        ..STANDARD
    },
    Operation {
        name: "turn: clear",
        prepare: prepare_early,
        act: |scene, trap| {
            let cache = open(scene);
            let cleared = trap.armed(|| cache.clear());
            cleared.unwrap();
        },
        look: |_, cache, stage| {
            let got = cache.get(KEY).unwrap();
            assert!(got.is_none_or(|got| stage == Stage::Between && got == OLD));
            assert!(stage == Stage::Between || cache.check().unwrap().slots_used == 0);
        },
        ..STANDARD
    },
    Operation {
        name: "turn: open after a reboot",
        prepare: |scene| {
            prepare_early(scene);
            reboot(scene);
        },
        act: open_anew,
        look: is_old_and_soon_new,
        ..STANDARD
    },
    Operation {
        name: "turn: no room for a value beside them",
        prepare: |scene| {
            let options = Cache::options().capacity(6).eviction(Eviction::None);
            let cache = options.open(scene.store()).unwrap();
            for name in ["one", "two", "three"] {
                assert_eq!(early(&cache, name, OLD), OLD);
            }
        },
        act: |scene, trap| {
            let cache = open(scene);
            let set = trap.armed(|| ["four", "five", KEY].map(|name| cache.set(name, NEW)));
            set.into_iter().for_each(|set| set.unwrap());
        },
        look: |_, cache, stage| {
            for name in ["one", "two", "three"] {
                assert_eq!(cache.get(name).unwrap().unwrap(), OLD);
            }
            for name in ["four", "five", KEY] {
                let got = cache.get(name).unwrap();
                assert!(got.map_or(stage == Stage::Between, |got| got == NEW));
            }
        },
        verify: without_strangers,
        ..STANDARD
    },
];

fn prepare(scene: &Scene) {
    scene.crowd(&open(scene));
}

fn prepare_early(scene: &Scene) {
    prepare(scene);
    assert_eq!(early(&open(scene), KEY, OLD), OLD);
}

fn compute(
    scene: &Scene,
    trap: &Trap,
    outcome: slablock::Result<Vec<u8>>,
) -> slablock::Result<Vec<u8>> {
    let cache = open(scene);
    let got = trap.armed(|| cache.get_or_insert_as(KEY, &SetOptions::new(), || outcome));
    got
}

fn early(cache: &Cache, key: &str, value: &[u8]) -> Vec<u8> {
    let for_long = SetOptions::new().expire(Duration::from_secs(3_600));
    let got = cache.get_or_refresh_as(key, &for_long, AT_ONCE, || {
        slablock::Result::Ok(value.to_vec())
    });
    got.unwrap()
}

/// Missing or whole; and who asks next need not wait for the dead.
fn is_computed(scene: &Scene, cache: &Cache, stage: Stage, value: &[u8]) {
    scene.crowd_is_well(cache);
    match cache.get(KEY).unwrap() {
        Some(got) => assert!(got == value),
        None => assert!(stage == Stage::Between),
    }
}

fn is_either(scene: &Scene, cache: &Cache, _: Stage) {
    scene.crowd_is_well(cache);
    let got = cache.get(KEY).unwrap().expect("the value");
    assert!(got == OLD || got == NEW);
}

/// How long it took is known after all that.
fn is_old_and_soon_new(scene: &Scene, cache: &Cache, stage: Stage) {
    scene.crowd_is_well(cache);
    if stage == Stage::Between {
        assert_eq!(cache.get(KEY).unwrap().unwrap(), OLD);
        return;
    }
    assert_eq!(early(cache, KEY, NEW), NEW);
}
