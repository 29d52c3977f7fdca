//! Deaths while averages are made, added to, and popped.

use slablock::{Averager, Cache};

use crate::drive::{Operation, STANDARD, Stage};
use crate::scene::{Entry, Scene, Trap};
use crate::stage::{KEY, open, with_a_crowd};

pub const ALL: &[Operation] = &[
    Operation {
        name: "average: first add",
        prepare: with_a_crowd,
        act: |scene, trap| add(scene, trap, false),
        look: |scene, cache, stage| is_some_sum(scene, cache, stage, 0),
        ..STANDARD
    },
    Operation {
        name: "average: add",
        prepare: with_two_values,
        act: |scene, trap| add(scene, trap, false),
        look: |scene, cache, stage| is_some_sum(scene, cache, stage, 2),
        ..STANDARD
    },
    Operation {
        name: "average: add, fast path",
        prepare: with_two_values,
        act: |scene, trap| add(scene, trap, true),
        look: |scene, cache, stage| is_some_sum(scene, cache, stage, 2),
        ..STANDARD
    },
    Operation {
        name: "average: pop",
        prepare: with_two_values,
        act: |scene, trap| {
            let cache = open(scene);
            let averager = Averager::new(&cache, KEY);
            let popped = trap.armed(|| averager.pop());
            // Whole, or popped already by a dead one.
            assert!(matches!(popped.unwrap(), Some(1.5) | None));
        },
        look: |scene, cache, stage| {
            scene.crowd_is_well(cache);
            let sum = Averager::new(cache, KEY).summary().unwrap();
            let is = sum.map(|sum| (sum.count, sum.total));
            match stage {
                Stage::Between => assert!(matches!(is, None | Some((2, 3.0))), "{is:?}"),
                Stage::After => assert_eq!(is, None),
            }
        },
        ..STANDARD
    },
];

fn with_two_values(scene: &Scene) {
    let cache = open(scene);
    scene.crowd(&cache);
    let averager = Averager::new(&cache, KEY);
    [1.0, 2.0]
        .into_iter()
        .for_each(|value| averager.add(value).unwrap());
}

/// Adds 4; if `fast`, through a handle that knows the key already.
fn add(scene: &Scene, trap: &Trap, fast: bool) {
    let cache = open(scene);
    let averager = Averager::new(&cache, KEY);
    if fast {
        averager.get().unwrap();
    }
    let added = trap.armed(|| averager.add(4.0));
    added.unwrap();
    scene.board.add(Entry::Own, 1);
}

/// The values of before and those that were added since: all that were said to be, at most one more
/// for each that died over it.
fn is_some_sum(scene: &Scene, cache: &Cache, stage: Stage, before: u64) {
    scene.crowd_is_well(cache);
    let begun = scene.board.get(Entry::Begun) + u64::from(stage == Stage::After);
    let sum = Averager::new(cache, KEY).summary().unwrap();
    let (count, total) = sum.map_or((0, 0.0), |sum| (sum.count, sum.total));
    let added = count.checked_sub(before).expect("no value is lost");
    assert!(
        (scene.board.get(Entry::Own)..=begun).contains(&added),
        "{added} of {begun}"
    );
    let of_before = [0.0, 1.0, 3.0][before as usize];
    assert_eq!(total, of_before + 4.0 * added as f64);
    if let Some(sum) = sum {
        let first = if before > 0 { 1.0 } else { 4.0 };
        assert_eq!(sum.min, first);
        assert_eq!(sum.max, if added > 0 { 4.0 } else { 2.0 });
    }
}
