//! `Cache` and `FanoutCache` as the place for keys.

#![allow(missing_docs)]

#[macro_use]
mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use kit::{LONG, Place, bounded, open_below, store, store_of};
use slablock::{
    Averager, BoundedSemaphore, Cache, Error, FanoutCache, KeyInfo, KeyState, Kind, Lock, RLock,
    Token,
};

fn make(place: &Cache, kind: Kind, key: &[u8], tag: &[u8]) {
    match kind {
        Kind::Lock => drop(Lock::new(place, key).tag(tag).acquire().unwrap()),
        Kind::RLock => drop(RLock::new(place, key).tag(tag).acquire().unwrap()),
        Kind::Semaphore => {
            let semaphore = BoundedSemaphore::new(place, key, 5).tag(tag);
            drop(semaphore.acquire().unwrap());
        }
        _ => Averager::new(place, key).tag(tag).add(1.5).unwrap(),
    }
}

const KINDS: [Kind; 4] = [Kind::Lock, Kind::RLock, Kind::Semaphore, Kind::Averager];

fn names(infos: &[KeyInfo]) -> BTreeSet<Vec<u8>> {
    let names: BTreeSet<_> = infos.iter().map(|info| info.key.clone()).collect();
    assert_eq!(names.len(), infos.len(), "a key is listed twice");
    names
}

fn assert_sound(place: &Cache) {
    let report = place.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn what_is_missing_is_made_and_what_is_there_is_kept() {
    bounded(|| {
        let place = Place::new();
        let deep = place.root().join("a/b/store");
        let cache = Cache::open(&deep).unwrap();
        assert_eq!(cache.path(), deep);
        assert_eq!(cache.capacity(), 16_777_216);
        assert!(cache.is_empty().unwrap());
        make(&cache, Kind::Averager, b"k", b"");
        drop(cache);
        let cache = Cache::open(&deep).unwrap();
        assert_eq!(cache.len().unwrap(), 1);
        // An empty directory that is there already will do, too.
        let empty = place.root().join("empty");
        std::fs::create_dir(&empty).unwrap();
        Cache::open(&empty).unwrap();
    });
}

#[test]
fn the_mode_does_not_depend_on_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    bounded(|| {
        let mode_of = |path: &std::path::Path| {
            let meta = std::fs::metadata(path).unwrap();
            meta.permissions().mode() & 0o777
        };
        let place = Place::new();
        let _private = place.open();
        assert_eq!(mode_of(&place.slab()), 0o600);
        assert_eq!(mode_of(&place.store()), 0o700);
        let shared = place.root().join("shared");
        let _shared = Cache::options().mode(0o666).open(&shared).unwrap();
        for name in ["slab", "attach", "beacons", "stripes"] {
            assert_eq!(mode_of(&shared.join(name)), 0o666, "{name}");
        }
        assert_eq!(mode_of(&shared), 0o777);
    });
}

#[test]
fn keys_are_listed_with_kind_tag_and_state() {
    bounded(|| {
        let (_place, cache) = store();
        for kind in KINDS {
            make(&cache, kind, kind.to_string().as_bytes(), b"");
            make(&cache, kind, format!("tagged {kind}").as_bytes(), b"t");
        }
        let guard = Lock::new(&cache, "lock");
        let guard = guard.acquire().unwrap();
        let infos = cache.keys().unwrap();
        assert_eq!(names(&infos).len(), 8);
        assert_eq!(cache.len().unwrap(), 8);
        for info in infos {
            let name = String::from_utf8(info.key.clone()).unwrap();
            assert_eq!(
                name.strip_prefix("tagged ").unwrap_or(&name),
                info.kind.to_string()
            );
            let tag = name.starts_with("tagged").then(|| b"t".to_vec());
            assert_eq!((info.tag.clone(), info.waiters), (tag, 0));
            match &info.state {
                KeyState::Lock { holder } => {
                    let token = holder.as_ref().map(|h| h.token);
                    assert_eq!(token, (name == "lock").then(|| guard.token()));
                }
                KeyState::Semaphore {
                    value, available, ..
                } => assert_eq!((*value, *available), (5, 5)),
                KeyState::Averager { summary } => assert_eq!(summary.unwrap().mean, 1.5),
                other => panic!("{other:?}"),
            }
            let alone = cache.key_info(&info.key).unwrap().unwrap();
            assert_eq!((&alone.key, alone.kind), (&info.key, info.kind));
            // For how long it is held has changed meanwhile.
            assert!(name == "lock" || alone == info);
        }
        assert_eq!(cache.key_info("nobody").unwrap(), None);
        assert_sound(&cache);
    });
}

#[test]
fn a_key_is_removed_once() {
    bounded(|| {
        let (_place, cache) = store();
        for kind in KINDS {
            make(&cache, kind, b"k", b"t");
            assert!(cache.remove("k").unwrap());
            assert!(!cache.remove("k").unwrap());
            assert_eq!(
                (cache.len().unwrap(), cache.key_info("k").unwrap()),
                (0, None)
            );
            assert_eq!(cache.remove_tagged("t").unwrap(), 0);
        }
        assert_sound(&cache);
    });
}

#[test]
fn eviction_takes_what_carries_the_tag_and_counts_it() {
    bounded(|| {
        let (_place, cache) = store();
        let long = [7_u8; 255];
        let tags: [&[u8]; 5] = [b"a", b"ab", b"b", &long, b""];
        for kind in KINDS {
            for (number, tag) in tags.iter().enumerate() {
                let key = format!("{kind} {number}");
                make(&cache, kind, key.as_bytes(), tag);
            }
        }
        assert_eq!(cache.len().unwrap(), 20);
        assert_eq!(cache.remove_tagged("").unwrap(), 0);
        assert_eq!(cache.remove_tagged("c").unwrap(), 0);
        assert_eq!(cache.remove_tagged([7_u8; 254]).unwrap(), 0);
        assert_eq!(cache.remove_tagged("a").unwrap(), 4);
        assert_eq!(cache.remove_tagged("a").unwrap(), 0);
        assert_eq!(cache.remove_tagged(long).unwrap(), 4);
        let left = cache.keys().unwrap();
        assert_eq!(left.len(), 12);
        assert!(
            left.iter()
                .all(|k| k.tag.is_none() || k.tag.as_deref() != Some(b"a"))
        );
        assert_sound(&cache);
    });
}

#[test]
fn clearing_takes_everything_held_or_not() {
    bounded(|| {
        let (_place, cache) = store();
        for kind in KINDS {
            make(&cache, kind, kind.to_string().as_bytes(), b"");
        }
        let lock = Lock::new(&cache, "lock");
        let held = lock.acquire().unwrap();
        assert_eq!(cache.clear().unwrap(), 4);
        assert!(cache.is_empty().unwrap() && cache.keys().unwrap().is_empty());
        assert!(matches!(held.release(), Err(Error::Lost { .. })));
        assert_eq!(cache.clear().unwrap(), 0);
        drop(lock.acquire().unwrap());
        assert_eq!(cache.len().unwrap(), 1);
        assert_sound(&cache);
    });
}

#[test]
fn keys_of_every_length_are_told_apart() {
    bounded(|| {
        let (_place, cache) = store_of(16_384);
        // All lengths around the boundaries of words and slots, the ends, and some between.
        let lengths = (1..=40)
            .chain((1..=8).flat_map(|slot| 136 * slot - 2..136 * slot + 3))
            .chain((1..=8).flat_map(|slot| 136 * slot - 114..136 * slot - 109))
            .chain(1..=1_024_usize)
            .step_by(3)
            .chain([1_023, 1_024])
            .filter(|len| *len <= 1_024);
        let lengths: BTreeSet<usize> = lengths.collect();
        for len in &lengths {
            for kind in KINDS {
                // Prefixes of one another, and differing in the last byte only.
                let mut key = vec![b'k'; *len];
                key[len - 1] = kind as u8;
                make(&cache, kind, &key, b"tag");
            }
        }
        let infos = cache.keys().unwrap();
        assert_eq!(names(&infos).len(), 4 * lengths.len());
        for info in &infos {
            assert_eq!(info.key.last(), Some(&(info.kind as u8)));
            assert_eq!(info.tag.as_deref(), Some(&b"tag"[..]));
        }
        assert_sound(&cache);
        assert_eq!(cache.remove_tagged("tag").unwrap(), infos.len());
        assert_sound(&cache);
    });
}

#[test]
fn tags_of_every_length_are_kept() {
    bounded(|| {
        let (_place, cache) = store_of(8_192);
        for len in 1..=255 {
            for kind in [Kind::Lock, Kind::Averager] {
                let key = format!("{kind} {len}");
                make(&cache, kind, key.as_bytes(), &vec![len as u8; len]);
            }
        }
        for info in cache.keys().unwrap() {
            let tag = info.tag.unwrap();
            assert!(tag.iter().all(|b| usize::from(*b) == tag.len()));
            assert!(info.key.ends_with(format!(" {}", tag.len()).as_bytes()));
        }
        let both = [b'k'; 1_024];
        make(&cache, Kind::Averager, &both, &[1; 255]);
        let tag = cache.key_info(both).unwrap().unwrap().tag;
        assert_eq!(tag, Some(vec![1; 255]));
        assert_sound(&cache);
    });
}

#[test]
fn a_handle_with_another_tag_changes_it_at_first_use() {
    bounded(|| {
        let (_place, cache) = store();
        let tag = || cache.key_info("k").unwrap().unwrap().tag;
        make(&cache, Kind::Lock, b"k", b"");
        assert_eq!(tag(), None);
        let untagged = Lock::new(&cache, "k");
        let held = untagged.acquire().unwrap();
        // The holder does not matter, and goes on holding it.
        assert!(
            Lock::new(&cache, "k")
                .tag("first")
                .try_acquire()
                .unwrap()
                .is_none()
        );
        assert_eq!(tag(), Some(b"first".to_vec()));
        held.check().unwrap();
        held.release().unwrap();
        for other in [&b"a longer one"[..], b"b", b"none"] {
            make(&cache, Kind::Lock, b"k", other);
            assert_eq!(tag().as_deref(), Some(other));
        }
        // No tag asked for is no change.
        make(&cache, Kind::Lock, b"k", b"");
        assert_eq!(tag().as_deref(), Some(&b"none"[..]));
        assert_eq!(cache.remove_tagged("first").unwrap(), 0);
        assert_eq!(cache.remove_tagged("none").unwrap(), 1);
        assert_sound(&cache);
    });
}

#[test]
fn a_tag_that_no_longer_fits_is_a_clear_error_and_changes_nothing() {
    bounded(|| {
        let (_place, cache) = store();
        make(&cache, Kind::Lock, b"k", b"old");
        let lock = Lock::new(&cache, "k").tag([1; 255]);
        match lock.try_acquire().map(drop) {
            // Either there is a way, or it is said that there is none.
            Ok(()) => assert_eq!(
                cache.key_info("k").unwrap().unwrap().tag,
                Some(vec![1; 255])
            ),
            Err(error) => {
                assert!(error.to_string().contains("255"), "{error}");
                assert_eq!(
                    cache.key_info("k").unwrap().unwrap().tag,
                    Some(b"old".to_vec())
                );
            }
        }
        assert_sound(&cache);
    });
}

#[test]
fn tokens_grow_across_removal_and_creation_in_whatever_slot() {
    bounded(|| {
        let (_place, cache) = store_of(64);
        let mut last: BTreeMap<String, Token> = BTreeMap::new();
        for round in 0..200 {
            let key = format!("k{}", round % 7);
            let token = match round % 3 {
                0 => Lock::new(&cache, &key).acquire().unwrap().token(),
                1 => RLock::new(&cache, &key).acquire().unwrap().token(),
                _ => {
                    let semaphore = BoundedSemaphore::new(&cache, &key, 1 + round % 9);
                    semaphore.acquire().unwrap().token()
                }
            };
            let before = last.insert(key.clone(), token);
            assert!(before < Some(token), "{key}: {token} after {before:?}");
            assert!(cache.remove(&key).unwrap());
            // Somebody else gets the slot.
            make(
                &cache,
                KINDS[round as usize % 4],
                format!("other {round}").as_bytes(),
                b"",
            );
            if round % 11 == 0 {
                cache.clear().unwrap();
            }
        }
        assert_sound(&cache);
    });
}

#[test]
fn tokens_grow_across_closing_and_repair() {
    bounded(|| {
        let (place, cache) = store();
        let first = Lock::new(&cache, "k").acquire().unwrap().token();
        drop(cache);
        Cache::repair(place.store()).unwrap();
        let cache = place.open();
        let second = Lock::new(&cache, "k").acquire().unwrap().token();
        assert!(second > first);
        cache.clear().unwrap();
        drop(cache);
        Cache::repair(place.store()).unwrap();
        assert!(Lock::new(&place.open(), "k").acquire().unwrap().token() > second);
    });
}

#[test]
fn a_program_that_makes_a_key_per_job_never_runs_full() {
    bounded(|| {
        let (_place, cache) = store_of(50);
        let kept = Lock::new(&cache, "kept");
        let kept = kept.acquire().unwrap();
        for job in 0..2_000 {
            let kind = [Kind::Lock, Kind::RLock, Kind::Semaphore][job % 3];
            make(&cache, kind, format!("job {job}").as_bytes(), b"");
        }
        kept.check().unwrap();
        assert!(cache.len().unwrap() <= 50);
        assert_sound(&cache);
    });
}

#[test]
fn what_is_held_is_never_taken_for_room_and_a_full_store_says_so() {
    bounded(|| {
        let (_place, cache) = store_of(8);
        let locks: Vec<_> = (0..7).map(|n| Lock::new(&cache, format!("k{n}"))).collect();
        let guards: Vec<_> = locks.iter().map(|l| l.acquire().unwrap()).collect();
        let semaphore = BoundedSemaphore::new(&cache, "s", 3);
        let permit = semaphore.acquire().unwrap();
        let more = Lock::new(&cache, "one more");
        assert!(matches!(
            more.acquire(),
            Err(Error::Full { capacity: 8, .. })
        ));
        assert!(matches!(more.try_acquire(), Err(Error::Full { .. })));
        // What is there goes on, and looking needs no room.
        assert!(!more.is_locked().unwrap());
        guards.iter().for_each(|g| g.check().unwrap());
        permit.check().unwrap();
        assert_eq!(cache.len().unwrap(), 8);
        permit.release().unwrap();
        drop(more.acquire().unwrap());
        assert_eq!(cache.key_info("s").unwrap(), None);
        assert_sound(&cache);
    });
}

#[test]
fn averages_are_never_dropped_for_room() {
    bounded(|| {
        let (_place, cache) = store_of(20);
        for n in 0..19 {
            Averager::new(&cache, format!("a{n}"))
                .add(f64::from(n))
                .unwrap();
        }
        for n in 0..100 {
            make(&cache, Kind::Lock, format!("k{n}").as_bytes(), b"");
        }
        Averager::new(&cache, "the last").add(1.0).unwrap();
        let full = Lock::new(&cache, "one more");
        assert!(matches!(full.acquire(), Err(Error::Full { .. })));
        for n in 0..19 {
            let mean = Averager::new(&cache, format!("a{n}")).get().unwrap();
            assert_eq!(mean, Some(f64::from(n)));
        }
        // One that is empty is an average all the same.
        Averager::new(&cache, "the last").pop().unwrap();
        assert!(matches!(full.acquire(), Err(Error::Full { .. })));
        assert_sound(&cache);
    });
}

#[test]
fn a_long_key_finds_room_among_short_ones() {
    bounded(|| {
        let (_place, cache) = store_of(30);
        for round in 0..20 {
            for n in 0..30 {
                make(&cache, Kind::Lock, format!("{round} {n}").as_bytes(), b"");
            }
            make(&cache, Kind::Lock, &[b'a' + round; 1_024], b"");
        }
        assert_sound(&cache);
    });
}

#[test]
fn a_semaphore_finds_room_for_its_permits() {
    bounded(|| {
        let (_place, cache) = store_of(10);
        for round in 0..6 {
            let semaphore = BoundedSemaphore::new(&cache, format!("s{round}"), 65_535);
            drop(semaphore.acquire().unwrap());
        }
        assert_sound(&cache);
    });
}

#[test]
fn a_capacity_of_one_is_enough_for_one() {
    bounded(|| {
        let (_place, cache) = store_of(1);
        for key in ["a", "b", "a"] {
            drop(Lock::new(&cache, key).acquire().unwrap());
            assert_eq!(cache.len().unwrap(), 1);
        }
        // Too long for it, and said so.
        let long = Lock::new(&cache, [b'k'; 500]);
        assert!(matches!(long.acquire(), Err(Error::Full { .. })));
        assert_sound(&cache);
    });
}

#[test]
fn many_keys_are_all_there_and_each_its_own() {
    bounded(|| {
        let (_place, cache) = store_of(8_192);
        let key = |n: u32| format!("key {n}");
        for n in 0..3_000 {
            Averager::new(&cache, key(n)).add(n.into()).unwrap();
        }
        assert_eq!(cache.len().unwrap(), 3_000);
        for n in (0..3_000).step_by(7) {
            let mean = Averager::new(&cache, key(n)).get().unwrap();
            assert_eq!(mean, Some(n.into()));
        }
        for n in (0..3_000).step_by(2) {
            assert!(cache.remove(key(n)).unwrap());
        }
        let left: BTreeSet<_> = (1..3_000).step_by(2).map(|n| key(n).into_bytes()).collect();
        assert_eq!(names(&cache.keys().unwrap()), left);
        assert_sound(&cache);
    });
}

#[test]
fn keys_that_exist_throughout_are_listed_while_others_come_and_go() {
    bounded(|| {
        let (_place, cache) = store_of(256);
        for n in 0..50 {
            make(&cache, Kind::Averager, format!("stays {n}").as_bytes(), b"");
        }
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                for n in 0..400 {
                    make(&cache, KINDS[n % 3], format!("comes {n}").as_bytes(), b"");
                    cache.remove(format!("comes {n}")).unwrap();
                }
            });
            while !worker.is_finished() {
                let names = names(&cache.keys().unwrap());
                let stayed = names.iter().filter(|k| k.starts_with(b"stays"));
                assert_eq!(stayed.count(), 50);
            }
        });
        assert_eq!(cache.len().unwrap(), 50);
        assert_sound(&cache);
    });
}

#[test]
fn threads_that_make_take_and_remove_keys_leave_a_sound_store() {
    bounded(|| {
        let (_place, cache) = store_of(12);
        thread::scope(|scope| {
            for thread in 0..4_usize {
                let cache = &cache;
                scope.spawn(move || {
                    for n in 0..300 {
                        let key = format!("k{}", (n * (thread + 1)) % 9);
                        let lock = Lock::new(cache, &key).tag("t");
                        match lock.try_acquire() {
                            // Lost is right: the others remove what they like.
                            Ok(Some(guard)) => drop(guard.release()),
                            Ok(None) => {}
                            Err(Error::Full { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                        match n % 10 {
                            3 => drop(cache.remove(&key).unwrap()),
                            7 => drop(cache.remove_tagged("t").unwrap()),
                            9 => assert_sound(cache),
                            _ => {}
                        }
                    }
                });
            }
        });
        assert_sound(&cache);
    });
}

#[test]
fn the_same_directory_opened_twice_is_one_store() {
    bounded(|| {
        let (place, cache) = store();
        // By another name, too.
        let link = place.root().join("link");
        std::os::unix::fs::symlink(place.store(), &link).unwrap();
        let dotted = place.root().join("./store/../store");
        for path in [place.store(), link, dotted] {
            let other = Cache::open(path).unwrap();
            let lock = Lock::new(&cache, "k");
            let guard = lock.acquire().unwrap();
            assert!(Lock::new(&other, "k").try_acquire().unwrap().is_none());
            let reentrant = RLock::new(&cache, "r");
            let _outer = reentrant.acquire().unwrap();
            assert!(RLock::new(&other, "r").try_acquire().unwrap().is_some());
            // Closing one leaves the other's holds alone.
            drop(other);
            guard.check().unwrap();
            assert!(lock.try_acquire().unwrap().is_none());
        }
    });
}

#[test]
fn closing_and_opening_leaves_no_descriptors_behind() {
    bounded(|| {
        let place = Place::new();
        let held = || open_below(place.root()).len();
        for _ in 0..20 {
            let one = place.open();
            let other = place.open();
            drop(Lock::new(&one, "k").acquire().unwrap());
            drop((one, other));
        }
        assert_eq!(held(), 0);
    });
}

#[test]
fn two_threads_that_open_a_new_store_get_the_same_one() {
    bounded(|| {
        for _ in 0..20 {
            let place = Place::new();
            let start = std::sync::Barrier::new(4);
            let end = std::sync::Barrier::new(4);
            let got = std::sync::atomic::AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        let cache = place.open();
                        let lock = Lock::new(&cache, "k");
                        let guard = lock.try_acquire().unwrap();
                        let one = usize::from(guard.is_some());
                        got.fetch_add(one, std::sync::atomic::Ordering::SeqCst);
                        end.wait();
                    });
                }
            });
            assert_eq!(got.into_inner(), 1);
        }
    });
}

#[test]
fn one_keyspace_and_each_key_of_one_kind() {
    bounded(|| {
        let (_place, cache) = store();
        for made in KINDS {
            make(&cache, made, b"k", b"");
            let before = cache.key_info("k").unwrap();
            for asked in KINDS.into_iter().filter(|k| *k != made) {
                let result = match asked {
                    Kind::Lock => Lock::new(&cache, "k").tag("t").acquire().map(drop),
                    Kind::RLock => RLock::new(&cache, "k").tag("t").acquire().map(drop),
                    Kind::Semaphore => {
                        let semaphore = BoundedSemaphore::new(&cache, "k", 5).tag("t");
                        semaphore.acquire().map(drop)
                    }
                    _ => Averager::new(&cache, "k").tag("t").add(1.0),
                };
                match result.unwrap_err() {
                    Error::KindMismatch {
                        found, expected, ..
                    } => assert_eq!((found, expected), (made, asked)),
                    other => panic!("{other:?}"),
                }
                assert_eq!(cache.key_info("k").unwrap(), before);
            }
            assert!(cache.remove("k").unwrap());
        }
    });
}

#[test]
fn a_sound_store_is_found_sound_and_repairing_it_changes_nothing() {
    bounded(|| {
        let (place, cache) = store();
        for kind in KINDS {
            for n in 0..20_usize {
                let key = format!("{kind} {n} {}", "x".repeat(n * 40));
                make(&cache, kind, key.as_bytes(), &vec![b't'; n]);
            }
        }
        let lock = Lock::new(&cache, "held").lease(LONG);
        let held = lock.acquire().unwrap();
        let report = cache.check().unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!((report.keys, report.dead_holds), (81, 0));
        assert!(report.slots_used > 81);
        assert!(matches!(
            Cache::repair(place.store()),
            Err(Error::Busy { .. })
        ));
        held.check().unwrap();
        held.release().unwrap();
        let before = sorted(cache.keys().unwrap());
        drop((lock, cache));
        let repaired = Cache::repair(place.store()).unwrap();
        assert_eq!((repaired.keys_kept, repaired.keys_lost), (81, 0));
        assert_eq!(repaired.actions, Vec::<String>::new());
        let cache = place.open();
        assert_eq!(sorted(cache.keys().unwrap()), before);
        assert_eq!(cache.check().unwrap(), report);
    });
}

fn sorted(mut infos: Vec<KeyInfo>) -> Vec<KeyInfo> {
    infos.sort_by(|a, b| a.key.cmp(&b.key));
    infos
}

#[test]
fn a_fanout_cache_is_a_place_like_any_other() {
    bounded(|| {
        let place = Place::new();
        let fanout = FanoutCache::open(place.store(), 4).unwrap();
        assert_eq!((fanout.shards(), fanout.path()), (4, &*place.store()));
        for n in 0..40 {
            make(&fanout, KINDS[n % 4], format!("k{n}").as_bytes(), b"t");
        }
        assert_eq!(fanout.len().unwrap(), 40);
        assert_eq!(names(&fanout.keys().unwrap()).len(), 40);
        assert!(kit::shards(&fanout).iter().all(|c| c.len().unwrap() > 0));
        let lock = Lock::new(&fanout, "k0");
        let guard = lock.acquire().unwrap();
        let other = FanoutCache::open(place.store(), 4).unwrap();
        assert!(Lock::new(&other, "k0").try_acquire().unwrap().is_none());
        assert!(fanout.key_info("k0").unwrap().is_some());
        assert!(fanout.remove("k0").unwrap() && !fanout.remove("k0").unwrap());
        assert!(guard.check().is_err());
        assert_sound(&fanout);
        assert_eq!(fanout.remove_tagged("t").unwrap(), 39);
        make(&fanout, Kind::Lock, b"last", b"");
        assert_eq!(fanout.clear().unwrap(), 1);
        assert!(fanout.is_empty().unwrap());
    });
}

#[test]
fn a_fanout_cache_keeps_its_keys_and_number_of_shards() {
    bounded(|| {
        let place = Place::new();
        let fanout = FanoutCache::open(place.store(), 3).unwrap();
        for n in 0..30 {
            Averager::new(&fanout, format!("a{n}"))
                .add(n.into())
                .unwrap();
        }
        drop(fanout);
        for wrong in [1, 2, 4, 256] {
            match FanoutCache::open(place.store(), wrong).unwrap_err() {
                Error::ConfigMismatch {
                    what,
                    found,
                    expected,
                    ..
                } => assert_eq!(
                    (what, found, expected),
                    ("shards", "3".to_string(), wrong.to_string())
                ),
                other => panic!("{other:?}"),
            }
        }
        // None named: as many as it has.
        let fanout = Cache::options().open(place.store()).unwrap();
        assert_eq!(fanout.shards(), 3);
        for n in 0..30 {
            let mean = Averager::new(&fanout, format!("a{n}")).get().unwrap();
            assert_eq!(mean, Some(n.into()));
        }
        drop(fanout);
        assert_eq!(Cache::repair(place.store()).unwrap().keys_kept, 30);
    });
}

#[test]
fn a_fanout_of_a_capacity_shares_it_out() {
    bounded(|| {
        let place = Place::new();
        let options = Cache::options().capacity(10).shards(4);
        let fanout = options.open(place.store()).unwrap();
        assert!((10..=16).contains(&fanout.capacity()));
        options.open(place.store()).unwrap();
        let other = Cache::options().capacity(1_000);
        let refused = other.shards(4).open(place.store());
        assert!(matches!(refused, Err(Error::ConfigMismatch { .. })));
    });
}

#[test]
fn a_store_costs_little_disk_until_it_is_used() {
    use std::os::unix::fs::MetadataExt;
    bounded(|| {
        let (place, cache) = store_of(65_536);
        let bytes = || std::fs::metadata(place.slab()).unwrap().blocks() * 512;
        let empty = bytes();
        assert!(empty < 1 << 20, "{empty}");
        for n in 0..2_560 {
            make(&cache, Kind::Lock, format!("key {n}").as_bytes(), b"");
        }
        let per_key = (bytes() - empty) / 2_560;
        assert!(per_key <= 256, "{per_key}");
    });
}

/// Making keys takes a stripe and then the lock for growing; checking takes all stripes. Were
/// anybody to take them the other way round (I7), this would not end.
#[test]
fn checking_goes_on_beside_a_store_that_grows() {
    bounded(|| {
        let place = Place::new();
        let cache = Cache::options()
            .capacity(20_000)
            .open(place.store())
            .unwrap();
        std::thread::scope(|scope| {
            let makers: Vec<_> = (0..2)
                .map(|maker| {
                    let cache = &cache;
                    scope.spawn(move || {
                        for n in 0..4_000 {
                            let lock = Lock::new(cache, format!("{maker} {n}"));
                            drop(lock.acquire().unwrap());
                        }
                    })
                })
                .collect();
            while !makers.iter().all(|maker| maker.is_finished()) {
                assert!(cache.check().unwrap().is_sound());
            }
        });
        assert_eq!(cache.len().unwrap(), 8_000);
    });
}

/// What is tagged lies in all shards, and one of them cannot be read.
#[test]
fn an_error_of_one_shard_does_not_keep_the_others_from_a_removal() {
    bounded(|| {
        let place = Place::new();
        let cache = FanoutCache::open(place.store(), 2).unwrap();
        let tagged = slablock::SetOptions::new().tag("t");
        let first = place.store().join("000");
        let is_in_first = |key: &String| cache.slab_of(key.as_bytes()).starts_with(&first);
        let names = || (0..).map(|n| format!("k{n}"));
        let unread = names().find(&is_in_first).unwrap();
        let other = names().find(|key| !is_in_first(key)).unwrap();
        cache.set_with(&unread, vec![7; 5_000], &tagged).unwrap();
        cache.set_with(&other, "small", &tagged).unwrap();
        drop(cache);
        let log = first.join("log");
        std::fs::rename(&log, place.root().join("aside")).unwrap();
        std::fs::write(&log, "no directory").unwrap();
        let cache = Cache::open(place.store()).unwrap();
        assert_error!(cache.remove_tagged("t"), Error::Io { .. }, ["log"]);
        assert!(cache.contains(&unread).unwrap());
        assert!(!cache.contains(&other).unwrap());
    });
}

#[test]
fn a_limit_is_refused_in_words_that_fit_the_number_of_shards() {
    bounded(|| {
        let small = slablock::Limits::new().size_limit(1);
        for (shards, told) in [(1, "is too small; use"), (2, "too small for 2 shards; use")] {
            let cache = FanoutCache::open(Place::new().store(), shards).unwrap();
            assert_error!(cache.configure(&small), Error::Invalid { .. }, [told]);
        }
    });
}
