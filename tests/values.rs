//! What the values of a cache mean, point by point, within one process.

#![allow(missing_docs)]

mod kit;

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::{Place, store_with, until};
use slablock::{Cache, Error, FanoutCache, Kind, Limits, Lock, SetOptions, Transaction};

/// Does not end during a test, however slow the machine is.
const HOUR: Duration = Duration::from_secs(3_600);

fn cache() -> (Place, Cache) {
    store_with(&Cache::options())
}

/// Bytes that differ from length to length.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + len) as u8).collect()
}

/// The longest value that lies in the slots of its key.
const INLINE_BYTES_MAX: usize = 256;
/// Lengths around every change of place: cells of one slot, of several, the log in one read, in
/// many.
const LENGTHS: [usize; 16] = [
    0, 1, 7, 8, 9, 40, 100, 255, 256, 257, 1_000, 4_096, 16_384, 16_385, 131_072, 1_000_000,
];

#[test]
fn values_of_all_lengths_come_back() {
    let (_dir, cache) = cache();
    for len in LENGTHS {
        cache.set(format!("k{len}"), bytes(len)).unwrap();
    }
    for len in LENGTHS {
        let got = cache.get(format!("k{len}")).unwrap();
        assert!(got == Some(bytes(len)), "{len}");
    }
    assert_eq!(cache.len().unwrap(), LENGTHS.len());
    assert!(cache.check().unwrap().is_sound());
}

/// A key that is made for a short value has it in its slots; only a longer one takes room in the
/// log.
#[test]
fn short_values_lie_in_the_slots() {
    let (_dir, cache) = cache();
    for len in LENGTHS.into_iter().filter(|len| *len <= INLINE_BYTES_MAX) {
        cache.set(format!("k{len}"), bytes(len)).unwrap();
    }
    cache.set("longest", bytes(INLINE_BYTES_MAX)).unwrap();
    assert_eq!(cache.stats().unwrap().bytes_live, 0);
    cache.set("longer", bytes(INLINE_BYTES_MAX + 1)).unwrap();
    assert!(cache.stats().unwrap().bytes_live > 0);
}

#[test]
fn a_value_is_replaced_by_one_of_any_length() {
    let (_dir, cache) = cache();
    for from in LENGTHS {
        for to in LENGTHS {
            cache.set("k", bytes(from)).unwrap();
            cache.set("k", bytes(to)).unwrap();
            assert!(cache.get("k").unwrap() == Some(bytes(to)), "{from} {to}");
        }
        cache.remove("k").unwrap();
    }
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn what_was_deleted_is_gone_and_can_be_set_again() {
    let (_dir, cache) = cache();
    for len in LENGTHS {
        assert!(!cache.delete("k").unwrap());
        cache.set("k", bytes(len)).unwrap();
        assert!(cache.contains("k").unwrap());
        assert!(cache.delete("k").unwrap());
        assert!(!cache.contains("k").unwrap());
        assert_eq!(cache.get("k").unwrap(), None);
        assert_eq!(cache.len().unwrap(), 0);
        assert!(cache.keys().unwrap().is_empty());
    }
}

/// Inline and in the log, with tags of both, by each operation that replaces.
#[test]
fn what_is_replaced_keeps_its_expiry_and_its_tag_if_it_is_to() {
    let (_dir, cache) = cache();
    let long = Duration::from_secs(1_000);
    let keeping = SetOptions::new().expire(Duration::from_secs(5)).tag("new");
    let keeping = keeping.keep_expiry().keep_tag();
    type Replace<'a> = &'a dyn Fn(&[u8], &SetOptions) -> slablock::Result<bool>;
    let replacers: [Replace<'_>; 4] = [
        &|value, options| cache.set_with("k", value, options).map(|()| true),
        &|value, options| cache.replace_with("k", value, options),
        &|value, options| {
            let old = cache.get("k")?.unwrap_or_default();
            cache.compare_and_swap_with("k", old, value, options)
        },
        &|value, options| {
            let set = |t: &mut Transaction<'_>| t.set_with("k", value, options);
            cache.transact_as(set).map(|()| true)
        },
    ];
    for tag in [&b"tag"[..], &[b't'; 250]] {
        for (before, after) in [(10, 20), (10, 3_000), (3_000, 10), (3_000, 5_000)] {
            for (at, replace) in replacers.iter().enumerate() {
                let made = SetOptions::new().expire(long).tag(tag);
                cache.set_with("k", vec![1; before], &made).unwrap();
                assert!(replace(&vec![2; after], &keeping).unwrap());
                let entry = cache.entry("k").unwrap().unwrap();
                assert_eq!(entry.value, vec![2; after]);
                assert_eq!(entry.tag.as_deref(), Some(tag), "{at}");
                let left = entry.expires_in.unwrap();
                // Rounded up to milliseconds.
                assert!(
                    left <= long + Duration::from_millis(1) && left > long / 2,
                    "{at}: {left:?}"
                );
                // One of the two, and the other as it is said.
                assert!(replace(&[3], &SetOptions::new().keep_tag()).unwrap());
                let entry = cache.entry("k").unwrap().unwrap();
                assert_eq!((entry.tag.as_deref(), entry.expires_in), (Some(tag), None));
                assert!(replace(&[4], &SetOptions::new().keep_expiry()).unwrap());
                let entry = cache.entry("k").unwrap().unwrap();
                assert_eq!((entry.tag, entry.expires_in), (None, None));
            }
        }
    }
    // Where there is none it is as it is said.
    cache.delete("k").unwrap();
    assert!(!cache.replace_with("k", "1", &keeping).unwrap());
    assert!(!cache.compare_and_swap_with("k", "", "1", &keeping).unwrap());
    assert!(cache.add_with("k", "1", &keeping).unwrap());
    assert!(!cache.add_with("k", "2", &keeping).unwrap());
    let entry = cache.entry("k").unwrap().unwrap();
    assert_eq!(
        (&entry.value[..], entry.tag.as_deref()),
        (&b"1"[..], Some(&b"new"[..]))
    );
    assert!(entry.expires_in <= Some(Duration::from_secs(6)));
    assert!(
        !cache
            .compare_and_swap_with("k", "2", "3", &keeping)
            .unwrap()
    );
}

/// Of several writers each keeps what is there, and none writes over another one's.
#[test]
fn a_counter_by_swaps_that_keep_its_expiry_loses_nothing() {
    let (_dir, cache) = cache();
    let long = SetOptions::new()
        .expire(Duration::from_secs(1_000))
        .tag("t");
    cache.set_with("k", "0", &long).unwrap();
    let keeping = SetOptions::new().keep_expiry().keep_tag();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut swapped = 0;
                while swapped < 200 {
                    let old = cache.get("k").unwrap().unwrap();
                    let number: u32 = std::str::from_utf8(&old).unwrap().parse().unwrap();
                    let new = (number + 1).to_string();
                    let done = cache.compare_and_swap_with("k", &old, new, &keeping);
                    swapped += u32::from(done.unwrap());
                }
            });
        }
    });
    let entry = cache.entry("k").unwrap().unwrap();
    assert_eq!(
        (&entry.value[..], entry.tag.as_deref()),
        (&b"800"[..], Some(&b"t"[..]))
    );
    assert!(entry.expires_in.is_some());
}

#[test]
fn add_replace_and_swap_happen_if_it_is_so() {
    let (_dir, cache) = cache();
    for len in LENGTHS {
        let (one, two) = (bytes(len), bytes(len + 1));
        assert!(!cache.replace("k", &one).unwrap());
        assert!(!cache.compare_and_swap("k", b"", &one).unwrap());
        assert!(cache.add("k", &one).unwrap());
        assert!(!cache.add("k", &two).unwrap());
        assert!(cache.get("k").unwrap() == Some(one.clone()));
        assert!(cache.replace("k", &two).unwrap());
        assert!(!cache.compare_and_swap("k", &one, &one).unwrap());
        assert!(cache.compare_and_swap("k", &two, &one).unwrap());
        assert!(cache.pop("k").unwrap() == Some(one));
        assert_eq!(cache.pop("k").unwrap(), None);
    }
}

#[test]
fn integers_are_counted_and_nothing_else_is() {
    let (_dir, cache) = cache();
    assert_eq!(cache.incr("n", 5).unwrap(), 5);
    assert_eq!(cache.decr("n", 7).unwrap(), -2);
    assert_eq!(cache.decr_or("from a hundred", 1, 100).unwrap(), 99);
    assert_eq!(cache.decr_or("from a hundred", 1, 100).unwrap(), 98);
    assert_eq!(cache.incr_or("m", 1, 10).unwrap(), 11);
    assert_eq!(cache.get("n").unwrap().unwrap(), b"-2");
    cache.set("n", i64::MAX.to_string()).unwrap();
    assert!(matches!(cache.incr("n", 1), Err(Error::NotInteger { .. })));
    cache.set("n", i64::MIN.to_string()).unwrap();
    assert_eq!(cache.decr("n", i64::MIN).unwrap(), 0);
    for bad in ["", "1.5", "x", "99999999999999999999"] {
        cache.set("n", bad).unwrap();
        assert!(matches!(cache.incr("n", 1), Err(Error::NotInteger { .. })));
        assert_eq!(cache.get("n").unwrap().unwrap(), bad.as_bytes());
    }
}

/// With a long tag the digits do not fit the cell, and go to the log.
#[test]
fn an_integer_keeps_its_tag_and_its_expiry() {
    let (_dir, cache) = cache();
    for tag in [&b"t"[..], &[7; 255]] {
        let options = SetOptions::new().tag(tag).expire(HOUR);
        cache.set_with("n", "9", &options).unwrap();
        for n in 10..1_000 {
            assert_eq!(cache.incr("n", 1).unwrap(), n);
        }
        let entry = cache.entry("n").unwrap().unwrap();
        assert_eq!(entry.value, b"999");
        assert_eq!(entry.tag.as_deref(), Some(tag));
        assert!(entry.expires_in.unwrap() > HOUR / 2);
        assert_eq!(cache.remove_tagged(tag).unwrap(), 1);
    }
}

#[test]
fn time_ends_a_value_and_touching_gives_it_more() {
    let (_dir, cache) = cache();
    let soon = SetOptions::new().expire(Duration::from_millis(30));
    let later = SetOptions::new().expire(HOUR / 4);
    let left = |key: &str| cache.entry(key).unwrap().unwrap().expires_in;
    for len in [10, 1_000] {
        cache.set_with("over", bytes(len), &soon).unwrap();
        cache.set_with("touched", bytes(len), &later).unwrap();
        assert!(cache.touch("touched", Some(HOUR)).unwrap());
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(cache.get("over").unwrap(), None);
        assert!(!cache.touch("over", None).unwrap());
        assert!(left("touched").unwrap() > HOUR / 2);
        assert!(cache.touch("touched", None).unwrap());
        let entry = cache.entry("touched").unwrap().unwrap();
        assert!(entry.expires_in.is_none() && entry.value == bytes(len));
        assert!(cache.add("over", "again").unwrap());
        assert!(cache.delete("over").unwrap());
    }
    let zero = SetOptions::new().expire(Duration::ZERO);
    assert!(matches!(
        cache.set_with("k", "v", &zero),
        Err(Error::Invalid { .. })
    ));
}

#[test]
fn tags_are_evicted_wherever_the_value_lies() {
    let (_dir, cache) = cache();
    for len in LENGTHS {
        let blue = SetOptions::new().tag("blue");
        cache
            .set_with(format!("blue {len}"), bytes(len), &blue)
            .unwrap();
        cache
            .set_with(format!("was blue {len}"), bytes(len), &blue)
            .unwrap();
        cache.set(format!("was blue {len}"), bytes(len)).unwrap();
    }
    assert_eq!(cache.remove_tagged("red").unwrap(), 0);
    assert_eq!(cache.remove_tagged("blue").unwrap(), LENGTHS.len());
    assert_eq!(cache.len().unwrap(), LENGTHS.len());
    assert_eq!(cache.clear().unwrap(), LENGTHS.len());
    let report = cache.check().unwrap();
    assert!(report.is_sound() && report.slots_used == 0);
}

#[test]
fn a_key_is_a_value_or_a_primitive() {
    let (_dir, cache) = cache();
    let lock = Lock::new(&cache, "lock");
    drop(lock.acquire().unwrap());
    let mismatch = |found: Kind, result: slablock::Result<()>| {
        let Err(Error::KindMismatch { found: f, .. }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(f, found);
    };
    mismatch(Kind::Lock, cache.set("lock", "v"));
    mismatch(Kind::Lock, cache.get("lock").map(drop));
    mismatch(Kind::Lock, cache.delete("lock").map(drop));
    mismatch(Kind::Lock, cache.incr("lock", 1).map(drop));
    cache.set("value", "v").unwrap();
    let lock = Lock::new(&cache, "value");
    mismatch(Kind::Value, lock.acquire().map(drop));
    // Once it is deleted, the key is anybody's.
    assert!(cache.delete("value").unwrap());
    assert!(!lock.is_locked().unwrap());
    let guard = lock.acquire().unwrap();
    mismatch(Kind::Lock, cache.set("value", "v"));
    drop(guard);
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn threads_count_together_and_take_apart() {
    let (_dir, cache) = cache();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..2_000 {
                    cache.incr("n", 1).unwrap();
                    let old = cache.get("swapped").unwrap();
                    match old {
                        Some(old) => drop(cache.compare_and_swap("swapped", old, bytes(i % 600))),
                        None => drop(cache.add("swapped", bytes(0))),
                    }
                    let got = cache.get("swapped").unwrap().unwrap();
                    assert!(got == bytes(got.len()));
                }
            });
        }
    });
    assert_eq!(cache.get("n").unwrap().unwrap(), b"8000");
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn a_full_store_makes_room_from_what_was_deleted() {
    let dir = Place::new();
    let cache = Cache::options().capacity(64);
    let cache = cache
        .eviction(slablock::Eviction::None)
        .open(dir.store())
        .unwrap();
    for round in 0..10 {
        for i in 0..30 {
            cache.set(format!("{round} {i}"), "v").unwrap();
        }
        for i in 0..30 {
            assert!(cache.delete(format!("{round} {i}")).unwrap());
        }
    }
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn a_fanout_has_the_same_operations() {
    let dir = Place::new();
    let cache = FanoutCache::open(dir.store(), 3).unwrap();
    for len in LENGTHS {
        cache.set(format!("k{len}"), bytes(len)).unwrap();
        assert!(cache.get(format!("k{len}")).unwrap() == Some(bytes(len)));
    }
    assert_eq!(cache.incr("n", 2).unwrap(), 2);
    assert_eq!(cache.len().unwrap(), LENGTHS.len() + 1);
    assert_eq!(cache.read("k7", <[u8]>::len).unwrap(), Some(7));
    assert!(cache.pop("n").unwrap().is_some());
}

/// Who asks for a value that was deleted has its latch for a moment. That kept a lock from being
/// made there.
#[test]
fn a_key_without_a_value_is_anybodys_also_while_it_is_asked_for() {
    let (_dir, cache) = cache();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    match cache.delete("k") {
                        Ok(_) | Err(Error::KindMismatch { .. }) => {}
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        let lock = Lock::new(&cache, "k");
        for _ in 0..2_000 {
            cache.set("k", "v").unwrap();
            cache.delete("k").unwrap();
            let taken = lock.acquire().map(drop);
            if taken.is_err() {
                over.store(true, Ordering::Relaxed);
            }
            taken.unwrap();
            assert!(cache.remove("k").unwrap());
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(cache.check().unwrap().is_sound());
}

/// With a long tag the digits go to the log, in more than one step; whoever touches the value in
/// between is not undone.
#[test]
fn counting_beside_a_long_tag_undoes_nothing() {
    let (_dir, cache) = cache();
    let tagged = SetOptions::new().tag([7; 255]);
    cache.set_with("n", "0", &tagged).unwrap();
    const ROUNDS: i64 = 5_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                cache.incr("n", 1).unwrap();
            }
        });
        for round in 0..ROUNDS {
            let day = Duration::from_secs(86_400);
            let expire = (round % 2 == 0).then_some(day);
            assert!(cache.touch("n", expire).unwrap());
            let left = cache.entry("n").unwrap().unwrap().expires_in;
            assert_eq!(left.is_some(), expire.is_some(), "{round}");
        }
    });
    assert_eq!(cache.get("n").unwrap().unwrap(), b"5000");
}

/// A byte in the middle of the only value that is in the log.
fn damage_the_log(cache: &Cache, at: u64) {
    for entry in std::fs::read_dir(cache.path().join("log")).unwrap() {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(entry.unwrap().path())
            .unwrap();
        file.write_all_at(b"!", at).unwrap();
    }
}

/// It was set, and believed to be sound, by the process that looks, which has looked at its
/// checksum since.
#[test]
fn a_value_that_a_check_has_found_damaged_is_a_miss() {
    let (_dir, cache) = cache();
    cache.set("k", bytes(1_000_000)).unwrap();
    assert!(cache.get("k").unwrap().is_some());
    damage_the_log(&cache, 500_001);
    assert!(!cache.check().unwrap().is_sound());
    for misses in 1..3 {
        assert!(cache.get("k").unwrap().is_none());
        assert_eq!(cache.stats().unwrap().damaged, misses);
    }
}

/// Who gets none, and adds one then, is not told for ever that there is one.
#[test]
fn in_place_of_a_damaged_value_another_can_be_added() {
    for new in [5, 5_000] {
        let (_dir, cache) = cache();
        cache.set("k", bytes(1_000)).unwrap();
        assert!(!cache.add("k", bytes(new)).unwrap());
        damage_the_log(&cache, 500);
        assert_eq!(cache.get("k").unwrap(), None);
        assert!(cache.add("k", bytes(new)).unwrap());
        assert_eq!(cache.get("k").unwrap(), Some(bytes(new)));
        assert!(!cache.add("k", bytes(new)).unwrap());
        assert!(cache.check().unwrap().is_sound());
    }
}

/// What is asked for is for all shards together, and none can do with less than 4 MiB.
#[test]
fn a_limit_that_its_shards_cannot_share_is_refused() {
    let dir = Place::new();
    let path = dir.store();
    let of = |mib: u64| Cache::options().size_limit(mib << 20);
    let refused = of(31).shards(8).open(&path).unwrap_err().to_string();
    assert!(
        refused.contains("8 shards") && refused.contains("33554432"),
        "{refused}"
    );
    let fanout = of(32).shards(8).open(&path).unwrap();
    let refused = fanout
        .configure(&Limits::new().size_limit(31 << 20))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("33554432"), "{refused}");
    fanout
        .configure(&Limits::new().size_limit(33 << 20))
        .unwrap();
    fanout.configure(&Limits::new()).unwrap();
}

/// No annotation is needed anywhere, whatever errors meet in a closure.
#[test]
fn closures_take_errors_of_all_types() {
    use std::error::Error as AnyError;
    fn counted(cache: &Cache, text: &str) -> std::result::Result<i64, Box<dyn AnyError>> {
        let by = cache.get_or_insert_with("by", &SetOptions::new(), || {
            let number: i64 = text.parse()?;
            Ok(number.to_string().into_bytes())
        })?;
        let by: i64 = String::from_utf8(by)?.parse()?;
        Ok(cache.transact(|t| {
            t.incr("here", -by)?;
            if by > 100 {
                Err("too much")?;
            }
            Ok(t.incr("there", by)?)
        })?)
    }
    let (_dir, cache) = cache();
    let refused = counted(&cache, "seven").unwrap_err();
    let text = "the caller's own function failed: invalid digit found in string";
    assert_eq!(refused.to_string(), text);
    let refused = refused.downcast::<Error>().unwrap();
    let Error::Caller { source } = *refused else {
        panic!("{refused:?}");
    };
    assert!(source.is::<std::num::ParseIntError>());
    assert_eq!(counted(&cache, "7").unwrap(), 7);
    // An error of the cache's own comes back as it is.
    cache.set("here", "no number").unwrap();
    let refused = counted(&cache, "7").unwrap_err();
    assert!(matches!(
        *refused.downcast().unwrap(),
        Error::NotInteger { .. }
    ));
    cache.set("by", "101").unwrap();
    cache.set("here", "0").unwrap();
    assert!(counted(&cache, "101").is_err());
    assert_eq!(cache.get("here").unwrap().as_deref(), Some(&b"0"[..]));
}

#[test]
fn an_error_is_an_io_error_of_the_kind_that_comes_nearest() {
    fn open(path: &std::path::Path) -> std::io::Result<Cache> {
        Ok(Cache::open(path)?)
    }
    use std::io::ErrorKind;
    let dir = Place::new();
    let cache = open(&dir.store()).unwrap();
    std::fs::write(dir.root().join("file"), "").unwrap();
    let refused = open(&dir.root().join("file")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidData);
    assert!(matches!(
        refused.get_ref().and_then(|inner| inner.downcast_ref()),
        Some(Error::NotAStore { .. })
    ));
    let refused = std::io::Error::from(cache.set("", "v").unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let refused = std::io::Error::from(Cache::repair(dir.store()).unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
}

#[test]
fn iterating_shows_tag_and_time_left() {
    let (_dir, cache) = cache();
    let options = SetOptions::new().tag("t").expire(Duration::from_secs(60));
    cache.set_with("small", "1", &options).unwrap();
    cache.set_with("large", vec![7; 3_000], &options).unwrap();
    cache.set("plain", "2").unwrap();
    let before = cache.stats().unwrap().hits;
    let mut seen = Vec::new();
    for item in &cache {
        let (key, entry) = item.unwrap();
        assert_eq!(entry.tag.is_some(), key != b"plain");
        let left = entry.expires_in.unwrap_or_default();
        assert_eq!(left > Duration::from_secs(50), key != b"plain");
        seen.push((key, entry.value.len()));
    }
    seen.sort();
    let all = [("large", 3_000), ("plain", 1), ("small", 1)];
    assert_eq!(seen, all.map(|(key, len)| (key.as_bytes().to_vec(), len)));
    assert_eq!(
        cache.stats().unwrap().hits,
        before,
        "it is no use of a value"
    );
}

/// What is only data goes into JSON and comes back.
#[test]
#[cfg(feature = "serde")]
fn what_is_only_data_is_serialized() {
    fn round<T>(data: &T)
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let text = serde_json::to_string(data).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), data, "{text}");
    }
    let (_dir, cache) = cache();
    cache.set("value", "1").unwrap();
    let lock = Lock::new(&cache, "lock").lease(HOUR);
    let guard = lock.acquire().unwrap();
    round(&guard.token());
    assert_eq!(
        serde_json::to_string(&guard.token()).unwrap(),
        guard.token().to_string()
    );
    round(&lock.holder().unwrap().unwrap());
    round(&cache.keys().unwrap());
    round(&cache.entry("value").unwrap().unwrap());
    round(&cache.stats().unwrap());
    round(&cache.config().unwrap());
    round(&cache.check().unwrap());
}

/// The count of a minute, say: made with its expiry in the step that counts first, so that none
/// stays for ever.
#[test]
fn a_count_is_made_with_an_expiry_and_a_tag() {
    let place = Place::new();
    let cache = Cache::open(place.store()).unwrap();
    let brief = SetOptions::new().expire(Duration::from_millis(1));
    for start in [0, 10] {
        let count = cache.incr_with("count", 1, start, &brief).unwrap();
        assert_eq!(count, start + 1);
        until("its time is over", || cache.get("count").unwrap().is_none());
    }
    // One that is there keeps its own.
    let minute = Duration::from_secs(60);
    let longer = SetOptions::new().expire(minute).tag("its own");
    cache.incr_with("count", 1, 0, &longer).unwrap();
    assert_eq!(cache.incr_with("count", 1, 0, &brief).unwrap(), 2);
    assert_eq!(cache.incr("count", 1).unwrap(), 3);
    let entry = cache.entry("count").unwrap().unwrap();
    assert!(entry.expires_in.is_some_and(|left| left > minute / 2));
    assert_eq!(entry.tag.as_deref(), Some(&b"its own"[..]));
    // A tag of any length, with and without room for it in the cells that are there.
    for length in [1, 100, 255] {
        let tag = "t".repeat(length);
        let tagged = SetOptions::new().tag(&tag);
        let key = format!("tagged {length}");
        for round in 1..4 {
            assert_eq!(cache.incr_with(&key, 1, 0, &tagged).unwrap(), round);
        }
        let small = format!("small {length}");
        cache.incr(&small, 1).unwrap();
        cache.delete(&small).unwrap();
        assert_eq!(cache.incr_with(&small, 5, 2, &tagged).unwrap(), 7);
        for key in [key, small] {
            let entry = cache.entry(key).unwrap().unwrap();
            assert_eq!(entry.tag.as_deref(), Some(tag.as_bytes()));
        }
        assert_eq!(cache.remove_tagged(&tag).unwrap(), 2);
    }
    assert!(cache.incr_with("k", 1, i64::MAX, &brief).is_err());
    assert!(cache.get("k").unwrap().is_none());
    assert!(cache.check().unwrap().is_sound());
}
