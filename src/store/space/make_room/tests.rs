//! Room for values where somebody is in the way, and of lengths at the edge.

use super::*;
use crate::store::members::range::Ranges;
use crate::store::members::recount::Usage;
use crate::store::space::wait::PATIENCE;
use crate::{Cache, Error, Options};

const LIMIT: u64 = 4 << 20;

/// A store with two megabytes of garbage, which nobody compacts as long as there is the lock.
fn full_of_garbage(options: Options) -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
    let lock = Ranges(&cache.store).try_lock_compaction().unwrap();
    for round in 0..3_u8 {
        (0..60).for_each(|key| cache.set(format!("{key}"), [round; 15_000]).unwrap());
    }
    drop(lock);
    (dir, cache)
}

/// Also with the header of its segment.
#[test]
fn a_value_that_fits_but_for_a_header_is_set() {
    let (_dir, cache) = full_of_garbage(Cache::options().size_limit(LIMIT).value_limit(LIMIT));
    let _lock = Ranges(&cache.store).try_lock_compaction().unwrap().unwrap();
    let Usage { bytes, .. } = Segments(&cache.store).usage().unwrap();
    let len = LIMIT - bytes - record_bytes(4, 0, 0);
    assert_eq!(bytes + record_bytes(4, 0, len as usize), LIMIT);
    cache.set("rest", vec![7; len as usize]).unwrap();
    assert!(Segments(&cache.store).usage().unwrap().bytes > LIMIT);
}

/// Whatever the rounding of records makes of it.
#[test]
fn a_value_as_long_as_any_limit_may_have_the_longest_key_and_tag() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    for limit in LIMIT..LIMIT + 16 {
        cache.configure(&Limits::new().size_limit(limit)).unwrap();
        let bytes = record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, limit as usize);
        let room = Space(&cache.store).make_room(bytes, &Wait::begin(), &[]);
        assert!(room.is_ok(), "{limit}: {room:?}");
    }
}

/// All that is left to be done is to begin another segment, so that garbage where others are
/// appended can be removed.
#[test]
fn a_value_as_long_as_the_limit_is_set_also_when_making_room_took_long() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::options().size_limit(LIMIT).open(dir.path()).unwrap();
    for key in 0..60 {
        cache.set(format!("{key}"), [7; 15_000]).unwrap();
    }
    let wait = Wait::begin();
    wait.count(2 * PATIENCE);
    let bytes = record_bytes(4, 0, LIMIT as usize);
    let room = Space(&cache.store).make_room(bytes, &wait, &[]);
    assert!(room.is_ok(), "{room:?}");
}

/// What was large was removed without anything being compacted; then nobody can compact.
#[test]
fn a_log_that_fits_a_lower_limit_does_not_grow_above_it() {
    let (_dir, cache) = full_of_garbage(Cache::options().size_limit(16 * LIMIT));
    let lower = Limits::new().size_limit(LIMIT);
    let _lock = Ranges(&cache.store).try_lock_compaction().unwrap().unwrap();
    cache.configure(&lower).unwrap();
    let mut refused = 0;
    for round in 0..10_u8 {
        for key in 0..60 {
            match cache.set(format!("{key}"), [round; 15_000]) {
                Err(Error::OverLimit { .. }) => refused += 1,
                set => set.unwrap(),
            }
            let usage = Segments(&cache.store).usage().unwrap();
            assert!(
                usage.bytes <= Segments(&cache.store).bound(),
                "{round} {usage:?}"
            );
        }
        if refused > 3 {
            return;
        }
    }
    panic!("it never was full");
}

/// For a compactor, and no longer than that: a setter is to be answered.
#[test]
fn a_setter_waits_for_a_while_and_not_for_ever() {
    let wait = Wait::begin();
    assert!(!wait.is_over());
    wait.count(PATIENCE / 5);
    assert!(!wait.is_over());
    wait.count(PATIENCE);
    assert!(wait.is_over());
}
