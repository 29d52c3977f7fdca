//! Eviction makes room for values: each policy, compaction under readers and writers, and what the
//! values take on the disk.

#![allow(missing_docs)]

mod kit;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kit::{Place, Stopwatch, store_with, until};
use slablock::{Cache, Error, Eviction, Limits, Options, SetOptions};

const LIMIT: u64 = 4 << 20;
/// The shortest that there is, and with this limit all have it.
const SEGMENT: u64 = 1 << 20;

fn open(options: Options) -> (Place, Cache) {
    store_with(&options.size_limit(LIMIT))
}

/// What the files of the log take.
fn on_disk(cache: &Cache) -> u64 {
    let Ok(entries) = std::fs::read_dir(cache.path().join("log")) else {
        return 0;
    };
    // A file may go while they are listed.
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    entries.map(|entry| len(&entry.unwrap().path())).sum()
}

/// `len` bytes that say under which key and in which round they were set.
fn value(key: usize, round: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![(key * 31 + round) as u8; len];
    bytes[..16].copy_from_slice(&((key as u128) << 64 | round as u128).to_le_bytes());
    bytes
}

fn is_of(key: usize, value: &[u8]) -> bool {
    let head = u128::from_le_bytes(value[..16].try_into().unwrap());
    let (of, round) = ((head >> 64) as usize, head as u64 as usize);
    let fill = (of * 31 + round) as u8;
    of == key && value[16..].iter().all(|byte| *byte == fill)
}

#[test]
fn values_that_are_replaced_again_and_again_take_bounded_room() {
    let (_dir, cache) = open(Cache::options().eviction(Eviction::None));
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for round in 0..60 {
        for key in 0..50 {
            let one = Instant::now();
            cache
                .set(format!("{key}"), value(key, round, 20_000))
                .unwrap();
            longest = longest.max(one.elapsed());
        }
        assert!(on_disk(&cache) <= LIMIT + SEGMENT, "{}", on_disk(&cache));
    }
    for key in 0..50 {
        let got = cache.get(format!("{key}")).unwrap().unwrap();
        assert!(got == value(key, 59, 20_000));
    }
    let stats = cache.stats().unwrap();
    assert_eq!((stats.evictions, stats.damaged, stats.hits), (0, 0, 50));
    assert!(
        stats.bytes_garbage <= stats.bytes_live + 2 * SEGMENT,
        "{stats:?}"
    );
    assert!(cache.check().unwrap().is_sound());
    println!("{:?}, the longest {longest:?}", begun.elapsed());
}

#[test]
fn without_eviction_there_is_an_end_and_nothing_is_lost() {
    let (_dir, cache) = open(Cache::options().eviction(Eviction::None));
    let mut set = 0;
    let refused = loop {
        match cache.set(format!("{set}"), value(set, 0, 50_000)) {
            Ok(()) => set += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, Error::OverLimit { limit: LIMIT, .. }),
        "{refused}"
    );
    assert!(set as u64 * 50_000 > LIMIT / 2, "{set}");
    for key in 0..set {
        assert!(is_of(key, &cache.get(format!("{key}")).unwrap().unwrap()));
    }
    // Small ones take no room there, and what is deleted makes some.
    cache.set("small", "value").unwrap();
    for key in 0..set / 2 {
        assert!(cache.delete(format!("{key}")).unwrap());
    }
    cache.set("another", value(7, 7, 50_000)).unwrap();
    assert!(cache.check().unwrap().is_sound());
}

fn keys_left(cache: &Cache, keys: usize) -> Vec<usize> {
    let left = |key: &usize| cache.contains(format!("{key}")).unwrap();
    (0..keys).filter(left).collect()
}

#[test]
fn the_least_recently_stored_go_first() {
    let (_dir, cache) = open(Cache::options().eviction(Eviction::LeastRecentlyStored));
    for key in 0..400 {
        cache.set(format!("{key}"), value(key, 0, 20_000)).unwrap();
        if key % 20 == 0 {
            // So that they are told apart: an era begins with a tick of the clock.
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(on_disk(&cache) <= LIMIT + SEGMENT);
    }
    let left = keys_left(&cache, 400);
    assert!(left.len() > 50 && left.contains(&399), "{left:?}");
    // The oldest that is left is younger than the youngest that is gone, but for one tick.
    let gone = 400 - left.len();
    assert!(left[0] + 25 >= gone, "{left:?}");
    assert_eq!(cache.stats().unwrap().evictions as usize, gone);
}

#[test]
fn what_is_used_stays() {
    for eviction in [
        Eviction::LeastRecentlyUsed,
        Eviction::LeastFrequentlyUsed,
        Eviction::GreedyDual,
    ] {
        let (_dir, cache) = open(Cache::options().eviction(eviction));
        for key in 0..400 {
            cache.set(format!("{key}"), value(key, 0, 20_000)).unwrap();
            if key % 20 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            for favourite in 0..5 {
                assert!(cache.get(format!("{favourite}")).unwrap().is_some() || favourite > key);
            }
        }
        let left = keys_left(&cache, 400);
        assert_eq!(left[..5], [0, 1, 2, 3, 4], "{eviction:?}");
        assert!(left.len() < 300);
    }
}

#[test]
fn what_is_listed_is_not_used_by_that() {
    let (_dir, cache) = open(Cache::options().eviction(Eviction::LeastFrequentlyUsed));
    for key in 0..100 {
        cache.set(format!("{key}"), value(key, 0, 20_000)).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(cache.iter().flatten().count(), 100);
    }
    for key in 100..200 {
        cache.set(format!("{key}"), value(key, 0, 20_000)).unwrap();
        cache.get(format!("{key}")).unwrap().unwrap();
    }
    // Nobody has read the others.
    let left = keys_left(&cache, 200);
    assert!(
        left.len() < 180 && left.ends_with(&Vec::from_iter(110..200)),
        "{left:?}"
    );
}

/// Nobody misses it, whatever the policy.
#[test]
fn what_is_over_goes_before_what_is_not() {
    for eviction in [
        Eviction::None,
        Eviction::LeastRecentlyStored,
        Eviction::LeastRecentlyUsed,
        Eviction::LeastFrequentlyUsed,
        Eviction::GreedyDual,
    ] {
        let (_dir, cache) = open(Cache::options().eviction(eviction));
        // The older ones stay.
        for key in 0..50 {
            cache.set(format!("{key}"), value(key, 0, 20_000)).unwrap();
        }
        let brief = SetOptions::new().expire(Duration::from_millis(1));
        for key in 0..80 {
            let key = format!("over {key}");
            cache.set_with(&key, value(1, 0, 20_000), &brief).unwrap();
        }
        let over = || (0..80).all(|key| !cache.contains(format!("over {key}")).unwrap());
        until("their time is over", over);
        for key in 50..120 {
            cache.set(format!("{key}"), value(key, 0, 20_000)).unwrap();
        }
        assert_eq!(keys_left(&cache, 120).len(), 120, "{eviction:?}");
        assert_eq!(cache.stats().unwrap().evictions, 0, "{eviction:?}");
        assert!(cache.check().unwrap().is_sound());
    }
}

#[test]
fn what_is_counted_or_touched_is_in_use() {
    for eviction in [
        Eviction::LeastRecentlyStored,
        Eviction::LeastRecentlyUsed,
        Eviction::LeastFrequentlyUsed,
        Eviction::GreedyDual,
    ] {
        let dir = Place::new();
        let options = Cache::options().capacity(64).eviction(eviction);
        let cache = options.open(dir.store()).unwrap();
        let is_kept_by_touching = eviction != Eviction::LeastRecentlyStored;
        cache.set("touched", "value").unwrap();
        for round in 1..=500 {
            assert_eq!(cache.incr("count", 1).unwrap(), round, "{eviction:?}");
            let touched = cache.touch("touched", None).unwrap();
            assert!(touched || !is_kept_by_touching, "{eviction:?}");
            cache.set(format!("{round}"), "a value").unwrap();
            if round % 8 == 0 {
                // So that they are told apart: an era begins with a tick of the clock.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(cache.stats().unwrap().evictions > 400);
    }
}

#[test]
fn a_full_store_evicts_values_and_never_a_primitive() {
    let dir = Place::new();
    let options = Cache::options().capacity(64);
    let cache = options.open(dir.store()).unwrap();
    let held = slablock::Lock::new(&cache, "held");
    let guard = held.acquire().unwrap();
    let average = slablock::Averager::new(&cache, "average");
    average.add(1.0).unwrap();
    for key in 0..1_000 {
        cache.set(format!("{key}"), "a value").unwrap();
    }
    assert!(cache.contains("999").unwrap());
    assert!(cache.stats().unwrap().evictions > 900);
    assert_eq!(average.get().unwrap(), Some(1.0));
    guard.release().unwrap();
    cache
        .configure(&Limits::new().eviction(Eviction::None))
        .unwrap();
    let refused = (0..100).find_map(|n| cache.set(format!("more {n}"), "v").err());
    assert!(matches!(refused, Some(Error::Full { .. })));
    assert!(cache.check().unwrap().is_sound());
}

/// What lies in its way goes, and little else, however old or new what lies beside each other is.
#[test]
fn a_key_of_many_slots_evicts_a_row_and_not_a_store() {
    for eviction in [
        Eviction::GreedyDual,
        Eviction::LeastRecentlyUsed,
        Eviction::LeastFrequentlyUsed,
        Eviction::LeastRecentlyStored,
    ] {
        let dir = Place::new();
        let options = Cache::options().capacity(8_192).eviction(eviction);
        let cache = options.open(dir.store()).unwrap();
        for key in 0..8_192 {
            cache.set(format!("{key}"), "small").unwrap();
        }
        // Of mixed age.
        for round in 0..4 {
            for key in (0..8_192).filter(|key| key * 31 % 7 < round) {
                cache.get(format!("{key}")).unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        for (key, value, slots) in [("a".repeat(1_000), 1, 8), ("b".repeat(9), 200, 4)] {
            let (before, begun) = (cache.stats().unwrap().evictions, Stopwatch::start());
            cache.set(&key, vec![7; value]).unwrap();
            let (took, gone) = (begun.elapsed(), cache.stats().unwrap().evictions - before);
            println!(
                "{eviction:?}: {} and {value} bytes: {gone} in {took:?}",
                key.len()
            );
            // Sixteen rows at a time.
            assert!(gone <= 16 * slots, "{gone}");
            assert!(cache.get(&key).unwrap().is_some());
        }
        assert!(cache.check().unwrap().is_sound());
    }
}

/// What was found to be worth little goes by the policy of before, or not at all.
#[test]
fn nothing_goes_once_nothing_is_to_go() {
    let (_dir, cache) = open(Cache::options().eviction(Eviction::LeastRecentlyUsed));
    for key in 0..400 {
        cache.set(format!("{key}"), value(key, 0, 20_000)).unwrap();
    }
    let before = cache.stats().unwrap().evictions;
    assert!(before > 0);
    let nothing = Limits::new().eviction(Eviction::None);
    cache.configure(&nothing).unwrap();
    let refused = (400..800).find_map(|key| {
        let set = cache.set(format!("{key}"), value(key, 0, 20_000));
        set.err()
    });
    assert!(matches!(refused, Some(Error::OverLimit { .. })));
    assert_eq!(cache.stats().unwrap().evictions, before);
}

#[test]
fn a_full_store_lets_idle_keys_go_before_values() {
    let dir = Place::new();
    let options = Cache::options().capacity(64);
    let cache = options.open(dir.store()).unwrap();
    for key in 0..20 {
        cache.set(format!("stays {key}"), "a value").unwrap();
    }
    for key in 0..20 {
        let lock = slablock::Lock::new(&cache, format!("lock {key}"));
        lock.acquire().unwrap().release().unwrap();
    }
    for key in 0..20 {
        cache.set(format!("deleted {key}"), "a value").unwrap();
        cache.delete(format!("deleted {key}")).unwrap();
    }
    let brief = SetOptions::new().expire(Duration::from_millis(1));
    for key in 0..4 {
        cache.set_with(format!("over {key}"), "v", &brief).unwrap();
    }
    let over = || (0..4).all(|key| cache.get(format!("over {key}")).unwrap().is_none());
    until("their time is over", over);
    for key in 0..44 {
        cache.set(format!("new {key}"), "a value").unwrap();
    }
    assert_eq!(cache.stats().unwrap().evictions, 0);
    assert_eq!(cache.len().unwrap(), 64);
    cache.set("one more", "a value").unwrap();
    assert!(cache.stats().unwrap().evictions > 0);
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn readers_see_whole_values_while_the_log_is_compacted() {
    let (_dir, cache) = open(Cache::options().eviction(Eviction::None));
    let done = AtomicBool::new(false);
    let lens = [300, 5_000, 20_000, 150_000];
    std::thread::scope(|scope| {
        let (cache, done) = (&cache, &done);
        for _ in 0..2 {
            scope.spawn(move || {
                let mut gets = 0;
                while !done.load(Ordering::Relaxed) {
                    let key = gets % 40;
                    if let Some(got) = cache.get(format!("{key}")).unwrap() {
                        assert!(is_of(key, &got));
                    }
                    gets += 1;
                }
                assert!(gets > 100);
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                scope.spawn(move || {
                    for round in 0..100 {
                        for key in (writer..40).step_by(2) {
                            let len = lens[(key / 2 + round) % lens.len()];
                            let len = if len > 20_000 && key > 6 { 300 } else { len };
                            cache.set(format!("{key}"), value(key, round, len)).unwrap();
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(cache.stats().unwrap().damaged, 0);
    for key in 0..40 {
        let got = cache.get(format!("{key}")).unwrap().unwrap();
        assert!(is_of(key, &got) && got[..8] == 99_u64.to_le_bytes());
    }
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn culling_removes_what_is_over_and_compacts() {
    let (_dir, cache) = open(Cache::options());
    let soon = SetOptions::new().expire(Duration::from_millis(20));
    for key in 0..100 {
        cache
            .set_with(format!("{key}"), value(key, 0, 20_000), &soon)
            .unwrap();
    }
    cache.set("stays", value(1, 1, 20_000)).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(cache.cull().unwrap(), 100);
    assert_eq!(cache.len().unwrap(), 1);
    assert!(on_disk(&cache) <= 2 * SEGMENT, "{}", on_disk(&cache));
    assert!(cache.volume().unwrap() < 1 << 22);
    assert!(is_of(1, &cache.get("stays").unwrap().unwrap()));
}

/// Room is made for the new value, and the old one would be the first to go for it.
#[test]
fn what_is_replaced_is_there_until_it_is() {
    let (_dir, cache) = open(Cache::options());
    let hour = Duration::from_secs(3_600);
    let made = SetOptions::new().expire(hour).tag("t");
    let keep = SetOptions::new().keep_expiry().keep_tag();
    for key in ["a", "b", "c"] {
        cache.set_with(key, value(1, 1, 1_000_000), &made).unwrap();
    }
    for round in 0..20 {
        for key in ["a", "b", "c"] {
            let new = value(1, round, 1_000_000);
            let was_there = cache.contains(key).unwrap();
            match round % 3 {
                0 => cache.set_with(key, &new, &keep).unwrap(),
                1 => assert_eq!(cache.replace_with(key, &new, &keep).unwrap(), was_there),
                _ => {
                    let old = cache.get(key).unwrap().unwrap_or_default();
                    let swapped = cache.compare_and_swap_with(key, old, &new, &keep);
                    assert_eq!(swapped.unwrap(), was_there);
                }
            }
            if !was_there {
                cache.set_with(key, &new, &made).unwrap();
            }
            let entry = cache.entry(key).unwrap().unwrap();
            assert_eq!(entry.tag.as_deref(), Some(&b"t"[..]));
            assert!(entry.expires_in.is_some() && entry.value == new);
        }
    }
}

/// Also of the segment to which others are appended, and what many small ones leave.
#[test]
fn clearing_gives_the_disk_back() {
    let (_dir, cache) = open(Cache::options());
    for len in [300, 20_000, 1_000_000] {
        for key in 0..2_000_000 / len {
            cache.set(format!("{key}"), value(key, 1, len)).unwrap();
        }
    }
    let keys = cache.len().unwrap();
    assert!(on_disk(&cache) > LIMIT / 4, "{}", on_disk(&cache));
    assert_eq!(cache.clear().unwrap(), keys);
    assert_eq!((cache.len().unwrap(), on_disk(&cache)), (0, 0));
    cache.set("1", value(1, 1, 20_000)).unwrap();
    assert!(is_of(1, &cache.get("1").unwrap().unwrap()));
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn all_values_come_once_while_others_change_them() {
    let (_dir, cache) = open(Cache::options());
    for key in 0..300 {
        cache.set(format!("{key}"), value(key, 0, 100)).unwrap();
    }
    drop(slablock::Lock::new(&cache, "lock").acquire().unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                round += 1;
                for key in 0..300 {
                    cache.set(format!("{key}"), value(key, round, 100)).unwrap();
                }
                cache.set(format!("new {}", round % 50), "v").unwrap();
                cache.delete(format!("new {}", (round + 25) % 50)).unwrap();
            }
        });
        for _ in 0..20 {
            let all: Vec<_> = cache.iter().map(Result::unwrap).collect();
            let mut seen = vec![0; 300];
            for (key, value) in all {
                if let Ok(key) = String::from_utf8(key).unwrap().parse::<usize>() {
                    assert!(is_of(key, &value.value));
                    seen[key] += 1;
                }
            }
            assert!(seen.iter().all(|count| *count == 1));
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Only a part of a large store's slots is looked at for what may go. What is in the others goes,
/// too.
#[test]
fn large_values_make_room_wherever_their_slots_are() {
    let (_dir, cache) = open(Cache::options().capacity(80_000).size_limit(4 << 20));
    for key in 0..70_000 {
        cache.set(format!("small {key}"), "1").unwrap();
    }
    for key in 0..40 {
        cache
            .set(format!("large {key}"), value(key, 0, 100_000))
            .unwrap();
    }
    assert!(cache.stats().unwrap().evictions > 0);
}

/// What a transaction has latched is not compacted, and nothing is while that is so: it makes room
/// before.
#[test]
fn transactions_find_room_in_a_log_full_of_what_they_replaced() {
    let (_dir, cache) = open(Cache::options().size_limit(4 << 20));
    for round in 0..40 {
        let replace = |t: &mut slablock::Transaction<'_>| -> slablock::Result<()> {
            (0..8).try_for_each(|key| t.set(format!("{key}"), value(key, round, 100_000)))
        };
        cache.transact_as(replace).unwrap();
    }
    assert!(cache.check().unwrap().is_sound());
}

/// What the files of the log take of the device.
fn blocks(cache: &Cache) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(cache.path().join("log")) else {
        return 0;
    };
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
    entries.map(|entry| size(&entry.unwrap().path())).sum()
}

/// Whether files there can have holes made in them.
fn makes_holes(dir: &Path) -> bool {
    use nix::fcntl::{FallocateFlags, fallocate};
    let file = std::fs::File::create(dir.join("holes")).unwrap();
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let makes = fallocate(&file, how, 0, 4096).is_ok();
    if !makes {
        println!("skipped: the file system makes no holes");
    }
    makes
}

const LARGE: usize = 200_000;
/// Of a record that was given back: the page of its head, and what of its last page is another
/// one's as well.
const LEFT: u64 = 2 * 4096;

/// However a large value goes, its room is free at once, although nothing is compacted: its segment
/// is in use.
#[test]
fn the_room_of_a_large_value_is_free_as_soon_as_nobody_needs_it() {
    let (dir, cache) = open(Cache::options().size_limit(1 << 30));
    if !makes_holes(dir.root()) {
        return;
    }
    let tagged = SetOptions::new().tag("tag");
    let over = SetOptions::new().expire(Duration::from_millis(1));
    type Way<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let ways: [Way; 10] = [
        (
            "replaced",
            Box::new(|| cache.set("k", value(1, 2, LARGE / 2)).unwrap()),
        ),
        (
            "replaced by a small one",
            Box::new(|| cache.set("k", "small").unwrap()),
        ),
        ("deleted", Box::new(|| assert!(cache.delete("k").unwrap()))),
        (
            "popped",
            Box::new(|| assert!(cache.pop("k").unwrap().is_some())),
        ),
        ("removed", Box::new(|| assert!(cache.remove("k").unwrap()))),
        (
            "evicted",
            Box::new(|| assert_eq!(cache.remove_tagged("tag").unwrap(), 1)),
        ),
        (
            "set in a transaction",
            Box::new(|| cache.transact_as(|t| t.set("k", "small")).unwrap()),
        ),
        (
            "deleted in one",
            Box::new(|| assert!(cache.transact_as(|t| t.delete("k")).unwrap())),
        ),
        (
            "not wanted",
            Box::new(|| {
                let gives_up = cache.transact_as(|t| {
                    t.set("k", value(1, 3, LARGE))?;
                    t.set("k", "small")
                });
                gives_up.unwrap();
            }),
        ),
        (
            "counted from when it was over",
            Box::new(|| {
                cache.touch("k", Some(Duration::from_millis(1))).unwrap();
                std::thread::sleep(Duration::from_millis(5));
                assert_eq!(cache.incr("k", 1).unwrap(), 1);
            }),
        ),
    ];
    cache.set_with("other", value(0, 0, 1_000), &over).unwrap();
    // A block of a file that has many holes says where they are.
    let mut left = blocks(&cache) + 4096;
    for (name, way) in ways {
        let before = blocks(&cache);
        cache.set_with("k", value(1, 1, LARGE), &tagged).unwrap();
        assert!(blocks(&cache) > before + LARGE as u64 / 2, "{name}");
        way();
        if name == "replaced" {
            assert!(blocks(&cache) < left + LARGE as u64 * 3 / 4);
            assert!(is_of(1, &cache.get("k").unwrap().unwrap()));
            cache.delete("k").unwrap();
            left += LEFT;
        }
        // What is not wanted has a record of its own.
        left += 2 * LEFT;
        assert!(
            blocks(&cache) <= left,
            "{name}: {} of {left}",
            blocks(&cache)
        );
    }
    let stats = cache.stats().unwrap();
    assert!(
        stats.bytes_live + stats.bytes_garbage <= left + 4096,
        "{stats:?}"
    );
    assert_eq!(
        (stats.damaged, cache.check().unwrap().is_sound()),
        (0, true)
    );
}

/// A segment in which there was one value only goes with it.
#[test]
fn a_value_with_a_segment_of_its_own_leaves_no_file() {
    let (_dir, cache) = open(Cache::options());
    for round in 0..700 {
        cache.set("k", value(1, round, 300_000)).unwrap();
        assert!(on_disk(&cache) < 400_000, "{}", on_disk(&cache));
    }
    assert!(is_of(1, &cache.get("k").unwrap().unwrap()));
    assert!(cache.delete("k").unwrap());
    assert_eq!(on_disk(&cache), 0);
    assert!(cache.check().unwrap().is_sound());
}

/// Who has read a value before, or written it, does not sum it up each time: it may have been given
/// back meanwhile.
#[test]
fn readers_see_no_holes() {
    let (_dir, cache) = open(Cache::options().size_limit(1 << 30));
    let done = AtomicBool::new(false);
    cache.set("k", value(1, 0, LARGE)).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut gets = 0;
                    while !done.load(Ordering::Relaxed) {
                        let got = cache.get("k").unwrap().unwrap();
                        assert!(is_of(1, &got), "after {gets}");
                        gets += 1;
                    }
                    gets
                })
            })
            .collect();
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..800 {
                cache.set("k", value(1, round, LARGE)).unwrap();
            }
        }));
        done.store(true, Ordering::Relaxed);
        written.unwrap();
        let gets = readers.into_iter().map(|reader| reader.join().unwrap());
        println!("{} gets", gets.sum::<usize>());
    });
    assert_eq!(cache.stats().unwrap().damaged, 0);
}

/// What cannot be read, and cannot be removed either: a directory in the place of its file.
#[test]
fn a_segment_that_cannot_be_read_is_left_and_others_are_compacted() {
    let (_dir, cache) = open(Cache::options().eviction(Eviction::None));
    let set = |key: usize, round| cache.set(format!("{key}"), value(key, round, 20_000));
    (0..80).for_each(|key| set(key, 0).unwrap());
    let store = cache.path().to_path_buf();
    drop(cache);
    let first = store.join("log/00000001");
    std::fs::remove_file(&first).unwrap();
    std::fs::create_dir(&first).unwrap();
    let cache = Cache::open(&store).unwrap();
    let set = |key: usize, round| cache.set(format!("{key}"), value(key, round, 20_000));
    let unread = (0..50).filter(|key| cache.get(format!("{key}")).is_err());
    let unread = unread.count();
    assert!(unread > 20, "{unread}");
    // The first half of what was there is needed no more, and of what is there more and more.
    for round in 1..40 {
        (0..25).for_each(|key| set(key, round).unwrap());
    }
    assert!(on_disk(&cache) <= LIMIT + SEGMENT);
    assert!((0..25).all(|key| is_of(key, &cache.get(format!("{key}")).unwrap().unwrap())));
    assert!(cache.stats().unwrap().damaged > 0);
    assert!(first.is_dir());
}

/// Its files are found in the directory that was opened, wherever that is by now, also by a child.
#[test]
fn the_large_values_of_a_store_that_was_moved_are_there() {
    let (dir, cache) = open(Cache::options());
    cache.set("before", value(1, 1, 20_000)).unwrap();
    let moved = dir.root().join("moved");
    std::fs::rename(cache.path(), &moved).unwrap();
    assert!(is_of(1, &cache.get("before").unwrap().unwrap()));
    for round in 0..80 {
        cache.set("k", value(2, round, 20_000)).unwrap();
        cache.set("own", value(3, round, 300_000)).unwrap();
    }
    // Another store in its place is not touched.
    let other = Cache::open(dir.store()).unwrap();
    other.set("before", value(7, 7, 20_000)).unwrap();
    assert!(is_of(1, &cache.get("before").unwrap().unwrap()));
    assert!(is_of(7, &other.get("before").unwrap().unwrap()));
    drop(cache);
    let cache = Cache::open(&moved).unwrap();
    assert!(is_of(2, &cache.get("k").unwrap().unwrap()));
    assert!(is_of(3, &cache.get("own").unwrap().unwrap()));
    assert!(cache.check().unwrap().is_sound());
}

/// A damaged cell may lead to what another key has: what it says is not given back.
#[test]
fn who_replaces_a_damaged_value_gives_nothing_of_another_key_back() {
    use std::os::unix::fs::FileExt;
    // A segment of its own each, and two that share one.
    for (len, theirs, ours) in [(300_000, 2 << 32 | 3, 1 << 32 | 3), (LARGE, 0, 1 << 32 | 3)] {
        let (_dir, cache) = open(Cache::options());
        cache.set("damaged", value(1, 0, len)).unwrap();
        cache.set("other", value(2, 0, len)).unwrap();
        // The head, and the key.
        let second = (48 + (24 + 7 + len as u64).next_multiple_of(16)) / 16;
        let theirs = if theirs == 0 {
            1 << 32 | second
        } else {
            theirs
        };
        let path = cache.path().join("slab");
        let slab = std::fs::read(&path).unwrap();
        let words = slab.as_chunks::<8>().0;
        let found: Vec<_> = (0..words.len())
            .filter(|at| words[*at] == u64::to_le_bytes(ours))
            .collect();
        assert_eq!(found.len(), 1);
        let file = std::fs::OpenOptions::new().write(true).open(&path);
        file.unwrap()
            .write_all_at(&u64::to_le_bytes(theirs), 8 * found[0] as u64)
            .unwrap();
        assert_eq!(cache.get("damaged").unwrap(), None);
        cache.set("damaged", value(1, 1, len)).unwrap();
        for (key, name) in [(1, "damaged"), (2, "other")] {
            let got = cache.get(name).unwrap();
            assert!(got.is_some_and(|got| is_of(key, &got)), "{name}, {len}");
        }
    }
}

/// As of 1 GiB in a store of which nothing was said: what is written around it does not count.
#[test]
fn a_value_as_long_as_the_limit_is_set_whole_and_has_the_log_to_itself() {
    for eviction in [Eviction::None, Eviction::LeastRecentlyStored] {
        let options = Cache::options().eviction(eviction).value_limit(LIMIT);
        let (_dir, cache) = open(options);
        let longest = value(1, 1, LIMIT as usize);
        let key = [b'k'; 1_024];
        let tagged = SetOptions::new().tag([b't'; 255]);
        cache.set_with(key, &longest, &tagged).unwrap();
        assert!(cache.get(key).unwrap().unwrap() == longest);
        cache.cull().unwrap();
        cache.configure(&Limits::new().size_limit(LIMIT)).unwrap();
        assert!(cache.contains(key).unwrap(), "{eviction:?}");
        assert!(on_disk(&cache) <= LIMIT + SEGMENT, "{}", on_disk(&cache));
        let longer = vec![1; LIMIT as usize + 2_000];
        let refused = cache.set_with(key, &longer, &tagged);
        assert!(
            matches!(refused, Err(Error::ValueLength { limit: LIMIT, .. })),
            "{eviction:?}"
        );
        assert!(cache.get(key).unwrap().unwrap() == longest);
        // It makes room for others only if it may.
        let other = cache.set("other", value(2, 1, 20_000));
        match eviction {
            Eviction::None => {
                assert!(matches!(other, Err(Error::OverLimit { .. })));
                assert!(cache.get(key).unwrap().unwrap() == longest);
            }
            _ => {
                other.unwrap();
                assert!(is_of(2, &cache.get("other").unwrap().unwrap()));
                assert!(!cache.contains(key).unwrap());
            }
        }
    }
}

/// Others go for it, and it is there whatever was there.
#[test]
fn a_value_as_long_as_the_limit_takes_the_place_of_all_others() {
    let (_dir, cache) = open(Cache::options().value_limit(LIMIT));
    for round in 0..5 {
        for key in 10..200 {
            let len = 300 + 200 * (key % 100);
            cache.set(format!("{key}"), value(key, round, len)).unwrap();
        }
        let longest = value(1, round, LIMIT as usize);
        let begun = Stopwatch::start();
        cache.set("longest", &longest).unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        assert!(cache.get("longest").unwrap().unwrap() == longest);
        assert!(on_disk(&cache) <= LIMIT + SEGMENT, "{}", on_disk(&cache));
        // Once more, where it is itself in the way.
        cache.set("longest", &longest).unwrap();
        assert!(cache.get("longest").unwrap().unwrap() == longest);
    }
    assert!(cache.check().unwrap().is_sound());
}
