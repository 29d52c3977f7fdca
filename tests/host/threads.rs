//! Threads that end, and threads with small stacks.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use nix::libc;
use nix::unistd::Pid;
use slablock::{Cache, Error, FanoutCache, Lock, RLock};

use crate::kit::layout::{BOOT_ID, STATE};
use crate::kit::{Place, Watchdog, child, fork, reap_well, role, succeeds, unshared, until};
use crate::programs::use_everything;

/// Runs at the end of its thread.
struct AtTheEnd(Option<Box<dyn FnOnce()>>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last();
        }
    }
}

thread_local! {
    static LAST: RefCell<AtTheEnd> = const { RefCell::new(AtTheEnd(None)) };
}

/// When a destructor runs, as to the library's own thread-local variables.
#[derive(Clone, Copy, Debug)]
enum When {
    /// They are there yet.
    Before,
    /// They were destroyed.
    After,
    /// The program is in C: after all of Rust's.
    InC,
}

/// What a destructor of `pthread_key_create` does.
extern "C" fn call(work: *mut libc::c_void) {
    // SAFETY: it came from `Box::into_raw` in `at_the_end`, and is called once.
    let work = unsafe { Box::from_raw(work.cast::<Box<dyn FnOnce()>>()) };
    work();
}

fn at_the_end(when: When, work: impl FnOnce() + 'static) {
    let work: Box<dyn FnOnce()> = Box::new(work);
    match when {
        When::Before | When::After => LAST.with(|last| last.borrow_mut().0 = Some(work)),
        When::InC => {
            let mut key = 0;
            let work = Box::into_raw(Box::new(work)).cast();
            // SAFETY: the destructor gets what is set here, once.
            let made = unsafe {
                libc::pthread_key_create(&mut key, Some(call))
                    | libc::pthread_setspecific(key, work)
            };
            assert_eq!(made, 0);
        }
    }
}

/// Has a thread do something with the store, and then `last` in a destructor; in a process of its
/// own, which has to end well.
fn in_a_destructor(when: When, store: &Path, last: fn(&Cache)) -> Pid {
    fork(|| {
        let cache = Arc::new(Cache::open(store).unwrap());
        let thread = std::thread::spawn(move || {
            // Variables are destroyed in the opposite order of their first use.
            if !matches!(when, When::Before) {
                LAST.with(|_| {});
            }
            use_everything(&cache).unwrap();
            let mine = Arc::clone(&cache);
            at_the_end(when, move || last(&mine));
        });
        thread.join().unwrap();
    })
}

const ALL: [When; 3] = [When::Before, When::After, When::InC];

#[test]
fn every_operation_works_in_a_thread_local_destructor() {
    let _watchdog = Watchdog::new("destructor");
    for when in ALL {
        let place = Place::new();
        let cache = place.open();
        let done = in_a_destructor(when, &place.store(), |cache| {
            use_everything(cache).unwrap();
            // A store that this thread opens, and closes.
            let again = Cache::open(cache.path()).unwrap();
            use_everything(&again).unwrap();
            cache.set("done", "well").unwrap();
        });
        reap_well(done);
        assert_eq!(cache.get("done").unwrap().unwrap(), b"well", "{when:?}");
        assert!(cache.check().unwrap().is_sound());
    }
}

#[test]
fn a_guard_is_given_back_by_a_thread_local_destructor() {
    let _watchdog = Watchdog::new("guards");
    for when in ALL {
        let place = Place::new();
        let store = place.store();
        reap_well(fork(|| {
            let cache = Cache::open(store).unwrap();
            let (lock, rlock) = (Lock::new(&cache, "k"), RLock::new(&cache, "r"));
            let theirs = (lock.clone(), rlock.clone());
            let thread = std::thread::spawn(move || {
                if !matches!(when, When::Before) {
                    LAST.with(|_| {});
                }
                let guards = (
                    theirs.0.acquire().unwrap().into_owned(),
                    theirs.1.acquire().unwrap().into_owned(),
                    theirs.1.acquire().unwrap().into_owned(),
                );
                at_the_end(when, move || drop(guards));
            });
            thread.join().unwrap();
            assert!(lock.try_acquire().unwrap().is_some(), "{when:?}");
            assert!(rlock.try_acquire().unwrap().is_some(), "{when:?}");
        }));
    }
}

/// It starts the thread that watches the holder, and sleeps.
#[test]
fn a_thread_local_destructor_can_wait_for_another_process() {
    let _watchdog = Watchdog::new("waiting");
    for when in ALL {
        let place = Place::new();
        let cache = place.open();
        let guard = Lock::new(&cache, "theirs").acquire().unwrap().into_owned();
        let waiter = in_a_destructor(when, &place.store(), |cache| {
            drop(Lock::new(cache, "theirs").acquire().unwrap());
        });
        until("the holder is watched", || {
            let tasks = fs::read_dir(format!("/proc/{waiter}/task")).unwrap();
            let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
            let mut names = names.map(Result::unwrap_or_default);
            names.any(|name| name.trim() == "slablock-watch")
        });
        drop(guard);
        reap_well(waiter);
    }
}

#[test]
fn who_waits_for_itself_is_told_in_a_thread_local_destructor_too() {
    let _watchdog = Watchdog::new("nested");
    for when in ALL {
        let place = Place::new();
        drop(place.open());
        reap_well(in_a_destructor(when, &place.store(), |cache| {
            let nested = cache.transact_as(|_| {
                let inner = cache.transact_as(|t| t.set("a", "b"));
                assert_error!(inner, Error::Deadlock { .. }, ["this thread"]);
                slablock::Result::Ok(())
            });
            nested.unwrap();
        }));
    }
}

/// As small as threads of embedded programs are.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(64 << 10);
    thread.spawn(test).unwrap().join().unwrap();
}

fn large(n: u8) -> Vec<u8> {
    vec![n; 3_000_000]
}

#[test]
fn a_stack_of_64_kib_is_enough_to_open_any_store_and_use_it() {
    let _watchdog = Watchdog::new("small stack");
    let new = || Place::new();
    // As when the making of it was interrupted.
    let blank = || {
        let place = new();
        drop(place.open());
        let len = place.slab_len();
        place.slab_file().set_len(0).unwrap();
        place.slab_file().set_len(len).unwrap();
        place
    };
    let rebuilt = |at: u64, with: &[u8]| {
        let place = new();
        let cache = place.open();
        for n in 0..2_000_u32 {
            cache
                .set(format!("value {n}"), vec![1; n as usize])
                .unwrap();
        }
        cache.set("large", large(9)).unwrap();
        drop(cache);
        place.poke(at, with);
        place
    };
    let places = [
        new(),
        blank(),
        rebuilt(STATE, &[0; 8]),
        rebuilt(STATE, b"rebuild1"),
        // As after a reboot.
        rebuilt(BOOT_ID, &[1; 16]),
    ];
    for place in places {
        // Should the stack overflow, it is that process's.
        let in_a_process = |test: fn(&Path)| {
            let store = place.store();
            reap_well(fork(|| on_a_small_stack(move || test(&store))));
        };
        in_a_process(|store| {
            let cache = Cache::open(store).unwrap();
            use_everything(&cache).unwrap();
            for n in 0..4 {
                cache.set("large", large(n)).unwrap();
                assert_eq!(cache.get("large").unwrap(), Some(large(n)));
            }
            for n in 0..3_000 {
                drop(Lock::new(&cache, format!("key {n}")).acquire().unwrap());
            }
            assert!(cache.check().unwrap().is_sound());
            assert!(cache.keys().unwrap().len() >= 3_000);
        });
        in_a_process(|store| {
            Cache::repair(store).unwrap();
            let fanout = FanoutCache::open(store.with_file_name("fanout"), 4).unwrap();
            fanout.set("large", large(1)).unwrap();
            fanout
                .transact_as(|t| t.set("a", large(2)).and_then(|()| t.set("b", large(3))))
                .unwrap();
            assert!(fanout.check().unwrap().is_sound());
            assert!(fanout.clear().unwrap() >= 3);
        });
    }
}

#[test]
fn threads_with_small_stacks_take_and_wait() {
    let _watchdog = Watchdog::new("small waiters");
    let place = Place::new();
    let cache = place.open();
    let guard = Lock::new(&cache, "k").acquire().unwrap().into_owned();
    let store = place.store();
    let many = fork(|| {
        let cache = Cache::open(store).unwrap();
        let count = |cache: Cache| {
            for _ in 0..50 {
                let lock = Lock::new(&cache, "k");
                let _guard = lock.acquire().unwrap();
                let seen = cache.get("count").unwrap();
                let seen = seen.map_or(0, |text| String::from_utf8(text).unwrap().parse().unwrap());
                cache.set("count", (seen + 1_u32).to_string()).unwrap();
            }
        };
        let threads = (0..16).map(|_| {
            let cache = cache.clone();
            let builder = std::thread::Builder::new().stack_size(64 << 10);
            builder.spawn(move || count(cache)).unwrap()
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
    let lock = Lock::new(&cache, "k");
    until("all wait", || lock.waiters().unwrap() == 16);
    drop(guard);
    reap_well(many);
    assert_eq!(cache.get("count").unwrap().unwrap(), b"800");
}

/// Where nobody can tell by how much the clocks differ.
#[test]
fn a_living_lease_is_not_taken_in_a_time_namespace_without_proc() {
    const NAME: &str = "threads::a_living_lease_is_not_taken_in_a_time_namespace_without_proc";
    let _watchdog = Watchdog::new("time");
    if let Some(store) = role(NAME) {
        let here = fs::symlink_metadata("/proc/self").is_ok();
        assert!(!here, "nothing was put over /proc");
        let cache = Cache::open(store).unwrap();
        let hour = crate::kit::LONG;
        let lock = Lock::new(&cache, "leased");
        assert!(lock.try_acquire().unwrap().is_none());
        assert_error!(
            Lock::new(&cache, "free").lease(hour).try_acquire(),
            Error::Invalid { .. },
            ["lease", "/proc"]
        );
        assert!(Lock::new(&cache, "free").try_acquire().unwrap().is_some());
        println!("all told");
        return;
    }
    let place = Place::new();
    let cache = place.open();
    let lock = Lock::new(&cache, "leased").lease(crate::kit::LONG);
    let guard = lock.acquire().unwrap();
    let inner = child(NAME, place.store().to_str().unwrap());
    // Two hours ahead there the lease would be over.
    let shifted = [
        "--mount",
        "--time",
        "--monotonic",
        "7200",
        "--boottime",
        "7200",
    ];
    let Some(command) = unshared(&shifted, "mount -t tmpfs none /proc", &inner) else {
        println!("skipped: no time namespace, or no mount over /proc, to be had here");
        return;
    };
    succeeds(command, "all told");
    guard.check().unwrap();
}
