//! Signals, one after another, whose handler does not ask for calls to be restarted.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use slablock::{Averager, BoundedSemaphore, Cache, FanoutCache, Lock, RLock};

use crate::kit::{Child, Place, Role, Watchdog, lock_bytes, run as run_role, say};

/// How often one arrives.
const INTERVAL: Duration = Duration::from_micros(500);

static ARRIVED: AtomicU64 = AtomicU64::new(0);

extern "C" fn note(_: libc::c_int) {
    ARRIVED.fetch_add(1, Ordering::Relaxed);
}

/// Runs `body` in this thread, which is interrupted all the time.
fn interrupted(body: impl FnOnce()) -> u64 {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only counts.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let before = ARRIVED.load(Ordering::Relaxed);
    // SAFETY: no preconditions.
    let me = unsafe { libc::pthread_self() };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // SAFETY: that thread lives until the scope ends.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                std::thread::sleep(INTERVAL);
            }
        });
        // Whatever becomes of it, the other thread has to end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    ARRIVED.load(Ordering::Relaxed) - before
}

/// What a body took, which is at least `least`. Were a wait begun anew after each signal, it would
/// never end.
fn timed<T>(least: Duration, body: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = body();
    let took = start.elapsed();
    assert!(took >= least, "{took:?} for {least:?}");
    result
}

pub fn run(role: &Role) {
    let arrived = interrupted(|| everything(role));
    assert!(
        arrived > 500,
        "{arrived} signals are too few to say anything"
    );
    say(format!("done {arrived}"));
}

fn everything(role: &Role) {
    // Some 18 MB have to be allocated, which takes longer than from one signal to the next.
    // In memory, where older kernels let go of all of it when a signal comes.
    let memory = Place::in_memory();
    let large = memory.root().join("large");
    let options = Cache::options().capacity(1 << 22);
    timed(Duration::ZERO, || drop(options.open(&large).unwrap()));
    let fanout = role.dir.join("fanout");
    drop(FanoutCache::open(fanout, 3).unwrap());
    let cache = Cache::open(role.store()).unwrap();
    // Makes keys, and lets all regions grow.
    for n in 0..400 {
        Averager::new(&cache, format!("average {n}"))
            .add(1.0)
            .unwrap();
    }
    let semaphore = BoundedSemaphore::new(&cache, "semaphore", 2_000);
    drop(semaphore.acquire().unwrap());
    let mut holder = Child::start("hold", &role.dir, &[]);
    holder.expect("held");
    waits_are_exact(&cache);
    let lock = Lock::new(&cache, "lock");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            holder.tell("end");
        });
        // Given back, and not died over.
        let guard = timed(Duration::from_millis(250), || lock.acquire().unwrap());
        assert!(guard.recovered().is_none() || crate::kit::late(guard.predecessor()).is_none());
    });
    waits_for_locks_of_files(role, &cache);
    assert!(cache.check().unwrap().is_sound());
    assert_eq!(cache.keys().unwrap().len(), 403);
    drop((lock, cache, semaphore));
    holder.finish();
    assert_eq!(Cache::repair(role.store()).unwrap().keys_kept, 403);
}

fn waits_are_exact(cache: &Cache) {
    let lock = Lock::new(cache, "lock");
    for ms in [0, 1, 20, 200, 400] {
        let time = Duration::from_millis(ms);
        let waited = timed(time, || lock.acquire_timeout(time).unwrap().is_none());
        assert!(waited, "somebody has it");
    }
    // A lease of another thread's, which runs out.
    let lease = Duration::from_millis(150);
    let rlock = RLock::new(cache, "rlock").lease(lease);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| std::mem::forget(rlock.acquire().unwrap()));
        other.join().unwrap();
        let guard = timed(Duration::ZERO, || rlock.acquire().unwrap());
        assert!(crate::kit::late(guard.predecessor()).is_some());
    });
}

/// Waits in the kernel for a byte of `stripes`, and for `attach`.
fn waits_for_locks_of_files(role: &Role, cache: &Cache) {
    let wait = Duration::from_millis(200);
    let mut options = fs::File::options();
    let options = options.write(true).read(true);
    let stripes = options.open(role.store().join("stripes")).unwrap();
    let all = 0..64 << 8;
    lock_bytes(&stripes, libc::F_WRLCK, all.clone());
    let second = role.dir.join("second");
    drop(Cache::open(&second).unwrap());
    let attach = options.open(second.join("attach")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(wait);
            lock_bytes(&stripes, libc::F_UNLCK, all.clone());
        });
        timed(wait / 2, || cache.len().unwrap());
    });
    lock_bytes(&attach, libc::F_WRLCK, all.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(wait);
            drop(attach);
        });
        timed(wait / 2, || drop(Cache::open(&second).unwrap()));
    });
}

#[test]
fn signals_interrupt_nothing() {
    let _watchdog = Watchdog::new("signals");
    let place = Place::new();
    run_role("interrupted", place.root(), &[]);
}
