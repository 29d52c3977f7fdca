//! A value of 1 GiB, and one that is longer.

use std::path::Path;
use std::time::{Duration, Instant};

use slablock::{Cache, Error, SetOptions};

use crate::kit::{Child, Place, Role, alone, say, store_with};
use crate::{is_full, took};

const ALL: usize = 1 << 30;
const PIECE: usize = 1 << 20;

/// What each piece of the value is.
fn piece(number: usize, bytes: &mut [u8]) {
    bytes.fill(number as u8);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[PIECE - 8..].copy_from_slice(&(!number).to_le_bytes());
}

fn value(len: usize) -> Vec<u8> {
    let mut value = vec![0; len];
    let pieces = value.as_chunks_mut::<PIECE>().0;
    pieces
        .iter_mut()
        .enumerate()
        .for_each(|(number, bytes)| piece(number, bytes));
    value
}

/// Whether it is that, without a second one in memory.
fn is_whole(value: &[u8], len: usize) -> bool {
    let mut expected = vec![0; PIECE];
    value.len() == len
        && value
            .as_chunks::<PIECE>()
            .0
            .iter()
            .enumerate()
            .all(|(number, bytes)| {
                piece(number, &mut expected);
                *bytes == *expected
            })
}

/// In the short form a 32nd of it, in a store whose limit is that.
fn len() -> usize {
    match is_full() {
        true => ALL,
        false => ALL / 32,
    }
}

fn open(dir: &Path) -> Cache {
    match is_full() {
        true => Cache::options().value_limit(ALL as u64).open(dir).unwrap(),
        false => {
            let limit = len() as u64;
            let options = Cache::options().size_limit(limit).value_limit(limit);
            options.open(dir).unwrap()
        }
    }
}

pub fn sets(role: &Role) {
    let cache = open(&role.store());
    cache.set("before", vec![1; 1_000]).unwrap();
    let tag = SetOptions::new()
        .tag([b't'; 255])
        .expire(Duration::from_secs(36_000));
    let key = [0xff; 1_024];
    let value = value(len());
    let begun = Instant::now();
    cache.set_with(key, &value, &tag).unwrap();
    took("the longest value set", begun, 1);
    let begun = Instant::now();
    cache.set_with(key, &value, &tag).unwrap();
    took("and once more over it", begun, 1);
    say("set");
}

pub fn gets(role: &Role) {
    let cache = open(&role.store());
    let begun = Instant::now();
    let got = cache.get([0xff; 1_024]).unwrap().unwrap();
    took("the longest value read by another process", begun, 1);
    assert!(is_whole(&got, len()));
    say("whole");
}

#[test]
fn the_longest_value_is_set_and_read_by_another_process() {
    let _alone = alone("the longest value");
    let place = Place::new();
    let setter = Child::start("sets a long value", place.root(), &[]);
    setter.expect("set");
    setter.finish();
    let getter = Child::start("gets a long value", place.root(), &[]);
    getter.expect("whole");
    getter.finish();
    let cache = open(&place.store());
    let begun = Instant::now();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    took("check, with the longest value", begun, 1);
    // It has the log to itself, and goes for the next one.
    cache.set("after", vec![2; 1_000]).unwrap();
    assert_eq!(cache.get("after").unwrap(), Some(vec![2; 1_000]));
    assert!(cache.check().unwrap().is_sound());
    cache.clear().unwrap();
    let took_bytes = cache.volume().unwrap();
    assert!(took_bytes < 64 << 20, "{took_bytes} bytes are left");
}

/// Zeros that nobody has written: they take no memory.
#[test]
fn a_value_that_is_one_byte_too_long_is_refused() {
    let _alone = alone("a byte too many");
    let (_place, cache) = store_with(&Cache::options().value_limit(ALL as u64));
    cache.set("key", "before").unwrap();
    let long = vec![0; ALL + 1];
    let words = ["at most 1073741824 bytes", "1073741825"];
    let refused = |result: slablock::Result<()>| {
        assert_error!(result, Error::ValueLength { .. }, words);
        assert_eq!(cache.get("key").unwrap(), Some(b"before".to_vec()));
    };
    refused(cache.set("key", &long));
    refused(cache.set_with("key", &long, &SetOptions::new().tag("tag")));
    refused(cache.add("new", &long).map(drop));
    refused(cache.replace("key", &long).map(drop));
    refused(cache.compare_and_swap("key", "before", &long).map(drop));
    refused(cache.transact_as(|t| t.set("key", &long)));
    // What was computed for it is whole, and is not kept.
    let computed = cache.get_or_insert_as("new", &SetOptions::new(), || {
        slablock::Result::Ok(long.clone())
    });
    assert_eq!(computed.unwrap().len(), ALL + 1);
    assert_eq!(cache.stats().unwrap().unkept, 1);
    assert_eq!(cache.len().unwrap(), 1);
    assert!(cache.check().unwrap().is_sound());
}

/// Up to 256 bytes lie in the slab, key and tag be as long as they can.
#[test]
fn values_at_the_edge_of_the_slab_are_kept_under_the_longest_keys() {
    let _alone = alone("the edge of the slab");
    let (_place, cache) = store_with(&Cache::options());
    let tagged = SetOptions::new().tag([0xff; 255]);
    for len in [0, 1, 254, 255, 256, 257, 511, 512, 513] {
        let key = vec![len as u8; 1_024];
        cache.set_with(&key, vec![7; len], &tagged).unwrap();
        assert_eq!(cache.get(&key).unwrap(), Some(vec![7; len]));
        cache.set(&key, vec![8; len]).unwrap();
        assert_eq!(cache.get(&key).unwrap(), Some(vec![8; len]));
        cache.clear().unwrap();
    }
    assert!(cache.check().unwrap().is_sound());
}
