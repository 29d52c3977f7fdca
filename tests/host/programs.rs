//! What programs do to themselves beside their store: forks, other programs, few descriptors,
//! signals.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::WaitStatus;
use slablock::{Averager, BoundedSemaphore, Cache, Lock, RLock, Result, SetOptions};

use crate::kit::{
    Board, Child, HANGS, Place, Role, Watchdog, descriptors, exit_now, fork, open_below, reap,
    reap_killed, reap_well, say, until,
};

/// Every operation once or more, under keys that no other thread uses. Errors end it.
pub fn use_everything(cache: &Cache) -> Result<()> {
    // In pieces, so that a thread with a small stack can do it.
    let own = |what: &str| format!("{what} of {}", nix::unistd::gettid());
    use_locks(cache, &own)?;
    use_counts(cache, &own)?;
    for len in [10, 1_000, 100_000] {
        use_value(cache, &own("value"), &vec![7; len])?;
    }
    change_values(cache, &own)?;
    cache.stats().map(drop)
}

#[inline(never)]
fn use_locks(cache: &Cache, own: &dyn Fn(&str) -> String) -> Result<()> {
    let lock = Lock::new(cache, own("lock"));
    lock.acquire()?.into_owned().release()?;
    let token = lock.acquire()?.into_token();
    lock.release(token)?;
    let rlock = RLock::new(cache, own("rlock"));
    let both = (rlock.acquire()?, rlock.acquire()?);
    drop(both);
    Ok(())
}

#[inline(never)]
fn use_counts(cache: &Cache, own: &dyn Fn(&str) -> String) -> Result<()> {
    let semaphore = BoundedSemaphore::new(cache, own("semaphore"), 2);
    let both = (semaphore.acquire()?, semaphore.acquire()?);
    assert!(semaphore.try_acquire()?.is_none());
    drop(both);
    let average = Averager::new(cache, own("average"));
    average.add(2.0)?;
    assert_eq!(average.pop()?, Some(2.0));
    assert!(cache.remove(own("semaphore"))?);
    Ok(())
}

#[inline(never)]
fn use_value(cache: &Cache, key: &str, bytes: &[u8]) -> Result<()> {
    cache.set(key, bytes)?;
    assert_eq!(cache.get(key)?.as_deref(), Some(bytes));
    let same = cache.read(key, |got| got == bytes)?;
    assert_eq!(same, Some(true));
    assert!(!cache.add(key, "other")?);
    assert!(cache.compare_and_swap(key, bytes, "swapped")?);
    assert_eq!(cache.pop(key)?.as_deref(), Some(&b"swapped"[..]));
    Ok(())
}

#[inline(never)]
fn change_values(cache: &Cache, own: &dyn Fn(&str) -> String) -> Result<()> {
    cache.incr(own("number"), 1)?;
    cache.transact_as(|t| {
        t.incr(own("number"), 1)?;
        t.set(own("other"), "set")
    })?;
    let computed = cache.get_or_insert_as(own("computed"), &SetOptions::new(), || {
        Result::Ok(b"computed".to_vec())
    })?;
    assert_eq!(computed, b"computed");
    for what in ["number", "other", "computed"] {
        assert!(cache.delete(own(what))?);
    }
    Ok(())
}

/// Each of the store's descriptors is closed alone, as by a program that closes a number twice;
/// then the program's own file has that number.
#[test]
fn any_single_descriptor_that_other_code_closes_costs_errors_only() {
    let _watchdog = Watchdog::new("one closed");
    let place = Place::new();
    let cache = place.open();
    let guard = Lock::new(&cache, "ours").acquire().unwrap().into_owned();
    let board = Board::open(place.root());
    let (store, theirs) = (place.store(), place.root().join("theirs"));
    fs::write(&theirs, "theirs\n").unwrap();
    let mut closed = 0;
    while board.get(0) == closed {
        closed += 1;
        reap_well(fork(|| {
            let cache = Cache::open(&store).unwrap();
            // Segments and all.
            cache.set("large", vec![1; 300_000]).unwrap();
            cache.get("large").unwrap();
            let open = open_below(&store);
            let Some((number, _)) = open.get(closed as usize - 1).cloned() else {
                return;
            };
            // SAFETY: what the library makes of this is what is tested.
            assert_eq!(unsafe { libc::close(number) }, 0);
            let _ = use_everything(&cache);
            let file = File::options()
                .read(true)
                .write(true)
                .open(&theirs)
                .unwrap();
            if file.as_raw_fd() != number {
                // SAFETY: as above; perhaps it was opened again.
                assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
            }
            for _ in 0..2 {
                let _ = use_everything(&cache);
                let _ = cache.check();
            }
            assert!(
                Lock::new(&cache, "ours")
                    .try_acquire()
                    .is_ok_and(|got| got.is_none())
                    || { Lock::new(&cache, "ours").try_acquire().is_err() }
            );
            drop(cache);
            // Nor is it closed when the store is.
            assert_eq!(
                fs::read_link(format!("/proc/self/fd/{number}")).unwrap(),
                theirs
            );
            board.set(0, closed);
        }));
        assert_eq!(
            fs::read(&theirs).unwrap(),
            b"theirs\n",
            "descriptor {closed}"
        );
        guard.check().unwrap();
        use_everything(&cache).unwrap();
        assert!(cache.check().unwrap().is_sound(), "descriptor {closed}");
    }
    assert!(closed > 5, "only {closed} descriptors");
}

/// Handles and guards that a chain of processes passes on.
struct Handles {
    cache: Cache,
    lock: Lock,
    rlock: RLock,
    semaphore: BoundedSemaphore,
    average: Averager,
}

impl Handles {
    fn new(cache: &Cache) -> Handles {
        Handles {
            cache: cache.clone(),
            lock: Lock::new(cache, "lock"),
            rlock: RLock::new(cache, "rlock"),
            semaphore: BoundedSemaphore::new(cache, "semaphore", 2),
            average: Averager::new(cache, "average"),
        }
    }

    /// Uses all of them, and those again that the parent has used.
    fn use_all(&self) {
        let guards = (
            self.lock.acquire().unwrap(),
            self.rlock.acquire().unwrap(),
            self.rlock.acquire().unwrap(),
            self.semaphore.acquire().unwrap(),
            self.semaphore.acquire().unwrap(),
        );
        self.average.add(1.0).unwrap();
        self.cache.incr("count", 1).unwrap();
        self.cache.set("large", vec![3; 100_000]).unwrap();
        drop(guards);
        use_everything(&self.cache).unwrap();
    }
}

#[test]
fn each_of_twenty_generations_of_forks_uses_all_handles() {
    fn generation(handles: &Handles, left: u32, most: usize) {
        let store = handles.cache.path();
        handles.use_all();
        let open = open_below(store);
        assert!(
            open.len() <= most,
            "{left} to come, more than {most}: {open:?}"
        );
        // Held by this one while the next ones live.
        let permit = handles.semaphore.acquire().unwrap();
        let own = Lock::new(&handles.cache, format!("generation {left}"));
        let guard = own.acquire().unwrap();
        drop(permit);
        if left > 1 {
            let before = open_below(store).len();
            reap_well(fork(|| generation(handles, left - 1, most)));
            assert_eq!(open_below(store).len(), before);
        }
        guard.release().unwrap();
        handles.use_all();
    }
    let _watchdog = Watchdog::new("generations");
    let place = Place::new();
    let cache = place.open();
    let handles = Handles::new(&cache);
    handles.use_all();
    reap_well(fork(|| {
        handles.use_all();
        generation(&handles, 20, open_below(cache.path()).len());
    }));
    handles.use_all();
    assert_eq!(cache.get("count").unwrap().unwrap(), b"43");
    assert_eq!(handles.average.summary().unwrap().unwrap().count, 43);
    assert!(cache.check().unwrap().is_sound());
    // None of them is left, or holds anything.
    assert_eq!(handles.semaphore.available().unwrap(), 2);
}

#[test]
fn a_daemon_that_forks_twice_uses_what_was_opened_before() {
    let _watchdog = Watchdog::new("double fork");
    let place = Place::new();
    let board = Board::open(place.root());
    let store = place.store();
    reap_well(fork(|| {
        let cache = Cache::open(&store).unwrap();
        let handles = Handles::new(&cache);
        handles.use_all();
        let guard = Lock::new(&cache, "starter").acquire().unwrap().into_owned();
        fork(|| {
            nix::unistd::setsid().unwrap();
            fork(|| {
                std::env::set_current_dir("/").unwrap();
                until("who started it is gone", || {
                    Lock::new(&cache, "starter")
                        .try_acquire()
                        .unwrap()
                        .is_some()
                });
                handles.use_all();
                // A copy of another's.
                assert!(guard.release().is_err());
                let _own = Lock::new(&cache, "daemon").acquire().unwrap().into_token();
                board.set(0, std::process::id().into());
                until("the test is over", || board.get(1) == 1);
            });
            exit_now(0);
        });
        exit_now(0);
    }));
    until("the daemon holds", || board.get(0) != 0);
    let cache = place.open();
    let lock = Lock::new(&cache, "daemon");
    assert_eq!(u64::from(lock.holder().unwrap().unwrap().pid), board.get(0));
    assert!(lock.try_acquire().unwrap().is_none());
    board.set(1, 1);
    let next = lock.acquire().unwrap();
    assert_eq!(u64::from(next.recovered().unwrap().pid), board.get(0));
}

/// Holds everything, waits for a lock with its holder watched, and executes a program that says
/// what it has open.
pub fn execute(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    cache.set("large", vec![1; 300_000]).unwrap();
    let handles = Handles::new(&cache);
    let _guards = (
        handles.lock.acquire().unwrap(),
        handles.rlock.acquire().unwrap(),
        handles.semaphore.acquire().unwrap(),
        handles.semaphore.acquire().unwrap(),
    );
    let theirs = Lock::new(&cache, "theirs");
    std::thread::spawn(move || drop(theirs.acquire()));
    until("the holder is watched", || {
        descriptors()
            .values()
            .any(|path| path.to_string_lossy().contains("pidfd"))
    });
    say("held");
    let script = "for fd in /proc/$$/fd/*; do readlink $fd > /dev/null && echo \"@ open $(readlink $fd)\"; done; echo '@ all'; read line";
    panic!("{}", Command::new("sh").args(["-c", script]).exec());
}

#[test]
fn a_program_executed_in_the_midst_of_everything_has_nothing_open_and_holds_nothing() {
    let _watchdog = Watchdog::new("exec");
    let place = Place::new();
    let cache = place.open();
    let _theirs = Lock::new(&cache, "theirs").acquire().unwrap().into_owned();
    let mut child = Child::start("execute", place.root(), &[]);
    child.expect("held");
    let mut open = Vec::new();
    loop {
        let line = child
            .line_within(HANGS)
            .expect("the program says what it has open");
        match line.strip_prefix("open ") {
            Some(number) => open.push(number.to_string()),
            None => break,
        }
    }
    // What it was started with may be there, and the shell's own.
    let ours = ["pidfd", "socket:", "memfd", place.root().to_str().unwrap()];
    let is_ours = |to: &&String| ours.iter().any(|ours| to.contains(ours));
    assert_eq!(open.iter().find(is_ours), None, "{open:?}");
    assert!(open.len() >= 3);
    let handles = Handles::new(&cache);
    let pid = child.pid().as_raw() as u32;
    let lock = handles.lock.acquire().unwrap();
    let rlock = handles.rlock.acquire().unwrap();
    let permits = [
        handles.semaphore.acquire().unwrap(),
        handles.semaphore.acquire().unwrap(),
    ];
    let mut told = vec![lock.recovered(), rlock.recovered()];
    told.extend(permits.iter().map(|permit| permit.recovered()));
    assert!(
        told.iter()
            .all(|dead| dead.is_some_and(|dead| dead.pid == pid)),
        "{told:?}"
    );
    // It lives on as another program.
    assert_eq!(cache.get("large").unwrap().unwrap().len(), 300_000);
    child.tell("end");
    child.finish();
}

#[test]
fn a_program_opens_two_hundred_stores() {
    let _watchdog = Watchdog::new("200 stores");
    let place = Place::new();
    let root = place.root().to_path_buf();
    reap_well(fork(|| {
        let limit = libc::rlimit {
            rlim_cur: 4_096,
            rlim_max: 4_096,
        };
        // SAFETY: it only reads the limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let small = Cache::options().capacity(1_024).size_limit(8 << 20);
        let open = |n: u32| small.open(root.join(format!("{n}"))).unwrap();
        let stores: Vec<_> = (0..200).map(open).collect();
        for (n, store) in stores.iter().enumerate() {
            store.set("which", n.to_string()).unwrap();
            let guard = Lock::new(store, "k").acquire().unwrap().into_owned();
            assert!(
                Lock::new(&stores[(n + 1) % 200], "k")
                    .try_acquire()
                    .unwrap()
                    .is_some()
            );
            guard.release().unwrap();
        }
        reap_well(fork(|| {
            for (n, store) in stores.iter().enumerate() {
                assert_eq!(
                    store.get("which").unwrap().unwrap(),
                    n.to_string().into_bytes()
                );
                Lock::new(store, "k").acquire().unwrap().release().unwrap();
            }
        }));
        stores[7].check().unwrap();
        drop(stores);
        assert_eq!(open_below(&root), []);
    }));
}

#[test]
fn a_store_opened_and_closed_a_thousand_times_beside_forks_is_as_it_was() {
    let _watchdog = Watchdog::new("opened and closed");
    let place = Place::new();
    drop(place.open());
    let store = place.store();
    reap_well(fork(|| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    reap_well(fork(|| {
                        let cache = Cache::open(&store).unwrap();
                        cache.incr("forks", 1).unwrap();
                        Lock::new(&cache, "k").acquire().unwrap().release().unwrap();
                    }));
                }
            });
            for n in 0..1_000 {
                let cache = Cache::open(&store).unwrap();
                let lock = Lock::new(&cache, "k");
                let guard = lock.acquire().unwrap();
                cache.set("last", vec![1; n * 40]).unwrap();
                drop(guard);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(open_below(&store), []);
    }));
    let cache = place.open();
    assert_eq!(cache.get("last").unwrap().unwrap().len(), 999 * 40);
    let forks = String::from_utf8(cache.get("forks").unwrap().unwrap()).unwrap();
    assert!(forks.parse::<u32>().unwrap() > 0);
    assert!(cache.check().unwrap().is_sound());
    // All have left: the store is ours alone.
    drop(cache);
    Cache::repair(place.store()).unwrap();
}

/// Programs are started by other threads, whatever the library opens at that moment; and outlive
/// the process.
#[test]
fn programs_started_at_any_moment_have_nothing_open_and_keep_nothing_held() {
    let _watchdog = Watchdog::new("spawned");
    let place = Place::new();
    let cache = place.open();
    let (board, store) = (Board::open(place.root()), place.store());
    let parent = fork(|| {
        let cache = Cache::open(&store).unwrap();
        let _held = Lock::new(&cache, "held").acquire().unwrap().into_token();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        use_everything(&cache).unwrap();
                        let apart = store.with_file_name("apart");
                        drop(Cache::open(apart).unwrap());
                    }
                });
            }
            for _ in 0..60 {
                let mut command = Command::new("sh");
                command.args(["-c", "for fd in /proc/$$/fd/*; do readlink $fd; done"]);
                let output = command.stdin(Stdio::null()).output().unwrap();
                let open = String::from_utf8(output.stdout).unwrap();
                let dir = store.parent().unwrap().to_str().unwrap();
                let leaked =
                    open.contains(dir) || open.contains("pidfd") || open.contains("socket");
                assert!(!leaked, "{open}");
            }
            done.store(true, Ordering::Relaxed);
        });
        // This one is there for longer.
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        board.set(0, child.id().into());
        // Killed meanwhile.
        let _ = child.wait();
    });
    until("it has started the last one", || board.get(0) != 0);
    reap_killed(parent);
    let guard = Lock::new(&cache, "held").acquire().unwrap().into_owned();
    assert_eq!(guard.recovered().unwrap().pid as i32, parent.as_raw());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(board.get(0) as i32),
        Signal::SIGKILL,
    )
    .unwrap();
}

#[test]
fn a_limit_of_twenty_descriptors_set_later_is_an_error_where_more_are_needed() {
    let _watchdog = Watchdog::new("20 descriptors");
    let place = Place::new();
    let cache = place.open();
    let store = place.store();
    let held = Lock::new(&cache, "ours").acquire().unwrap().into_owned();
    reap_well(fork(|| {
        let cache = Cache::open(&store).unwrap();
        let handles = Handles::new(&cache);
        handles.use_all();
        let kept = Lock::new(&cache, "kept").acquire().unwrap().into_owned();
        // What the program itself has open, up to the limit.
        let fill = || -> Vec<_> { std::iter::from_fn(|| File::open("/dev/null").ok()).collect() };
        let limit = |to| {
            let limit = libc::rlimit {
                rlim_cur: to,
                rlim_max: 4_096,
            };
            // SAFETY: it only reads the limit.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        };
        limit(20);
        let filler = fill();
        // Known keys need none.
        handles.lock.acquire().unwrap().release().unwrap();
        handles.average.add(1.0).unwrap();
        cache.set("small", "value").unwrap();
        for _ in 0..3 {
            let result = use_everything(&cache);
            assert!(
                result.is_ok() || matches!(result, Err(slablock::Error::Io { .. })),
                "{result:?}"
            );
        }
        assert!(Lock::new(&cache, "ours").try_acquire().unwrap().is_none());
        assert!(
            Lock::new(&cache, "ours")
                .acquire_timeout(Duration::from_millis(100))
                .unwrap()
                .is_none()
        );
        // A child has to open all anew, and cannot.
        reap_well(fork(|| {
            let _filler = fill();
            assert!(cache.incr("count", 1).is_err());
            assert!(handles.lock.try_acquire().is_err());
            limit(4_096);
            handles.use_all();
        }));
        kept.check().unwrap();
        limit(4_096);
        drop(filler);
        handles.use_all();
        use_everything(&cache).unwrap();
        kept.release().unwrap();
    }));
    held.check().unwrap();
    assert!(cache.check().unwrap().is_sound());
}

static RUNG: AtomicU64 = AtomicU64::new(0);

extern "C" fn ring(_: libc::c_int) {
    RUNG.fetch_add(1, Ordering::Relaxed);
}

/// A thousand in a second, for two seconds, and none of them asks that calls be restarted.
#[test]
fn a_storm_of_alarms_disturbs_no_operation() {
    let _watchdog = Watchdog::new("alarms");
    let place = Place::new();
    let cache = place.open();
    let (board, store) = (Board::open(place.root()), place.store());
    let storm = fork(|| {
        let action = SigAction::new(SigHandler::Handler(ring), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only counts.
        unsafe { sigaction(Signal::SIGALRM, &action) }.unwrap();
        let each = libc::timeval {
            tv_sec: 0,
            tv_usec: 1_000,
        };
        let timer = libc::itimerval {
            it_interval: each,
            it_value: each,
        };
        // SAFETY: it only reads the timer.
        let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
        assert_eq!(set, 0);
        let mut rounds = 0;
        while RUNG.load(Ordering::Relaxed) < 2_000 {
            // Opened again each time, and with what was begun under signals.
            let cache = Cache::open(&store).unwrap();
            use_everything(&cache).unwrap();
            drop(Lock::new(&cache, "contended").acquire().unwrap());
            cache.incr("rounds", 1).unwrap();
            rounds += 1;
        }
        board.set(0, rounds);
    });
    let lock = Lock::new(&cache, "contended");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let guard = lock.acquire().unwrap();
                until("somebody waits, or all is done", || {
                    done.load(Ordering::Relaxed) || lock.waiters().unwrap() > 0
                });
                guard.release().unwrap();
            }
        });
        let ended = reap(storm);
        done.store(true, Ordering::Relaxed);
        assert_eq!(ended, WaitStatus::Exited(storm, 0));
    });
    let rounds = cache.get("rounds").unwrap().unwrap();
    assert_eq!(String::from_utf8(rounds).unwrap(), board.get(0).to_string());
    assert!(cache.check().unwrap().is_sound());
}
