//! A store that grows by itself: what is there is found meanwhile, by all processes, and seen once;
//! and it works where address space is scarce.

#![allow(unsafe_code)]

#[macro_use]
mod kit;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use kit::layout::{self, Layout};
use kit::{Board, Child, Place, Role, Stopwatch, Watchdog, hear, say};
use nix::libc;
use slablock::{BoundedSemaphore, Cache, Error, FanoutCache, Lock};

/// So many are made while others read.
const KEYS: usize = 60_000;

// What the numbers on the board are.
const MADE: usize = 0;
const ENDED: usize = 1;

#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    match role.name.as_str() {
        "reader" => read_meanwhile(&role),
        "lister" => list_meanwhile(&role),
        "few_addresses" => with_few_addresses(&role),
        "locked_memory" => with_locked_memory(&role),
        "many_shards" => with_many_shards(&role),
        "no_more_addresses" => with_no_more_addresses(&role),
        "repair" => repair_with_few_addresses(&role),
        other => panic!("no role {other}"),
    }
}

fn name(number: usize) -> String {
    format!("key {number}")
}

/// Everything that was made is found, and nothing else.
fn read_meanwhile(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let board = role.board();
    say("ready");
    let (mut looked, mut number) = (0_u64, 0);
    while board.get(ENDED) == 0 {
        let made = board.get(MADE) as usize;
        if made == 0 {
            continue;
        }
        number = (number + 7_919) % made;
        let value = cache.get(name(number)).unwrap();
        assert_eq!(
            value,
            Some(number.to_le_bytes().to_vec()),
            "key {number} of {made}"
        );
        assert_eq!(cache.get(format!("no {number}")).unwrap(), None);
        looked += 1;
    }
    assert!(looked > 100, "{looked}");
    say("done");
}

/// What is there all the time is listed, and once.
fn list_meanwhile(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let board = role.board();
    say("ready");
    let mut rounds = 0;
    while board.get(ENDED) == 0 {
        let made = board.get(MADE) as usize;
        let mut seen = HashMap::new();
        for item in cache.iter() {
            *seen.entry(item.unwrap().0).or_insert(0) += 1;
        }
        for number in 0..made {
            let times = seen.get(name(number).as_bytes()).copied();
            assert_eq!(times, Some(1), "key {number} of {made} in round {rounds}");
        }
        assert!(seen.values().all(|times| *times == 1), "round {rounds}");
        let report = cache.check().unwrap();
        assert!(report.is_sound(), "{report:?}");
        rounds += 1;
    }
    assert!(rounds > 0);
    say("done");
}

#[test]
fn what_is_there_is_found_and_seen_once_while_a_store_grows() {
    let _watchdog = Watchdog::new("growth");
    let place = Place::new();
    let board = Board::open(place.root());
    let cache = place.open();
    let names = ["reader", "lister"];
    let others = names.map(|role| Child::start(role, place.root(), &[]));
    others.iter().for_each(|child| drop(child.expect("ready")));
    for number in 0..KEYS {
        cache.set(name(number), number.to_le_bytes()).unwrap();
        board.set(MADE, number as u64 + 1);
    }
    board.set(ENDED, 1);
    for child in others {
        child.expect("done");
        child.finish();
    }
    assert_eq!(cache.stats().unwrap().evictions, 0);
    let rows = |stripe: u64| place.word(layout::ROWS + 4 * stripe) as u32;
    let slots = u64::from(place.word(layout::COUNTERS + 4) as u32);
    // As many as there are to be; where no key was made of late, a few less.
    let due = slots as u32 / 64;
    let all: Vec<_> = (0..64).map(rows).collect();
    assert!(
        all.iter().all(|rows| (due * 3 / 4..=due).contains(rows)),
        "{all:?} {due}"
    );
    assert!(all.iter().sum::<u32>() > 64 * (due - 8), "{all:?} {due}");
    drop(cache);
    // Found again by a repair, which sees to the buckets itself.
    let report = Cache::repair(place.store()).unwrap();
    assert_eq!(
        (report.keys_kept, report.keys_lost),
        (KEYS, 0),
        "{report:?}"
    );
    assert!(report.actions.is_empty(), "{report:?}");
    let cache = place.open();
    assert!(cache.check().unwrap().is_sound());
    for number in (0..KEYS).step_by(97) {
        let value = cache.get(name(number)).unwrap();
        assert_eq!(value, Some(number.to_le_bytes().to_vec()));
    }
}

#[test]
fn a_store_of_no_chosen_capacity_keeps_what_is_set() {
    let _watchdog = Watchdog::new("growth");
    let place = Place::new();
    let cache = place.open();
    let blocks = || std::fs::metadata(place.slab()).unwrap().blocks() * 512;
    assert!(blocks() < 100_000, "{}", blocks());
    for number in 0..100_000 {
        cache.set(name(number), [7; 100]).unwrap();
    }
    assert_eq!(cache.stats().unwrap().evictions, 0);
    assert_eq!(cache.len().unwrap(), 100_000);
    // Two slots a value, their share of the tables, and the rest of a chunk.
    assert!(blocks() < 100_000 * 2 * 198 + (1 << 20), "{}", blocks());
    assert!((0..100_000).all(|number| cache.contains(name(number)).unwrap()));
}

/// Slots of all sections hold what they should, at the offsets of the documented format; so do
/// permits.
#[test]
fn what_lies_in_further_sections_lies_where_the_design_says() {
    let _watchdog = Watchdog::new("growth");
    let place = Place::new();
    let cache = place.open();
    let map = Layout::new();
    for number in 0..9_000 {
        drop(Lock::new(&cache, name(number)).acquire().unwrap());
    }
    for number in [0, 4_095, 4_096, 8_191, 8_192, 8_999_u64] {
        let key = name(number as usize);
        let at = map.slot(number) + layout::KEY;
        let bytes: [u8; 16] = place.peek(at);
        assert_eq!(&bytes[..key.len()], key.as_bytes(), "slot {number}");
    }
    let large = BoundedSemaphore::new(&cache, "permits", 40_000);
    let guards: Vec<_> = (0..40_000).map(|_| large.acquire().unwrap()).collect();
    for permit in [0, 16_383, 16_384, 39_999_u64] {
        let word = place.word(map.block(permit / 4) + permit % 4 * layout::PERMIT_BYTES);
        assert_ne!(word >> 52, 0, "permit {permit} is held");
    }
    drop(guards);
    drop((large, cache));
    assert_eq!(Cache::repair(place.store()).unwrap().keys_kept, 9_001);
    assert!(place.open().check().unwrap().is_sound());
}

fn limit_addresses(bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit is valid for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

fn in_a_child(role: &'static str) {
    let _watchdog = Watchdog::new(role);
    let place = Place::new();
    let child = Child::start(role, place.root(), &[]);
    child.expect("done");
    child.finish();
}

/// `ulimit -v 1000000`.
fn with_few_addresses(role: &Role) {
    limit_addresses(1_000_000 << 10);
    let cache = Cache::open(role.store()).unwrap();
    for number in 0..100_000 {
        cache.set(name(number), [7; 100]).unwrap();
    }
    assert_eq!(cache.len().unwrap(), 100_000);
    assert!(cache.check().unwrap().is_sound());
    say("done");
}

#[test]
fn a_store_grows_under_a_limit_of_address_space() {
    in_a_child("few_addresses");
}

fn with_locked_memory(role: &Role) {
    // SAFETY: no pointer is involved.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
        println!("skipped: this process may not lock its memory");
        return say("done");
    }
    let cache = Cache::open(role.store()).unwrap();
    for number in 0..20_000 {
        match cache.set(name(number), [7; 100]) {
            Ok(()) => {}
            // As far as the process may.
            Err(Error::Io { action: "map", .. }) if number > 0 => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(cache.check().unwrap().is_sound());
    // No page of a hole came of that.
    let slab = std::fs::metadata(role.store().join("slab")).unwrap();
    assert!(slab.blocks() * 512 < slab.len(), "{}", slab.blocks());
    say("done");
}

#[test]
fn a_store_grows_in_a_process_that_locks_its_memory() {
    in_a_child("locked_memory");
}

fn with_many_shards(role: &Role) {
    limit_addresses(1_000_000 << 10);
    let cache = FanoutCache::open(role.store(), 256).unwrap();
    for number in 0..20_000 {
        cache.set(name(number), [7; 100]).unwrap();
    }
    assert_eq!(cache.len().unwrap(), 20_000);
    say("done");
}

#[test]
fn many_shards_fit_a_limit_of_address_space() {
    in_a_child("many_shards");
}

/// Others let the store grow, and this process may not map more of it.
fn with_no_more_addresses(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    cache.set("there", "value").unwrap();
    say("ready");
    hear();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    limit_addresses(pages * 4_096 + (64 << 10));
    let refused = cache.set("new", "value");
    let found = cache.get("there");
    // What looks at all of it, or at what others have made elsewhere, says so, too.
    let all = [cache.len(), cache.check().map(|report| report.keys)];
    let permits = BoundedSemaphore::new(&cache, "permits", 3)
        .try_acquire()
        .map(|_| 0);
    let far = (0..20_000).map(|number| cache.get(name(number)));
    let far: Vec<_> = far.filter(|found| !matches!(found, Ok(Some(_)))).collect();
    limit_addresses(libc::RLIM_INFINITY);
    // It is no damage, and no miss.
    assert!(!far.is_empty());
    let counts = all.into_iter().chain([permits]);
    let others = counts.map(|count| count.map(|_| None));
    let told = far.into_iter().take(20).chain([refused.map(|()| None)]);
    for error in told.chain(others) {
        assert_error!(
            error,
            Error::Io { action: "map", .. },
            ["slab", "ulimit -v"]
        );
    }
    // Its bucket may be a new one.
    match found {
        Ok(found) => assert_eq!(found.as_deref(), Some(&b"value"[..])),
        Err(error) => kit::says(&error, &["slab", "ulimit -v"]),
    }
    cache.set("new", "value").unwrap();
    assert!((0..20_000).all(|number| cache.get(name(number)).unwrap().is_some()));
    say("done");
}

#[test]
fn who_may_not_map_what_others_let_grow_is_told_and_misses_nothing() {
    let _watchdog = Watchdog::new("no more addresses");
    let place = Place::new();
    let cache = place.open();
    let mut child = Child::start("no_more_addresses", place.root(), &[]);
    child.expect("ready");
    for number in 0..20_000 {
        cache.set(name(number), "value").unwrap();
    }
    let permits = BoundedSemaphore::new(&cache, "permits", 3);
    drop(permits.acquire().unwrap());
    child.tell("go on");
    child.expect("done");
    child.finish();
}

/// A repair takes nothing for gone that it cannot map.
fn repair_with_few_addresses(role: &Role) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    limit_addresses(pages * 4_096 + (2 << 20));
    let repaired = Cache::repair(role.store());
    let read = slablock::Reader::open(role.store()).map(|_| ());
    limit_addresses(libc::RLIM_INFINITY);
    for error in [repaired.map(|_| ()), read] {
        assert_error!(
            error,
            Error::Io { action: "map", .. },
            ["slab", "ulimit -v"]
        );
    }
    let report = Cache::repair(role.store()).unwrap();
    assert_eq!(
        (report.keys_kept, report.actions.len()),
        (20_000, 0),
        "{report:?}"
    );
    say("done");
}

#[test]
fn a_repair_takes_nothing_for_gone_that_it_cannot_map() {
    let _watchdog = Watchdog::new("repair");
    let place = Place::new();
    let cache = place.open();
    for number in 0..20_000 {
        cache.set(name(number), "value").unwrap();
    }
    drop(cache);
    let child = Child::start("repair", place.root(), &[]);
    child.expect("done");
    child.finish();
    assert!(place.open().check().unwrap().is_sound());
}

/// Keys of several slots among many of one: nobody looks at all of them.
#[test]
fn what_is_free_here_and_there_costs_no_look_at_everything() {
    let _watchdog = Watchdog::new("growth");
    let place = Place::in_memory();
    let cache = place.open();
    for number in 0..200_000 {
        cache.set(name(number), "value").unwrap();
    }
    let begun = Stopwatch::start();
    for number in 0..200 {
        assert!(cache.remove(name(number * 3)).unwrap());
        cache.set(format!("long {number}"), [7; 100]).unwrap();
    }
    let each = begun.elapsed() / 200;
    println!("{each:?} each");
    assert!(each < Duration::from_millis(2), "{each:?}");
    assert!(cache.check().unwrap().is_sound());
}

/// What makers of longer keys have gone past is there for others, before anything goes for them.
#[test]
fn nothing_is_evicted_while_slots_are_free() {
    const CAPACITY: usize = 60_000;
    let _watchdog = Watchdog::new("growth");
    let place = Place::in_memory();
    let options = Cache::options().capacity(CAPACITY);
    let cache = options.open(place.store()).unwrap();
    for number in 0..24_000 {
        cache.set(name(number), "value").unwrap();
    }
    // Free here and there, one at a time.
    for number in (0..24_000).step_by(3) {
        assert!(cache.remove(name(number)).unwrap());
    }
    // Two slots each: all that is behind.
    for number in 0..(CAPACITY - 24_200) / 2 {
        cache.set(format!("long {number}"), [7; 100]).unwrap();
    }
    for number in 0..7_500 {
        cache.set(format!("new {number}"), "value").unwrap();
        let stats = cache.stats().unwrap();
        assert_eq!(stats.evictions, 0, "{number}: {stats:?}");
    }
    assert!(cache.check().unwrap().is_sound());
}

/// Bit by bit: no key that is made waits for all the others.
#[test]
fn no_key_takes_long_because_a_store_grows() {
    let _watchdog = Watchdog::new("growth");
    let place = Place::in_memory();
    let cache = place.open();
    let mut times: Vec<Duration> = (0..100_000)
        .map(|number| {
            let key = name(number);
            let one = Stopwatch::start();
            cache.set(key, "value").unwrap();
            one.elapsed()
        })
        .collect();
    times.sort_unstable();
    let late = times[times.len() / 1_000 * 999];
    println!(
        "median {:?}, 99.9th percentile {late:?}",
        times[times.len() / 2]
    );
    assert!(late < Duration::from_millis(5), "{late:?}");
}
