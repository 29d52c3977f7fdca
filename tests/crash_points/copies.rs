//! Deaths while a copy is made a store of its own, and its original goes on.

use std::path::{Path, PathBuf};

use slablock::{BoundedSemaphore, Cache, Error, FanoutCache, Lock, Reader, Token};

use crate::drive::{Operation, Order, STANDARD, Stage, no_leak};
use crate::places::{furnish, furniture_is_well};
use crate::scene::{Entry, NEVER, Scene, Trap};
use crate::stage::{CAPACITY, KEY, open};
use crate::values::{
    DECIDED, bystanders, bystanders_are_well, prepare_decided, what_was_decided_is_there,
};

pub const ALL: &[Operation] = &[
    Operation {
        name: "adopt a copy",
        prepare: furnish_and_copy,
        act: adopt,
        look: is_adopted,
        verify: verify_adopted,
        is_thinned: true,
        ..STANDARD
    },
    Operation {
        name: "adopt a copy, by hand",
        prepare: furnish_and_copy,
        act: |scene, trap| {
            let adopted = trap.armed(|| Cache::adopt(scene.store()));
            adopted.unwrap();
        },
        look: is_adopted,
        verify: verify_adopted,
        is_thinned: true,
        ..STANDARD
    },
    Operation {
        name: "adopt a copy of what was decided",
        prepare: |scene| {
            prepare_decided(scene);
            copy(scene);
            let cache = Cache::open(original(scene)).unwrap();
            for name in DECIDED {
                cache.set(name, "of the original").unwrap();
            }
        },
        act: adopt,
        look: what_was_decided_is_there,
        verify: verify_adopted,
        is_thinned: true,
        ..STANDARD
    },
    Operation {
        name: "adopt a copied fanout",
        prepare: |scene| {
            let cache = Cache::options()
                .capacity(2 * CAPACITY)
                .shards(2)
                .open(scene.store())
                .unwrap();
            grant_all(&cache);
            for name in NAMES {
                cache.set(value_of(name), name).unwrap();
            }
            drop(cache);
            copy(scene);
            let cache = FanoutCache::open(original(scene), 2).unwrap();
            note_latest(scene, &grant_all(&cache));
        },
        act: |scene, trap| {
            let options = Cache::options().adopt(true);
            let opened = trap.armed(|| options.shards(2).open(scene.store()));
            opened.unwrap();
        },
        look: |_, _, _| (),
        verify: |operation, scene, order| {
            if order == Order::LookFirst {
                match FanoutCache::open(scene.store(), 2) {
                    Err(Error::Copied { .. }) => {}
                    opened => fanout_is_adopted(scene, &opened.unwrap()),
                }
            }
            (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
            let cache = FanoutCache::open(scene.store(), 2).unwrap();
            fanout_is_adopted(scene, &cache);
            crate::kit::shards(&cache).iter().for_each(no_leak);
        },
        is_thinned: true,
        ..STANDARD
    },
];

fn adopt(scene: &Scene, trap: &Trap) {
    let opened = trap.armed(|| Cache::options().adopt(true).open(scene.store()));
    opened.unwrap();
}

fn original(scene: &Scene) -> PathBuf {
    scene.store().with_file_name("original")
}

/// From now on the scene's store is a copy of what it was.
fn copy(scene: &Scene) {
    std::fs::rename(scene.store(), original(scene)).unwrap();
    copy_dir(&original(scene), &scene.store());
    assert!(matches!(
        Cache::open(scene.store()),
        Err(Error::Copied { .. } | Error::NotAStore { .. })
    ));
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// The original grants tokens of which its copy knows nothing.
fn furnish_and_copy(scene: &Scene) {
    furnish(scene);
    bystanders(&open(scene));
    copy(scene);
    let cache = Cache::open(original(scene)).unwrap();
    let lock = Lock::new(&cache, KEY);
    let guard = lock.try_acquire().unwrap().expect("of a dead one");
    scene.saw(guard.token());
    let pool = BoundedSemaphore::new(&cache, "deserted", 5);
    let permit = pool.try_acquire().unwrap().expect("a permit");
    let later = Lock::new(&cache, "later");
    let later = later.try_acquire().unwrap().expect("a new key").token();
    note_latest(scene, &[guard.token(), permit.token(), later]);
}

fn note_latest(scene: &Scene, tokens: &[Token]) {
    let latest = tokens.iter().map(|token| token.get()).max();
    scene.board.set(Entry::Latest, latest.expect("some tokens"));
}

fn is_later(scene: &Scene, token: Token) {
    let latest = scene.board.get(Entry::Latest);
    assert!(token.get() > latest, "{token} is not above {latest}");
}

fn is_adopted(scene: &Scene, cache: &Cache, stage: Stage) {
    bystanders_are_well(scene, cache);
    furniture_is_well(scene, cache, stage);
    for name in [KEY, "later"] {
        if stage == Stage::After || name == "later" {
            let lock = Lock::new(cache, name);
            let guard = lock.try_acquire().unwrap().expect("nobody has it");
            is_later(scene, guard.token());
        }
    }
    let pool = BoundedSemaphore::new(cache, "deserted", 5);
    if stage == Stage::After {
        is_later(scene, pool.try_acquire().unwrap().unwrap().token());
    }
}

/// It is a copy still, or a store of its own.
fn verify_adopted(operation: &Operation, scene: &Scene, order: Order) {
    if order == Order::LookFirst {
        match Cache::open(scene.store()) {
            Err(Error::Copied { .. }) => is_read_as_a_copy(scene),
            opened => {
                let cache = opened.unwrap();
                is_sound(&cache);
                (operation.look)(scene, &cache, Stage::Between);
            }
        }
    }
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    let cache = Cache::open(scene.store()).unwrap();
    is_sound(&cache);
    (operation.look)(scene, &cache, Stage::After);
    let _ = cache.remove("damaged").unwrap();
    drop(cache);
    assert!(Cache::open(original(scene)).unwrap().len().unwrap() > 0);
    no_leak(&Cache::open(scene.store()).unwrap());
}

/// But for a record that was damaged before it was copied, and stays so.
fn is_sound(cache: &Cache) {
    let report = cache.check().unwrap();
    let problems = report.problems.iter();
    let others = problems.filter(|what| !what.contains("\"damaged\""));
    assert!(
        others.count() == 0 && report.slots_leaked == 0,
        "{report:?}"
    );
}

/// What a copy says may be read, unless somebody has begun to adopt it.
fn is_read_as_a_copy(scene: &Scene) {
    match Reader::open(scene.store()) {
        Err(Error::Corrupt { what, .. }) => assert!(what.contains("repaired"), "{what}"),
        reader => {
            let sum = reader.unwrap().summary("sum").unwrap().expect("an average");
            assert_eq!((sum.count, sum.total), (3, 6.0));
        }
    }
}

const NAMES: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

fn value_of(name: &str) -> String {
    format!("value {name}")
}

fn grant_all(cache: &Cache) -> Vec<Token> {
    let grant = |name: &&str| {
        let lock = Lock::new(cache, *name);
        lock.try_acquire().unwrap().expect("nobody has it").token()
    };
    NAMES.iter().map(grant).collect()
}

fn fanout_is_adopted(scene: &Scene, cache: &Cache) {
    for shard in crate::kit::shards(cache) {
        let report = shard.check().unwrap();
        assert!(report.is_sound(), "{report:?}");
    }
    for token in grant_all(cache) {
        is_later(scene, token);
    }
    for name in NAMES {
        let value = cache.get(value_of(name)).unwrap();
        assert_eq!(value.as_deref(), Some(name.as_bytes()));
    }
}
