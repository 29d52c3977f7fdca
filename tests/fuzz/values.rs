//! Law: any sequence of operations on values by several participants, with time passing, clocks set
//! back and participants dying in between, has the results that a plain map would have. Small
//! values and large ones, with expiry and tags, in transactions or not, computed when missing; the
//! log is compacted as it goes. A key may be a lock's for a while. Whoever dies in the midst of
//! setting, of a transaction, or while it computes a value, has done all of it or nothing, and
//! nobody waits for it.
//!
//! There is room for all.

mod deaths;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use slablock::{Cache, Error, Eviction, Kind, Lock, Result, SetOptions, Transaction, fuzzing};

use super::input::Input;
use super::place::Place;

const OPERATIONS_MAX: usize = 120;
const BOOT_US: u64 = 1_000_000_000;
const WALL_US: u64 = 1_700_000_000_000_000;
/// The least there can be, so that it is filled, and compacted, by a few large values.
const SIZE_LIMIT: u64 = 4 << 20;
const CAPACITY: usize = 64;

thread_local! {
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

pub fn run(data: &[u8]) {
    PLACE.with_borrow_mut(|place| {
        let dir = place.get_or_insert_with(Place::new).path().join("values");
        let _ = fs::remove_dir_all(&dir);
        fuzzing::chance(Some(u64::from(data.first().copied().unwrap_or(0) % 4)));
        let mut world = World::new(dir);
        let mut input = Input::new(data);
        for _ in 0..OPERATIONS_MAX {
            if input.is_empty() {
                break;
            }
            world.step(&mut input);
        }
        world.finish();
        fuzzing::time(None);
        fuzzing::chance(None);
    });
}

/// What is under a key.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    value: Vec<u8>,
    tag: Vec<u8>,
    /// 0: never.
    expires_ms: u64,
}

struct World {
    dir: PathBuf,
    boot_us: u64,
    wall_us: u64,
    seats: [Option<Cache>; 3],
    model: BTreeMap<Vec<u8>, Held>,
    /// Keys that are locks; nobody has them.
    locks: Vec<Vec<u8>>,
}

/// Lengths around every change of place: no cell, one slot, several, one read of the log, several,
/// a segment.
const LENGTHS: [usize; 20] = [
    0, 1, 5, 8, 9, 40, 41, 200, 256, 257, 1_000, 16_385, 140_000, 262_200, 2, 3, 12, 19, 50, 300,
];

fn bytes(kind: u8, len: usize) -> Vec<u8> {
    match kind % 3 {
        // Integers are among them.
        0 if len <= 19 => vec![b'1' + kind % 7; len],
        _ => (0..len).map(|i| (i as u8) ^ kind).collect(),
    }
}

fn key(byte: u8) -> Vec<u8> {
    match byte % 8 {
        n @ 0..6 => vec![b'a' + n],
        6 => vec![b'k'; 100],
        _ => vec![b'l'; 1_024],
    }
}

const TAGS: [&[u8]; 4] = [b"", b"t", b"", &[7; 250]];
const EXPIRES_US: [Option<u64>; 8] = [
    None,
    None,
    None,
    Some(1),
    Some(1_000),
    Some(60_000),
    Some(2_000_000),
    Some(u64::MAX),
];
const DELTAS: [i64; 6] = [1, -1, 1_000, i64::MAX, i64::MIN, 0];

/// A value that the input makes up, with how it is to be set.
struct Made {
    value: Vec<u8>,
    tag: &'static [u8],
    expire: Option<Duration>,
    expires_ms: u64,
}

impl Made {
    fn options(&self) -> SetOptions {
        let options = SetOptions::new().tag(self.tag);
        match self.expire {
            Some(after) => options.expire(after),
            None => options,
        }
    }

    fn held(&self) -> Held {
        Held {
            value: self.value.clone(),
            tag: self.tag.to_vec(),
            expires_ms: self.expires_ms,
        }
    }
}

impl World {
    fn new(dir: PathBuf) -> World {
        let world = World {
            dir,
            boot_us: BOOT_US,
            wall_us: WALL_US,
            seats: Default::default(),
            model: BTreeMap::new(),
            locks: Vec::new(),
        };
        world.set_clocks();
        let options = Cache::options().capacity(CAPACITY).size_limit(SIZE_LIMIT);
        let options = options.eviction(Eviction::None);
        drop(fuzzing::open_apart(&world.dir, &options).expect("make a store"));
        world
    }

    fn set_clocks(&self) {
        fuzzing::time(Some(fuzzing::Moment {
            boot_us: self.boot_us,
            wall_us: self.wall_us,
        }));
    }

    fn seat(&mut self, seat: usize) -> Cache {
        let seat = &mut self.seats[seat % 3];
        let dir = &self.dir;
        let open = || fuzzing::open_apart(dir, &Cache::options()).expect("open");
        seat.get_or_insert_with(open).clone()
    }

    /// What is under a key, if its time is not over.
    fn now(&self, key: &[u8]) -> Option<&Held> {
        let now_ms = self.wall_us / 1_000;
        let held = self.model.get(key)?;
        (held.expires_ms == 0 || held.expires_ms > now_ms).then_some(held)
    }

    fn expiry(&self, input: &mut Input) -> (Option<Duration>, u64) {
        let after = input.of(&EXPIRES_US);
        // The last moment that can be named is in the year 2109.
        let end = |us: u64| {
            self.wall_us
                .saturating_add(us)
                .div_ceil(1_000)
                .min((1 << 42) - 1)
        };
        (after.map(Duration::from_micros), after.map_or(0, end))
    }

    fn made(&self, input: &mut Input) -> Made {
        let len = input.of(&LENGTHS);
        let value = bytes(input.byte(), len);
        let (expire, expires_ms) = self.expiry(input);
        Made {
            value,
            tag: input.of(&TAGS),
            expire,
            expires_ms,
        }
    }

    fn step(&mut self, input: &mut Input) {
        let what = input.byte();
        if what & 31 == 29 {
            return self.repair();
        }
        let cache = self.seat(usize::from(what >> 6));
        let key = key(input.byte());
        match what & 31 {
            0..=5 => self.set(&cache, &key, input),
            6..=8 => self.get(&cache, &key),
            9 => self.compute(&cache, &key, input),
            10 => self.add(&cache, &key, input),
            11 => self.replace(&cache, &key, input),
            12 => self.swap(&cache, &key, input),
            13 | 14 => self.delete(&cache, &key),
            15 => self.pop(&cache, &key),
            16 => self.touch(&cache, &key, input),
            17..=19 => self.incr(&cache, &key, input),
            20 | 21 => self.transact(&cache, input),
            22 => self.evict(&cache, input),
            23 => {
                let there = self.now(&key).is_some() || self.locks.contains(&key);
                assert_eq!(cache.remove(&key).expect("remove"), there);
                if there {
                    self.model.remove(&key);
                }
                self.locks.retain(|lock| *lock != key);
            }
            24 => self.lock(&cache, &key),
            25 => self.pass(input),
            26 => {
                self.die(&cache, &key, input);
                self.seats[usize::from(what >> 6) % 3] = None;
            }
            27 => {
                let over = self.model.len() - self.here();
                assert_eq!(cache.remove_expired().expect("expire"), over);
                self.drop_over();
            }
            28 => {
                let over = self.model.len() - self.here();
                assert_eq!(cache.cull().expect("cull"), over);
                self.drop_over();
            }
            30 => self.all(&cache),
            _ if input.byte().is_multiple_of(4) => {
                let there = self.here() + self.locks.len();
                assert_eq!(cache.clear().expect("clear"), there);
                self.model.clear();
                self.locks.clear();
            }
            _ => {}
        }
    }

    fn here(&self) -> usize {
        self.model
            .keys()
            .filter(|key| self.now(key).is_some())
            .count()
    }

    fn drop_over(&mut self) {
        let now_ms = self.wall_us / 1_000;
        self.model
            .retain(|_, held| held.expires_ms == 0 || held.expires_ms > now_ms);
    }

    /// Of a key that is a lock every operation is refused.
    fn agree<T>(&self, key: &[u8], result: Result<T>) -> Option<T> {
        match (result, self.locks.iter().any(|lock| lock == key)) {
            (Ok(got), false) => Some(got),
            (
                Err(Error::KindMismatch {
                    found: Kind::Lock, ..
                }),
                true,
            ) => None,
            (Ok(_), true) => panic!("{key:?} is a lock"),
            (Err(error), _) => panic!("{key:?}: {error:?}"),
        }
    }

    fn set(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let made = self.made(input);
        let set = cache.set_with(key, &made.value, &made.options());
        if self.agree(key, set).is_some() {
            self.model.insert(key.to_vec(), made.held());
        }
    }

    fn get(&self, cache: &Cache, key: &[u8]) {
        let due = self.now(key);
        if let Some(got) = self.agree(key, cache.get(key)) {
            assert!(got.as_ref() == due.map(|held| &held.value), "{key:?}");
        }
        if let Some(there) = self.agree(key, cache.contains(key)) {
            assert_eq!(there, due.is_some());
        }
        if let Some(entry) = self.agree(key, cache.entry(key)) {
            let told = entry.map(|entry| {
                let left = entry.expires_in.map(|left| left.as_micros() as u64);
                let expires_ms = left.map_or(0, |left| (self.wall_us + left) / 1_000);
                Held {
                    value: entry.value,
                    tag: entry.tag.unwrap_or_default(),
                    expires_ms,
                }
            });
            assert!(told.as_ref() == due, "{key:?}");
        }
    }

    fn compute(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let made = self.made(input);
        let due = self.now(key).map(|held| held.value.clone());
        let mut computed = false;
        let got = cache.get_or_insert_as(key, &made.options(), || {
            computed = true;
            match input.byte() % 4 {
                0 => Err(Error::Invalid {
                    what: "computed in vain".to_string(),
                }),
                _ => Ok(made.value.clone()),
            }
        });
        let got = match got {
            Err(Error::Invalid { .. }) => None,
            other => match self.agree(key, other) {
                None => return,
                got => got,
            },
        };
        assert_eq!(computed, due.is_none(), "{key:?}");
        match (due, got) {
            (Some(due), got) => assert!(got == Some(due), "{key:?}"),
            (None, None) => {}
            (None, Some(got)) => {
                assert!(got == made.value);
                self.model.insert(key.to_vec(), made.held());
            }
        }
    }

    fn add(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let made = self.made(input);
        let added = cache.add_with(key, &made.value, &made.options());
        if let Some(added) = self.agree(key, added) {
            assert_eq!(added, self.now(key).is_none());
            if added {
                self.model.insert(key.to_vec(), made.held());
            }
        }
    }

    fn replace(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let made = self.made(input);
        let replaced = cache.replace_with(key, &made.value, &made.options());
        if let Some(replaced) = self.agree(key, replaced) {
            assert_eq!(replaced, self.now(key).is_some());
            if replaced {
                self.model.insert(key.to_vec(), made.held());
            }
        }
    }

    fn swap(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let made = self.made(input);
        let old = match (input.byte() % 4, self.now(key)) {
            (0, _) | (_, None) => bytes(input.byte(), input.of(&LENGTHS)),
            (_, Some(held)) => held.value.clone(),
        };
        let swapped = cache.compare_and_swap_with(key, &old, &made.value, &made.options());
        if let Some(swapped) = self.agree(key, swapped) {
            assert_eq!(swapped, self.now(key).is_some_and(|held| held.value == old));
            if swapped {
                self.model.insert(key.to_vec(), made.held());
            }
        }
    }

    fn delete(&mut self, cache: &Cache, key: &[u8]) {
        if let Some(deleted) = self.agree(key, cache.delete(key)) {
            assert_eq!(deleted, self.now(key).is_some());
            if deleted {
                self.model.remove(key);
            }
        }
    }

    fn pop(&mut self, cache: &Cache, key: &[u8]) {
        if let Some(popped) = self.agree(key, cache.pop(key)) {
            assert!(popped.as_ref() == self.now(key).map(|held| &held.value));
            if popped.is_some() {
                self.model.remove(key);
            }
        }
    }

    fn touch(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let (expire, expires_ms) = self.expiry(input);
        if let Some(touched) = self.agree(key, cache.touch(key, expire)) {
            assert_eq!(touched, self.now(key).is_some());
            if let Some(held) = self.model.get_mut(key).filter(|_| touched) {
                held.expires_ms = expires_ms;
            }
        }
    }

    /// What an integer becomes; `None`: it is none, or would be none.
    fn sum(old: Option<&Held>, delta: i64) -> Option<i64> {
        let number = match old {
            None => 0,
            Some(held) => std::str::from_utf8(&held.value).ok()?.parse().ok()?,
        };
        i64::checked_add(number, delta)
    }

    fn incr(&mut self, cache: &Cache, key: &[u8], input: &mut Input) {
        let delta = input.of(&DELTAS);
        let due = Self::sum(self.now(key), delta);
        let sum = match cache.incr(key, delta) {
            Err(Error::NotInteger { .. }) => Ok(None),
            other => other.map(Some),
        };
        if let Some(sum) = self.agree(key, sum) {
            assert_eq!(sum, due, "{key:?}");
            if let Some(sum) = sum {
                self.put_integer(key, sum);
            }
        }
    }

    /// Tag and expiry stay.
    fn put_integer(&mut self, key: &[u8], sum: i64) {
        let (tag, expires_ms) = match self.now(key) {
            Some(held) => (held.tag.clone(), held.expires_ms),
            None => (Vec::new(), 0),
        };
        let value = sum.to_string().into_bytes();
        let held = Held {
            value,
            tag,
            expires_ms,
        };
        self.model.insert(key.to_vec(), held);
    }

    /// A few changes, all of them or none.
    fn transact(&mut self, cache: &Cache, input: &mut Input) {
        let before = self.model.clone();
        let how = input.byte();
        let done = cache.transact_as(|all| {
            for _ in 0..how % 5 {
                self.within(all, input)?;
            }
            match how & 64 {
                0 => Ok(()),
                _ => Err(Error::Invalid {
                    what: "thought better of it".to_string(),
                }),
            }
        });
        match done {
            Ok(()) => {}
            Err(Error::Invalid { .. } | Error::KindMismatch { .. } | Error::NotInteger { .. }) => {
                self.model = before;
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn within(&mut self, all: &mut Transaction<'_>, input: &mut Input) -> Result<()> {
        let (what, key) = (input.byte(), key(input.byte()));
        match what % 4 {
            0 => {
                let made = self.made(input);
                all.set_with(&key, &made.value, &made.options())?;
                self.model.insert(key, made.held());
            }
            1 => {
                let deleted = all.delete(&key)?;
                assert_eq!(deleted, self.now(&key).is_some());
                if deleted {
                    self.model.remove(&key);
                }
            }
            2 => {
                let delta = input.of(&DELTAS);
                let due = Self::sum(self.now(&key), delta);
                let sum = all.incr(&key, delta)?;
                assert_eq!(Some(sum), due);
                self.put_integer(&key, sum);
            }
            _ => {
                let got = all.get(&key)?;
                assert!(got == self.now(&key).map(|held| &held.value[..]));
            }
        }
        Ok(())
    }

    fn evict(&mut self, cache: &Cache, input: &mut Input) {
        let tag = input.of(&TAGS);
        let has = |key: &&Vec<u8>| self.now(key).is_some_and(|held| held.tag == tag);
        let due = self.model.keys().filter(|key| !tag.is_empty() && has(key));
        let due: Vec<Vec<u8>> = due.cloned().collect();
        assert_eq!(cache.remove_tagged(tag).expect("evict"), due.len());
        due.iter().for_each(|key| drop(self.model.remove(key)));
    }

    /// A key without a value may become a lock.
    fn lock(&mut self, cache: &Cache, key: &[u8]) {
        let lock = Lock::new(cache, key);
        match lock.try_acquire() {
            Ok(guard) => {
                assert!(self.now(key).is_none(), "{key:?} has a value");
                guard.expect("free").release().expect("release");
                self.model.remove(key);
                if !self.locks.iter().any(|lock| lock == key) {
                    self.locks.push(key.to_vec());
                }
            }
            Err(Error::KindMismatch { .. }) => assert!(self.now(key).is_some(), "{key:?}"),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Time passes, or the clock on the wall is set back.
    fn pass(&mut self, input: &mut Input) {
        let us = input.of(&[1, 999, 1_000, 30_000, 60_000, 2_000_000, 86_400_000_000]);
        match input.byte() % 8 {
            0 => self.wall_us = self.wall_us.saturating_sub(us).max(WALL_US / 2),
            _ => {
                self.boot_us += us;
                self.wall_us += us;
            }
        }
        self.set_clocks();
    }

    fn repair(&mut self) {
        self.seats = Default::default();
        let report = Cache::repair(&self.dir).expect("repair");
        assert_eq!(report.keys_lost, 0, "{report:?}");
        assert!(report.actions.is_empty(), "{report:?}");
    }

    fn all(&self, cache: &Cache) {
        let report = cache.check().expect("check");
        assert!(report.is_sound(), "{report:?}");
        let there = self.here() + self.locks.len();
        assert_eq!((report.keys, cache.len().expect("count")), (there, there));
        let mut values = BTreeMap::new();
        for pair in cache.iter() {
            let (key, value) = pair.expect("all values");
            assert!(values.insert(key, value).is_none(), "one came twice");
        }
        assert_eq!(values.len(), self.here());
        for (key, value) in &values {
            let tag = value.tag.clone().unwrap_or_default();
            let held = self.now(key).expect("what is listed is there");
            assert_eq!((&held.value, &held.tag), (&value.value, &tag));
        }
        let stats = cache.stats().expect("stats");
        assert_eq!((stats.evictions, stats.damaged), (0, 0));
        let most = SIZE_LIMIT + SIZE_LIMIT / 4;
        assert!(stats.bytes_live + stats.bytes_garbage <= most, "{stats:?}");
    }

    fn finish(&mut self) {
        let cache = self.seat(0);
        self.all(&cache);
        let keys: Vec<_> = self.model.keys().cloned().collect();
        keys.iter().for_each(|key| self.get(&cache, key));
        self.seats = Default::default();
    }
}
