//! A store of 16,777,216 slots.

use std::time::Instant;

use slablock::{BoundedSemaphore, Cache, Error, Lock};

use crate::kit::{Place, alone};
use crate::{is_full, took};

const ALL: usize = 16_777_216;

/// In the short form a few keys, otherwise one in each slot and one more.
#[test]
fn the_largest_capacity_is_used() {
    let _alone = alone("capacity");
    let place = Place::new();
    for wrong in [0, ALL + 1, usize::MAX] {
        let refused = Cache::options().capacity(wrong).open(place.store());
        let words = ["1 to 16777216 keys", &wrong.to_string()];
        assert_error!(refused, Error::Invalid { .. }, words);
    }
    let begun = Instant::now();
    let cache = Cache::options().capacity(ALL).open(place.store()).unwrap();
    took("making a store of 16,777,216 slots", begun, 1);
    assert_eq!(cache.capacity(), ALL);
    let semaphore = BoundedSemaphore::new(&cache, "semaphore", 65_535);
    let permit = semaphore.acquire().unwrap();
    let lock = |n: usize| Lock::new(&cache, format!("{n}"));
    let count = if is_full() { ALL - 1 } else { 5_000 };
    let begun = Instant::now();
    for n in 0..count {
        drop(lock(n).try_acquire().unwrap().unwrap());
    }
    took("keys made", begun, count as u64);
    if !is_full() {
        return;
    }
    let begun = Instant::now();
    assert_eq!(cache.len().unwrap(), count + 1);
    took("counting them", begun, 1);
    let begun = Instant::now();
    assert!(cache.check().unwrap().is_sound());
    took("check", begun, 1);
    a_full_store_makes_room(&cache);
    let begun = Instant::now();
    drop(lock(count / 2).try_acquire().unwrap().unwrap());
    took("one of them found", begun, 1);
    permit.check().unwrap();
    drop(permit);
    let begun = Instant::now();
    cache.clear().unwrap();
    took("clearing", begun, 1);
    assert!(cache.check().unwrap().is_sound());
    assert!(cache.is_empty().unwrap());
}

/// Idle locks go for others.
fn a_full_store_makes_room(cache: &Cache) {
    let begun = Instant::now();
    for n in 0..5_000 {
        drop(
            Lock::new(cache, format!("one more {n}"))
                .try_acquire()
                .unwrap()
                .unwrap(),
        );
    }
    took("keys made in the full store", begun, 5_000);
    assert!(cache.len().unwrap() <= ALL);
}
