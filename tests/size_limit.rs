//! The size limit: of the device the log never takes more than its limit and a segment, however
//! many writers set values at once; and no writer waits for long, whichever process is stopped, and
//! whatever is to be done.

#![allow(missing_docs)]

mod kit;

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kit::{
    Child, Place, Random, Role, Stopwatch, alone, hear, layout, lock_stripes, say, store_with,
};
use slablock::{Cache, Error, Eviction, Limits, Lock};

const SEGMENT: u64 = 1 << 20;
/// What nobody waits longer for, as docs/guarantees.md promises; beside that there is the value
/// itself, which is written. Time in which the machine ran others does not count.
const WAIT: Duration = Duration::from_millis(50);
const MARGIN: Duration = Duration::from_millis(450);

#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    let cache = Cache::open(role.store()).unwrap();
    match &*role.name {
        "setter" => {
            say("up");
            hear();
            let time = Duration::from_millis(role.number(1));
            let (set, refused, _) = set_for(&cache, role.number(0), time);
            say(format!("set {set} {refused}"));
        }
        // Stays in a transaction that has latched a value of the log.
        "latcher" => {
            let done = cache.transact_as(|t| {
                assert!(t.get("latched")?.is_some());
                say("latched");
                hear();
                t.set("latched", "done")
            });
            done.unwrap();
            say("done");
        }
        other => panic!("no role {other}"),
    }
}

/// What the files of the log take of the device.
fn blocks(store: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(store.join("log")) else {
        return 0;
    };
    // A file may go while they are listed.
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512);
    entries.map(|entry| size(&entry.unwrap().path())).sum()
}

fn value(random: &mut Random, longest: u64) -> Vec<u8> {
    let len = match random.below(4) {
        0 => 300 + random.below(4_000),
        1 => 20_000 + random.below(20_000),
        2 => 90_000 + random.below(100_000),
        _ => random.below(longest),
    };
    vec![len as u8; len as usize]
}

/// Sets values of all lengths for so long: how many, how many times there was no room, and the
/// longest wait.
fn set_for(cache: &Cache, seed: u64, time: Duration) -> (u64, u64, Duration) {
    let mut random = Random::new(seed);
    let (mut set, mut refused, mut longest) = (0, 0, Duration::ZERO);
    let begun = Instant::now();
    while begun.elapsed() < time {
        let (key, value) = (random.below(200), value(&mut random, 600_000));
        let one = Stopwatch::start();
        match cache.set(format!("{key}"), &value) {
            Ok(()) => set += 1,
            Err(Error::OverLimit { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        longest = longest.max(one.elapsed());
    }
    (set, refused, longest)
}

/// Looks at the device until `done`, and says how much there was at the most.
fn most_while(store: &Path, done: &AtomicBool) -> u64 {
    let mut most = 0;
    while !done.load(Ordering::Relaxed) {
        most = most.max(blocks(store));
        std::thread::yield_now();
    }
    most
}

const LIMIT: u64 = 8 << 20;

fn judge(set: u64, refused: u64, most: u64) {
    println!("{set} set, {refused} refused, {most} bytes at the most");
    assert!(most <= LIMIT + SEGMENT, "{most} bytes");
    assert!(most > LIMIT / 2 && set > 100, "{most} bytes, {set} set");
    // Where something may always go, there is room.
    assert_eq!(refused, 0, "of {set}");
}

/// Sets a value. How many were refused.
fn refusals(cache: &Cache, key: String, len: usize) -> u64 {
    match cache.set(key, vec![7; len]) {
        Ok(()) => 0,
        Err(Error::OverLimit { .. }) => 1,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_log_of_many_threads_stays_within_its_bound() {
    let _alone = alone("size limit");
    let (dir, cache) = store_with(&Cache::options().size_limit(LIMIT));
    let done = AtomicBool::new(false);
    let (set, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let most = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| most_while(cache.path(), &done));
        let setters: Vec<_> = (0..8)
            .map(|seed| {
                scope.spawn({
                    let cache = &cache;
                    move || set_for(cache, 77 + seed, Duration::from_secs(3))
                })
            })
            .collect();
        for setter in setters {
            let (some, few, _) = setter.join().unwrap();
            set.fetch_add(some, Ordering::Relaxed);
            refused.fetch_add(few, Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
        sampler.join().unwrap()
    });
    judge(set.into_inner(), refused.into_inner(), most);
    assert!(cache.check().unwrap().is_sound());
    assert_eq!(cache.stats().unwrap().damaged, 0);
    drop(dir);
}

#[test]
fn the_log_of_many_processes_stays_within_its_bound() {
    let _alone = alone("size limit");
    let (dir, cache) = store_with(&Cache::options().size_limit(LIMIT));
    let mut children: Vec<_> = (0..6)
        .map(|seed| Child::start("setter", dir.root(), &[&seed.to_string(), "3000"]))
        .collect();
    for child in &mut children {
        child.expect("up");
    }
    children.iter_mut().for_each(|child| child.tell("go"));
    let done = AtomicBool::new(false);
    let (mut set, mut refused) = (0, 0);
    let most = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| most_while(cache.path(), &done));
        for child in &children {
            let said = child.expect("set");
            let (some, few) = said.split_once(' ').unwrap();
            set += some.parse::<u64>().unwrap();
            refused += few.parse::<u64>().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        sampler.join().unwrap()
    });
    children.into_iter().for_each(Child::finish);
    judge(set, refused, most);
    assert!(cache.check().unwrap().is_sound());
}

/// As many threads as do not fit the processors, and values of all lengths that there may be.
#[test]
fn no_value_is_refused_where_others_may_go() {
    const THREADS: u64 = 12;
    const LIMIT: u64 = 64 << 20;
    let _alone = alone("size limit");
    let (_dir, cache) = store_with(&Cache::options().size_limit(LIMIT));
    let longest = cache.config().unwrap().value_limit;
    assert_eq!(longest, LIMIT / 4);
    let set_some = |seed| {
        let cache = cache.clone();
        let mut random = Random::new(seed);
        let begun = Instant::now();
        let (mut set, mut refused) = (0, 0);
        while begun.elapsed() < Duration::from_secs(6) {
            // One in two from 256 bytes to 256 KiB, one in a hundred of megabytes.
            let most = match random.below(100) {
                0 => longest,
                _ => 256 << random.below(11),
            };
            let len = random.below(most + 1) as usize;
            let key = random.below(5_000);
            refused += refusals(&cache, format!("{key}"), len);
            set += 1;
        }
        (set, refused)
    };
    let all: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let setters: Vec<_> = (0..THREADS)
            .map(|seed| scope.spawn(move || set_some(seed)))
            .collect();
        setters
            .into_iter()
            .map(|setter| setter.join().unwrap())
            .collect()
    });
    let set: u64 = all.iter().map(|(set, _)| set).sum();
    let refused: u64 = all.iter().map(|(_, refused)| refused).sum();
    println!("{set} set, {refused} refused");
    assert_eq!(refused, 0, "of {set}");
    let stats = cache.stats().unwrap();
    assert!(set > 1_000 && stats.evictions > 100, "{set} set, {stats:?}");
    assert!(cache.check().unwrap().is_sound());
}

/// One after the other, more than there is room for, and few of them as long as a quarter of all.
#[test]
fn no_value_of_a_cycle_is_refused_where_others_may_go() {
    const LIMIT: u64 = 4_750_501;
    let _alone = alone("size limit");
    for policy in [Eviction::GreedyDual, Eviction::LeastRecentlyUsed] {
        let options = Cache::options().size_limit(LIMIT).capacity(11_800);
        let (_dir, cache) = store_with(&options.eviction(policy));
        // Log-normal, with a median of 300 and a mean of some 1,150.
        let mut random = Random::new(4);
        let mut normal = || {
            let sum: u64 = (0..12).map(|_| random.below(1_000_001)).sum();
            sum as f64 / 1e6 - 6.0
        };
        let lengths: Vec<usize> = (0..8_000)
            .map(|_| (300.0 * (1.64 * normal()).exp()) as usize)
            .collect();
        let lengths: Vec<usize> = lengths.into_iter().map(|len| len.min(1 << 20)).collect();
        let longest = lengths.iter().max().unwrap();
        assert!(*longest > 50_000);
        let refused = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (cache, lengths, refused) = (&cache, &lengths, &refused);
                scope.spawn(move || {
                    for at in (thread..3 * lengths.len()).step_by(2) {
                        let key = at % lengths.len();
                        // Some are as long as any may be.
                        let len = match key % 500 {
                            0 => 1 << 20,
                            _ => lengths[key],
                        };
                        if !cache.contains(format!("{key}")).unwrap() {
                            let some = refusals(cache, format!("{key}"), len);
                            refused.fetch_add(some, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(refused.into_inner(), 0, "{policy}");
        assert!(cache.check().unwrap().is_sound());
    }
}

#[test]
fn a_value_that_is_too_long_is_refused_before_anything_goes_for_it() {
    let (_dir, cache) = full_of_64_mib();
    let before = cache.stats().unwrap();
    let keys = cache.len().unwrap();
    let limit = cache.config().unwrap().value_limit;
    assert_eq!(limit, 16 << 20);
    let refused = |result: Result<(), Error>| match result {
        Err(Error::ValueLength { len, limit: told }) => {
            assert_eq!((len, told), (56 << 20, limit));
        }
        other => panic!("{other:?}"),
    };
    let long = vec![7; 56 << 20];
    refused(cache.set("long", &long));
    refused(cache.transact_as(|t| t.set("long", &long)));
    assert_eq!(cache.stats().unwrap().evictions, before.evictions);
    assert_eq!(cache.len().unwrap(), keys);
    // If it may be as long as that, it is set the first time, each time.
    cache
        .configure(&Limits::new().value_limit(64 << 20))
        .unwrap();
    for _ in 0..3 {
        cache.set("long", &long).unwrap();
        assert!(cache.get("long").unwrap().is_some_and(|got| got == long));
        (0..100).for_each(|n| cache.set(format!("other {n}"), vec![1; 300_000]).unwrap());
    }
    let named = |bytes| Cache::options().value_limit(bytes).open(cache.path());
    assert!(named(64 << 20).is_ok());
    assert!(matches!(
        named(32 << 20),
        Err(Error::ConfigMismatch {
            what: "value_limit",
            ..
        })
    ));
    let small = cache.configure(&Limits::new().value_limit(4_095));
    assert!(matches!(small, Err(Error::Invalid { .. })));
    // Never more than all may take; who asks for more than that has asked for it.
    cache
        .configure(&Limits::new().size_limit(32 << 20))
        .unwrap();
    assert_eq!(cache.config().unwrap().value_limit, 32 << 20);
    assert!(named(64 << 20).is_ok() && named(16 << 20).is_err());
}

/// Whoever was making room for a large value, and said so, may have died.
#[test]
fn nobody_leaves_room_for_a_dead_process() {
    let _alone = alone("size limit");
    let (dir, cache, keys) = full_of(20_000);
    let (_, before) = replace(&cache, 0..keys, 2, 20_000);
    let live = cache.stats().unwrap().bytes_live;
    dir.poke(layout::WANTED, &(LIMIT / 2).to_le_bytes());
    let (refused, after) = replace(&cache, 0..keys, 2, 20_000);
    assert_eq!((refused, dir.word(layout::WANTED)), (0, 0));
    println!("the longest wait {before:?}, then {after:?}");
    assert!(after < WAIT + MARGIN, "{after:?}");
    let left = cache.stats().unwrap().bytes_live;
    assert!(left > live / 4 * 3, "{left} of {live} bytes are left");
}

/// Only what lies where that value does, or did, cannot be compacted.
#[test]
fn who_is_stopped_with_a_value_takes_no_room_from_anybody() {
    let _alone = alone("size limit");
    for eviction in [Eviction::None, Eviction::LeastRecentlyStored] {
        let (dir, cache) = store_with(&Cache::options().size_limit(LIMIT).eviction(eviction));
        cache.set("latched", vec![1; 3_000]).unwrap();
        for key in 0..8_usize {
            cache.set(format!("large {key}"), vec![7; 200_000]).unwrap();
        }
        let mut child = Child::start("latcher", dir.root(), &[]);
        child.expect("latched");
        let (refused, longest) = replace(&cache, 0..20, 30, 40_000);
        assert_eq!(refused, 0, "{eviction:?}");
        assert!(longest < WAIT + MARGIN, "{longest:?}");
        for key in 0..8_usize {
            assert!(cache.contains(format!("large {key}")).unwrap());
        }
        child.tell("go on");
        child.expect("done");
        child.finish();
        assert!(blocks(cache.path()) <= LIMIT + SEGMENT);
        assert!(cache.check().unwrap().is_sound());
    }
}

/// Nothing can be compacted, for however long.
#[test]
fn who_is_stopped_while_compacting_keeps_nobody_waiting_for_room() {
    let _alone = alone("size limit");
    for eviction in [Eviction::None, Eviction::LeastRecentlyStored] {
        let (_dir, cache) = store_with(&Cache::options().size_limit(LIMIT).eviction(eviction));
        for key in 0..8_usize {
            cache.set(format!("large {key}"), vec![7; 200_000]).unwrap();
        }
        let compacting = lock_stripes(cache.path(), 66..67);
        let (mut longest, mut refused) = (Duration::ZERO, 0);
        for round in 0..600_usize {
            let one = Stopwatch::start();
            match cache.set(format!("{}", round % 20), vec![round as u8; 40_000]) {
                Ok(()) => {}
                Err(Error::OverLimit { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            longest = longest.max(one.elapsed());
            assert!(blocks(cache.path()) <= LIMIT + SEGMENT);
            if refused > 20 {
                break;
            }
        }
        println!("{eviction:?}: {refused} refused, the longest wait {longest:?}");
        // The room was used up before that.
        assert!(refused > 0 && blocks(cache.path()) > LIMIT);
        assert!(longest < WAIT + MARGIN, "{longest:?}");
        // What is large, and gone at once when it is evicted, went before anything was refused.
        let may_go = eviction != Eviction::None;
        for key in 0..8_usize {
            assert_eq!(cache.contains(format!("large {key}")).unwrap(), !may_go);
        }
        drop(compacting);
        for round in 0..40_usize {
            cache
                .set(format!("{round}"), vec![round as u8; 40_000])
                .unwrap();
        }
        assert!(blocks(cache.path()) <= LIMIT + SEGMENT);
        assert!(cache.check().unwrap().is_sound());
    }
}

/// Sets values of keys that are there; how many times there was no room, and the longest wait.
fn replace(cache: &Cache, keys: Range<usize>, rounds: usize, len: usize) -> (usize, Duration) {
    let (mut refused, mut longest) = (0, Duration::ZERO);
    for round in 0..rounds {
        for key in keys.clone() {
            let one = Stopwatch::start();
            match cache.set(format!("{key}"), vec![round as u8; len]) {
                Ok(()) => {}
                Err(Error::OverLimit { .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            longest = longest.max(one.elapsed());
            assert!(blocks(cache.path()) <= LIMIT + SEGMENT);
        }
    }
    (refused, longest)
}

/// A store that is full of values of that length, whose keys are the first of those that there are.
fn full_of(len: usize) -> (Place, Cache, usize) {
    let (dir, cache) = store_with(&Cache::options().size_limit(LIMIT));
    let most = LIMIT as usize / 4 * 3 / len;
    // To give them a large one needs no stripe.
    assert_eq!(replace(&cache, 0..most * 2, 1, 0).0, 0);
    assert_eq!(replace(&cache, 0..most, 1, len).0, 0);
    (dir, cache, most)
}

/// Half of the values cannot go: others do. It waited for as long as somebody was stopped.
#[test]
fn who_is_stopped_with_stripes_keeps_nobody_waiting_who_can_evict_others() {
    let _alone = alone("size limit");
    for len in [40_000, 110_000] {
        let (_dir, cache, most) = full_of(len);
        let evictions = || cache.stats().unwrap().evictions;
        let (before, new) = (evictions(), most..most * 4 / 3);
        let stopped = lock_stripes(cache.path(), 0..32);
        let (refused, longest) = replace(&cache, new.clone(), 1, len);
        println!(
            "{} evicted, the longest wait {longest:?}",
            evictions() - before
        );
        assert_eq!(refused, 0);
        assert!(longest < WAIT + MARGIN, "{longest:?}");
        assert!(evictions() >= before + new.len() as u64 - 5);
        drop(stopped);
        assert_eq!(replace(&cache, 0..most, 2, len).0, 0);
        assert!(cache.check().unwrap().is_sound());
    }
}

/// Nothing else can go: who sets a value waits for that, and is told at last.
#[test]
fn who_is_stopped_with_all_stripes_keeps_nobody_waiting_for_ever() {
    let _alone = alone("size limit");
    let (_dir, cache, most) = full_of(40_000);
    let stopped = lock_stripes(cache.path(), 0..64);
    let (refused, longest) = replace(&cache, most..most + 2, 1, 40_000);
    assert!(
        refused > 0 && longest < Duration::from_secs(3),
        "{longest:?}"
    );
    // As somebody who looks at all stripes at once.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            drop(stopped);
        });
        assert_eq!(replace(&cache, most..most + 10, 1, 40_000).0, 0);
    });
}

/// No slot is left, either.
#[test]
fn who_is_stopped_with_stripes_keeps_nobody_waiting_who_can_have_other_slots() {
    let _alone = alone("size limit");
    let (_dir, cache) = store_with(&Cache::options().capacity(64));
    for key in 0..64 {
        cache.set(format!("{key}"), "value").unwrap();
    }
    let stopped = lock_stripes(cache.path(), 0..32);
    let mut longest = Duration::ZERO;
    let names = (0..).map(|n| format!("lock {n}"));
    for name in names.filter(|name| stripe(&cache, name) >= 32).take(20) {
        let one = Stopwatch::start();
        Lock::new(&cache, name).acquire().unwrap().into_token();
        longest = longest.max(one.elapsed());
    }
    println!("the longest wait {longest:?}");
    assert!(longest < MARGIN, "{longest:?}");
    assert!(cache.stats().unwrap().evictions >= 20);
    drop(stopped);
    assert!(cache.check().unwrap().is_sound());
}

/// Values that lie in slots count, too: those that are set go for others when there are too many,
/// with no other bound in the way, and the log leaves them that room.
#[test]
fn small_values_are_bounded_by_the_same_limit() {
    let _alone = alone("size limit");
    for eviction in [Eviction::GreedyDual, Eviction::LeastRecentlyUsed] {
        let options = Cache::options().size_limit(LIMIT).eviction(eviction);
        let (_dir, cache) = store_with(&options);
        // Each takes two slots of 192 bytes.
        let fit = LIMIT as usize / 384;
        for key in 0..3 * fit {
            cache.set(format!("{key}"), [7; 100]).unwrap();
        }
        let stats = cache.stats().unwrap();
        let used = stats.bytes_in_slots + stats.bytes_live + stats.bytes_garbage;
        assert!((LIMIT..=LIMIT + SEGMENT).contains(&used), "{stats:?}");
        assert!(stats.evictions >= fit as u64, "{stats:?}");
        let others = stats.evictions_for_keys + stats.evictions_for_device;
        assert_eq!(others, 0, "{stats:?}");
        assert!(blocks(cache.path()) < LIMIT + 2 * SEGMENT, "{stats:?}");
        assert!(cache.check().unwrap().is_sound());
        // Others of another size have room at once, and half of it in the end.
        let count = 400;
        for key in 0..count {
            cache.set(format!("large {key}"), vec![7; 20_000]).unwrap();
        }
        let large = (0..count).filter(|key| cache.contains(format!("large {key}")).unwrap());
        let bytes = large.count() as u64 * 20_000;
        assert!(bytes > LIMIT / 2 / 2, "{eviction:?}: {bytes}");
        let stats = cache.stats().unwrap();
        let used = stats.bytes_in_slots + stats.bytes_live + stats.bytes_garbage;
        assert!(used <= LIMIT + LIMIT / 8 + SEGMENT, "{stats:?}");
        assert!(cache.check().unwrap().is_sound());
    }
}

#[test]
fn small_values_that_may_not_go_are_refused_at_the_limit() {
    let _alone = alone("size limit");
    let options = Cache::options().size_limit(LIMIT).eviction(Eviction::None);
    let (_dir, cache) = store_with(&options);
    let set = |key: usize| cache.set(format!("{key}"), [7; 100]);
    let refused = (0..).find_map(|key| Some((key, set(key).err()?))).unwrap();
    let fit = (LIMIT + SEGMENT) as usize / 384;
    assert!((fit - 20..=fit).contains(&refused.0), "{refused:?}");
    assert!(matches!(refused.1, Error::OverLimit { limit: LIMIT, .. }));
    // What is there can be replaced, and what is deleted gives room.
    set(0).unwrap();
    assert!(cache.delete("1").unwrap() && cache.delete("2").unwrap());
    set(refused.0).unwrap();
    // Locks are no values.
    drop(Lock::new(&cache, "lock").acquire().unwrap());
}

/// Of a store with as many buckets as stripes.
#[allow(deprecated)]
fn stripe(cache: &Cache, key: &str) -> u64 {
    use std::hash::Hasher;
    let slab = std::fs::read(cache.path().join("slab")).unwrap();
    let [low, high] = [24, 32].map(|at| u64::from_le_bytes(slab[at..at + 8].try_into().unwrap()));
    let mut hasher = std::hash::SipHasher::new_with_keys(low, high);
    hasher.write(key.as_bytes());
    hasher.finish() & 63
}

/// Of who makes the slab longer: nothing is removed that was compacted.
#[test]
fn who_is_stopped_with_the_growth_keeps_nobody_waiting_for_room() {
    let _alone = alone("size limit");
    let (_dir, cache) = store_with(&Cache::options().size_limit(LIMIT).eviction(Eviction::None));
    assert_eq!(replace(&cache, 0..20, 1, 40_000).0, 0);
    let stopped = lock_stripes(cache.path(), 65..66);
    let begun = Stopwatch::start();
    let (refused, longest) = replace(&cache, 0..20, 11, 40_000);
    let each = begun.elapsed() / refused as u32;
    println!("{refused} refused, {each:?} each, the longest wait {longest:?}");
    assert!(each < 3 * WAIT && longest < WAIT + MARGIN, "{longest:?}");
    drop(stopped);
    assert_eq!(replace(&cache, 0..20, 11, 40_000).0, 0);
}

/// As another process would, which died before it had made the log fit.
fn lower_the_limit(store: &Path, from: u64, to: u64) {
    use std::os::unix::fs::FileExt;
    const SIZE_LIMIT: u64 = 264;
    const FALLING: u64 = 312;
    let slab = std::fs::OpenOptions::new()
        .write(true)
        .open(store.join("slab"))
        .unwrap();
    slab.write_all_at(&(from + SEGMENT).to_le_bytes(), FALLING)
        .unwrap();
    slab.write_all_at(&to.to_le_bytes(), SIZE_LIMIT).unwrap();
}

/// A store with more in its log than it is to have.
fn full_of_64_mib() -> (Place, Cache) {
    let (dir, cache) = store_with(&Cache::options().size_limit(64 << 20).capacity(10_000));
    for key in 0..3_000 {
        let value = vec![key as u8; 15_000];
        cache.set(format!("{key}"), value).unwrap();
    }
    (dir, cache)
}

#[test]
fn a_limit_that_was_lowered_is_come_to_step_by_step() {
    let _alone = alone("size limit");
    let (_dir, cache) = full_of_64_mib();
    let (mut before, mut longest, mut sets) = (blocks(cache.path()), Duration::ZERO, 0);
    assert!(before > 40 << 20);
    lower_the_limit(cache.path(), 64 << 20, LIMIT);
    while blocks(cache.path()) > LIMIT + SEGMENT {
        let one = Stopwatch::start();
        cache.set(format!("new {sets}"), vec![1; 15_000]).unwrap();
        longest = longest.max(one.elapsed());
        sets += 1;
        // Above what it was by what is moved and set before the next segment goes.
        let now = blocks(cache.path());
        assert!(now <= before + 3 * SEGMENT, "{now} after {before}");
        before = before.min(now);
        assert!(sets < 3_000, "{now}");
    }
    println!("{sets} sets, the longest wait {longest:?}");
    assert!(longest < WAIT + MARGIN, "{longest:?}");
    assert!(cache.contains(format!("new {}", sets - 1)).unwrap());
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn who_lowers_the_limit_makes_the_log_fit() {
    let _alone = alone("size limit");
    let (_dir, cache) = full_of_64_mib();
    assert!(blocks(cache.path()) > 40 << 20);
    let lower = Limits::new().size_limit(LIMIT);
    cache.configure(&lower).unwrap();
    let now = blocks(cache.path());
    assert!(now <= LIMIT + SEGMENT, "{now}");
    assert!(cache.contains("2999").unwrap());
    assert!(cache.check().unwrap().is_sound());
}

/// What a transaction has latched itself is moved by it: it sets four times as much as the log may
/// take.
#[test]
fn a_transaction_compacts_past_what_it_has_latched() {
    let _alone = alone("size limit");
    let options = Cache::options().size_limit(4 << 20);
    let (_dir, cache) = store_with(&options.eviction(Eviction::None));
    for key in 0..60 {
        cache.set(format!("{key}"), vec![key; 20_000]).unwrap();
    }
    let mut longest = Duration::ZERO;
    let set_all = cache.transact_as(|t| {
        // Nothing leads to it before the end, and its segment is compacted.
        t.set("once", vec![77; 20_000])?;
        (0..15).try_for_each(|round: u8| {
            (0..60).try_for_each(|key: u8| {
                let one = Stopwatch::start();
                let set = t.set(format!("{key}"), vec![key ^ round; 20_000]);
                longest = longest.max(one.elapsed());
                set
            })
        })
    });
    set_all.unwrap();
    println!("the longest wait {longest:?}");
    assert!(longest < WAIT + MARGIN, "{longest:?}");
    for key in 0..60 {
        let got = cache.get(format!("{key}")).unwrap();
        assert!(got == Some(vec![key ^ 14; 20_000]));
    }
    assert!(cache.get("once").unwrap() == Some(vec![77; 20_000]));
    assert!(cache.check().unwrap().is_sound());
    assert_eq!(cache.stats().unwrap().damaged, 0);
}
