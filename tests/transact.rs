//! Several values changed all or not at all.

#![allow(missing_docs)]

mod kit;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kit::{Child, Place, Role, Watchdog, hear, say, store_with};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use slablock::{
    Averager, Cache, Error, Eviction, FanoutCache, Lock, Result, SetOptions, Transaction,
};

#[test]
fn child_role() {
    if let Some(role) = Role::of_this_process() {
        assert_eq!(role.name, "reads_what_is_not_there");
        reads_what_is_not_there(&role);
    }
}

/// In a transaction, until it is told to end.
fn reads_what_is_not_there(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let work = |t: &mut Transaction<'_>| -> Result<()> {
        assert_eq!(t.get("not there")?, None);
        assert!(!t.delete("nor this")?);
        say("read");
        hear();
        assert_eq!(t.get("not there")?, None);
        t.incr("seen", 1).map(drop)
    };
    cache.transact_as(work).unwrap();
    hear();
}

fn cache() -> (Place, Cache) {
    store_with(&Cache::options())
}

fn fanout() -> (Place, Cache) {
    let dir = Place::new();
    let cache = FanoutCache::open(dir.store(), 4).unwrap();
    (dir, cache)
}

#[test]
fn all_is_changed_and_seen_within() {
    let (_dir, cache) = cache();
    cache.set("old", "1").unwrap();
    let large = vec![7; 5_000];
    let seen = cache
        .transact_as(|t| -> Result<_> {
            assert_eq!(t.get("old")?, Some(&b"1"[..]));
            assert_eq!(t.get("new")?, None);
            t.set("new", "2")?;
            t.set("large", &large)?;
            assert_eq!(t.get("large")?, Some(&large[..]));
            assert_eq!(t.incr("count", 5)?, 5);
            assert!(t.delete("old")?);
            assert!(!t.delete("old")?);
            // Nobody else sees any of it yet.
            assert_eq!(cache.get("old")?.as_deref(), Some(&b"1"[..]));
            assert_eq!(cache.get("new")?, None);
            assert_eq!(cache.get("large")?, None);
            Ok(t.get("new")?.map(<[u8]>::to_vec))
        })
        .unwrap();
    assert_eq!(seen.as_deref(), Some(&b"2"[..]));
    assert_eq!(cache.get("old").unwrap(), None);
    assert_eq!(cache.get("new").unwrap().as_deref(), Some(&b"2"[..]));
    assert!(cache.get("large").unwrap() == Some(large));
    assert_eq!(cache.get("count").unwrap().as_deref(), Some(&b"5"[..]));
    assert_eq!(cache.len().unwrap(), 3);
    assert!(cache.check().unwrap().is_sound());
}

/// The list of what a transaction changes is garbage once that is done: all of it, so that its
/// segment goes one day.
#[test]
fn nothing_in_the_log_is_needed_for_what_is_done() {
    const HEADER_OF_A_SEGMENT: u64 = 48;
    let (_dir, cache) = cache();
    for changed in [1, 2, 3, 50] {
        cache
            .transact_as(|t| -> Result<_> {
                (0..changed).try_for_each(|n| t.set(format!("{n}"), "1"))
            })
            .unwrap();
        let stats = cache.stats().unwrap();
        assert_eq!(stats.bytes_live, HEADER_OF_A_SEGMENT, "{changed} changed");
        assert!(stats.bytes_garbage > 0);
    }
}

#[test]
fn an_error_and_a_panic_undo_everything() {
    let (_dir, cache) = cache();
    cache.set("a", "1").unwrap();
    let failed = cache.transact_as(|t| {
        t.set("a", vec![1; 1_000])?;
        t.set("b", "2")?;
        t.set("a", "not an integer")?;
        t.incr("a", 1)
    });
    assert!(matches!(failed, Err(Error::NotInteger { .. })));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        cache.transact_as(|t| -> Result<()> {
            t.delete("a")?;
            t.set("b", "2")?;
            panic!("in the middle");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(cache.get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(cache.get("b").unwrap(), None);
    // And nothing is left locked.
    cache.set("a", "2").unwrap();
    cache.transact_as(|t| t.set("b", "3")).unwrap();
    let stats = cache.stats().unwrap();
    assert!(stats.bytes_live < 500, "{stats:?}");
    assert!(cache.check().unwrap().is_sound());
}

#[test]
#[allow(unsafe_code)]
fn the_child_of_a_fork_has_no_part_in_it() {
    let (_dir, cache) = cache();
    cache.set("a", "1").unwrap();
    let result = cache.transact_as(|t| -> Result<()> {
        t.set("a", "2")?;
        t.set("large", vec![7; 5_000])?;
        // SAFETY: the child uses this thread and what it owns only, and ends.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let refused = matches!(t.set("a", "3"), Err(Error::NotHolder { .. }));
                let reads = cache.get("a").unwrap().as_deref() == Some(b"1");
                let works = cache.set("child", "was here").is_ok();
                // Drops what it inherited on the way out.
                Err(Error::Invalid {
                    what: format!("{refused} {reads} {works}"),
                })
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
                assert_eq!(cache.get("child")?.as_deref(), Some(&b"was here"[..]));
                Ok(())
            }
        }
    });
    if let Err(Error::Invalid { what }) = &result {
        // SAFETY: it has no preconditions.
        unsafe { nix::libc::_exit(i32::from(what != "true true true")) }
    }
    result.unwrap();
    assert_eq!(cache.get("a").unwrap().as_deref(), Some(&b"2"[..]));
    let stats = cache.stats().unwrap();
    assert!(stats.bytes_garbage < 1_000, "{stats:?}");
    assert!(cache.check().unwrap().is_sound());
}

/// Money is moved about, and whoever looks finds all of it.
macro_rules! nothing_is_lost {
    ($name:ident, $place:expr) => {
        #[test]
        fn $name() {
            let (_dir, cache) = $place;
            let account = |n: usize| format!("account {n}");
            for n in 0..8 {
                cache.set(account(n), "100").unwrap();
            }
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let movers: Vec<_> = (0..3)
                    .map(|mover| {
                        let cache = &cache;
                        scope.spawn(move || {
                            for i in 0..300 {
                                let (from, to) = ((i * 5 + mover) % 8, (i * 3 + mover * 2 + 1) % 8);
                                cache
                                    .transact_as(|t| -> Result<()> {
                                        t.incr(account(from), -7)?;
                                        t.incr(account(to), 7)?;
                                        if i % 10 == 0 {
                                            t.set("note", vec![i as u8; 2_000])?;
                                        }
                                        Ok(())
                                    })
                                    .unwrap();
                            }
                        })
                    })
                    .collect();
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        // Others change single ones in between.
                        cache.incr("outside", 1).unwrap();
                        let sum: i64 = cache
                            .transact_as(|t| -> Result<i64> {
                                let mut sum = 0;
                                for n in 0..8 {
                                    sum += t.incr(account(n), 0)?;
                                }
                                Ok(sum)
                            })
                            .unwrap();
                        assert_eq!(sum, 800);
                    }
                });
                for mover in movers {
                    mover.join().unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            assert!(cache.check().unwrap().is_sound());
        }
    };
}

nothing_is_lost!(nothing_is_lost_in_a_cache, cache());
nothing_is_lost!(nothing_is_lost_in_a_fanout, fanout());

/// Two values that are always set together, read one after the other without a transaction: the
/// second is never older than the first.
#[test]
fn readers_see_no_change_without_the_others() {
    let (_dir, cache) = fanout();
    let number = |key: &str| -> u64 {
        let value = cache.get(key).unwrap().unwrap_or(b"0".to_vec());
        std::str::from_utf8(&value).unwrap().parse().unwrap()
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (first, second) in [("x", "y"), ("y", "x")] {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let (before, after) = (number(first), number(second));
                    assert!(before <= after, "{first} {before}, {second} {after}");
                }
            });
        }
        for i in 1..2_000 {
            let set = cache.transact_as(|t| {
                t.set("x", i.to_string())?;
                t.set("y", i.to_string())
            });
            set.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// What could not be set is as it was, also for who goes on with the rest.
#[test]
fn a_change_that_fails_changes_nothing() {
    let dir = Place::new();
    const LIMIT: u64 = 4 << 20;
    let options = Cache::options().size_limit(LIMIT).value_limit(LIMIT);
    let cache = options.eviction(Eviction::None).open(dir.store()).unwrap();
    let large = vec![7; 5_000];
    cache.set("small", "old").unwrap();
    cache.set("large", &large).unwrap();
    cache
        .transact_as(|t| -> Result<()> {
            for key in ["small", "large", "new"] {
                let failed = t.set(key, vec![1; LIMIT as usize]);
                assert!(matches!(failed, Err(Error::OverLimit { .. })));
            }
            assert_eq!(t.get("small")?, Some(&b"old"[..]));
            assert_eq!(t.get("new")?, None);
            t.set("other", "set")
        })
        .unwrap();
    assert_eq!(cache.get("other").unwrap().as_deref(), Some(&b"set"[..]));
    assert_eq!(cache.get("small").unwrap().as_deref(), Some(&b"old"[..]));
    assert_eq!(cache.get("large").unwrap(), Some(large));
    assert_eq!(cache.get("new").unwrap(), None);
    assert!(cache.check().unwrap().is_sound());
}

/// A handle keeps a shard open beyond its cache, which is opened anew beside it.
#[test]
fn a_fanout_that_is_opened_again_beside_a_handle_changes_all() {
    let (dir, cache) = fanout();
    let lock = slablock::Lock::new(&cache, "some lock");
    drop(cache);
    let cache = FanoutCache::open(dir.store(), 4).unwrap();
    cache
        .transact_as(|t| -> Result<()> {
            (0..16).try_for_each(|key| t.set(format!("{key}"), "set"))
        })
        .unwrap();
    for key in 0..16 {
        let value = cache.get(format!("{key}")).unwrap();
        assert_eq!(value.as_deref(), Some(&b"set"[..]), "{key}");
    }
    drop(lock);
}

#[test]
fn a_shard_that_is_opened_alone_has_no_transactions() {
    let (dir, cache) = fanout();
    drop(cache);
    let shard = Cache::open(dir.root().join("store/002")).unwrap();
    let refused = shard.transact_as(|t| t.set("a", "1"));
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    shard.set("a", "1").unwrap();
    assert!(shard.check().unwrap().is_sound());
}

/// Inside a transaction what would wait for its end is an error; other threads wait, and what the
/// transaction has not touched can be changed.
#[test]
fn a_thread_does_not_wait_for_its_own_transaction() {
    let _watchdog = Watchdog::new("a_thread_does_not_wait_for_its_own_transaction");
    let (_dir, one) = cache();
    let (_other_dir, shards) = fanout();
    let (_third_dir, elsewhere) = cache();
    macro_rules! refused {
        ($result:expr) => {
            let result = $result;
            assert!(matches!(result, Err(Error::Deadlock { .. })), "{result:?}");
        };
    }
    macro_rules! try_in {
        ($cache:expr) => {
            let cache = $cache;
            cache.set("read", "1").unwrap();
            cache
                .transact_as(|t| -> Result<()> {
                    assert_eq!(t.get("read")?, Some(&b"1"[..]));
                    t.set("set", "2")?;
                    for key in ["read", "set"] {
                        refused!(cache.set(key, "3"));
                        refused!(cache.set(key, vec![3; 10_000]));
                        refused!(cache.incr(key, 1));
                    }
                    assert_eq!(t.get("nothing")?, None);
                    refused!(cache.set("nothing", "3"));
                    for key in ["set", "nothing"] {
                        refused!(Lock::new(cache, key).acquire().map(drop));
                        refused!(Averager::new(cache, key).add(1.0));
                    }
                    refused!(cache.delete("read"));
                    refused!(cache.remove("read"));
                    refused!(cache.clear());
                    refused!(cache.transact_as(|t| t.set("inside", "4")));
                    refused!(
                        cache.get_or_insert_as("set", &SetOptions::new(), || {
                            Result::Ok(vec![5])
                        })
                    );
                    assert_eq!(cache.get("read")?.as_deref(), Some(&b"1"[..]));
                    cache.set("untouched", "6")?;
                    elsewhere.transact_as(|t| t.set("elsewhere", "7"))?;
                    std::thread::scope(|scope| {
                        let other = scope.spawn(|| cache.set("by another thread", "8"));
                        other.join().unwrap()
                    })?;
                    t.incr("set", 1)?;
                    Ok(())
                })
                .unwrap();
            assert_eq!(cache.get("set").unwrap().as_deref(), Some(&b"3"[..]));
            assert_eq!(cache.get("untouched").unwrap().as_deref(), Some(&b"6"[..]));
            // It is over.
            cache.set("read", "9").unwrap();
            cache.transact_as(|t| t.set("set", "10")).unwrap();
            assert!(cache.check().unwrap().is_sound());
        };
    }
    try_in!(&one);
    try_in!(&shards);
}

/// Reading makes no key: it evicts nothing, and needs no room.
#[test]
fn what_is_not_there_is_read_without_making_it() {
    const CAPACITY: usize = 256;
    for policy in [Eviction::GreedyDual, Eviction::None] {
        let options = Cache::options().capacity(CAPACITY).eviction(policy);
        let (_dir, cache) = store_with(&options);
        for n in 0..CAPACITY {
            cache.set(format!("value {n}"), "small").unwrap();
        }
        assert_eq!(cache.check().unwrap().slots_used, CAPACITY);
        let keys = cache.len().unwrap();
        let read = cache.transact_as(|t| -> Result<()> {
            for n in 0..1_000 {
                assert_eq!(t.get(format!("absent {n}"))?, None);
                assert_eq!(t.get(format!("absent {n}"))?, None);
                assert!(!t.delete(format!("absent, too {n}"))?);
            }
            Ok(())
        });
        read.unwrap();
        let stats = cache.stats().unwrap();
        assert_eq!((cache.len().unwrap(), stats.evictions), (keys, 0));
        // And no mark is left.
        let deleted = cache.delete("value 0").unwrap();
        assert!(deleted && cache.set("absent 0", "1").is_ok());
        assert!(cache.check().unwrap().is_sound());
    }
}

#[test]
fn nobody_makes_what_a_transaction_did_not_find_before_it_ends() {
    let _watchdog = Watchdog::new("nobody_makes_what_a_transaction_did_not_find_before_it_ends");
    for (dir, cache) in [cache(), fanout()] {
        for is_killed in [false, true] {
            let mut child = Child::start("reads_what_is_not_there", dir.root(), &[]);
            child.expect("read");
            // Whoever will not wait is told what is in the way.
            let lock = Lock::new(&cache, "not there");
            let busy = lock.try_acquire();
            assert!(
                matches!(&busy, Err(Error::StructureBusy { pids, .. }) if
                *pids == [child.pid().as_raw() as u32]),
                "{busy:?}"
            );
            cache.set("something else", "1").unwrap();
            let (ended, made) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                for key in ["not there", "nor this"] {
                    let (cache, ended, made) = (&cache, &ended, &made);
                    scope.spawn(move || {
                        cache.set(key, "1").unwrap();
                        assert!(ended.load(Ordering::SeqCst));
                        made.fetch_add(1, Ordering::SeqCst);
                    });
                }
                std::thread::sleep(Duration::from_millis(100));
                assert_eq!(made.load(Ordering::SeqCst), 0);
                ended.store(true, Ordering::SeqCst);
                match is_killed {
                    true => child.kill(),
                    false => child.tell("end"),
                }
            });
            let seen = cache.pop("seen").unwrap();
            assert_eq!(seen.is_some(), !is_killed);
            cache.remove("not there").unwrap();
            cache.remove("nor this").unwrap();
            assert!(cache.check().unwrap().is_sound());
            // A mark that the dead one left is not waited for, nor does it stay.
            drop(lock.try_acquire().unwrap().expect("nobody has it"));
            cache.remove("not there").unwrap();
        }
    }
}

/// However many it did not find, nobody waits who makes another key, and no lock is busy.
#[test]
fn whoever_makes_another_key_waits_for_no_transaction() {
    let _watchdog = Watchdog::new("whoever_makes_another_key_waits_for_no_transaction");
    for (_dir, cache) in [cache(), fanout()] {
        let done = cache.transact_as(|t| -> Result<()> {
            // More than there is room to note.
            for n in 0..3_000 {
                assert_eq!(t.get(format!("absent {n}"))?, None);
            }
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    for n in 0..500 {
                        cache.set(format!("other {n}"), "1").unwrap();
                        let lock = Lock::new(&cache, format!("lock {n}"));
                        drop(lock.try_acquire().unwrap().expect("nobody has it"));
                    }
                });
                other.join().unwrap();
            });
            for n in 0..3_000 {
                assert_eq!(t.get(format!("absent {n}"))?, None);
            }
            Ok(())
        });
        done.unwrap();
        cache.set("absent 0", "1").unwrap();
        assert!(cache.check().unwrap().is_sound());
    }
}

/// What a transaction did not find it may set itself, also after that could not be done.
#[test]
fn what_was_not_found_can_be_set_by_the_same_transaction() {
    for (_dir, cache) in [cache(), fanout()] {
        let set = cache.transact_as(|t| -> Result<()> {
            assert_eq!(t.get("a")?, None);
            let long = t.set_with("a", "1", &SetOptions::new().tag([7; 256]));
            assert!(matches!(long, Err(Error::TagLength { .. })), "{long:?}");
            assert_eq!(t.get("a")?, None);
            assert!(matches!(cache.set("a", "2"), Err(Error::Deadlock { .. })));
            t.set("a", "3")?;
            assert!(matches!(cache.set("a", "4"), Err(Error::Deadlock { .. })));
            assert_eq!(t.get("a")?, Some(&b"3"[..]));
            assert!(t.delete("a")?);
            assert_eq!(t.incr("a", 5)?, 5);
            Ok(())
        });
        set.unwrap();
        assert_eq!(cache.get("a").unwrap().as_deref(), Some(&b"5"[..]));
        cache.set("a", "6").unwrap();
        assert!(cache.check().unwrap().is_sound());
    }
}
