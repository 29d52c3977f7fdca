//! What bad input gets: a clear error each, nothing changed, no signal, no hang.

#![allow(missing_docs)]

mod common;

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use common::{Place, bounded, child, role, run, said, store, store_of};
use slablock::{Averager, BoundedSemaphore, Cache, Error, FanoutCache, Lock, RLock, Token};

/// The message, which has to say all of this.
fn says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains("  "), "{text}");
}

macro_rules! assert_error {
    ($result:expr, $pattern:pat, $words:expr) => {
        match $result {
            Err(error) => {
                assert!(matches!(error, $pattern), "{error:?}");
                says(&error, &$words);
            }
            Ok(_) => panic!("no error from {}", stringify!($result)),
        }
    };
}

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
            assert_error!(lock.locked(), Error::KeyLength { .. }, words);
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
            match cache.key(&key) {
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
        assert_eq!(cache.evict(tag).unwrap(), 0);
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
        assert_error!(lock.locked(), Error::KindMismatch { .. }, words);
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
        drop(BoundedSemaphore::new(&cache, "k", 3).acquire().unwrap());
        let other = BoundedSemaphore::new(&cache, "k", 30_000);
        let words = ["\"k\"", "permits", "3", "30000"];
        assert_error!(other.acquire(), Error::ConfigMismatch { .. }, words);
        assert_eq!(
            BoundedSemaphore::new(&cache, "k", 3).available().unwrap(),
            3
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
        let lock = Lock::new(&cache, "k").expire(zero);
        assert_error!(lock.acquire(), Error::Invalid { .. }, words);
        assert_error!(lock.acquire_timeout(zero), Error::Invalid { .. }, words);
        let rlock = RLock::new(&cache, "k").expire(zero);
        assert_error!(rlock.acquire(), Error::Invalid { .. }, words);
        let semaphore = BoundedSemaphore::new(&cache, "k", 1).expire(zero);
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
            let fanout = options.open_fanout(place.store(), Some(2));
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
fn a_network_file_system_is_refused_by_name_and_nothing_is_made_on_it() {
    bounded(|| {
        for (magic, name) in [
            (0x6969, "NFS"),
            (0x6573_5546, "FUSE"),
            (0xff53_4d42, "CIFS"),
            (0x0102_1997, "9p"),
        ] {
            let place = Place::new();
            let options = Cache::options().pretend_fs_magic(magic);
            let words = [name, "allow_network_fs", "local"];
            assert_error!(
                options.open(place.store()),
                Error::UnsupportedFs { .. },
                words
            );
            let fanout = options.open_fanout(place.store(), Some(2));
            assert_error!(fanout, Error::UnsupportedFs { .. }, words);
            assert!(!place.store().exists(), "made something on {name}");
            let allowed = options.allow_network_fs(true).open(place.store()).unwrap();
            drop(Lock::new(&allowed, "k").acquire().unwrap());
        }
        let local = Cache::options().pretend_fs_magic(0xef53);
        local.open(Place::new().store()).unwrap();
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
        assert_error!(
            options.open(place.store()),
            Error::NotAStore { .. },
            ["no such directory"]
        );
        assert_error!(
            options.open_fanout(place.store(), None),
            Error::NotAStore { .. },
            ["no such"]
        );
        let unnamed = Cache::options().open_fanout(place.store(), None);
        assert_error!(unnamed, Error::NotAStore { .. }, ["no such"]);
        assert_error!(
            Cache::repair(place.store()),
            Error::NotAStore { .. },
            ["no slab"]
        );
        assert!(FanoutCache::repair(place.store()).is_err());
        assert!(!place.store().exists());
        fs::create_dir(place.store()).unwrap();
        assert_error!(
            options.open(place.store()),
            Error::NotAStore { .. },
            ["no slab"]
        );
        let unnamed = Cache::options().open_fanout(place.store(), None);
        assert_error!(unnamed, Error::NotAStore { .. }, ["no FanoutCache"]);
        assert_eq!(fs::read_dir(place.store()).unwrap().count(), 0);
    });
}

#[test]
fn a_fanout_is_no_plain_cache_and_the_other_way_round() {
    bounded(|| {
        let place = Place::new();
        drop(FanoutCache::open(place.store(), 2).unwrap());
        assert_error!(
            Cache::open(place.store()),
            Error::NotAStore { .. },
            ["FanoutCache"]
        );
        FanoutCache::open(place.store(), 2).unwrap();
        let (plain, _cache) = store();
        assert_error!(
            FanoutCache::open(plain.store(), 2),
            Error::NotAStore { .. },
            ["plain Cache"]
        );
        plain.open();
        let words = ["shards", "2", "5"];
        assert_error!(
            FanoutCache::open(place.store(), 5),
            Error::ConfigMismatch { .. },
            words
        );
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
            let unnamed = FanoutCache::options()
                .open_fanout(place.store(), None)
                .unwrap_err();
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
        let output = run(child(name, place.root().to_str().unwrap()));
        assert!(
            output.status.success() && said(&output).contains("all told"),
            "{}",
            said(&output)
        );
        assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
    });
}

// --- small and read-only file systems ---

/// Mounts something for this process and its children alone; gone with them.
fn mount(kind: &str, options: &str, at: &Path) -> bool {
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).output();
        status.is_ok_and(|output| output.status.success())
    };
    mount(&["-t", kind, "-o", options, kind, at.to_str().unwrap()])
}

/// Runs the test `name` in a mount namespace of its own, or says why not.
fn in_a_namespace(name: &str, argument: &Path) {
    let inner = child(name, argument.to_str().unwrap());
    let mut command = Command::new("unshare");
    match nix::unistd::geteuid().is_root() {
        true => command.arg("--mount"),
        false => command.args(["--mount", "--map-root-user"]),
    };
    let usable = command.arg("true").output();
    if !usable.is_ok_and(|o| o.status.success()) {
        println!("skipped: no mount namespace to be had here");
        return;
    }
    let mut command = Command::new("unshare");
    match nix::unistd::geteuid().is_root() {
        true => command.arg("--mount"),
        false => command.args(["--mount", "--map-root-user"]),
    };
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = run(command);
    let said = said(&output);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    assert!(
        said.contains("all told") || said.contains("skipped"),
        "{said}"
    );
    if said.contains("skipped") {
        println!("{said}");
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    const NAME: &str = "a_full_disk_is_told_and_nothing_is_lost";
    let Some(dir) = role(NAME) else {
        return bounded(|| in_a_namespace(NAME, Place::new().root()));
    };
    let dir = Path::new(&dir);
    if !mount("tmpfs", "size=400k", dir) {
        println!("skipped: no small file system can be mounted here");
        return;
    }
    // Too small for the store.
    let large = Cache::options().capacity(1 << 20);
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

// --- slabs that are not what they should be ---

/// A store with something of each kind in it, closed again.
fn furnished() -> Place {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    let slab = MADE.get_or_init(|| fs::read(furnish().slab()).unwrap());
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    fs::write(place.slab(), slab).unwrap();
    place
}

fn furnish() -> Place {
    let (place, cache) = store_of(600);
    for n in 0..300 {
        Averager::new(&cache, format!("average {n}"))
            .tag("t")
            .add(1.0)
            .unwrap();
    }
    drop(Lock::new(&cache, "lock").tag("t").acquire().unwrap());
    drop(RLock::new(&cache, vec![b'r'; 1_024]).acquire().unwrap());
    drop(
        BoundedSemaphore::new(&cache, "semaphore", 50)
            .acquire()
            .unwrap(),
    );
    place
}

fn slab_of(place: &Place) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(place.slab()).unwrap()
}

/// Where the regions of a slab begin: the format, worked out once more.
struct Map {
    slot_states: u64,
    participants: u64,
    slots: u64,
    blocks: u64,
}

const STRIPES_AT: u64 = 4_096;
const BUCKETS_AT: u64 = 8_192;

fn map_of(capacity: u64) -> Map {
    let page = |at: u64| at.next_multiple_of(4_096);
    let buckets = capacity.div_ceil(2).next_power_of_two().max(64);
    let slot_states = page(BUCKETS_AT + 4 * buckets);
    let block_states = page(slot_states + capacity);
    let participants = page(block_states + capacity + 16_384);
    let slots = participants + 4_096 * 128;
    let blocks = page(slots + 192 * capacity);
    Map {
        slot_states,
        participants,
        slots,
        blocks,
    }
}

const MAP_CAPACITY: u64 = 600;

fn poke(place: &Place, at: u64, bytes: &[u8]) {
    slab_of(place).write_all_at(bytes, at).unwrap();
}

/// Does everything that can be done with a store, and cares only that it ends.
fn use_all(dir: &Path) {
    let ok = |step: &str| println!("step {step}");
    ok("open");
    let cache = match Cache::open(dir) {
        Ok(cache) => cache,
        Err(error) => {
            says(&error, &[]);
            ok("repair");
            match Cache::repair(dir) {
                Ok(_) => {}
                Err(error) => says(&error, &[]),
            }
            return;
        }
    };
    let keys = [
        "lock",
        "semaphore",
        "average 3",
        "average 77",
        "new",
        "new 2",
    ];
    let hear = |result: Result<(), Error>| {
        if let Err(error) = result {
            says(&error, &[]);
        }
    };
    for round in 0..2 {
        ok("check");
        hear(cache.check().map(drop));
        ok("list");
        hear(cache.keys().map(drop));
        hear(cache.len().map(drop));
        for key in keys {
            ok(key);
            hear(cache.key(key).map(drop));
            let lock = Lock::new(&cache, key)
                .expire(Duration::from_secs(9))
                .tag("t");
            hear(lock.try_acquire().map(drop));
            hear(lock.acquire_timeout(Duration::from_millis(2)).map(drop));
            hear(lock.holder().map(drop));
            hear(lock.release(Token::new(1)).map(drop));
            let rlock = RLock::new(&cache, key);
            hear(rlock.try_acquire().map(drop));
            let semaphore = BoundedSemaphore::new(&cache, key, 50);
            hear(semaphore.try_acquire().map(drop));
            hear(semaphore.try_acquire().map(drop));
            hear(semaphore.holders().map(drop));
            let average = Averager::new(&cache, key);
            hear(average.add(2.0));
            hear(average.get().map(drop));
            hear(average.pop().map(drop));
        }
        ok("long key");
        hear(RLock::new(&cache, [b'r'; 1_024]).try_acquire().map(drop));
        ok("remove");
        hear(cache.remove("average 5").map(drop));
        ok("evict");
        hear(cache.evict("t").map(drop));
        if round == 0 {
            ok("fill");
            for n in 0..700 {
                hear(
                    Lock::new(&cache, format!("fill {n}"))
                        .try_acquire()
                        .map(drop),
                );
            }
        }
    }
    ok("clear");
    hear(cache.clear().map(drop));
    drop(cache);
    ok("repair");
    match Cache::repair(dir) {
        Ok(_) => {
            // A repaired store is a sound one.
            let cache = Cache::open(dir).unwrap();
            let report = cache.check().unwrap();
            assert!(report.is_sound(), "after repair: {report:?}");
            match Lock::new(&cache, "after repair").try_acquire() {
                Ok(guard) => drop(guard.expect("nobody has it")),
                // A token at its end cannot be mended: there may have been as many.
                Err(error) => says(&error, &["used up"]),
            }
        }
        Err(error) => says(&error, &[]),
    }
}

/// In a process of its own, so that a signal or a hang there is seen here.
fn survives(name: &str, place: &Place, what: &str) {
    let output = run(child(name, place.store().to_str().unwrap()));
    let said = said(&output);
    let lines: Vec<_> = said.lines().rev().take(30).collect();
    assert!(
        output.status.success() && said.contains("all done"),
        "{what}: {:?}, last said: {lines:#?}",
        output.status
    );
}

fn play_victim(name: &str) -> bool {
    role(name).is_some_and(|dir| {
        use_all(Path::new(&dir));
        println!("all done");
        true
    })
}

#[test]
fn a_sound_store_survives_everything() {
    const NAME: &str = "a_sound_store_survives_everything";
    if !play_victim(NAME) {
        bounded(|| survives(NAME, &furnished(), "sound"));
    }
}

#[test]
fn a_slab_that_is_something_else_is_refused_and_kept() {
    bounded(|| {
        let place = Place::new();
        for garbage in [
            b"SQLite format 3\0".repeat(300),
            b"x".to_vec(),
            vec![0xff; 100_000],
            [b"slablocK".to_vec(), vec![0; 8_192]].concat(),
        ] {
            let _ = fs::remove_dir_all(place.store());
            fs::create_dir(place.store()).unwrap();
            fs::write(place.slab(), &garbage).unwrap();
            let words = ["slab", "not a slablock store"];
            assert_error!(Cache::open(place.store()), Error::NotAStore { .. }, words);
            assert_error!(Cache::repair(place.store()), Error::NotAStore { .. }, words);
            assert_eq!(fs::read(place.slab()).unwrap(), garbage);
        }
        fs::remove_file(place.slab()).unwrap();
        fs::create_dir(place.slab()).unwrap();
        assert_error!(Cache::open(place.store()), _, ["slab"]);
    });
}

#[test]
fn another_format_version_is_named() {
    bounded(|| {
        let place = furnished();
        let before = fs::read(place.slab()).unwrap();
        for copy in [0, 2_048] {
            poke(&place, copy + 8, &7_u32.to_le_bytes());
        }
        let words = ["format 7", "reads format 1", "slab"];
        assert_error!(Cache::open(place.store()), Error::Version { .. }, words);
        assert_error!(Cache::repair(place.store()), Error::Version { .. }, words);
        for copy in [0, 2_048] {
            poke(&place, copy + 8, &1_u32.to_le_bytes());
        }
        assert_eq!(fs::read(place.slab()).unwrap(), before);
        assert_eq!(place.open().len().unwrap(), 303);
    });
}

#[test]
fn unknown_features_are_named() {
    bounded(|| {
        let place = furnished();
        for copy in [0, 2_048] {
            let mut header = [0; 64];
            slab_of(&place).read_exact_at(&mut header, copy).unwrap();
            header[12] = 16;
            let crc = crc32fast::hash(&header[..60]);
            header[60..].copy_from_slice(&crc.to_le_bytes());
            poke(&place, copy, &header);
        }
        assert_error!(Cache::open(place.store()), Error::Version { .. }, ["16"]);
    });
}

#[test]
fn one_damaged_copy_of_the_header_is_made_up_for() {
    bounded(|| {
        for at in [0, 9, 13, 17, 25, 40, 60] {
            for copy in [0, 2_048] {
                let place = furnished();
                let mut byte = [0];
                slab_of(&place).read_exact_at(&mut byte, copy + at).unwrap();
                poke(&place, copy + at, &[byte[0] ^ 0x10]);
                assert_eq!(place.open().len().unwrap(), 303, "byte {at} of {copy}");
                Cache::repair(place.store()).unwrap();
                let mut mended = [0];
                slab_of(&place)
                    .read_exact_at(&mut mended, copy + at)
                    .unwrap();
                assert_eq!(mended, byte);
            }
        }
    });
}

#[test]
fn both_copies_of_the_header_damaged_is_a_clear_error() {
    bounded(|| {
        for at in [17, 25, 40, 60] {
            let place = furnished();
            for copy in [0, 2_048] {
                let mut byte = [0];
                slab_of(&place).read_exact_at(&mut byte, copy + at).unwrap();
                poke(&place, copy + at, &[byte[0] ^ 0x10]);
            }
            let before = fs::read(place.slab()).unwrap();
            assert_error!(
                Cache::open(place.store()),
                Error::Corrupt { .. },
                ["slab", "header"]
            );
            assert_error!(
                Cache::repair(place.store()),
                Error::Corrupt { .. },
                ["header"]
            );
            assert_eq!(fs::read(place.slab()).unwrap(), before);
        }
    });
}

#[test]
fn a_wiped_header_does_not_pass_for_a_new_store() {
    bounded(|| {
        let place = furnished();
        poke(&place, 0, &[0; 4_096]);
        let before = fs::read(place.slab()).unwrap();
        assert_error!(Cache::open(place.store()), Error::Corrupt { .. }, ["slab"]);
        assert_eq!(fs::read(place.slab()).unwrap(), before);
    });
}

#[test]
fn a_wiped_state_word_loses_nothing() {
    bounded(|| {
        for state in [0_u64, 1, u64::MAX] {
            let place = furnished();
            poke(&place, 128, &state.to_le_bytes());
            let cache = place.open();
            assert_eq!(cache.len().unwrap(), 303, "state {state:#x}");
            assert_eq!(Averager::new(&cache, "average 3").get().unwrap(), Some(1.0));
        }
    });
}

#[test]
fn a_slab_that_was_never_finished_is_made_anew() {
    bounded(|| {
        for len in [0, 100, 4_096, 100_000] {
            let place = Place::new();
            fs::create_dir(place.store()).unwrap();
            fs::write(place.slab(), vec![0; len]).unwrap();
            let cache = place.open();
            drop(Lock::new(&cache, "k").acquire().unwrap());
            assert!(cache.check().unwrap().is_sound());
        }
    });
}

#[test]
fn a_slab_that_is_cut_off_is_refused_at_every_length() {
    bounded(|| {
        let place = furnished();
        let whole = slab_of(&place).metadata().unwrap().len();
        let map = map_of(MAP_CAPACITY);
        let lengths = [
            whole - 1,
            whole - 4_096,
            map.blocks,
            map.blocks - 1,
            map.slots + 4_096,
            map.slots,
            map.participants + 4_096,
            map.participants + 1,
            map.participants,
            map.slot_states + 77,
            BUCKETS_AT + 5,
            STRIPES_AT,
            2_112,
            2_100,
            1_000,
            200,
            130,
            64,
        ];
        for len in lengths {
            // Ever shorter.
            slab_of(&place).set_len(len).unwrap();
            let words = ["slab", "cut off", &len.to_string()];
            assert_error!(Cache::open(place.store()), Error::Corrupt { .. }, words);
            assert_error!(Cache::repair(place.store()), Error::Corrupt { .. }, words);
            assert_eq!(slab_of(&place).metadata().unwrap().len(), len);
        }
        for len in [63, 20, 8, 1] {
            slab_of(&place).set_len(len).unwrap();
            assert_error!(Cache::open(place.store()), _, ["slab"]);
        }
    });
}

#[test]
fn a_slab_that_vanishes_while_it_is_open_is_told_and_not_waited_for() {
    bounded(|| {
        let (place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let guard = lock.acquire().unwrap();
        fs::remove_file(place.slab()).unwrap();
        assert_error!(
            Cache::open(place.store()),
            _,
            [place.store().to_str().unwrap()]
        );
        guard.release().unwrap();
        drop((lock, cache));
        assert!(place.open().is_empty().unwrap());
    });
}

#[test]
fn a_slab_whose_state_is_damaged_while_it_is_open_is_told_and_not_waited_for() {
    const NAME: &str = "a_slab_whose_state_is_damaged_while_it_is_open_is_told_and_not_waited_for";
    if let Some(dir) = role(NAME) {
        assert_error!(Cache::open(&dir), Error::Corrupt { .. }, [&*dir, "slab"]);
        println!("all done");
        return;
    }
    bounded(|| {
        let (place, cache) = store();
        poke(&place, 128, &[9; 8]);
        survives(NAME, &place, "state");
        drop(cache);
        place.open();
    });
}

#[test]
fn a_header_that_promises_more_than_there_is_is_not_believed() {
    const NAME: &str = "a_header_that_promises_more_than_there_is_is_not_believed";
    if let Some(dir) = role(NAME) {
        let cache = Cache::open(&dir).unwrap();
        let slab = OpenOptions::new()
            .write(true)
            .open(Path::new(&dir).join("slab"));
        slab.unwrap().write_all_at(&[0xff; 12], 128 + 24).unwrap();
        let locks = (0..600).map(|n| Lock::new(&cache, format!("new {n}")));
        let refused = locks.filter(|lock| match lock.try_acquire() {
            Ok(_) => false,
            Err(error) => {
                says(&error, &["slab", "damaged"]);
                true
            }
        });
        assert!(refused.count() > 0);
        println!("all done");
        return;
    }
    bounded(|| {
        let (place, cache) = store_of(600);
        drop(Lock::new(&cache, "k").acquire().unwrap());
        drop(cache);
        survives(NAME, &place, "header");
    });
}

/// Damage that no random byte finds soon, and that has a way of its own to go wrong.
#[test]
fn chosen_damage_ends_in_errors() {
    const NAME: &str = "chosen_damage_ends_in_errors";
    if play_victim(NAME) {
        return;
    }
    bounded(|| {
        let map = map_of(MAP_CAPACITY);
        let ones = [0xff; 4_096];
        let stripes = |words: [u64; 5]| {
            let mut stripe = words.map(u64::to_le_bytes).concat();
            stripe.resize(64, 0);
            stripe.repeat(64)
        };
        let all = u64::from(u32::MAX);
        let endless: Vec<u8> = (0..256).flat_map(|_| 1_u32.to_le_bytes()).collect();
        let cases: Vec<(&str, u64, Vec<u8>)> = vec![
            ("unknown intents", STRIPES_AT, ones.to_vec()),
            (
                "endless creations",
                STRIPES_AT,
                stripes([1, all, all, 0, 0]),
            ),
            (
                "creations of everything",
                STRIPES_AT,
                stripes([1, 1 << 32 | all, all, 0, 0]),
            ),
            ("endless reclaims", STRIPES_AT, stripes([2, all, all, 0, 0])),
            (
                "endless removals",
                STRIPES_AT,
                stripes([3, 550 << 32 | all, all, 0, 0]),
            ),
            (
                "removals of keys",
                STRIPES_AT,
                stripes([3, 3 << 32 | all, all, 0, 0]),
            ),
            (
                "removals far off",
                STRIPES_AT,
                stripes([3, all << 32 | all, all << 32, all, 0]),
            ),
            (
                "floors at the end",
                STRIPES_AT,
                stripes([0, 0, 0, 0, u64::MAX]),
            ),
            ("hints at the end", 128 + 24, ones[..24].to_vec()),
            ("nothing allocated", 128 + 24, vec![0; 24]),
            (
                "buckets that lead nowhere",
                BUCKETS_AT,
                ones[..2_048].to_vec(),
            ),
            ("buckets that lead to one slot", BUCKETS_AT, endless),
            ("all slots used", map.slot_states, ones[..600].to_vec()),
            ("participants of ones", map.participants, ones.to_vec()),
            ("slots of ones", map.slots, ones.to_vec()),
            ("permits of ones", map.blocks, ones.to_vec()),
            ("slots of zeros", map.slots, vec![0; 4_096]),
            ("permits of zeros", map.blocks, vec![0; 1_024]),
        ];
        for (what, at, bytes) in cases {
            let place = furnished();
            poke(&place, at, &bytes);
            survives(NAME, &place, what);
        }
    });
}

#[test]
fn a_hold_that_is_being_taken_away_by_nobody_is_told_and_not_waited_for() {
    bounded(|| {
        let (place, cache) = store_of(600);
        let lock = Lock::new(&cache, "k");
        let token = lock.acquire().unwrap().into_token();
        // The first key of a store is in the first slot; its hold comes first in it.
        let at = map_of(MAP_CAPACITY).slots;
        let mut word = [0; 8];
        slab_of(&place).read_exact_at(&mut word, at).unwrap();
        let word = u64::from_le_bytes(word);
        assert_eq!(word & ((1 << 50) - 1), token.get());
        poke(&place, at, &(word | 1 << 50).to_le_bytes());
        assert_error!(
            lock.try_acquire(),
            Error::Corrupt { .. },
            ["slab", "repair"]
        );
        assert!(cache.remove("k").unwrap());
        drop(lock.try_acquire().unwrap().unwrap());
    });
}

#[test]
fn a_permits_ticket_at_its_end_is_told() {
    bounded(|| {
        let (place, cache) = store_of(600);
        let semaphore = BoundedSemaphore::new(&cache, "s", 2);
        drop(semaphore.acquire().unwrap());
        for ticket in [u64::MAX, u64::MAX - 1, 1 << 50, (1 << 50) - 1] {
            poke(
                &place,
                map_of(MAP_CAPACITY).blocks + 24,
                &ticket.to_le_bytes(),
            );
            assert_error!(
                semaphore.try_acquire(),
                Error::Corrupt { .. },
                ["\"s\"", "used up"]
            );
        }
    });
}

#[test]
fn a_damaged_average_is_told_and_repaired_to_a_value_it_had() {
    bounded(|| {
        let (place, cache) = store_of(600);
        let average = Averager::new(&cache, "a");
        for value in [1.0, 2.0, 3.0] {
            average.add(value).unwrap();
        }
        // The cell in force after three writes is the second.
        poke(&place, map_of(MAP_CAPACITY).slots + 56 + 56 + 8, &[0x55; 3]);
        let words = ["\"a\"", "checksum", "repair"];
        assert_error!(average.get(), Error::Corrupt { .. }, words);
        assert_error!(average.add(4.0), Error::Corrupt { .. }, words);
        assert_error!(average.pop(), Error::Corrupt { .. }, words);
        let report = cache.check().unwrap();
        assert!(
            report.problems.iter().any(|p| p.contains("checksum")),
            "{report:?}"
        );
        drop((average, cache));
        let report = Cache::repair(place.store()).unwrap();
        assert_eq!(
            (report.keys_kept, report.keys_lost, report.actions.len()),
            (1, 0, 1)
        );
        let average = Averager::new(&place.open(), "a");
        assert_eq!(
            average.summary().unwrap().map(|s| (s.count, s.total)),
            Some((2, 3.0))
        );
    });
}

#[test]
fn a_store_with_random_damage_ends_in_errors() {
    const NAME: &str = "a_store_with_random_damage_ends_in_errors";
    if play_victim(NAME) {
        return;
    }
    bounded(|| {
        let seed = match std::env::var("SLABLOCK_TEST_SEED") {
            Ok(seed) => seed.parse().expect("a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        };
        println!("SLABLOCK_TEST_SEED={seed}");
        let mut random = Random(seed);
        let map = map_of(MAP_CAPACITY);
        for round in 0..24 {
            let place = furnished();
            let len = slab_of(&place).metadata().unwrap().len();
            let regions = [
                (128, 4_096),
                (STRIPES_AT, BUCKETS_AT),
                (BUCKETS_AT, map.slot_states),
                (map.slot_states, map.participants),
                (map.participants, map.participants + 1_024),
                (map.slots, map.slots + 310 * 192),
                (map.blocks, len),
            ];
            for _ in 0..1 + random.below(60) {
                let (from, to) = regions[random.below(7) as usize];
                let at = from + random.below(to - from);
                // The upper bytes of hold words name their holders. A lock that seems to be held by one who
                // lives is waited for, and rightly.
                let names_holder = at >= map.slots && (at - map.slots) % 192 < 8 && at % 8 >= 6
                    || at >= map.blocks && (at - map.blocks) % 32 < 8 && at % 8 >= 6;
                if !names_holder {
                    poke(&place, at, &[random.below(256) as u8]);
                }
            }
            survives(NAME, &place, &format!("round {round} of seed {seed}"));
        }
    });
}

/// SplitMix64, by Sebastiano Vigna: enough to choose bytes, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % end
    }
}
