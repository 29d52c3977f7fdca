//! Deaths while a semaphore that nobody uses is made again with another number of permits.

use slablock::{BoundedSemaphore, Cache, KeyState, SemaphoreGuard};

use crate::drive::{Operation, STANDARD, Stage};
use crate::scene::{Entry, Scene, Trap};
use crate::stage::{KEY, die_holding, open};
use crate::values::died_before;

pub const ALL: &[Operation] = &[
    Operation {
        name: "semaphore: 3 permits become 5",
        prepare: |scene| with_permits(scene, 3),
        act: |scene, trap| take_one_of(scene, trap, 5, None),
        look: |scene, cache, stage| are_old_or_new(scene, cache, stage, [3, 5], TAG),
        ..STANDARD
    },
    Operation {
        name: "semaphore: 5 permits become 3",
        prepare: |scene| with_permits(scene, 5),
        act: |scene, trap| take_one_of(scene, trap, 3, None),
        look: |scene, cache, stage| are_old_or_new(scene, cache, stage, [5, 3], TAG),
        ..STANDARD
    },
    Operation {
        name: "semaphore: 3 become 9, another tag",
        prepare: |scene| with_permits(scene, 3),
        act: |scene, trap| take_one_of(scene, trap, 9, Some("another")),
        look: |scene, cache, stage| are_old_or_new(scene, cache, stage, [3, 9], "another"),
        ..STANDARD
    },
    // What the dead had is nobody's once somebody was told of it.
    Operation {
        name: "semaphore: 5 of the dead become 3",
        prepare: |scene| {
            with_permits(scene, 5);
            die_holding(scene, |cache| {
                let pool = BoundedSemaphore::new(cache, KEY, 5);
                pool.acquire().unwrap().into_token()
            });
            let cache = open(scene);
            let pool = BoundedSemaphore::new(&cache, KEY, 5);
            let all = [(); 5].map(|()| pool.try_acquire().unwrap().expect("a permit"));
            all.iter().for_each(|permit| scene.saw(permit.token()));
        },
        act: |scene, trap| take_one_of(scene, trap, 3, None),
        look: |scene, cache, stage| are_old_or_new(scene, cache, stage, [5, 3], TAG),
        ..STANDARD
    },
    // What they had is taken over with the key, and whoever comes first is told.
    Operation {
        name: "semaphore: 3, with 2 dead, become 5",
        prepare: |scene| {
            with_permits(scene, 3);
            die_with_two(scene, 3);
        },
        act: |scene, trap| take_one_of(scene, trap, 5, None),
        look: |scene, cache, stage| are_old_or_new_and_told(scene, cache, stage, [3, 5]),
        ..STANDARD
    },
    Operation {
        name: "semaphore: 5, with 2 dead, become 1",
        prepare: |scene| {
            with_permits(scene, 5);
            die_with_two(scene, 5);
        },
        act: |scene, trap| take_one_of(scene, trap, 1, None),
        look: |scene, cache, stage| are_old_or_new_and_told(scene, cache, stage, [5, 1]),
        ..STANDARD
    },
];

const TAG: &str = "the tag";

/// Nobody has any of them.
fn with_permits(scene: &Scene, permits: u32) {
    let cache = open(scene);
    scene.crowd(&cache);
    let pool = BoundedSemaphore::new(&cache, KEY, permits).tag(TAG);
    for _ in 0..permits {
        scene.saw(pool.acquire().unwrap().token());
    }
}

/// Somebody has died with two of them.
fn die_with_two(scene: &Scene, permits: u32) {
    die_holding(scene, |cache| {
        let pool = BoundedSemaphore::new(cache, KEY, permits);
        scene.saw(pool.acquire().unwrap().into_token());
        pool.acquire().unwrap().into_token()
    });
}

/// Counts who is told of a death: of that one, or of somebody who took over from it and died in
/// turn.
fn hear(scene: &Scene, permit: &SemaphoreGuard<'_>) {
    if let Some(dead) = permit.recovered() {
        assert!(dead.pid > 0 && !dead.alive, "{dead:?}");
        scene.board.add(Entry::Told, 1);
    }
}

/// Acquires as one of so many, and gives back.
fn take_one_of(scene: &Scene, trap: &Trap, permits: u32, tag: Option<&str>) {
    let cache = open(scene);
    let pool = BoundedSemaphore::new(&cache, KEY, permits);
    let pool = match tag {
        Some(tag) => pool.tag(tag),
        None => pool,
    };
    let guard = trap.armed(|| pool.try_acquire());
    let guard = guard.unwrap().expect("a permit");
    scene.saw(guard.token());
    hear(scene, &guard);
    guard.release().unwrap();
}

/// Like [`are_old_or_new`], and at the end somebody was told of a death.
fn are_old_or_new_and_told(scene: &Scene, cache: &Cache, stage: Stage, numbers: [u32; 2]) {
    are_old_or_new(scene, cache, stage, numbers, TAG);
    let told = scene.board.get(Entry::Told);
    assert!(told > 0 || stage == Stage::Between && cache.key_info(KEY).unwrap().is_none());
}

/// It has the old number or the new one, or there is none; all of them are available at once, and
/// no more.
fn are_old_or_new(scene: &Scene, cache: &Cache, stage: Stage, numbers: [u32; 2], tag: &str) {
    scene.crowd_is_well(cache);
    let Some(info) = cache.key_info(KEY).unwrap() else {
        // Killed between the two: its tokens go on above the floor.
        return assert!(stage == Stage::Between, "there is no such key");
    };
    let KeyState::Semaphore {
        value, available, ..
    } = info.state
    else {
        panic!("{info:?}");
    };
    assert_eq!(value, available);
    let [old, new] = numbers;
    assert!(value == new || value == old && stage == Stage::Between);
    match info.tag {
        Some(there) => assert!(there == tag.as_bytes() || value == old && there == TAG.as_bytes()),
        // The key was gone, and whoever made it again wanted none.
        None => assert!(died_before(scene) && tag == TAG),
    }
    let pool = BoundedSemaphore::new(cache, KEY, value);
    let all: Vec<_> = (0..value).map(|_| pool.try_acquire().unwrap()).collect();
    for permit in &all {
        let permit = permit.as_ref().expect("a permit");
        scene.saw(permit.token());
        hear(scene, permit);
    }
    assert!(pool.try_acquire().unwrap().is_none(), "one too many");
    assert_eq!(pool.available().unwrap(), 0);
}
