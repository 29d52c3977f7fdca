//! Structure that is busy is not a lock that is held: who looks at all of a store keeps nobody from
//! its keys, and who is stopped in the midst of making or removing one is told apart from a holder.

#[cfg(feature = "cli")]
use std::io::BufRead;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use slablock::{Averager, BoundedSemaphore, Cache, Error, Lock, RLock};

use crate::kit::{Child, Place, Role, Watchdog, hear, lock_stripes, say, says};

const KEYS: usize = 300_000;

/// Counted when it ends, also when it fails.
struct Ended<'a>(&'a AtomicU32);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn looking_at_all_of_a_store_makes_no_free_lock_look_held() {
    let _watchdog = Watchdog::new("looking at all of a store");
    let place = Place::new();
    let options = Cache::options().capacity(KEYS + 50_000);
    let cache = options.open(place.store()).unwrap();
    for n in 0..KEYS {
        Averager::new(&cache, n.to_be_bytes()).add(1.0).unwrap();
    }
    let done = AtomicU32::new(0);
    let looks: [&(dyn Fn() + Sync); 3] = [
        &|| {
            let report = cache.check().unwrap();
            assert!(report.is_sound(), "{report:?}");
            assert!(report.keys >= KEYS, "{report:?}");
        },
        &|| assert!(cache.len().unwrap() >= KEYS),
        &|| assert!(cache.keys().unwrap().len() >= KEYS),
    ];
    std::thread::scope(|scope| {
        for look in looks {
            scope.spawn(|| {
                let _ended = Ended(&done);
                look();
                look();
            });
        }
        // As long as anybody looks: keys that are made, taken and removed. Whoever looks is stopped
        // by a busy machine in the midst of it now and then, and that is said in its own
        // words.
        let (mut taken, mut busy) = (0, 0);
        for n in 0.. {
            if done.load(Ordering::Relaxed) == looks.len() as u32 {
                break;
            }
            let key = format!("never seen {n}");
            let lock = Lock::new(&cache, &key);
            match lock.try_acquire() {
                Err(Error::StructureBusy { .. }) => busy += 1,
                guard => {
                    taken += 1;
                    assert!(guard.unwrap().is_some(), "{key} is said to be held");
                }
            }
            if n % 2 == 1 {
                cache.remove(&key).unwrap();
            }
        }
        assert!(taken > 10 * busy, "{busy} times busy, {taken} taken");
    });
}

/// Has every stripe, as a process that is stopped in the midst of making a key has one; and a lock.
pub fn in_the_structure(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "held");
    let held = lock.acquire().unwrap();
    let _stripes = lock_stripes(&role.store(), 0..64);
    say("in it");
    hear();
    drop(held);
}

#[test]
fn who_cannot_reach_the_structure_is_told_who_has_it() {
    let _watchdog = Watchdog::new("beside who is stopped in the structure");
    let place = Place::new();
    let cache = place.open();
    let known = Lock::new(&cache, "known");
    drop(known.acquire().unwrap());
    let mut child = Child::start("in the structure", place.root(), &[]);
    child.expect("in it");
    child.stop();
    let pid = child.pid().as_raw() as u32;
    let busy = |error: Error| match &error {
        Error::StructureBusy { pids, .. } => {
            assert_eq!(*pids, [pid]);
            says(&error, &[&format!("process {pid}"), "stopped", "try again"]);
        }
        other => panic!("{other}"),
    };
    let time = Duration::from_millis(20);
    let lock = Lock::new(&cache, "new lock");
    busy(lock.try_acquire().unwrap_err());
    busy(lock.acquire_timeout(time).unwrap_err());
    let tagged = Lock::new(&cache, "known").tag("tag");
    busy(tagged.try_acquire().unwrap_err());
    let rlock = RLock::new(&cache, "new rlock");
    busy(rlock.try_acquire().unwrap_err());
    busy(rlock.acquire_timeout(time).unwrap_err());
    let semaphore = BoundedSemaphore::new(&cache, "new semaphore", 2);
    busy(semaphore.try_acquire().unwrap_err());
    busy(semaphore.acquire_timeout(time).unwrap_err());
    // What is known, or found without the structure, is answered as ever.
    drop(known.try_acquire().unwrap().unwrap());
    let held = Lock::new(&cache, "held");
    assert!(held.try_acquire().unwrap().is_none());
    // Who has no time limit waits.
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| drop(lock.acquire().unwrap()));
        child.signal(Signal::SIGCONT);
        child.tell("let go");
        waiter.join().unwrap();
    });
    drop(lock.try_acquire().unwrap().unwrap());
    child.finish();
}

#[cfg(feature = "cli")]
#[test]
fn a_run_that_cannot_reach_the_structure_does_not_say_that_the_key_is_held() {
    let _watchdog = Watchdog::new("run beside who is stopped in the structure");
    let place = Place::new();
    let mut child = Child::start("in the structure", place.root(), &[]);
    child.expect("in it");
    child.stop();
    let run = |options: &[&str], key: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_slablock"))
            .args(["run", "--dir", place.store().to_str().unwrap()])
            .args(options)
            .args([key, "--", "true"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    for options in [&["-n"][..], &["-w", "0.01"]] {
        let (status, said) = run(options, "new");
        assert_eq!(status, Some(125), "{said}");
        let who = format!("process {}", child.pid());
        assert!(said.contains(&who) && !said.contains("held"), "{said}");
        // One that is held, and is met without the structure.
        assert_eq!(run(options, "held").0, Some(75));
    }
    // Who waits without a limit says for what, and has the key when the structure is free.
    let mut waiting = std::process::Command::new(env!("CARGO_BIN_EXE_slablock"))
        .args(["run", "--dir", place.store().to_str().unwrap()])
        .args(["new", "--", "true"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = std::io::BufReader::new(waiting.stderr.take().unwrap());
    lines.read_line(&mut said).unwrap();
    assert!(said.contains(&format!("process {}", child.pid())), "{said}");
    child.signal(Signal::SIGCONT);
    child.tell("let go");
    assert!(waiting.wait().unwrap().success());
}
