//! Deaths while values are set, replaced, deleted, counted; small ones in the slots, large ones in
//! the log.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use slablock::{Averager, Cache, Error, Eviction, KeyState, Kind, Lock, SetOptions};

use crate::drive::{Operation, Order, STANDARD, Stage, no_leak, without_strangers};
use crate::kit::layout;
use crate::kit::stored::{Cell, Stored, place_of, record};
use crate::scene::{Entry, NEVER, Scene, Trap};
use crate::stage::{CAPACITY, KEY, open, open_anew, reboot, take_over, with_a_crowd};

const TAG: &str = "tag";
/// Fits beside its like into the cells of one slot.
pub const SMALL: &[u8] = b"small one";
pub const OTHER_SMALL: &[u8] = b"another";
/// Goes to the log, written with its head at once, and apart from it.
pub const LARGE: usize = 3_000;
pub const OTHER_LARGE: usize = 20_000;

/// In a segment with others, and of a length whose room is given back at once.
const HUGE: usize = 150_000;
const OTHER_HUGE: usize = 100_000;

pub fn large(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + len) as u8).collect()
}

pub const ALL: &[Operation] = &[
    Operation {
        name: "value: first, small",
        prepare: prepare_none,
        act: |scene, trap| set(scene, trap, SMALL),
        look: |scene, cache, stage| is_one_of(scene, cache, stage, &[None, Some(SMALL)]),
        ..STANDARD
    },
    Operation {
        name: "value: small by small",
        prepare: prepare_small,
        act: |scene, trap| set(scene, trap, OTHER_SMALL),
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(SMALL), Some(OTHER_SMALL)])
        },
        ..STANDARD
    },
    Operation {
        name: "value: first, large",
        prepare: prepare_none,
        act: |scene, trap| set(scene, trap, &large(LARGE)),
        look: |scene, cache, stage| is_one_of(scene, cache, stage, &[None, Some(&large(LARGE))]),
        ..STANDARD
    },
    Operation {
        name: "value: large by large",
        prepare: prepare_large,
        act: |scene, trap| set(scene, trap, &large(OTHER_LARGE)),
        look: |scene, cache, stage| {
            let (old, new) = (large(LARGE), large(OTHER_LARGE));
            is_one_of(scene, cache, stage, &[Some(&old), Some(&new)]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: large by small",
        prepare: prepare_large,
        act: |scene, trap| set(scene, trap, SMALL),
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(&large(LARGE)), Some(SMALL)])
        },
        ..STANDARD
    },
    Operation {
        name: "value: small by large",
        prepare: prepare_small,
        act: |scene, trap| set(scene, trap, &large(LARGE)),
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(SMALL), Some(&large(LARGE))])
        },
        ..STANDARD
    },
    Operation {
        name: "value: first segment",
        prepare: with_a_crowd,
        act: |scene, trap| set(scene, trap, &large(LARGE)),
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            holds_one_of(cache, stage, &[None, Some(&large(LARGE))]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: next segment",
        prepare: |scene| {
            prepare_large(scene);
            // Room for nothing more: segments are a 64th of 1 GiB.
            let full = 1 << 32 | ((16 << 20) - 64) / 16_u64;
            scene.poke(layout::TAIL, &full.to_le_bytes());
        },
        act: |scene, trap| set(scene, trap, &large(OTHER_LARGE)),
        look: |scene, cache, stage| {
            let (old, new) = (large(LARGE), large(OTHER_LARGE));
            is_one_of(scene, cache, stage, &[Some(&old), Some(&new)]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: a segment of its own",
        prepare: |scene| {
            let options = Cache::options().capacity(64).size_limit(4 << 20);
            let cache = options.open(scene.store()).unwrap();
            scene.crowd(&cache);
            bystanders(&cache);
            cache.set(KEY, large(LARGE)).unwrap();
        },
        act: |scene, trap| set(scene, trap, &large(300_000)),
        look: |scene, cache, stage| {
            let (old, new) = (large(LARGE), large(300_000));
            is_one_of(scene, cache, stage, &[Some(&old), Some(&new)]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: one that is given back, by another",
        prepare: prepare_huge,
        act: |scene, trap| set(scene, trap, &large(OTHER_HUGE)),
        look: |scene, cache, stage| {
            let (old, new) = (large(HUGE), large(OTHER_HUGE));
            is_one_of(scene, cache, stage, &[Some(&old), Some(&new)]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: one that is given back, deleted",
        prepare: prepare_huge,
        act: delete,
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(&large(HUGE)), None]);
            is_anybodys_once_deleted(cache);
        },
        ..STANDARD
    },
    Operation {
        name: "value: one that is given back, removed",
        prepare: prepare_huge,
        act: |scene, trap| {
            let cache = open(scene);
            let removed = trap.armed(|| cache.remove(KEY));
            assert!(removed.unwrap() || died_before(scene));
        },
        look: |scene, cache, stage| is_one_of(scene, cache, stage, &[Some(&large(HUGE)), None]),
        ..STANDARD
    },
    Operation {
        name: "value: one that is given back, in a transaction",
        prepare: |scene| {
            prepare_huge(scene);
            open(scene).set("gone", large(OTHER_HUGE)).unwrap();
        },
        act: |scene, trap| {
            let cache = open(scene);
            let done = trap.armed(|| {
                cache.transact_as(|all| {
                    // What was written first is not needed after all.
                    all.set(KEY, large(OTHER_HUGE))?;
                    all.set(KEY, SMALL)?;
                    all.delete("gone").map(drop)
                })
            });
            done.unwrap();
        },
        look: |scene, cache, stage| {
            let (key, gone) = (large(HUGE), large(OTHER_HUGE));
            is_one_of(scene, cache, stage, &[Some(&key), Some(SMALL)]);
            match (cache.get(KEY).unwrap(), cache.get("gone").unwrap()) {
                (Some(now), None) => assert!(now == SMALL),
                (Some(now), Some(there)) => assert!(now == key && there == gone),
                (None, _) => panic!("it had a value throughout"),
            }
        },
        ..STANDARD
    },
    Operation {
        name: "value: a segment of its own by another",
        prepare: |scene| {
            let options = Cache::options().capacity(64).size_limit(4 << 20);
            let cache = options.open(scene.store()).unwrap();
            scene.crowd(&cache);
            bystanders(&cache);
            cache.set(KEY, large(300_000)).unwrap();
        },
        act: |scene, trap| set(scene, trap, &large(310_000)),
        look: |scene, cache, stage| {
            let (old, new) = (large(300_000), large(310_000));
            is_one_of(scene, cache, stage, &[Some(&old), Some(&new)]);
            // Those of the dead are compacted away.
            assert_eq!(cache.cull().unwrap(), 0);
            is_one_of(scene, cache, stage, &[Some(&old), Some(&new)]);
            let files = std::fs::read_dir(scene.store().join("log")).unwrap();
            assert!(files.count() <= 4);
        },
        ..STANDARD
    },
    Operation {
        name: "value: delete, small",
        prepare: prepare_small,
        act: delete,
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(SMALL), None]);
            is_anybodys_once_deleted(cache);
        },
        ..STANDARD
    },
    Operation {
        name: "value: delete, large",
        prepare: prepare_large,
        act: delete,
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(&large(LARGE)), None]);
            is_anybodys_once_deleted(cache);
        },
        ..STANDARD
    },
    Operation {
        name: "value: pop",
        prepare: prepare_large,
        act: |scene, trap| {
            let cache = open(scene);
            let popped = trap.armed(|| cache.pop(KEY));
            // Whole, or popped already by a dead one.
            let popped = popped.unwrap();
            assert!(popped.is_none_or(|value| value == large(LARGE)));
        },
        look: |scene, cache, stage| is_one_of(scene, cache, stage, &[Some(&large(LARGE)), None]),
        ..STANDARD
    },
    Operation {
        name: "value: touch, small",
        prepare: prepare_small,
        act: touch,
        look: |scene, cache, stage| is_touched(scene, cache, stage, SMALL),
        ..STANDARD
    },
    Operation {
        name: "value: touch, large",
        prepare: prepare_large,
        act: touch,
        look: |scene, cache, stage| is_touched(scene, cache, stage, &large(LARGE)),
        ..STANDARD
    },
    Operation {
        name: "value: first incr",
        prepare: prepare_none,
        act: incr,
        look: |scene, cache, stage| is_some_count(scene, cache, stage, 0),
        ..STANDARD
    },
    Operation {
        name: "value: incr",
        prepare: |scene| {
            prepare_none(scene);
            Cache::open(scene.store()).unwrap().incr(KEY, 6).unwrap();
        },
        act: incr,
        look: |scene, cache, stage| is_some_count(scene, cache, stage, 6),
        ..STANDARD
    },
    Operation {
        name: "value: incr beside a long tag",
        prepare: |scene| {
            prepare_none(scene);
            let cache = Cache::open(scene.store()).unwrap();
            let options = SetOptions::new().tag([b't'; 255]);
            cache.set_with(KEY, "6", &options).unwrap();
        },
        act: incr,
        look: |scene, cache, stage| {
            is_some_count(scene, cache, stage, 6);
            let tag = cache.entry(KEY).unwrap().unwrap().tag;
            assert_eq!(tag.as_deref(), Some(&[b't'; 255][..]));
        },
        ..STANDARD
    },
    Operation {
        name: "value: add",
        prepare: prepare_none,
        act: |scene, trap| {
            let cache = open(scene);
            let added = trap.armed(|| cache.add(KEY, large(LARGE)));
            // What a dead one has added is there.
            assert!(added.unwrap() || died_before(scene));
        },
        look: |scene, cache, stage| is_one_of(scene, cache, stage, &[None, Some(&large(LARGE))]),
        ..STANDARD
    },
    Operation {
        name: "value: compare and swap",
        prepare: prepare_large,
        act: |scene, trap| {
            let cache = open(scene);
            let swapped = trap.armed(|| cache.compare_and_swap(KEY, large(LARGE), OTHER_SMALL));
            assert!(swapped.unwrap() || died_before(scene));
        },
        look: |scene, cache, stage| {
            is_one_of(
                scene,
                cache,
                stage,
                &[Some(&large(LARGE)), Some(OTHER_SMALL)],
            )
        },
        ..STANDARD
    },
    Operation {
        name: "value: evict by tag",
        prepare: prepare_family,
        act: |scene, trap| {
            let cache = open(scene);
            let evicted = trap.armed(|| cache.remove_tagged(TAG));
            assert!(evicted.unwrap() <= 3);
        },
        look: |scene, cache, stage| {
            bystanders_are_well(scene, cache);
            assert!(family_is_whole(cache) == 0 || stage == Stage::Between);
        },
        ..STANDARD
    },
    Operation {
        name: "value: clear",
        prepare: prepare_family,
        act: |scene, trap| {
            let cache = open(scene);
            let cleared = trap.armed(|| cache.clear());
            cleared.unwrap();
        },
        look: |_, cache, stage| {
            family_is_whole(cache);
            for (name, value) in bystander_values() {
                assert!(cache.get(name).unwrap().is_none_or(|got| got == value));
            }
            assert!(stage == Stage::Between || cache.is_empty().unwrap());
        },
        ..STANDARD
    },
    Operation {
        name: "value: remove",
        prepare: prepare_large,
        act: |scene, trap| {
            let cache = open(scene);
            let removed = trap.armed(|| cache.remove(KEY));
            assert!(removed.unwrap() || died_before(scene));
        },
        look: |scene, cache, stage| {
            is_one_of(scene, cache, stage, &[Some(&large(LARGE)), None]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: full of what was deleted",
        prepare: |scene| {
            let options = Cache::options().capacity(6).eviction(Eviction::None);
            let cache = options.open(scene.store()).unwrap();
            for name in ["one", "two", "three", "four"] {
                cache.set(name, large(LARGE)).unwrap();
            }
            cache.set("kept", SMALL).unwrap();
            cache.delete("one").unwrap();
            cache.delete("two").unwrap();
        },
        // One is left of each: deleted by who may die over it, then needed.
        act: |scene, trap| {
            let cache = open(scene);
            trap.arm();
            let deleted = (cache.delete("three"), cache.delete("four"));
            let set: Vec<_> = ["five", "six", "seven", "eight", KEY]
                .map(|name| cache.set(name, SMALL))
                .into();
            trap.disarm();
            deleted.0.unwrap();
            deleted.1.unwrap();
            set.into_iter().for_each(|set| set.unwrap());
        },
        look: |_, cache, stage| {
            has_room_for_all(cache);
            let got = |name| cache.get(name).unwrap();
            assert_eq!(got("kept").as_deref(), Some(SMALL));
            for name in ["three", "four"] {
                assert!(got(name).is_none_or(|v| stage == Stage::Between && v == large(LARGE)));
            }
            for name in ["five", "six", "seven", "eight", KEY] {
                match got(name) {
                    Some(value) => assert_eq!(value, SMALL),
                    None => assert!(stage == Stage::Between),
                }
            }
        },
        verify: without_strangers,
        ..STANDARD
    },
    Operation {
        name: "value: deleted, a lock instead",
        prepare: prepare_large,
        act: |scene, trap| {
            let cache = open(scene);
            let lock = Lock::new(&cache, KEY);
            trap.arm();
            let deleted = cache.delete(KEY);
            let guard = lock.try_acquire();
            trap.disarm();
            // A dead one may have got further.
            assert!(matches!(
                deleted,
                Ok(_)
                    | Err(Error::KindMismatch {
                        found: Kind::Lock,
                        ..
                    })
            ));
            guard
                .unwrap()
                .expect("free, or a dead one's")
                .release()
                .unwrap();
        },
        look: |scene, cache, stage| {
            bystanders_are_well(scene, cache);
            match cache.key_info(KEY).unwrap().map(|info| info.state) {
                Some(KeyState::Lock { .. }) => {
                    let got = cache.get(KEY);
                    assert!(matches!(got, Err(Error::KindMismatch { .. })), "{got:?}");
                    drop(take_over(scene, &Lock::new(cache, KEY)));
                }
                _ => {
                    assert!(stage == Stage::Between);
                    let got = cache.get(KEY).unwrap();
                    assert!(got.is_none_or(|got| got == large(LARGE)));
                }
            }
        },
        ..STANDARD
    },
    Operation {
        name: "value: transact",
        prepare: |scene| {
            prepare_large(scene);
            let cache = open(scene);
            cache.set("made", SMALL).unwrap();
            cache.delete("made").unwrap();
            cache.set("gone", large(LARGE)).unwrap();
        },
        act: |scene, trap| {
            let cache = open(scene);
            let done = trap.armed(|| {
                cache.transact_as(|all| {
                    all.set(KEY, SMALL)?;
                    all.set("made", large(OTHER_LARGE))?;
                    all.delete("gone")?;
                    all.incr("count", 4).map(drop)
                })
            });
            done.unwrap();
            scene.board.add(Entry::Own, 1);
        },
        look: |scene, cache, stage| {
            // Takes away what is left of the deleted ones, and nothing of a transaction that was
            // decided.
            assert_eq!(cache.remove_expired().unwrap(), 0);
            is_some_count_under(scene, cache, stage, "count", 0);
            let all = ["count", KEY, "made", "gone"].map(|name| cache.get(name).unwrap());
            match all {
                [None, Some(key), None, Some(gone)] => {
                    assert!(stage == Stage::Between && key == large(LARGE) && gone == large(LARGE));
                }
                [Some(_), Some(key), Some(made), None] => {
                    assert!(key == SMALL && made == large(OTHER_LARGE));
                }
                other => panic!("{:?}", other.map(|value| value.is_some())),
            }
        },
        ..STANDARD
    },
    Operation {
        name: "value: evict for slots",
        prepare: |scene| {
            let cache = Cache::options().capacity(6).open(scene.store()).unwrap();
            Averager::new(&cache, "sum").add(6.0).unwrap();
            for name in ["one", "two", "three", "four", "five"] {
                cache.set(name, large(LARGE)).unwrap();
            }
        },
        act: |scene, trap| set(scene, trap, SMALL),
        look: |_, cache, stage| {
            assert_eq!(Averager::new(cache, "sum").get().unwrap(), Some(6.0));
            let names = ["one", "two", "three", "four", "five"];
            let left = names.map(|name| cache.get(name).unwrap());
            assert!(left.iter().flatten().all(|value| *value == large(LARGE)));
            // Some of those that were killed had evicted one each, for nothing.
            match cache.get(KEY).unwrap() {
                Some(value) => assert!(value == SMALL),
                None => assert!(stage == Stage::Between),
            }
        },
        verify: without_strangers,
        ..STANDARD
    },
    Operation {
        name: "value: evict from the log",
        prepare: |scene| {
            let options = Cache::options().capacity(64).size_limit(4 << 20);
            let cache = options.open(scene.store()).unwrap();
            for n in 0..12 {
                cache.set(format!("{n}"), large(250_000)).unwrap();
            }
        },
        act: |scene, trap| set(scene, trap, &large(250_001)),
        look: |_, cache, stage| {
            for n in 0..12 {
                let got = cache.get(format!("{n}")).unwrap();
                assert!(got.is_none_or(|got| got == large(250_000)));
            }
            holds_one_of(cache, stage, &[None, Some(&large(250_001))]);
        },
        ..STANDARD
    },
    Operation {
        name: "value: compact",
        prepare: |scene| {
            let options = Cache::options().capacity(64).size_limit(4 << 20);
            let cache = options
                .eviction(Eviction::None)
                .open(scene.store())
                .unwrap();
            scene.crowd(&cache);
            bystanders(&cache);
            cache.set(KEY, large(LARGE)).unwrap();
            // The first segment is full, and half of it is needed no more; it is too little at a
            // time to be given back.
            for n in 0..24 {
                cache.set(format!("{n}"), large(50_000)).unwrap();
            }
            for n in 0..12 {
                assert!(cache.delete(format!("{n}")).unwrap());
            }
        },
        act: |scene, trap| {
            let cache = open(scene);
            let culled = trap.armed(|| cache.cull());
            assert_eq!(culled.unwrap(), 0);
        },
        look: |scene, cache, stage| {
            bystanders_are_well(scene, cache);
            for n in 12..24 {
                assert!(cache.get(format!("{n}")).unwrap() == Some(large(50_000)));
            }
            holds_one_of(cache, stage, &[None, Some(&large(LARGE))]);
            if stage == Stage::After {
                let first = scene.store().join("log/00000001");
                assert!(!first.exists(), "what is needed no more is there");
            }
        },
        ..STANDARD
    },
    Operation {
        name: "value: open after a reboot",
        prepare: |scene| {
            prepare_large(scene);
            reboot(scene);
        },
        act: open_anew,
        look: value_stays,
        ..STANDARD
    },
    Operation {
        name: "value: repair",
        prepare: |scene| {
            prepare_large(scene);
            Cache::open(scene.store()).unwrap().delete("small").unwrap();
            Cache::open(scene.store())
                .unwrap()
                .set("small", SMALL)
                .unwrap();
        },
        act: repair,
        look: value_stays,
        verify: sound_once_repaired,
        ..STANDARD
    },
    Operation {
        name: "value: repair what was decided",
        prepare: prepare_decided,
        act: repair,
        look: what_was_decided_is_there,
        verify: sound_once_repaired,
        ..STANDARD
    },
];

fn repair(scene: &Scene, trap: &Trap) {
    let report = trap.armed(|| Cache::repair(scene.store()));
    assert_eq!(report.unwrap().keys_lost, 0);
}

/// What was left half repaired need not be sound, but it has to have what it had.
fn sound_once_repaired(operation: &Operation, scene: &Scene, order: Order) {
    if order == Order::LookFirst {
        let cache = Cache::open(scene.store()).unwrap();
        (operation.look)(scene, &cache, Stage::Between);
    }
    (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    let cache = Cache::open(scene.store()).unwrap();
    assert!(cache.check().unwrap().is_sound());
    (operation.look)(scene, &cache, Stage::After);
    no_leak(&cache);
}

/// Of the last one the record is damaged.
pub const DECIDED: [&str; 3] = ["one", "two", "damaged"];

pub fn prepare_decided(scene: &Scene) {
    prepare_large(scene);
    let cache = open(scene);
    for name in DECIDED {
        cache.set(name, OTHER_SMALL).unwrap();
    }
    drop(cache);
    decide(scene);
}

/// What somebody leaves who has decided to set these, and died.
fn decide(scene: &Scene) {
    let before = Stored::read(&scene.store(), CAPACITY as u64);
    let (mut after, mut list) = (before.clone(), Vec::new());
    let tail = before.word(layout::TAIL);
    let (segment, mut unit) = ((tail >> 32) as u32, tail as u32);
    let mut append = |bytes: Vec<u8>| {
        let path = scene.store().join(format!("log/{segment:08x}"));
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&bytes, 16 * u64::from(unit)).unwrap();
        unit += (bytes.len() as u32).div_ceil(16);
        place_of(segment, unit)
    };
    let mut bytes = record(tail, b"damaged", b"", &large(LARGE));
    bytes[100] ^= 1;
    let mut end = append(bytes);
    for slot in before.slots() {
        let Some(at) = DECIDED.iter().position(|name| slot.key == name.as_bytes()) else {
            continue;
        };
        let cell = match at {
            0 | 1 => Cell::Inline {
                expires_ms: 0,
                tag: Vec::new(),
                value: SMALL.to_vec(),
            },
            _ => Cell::Logged {
                expires_ms: 0,
                place: tail,
                tag_len: 0,
                tag_hash: 0,
                len: LARGE as u32,
            },
        };
        let version = before.selector(&slot);
        after.put_cell(&slot, version + 1, &cell);
        list.extend(0_u32.to_le_bytes());
        list.extend((slot.number as u32).to_le_bytes());
        list.extend(slot.generation.to_le_bytes());
        list.extend(version.to_le_bytes());
    }
    assert_eq!(list.len(), 20 * DECIDED.len());
    after.set_word(layout::JOURNAL, end);
    end = append(record(end, b"", b"", &list));
    after.set_word(layout::TAIL, end);
    for at in (0..before.slab.len() as u64).step_by(8) {
        if before.word(at) != after.word(at) {
            scene.poke(at, &after.word(at).to_le_bytes());
        }
    }
}

pub fn what_was_decided_is_there(scene: &Scene, cache: &Cache, stage: Stage) {
    value_stays(scene, cache, stage);
    let all = DECIDED.map(|name| cache.get(name).unwrap());
    assert_eq!(all, [Some(SMALL.to_vec()), Some(SMALL.to_vec()), None]);
}

/// Values that nothing may happen to.
fn bystander_values() -> [(&'static str, Vec<u8>); 2] {
    [("small", SMALL.to_vec()), ("large", large(OTHER_LARGE))]
}

pub fn bystanders(cache: &Cache) {
    for (name, value) in bystander_values() {
        cache.set(name, value).unwrap();
    }
}

pub fn bystanders_are_well(scene: &Scene, cache: &Cache) {
    scene.crowd_is_well(cache);
    for (name, value) in bystander_values() {
        let got = cache.get(name).unwrap();
        assert!(got.is_some_and(|got| got == value), "{name} has changed");
    }
}

fn prepare_none(scene: &Scene) {
    let cache = open(scene);
    scene.crowd(&cache);
    bystanders(&cache);
}

pub fn prepare_small(scene: &Scene) {
    prepare_none(scene);
    open(scene).set(KEY, SMALL).unwrap();
}

fn prepare_huge(scene: &Scene) {
    prepare_none(scene);
    open(scene).set(KEY, large(HUGE)).unwrap();
}

pub fn prepare_large(scene: &Scene) {
    prepare_none(scene);
    open(scene).set(KEY, large(LARGE)).unwrap();
}

/// Whether somebody died in this scene.
pub fn died_before(scene: &Scene) -> bool {
    scene.board.get(Entry::Done) > 0 || scene.board.get(Entry::Place) != 0
}

pub fn set(scene: &Scene, trap: &Trap, value: &[u8]) {
    let cache = open(scene);
    let set = trap.armed(|| cache.set(KEY, value));
    set.unwrap();
}

fn delete(scene: &Scene, trap: &Trap) {
    let cache = open(scene);
    let deleted = trap.armed(|| cache.delete(KEY));
    assert!(deleted.unwrap() || died_before(scene));
}

/// The old value or the new one, which are given in this order; never a third, never half of one.
pub fn is_one_of(scene: &Scene, cache: &Cache, stage: Stage, values: &[Option<&[u8]>; 2]) {
    bystanders_are_well(scene, cache);
    holds_one_of(cache, stage, values);
}

fn holds_one_of(cache: &Cache, stage: Stage, [old, new]: &[Option<&[u8]>; 2]) {
    let got = cache.get(KEY).unwrap();
    let is_new = got.as_deref() == *new;
    let is_old = got.as_deref() == *old && stage == Stage::Between;
    assert!(is_new || is_old, "{:?}", got.map(|value| value.len()));
    assert_eq!(cache.contains(KEY).unwrap(), got.is_some());
    assert_eq!(cache.stats().unwrap().damaged, 0);
}

/// A key without a value can become a lock, also if who deleted the value died with its latch.
fn is_anybodys_once_deleted(cache: &Cache) {
    if cache.get(KEY).unwrap().is_none() {
        let lock = Lock::new(cache, KEY);
        lock.try_acquire()
            .unwrap()
            .expect("nobody has it")
            .release()
            .unwrap();
        assert!(cache.remove(KEY).unwrap());
    }
}

/// Every slot without a value can be had, also if who deleted the value died with its latch.
fn has_room_for_all(cache: &Cache) {
    let room = cache.capacity() - cache.len().unwrap();
    let names: Vec<String> = (0..room).map(|n| format!("filler {n}")).collect();
    names
        .iter()
        .for_each(|name| cache.set(name, SMALL).unwrap());
    for name in &names {
        assert!(cache.delete(name).unwrap());
    }
}

fn touch(scene: &Scene, trap: &Trap) {
    let cache = open(scene);
    let touched = trap.armed(|| cache.touch(KEY, Some(Duration::from_secs(60))));
    assert!(touched.unwrap());
}

fn is_touched(scene: &Scene, cache: &Cache, stage: Stage, value: &[u8]) {
    bystanders_are_well(scene, cache);
    let entry = cache.entry(KEY).unwrap().expect("the value");
    assert!(entry.value == value && entry.tag.is_none());
    assert!(entry.expires_in.is_some() || stage == Stage::Between);
}

fn incr(scene: &Scene, trap: &Trap) {
    let cache = open(scene);
    let sum = trap.armed(|| cache.incr(KEY, 4));
    assert!(sum.unwrap() >= 4);
    scene.board.add(Entry::Own, 1);
}

/// What was there and what was added since: all that was said to be, at most 4 more for each that
/// died over it.
fn is_some_count(scene: &Scene, cache: &Cache, stage: Stage, before: u64) {
    is_some_count_under(scene, cache, stage, KEY, before);
}

fn is_some_count_under(scene: &Scene, cache: &Cache, stage: Stage, key: &str, before: u64) {
    bystanders_are_well(scene, cache);
    let begun = scene.board.get(Entry::Begun) + u64::from(stage == Stage::After);
    let digits = cache.get(key).unwrap();
    let sum: u64 = digits.map_or(0, |digits| {
        String::from_utf8(digits).unwrap().parse().unwrap()
    });
    let added = sum.checked_sub(before).expect("nothing is lost");
    assert_eq!(added % 4, 0);
    let done = scene.board.get(Entry::Own);
    assert!((done..=begun).contains(&(added / 4)), "{added} of {begun}");
}

/// Values that carry the tag; one carried it once.
fn prepare_family(scene: &Scene) {
    prepare_none(scene);
    let cache = open(scene);
    let tagged = SetOptions::new().tag(TAG);
    cache
        .set_with("small of the family", SMALL, &tagged)
        .unwrap();
    cache
        .set_with("large of the family", large(LARGE), &tagged)
        .unwrap();
    cache.set_with(KEY, large(OTHER_LARGE), &tagged).unwrap();
}

fn family_is_whole(cache: &Cache) -> usize {
    let family = [
        ("small of the family", SMALL.to_vec()),
        ("large of the family", large(LARGE)),
        (KEY, large(OTHER_LARGE)),
    ];
    let mut left = 0;
    for (name, value) in family {
        if let Some(entry) = cache.entry(name).unwrap() {
            left += 1;
            assert!(entry.value == value && entry.tag.as_deref() == Some(TAG.as_bytes()));
        }
    }
    left
}

pub fn value_stays(scene: &Scene, cache: &Cache, stage: Stage) {
    bystanders_are_well(scene, cache);
    assert!(cache.get(KEY).unwrap() == Some(large(LARGE)));
    if stage == Stage::After {
        // Written behind what was there before.
        cache.set("new", large(LARGE)).unwrap();
        assert!(cache.get("new").unwrap() == Some(large(LARGE)));
        assert!(cache.get(KEY).unwrap() == Some(large(LARGE)));
    }
}
