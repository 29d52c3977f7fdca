//! Daemons, and other programs that close or replace descriptors which are not theirs.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;
use slablock::{Averager, Cache, Error, FanoutCache, Lock, Reader};

use crate::kit::{Child, HANGS, Place, Role, Watchdog, exit_now, fork, hear, reap_well, say};

/// Closes everything above the standard streams, as daemons do when they start.
fn close_all() {
    // SAFETY: what the test harness has open is not used any more by this process; what the library
    // has is what the test is about.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    assert_eq!(closed, 0);
}

/// Log files of the daemon's own, which get the numbers that are free now.
fn open_logs(dir: &Path) -> Vec<File> {
    let open = |n| {
        let path = dir.join(format!("daemon {n}.log"));
        fs::write(&path, "started\n").unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    };
    (0..12).map(open).collect()
}

fn logs_are_untouched(dir: &Path) {
    for n in 0..12 {
        let text = fs::read(dir.join(format!("daemon {n}.log"))).unwrap();
        assert_eq!(text, b"started\n", "log {n} has {} bytes", text.len());
    }
}

/// Uses everything: more keys than there is room for without growing, large values, averages,
/// transactions.
fn use_all(cache: &Cache) {
    for n in 0..600 {
        drop(Lock::new(cache, format!("key {n}")).acquire().unwrap());
    }
    cache.set("large", vec![7; 300_000]).unwrap();
    assert_eq!(cache.get("large").unwrap(), Some(vec![7; 300_000]));
    Averager::new(cache, "average").add(1.0).unwrap();
    cache
        .transact_as(|t| t.incr("a", 1).and_then(|_| t.incr("b", 1)))
        .unwrap();
    assert!(cache.check().unwrap().is_sound());
}

/// Open, fork, close all, open logs, go on.
pub fn daemon(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    use_all_before(&cache);
    let dir = role.dir.clone();
    let parent_holds = Lock::new(&cache, "the parent's")
        .acquire()
        .unwrap()
        .into_owned();
    let daemon = fork(|| {
        nix::unistd::setsid().unwrap();
        std::env::set_current_dir("/").unwrap();
        close_all();
        let logs = open_logs(&dir);
        assert!(
            Lock::new(&cache, "the parent's")
                .try_acquire()
                .unwrap()
                .is_none()
        );
        use_all(&cache);
        let guard = Lock::new(&cache, "the daemon's")
            .acquire()
            .unwrap()
            .into_owned();
        logs_are_untouched(&dir);
        guard.release().unwrap();
        drop(logs);
    });
    reap_well(daemon);
    parent_holds.release().unwrap();
    use_all(&cache);
    say("done");
}

fn use_all_before(cache: &Cache) {
    cache.set("large", vec![1; 300_000]).unwrap();
    drop(Lock::new(cache, "key 0").acquire().unwrap());
}

#[test]
fn a_textbook_daemon_may_go_on_and_harms_nobody() {
    let _watchdog = Watchdog::new("daemon");
    let place = Place::new();
    let child = Child::start("daemon", place.root(), &[]);
    child.expect("done");
    child.finish();
    logs_are_untouched(place.root());
    use_all(&place.open());
}

/// Without a fork: the process loses what shows that it lives, and knows it.
pub fn stripped(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    use_all_before(&cache);
    let known = Lock::new(&cache, "known");
    let guard = known.acquire().unwrap();
    let logs = match &*role.args[0] {
        "closed" => {
            close_all();
            Vec::new()
        }
        "reused" => {
            close_all();
            open_logs(&role.dir)
        }
        _ => replaced(&role.dir),
    };
    say("stripped");
    // Nothing is taken by a slow path, and nobody is judged.
    let detached = |what: &str, result: slablock::Result<bool>| match result {
        Err(Error::Detached { .. }) => {}
        other => panic!("{what}: {other:?}"),
    };
    let others = Lock::new(&cache, "others");
    detached(
        "a held key",
        others.try_acquire().map(|guard| guard.is_some()),
    );
    detached(
        "a new key",
        Lock::new(&cache, "new").try_acquire().map(|g| g.is_some()),
    );
    detached(
        "waiting",
        others.acquire_timeout(HANGS).map(|g| g.is_some()),
    );
    // A latch is taken by the fast path, and a segment is opened again.
    cache.set("large", vec![9; 300_000]).unwrap();
    assert_eq!(cache.get("large").unwrap(), Some(vec![9; 300_000]));
    detached("removing", cache.remove("known"));
    detached("checking", cache.check().map(|_| true));
    say("knows");
    hear();
    // What it holds it gives back: that needs no descriptor.
    guard.release().unwrap();
    // Opened again it takes part again.
    let again = Cache::open(role.store()).unwrap();
    assert!(Lock::new(&again, "others").try_acquire().unwrap().is_none());
    use_all(&again);
    drop(again);
    drop((others, known, cache));
    if role.args[0] != "closed" {
        logs_are_untouched(&role.dir);
    }
    drop(logs);
    say("done");
    exit_now(0);
}

/// Puts files of its own under all numbers that the library may have.
fn replaced(dir: &Path) -> Vec<File> {
    let logs = open_logs(dir);
    for number in 3..64 {
        let mine = logs.iter().any(|log| log.as_raw_fd() == number);
        // SAFETY: as in `close_all`.
        let is_open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
        if is_open && !mine {
            let log = &logs[number as usize % logs.len()];
            // SAFETY: both numbers are open.
            assert_eq!(unsafe { libc::dup2(log.as_raw_fd(), number) }, number);
        }
    }
    logs
}

#[test]
fn a_process_that_lost_its_descriptors_knows_it_and_harms_nobody() {
    let _watchdog = Watchdog::new("stripped");
    for how in ["closed", "reused", "replaced"] {
        let place = Place::new();
        let cache = place.open();
        let held = Lock::new(&cache, "others").acquire().unwrap().into_owned();
        let mut child = Child::start("stripped", place.root(), &[how]);
        child.expect("stripped");
        child.expect("knows");
        // Nor is it robbed: its map shows that it lives.
        let known = Lock::new(&cache, "known");
        assert!(known.try_acquire().unwrap().is_none(), "{how}");
        assert!(known.holder().unwrap().unwrap().alive);
        child.tell("go on");
        child.expect("done");
        held.check().unwrap();
        held.release().unwrap();
        assert!(known.try_acquire().unwrap().is_some());
        assert!(cache.check().unwrap().is_sound());
    }
}

#[test]
fn the_death_of_a_process_is_seen_although_a_child_it_forked_lives() {
    let _watchdog = Watchdog::new("orphan");
    let place = Place::new();
    let cache = place.open();
    let board = crate::kit::Board::open(place.root());
    let store = place.store();
    let parent = fork(|| {
        let cache = Cache::open(&store).unwrap();
        let _guard = Lock::new(&cache, "k").acquire().unwrap().into_owned();
        let _child = fork(|| {
            board.set(0, 1);
            crate::kit::until("the test is over", || board.get(1) == 1);
        });
        crate::kit::until("killed", || false);
    });
    crate::kit::until("the child lives", || board.get(0) == 1);
    nix::sys::signal::kill(parent, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Not reaped yet: a zombie, whose child has its map.
    let lock = Lock::new(&cache, "k");
    let guard = lock.acquire_timeout(HANGS).unwrap().unwrap();
    assert_eq!(guard.recovered().unwrap().pid as i32, parent.as_raw());
    board.set(1, 1);
    crate::kit::reap(parent);
}

/// Has the store open until it is killed.
pub fn idle(role: &Role) {
    let _cache = Cache::open(role.store()).unwrap();
    crate::kit::until("killed", || false);
}

/// The child has the map of its parent, which has gone on as another program: also when that is the
/// same one again, with the same store open.
#[test]
fn a_holder_that_executes_a_program_frees_its_lock_although_a_child_it_forked_waits() {
    let _watchdog = Watchdog::new("executes");
    let place = Place::new();
    let board = crate::kit::Board::open(place.root());
    let store = place.store();
    let holder = fork(|| {
        let cache = Cache::open(&store).unwrap();
        let lock = Lock::new(&cache, "k");
        let _guard = lock.acquire().unwrap().into_owned();
        let waiter = fork(|| {
            board.set(0, 1);
            let guard = lock.acquire().unwrap();
            board.set(1, guard.recovered().unwrap().pid.into());
            crate::kit::until("the test is over", || board.get(2) == 1);
        });
        crate::kit::until("the child waits", || board.get(0) == 1);
        board.set(3, waiter.as_raw() as u64);
        let mut program = crate::kit::command("idle", place.root(), &[]);
        let error =
            std::os::unix::process::CommandExt::exec(program.stdin(std::process::Stdio::null()));
        panic!("{error}");
    });
    crate::kit::until("the child has it", || board.get(1) != 0);
    assert_eq!(board.get(1) as i32, holder.as_raw());
    board.set(2, 1);
    nix::sys::signal::kill(holder, nix::sys::signal::Signal::SIGKILL).unwrap();
    crate::kit::reap(holder);
}

/// The child has the beacon of its parent, too: the kernel has made it without what closes that.
#[test]
fn a_holder_that_executes_a_program_is_dead_although_a_child_has_all_that_it_had() {
    let _watchdog = Watchdog::new("executes beside a copy");
    let place = Place::new();
    let board = crate::kit::Board::open(place.root());
    let store = place.store();
    let holder = fork(|| {
        let cache = Cache::open(&store).unwrap();
        let _guard = Lock::new(&cache, "k").acquire().unwrap().into_owned();
        // SAFETY: the child makes system calls, and nothing else.
        let copy = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if copy == 0 {
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        board.set(1, copy as u64);
        let mut program = crate::kit::command("idle", place.root(), &[]);
        let error =
            std::os::unix::process::CommandExt::exec(program.stdin(std::process::Stdio::null()));
        panic!("{error}");
    });
    crate::kit::until("the copy lives", || board.get(1) != 0);
    let cache = place.open();
    let lock = Lock::new(&cache, "k");
    let guard = lock.acquire().unwrap();
    assert_eq!(guard.recovered().unwrap().pid as i32, holder.as_raw());
    for pid in [nix::unistd::Pid::from_raw(board.get(1) as i32), holder] {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    crate::kit::reap(holder);
}

/// Its leader has no memory any more, and is not the one that holds.
#[test]
fn a_process_lives_whose_first_thread_has_ended() {
    let _watchdog = Watchdog::new("leader");
    let place = Place::new();
    let board = crate::kit::Board::open(place.root());
    let store = place.store();
    let holder = fork(|| {
        let lock = Lock::new(&Cache::open(&store).unwrap(), "k");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _guard = lock.acquire().unwrap();
                board.set(0, 1);
                crate::kit::until("the test is over", || board.get(1) == 1);
                crate::kit::exit_now(0);
            });
            // SAFETY: ends this thread and nothing else.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
    });
    crate::kit::until("it holds", || board.get(0) == 1);
    crate::kit::until_in_state(holder.as_raw() as u32, 'Z');
    let lock = Lock::new(&place.open(), "k");
    // Long enough for all proofs of death, some of which are asked once a second.
    let waited = lock.acquire_timeout(std::time::Duration::from_millis(2_500));
    assert!(waited.unwrap().is_none());
    board.set(1, 1);
    crate::kit::reap(holder);
    assert!(lock.try_acquire().unwrap().is_some());
}

#[test]
fn a_relative_path_is_the_same_store_after_the_directory_was_changed() {
    let _watchdog = Watchdog::new("chdir");
    let place = Place::new();
    let root = place.root().to_path_buf();
    let child = fork(|| {
        std::env::set_current_dir(&root).unwrap();
        let cache = Cache::open("store").unwrap();
        let fanout = FanoutCache::open("fanout", 2).unwrap();
        std::env::set_current_dir("/").unwrap();
        use_all(&cache);
        fanout.set("large", vec![7; 100_000]).unwrap();
        let grandchild = fork(|| {
            use_all(&cache);
            fanout.set("large", vec![8; 100_000]).unwrap();
        });
        reap_well(grandchild);
    });
    reap_well(child);
    use_all(&place.open());
}

#[test]
fn a_cache_of_256_shards_opens_with_the_usual_number_of_descriptors() {
    let _watchdog = Watchdog::new("shards");
    let place = Place::new();
    let store = place.store();
    let child = fork(|| {
        let limit = libc::rlimit {
            rlim_cur: 1_024,
            rlim_max: 1_024,
        };
        // SAFETY: it only reads the limit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let cache = FanoutCache::open(&store, 256).unwrap();
        for key in 0..500 {
            cache.set(format!("{key}"), vec![1; 10_000]).unwrap();
        }
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < 3 * 256 + 32, "{open}");
    });
    reap_well(child);
    assert_eq!(Reader::open(place.store()).unwrap().len().unwrap(), 500);
}
