//! Deaths while room is made for a large value that others are to leave room for, and while a
//! transaction counts on there being no such key.

use slablock::{Cache, Lock};

use crate::drive::{Operation, STANDARD, Stage};
use crate::scene::{Scene, Trap};
use crate::stage::{KEY, open};
use crate::values::{OTHER_LARGE, large, set};

const LIMIT: u64 = 4 << 20;
/// Gets a segment of its own.
const OWN: usize = 700_000;
/// What the log is full of.
const OTHERS: usize = 150;

pub const ALL: &[Operation] = &[
    Operation {
        name: "room: of a full log, for a segment of its own",
        prepare: |scene| {
            let options = Cache::options().capacity(400).size_limit(LIMIT);
            let cache = options.open(scene.store()).unwrap();
            scene.crowd(&cache);
            for n in 0..OTHERS {
                cache.set(format!("{n}"), large(OTHER_LARGE)).unwrap();
            }
        },
        act: |scene, trap| set(scene, trap, &large(OWN)),
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            match cache.get(KEY).unwrap() {
                Some(value) => assert!(value == large(OWN)),
                None => assert!(stage == Stage::Between),
            }
            let left = (0..OTHERS).filter_map(|n| cache.get(format!("{n}")).unwrap());
            assert!(left.into_iter().all(|value| value == large(OTHER_LARGE)));
            // Nobody leaves room for the dead.
            cache.set("another", large(OWN)).unwrap();
            assert!(cache.get("another").unwrap() == Some(large(OWN)));
            cache.remove("another").unwrap();
        },
        ..STANDARD
    },
    Operation {
        name: "room: none for what a transaction only reads",
        prepare: |scene| {
            let cache = open(scene);
            scene.crowd(&cache);
        },
        act: read_in_vain,
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            let done = cache.get(KEY).unwrap();
            assert!(done.as_deref() == Some(b"read") || done.is_none() && stage == Stage::Between);
            // No key was made by reading, and anybody can make it.
            for name in ["not there", "nor this"] {
                assert!(cache.key_info(name).unwrap().is_none());
                drop(
                    Lock::new(cache, name)
                        .try_acquire()
                        .unwrap()
                        .expect("nobody has it"),
                );
                assert!(cache.remove(name).unwrap());
            }
        },
        ..STANDARD
    },
];

fn read_in_vain(scene: &Scene, trap: &Trap) {
    let cache = open(scene);
    let done = trap.armed(|| {
        cache.transact_as(|t| {
            assert_eq!(t.get("not there")?, None);
            assert!(!t.delete("nor this")?);
            t.set(KEY, "read")
        })
    });
    done.unwrap();
}
