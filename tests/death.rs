//! What holds when processes are killed, stopped or late: the next one gets it, is told, and finds
//! nothing half done. What holds among the living is in `processes.rs`.

mod kit;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kit::{
    Board, Child, HANGS, Place, Random, Role, Watchdog, descriptors, exit_now, fork, hear,
    is_within, kept_at_last, layout, lock_bytes, reap, reap_killed, reap_well, run, say,
    step_through, until,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::WaitStatus;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use slablock::{
    Averager, BoundedSemaphore, Cache, Error, Holder, Lock, LockGuard, Predecessor, RLock,
    RLockGuard, Result, SemaphoreGuard, Token,
};

const KINDS: [&str; 3] = ["lock", "rlock", "semaphore"];

#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    match role.name.as_str() {
        "hold" => hold(&role),
        "wait" => wait(&role),
        "killed_adders" => killed_adders(&role),
        "killed_while_popped" => killed_while_popped(&role),
        "torture" => torture(&role),
        "numbers_reused" => numbers_reused(&role),
        "supervise" => supervise(&role),
        "step_remove" => step_remove(&role),
        "step_create" => step_create(&role),
        "step_add" => step_add(&role),
        "step_acquire" => step_acquire(&role),
        other => panic!("no role {other}"),
    }
}

fn open(dir: &Place) -> Cache {
    Cache::open(dir.store()).unwrap()
}

// ---- One handle for the three kinds of holds ----

enum Handle {
    Lock(Lock),
    RLock(RLock),
    Semaphore(BoundedSemaphore),
}

enum Guard<'a> {
    Lock(LockGuard<'a>),
    RLock(RLockGuard<'a>),
    Semaphore(SemaphoreGuard<'a>),
}

impl Handle {
    fn new(cache: &Cache, kind: &str, lease_ms: u64) -> Handle {
        let lease = (lease_ms > 0).then(|| Duration::from_millis(lease_ms));
        match (kind, lease) {
            ("lock", None) => Handle::Lock(Lock::new(cache, kind)),
            ("lock", Some(lease)) => Handle::Lock(Lock::new(cache, kind).lease(lease)),
            ("rlock", None) => Handle::RLock(RLock::new(cache, kind)),
            ("rlock", Some(lease)) => Handle::RLock(RLock::new(cache, kind).lease(lease)),
            ("semaphore", None) => Handle::Semaphore(BoundedSemaphore::new(cache, kind, 1)),
            ("semaphore", Some(lease)) => {
                Handle::Semaphore(BoundedSemaphore::new(cache, kind, 1).lease(lease))
            }
            (other, _) => panic!("no kind {other}"),
        }
    }

    fn acquire_timeout(&self, time: Duration) -> Option<Guard<'_>> {
        match self {
            Handle::Lock(l) => l.acquire_timeout(time).unwrap().map(Guard::Lock),
            Handle::RLock(l) => l.acquire_timeout(time).unwrap().map(Guard::RLock),
            Handle::Semaphore(s) => s.acquire_timeout(time).unwrap().map(Guard::Semaphore),
        }
    }

    fn holder(&self) -> Option<Holder> {
        match self {
            Handle::Lock(l) => l.holder().unwrap(),
            Handle::RLock(l) => l.holder().unwrap(),
            Handle::Semaphore(s) => s.holders().unwrap().pop(),
        }
    }

    fn waiters(&self) -> usize {
        match self {
            Handle::Lock(l) => l.waiters().unwrap(),
            Handle::RLock(l) => l.waiters().unwrap(),
            Handle::Semaphore(s) => s.waiters().unwrap(),
        }
    }

    /// Releases by token, as somebody may try who is late. Whether that changed anything.
    fn release(&self, token: Token) -> bool {
        match self {
            Handle::Lock(l) => l.release(token).is_ok(),
            Handle::RLock(l) => l.release(token).is_ok(),
            Handle::Semaphore(s) => s.release(token).is_ok(),
        }
    }
}

impl Guard<'_> {
    fn token(&self) -> Token {
        match self {
            Guard::Lock(g) => g.token(),
            Guard::RLock(g) => g.token(),
            Guard::Semaphore(g) => g.token(),
        }
    }

    fn recovered(&self) -> Option<&Holder> {
        match self {
            Guard::Lock(g) => g.recovered(),
            Guard::RLock(g) => g.recovered(),
            Guard::Semaphore(g) => g.recovered(),
        }
    }

    fn predecessor(&self) -> Option<&Predecessor> {
        match self {
            Guard::Lock(g) => g.predecessor(),
            Guard::RLock(g) => g.predecessor(),
            Guard::Semaphore(g) => g.predecessor(),
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Guard::Lock(g) => g.check(),
            Guard::RLock(g) => g.check(),
            Guard::Semaphore(g) => g.check(),
        }
    }

    fn renew(&self) -> Result<()> {
        match self {
            Guard::Lock(g) => g.renew(),
            Guard::RLock(g) => g.renew(),
            Guard::Semaphore(g) => g.renew(),
        }
    }

    fn release(self) -> Result<()> {
        match self {
            Guard::Lock(g) => g.release(),
            Guard::RLock(g) => g.release(),
            Guard::Semaphore(g) => g.release(),
        }
    }
}

/// Acquires, and does what it is told.
fn hold(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let handle = Handle::new(&cache, &role.args[0], role.number(1));
    let guard = handle.acquire_timeout(HANGS).unwrap();
    let mut token = guard.token();
    say(format!("held {token}"));
    let mut guard = Some(guard);
    loop {
        let result = match hear().as_str() {
            "check" => guard.as_ref().unwrap().check(),
            "renew" => guard.as_ref().unwrap().renew(),
            "release" => guard.take().unwrap().release(),
            "acquire" => {
                let again = handle.acquire_timeout(HANGS).unwrap();
                token = again.token();
                say(format!("held {token}"));
                guard = Some(again);
                continue;
            }
            "release by token" => {
                say(handle.release(token).to_string());
                continue;
            }
            _ => return,
        };
        say(match result {
            Ok(()) => "ok".to_string(),
            Err(Error::Lost { token: of, .. }) if of == token => "lost".to_string(),
            Err(other) => other.to_string(),
        });
    }
}

/// Waits for it and gives it back when told.
fn wait(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let handle = Handle::new(&cache, &role.args[0], 0);
    say("waiting");
    let guard = handle.acquire_timeout(HANGS).unwrap();
    match guard.recovered() {
        None => say(format!("got {}", guard.token())),
        Some(dead) => say(format!("recovered {} {}", dead.pid, dead.token)),
    }
    hear();
    guard.release().unwrap();
}

// ---- SIGKILL ----

#[test]
fn a_killed_holders_hold_goes_to_the_waiter_who_is_told() {
    let _watchdog = Watchdog::new("killed holder");
    for kind in KINDS {
        let dir = Place::new();
        let mut holder = Child::start("hold", dir.root(), &[kind, "0"]);
        let token: u64 = holder.expect("held").parse().unwrap();
        let handle = Handle::new(&open(&dir), kind, 0);
        assert!(handle.acquire_timeout(Duration::ZERO).is_none());
        assert!(handle.holder().unwrap().alive);
        let mut waiter = Child::start("wait", dir.root(), &[kind]);
        waiter.expect("waiting");
        until("it waits", || handle.waiters() == 1);
        let pid = holder.pid();
        holder.kill();
        assert_eq!(waiter.expect("recovered"), format!("{pid} {token}"));
        // The one after that has nothing to be told.
        waiter.tell("release");
        let guard = handle.acquire_timeout(HANGS).unwrap();
        assert!(guard.recovered().is_none() && kit::late(guard.predecessor()).is_none());
        assert!(guard.token().get() > token + 1);
    }
}

#[test]
fn what_a_dead_one_held_is_told_in_full_to_who_only_tries() {
    let _watchdog = Watchdog::new("told in full");
    for kind in KINDS {
        let dir = Place::new();
        // Also when a lease was running, which is not waited for.
        for lease_ms in ["0", "3600000"] {
            let mut holder = Child::start("hold", dir.root(), &[kind, lease_ms]);
            let token: u64 = holder.expect("held").parse().unwrap();
            let handle = Handle::new(&open(&dir), kind, 0);
            let living = handle.holder().unwrap();
            let pid = holder.pid().as_raw() as u32;
            holder.kill();
            let shown = handle.holder().unwrap();
            assert!(living.alive && !shown.alive);
            let guard = handle.acquire_timeout(Duration::ZERO).unwrap();
            let dead = guard.recovered().unwrap();
            assert_eq!((dead.pid, dead.token.get()), (pid, token));
            let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
            assert_eq!(dead.program, living.program);
            assert!(comm.starts_with("death") || !dead.program.is_empty());
            assert!(dead.same_pid_namespace && !dead.alive);
            assert_eq!(dead.lease_left.is_some(), lease_ms != "0");
            assert!(kit::late(guard.predecessor()).is_none());
        }
    }
}

#[test]
fn a_killed_waiter_is_not_missed() {
    let _watchdog = Watchdog::new("killed waiter");
    for kind in KINDS {
        let dir = Place::new();
        let handle = Handle::new(&open(&dir), kind, 0);
        let guard = handle.acquire_timeout(Duration::ZERO).unwrap();
        let mut waiters: Vec<_> = (0..3)
            .map(|_| Child::start("wait", dir.root(), &[kind]))
            .collect();
        waiters.iter().for_each(|w| drop(w.expect("waiting")));
        until("all wait", || handle.waiters() == 3);
        waiters[0].kill();
        assert_eq!(handle.waiters(), 2);
        guard.check().unwrap();
        guard.release().unwrap();
        // The wake-up may have been meant for the dead one.
        waiters.remove(0);
        while !waiters.is_empty() {
            let mut got = None;
            until("one of them has it", || {
                let said = |w: &Child| w.line_within(Duration::from_millis(1));
                got = waiters.iter().position(|w| said(w).is_some());
                got.is_some()
            });
            let mut has_it = waiters.remove(got.unwrap());
            has_it.tell("release");
            has_it.finish();
        }
        until("nobody waits", || handle.waiters() == 0);
    }
}

#[test]
fn a_dead_ones_permit_comes_back_and_no_other() {
    let _watchdog = Watchdog::new("permits of the dead");
    let dir = Place::new();
    let cache = open(&dir);
    // The children use a value of their own key; this one shares three among forked holders.
    let semaphore = BoundedSemaphore::new(&cache, "three", 3);
    let mine = semaphore.acquire().unwrap();
    let mut child = Child::start("supervise", dir.root(), &["permits"]);
    child.expect("held");
    assert!(semaphore.try_acquire().unwrap().is_none());
    child.kill();
    assert_eq!(semaphore.available().unwrap(), 2);
    let (one, two) = (
        semaphore.try_acquire().unwrap().unwrap(),
        semaphore.try_acquire().unwrap().unwrap(),
    );
    assert!(one.recovered().is_some() && two.recovered().is_some());
    assert!(semaphore.try_acquire().unwrap().is_none());
    mine.check().unwrap();
}

// ---- Averages ----

/// Three processes add under weights that keep their counts apart in the total; each notes on the
/// board what it was told is added. Whatever is killed when, what is in the average is what was
/// noted, and at most one more for each death.
#[test]
fn a_death_inside_an_add_leaves_every_acknowledged_value_and_at_most_one_more() {
    let _watchdog = Watchdog::new("killed adders");
    let dir = Place::new();
    run("killed_adders", dir.root(), &[]);
}

const ADDERS: usize = 3;
const MOST_ADDS: u64 = 1 << 17;

fn weight(adder: usize) -> f64 {
    MOST_ADDS.pow(adder as u32) as f64
}

fn start_adder(board: &Board, averager: &Averager, adder: usize) -> Pid {
    fork(|| {
        while board.get(adder) < MOST_ADDS - 1_000 {
            averager.add(weight(adder)).unwrap();
            board.set(adder, board.get(adder) + 1);
        }
        std::thread::sleep(HANGS);
    })
}

/// How many values of each adder are in a total.
fn counts_of(total: f64) -> [u64; ADDERS] {
    assert!(total.fract() == 0.0 && total < 2f64.powi(53));
    let mut rest = total as u64;
    std::array::from_fn(|_| {
        let count = rest % MOST_ADDS;
        rest /= MOST_ADDS;
        count
    })
}

fn killed_adders(role: &Role) {
    let mut random = Random::announced("killed_adders");
    let board = role.board();
    let cache = Cache::open(role.store()).unwrap();
    let averager = Averager::new(&cache, "average");
    let mut deaths = [0; ADDERS];
    let mut running: [Pid; ADDERS] =
        std::array::from_fn(|adder| start_adder(&board, &averager, adder));
    for _ in 0..150 {
        let adder = random.below(ADDERS as u64) as usize;
        let until_count = board.get(adder) + random.below(60);
        until("some were added", || {
            board.get(adder) >= until_count.min(MOST_ADDS - 1_000)
        });
        reap_killed(running[adder]);
        deaths[adder] += 1;
        let acknowledged = board.get(adder);
        // The first may die before anybody has added anything.
        let total = averager.summary().unwrap().map_or(0.0, |all| all.total);
        let counts = counts_of(total);
        let more = counts[adder].checked_sub(acknowledged);
        assert!(more.is_some_and(|m| m <= deaths[adder]), "lost or doubled");
        running[adder] = start_adder(&board, &averager, adder);
    }
    running.into_iter().for_each(reap_killed);
    deaths.iter_mut().for_each(|d| *d += 1);
    let summary = averager.summary().unwrap().unwrap();
    let counts = counts_of(summary.total);
    assert_eq!(counts.iter().sum::<u64>(), summary.count);
    for adder in 0..ADDERS {
        let more = counts[adder].checked_sub(board.get(adder));
        assert!(more.is_some_and(|m| m <= deaths[adder]), "lost or doubled");
    }
    // The latch of a dead one stops nobody.
    averager.add(1.0).unwrap();
    assert_eq!(
        averager.summary().unwrap().unwrap().count,
        summary.count + 1
    );
    assert!(cache.check().unwrap().is_sound());
}

/// One process after the other adds 1, 2, 3, ..., each going on where the last one died; what the
/// pops took has to be all of them, in order, without a gap.
#[test]
fn every_value_is_in_exactly_one_pop_whoever_is_killed() {
    let _watchdog = Watchdog::new("killed while popped");
    let dir = Place::new();
    run("killed_while_popped", dir.root(), &[]);
}

fn killed_while_popped(role: &Role) {
    let mut random = Random::announced("killed_while_popped");
    let board = role.board();
    let cache = Cache::open(role.store()).unwrap();
    let averager = Averager::new(&cache, "average");
    let mut popped = 0;
    let mut pop = || {
        if let Some(mean) = averager.pop().unwrap() {
            let to = 2.0 * mean - (popped + 1) as f64;
            assert_eq!(to.fract(), 0.0, "a pop took {mean}, not from {popped} on");
            assert!(to > popped as f64, "a pop took {mean} after {popped}");
            popped = to as u64;
        }
        popped
    };
    let mut next = 1;
    for _ in 0..120 {
        let adder = fork(|| {
            for n in next.. {
                averager.add(n as f64).unwrap();
                board.set(0, n);
            }
        });
        let enough = next + random.below(200);
        while board.get(0) < enough {
            pop();
        }
        reap_killed(adder);
        let last = pop();
        let acknowledged = board.get(0);
        assert!(last == acknowledged || last == acknowledged + 1);
        next = last + 1;
    }
}

// ---- Anything, killed at any time ----

/// Many processes do everything at once and are killed and stopped at random. Those that live check
/// with every step that they are alone with what they hold, that tokens grow, and that a
/// predecessor who did not clear away its mark was reported as dead.
#[test]
fn random_deaths_never_break_exclusion_nor_the_store() {
    let _watchdog = Watchdog::new("torture");
    let dir = Place::new();
    run("torture", dir.root(), &[]);
}

const WORKERS: usize = 4;
// On the board: a mark and the last token for each hold, and the number of holds that were checked.
const MARKS: usize = 16;
const TOKENS: usize = 32;
const CHECKED: usize = 64;
const RECOVERED: usize = 65;

fn torture(role: &Role) {
    let mut random = Random::announced("torture");
    let board = role.board();
    let cache = Cache::options().capacity(64).open(role.store()).unwrap();
    let start = |seed| fork(|| work(&cache, &board, Random::new(seed)));
    let mut workers: Vec<Pid> = (0..WORKERS).map(|_| start(random.next())).collect();
    for _ in 0..250 {
        let enough = board.get(CHECKED) + random.below(400);
        let victim = random.below(WORKERS as u64) as usize;
        until("the workers have worked", || board.get(CHECKED) >= enough);
        if random.below(4) == 0 {
            // Stopped for a while, the others go on, with leases or by waiting.
            kill(workers[victim], Signal::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_micros(random.below(9_000)));
            kill(workers[victim], Signal::SIGCONT).unwrap();
        } else {
            reap_killed(workers[victim]);
            workers[victim] = start(random.next());
        }
    }
    workers.into_iter().for_each(reap_killed);
    assert!(
        board.get(RECOVERED) > 0,
        "nobody ever died holding anything"
    );
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    // Everything can be had, and taken away.
    for kind in KINDS {
        Handle::new(&cache, kind, 0).acquire_timeout(HANGS).unwrap();
    }
    cache.clear().unwrap();
    assert_eq!(cache.len().unwrap(), 0);
    let report = cache.check().unwrap();
    assert!(report.is_sound() && report.slots_used == 0, "{report:?}");
}

fn work(cache: &Cache, board: &Board, mut random: Random) {
    let handles = KINDS.map(|kind| Handle::new(cache, kind, 0));
    let permits = BoundedSemaphore::new(cache, "permits", 2);
    let averager = Averager::new(cache, "average").tag("churn");
    loop {
        match random.below(8) {
            n @ 0..3 => {
                let n = n as usize;
                let guard = handles[n].acquire_timeout(HANGS).unwrap();
                alone(board, n, guard.token(), guard.recovered());
                let deeper = handles[n].acquire_timeout(Duration::ZERO);
                assert_eq!(deeper.is_some(), matches!(guard, Guard::RLock(_)));
                drop(deeper);
                board.set(MARKS + n, 0);
                guard.release().unwrap();
            }
            3 => {
                let guard = permits.acquire().unwrap();
                let n = 3 + guard.permit() as usize;
                alone(board, n, guard.token(), guard.recovered());
                board.set(MARKS + n, 0);
                guard.release().unwrap();
            }
            4 => averager.add(1.0).unwrap(),
            5 => {
                // Keys come and go, also while they are held.
                let key = format!("lock {}", random.below(6));
                let lock = Lock::new(cache, &key).tag("churn");
                later(board, &key, || lock.acquire().unwrap().token());
                if random.below(2) == 0 {
                    cache.remove(&key).unwrap();
                }
            }
            6 => {
                let key = format!("semaphore {}", random.below(4));
                let value = 1 + key.len() as u32 + key.as_bytes()[10] as u32 % 7;
                let semaphore = BoundedSemaphore::new(cache, &key, value).tag("churn");
                later(board, &key, || semaphore.acquire().unwrap().token());
                if random.below(2) == 0 {
                    cache.remove(&key).unwrap();
                }
            }
            _ if random.below(10) == 0 => drop(cache.remove_tagged("churn").unwrap()),
            _ => drop(cache.key_info("average").unwrap()),
        }
    }
}

/// Checks that a grant has a later token than all that the key was seen to have before it, also
/// when the key was removed and made again in between.
fn later(board: &Board, key: &str, acquire: impl FnOnce() -> Token) {
    let digit = usize::from(key.as_bytes()[key.len() - 1] - b'0');
    let last = board.cell(TOKENS + 8 + key.len() % 2 * 10 + digit);
    let before = last.load(Ordering::SeqCst);
    let token = acquire().get();
    assert!(token > before, "{key}: {token} after {before}");
    last.fetch_max(token, Ordering::SeqCst);
}

/// Checks that nobody else is in hold number `n`, and marks it as ours.
fn alone(board: &Board, n: usize, token: Token, recovered: Option<&Holder>) {
    let mark = board.get(MARKS + n);
    assert!(
        mark == 0 || recovered.is_some(),
        "hold {n} is {mark}'s, too"
    );
    assert!(token.get() > board.get(TOKENS + n), "tokens grow");
    board.set(TOKENS + n, token.get());
    board.set(MARKS + n, std::process::id().into());
    board.add(CHECKED, 1);
    if recovered.is_some() {
        board.add(RECOVERED, 1);
    }
    assert_eq!(board.get(MARKS + n), u64::from(std::process::id()));
}

// ---- SIGSTOP and leases ----

#[test]
fn a_stopped_holder_without_a_lease_is_waited_for() {
    let _watchdog = Watchdog::new("stopped");
    for kind in KINDS {
        let dir = Place::new();
        let mut holder = Child::start("hold", dir.root(), &[kind, "0"]);
        holder.expect("held");
        let mut waiter = Child::start("wait", dir.root(), &[kind]);
        let handle = Handle::new(&open(&dir), kind, 0);
        until("it waits", || handle.waiters() == 1);
        holder.stop();
        assert!(handle.acquire_timeout(Duration::from_millis(50)).is_none());
        assert!(handle.holder().unwrap().alive);
        assert!(waiter.line_within(Duration::ZERO).as_deref() == Some("waiting"));
        holder.signal(Signal::SIGCONT);
        holder.ask("check", "ok");
        holder.ask("release", "ok");
        waiter.expect("got");
        waiter.tell("release");
        waiter.finish();
    }
}

#[test]
fn a_stopped_holders_lease_runs_out_and_it_never_frees_its_successor() {
    let _watchdog = Watchdog::new("stopped with lease");
    for kind in KINDS {
        let dir = Place::new();
        let mut holder = Child::start("hold", dir.root(), &[kind, "150"]);
        let token: u64 = holder.expect("held").parse().unwrap();
        holder.stop();
        let handle = Handle::new(&open(&dir), kind, 0);
        let guard = handle.acquire_timeout(HANGS).unwrap();
        let late = kit::late(guard.predecessor()).unwrap();
        assert_eq!(late.pid as i32, holder.pid().as_raw());
        assert_eq!(late.token.get(), token);
        assert!(late.alive && guard.recovered().is_none());
        assert!(guard.token().get() > token);
        holder.signal(Signal::SIGCONT);
        for _ in 0..2 {
            holder.ask("check", "lost");
            holder.ask("renew", "lost");
        }
        holder.ask("release by token", "false");
        guard.check().unwrap();
        // After the attempt above, a re-entrant lock has forgotten what it lost.
        holder.tell("release");
        let said = holder.expect("");
        assert!(said == "lost" || kind == "rlock", "{kind}: {said}");
        guard.check().unwrap();
        assert_eq!(handle.holder().unwrap().token, guard.token());
        holder.tell("end");
        holder.finish();
        guard.check().unwrap();
        guard.release().unwrap();
    }
}

#[test]
fn a_lease_that_is_renewed_lasts_and_one_that_is_over_is_reported_to_its_holder() {
    let _watchdog = Watchdog::new("late release");
    for kind in KINDS {
        let dir = Place::new();
        let mut holder = Child::start("hold", dir.root(), &[kind, "300"]);
        holder.expect("held");
        let handle = Handle::new(&open(&dir), kind, 0);
        // Kept well beyond the first lease, unless this machine stalled for too long.
        kept_at_last("renewed in time", || {
            let begun = Instant::now();
            holder.ask("renew", "ok");
            let mut last = begun;
            while begun.elapsed() < Duration::from_millis(500) {
                let taken = handle.acquire_timeout(Duration::from_millis(30));
                let stalled = |last: Instant| last.elapsed() > Duration::from_millis(290);
                if let Some(taken) = taken {
                    assert!(stalled(last));
                    // It is ours now; once more from the beginning.
                    taken.release().unwrap();
                    holder.ask("release", "lost");
                    holder.ask("acquire", "held");
                    return Err("stalled".to_string());
                }
                let before = Instant::now();
                holder.ask("renew", "ok");
                last = before;
            }
            let guard = handle.acquire_timeout(HANGS).unwrap();
            assert!(last.elapsed() > Duration::from_millis(290));
            holder.ask("release", "lost");
            guard.check().unwrap();
            guard.release().unwrap();
            Ok(())
        });
    }
}

// ---- Participant numbers ----

/// More processes than there are numbers join one after the other, and some die holding something,
/// so that numbers have to be swept and reused. Their holds must not pass for their successors'.
#[test]
fn numbers_of_the_dead_are_reused_and_their_holds_still_recovered() {
    let _watchdog = Watchdog::new("numbers reused");
    let dir = Place::new();
    run("numbers_reused", dir.root(), &[]);
}

fn numbers_reused(role: &Role) {
    let board = &role.board();
    let cache = Cache::open(role.store()).unwrap();
    let mine = Lock::new(&cache, "mine").acquire().unwrap().into_owned();
    let survivor = fork(|| {
        let lock = Lock::new(&cache, "survivor's");
        let _held = lock.acquire().unwrap();
        board.set(1, 1);
        until("the parent is through", || {
            std::thread::sleep(Duration::from_millis(20));
            board.get(1) == 2
        });
    });
    until("the survivor holds", || board.get(1) == 1);
    let common = Lock::new(&cache, "common");
    let mut left = Vec::new();
    let joins = 4_095 + 400;
    for n in 0..joins {
        let dies_holding = n % 90 == 7;
        let child = fork(|| {
            // Tokens of a common key grow through all of this.
            let guard = common.acquire().unwrap();
            assert!(guard.recovered().is_none());
            assert!(guard.token().get() > board.get(0));
            board.set(0, guard.token().get());
            guard.release().unwrap();
            if dies_holding {
                let lock = Lock::new(&cache, format!("left by {n}"));
                let guard = lock.acquire().unwrap();
                board.set(100 + n, guard.token().get());
                match n % 180 {
                    7 => drop(raise(Signal::SIGKILL)),
                    _ => exit_now(0),
                }
            }
        });
        let status = reap(child);
        match dies_holding && n % 180 == 7 {
            true => assert!(matches!(status, WaitStatus::Signaled(..))),
            false => assert_eq!(status, WaitStatus::Exited(child, 0)),
        }
        if dies_holding {
            left.push((n, child));
        }
    }
    for (n, pid) in &left {
        let lock = Lock::new(&cache, format!("left by {n}"));
        let guard = lock.try_acquire().unwrap().unwrap();
        let dead = guard.recovered().expect("who died is told");
        assert_eq!(dead.pid as i32, pid.as_raw(), "left by {n}");
        assert_eq!(dead.token.get(), board.get(100 + n));
        assert!(!dead.alive);
    }
    mine.check().unwrap();
    assert!(
        Lock::new(&cache, "survivor's")
            .try_acquire()
            .unwrap()
            .is_none()
    );
    board.set(1, 2);
    reap_well(survivor);
    assert!(cache.check().unwrap().is_sound());
}

// ---- Lifeline ----

#[test]
fn a_lifeline_keeps_a_dead_ones_hold_for_as_long_as_its_child_has_it() {
    let _watchdog = Watchdog::new("lifeline");
    let dir = Place::new();
    let mut supervisor = Child::start("supervise", dir.root(), &["lifeline"]);
    supervisor.expect("held");
    let program = Pid::from_raw(supervisor.expect("started").parse().unwrap());
    let pid = supervisor.pid();
    supervisor.kill();
    let lock = Lock::new(&open(&dir), "guarded");
    assert!(
        lock.acquire_timeout(Duration::from_millis(50))
            .unwrap()
            .is_none()
    );
    assert!(lock.holder().unwrap().unwrap().alive);
    kill(program, Signal::SIGKILL).unwrap();
    let guard = lock.acquire_timeout(HANGS).unwrap().unwrap();
    assert_eq!(guard.recovered().unwrap().pid as i32, pid.as_raw());
}

fn supervise(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    if role.args[0] == "permits" {
        let semaphore = BoundedSemaphore::new(&cache, "three", 3);
        let _permits = (semaphore.acquire().unwrap(), semaphore.acquire().unwrap());
        say("held");
        hear();
        return;
    }
    let lock = Lock::new(&cache, "guarded");
    let _guard = lock.acquire().unwrap();
    let line = cache.lifeline().unwrap();
    for descriptor in line.descriptors() {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let mut program = std::process::Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    say("held");
    say(format!("started {}", program.id()));
    hear();
    program.kill().unwrap();
    program.wait().unwrap();
}

/// A supervisor that is dead, not yet reaped, and whose beacon its child has: its pidfd is
/// readable, and it is alive all the same. Waiters were woken by that again and again, as fast as
/// the machine could.
#[test]
fn a_zombie_with_a_lifeline_is_waited_for_quietly() {
    let _watchdog = Watchdog::new("zombie");
    let dir = Place::new();
    let board = Board::open(dir.root());
    let store = dir.store();
    let supervisor = fork(|| {
        let cache = Cache::open(&store).unwrap();
        let lock = Lock::new(&cache, "guarded");
        let _guard = lock.acquire().unwrap();
        let _line = cache.lifeline().unwrap();
        let program = fork(|| {
            until("the test is over", || board.get(1) == 1);
        });
        board.set(0, program.as_raw() as u64);
        until("killed", || false);
    });
    until("the lock is held", || board.get(0) != 0);
    kill(supervisor, Signal::SIGKILL).unwrap();
    let lock = Lock::new(&open(&dir), "guarded");
    let before = own_cpu();
    let waited = lock.acquire_timeout(Duration::from_millis(600)).unwrap();
    let used = own_cpu() - before;
    assert!(waited.is_none());
    // It used 130 ms and more; looking every few milliseconds takes a fifth of this bound.
    assert!(used < Duration::from_millis(60), "{used:?}");
    board.set(1, 1);
    reap(supervisor);
    let guard = lock.acquire_timeout(HANGS).unwrap().unwrap();
    assert_eq!(guard.recovered().unwrap().pid as i32, supervisor.as_raw());
}

fn own_cpu() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from(now)
}

/// The process number of a dead holder is another's by now, and a child has its beacon: only the
/// start time tells. That was asked for once a second, by whoever came first, and the others never
/// learned of it.
#[test]
fn a_holder_whose_number_is_anothers_is_dead_for_all_who_ask() {
    let _watchdog = Watchdog::new("number");
    let dir = Place::new();
    let mut holder = Child::start("hold", dir.root(), &["lock", "0"]);
    holder.expect("held");
    let cache = open(&dir);
    let path = dir.root().join("store/slab");
    let slab = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut bytes = vec![0; slab.metadata().unwrap().len() as usize];
    slab.read_exact_at(&mut bytes, 0).unwrap();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let pid = holder.pid().as_raw() as u32;
    // The holder's record: used, process id, start time.
    let is_record = |at: &usize| word(*at) >> 32 & 1 == 1 && word(at + 8) as u32 == pid;
    let records: Vec<usize> = (0..bytes.len() - 128)
        .step_by(128)
        .filter(is_record)
        .collect();
    assert_eq!(records.len(), 1);
    let started = word(records[0] + 16) + 100_000;
    slab.write_all_at(&started.to_le_bytes(), records[0] as u64 + 16)
        .unwrap();
    let held = cache.keys().unwrap();
    let lock = Lock::new(&cache, &held[0].key);
    assert!(!lock.is_locked().unwrap());
    assert!(!lock.is_locked().unwrap());
    assert!(lock.try_acquire().unwrap().is_some());
    holder.kill();
}

/// Who has waited for long looks only every 150 ms whether the holder died: it has to hear of it.
/// Five deaths, each at another moment of that rhythm, for an average delay that looking alone does
/// not come near.
#[test]
fn a_long_wait_ends_with_the_death_of_the_holder() {
    let _watchdog = Watchdog::new("long wait");
    let dir = Place::new();
    let lock = Lock::new(&open(&dir), "long");
    let delay = |wait_ms: u64| {
        let board = Board::open(dir.root());
        board.set(0, 0);
        let store = dir.store();
        let holder = fork(|| {
            let lock = Lock::new(&Cache::open(store).unwrap(), "long");
            let _guard = lock.acquire().unwrap();
            board.set(0, 1);
            until("killed", || false);
        });
        until("the lock is held", || board.get(0) == 1);
        let killer = std::thread::spawn(move || {
            // How long it is waited before the death is what this test is about.
            std::thread::sleep(Duration::from_millis(wait_ms));
            let killed = Instant::now();
            kill(holder, Signal::SIGKILL).unwrap();
            killed
        });
        let guard = lock.acquire_timeout(HANGS).unwrap().unwrap();
        let acquired = Instant::now();
        assert!(guard.recovered().is_some());
        let killed = killer.join().unwrap();
        reap(holder);
        acquired.duration_since(killed)
    };
    kept_at_last("three of five within 40 ms", || {
        let mut delays = [75, 90, 105, 120, 135].map(delay);
        delays.sort();
        is_within(delays[2], Duration::from_millis(40))
    });
}

/// A grandchild inherits lock files that its parent closed already, and their numbers are other
/// files' by now: closing them again took the grandchild's own from it.
#[test]
fn a_grandchild_keeps_its_own_files() {
    let _watchdog = Watchdog::new("grandchild");
    let dir = Place::new();
    let _inherited = open(&dir);
    reap_well(fork(|| {
        let numbers: Vec<std::fs::File> = (0..8)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        reap_well(fork(|| {
            assert!(numbers.iter().all(|file| file.metadata().is_ok()));
        }));
    }));
}

/// Forking is still possible when the thread's own variables are gone: the hook used one, and
/// aborted.
#[test]
#[allow(unsafe_code)]
fn a_fork_while_the_process_exits_is_a_fork() {
    extern "C" fn late() {
        reap_well(fork(|| ()));
    }
    let _watchdog = Watchdog::new("exit");
    let dir = Place::new();
    let store = dir.store();
    let child = fork(|| {
        let _cache = Cache::open(&store).unwrap();
        reap_well(fork(|| ()));
        // SAFETY: `late` does nothing that an exit handler may not do; `exit` ends this process.
        unsafe {
            libc::atexit(late);
            libc::exit(7);
        }
    });
    assert_eq!(reap(child), WaitStatus::Exited(child, 7));
}

/// A process that is stopped while it joins makes others wait that want to join, but nobody who
/// forks.
#[test]
fn forking_does_not_wait_for_who_is_joining() {
    let _watchdog = Watchdog::new("joining");
    let dir = Place::new();
    let store = dir.store();
    drop(Cache::open(&store).unwrap());
    let stripes = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(store.join("stripes"))
        .unwrap();
    // What a process in the middle of joining has locked.
    lock_bytes(&stripes, libc::F_WRLCK, 64 << 8..(64 << 8) + 1);
    let slab = store.join("slab").canonicalize().unwrap();
    let opener = std::thread::spawn(move || Cache::open(store).map(drop));
    until("it has the slab, and comes to joining", || {
        descriptors().values().any(|file| *file == slab)
    });
    // One that waits would do so for ever.
    for _ in 0..100 {
        reap_well(fork(|| ()));
    }
    assert!(!opener.is_finished());
    drop(stripes);
    opener.join().unwrap().unwrap();
}

// ---- Killed after any instruction ----

fn step_role(test: &'static str, role: &str) {
    let _watchdog = Watchdog::new(test);
    let dir = Place::new();
    run(role, dir.root(), &[]);
}

#[test]
fn a_death_at_any_instruction_of_removing_a_key_leaves_a_sound_store() {
    step_role("step remove", "step_remove");
}

#[test]
fn a_death_at_any_instruction_of_making_a_key_leaves_a_sound_store() {
    step_role("step create", "step_create");
}

#[test]
fn a_death_at_any_instruction_of_an_add_adds_it_whole_or_not_at_all() {
    step_role("step add", "step_add");
}

#[test]
fn a_death_at_any_instruction_of_acquire_and_release_is_recovered() {
    step_role("step acquire", "step_acquire");
}

/// Runs `body` in a traced child, instruction by instruction, and now and then copies the store as
/// it is at that instruction: in the copy, everybody is dead. `verify` looks at each copy.
fn at_any_instruction(
    role: &Role,
    every: u64,
    ready: impl Fn(),
    body: impl Fn(),
    verify: impl Fn(&Cache, u64),
) {
    let mut random = Random::announced(&role.name);
    let mut next = random.below(every);
    let mut copies = 0;
    let look = |step: u64| {
        if step < next {
            return;
        }
        next = step + 1 + random.below(2 * every);
        copies += 1;
        let copy = role.dir.join(format!("copy {step}"));
        copy_store(&role.store(), &copy);
        verify(&Cache::open(&copy).unwrap(), step);
        std::fs::remove_dir_all(copy).unwrap();
    };
    match step_through(ready, body, look) {
        Some(steps) => eprintln!("{}: {copies} deaths in {steps} instructions", role.name),
        None => eprintln!("{} is skipped: tracing is not allowed here", role.name),
    }
}

/// Copies a store as it is, so that the copy passes for the original.
fn copy_store(store: &Path, copy: &Path) {
    std::fs::create_dir(copy).unwrap();
    for name in ["attach", "beacons", "stripes", "slab"] {
        std::fs::copy(store.join(name), copy.join(name)).unwrap();
    }
    layout::name_files(copy, copy);
}

fn small_store(role: &Role) -> Cache {
    Cache::options().capacity(64).open(role.store()).unwrap()
}

/// Uses, all at once, what the dead one's change may have left twice in use.
fn verify_store(cache: &Cache, step: u64) {
    // Others take the room that the dead one was giving back, before anybody sees to what it left.
    let names = (0..4).map(|n| format!("filler {n}"));
    let all: Vec<_> = names
        .chain(["key".to_string()])
        .map(|name| BoundedSemaphore::new(cache, name, 6))
        .collect();
    let held: Vec<_> = all
        .iter()
        .flat_map(|semaphore| (0..6).map(|_| semaphore.try_acquire().unwrap()))
        .collect();
    assert!(held.iter().all(Option::is_some), "after {step}: no permit");
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "after {step}: {report:?}");
    assert_eq!(report.keys, 5, "after {step}");
    for guard in held.into_iter().flatten() {
        guard.release().unwrap();
    }
    assert_eq!(cache.clear().unwrap(), 5);
    let report = cache.check().unwrap();
    assert!(
        report.is_sound() && report.slots_used == 0,
        "after {step}: {report:?}"
    );
}

fn step_remove(role: &Role) {
    let cache = small_store(role);
    let board = role.board();
    let ready = || {
        let semaphore = BoundedSemaphore::new(&cache, "key", 6);
        (0..9).for_each(|_| board.set(TOKENS, semaphore.acquire().unwrap().token().get()));
    };
    let body = || assert!(cache.remove("key").unwrap());
    at_any_instruction(role, 60, ready, body, |cache, step| {
        verify_store(cache, step);
        let again = BoundedSemaphore::new(cache, "key", 6);
        let token = again.acquire().unwrap().token().get();
        assert!(token > board.get(TOKENS), "after {step}: tokens grow");
    });
}

fn step_create(role: &Role) {
    let cache = small_store(role);
    let handle = BoundedSemaphore::new(&cache, "key", 6).tag("tag");
    // Joined, but with the key not made.
    let ready = || assert!(!cache.remove("key").unwrap());
    let body = || drop(handle.acquire().unwrap());
    at_any_instruction(role, 60, ready, body, verify_store);
}

fn step_add(role: &Role) {
    let cache = small_store(role);
    let averager = Averager::new(&cache, "key");
    let ready = || {
        [1.0, 2.0]
            .into_iter()
            .for_each(|n| averager.add(n).unwrap())
    };
    let body = || averager.add(4.0).unwrap();
    at_any_instruction(role, 30, ready, body, |cache, step| {
        let averager = Averager::new(cache, "key");
        let is = averager.summary().unwrap().unwrap();
        let whole = [(2, 3.0, 2.0), (3, 7.0, 4.0)].contains(&(is.count, is.total, is.max));
        assert!(whole, "after {step}: {is:?}");
        averager.add(8.0).unwrap();
        let then = averager.summary().unwrap().unwrap();
        assert_eq!((then.count, then.total), (is.count + 1, is.total + 8.0));
        assert!(cache.check().unwrap().is_sound());
    });
}

fn step_acquire(role: &Role) {
    let board = role.board();
    let cache = small_store(role);
    let handles = KINDS.map(|kind| Handle::new(&cache, kind, 60_000));
    let ready = || {
        let all = handles
            .each_ref()
            .map(|h| h.acquire_timeout(Duration::ZERO));
        assert!(all.iter().all(Option::is_some));
    };
    // On the board, what is 1 while it is certainly held, and the token of that hold.
    let body = || {
        for (n, handle) in handles.iter().enumerate() {
            let guard = handle.acquire_timeout(Duration::ZERO).unwrap();
            board.set(TOKENS + n, guard.token().get());
            board.set(MARKS + n, 1);
            guard.renew().unwrap();
            board.set(MARKS + n, 0);
            guard.release().unwrap();
        }
    };
    at_any_instruction(role, 60, ready, body, |cache, step| {
        for (n, kind) in KINDS.iter().enumerate() {
            let handle = Handle::new(cache, kind, 0);
            let guard = handle.acquire_timeout(Duration::ZERO);
            let guard = guard.unwrap_or_else(|| panic!("after {step}: still held"));
            let token = board.get(TOKENS + n);
            assert!(guard.token().get() > token, "after {step}");
            if board.get(MARKS + n) == 1 {
                let dead = guard
                    .recovered()
                    .unwrap_or_else(|| panic!("after {step}: not told"));
                assert_eq!(dead.token.get(), token);
            }
            guard.release().unwrap();
        }
    });
}
