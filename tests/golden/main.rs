//! The format, held fast: a store that was written long ago is opened, and a new one has its bytes
//! where docs/format.md says.
//!
//! The old store is `store.txt`: of each 16 bytes of the slab that are not all zeros, the offset
//! and the bytes; then a `fanout` record, and what was given and chosen when they were made. One
//! with values is `values.txt`. When the format changes on purpose, `SLABLOCK_WRITE_GOLDEN=1 cargo
//! test --test golden` writes both anew; then their difference says what has changed.

#![allow(missing_docs)]

#[macro_use]
#[path = "../kit/mod.rs"]
mod kit;
mod fresh;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kit::layout::{self, BOOT_ID, BOOTS};
use kit::{Place, bounded};
use slablock::{
    Averager, BoundedSemaphore, Cache, Error, FanoutCache, KeyState, Kind, Lock, RLock,
};

const CAPACITY: usize = 64;
const LINE: usize = 16;
/// How many keys are spread over the shards.
const SPREAD: usize = 12;
const SHARDS: usize = 5;
const LONG_KEY: [u8; 300] = [b'r'; 300];

/// What the file says.
#[derive(Default)]
struct Golden {
    slab: Vec<u8>,
    fanout: Vec<u8>,
    /// The last token of each key, by a word for it.
    tokens: BTreeMap<String, u64>,
    shards: Vec<usize>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store.txt")
}

impl Golden {
    fn read() -> Golden {
        if std::env::var_os("SLABLOCK_WRITE_GOLDEN").is_some() {
            fs::write(path(), written()).unwrap();
        }
        let text = fs::read_to_string(path()).unwrap();
        let mut golden = Golden::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["length", bytes] => golden.slab.resize(bytes.parse().unwrap(), 0),
                ["fanout", bytes] => golden.fanout = from_hex(bytes),
                ["token", of, token] => {
                    golden.tokens.insert(of.to_string(), token.parse().unwrap());
                }
                ["shard", number] => golden.shards.push(number.parse().unwrap()),
                [offset, bytes] => {
                    let at = usize::from_str_radix(offset, 16).unwrap();
                    golden.slab[at..at + LINE].copy_from_slice(&from_hex(bytes));
                }
                _ => panic!("{line}"),
            }
        }
        golden
    }

    /// The store, as it was; `now`: as if it had been written by a process of this boot, here.
    fn place(&self, now: bool) -> Place {
        let place = Place::new();
        fs::create_dir(place.store()).unwrap();
        write_with_holes(&place.slab(), &self.slab);
        layout::name_files(&place.store(), &place.store());
        if now {
            make_of_this_boot(&place);
        }
        place
    }
}

/// A file as it was, without blocks for lines of zeros.
fn write_with_holes(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, line) in bytes.chunks(LINE).enumerate() {
        if line.iter().any(|byte| *byte != 0) {
            file.write_all_at(line, (number * LINE) as u64).unwrap();
        }
    }
}

/// As if the slab had been written by a process of this boot, here.
fn make_of_this_boot(place: &Place) {
    place.poke(BOOT_ID, &fresh::boot_id());
    place.poke(BOOTS + 16, &fresh::boot_moment_ms().to_le_bytes());
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Makes the store, and writes down what it is.
fn written() -> String {
    let mut text = String::from(
        "# A store of format version 1, little-endian. Written by `SLABLOCK_WRITE_GOLDEN=1 cargo test --test golden`.\n",
    );
    let place = Place::new();
    let cache = Cache::options().capacity(CAPACITY).open(place.store());
    let cache = cache.unwrap();
    let tokens = furnish(&cache);
    drop(cache);
    // Of no boot of any machine.
    place.poke(BOOT_ID, &[1; 16]);
    let slab = fs::read(place.slab()).unwrap();
    writeln!(text, "length {}", slab.len()).unwrap();
    for (number, bytes) in slab.chunks(LINE).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            writeln!(text, "{:06x} {}", number * LINE, to_hex(bytes)).unwrap();
        }
    }
    for (of, token) in tokens {
        writeln!(text, "token {of} {token}").unwrap();
    }
    let place = Place::new();
    let cache = FanoutCache::open(place.store(), SHARDS).unwrap();
    let fanout = fs::read(place.store().join("fanout")).unwrap();
    writeln!(text, "fanout {}", to_hex(&fanout)).unwrap();
    for shard in spread(&place, &cache) {
        writeln!(text, "shard {shard}").unwrap();
    }
    text
}

/// One of each kind: used, held by who is dead by the time it is read, removed.
fn furnish(cache: &Cache) -> BTreeMap<&'static str, u64> {
    let lock = Lock::new(cache, "a lock").tag("one");
    (0..4).for_each(|_| drop(lock.acquire().unwrap()));
    let lock = lock.acquire().unwrap().into_token().get();
    let held = Lock::new(cache, "a lock that is held").tag("two");
    let held = held.acquire().unwrap().into_token().get();
    let rlock = RLock::new(cache, LONG_KEY).tag("one");
    drop(rlock.acquire().unwrap());
    let rlock = rlock.acquire().unwrap().token().get();
    let semaphore = BoundedSemaphore::new(cache, "a semaphore", 6);
    (0..7).for_each(|_| drop(semaphore.acquire().unwrap()));
    let semaphore = semaphore.acquire().unwrap().into_token().get();
    let average = Averager::new(cache, "an average").tag("two");
    for value in [1.5, -2.5, 4.0] {
        average.add(value).unwrap();
    }
    let popped = Averager::new(cache, "popped");
    popped.add(7.0).unwrap();
    popped.pop().unwrap();
    let long = Averager::new(cache, LONG_KEY.map(|_| b'a'));
    long.add(0.1).unwrap();
    // Its slot lives a second time.
    drop(Lock::new(cache, "removed").acquire().unwrap());
    assert!(cache.remove("removed").unwrap());
    let again = Lock::new(cache, "made again");
    let again = again.acquire().unwrap().token().get();
    let of_lock = slablock::Token::new(lock);
    Lock::new(cache, "a lock").release(of_lock).unwrap();
    BTreeMap::from([
        ("lock", lock),
        ("held", held),
        ("rlock", rlock),
        ("semaphore", semaphore),
        ("again", again),
    ])
}

/// In which shard each of some keys is.
fn spread(place: &Place, cache: &Cache) -> Vec<usize> {
    let names = (0..SPREAD).map(|n| format!("key {n}"));
    for name in names.clone() {
        drop(Lock::new(cache, name).acquire().unwrap());
    }
    let shard = |n| Cache::open(place.store().join(format!("{n:03}"))).unwrap();
    let shards: Vec<Cache> = (0..SHARDS).map(shard).collect();
    let of = |name: &String| {
        shards
            .iter()
            .position(|s| s.key_info(name).unwrap().is_some())
    };
    names.map(|name| of(&name).unwrap()).collect()
}

fn everything_is_there(cache: &Cache) {
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    let keys: BTreeMap<_, _> = cache
        .keys()
        .unwrap()
        .into_iter()
        .map(|info| (info.key.clone(), info))
        .collect();
    type Expected<'a> = (&'a [u8], Kind, Option<&'a [u8]>);
    let expected: [Expected<'_>; 8] = [
        (b"a lock", Kind::Lock, Some(b"one")),
        (b"a lock that is held", Kind::Lock, Some(b"two")),
        (&LONG_KEY, Kind::RLock, Some(b"one")),
        (b"a semaphore", Kind::Semaphore, None),
        (b"an average", Kind::Averager, Some(b"two")),
        (b"popped", Kind::Averager, None),
        (&LONG_KEY.map(|_| b'a'), Kind::Averager, None),
        (b"made again", Kind::Lock, None),
    ];
    assert_eq!(keys.len(), expected.len());
    for (key, kind, tag) in expected {
        let info = &keys[key];
        assert_eq!((info.kind, info.tag.as_deref()), (kind, tag), "{info:?}");
    }
    let average = Averager::new(cache, "an average")
        .summary()
        .unwrap()
        .unwrap();
    assert_eq!((average.count, average.total), (3, 3.0));
    assert_eq!((average.min, average.max), (-2.5, 4.0));
    assert_eq!(Averager::new(cache, "popped").get().unwrap(), None);
    let long = Averager::new(cache, LONG_KEY.map(|_| b'a')).get().unwrap();
    assert_eq!(long, Some(0.1));
}

#[test]
fn an_old_store_is_what_it_was() {
    bounded(|| {
        let golden = Golden::read();
        let place = golden.place(true);
        let cache = place.open();
        everything_is_there(&cache);
        let KeyState::Semaphore { value, .. } =
            cache.key_info("a semaphore").unwrap().unwrap().state
        else {
            panic!("not a semaphore");
        };
        assert_eq!(value, 6);
        // The next token of each is the next number.
        let after = |of| golden.tokens[of] + 1;
        let lock = Lock::new(&cache, "a lock");
        let lock = lock.try_acquire().unwrap().unwrap();
        assert_eq!(lock.token().get(), after("lock"));
        assert!(lock.recovered().is_none());
        let held = Lock::new(&cache, "a lock that is held");
        let held = held.try_acquire().unwrap().unwrap();
        assert_eq!(held.token().get(), after("held"));
        let dead = held.recovered().expect("its holder died");
        assert_eq!(dead.token.get(), golden.tokens["held"]);
        assert!(dead.program.starts_with("golden"), "{}", dead.program);
        let rlock = RLock::new(&cache, LONG_KEY);
        assert_eq!(rlock.acquire().unwrap().token().get(), after("rlock"));
        let again = Lock::new(&cache, "made again");
        assert_eq!(again.acquire().unwrap().token().get(), after("again"));
        let semaphore = BoundedSemaphore::new(&cache, "a semaphore", 6);
        let all: Vec<_> = (0..6)
            .map(|_| semaphore.try_acquire().unwrap().unwrap())
            .collect();
        let tokens: Vec<u64> = all.iter().map(|guard| guard.token().get()).collect();
        assert_eq!(
            tokens,
            (0..6).map(|n| after("semaphore") + n).collect::<Vec<_>>()
        );
        let told = all.iter().filter(|guard| guard.recovered().is_some());
        assert_eq!(told.count(), 1);
    });
}

#[test]
fn an_old_store_outlives_a_reboot() {
    bounded(|| {
        let golden = Golden::read();
        let place = golden.place(false);
        let cache = place.open();
        everything_is_there(&cache);
        for (name, of) in [
            ("a lock", "lock"),
            ("a lock that is held", "held"),
            ("made again", "again"),
        ] {
            let lock = Lock::new(&cache, name);
            let guard = lock.try_acquire().unwrap().unwrap();
            assert!(guard.token().get() > golden.tokens[of] + (1 << 36));
        }
        let semaphore = BoundedSemaphore::new(&cache, "a semaphore", 6);
        for _ in 0..6 {
            let guard = semaphore.try_acquire().unwrap().unwrap();
            assert!(guard.into_token().get() > golden.tokens["semaphore"] + (1 << 36));
        }
    });
}

#[test]
fn an_old_fanout_spreads_its_keys_as_ever() {
    bounded(|| {
        let golden = Golden::read();
        let place = Place::new();
        fs::create_dir(place.store()).unwrap();
        fs::write(place.store().join("fanout"), &golden.fanout).unwrap();
        let words = ["shards", &SHARDS.to_string()[..]];
        let other = FanoutCache::open(place.store(), SHARDS + 1);
        assert_error!(other, Error::ConfigMismatch { .. }, words);
        let cache = FanoutCache::open(place.store(), SHARDS).unwrap();
        assert_eq!(spread(&place, &cache), golden.shards);
    });
}
