//! A `FanoutCache` of 256 shards, with 1,024 descriptors.

use std::fs;
use std::time::Instant;

use slablock::{Cache, Error, FanoutCache, Lock};

use crate::kit::{Place, Role, alone, exit_now, fork, reap_well, run, until};
use crate::{Gate, took};

const ALL: usize = 256;
/// So many that none of the shards is without one: the chance is below one in ten million.
const KEYS: u64 = 6_000;
const PROCESSES: u64 = 3;
/// How many keys a transaction changes, in nearly all shards.
const TOGETHER: u64 = 1_000;
const TRANSACTIONS: u64 = 5;

// What the numbers on the board are.
const READY: usize = 0;

#[test]
fn as_many_shards_as_there_can_be_are_used_by_several_processes() {
    let _alone = alone("shards");
    let dir = Place::new();
    run("shards", dir.root(), &[]);
}

fn open(role: &Role) -> Cache {
    FanoutCache::open(role.store(), ALL).unwrap()
}

fn lock(cache: &Cache, n: u64) -> Lock {
    Lock::new(cache, format!("lock {n}"))
}

/// What each of the processes does: values, transactions over all shards, and its third of the
/// locks.
fn use_all_shards(cache: &Cache, me: u64) {
    for n in (0..KEYS).filter(|n| n % PROCESSES == me) {
        cache.set(format!("value {n}"), n.to_string()).unwrap();
    }
    for _ in 0..TRANSACTIONS {
        let add = |n: u64| format!("sum {n}");
        cache
            .transact_as(|t| (0..TOGETHER).try_for_each(|n| t.incr(add(n), 1).map(drop)))
            .unwrap();
    }
    for n in (0..KEYS).filter(|n| n % PROCESSES == me) {
        let lock = lock(cache, n);
        std::mem::forget(lock.try_acquire().unwrap().unwrap().into_owned());
    }
}

pub fn shards(role: &Role) {
    let board = role.board();
    let mut gate = Gate::new();
    let begun = Instant::now();
    let users: Vec<_> = (0..PROCESSES)
        .map(|me| {
            fork(|| {
                gate.keep_out();
                let cache = open(role);
                use_all_shards(&cache, me);
                board.add(READY, 1);
                gate.wait();
                exit_now(0)
            })
        })
        .collect();
    until("all have used it", || board.get(READY) == PROCESSES);
    took("three processes make and use 256 shards", begun, 1);
    let begun = Instant::now();
    let cache = open(role);
    took("opening 256 shards", begun, 1);
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    eprintln!("descriptors: {open}");
    let all_locks = |is_held: bool| {
        let held = |n: &u64| lock(&cache, *n).try_acquire().unwrap().is_none();
        assert_eq!(
            (0..KEYS).filter(held).count(),
            [0, KEYS as usize][usize::from(is_held)]
        );
    };
    all_locks(true);
    all_is_there(&cache, role);
    gate.open();
    users.iter().for_each(|user| reap_well(*user));
    for n in 0..KEYS {
        let lock = lock(&cache, n);
        let guard = lock.try_acquire().unwrap().unwrap();
        let dead = guard.recovered().expect("who died is told");
        assert_eq!(dead.pid as i32, users[(n % PROCESSES) as usize].as_raw());
    }
    all_locks(false);
    all_is_there(&cache, role);
    // A child of a fork has as many descriptors to open.
    reap_well(fork(|| {
        use_all_shards(&cache, 0);
        assert_eq!(cache.get("sum 0").unwrap(), Some(b"20".to_vec()));
    }));
}

fn all_is_there(cache: &Cache, role: &Role) {
    for n in 0..KEYS {
        let value = cache.get(format!("value {n}")).unwrap();
        assert_eq!(value, Some(n.to_string().into_bytes()));
    }
    for n in 0..TOGETHER {
        let sum = cache.get(format!("sum {n}")).unwrap();
        assert_eq!(
            sum,
            Some((PROCESSES * TRANSACTIONS).to_string().into_bytes())
        );
    }
    let begun = Instant::now();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    took("check of 256 shards", begun, 1);
    assert_eq!(cache.len().unwrap() as u64, 2 * KEYS + TOGETHER);
    assert_eq!(cache.shards(), ALL);
    for shard in 0..ALL {
        let reader = Cache::reader(role.store().join(format!("{shard:03}"))).unwrap();
        let keys = reader.keys().unwrap();
        let of = |kind: &[u8]| keys.iter().any(|info| info.key.starts_with(kind));
        assert!(of(b"value ") && of(b"lock "), "{shard}");
    }
}

#[test]
fn one_shard_too_many_is_refused() {
    let _alone = alone("a shard too many");
    let place = Place::new();
    for wrong in [0, ALL + 1, usize::MAX] {
        let words = ["1 to 256 shards", &wrong.to_string()];
        assert_error!(
            FanoutCache::open(place.store(), wrong),
            Error::Invalid { .. },
            words
        );
    }
    assert!(!place.store().exists());
    FanoutCache::open(place.store(), 3).unwrap();
    let words = ["1 to 256 shards", "257"];
    assert_error!(
        FanoutCache::open(place.store(), ALL + 1),
        Error::Invalid { .. },
        words
    );
}
