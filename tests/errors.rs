//! What bad input gets: a clear error each, nothing changed, no signal, no hang.

#![allow(missing_docs)]

#[macro_use]
mod kit;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use kit::{
    Place, bounded, child, in_a_namespace, mount, open_below, role, says, store, store_of, succeeds,
};
use slablock::{
    Averager, BoundedSemaphore, Cache, Error, FanoutCache, Lock, Options, RLock, Token,
};

// --- what callers ask for ---

#[test]
fn keys_that_are_empty_or_too_long_are_refused_everywhere() {
    bounded(|| {
        let (_place, cache) = store();
        for (key, len) in [
            (vec![], "0"),
            (vec![b'k'; 1_025], "1025"),
            (vec![0; 70_000], "70000"),
        ] {
            let words = ["1 to 1024 bytes", len];
            let lock = Lock::new(&cache, &key);
            assert_error!(lock.acquire(), Error::KeyLength { .. }, words);
            assert_error!(lock.try_acquire(), Error::KeyLength { .. }, words);
            assert_error!(lock.is_locked(), Error::KeyLength { .. }, words);
            assert_error!(lock.holder(), Error::KeyLength { .. }, words);
            assert_error!(lock.waiters(), Error::KeyLength { .. }, words);
            assert_error!(lock.release(Token::new(1)), Error::KeyLength { .. }, words);
            let rlock = RLock::new(&cache, &key);
            assert_error!(rlock.acquire(), Error::KeyLength { .. }, words);
            assert_error!(rlock.depth(), Error::KeyLength { .. }, words);
            let semaphore = BoundedSemaphore::new(&cache, &key, 2);
            assert_error!(semaphore.acquire(), Error::KeyLength { .. }, words);
            assert_error!(semaphore.available(), Error::KeyLength { .. }, words);
            let average = Averager::new(&cache, &key);
            assert_error!(average.add(1.0), Error::KeyLength { .. }, words);
            assert_error!(average.get(), Error::KeyLength { .. }, words);
            assert_error!(average.pop(), Error::KeyLength { .. }, words);
        }
        for key in [&b"k"[..], &[b'k'; 1_024]] {
            drop(Lock::new(&cache, key).acquire().unwrap());
        }
        assert_eq!(cache.len().unwrap(), 2);
    });
}

#[test]
fn removing_or_asking_for_an_impossible_key_finds_nothing_or_says_so() {
    bounded(|| {
        let (_place, cache) = store();
        for key in [vec![], vec![b'k'; 5_000]] {
            match cache.remove(&key) {
                Ok(removed) => assert!(!removed),
                Err(error) => says(&error, &["1 to 1024 bytes"]),
            }
            match cache.key_info(&key) {
                Ok(info) => assert_eq!(info, None),
                Err(error) => says(&error, &["1 to 1024 bytes"]),
            }
        }
    });
}

#[test]
fn tags_that_are_too_long_are_refused() {
    bounded(|| {
        let (_place, cache) = store();
        let words = ["at most 255 bytes", "256"];
        let tag = [b't'; 256];
        assert_error!(
            Lock::new(&cache, "k").tag(tag).acquire(),
            Error::TagLength { .. },
            words
        );
        assert_error!(
            RLock::new(&cache, "k").tag(tag).acquire(),
            Error::TagLength { .. },
            words
        );
        let semaphore = BoundedSemaphore::new(&cache, "k", 1).tag(tag);
        assert_error!(semaphore.acquire(), Error::TagLength { .. }, words);
        assert_error!(
            Averager::new(&cache, "k").tag(tag).add(1.0),
            Error::TagLength { .. },
            words
        );
        assert_eq!(cache.len().unwrap(), 0);
        assert_eq!(cache.remove_tagged(tag).unwrap(), 0);
        drop(Lock::new(&cache, "k").tag([b't'; 255]).acquire().unwrap());
    });
}

#[test]
fn another_kind_is_named_beside_the_one_asked_for() {
    bounded(|| {
        let (_place, cache) = store();
        Averager::new(&cache, "odd \n\"key\"").add(1.0).unwrap();
        let lock = Lock::new(&cache, "odd \n\"key\"");
        let words = ["averager", "lock", r#"odd \n\"key\""#, "another key"];
        assert_error!(lock.acquire(), Error::KindMismatch { .. }, words);
        assert_error!(lock.try_acquire(), Error::KindMismatch { .. }, words);
        assert_error!(lock.is_locked(), Error::KindMismatch { .. }, words);
        assert_error!(lock.holder(), Error::KindMismatch { .. }, words);
        assert_error!(
            lock.release(Token::new(1)),
            Error::KindMismatch { .. },
            words
        );
    });
}

#[test]
fn another_number_of_permits_is_named_beside_the_one_asked_for() {
    bounded(|| {
        let (_place, cache) = store();
        let three = BoundedSemaphore::new(&cache, "k", 3);
        let _guard = three.acquire().unwrap();
        let other = BoundedSemaphore::new(&cache, "k", 30_000);
        let me = format!("held by process {} (", std::process::id());
        let words = ["\"k\"", "permits 3", "30000", &me, "nobody has it"];
        assert_error!(other.acquire(), Error::ConfigMismatch { .. }, words);
        assert_eq!(
            BoundedSemaphore::new(&cache, "k", 3).available().unwrap(),
            2
        );
    });
}

#[test]
fn semaphores_have_1_to_65535_permits() {
    bounded(|| {
        let (_place, cache) = store();
        for value in [0, 65_536, u32::MAX] {
            let semaphore = BoundedSemaphore::new(&cache, "k", value);
            let words = ["1 to 65535", &value.to_string()];
            assert_error!(semaphore.acquire(), Error::Invalid { .. }, words);
            assert_error!(semaphore.try_acquire(), Error::Invalid { .. }, words);
            assert_error!(semaphore.available(), Error::Invalid { .. }, words);
        }
        assert_eq!(cache.len().unwrap(), 0);
    });
}

#[test]
fn leases_of_zero_are_refused() {
    bounded(|| {
        let (_place, cache) = store();
        let zero = Duration::ZERO;
        let words = ["zero", "none"];
        let lock = Lock::new(&cache, "k").lease(zero);
        assert_error!(lock.acquire(), Error::Invalid { .. }, words);
        assert_error!(lock.acquire_timeout(zero), Error::Invalid { .. }, words);
        let rlock = RLock::new(&cache, "k").lease(zero);
        assert_error!(rlock.acquire(), Error::Invalid { .. }, words);
        let semaphore = BoundedSemaphore::new(&cache, "k", 1).lease(zero);
        assert_error!(semaphore.acquire(), Error::Invalid { .. }, words);
        assert_error!(
            Averager::new(&cache, "k").expire(zero).add(1.0),
            Error::Invalid { .. },
            words
        );
        assert_eq!(cache.len().unwrap(), 0);
    });
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "k");
        assert_error!(
            average.add(f64::NAN),
            Error::Invalid { .. },
            ["NaN", "finite"]
        );
        assert_error!(
            average.add(f64::INFINITY),
            Error::Invalid { .. },
            ["inf", "finite"]
        );
        average.add(f64::MAX).unwrap();
        assert_error!(
            average.add(f64::MAX),
            Error::Invalid { .. },
            ["\"k\"", "infinite"]
        );
    });
}

#[test]
fn a_lost_hold_names_key_and_token() {
    bounded(|| {
        let (_place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let guard = lock.acquire().unwrap();
        let token = guard.token().to_string();
        cache.remove("k").unwrap();
        assert_error!(guard.release(), Error::Lost { .. }, ["\"k\"", &token]);
    });
}

#[test]
fn who_holds_nothing_is_told_so() {
    bounded(|| {
        let (_place, cache) = store();
        let rlock = RLock::new(&cache, "r");
        assert_error!(
            rlock.release(Token::new(3)),
            Error::NotHolder { .. },
            ["\"r\"", "acquire"]
        );
        let semaphore = BoundedSemaphore::new(&cache, "s", 2);
        assert_error!(
            semaphore.release(Token::new(3)),
            Error::NotHolder { .. },
            ["\"s\""]
        );
    });
}

#[test]
fn a_full_store_names_itself_and_its_capacity() {
    bounded(|| {
        let (place, cache) = store_of(2);
        let locks = ["a", "b"].map(|k| Lock::new(&cache, k));
        let _guards = [locks[0].acquire().unwrap(), locks[1].acquire().unwrap()];
        let path = place.store().display().to_string();
        let words = [&*path, "capacity 2", "larger"];
        assert_error!(Lock::new(&cache, "c").acquire(), Error::Full { .. }, words);
        assert_error!(
            Averager::new(&cache, "c").add(1.0),
            Error::Full { .. },
            words
        );
        let semaphore = BoundedSemaphore::new(&cache, "c", 1);
        assert_error!(semaphore.try_acquire(), Error::Full { .. }, words);
        assert_eq!(cache.len().unwrap(), 2);
    });
}

// --- places that cannot be stores ---

#[test]
fn another_capacity_is_named_beside_the_one_asked_for() {
    bounded(|| {
        let (place, cache) = store_of(100);
        let asked = || Cache::options().capacity(200).open(place.store());
        let words = ["capacity", "100", "200"];
        assert_error!(asked(), Error::ConfigMismatch { .. }, words);
        drop(cache);
        assert_error!(asked(), Error::ConfigMismatch { .. }, words);
        assert_eq!(place.open().capacity(), 100);
        Cache::options().capacity(100).open(place.store()).unwrap();
    });
}

#[test]
fn an_impossible_capacity_is_refused_and_makes_nothing() {
    bounded(|| {
        let place = Place::new();
        for capacity in [0, (1 << 24) + 1, 1 << 40, usize::MAX] {
            let words = ["1 to 16777216", &capacity.to_string()];
            let options = Cache::options().capacity(capacity);
            assert_error!(options.open(place.store()), Error::Invalid { .. }, words);
            assert!(!place.store().exists(), "{capacity} made something");
            let fanout = options.clone().shards(2).open(place.store());
            assert_error!(fanout, Error::Invalid { .. }, ["1 to 16777216"]);
            assert!(!place.store().exists(), "{capacity} made something");
        }
    });
}

#[test]
fn an_impossible_number_of_shards_is_refused_and_makes_nothing() {
    bounded(|| {
        let place = Place::new();
        for shards in [0, 257, usize::MAX] {
            let words = ["1 to 256", &shards.to_string()];
            let opened = FanoutCache::open(place.store(), shards);
            assert_error!(opened, Error::Invalid { .. }, words);
            assert!(!place.store().exists());
        }
    });
}

#[test]
fn a_file_where_the_directory_should_be_is_refused_and_kept() {
    bounded(|| {
        let place = Place::new();
        fs::write(place.store(), "precious").unwrap();
        let words = ["not a directory", "directory"];
        assert_error!(Cache::open(place.store()), Error::NotAStore { .. }, words);
        assert_error!(
            FanoutCache::open(place.store(), 2),
            Error::NotAStore { .. },
            words
        );
        assert_error!(Cache::repair(place.store()), _, ["directory"]);
        let below = place.store().join("below");
        assert_error!(Cache::open(below), _, ["directory"]);
        assert_eq!(fs::read(place.store()).unwrap(), b"precious");
    });
}

#[test]
fn a_directory_with_other_things_in_it_does_not_become_a_store() {
    bounded(|| {
        let place = Place::new();
        fs::create_dir(place.store()).unwrap();
        fs::write(place.store().join("thesis.txt"), "precious").unwrap();
        let words = ["thesis.txt", "new or empty directory"];
        assert_error!(Cache::open(place.store()), Error::NotAStore { .. }, words);
        assert_error!(
            FanoutCache::open(place.store(), 2),
            Error::NotAStore { .. },
            words
        );
        assert_error!(
            Cache::repair(place.store()),
            Error::NotAStore { .. },
            ["no slab"]
        );
        assert_eq!(fs::read_dir(place.store()).unwrap().count(), 1);
    });
}

#[test]
fn what_is_not_there_is_not_made_when_told_not_to() {
    bounded(|| {
        let place = Place::new();
        let options = Cache::options().create(false);
        let of_two = options.clone().shards(2);
        for options in [&options, &of_two] {
            assert_error!(
                options.open(place.store()),
                Error::NotAStore { .. },
                ["no such directory"]
            );
        }
        assert_error!(
            Cache::repair(place.store()),
            Error::NotAStore { .. },
            ["no slab"]
        );
        assert!(!place.store().exists());
        fs::create_dir(place.store()).unwrap();
        assert_error!(
            options.open(place.store()),
            Error::NotAStore { .. },
            ["no slab"]
        );
        assert_error!(
            of_two.open(place.store()),
            Error::NotAStore { .. },
            ["no finished fanout"]
        );
        assert_eq!(fs::read_dir(place.store()).unwrap().count(), 0);
    });
}

#[test]
fn a_cache_has_as_many_shards_as_it_was_made_with() {
    bounded(|| {
        let place = Place::new();
        let refused = |place: &Place, asked: usize, words: [&str; 3]| {
            let opened = FanoutCache::open(place.store(), asked);
            assert_error!(opened, Error::ConfigMismatch { .. }, words);
        };
        drop(FanoutCache::open(place.store(), 2).unwrap());
        assert_eq!(Cache::open(place.store()).unwrap().shards(), 2);
        assert_eq!(FanoutCache::open(place.store(), 2).unwrap().shards(), 2);
        refused(&place, 1, ["shards", "2", "1"]);
        refused(&place, 5, ["shards", "2", "5"]);
        let (alone, cache) = store();
        assert_eq!(cache.shards(), 1);
        assert_eq!(FanoutCache::open(alone.store(), 1).unwrap().shards(), 1);
        refused(&alone, 2, ["shards", "1", "2"]);
        for asked in [0, 257] {
            let opened = FanoutCache::open(Place::new().store(), asked);
            assert_error!(opened, Error::Invalid { .. }, ["1 to 256 shards"]);
        }
    });
}

/// A maker of one and a maker of several, at once: whoever comes second gets what is there, or is
/// told.
#[test]
fn makers_of_different_numbers_of_shards_agree_on_one() {
    const STEP: Duration = Duration::from_micros(10);
    bounded(|| {
        let mut made = [0; 3];
        for round in 0..60 {
            let place = Place::in_memory();
            let begin = Barrier::new(2);
            let open = |options: Options, later: Duration| {
                begin.wait();
                let begun = Instant::now();
                while begun.elapsed() < later {
                    std::hint::spin_loop();
                }
                options.open(place.store()).map(|cache| cache.shards())
            };
            let (named, unnamed) = std::thread::scope(|scope| {
                let named = scope.spawn(|| open(Cache::options().shards(2), Duration::ZERO));
                // Later and later, so that it comes at each of the other's steps.
                let unnamed = open(Cache::options(), round * STEP);
                (named.join().unwrap(), unnamed)
            });
            let shards = unnamed.unwrap();
            made[shards] += 1;
            match shards {
                2 => assert_eq!(named.unwrap(), 2),
                _ => assert_error!(named, Error::ConfigMismatch { .. }, ["shards", "1", "2"]),
            }
        }
        println!("{} alone, {} of two", made[1], made[2]);
    });
}

#[test]
fn a_damaged_fanout_file_is_told_apart() {
    bounded(|| {
        let place = Place::new();
        drop(FanoutCache::open(place.store(), 2).unwrap());
        let path = place.store().join("fanout");
        let good = fs::read(&path).unwrap();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            fs::write(&path, bytes).unwrap();
            let named = FanoutCache::open(place.store(), 2).unwrap_err();
            let unnamed = Cache::options().open(place.store()).unwrap_err();
            assert_eq!(named.to_string(), unnamed.to_string());
            named
        };
        assert_error!(
            Err::<(), _>(with(0, b'x')),
            Error::NotAStore { .. },
            ["fanout"]
        );
        assert_error!(Err::<(), _>(with(8, 9)), Error::Version { .. }, ["9", "1"]);
        for at in [12, 13, 16, 31, 32, 35] {
            let error = with(at, good[at] ^ 0x40);
            assert_error!(Err::<(), _>(error), Error::Corrupt { .. }, ["checksum"]);
        }
        for len in [1, 20, 35] {
            fs::write(&path, &good[..len]).unwrap();
            let opened = FanoutCache::open(place.store(), 2);
            assert_error!(opened, Error::Corrupt { .. }, ["length"]);
        }
        fs::write(&path, &good).unwrap();
        FanoutCache::open(place.store(), 2).unwrap();
    });
}

#[test]
fn an_unwritable_directory_is_told_with_path_and_remedy() {
    if let Some(dir) = role("an_unwritable_directory_is_told_with_path_and_remedy") {
        // Nobody, so that permissions mean something.
        if nix::unistd::geteuid().is_root() {
            let nobody = 65_534;
            nix::unistd::setgid(nix::unistd::Gid::from_raw(nobody)).unwrap();
            nix::unistd::setuid(nix::unistd::Uid::from_raw(nobody)).unwrap();
        }
        let dir = Path::new(&dir);
        for path in [
            dir.join("closed/new"),
            dir.join("closed"),
            dir.join("store"),
        ] {
            let error = Cache::open(&path).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error:?}");
            says(&error, &[path.to_str().unwrap(), "may write"]);
            let error = FanoutCache::open(&path, 2).unwrap_err();
            assert!(
                path.ends_with("store") || matches!(error, Error::Io { .. }),
                "{error:?}"
            );
        }
        println!("all told");
        return;
    }
    bounded(|| {
        let (place, cache) = store();
        drop(Lock::new(&cache, "k").acquire().unwrap());
        drop(cache);
        let closed = place.root().join("closed");
        fs::create_dir(&closed).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        mode(place.root(), 0o755).unwrap();
        mode(&place.store(), 0o755).unwrap();
        mode(&closed, 0o555).unwrap();
        for name in ["slab", "attach", "beacons", "stripes"] {
            mode(&place.store().join(name), 0o444).unwrap();
        }
        let name = "an_unwritable_directory_is_told_with_path_and_remedy";
        succeeds(child(name, place.root().to_str().unwrap()), "all told");
        assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
    });
}

// --- small and read-only file systems ---

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    const NAME: &str = "a_full_disk_is_told_and_nothing_is_lost";
    let Some(dir) = role(NAME) else {
        return bounded(|| in_a_namespace(NAME, Place::new().root()));
    };
    let dir = Path::new(&dir);
    if !mount("tmpfs", "size=40k", dir) {
        println!("skipped: no small file system can be mounted here");
        return;
    }
    // Too small for any store.
    let large = Cache::options();
    assert_error!(
        large.open(dir.join("large")),
        Error::NoSpace { .. },
        ["no room", "large"]
    );
    assert_error!(
        large.open(dir.join("large")),
        Error::NoSpace { .. },
        ["no room", "large"]
    );
    fs::remove_dir_all(dir.join("large")).unwrap();
    // Large enough for some keys.
    assert!(mount("tmpfs", "remount,size=400k", dir));
    let cache = Cache::options()
        .capacity(20_000)
        .open(dir.join("store"))
        .unwrap();
    let name = |n: usize| format!("key {n}");
    let mut made = 0;
    let error = loop {
        match Averager::new(&cache, name(made)).add(made as f64) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
    };
    assert_error!(
        Err::<(), _>(error),
        Error::NoSpace { .. },
        ["no room", "slab"]
    );
    assert!(made >= 100, "{made}");
    let lock = Lock::new(&cache, "one more");
    assert_error!(lock.acquire(), Error::NoSpace { .. }, ["no room"]);
    let large = BoundedSemaphore::new(&cache, "one more", 60_000);
    assert_error!(large.acquire(), Error::NoSpace { .. }, ["no room"]);
    // What is there goes on.
    for n in 0..made {
        assert_eq!(
            Averager::new(&cache, name(n)).get().unwrap(),
            Some(n as f64)
        );
        Averager::new(&cache, name(n)).add(n as f64).unwrap();
    }
    assert_eq!(cache.len().unwrap(), made);
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    // Room made within goes to the next.
    assert!(cache.remove(name(0)).unwrap());
    drop(lock.acquire().unwrap());
    println!("all told");
}

#[test]
fn a_read_only_file_system_is_told_with_a_remedy() {
    const NAME: &str = "a_read_only_file_system_is_told_with_a_remedy";
    let Some(dir) = role(NAME) else {
        return bounded(|| in_a_namespace(NAME, Place::new().root()));
    };
    let dir = Path::new(&dir);
    if !mount("tmpfs", "size=4m", dir) {
        println!("skipped: no file system can be mounted here");
        return;
    }
    drop(
        Cache::options()
            .capacity(100)
            .open(dir.join("store"))
            .unwrap(),
    );
    fs::create_dir(dir.join("empty")).unwrap();
    if !mount("tmpfs", "remount,ro", dir) {
        println!("skipped: it cannot be made read-only");
        return;
    }
    for path in [dir.join("store"), dir.join("empty"), dir.join("new")] {
        let words = [path.to_str().unwrap(), "writable file system"];
        assert_error!(Cache::open(&path), Error::Io { .. }, words);
    }
    println!("all told");
}

/// The files that were opened before the one that could not be were left open, three for each
/// attempt.
#[test]
fn an_open_that_fails_leaves_no_descriptor_behind() {
    let dir = Place::new();
    let store = dir.store();
    drop(Cache::open(&store).unwrap());
    std::fs::remove_file(store.join("stripes")).unwrap();
    std::fs::create_dir(store.join("stripes")).unwrap();
    for _ in 0..3 {
        assert!(Cache::open(&store).is_err());
    }
    assert_eq!(open_below(&store), []);
}

/// Quoted it is for people only: whoever looks a key up by what an error says finds it.
#[test]
fn errors_have_the_key_as_it_was_given() {
    bounded(|| {
        let (_place, cache) = store();
        let key = &b"\xff \"key\"\n"[..];
        let is_key = |of: &dyn AsRef<[u8]>| assert_eq!(of.as_ref(), key);
        cache.set(key, "no integer").unwrap();
        let lock = Lock::new(&cache, key);
        let semaphore = BoundedSemaphore::new(&cache, key, 2);
        let guard = |error: Result<(), Error>| {
            let error = error.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(r#""\xff \"key\"\n""#), "{text}");
            match error {
                Error::NotInteger { key, .. }
                | Error::KindMismatch { key, .. }
                | Error::Lost { key, .. }
                | Error::NotHolder { key } => is_key(&key),
                other => panic!("{other:?}"),
            }
        };
        guard(cache.incr(key, 1).map(drop));
        guard(lock.acquire().map(drop));
        guard(Averager::new(&cache, key).add(1.0));
        cache.delete(key).unwrap();
        let held = lock.acquire().unwrap();
        guard(cache.set(key, "value"));
        cache.remove(key).unwrap();
        guard(held.release());
        guard(semaphore.release(Token::new(3)).map(drop));
    });
}
