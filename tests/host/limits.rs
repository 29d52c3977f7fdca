//! Limits of the process: descriptors, file sizes, address space.

#![allow(unsafe_code)]

#[cfg(feature = "cli")]
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, raise, signal};
use slablock::{Averager, Cache, Error, FanoutCache, Lock, Options, Result};

#[cfg(feature = "cli")]
use crate::kit::{Place, output_of, said};
use crate::kit::{bounded, fork, in_a_process, reap_well};

/// How long files of this process may get from now on; `None`: as long as they like.
fn limit_files(bytes: Option<u64>) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: there is room for a limit.
    assert_eq!(
        unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) },
        0
    );
    limit.rlim_cur = bytes.unwrap_or(limit.rlim_max);
    // SAFETY: the limit is valid for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
}

/// Nothing but that the file would be too long, and what can be done.
fn assert_too_long<T>(result: Result<T>, when: &str) {
    let error = match result {
        Ok(_) => panic!("{when} succeeds"),
        Err(error) => error,
    };
    let Error::Io { source, .. } = &error else {
        panic!("{when}: {error}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EFBIG), "{when}: {error}");
    assert!(error.to_string().contains("ulimit -f"), "{error}");
}

/// Segments of 1 MiB, so that a long value has one of its own.
fn small() -> Options {
    Cache::options().capacity(600).size_limit(64 << 20)
}

/// Everything that makes a file longer, under limits from nothing to more than enough. What fails
/// is said, and what was there before is there afterwards.
fn grow_under_all_limits(dir: &Path) {
    let mut done = 0;
    let limits = [0, 1, 16, 160, 580, 610, 800, 1_600].map(|kib| kib << 10);
    for (round, limit) in limits.into_iter().enumerate() {
        let store = dir.join(format!("{round}"));
        let when = |what: &str| format!("{what} with {limit} bytes");
        limit_files(Some(limit));
        let opened = small().open(store.join("new"));
        if let Err(error) = opened {
            assert_too_long(Err::<(), _>(error), &when("making a store"));
        } else {
            done += 1;
        }
        if let Err(error) = FanoutCache::open(store.join("fanout"), 2) {
            assert_too_long(Err::<(), _>(error), &when("making a fanout"));
        }
        limit_files(None);
        let cache = small().open(store.join("old")).unwrap();
        cache.set("before", vec![1; 200_000]).unwrap();
        limit_files(Some(limit));
        for n in 0..200 {
            let lock = Lock::new(&cache, format!("lock {n}"));
            if let Err(error) = lock.acquire().map(drop) {
                assert_too_long(Err::<(), _>(error), &when("making keys"));
                break;
            }
        }
        if let Err(error) = Averager::new(&cache, [7; 1_000]).add(1.0) {
            assert_too_long(Err::<(), _>(error), &when("making an average"));
        }
        for len in [9_000, 100_000, 400_000] {
            let set = cache.set(format!("{len}"), vec![2; len]);
            match (set, limit as usize > len + 200_000 + 4_096) {
                (Ok(()), _) => assert!(cache.get(format!("{len}")).unwrap().unwrap().len() == len),
                (error, false) => assert_too_long(error, &when("setting a value")),
                (Err(error), true) => panic!("{}: {error}", when("setting a value")),
            }
        }
        assert!(cache.get("before").unwrap() == Some(vec![1; 200_000]));
        assert!(cache.check().unwrap().is_sound());
        drop(cache);
        // What is there can be opened whatever the limit is.
        let cache = small().open(store.join("old")).unwrap();
        limit_files(None);
        cache.set("after", vec![3; 400_000]).unwrap();
        assert!(cache.get("before").unwrap() == Some(vec![1; 200_000]));
        drop(cache);
        assert!(Cache::repair(store.join("old")).is_ok());
        assert!(small().open(store.join("new")).is_ok());
        assert!(FanoutCache::open(store.join("fanout"), 2).is_ok());
    }
    assert!(done > 2, "{done}");
}

#[test]
fn files_that_may_not_get_longer_are_an_error_and_no_signal() {
    const NAME: &str = "limits::files_that_may_not_get_longer_are_an_error_and_no_signal";
    bounded(|| {
        in_a_process(NAME, |dir| {
            // The test harness's output is not to be the file that is too long.
            reap_well(fork(|| grow_under_all_limits(dir)));
        });
    });
}

static HEARD: AtomicU32 = AtomicU32::new(0);

extern "C" fn hear(_: i32) {
    HEARD.fetch_add(1, Ordering::SeqCst);
}

fn is_pending() -> bool {
    let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: there is room for a set, which the first call fills in for the second.
    unsafe {
        assert_eq!(libc::sigpending(pending.as_mut_ptr()), 0);
        libc::sigismember(pending.as_ptr(), libc::SIGXFSZ) == 1
    }
}

/// The program's own use of that signal: what the library does is not seen by it, and what others
/// send it gets.
#[test]
fn the_program_s_own_signals_of_that_kind_are_neither_made_nor_lost() {
    const NAME: &str = "limits::the_program_s_own_signals_of_that_kind_are_neither_made_nor_lost";
    bounded(|| {
        in_a_process(NAME, |dir| {
            reap_well(fork(|| {
                // SAFETY: the handler adds to a number.
                unsafe { signal(Signal::SIGXFSZ, SigHandler::Handler(hear)) }.unwrap();
                let cache = small().open(dir.join("store")).unwrap();
                limit_files(Some(8_192));
                let fail = || assert_too_long(cache.set("key", vec![1; 100_000]), "setting");
                fail();
                assert_eq!(HEARD.load(Ordering::SeqCst), 0);
                raise(Signal::SIGXFSZ).unwrap();
                assert_eq!(HEARD.load(Ordering::SeqCst), 1);
                // Blocked, and pending: it stays so.
                let blocked = SigSet::from(Signal::SIGXFSZ);
                blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
                fail();
                assert!(!is_pending());
                raise(Signal::SIGXFSZ).unwrap();
                fail();
                assert!(is_pending());
                blocked.thread_unblock().unwrap();
                assert_eq!(HEARD.load(Ordering::SeqCst), 2);
                fail();
                assert_eq!(HEARD.load(Ordering::SeqCst), 2);
                // As it is in programs that ignore it, Python's for one.
                // SAFETY: no handler is set.
                unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
                fail();
                assert!(!is_pending());
            }));
        });
    });
}

#[test]
#[cfg(feature = "cli")]
fn the_command_line_says_that_files_may_not_get_longer() {
    bounded(|| {
        let place = Place::new();
        let store = place.store();
        let slablock = env!("CARGO_BIN_EXE_slablock");
        let limited = |blocks: u32, command: &str| {
            let script = format!(
                "ulimit -f {blocks}; exec {slablock} -d {} {command}",
                store.display()
            );
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", &script]);
            output_of(shell)
        };
        for command in ["run key -- true", "set key value", "incr n"] {
            let output = limited(0, command);
            assert!(
                output.status.code().is_some_and(|code| code != 0),
                "{output:?}"
            );
            let said = said(&output);
            assert!(said.contains("ulimit -f"), "{command}: {said}");
        }
        let large = place.root().join("large");
        fs::write(&large, vec![7; 400_000]).unwrap();
        let cache = place.open();
        cache.set("key", "before").unwrap();
        let command = format!("set key <{}", large.display());
        let output = limited(100, &command);
        assert!(
            output.status.code().is_some_and(|code| code != 0),
            "{output:?}"
        );
        assert!(said(&output).contains("ulimit -f"), "{}", said(&output));
        assert_eq!(cache.get("key").unwrap(), Some(b"before".to_vec()));
    });
}
