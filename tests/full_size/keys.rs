//! Keys of 1,024 bytes and tags of 255, of whatever bytes.

use std::time::{Duration, Instant};

use slablock::{Averager, BoundedSemaphore, Cache, Error, Kind, Lock, RLock, SetOptions};

use crate::kit::{Place, alone, says, store_of};
use crate::{is_full, took};

const KEY_BYTES: usize = 1_024;
const TAG_BYTES: usize = 255;
const KINDS: [Kind; 5] = [
    Kind::Lock,
    Kind::RLock,
    Kind::Semaphore,
    Kind::Averager,
    Kind::Value,
];

/// Makes a key and uses it once.
fn make(cache: &Cache, kind: Kind, key: &[u8], tag: &[u8]) -> slablock::Result<()> {
    match kind {
        Kind::Lock => Lock::new(cache, key).tag(tag).acquire().map(drop),
        Kind::RLock => RLock::new(cache, key).tag(tag).acquire().map(drop),
        Kind::Semaphore => BoundedSemaphore::new(cache, key, 3)
            .tag(tag)
            .acquire()
            .map(drop),
        Kind::Averager => Averager::new(cache, key).tag(tag).add(f64::from(key[0])),
        _ => cache.set_with(key, [key[0]], &SetOptions::new().tag(tag)),
    }
}

/// Every byte there is, each at every place once, and all of one kind.
fn odd_keys() -> impl Iterator<Item = Vec<u8>> {
    let turned =
        (0..8).map(|by: usize| (0..KEY_BYTES).map(|at| (at * 7 + by * 32) as u8).collect());
    turned.chain([0, 0xff, b'/', b'\n', b' '].map(|byte| vec![byte; KEY_BYTES]))
}

#[test]
fn the_longest_keys_and_tags_may_have_any_bytes() {
    let _alone = alone("any bytes");
    for kind in KINDS {
        let place = Place::new();
        let cache = place.open();
        let tag: Vec<u8> = (0..TAG_BYTES).map(|at| (at + 1) as u8).collect();
        let tags = [vec![0; TAG_BYTES], vec![0xff; TAG_BYTES], tag];
        let mut keys: Vec<_> = odd_keys().zip(tags.iter().cycle()).collect();
        for (key, tag) in &keys {
            make(&cache, kind, key, tag).unwrap();
        }
        // Another opening, by which nothing is remembered.
        drop(cache);
        let cache = place.open();
        let infos = cache.keys().unwrap();
        let mut found: Vec<_> = infos
            .into_iter()
            .map(|info| (info.key, info.tag.unwrap()))
            .collect();
        found.sort();
        keys.sort();
        assert!(
            found
                .iter()
                .map(|(key, tag)| (key, tag))
                .eq(keys.iter().map(|(key, tag)| (key, *tag)))
        );
        match kind {
            Kind::Value => assert!(
                keys.iter()
                    .all(|(key, _)| cache.get(key).unwrap() == Some(vec![key[0]]))
            ),
            Kind::Averager => {
                let of = |key: &[u8]| Averager::new(&cache, key).get().unwrap();
                assert!(
                    keys.iter()
                        .all(|(key, _)| of(key) == Some(f64::from(key[0])))
                );
            }
            _ => {}
        }
        let with_zeros = keys.iter().filter(|(_, tag)| **tag == tags[0]).count();
        assert_eq!(cache.remove_tagged(&tags[0]).unwrap(), with_zeros);
        assert!(cache.check().unwrap().is_sound());
        assert!(
            keys.iter()
                .all(|(key, tag)| cache.remove(key).unwrap() != (**tag == tags[0]))
        );
        assert!(cache.is_empty().unwrap());
    }
}

#[test]
fn keys_and_tags_that_are_one_byte_too_long_or_empty_are_refused_for_every_kind() {
    let _alone = alone("a byte too long");
    let (_place, cache) = store_of(1_024);
    for kind in KINDS {
        for wrong in [vec![], vec![0xff; KEY_BYTES + 1], vec![0; KEY_BYTES + 1]] {
            let refused = match kind {
                Kind::Averager => Averager::new(&cache, &wrong).add(1.0),
                Kind::Value => cache.set(&wrong, "value"),
                _ => make(&cache, kind, &wrong, b""),
            };
            let words = ["1 to 1024 bytes", &wrong.len().to_string()];
            assert_error!(refused, Error::KeyLength { .. }, words);
        }
        let refused = make(&cache, kind, &[0xff; KEY_BYTES], &[0; TAG_BYTES + 1]);
        assert_error!(
            refused,
            Error::TagLength { .. },
            ["at most 255 bytes", "256"]
        );
    }
    for wrong in [vec![], vec![7; KEY_BYTES + 1]] {
        for error in [
            cache.get(&wrong).unwrap_err(),
            cache.delete(&wrong).unwrap_err(),
            cache.incr(&wrong, 1).unwrap_err(),
            cache.transact_as(|t| t.set(&wrong, "value")).unwrap_err(),
        ] {
            says(&error, &["1 to 1024 bytes"]);
        }
    }
    assert!(cache.is_empty().unwrap());
    assert!(cache.check().unwrap().is_sound());
}

/// Thousands that differ in the first and the last byte only; each is its own.
#[test]
fn the_longest_keys_that_differ_in_one_byte_are_told_apart() {
    let _alone = alone("one byte");
    let firsts = if is_full() { 16 } else { 4 };
    for kind in KINDS {
        let begun = Instant::now();
        let (_place, cache) = store_of(4_096 * firsts);
        let key = |n: usize| {
            let mut key = vec![0xff; KEY_BYTES];
            (key[0], key[KEY_BYTES - 1]) = ((n / 256) as u8, n as u8);
            key
        };
        let count = 256 * firsts;
        for n in 0..count {
            make(&cache, kind, &key(n), &[n as u8]).unwrap();
        }
        assert_eq!(cache.len().unwrap(), count);
        assert!(cache.check().unwrap().is_sound());
        // One of each first byte goes, and no other.
        assert_eq!(cache.remove_tagged([77]).unwrap(), firsts);
        for n in 0..count {
            let info = cache.key_info(key(n)).unwrap();
            assert_eq!(
                info.map(|info| info.tag),
                (n % 256 != 77).then(|| Some(vec![n as u8]))
            );
        }
        assert_eq!(cache.clear().unwrap(), count - firsts);
        assert!(cache.check().unwrap().is_sound());
        took(&format!("{kind}, keys of 1,024 bytes"), begun, count as u64);
    }
}

/// As deep as anybody goes: the depth is a number of the thread's.
#[test]
fn a_re_entrant_lock_is_taken_very_often_at_once() {
    let _alone = alone("depth");
    let depth = if is_full() { 20_000_000 } else { 100_000 };
    let (_place, cache) = store_of(64);
    let lock = RLock::new(&cache, "key");
    let begun = Instant::now();
    for _ in 0..depth {
        std::mem::forget(lock.acquire().unwrap());
    }
    assert_eq!(lock.depth().unwrap(), depth);
    let token = lock.holder().unwrap().unwrap().token;
    for _ in 0..depth {
        lock.release(token).unwrap();
    }
    took("levels of a re-entrant lock", begun, depth.into());
    assert!(!lock.is_locked().unwrap());
}

/// The longest lease there is: some 35 years after the machine was started, however long one asks
/// for.
#[test]
fn the_longest_lease_is_a_lease() {
    let _alone = alone("the longest lease");
    let (_place, cache) = store_of(64);
    let most = Duration::from_micros(64 << 44);
    for asked in [most - most / 10, most, Duration::MAX] {
        let lock = Lock::new(&cache, "key").lease(asked);
        let guard = lock.acquire().unwrap();
        let left = lock.holder().unwrap().unwrap().lease_left.unwrap();
        assert!(left <= most && left > most - most / 5, "{left:?}");
        guard.renew().unwrap();
        guard.check().unwrap();
        assert!(lock.try_acquire().unwrap().is_none());
        guard.release().unwrap();
    }
    let zero = Lock::new(&cache, "key").lease(Duration::ZERO);
    assert_error!(zero.acquire(), Error::Invalid { .. }, ["lease"]);
}

/// So many keys in one transaction.
#[test]
fn a_transaction_changes_thousands_of_the_longest_keys() {
    let _alone = alone("a long transaction");
    let count: u32 = if is_full() { 20_000 } else { 2_000 };
    let (_place, cache) = store_of(count as usize * 12);
    let key = |n: u32| [vec![0; KEY_BYTES - 4], n.to_le_bytes().to_vec()].concat();
    let begun = Instant::now();
    let add = |cache: &Cache| {
        cache.transact_as(|t| (0..count).try_for_each(|n| t.incr(key(n), 1).map(drop)))
    };
    add(&cache).unwrap();
    took("keys changed in one transaction", begun, count.into());
    add(&cache).unwrap();
    assert!((0..count).all(|n| cache.get(key(n)).unwrap() == Some(b"2".to_vec())));
    assert!(cache.check().unwrap().is_sound());
}
