//! Deaths while parts of a store's directory are made again that somebody has removed.

use std::path::PathBuf;

use slablock::{Cache, Error, FanoutCache, Lock};

use crate::drive::{Operation, Order, STANDARD, Stage, no_leak};
use crate::kit::layout::LOCKED;
use crate::kit::until;
use crate::places::{furnish, furniture_is_well, repair_armed, verify_repair};
use crate::scene::{Entry, NEVER, Scene, Trap};
use crate::stage::{CAPACITY, KEY, open, open_anew, reboot, with_a_crowd};
use crate::values::{LARGE, bystanders, bystanders_are_well, large};

/// Of a fanout: so many that no shard is without one.
const KEYS: usize = 40;

pub const ALL: &[Operation] = &[
    Operation {
        name: "make attach again",
        prepare: |scene| furnish_without(scene, &["attach"]),
        act: open_anew,
        look: is_well,
        ..STANDARD
    },
    Operation {
        name: "make beacons and stripes again",
        prepare: |scene| furnish_without(scene, &["beacons", "stripes"]),
        act: open_anew,
        look: is_well,
        ..STANDARD
    },
    Operation {
        name: "make all lock files again",
        prepare: |scene| furnish_without(scene, &LOCKED),
        act: open_anew,
        look: is_well,
        ..STANDARD
    },
    Operation {
        name: "make lock files again after a reboot",
        prepare: |scene| {
            furnish_without(scene, &LOCKED);
            reboot(scene);
        },
        act: open_anew,
        look: is_well,
        is_thinned: true,
        ..STANDARD
    },
    Operation {
        name: "make a fanout's lock files again",
        prepare: |scene| furnish_fanout_without(scene, &LOCKED),
        act: open_fanout_armed,
        look: |_, _, _| (),
        verify: verify_fanout,
        ..STANDARD
    },
    Operation {
        name: "make a fanout's record again",
        prepare: |scene| furnish_fanout_without(scene, &["fanout"]),
        act: open_fanout_armed,
        look: |_, _, _| (),
        verify: verify_fanout,
        ..STANDARD
    },
    Operation {
        name: "make a fanout's shard again",
        prepare: |scene| {
            furnish_fanout_without(scene, &[]);
            std::fs::remove_dir_all(scene.store().join("001")).unwrap();
        },
        act: open_fanout_armed,
        look: |_, _, _| (),
        verify: verify_fanout_again,
        ..STANDARD
    },
    Operation {
        name: "make all of a fanout but a shard again",
        prepare: |scene| {
            furnish_fanout_without(scene, &LOCKED);
            remove(scene, &["fanout"]);
            std::fs::remove_dir_all(scene.store().join("000")).unwrap();
        },
        act: open_fanout_armed,
        look: |_, _, _| (),
        verify: verify_fanout_again,
        ..STANDARD
    },
    Operation {
        name: "make the log again, by repair",
        prepare: |scene| {
            let cache = open(scene);
            scene.crowd(&cache);
            cache.set("gone", large(LARGE)).unwrap();
            cache.delete("gone").unwrap();
            std::fs::remove_dir_all(scene.store().join("log")).unwrap();
        },
        act: repair_armed,
        look: |scene, cache, _| {
            scene.crowd_is_well(cache);
            cache.set(KEY, large(LARGE)).unwrap();
            assert!(cache.get(KEY).unwrap() == Some(large(LARGE)));
        },
        verify: verify_repair,
        is_thinned: true,
        ..STANDARD
    },
    Operation {
        name: "lock files removed beside the living",
        prepare: with_a_crowd,
        act: open_in_vain,
        look: |_, _, _| (),
        companion: Some(|scene| hold_without(scene, &LOCKED)),
        verify: verify_refused,
        ..STANDARD
    },
    Operation {
        name: "stripes removed beside the living",
        prepare: with_a_crowd,
        act: open_in_vain,
        look: |_, _, _| (),
        companion: Some(|scene| hold_without(scene, &["stripes"])),
        verify: verify_refused,
        ..STANDARD
    },
];

fn remove(scene: &Scene, names: &[&str]) {
    for name in names {
        std::fs::remove_file(scene.store().join(name)).unwrap();
    }
}

fn furnish_without(scene: &Scene, names: &[&str]) {
    furnish(scene);
    bystanders(&open(scene));
    remove(scene, names);
}

fn is_well(scene: &Scene, cache: &Cache, stage: Stage) {
    for name in LOCKED {
        assert!(scene.store().join(name).exists());
    }
    bystanders_are_well(scene, cache);
    furniture_is_well(scene, cache, stage);
}

/// A fanout of which every shard has keys.
fn furnish_fanout_without(scene: &Scene, names: &[&str]) {
    let cache = Cache::options()
        .capacity(2 * CAPACITY)
        .shards(2)
        .open(scene.store())
        .unwrap();
    fanout_works(&cache);
    assert!(
        crate::kit::shards(&cache)
            .iter()
            .all(|shard| !shard.is_empty().unwrap())
    );
    drop(cache);
    remove(scene, names);
}

fn open_fanout_armed(scene: &Scene, trap: &Trap) {
    let cache = trap.armed(|| FanoutCache::open(scene.store(), 2));
    cache.unwrap();
}

/// Every key is where it was.
fn verify_fanout(operation: &Operation, scene: &Scene, _: Order) {
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    let cache = FanoutCache::open(scene.store(), 2).unwrap();
    assert_eq!(cache.len().unwrap(), KEYS);
    is_whole(scene, &cache);
}

/// The keys of one shard are gone with it, and of no other.
fn verify_fanout_again(operation: &Operation, scene: &Scene, _: Order) {
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    let cache = FanoutCache::open(scene.store(), 2).unwrap();
    let left = cache.len().unwrap();
    assert!(0 < left && left < KEYS, "{left} keys are left");
    is_whole(scene, &cache);
}

fn is_whole(scene: &Scene, cache: &Cache) {
    for name in LOCKED.into_iter().chain(["fanout"]) {
        assert!(scene.store().join(name).exists(), "{name}");
    }
    fanout_works(cache);
    // No key is in two shards.
    assert_eq!(cache.len().unwrap(), KEYS);
    crate::kit::shards(cache).iter().for_each(no_leak);
}

fn fanout_works(cache: &Cache) {
    for n in 0..KEYS {
        let lock = Lock::new(cache, format!("key {n}"));
        assert!(lock.try_acquire().unwrap().is_some());
    }
}

/// The companion has the lock throughout, by lock files that are gone.
fn hold_without(scene: &Scene, names: &[&str]) {
    let cache = open(scene);
    let lock = Lock::new(&cache, KEY);
    let guard = lock.acquire().unwrap();
    scene.saw(guard.token());
    remove(scene, names);
    scene.board.set(Entry::Own, sum_of(slab(scene)));
    scene.accompany(|| guard.check().is_err());
}

fn slab(scene: &Scene) -> PathBuf {
    scene.store().join("slab")
}

fn sum_of(path: PathBuf) -> u64 {
    crc32fast::hash(&std::fs::read(path).unwrap()).into()
}

fn open_in_vain(scene: &Scene, trap: &Trap) {
    let opened = trap.armed(|| Cache::open(scene.store()));
    match opened {
        Err(Error::Busy {
            lost, processes, ..
        }) => assert!(!lost.is_empty() && processes.len() == 1),
        opened => panic!("{:?}", opened.map(|_| "opened")),
    }
}

/// Nothing is changed beside the living; once they are gone the next one makes the lock files
/// again.
fn verify_refused(operation: &Operation, scene: &Scene, _: Order) {
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    assert!(!scene.companion_has_lost());
    let before = scene.board.get(Entry::Own);
    assert_eq!(sum_of(slab(scene)), before, "the slab was changed");
    scene.board.set(Entry::Over, 1);
    until("the companion is gone", || {
        Cache::open(scene.store()).is_ok()
    });
    let cache = Cache::open(scene.store()).unwrap();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    scene.crowd_is_well(&cache);
    let lock = Lock::new(&cache, KEY);
    scene.saw(lock.try_acquire().unwrap().expect("given back").token());
    no_leak(&cache);
}
