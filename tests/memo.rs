//! Values that are computed when they are missing: once for all threads of all processes.

#![allow(missing_docs)]

mod kit;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use kit::{
    Board, Child, Place, Role, Watchdog, alone, exit_now, fork, hear, reap_well, say, until,
};
use nix::libc;
use slablock::{Cache, Error, Eviction, FanoutCache, Kind, Lock, SetOptions};

/// Cells of the board: how often the function ran, and who runs it, from 1.
const RAN: usize = 0;
const RUNNER: usize = 1;
const COMPUTING: usize = 2;
const ASKERS: usize = 5;

/// What comes of it when it does not come to a value.
#[derive(Debug)]
enum Failed {
    Cache(Error),
    Own,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Cache(error)
    }
}

#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    match &*role.name {
        "asker" => asker(&role),
        "forker" => forker(&role),
        other => panic!("no role {other}"),
    }
}

/// Asks once for each line it hears, and says what it got. Computing means to do what the parent
/// says.
fn asker(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let (board, me) = (role.board(), role.number(0));
    say("up");
    while hear() == "ask" {
        let compute = || {
            board.increment_badly(RAN);
            board.set(RUNNER, me);
            board.cell(COMPUTING).fetch_add(1, Ordering::SeqCst);
            let told = hear();
            board.cell(COMPUTING).fetch_sub(1, Ordering::SeqCst);
            match told.split_once(' ') {
                Some(("value", value)) => Ok(value.as_bytes().to_vec()),
                Some(("panic", _)) => panic!("as told"),
                _ => Err(Failed::Own),
            }
        };
        let asked = || cache.get_or_insert_as("k", &SetOptions::new(), compute);
        match catch_unwind(AssertUnwindSafe(asked)) {
            Ok(Ok(value)) => say(format!("got {}", String::from_utf8(value).unwrap())),
            Ok(Err(Failed::Own)) => say("failed"),
            Ok(Err(Failed::Cache(error))) => panic!("{error}"),
            Err(_) => say("panicked"),
        }
    }
}

/// Computes in a parent and in its child at once.
fn forker(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let board = role.board();
    let asked = cache.get_or_insert_as("k", &SetOptions::new(), || {
        let child = fork(|| {
            board.set(RUNNER, 1);
            // The function goes on in the child, too, and returns something else there.
            let inside = cache.get_or_insert_as::<Error>("other", &SetOptions::new(), || {
                Ok(b"the child's own".to_vec())
            });
            assert_eq!(inside.unwrap(), b"the child's own");
        });
        reap_well(child);
        say("forked");
        hear();
        slablock::Result::Ok(b"the parent's".to_vec())
    });
    assert_eq!(asked.unwrap(), b"the parent's");
    // And now the child returns through it.
    let parent = std::process::id();
    let returned = cache.get_or_insert_as("returned", &SetOptions::new(), || {
        // The parent waits for its child, and so does who computes, in the parent only.
        let mut pipe = std::io::pipe().unwrap();
        let pid = fork_and_go_on();
        if std::process::id() == parent {
            drop(pipe.1);
            let mut word = Vec::new();
            std::io::Read::read_to_end(&mut pipe.0, &mut word).unwrap();
            assert_eq!(word, b"left");
            reap_well(nix::unistd::Pid::from_raw(pid));
            // The child has given nothing back, and has set nothing.
            assert!(!cache.contains("returned").unwrap());
            return slablock::Result::Ok(b"of the parent".to_vec());
        }
        PIPE.set(pipe.1).unwrap();
        Ok(b"of the child".to_vec())
    });
    if std::process::id() != parent {
        assert_eq!(returned.unwrap(), b"of the child");
        let pipe = PIPE.get().unwrap();
        std::io::Write::write_all(&mut &*pipe, b"left").unwrap();
        exit_now(0);
    }
    assert_eq!(returned.unwrap(), b"of the parent");
    assert_eq!(cache.get("returned").unwrap().unwrap(), b"of the parent");
    say("done");
}

static PIPE: std::sync::OnceLock<std::io::PipeWriter> = std::sync::OnceLock::new();

/// Forks, and returns in both: the child's process id in the parent, 0 in the child.
#[allow(unsafe_code)]
fn fork_and_go_on() -> i32 {
    // SAFETY: the child only uses what this crate makes usable after a fork, and the allocator,
    // which the C library makes usable.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => child.as_raw(),
        nix::unistd::ForkResult::Child => 0,
    }
}

struct Askers {
    dir: Place,
    board: Board,
    all: Vec<Child>,
}

impl Askers {
    /// All of them have asked: one computes, the others sleep.
    fn asking() -> Askers {
        let dir = Place::new();
        let board = Board::open(dir.root());
        let start = |me: usize| Child::start("asker", dir.root(), &[&me.to_string()]);
        let mut all: Vec<Child> = (1..=ASKERS).map(start).collect();
        for child in &mut all {
            child.expect("up");
            child.tell("ask");
        }
        let askers = Askers { dir, board, all };
        let runner = askers.runner();
        for (at, child) in askers.all.iter().enumerate() {
            if at != runner {
                until("the others sleep", || sleeps(child));
            }
        }
        askers
    }

    /// Waits for one to compute.
    fn runner(&self) -> usize {
        until("one computes", || self.board.get(RUNNER) != 0);
        self.board.get(RUNNER) as usize - 1
    }

    /// Tells the one who computes what comes of it, and waits for the next one who does.
    fn pass_on(&mut self, how: &str, answer: &str) -> usize {
        let before = self.runner();
        self.board.set(RUNNER, 0);
        match how {
            "kill" => self.all[before].kill(),
            how => drop(self.all[before].ask(how, answer)),
        }
        let next = self.runner();
        assert_ne!(next, before);
        next
    }

    /// Lets all come to a value but the one who has failed: none waits for another one.
    fn finish_all(mut self, failed: usize) {
        until("all compute", || {
            self.board.get(COMPUTING) == ASKERS as u64 - 1
        });
        for (at, child) in self.all.iter_mut().enumerate() {
            if at != failed {
                child.tell(&format!("value of {at}"));
                assert_eq!(child.expect("got"), format!("of {at}"));
            }
        }
        let kept = Cache::open(self.dir.store()).unwrap().get("k").unwrap();
        assert!(kept.is_some_and(|kept| kept.starts_with(b"of ")));
    }

    /// Lets it come to a value, which all but those who were told otherwise before get.
    fn finish(mut self, gone: usize, ran: u64) {
        let runner = self.runner();
        self.all[runner].tell("value v");
        for (at, child) in self.all.iter().enumerate() {
            if at != gone {
                assert_eq!(child.expect("got"), "v");
            }
        }
        assert_eq!(self.board.get(RAN), ran);
    }
}

/// Whether a child waits for another process: its test thread, as its main thread always does, in a
/// futex.
fn sleeps(child: &Child) -> bool {
    let futex = format!("{} ", libc::SYS_futex);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.pid())).unwrap();
    let calls = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("syscall")));
    let waiting = calls.filter(|call| call.as_ref().is_ok_and(|call| call.starts_with(&futex)));
    waiting.count() >= 2
}

#[test]
fn one_process_computes_for_all() {
    let _watchdog = Watchdog::new("one_process_computes_for_all");
    Askers::asking().finish(usize::MAX, 1);
}

#[test]
fn the_next_one_computes_when_the_one_who_did_is_killed() {
    let _watchdog = Watchdog::new("the_next_one_computes_when_the_one_who_did_is_killed");
    let mut askers = Askers::asking();
    let killed = askers.runner();
    askers.pass_on("kill", "");
    askers.finish(killed, 2);
}

#[test]
fn an_error_goes_to_its_caller_and_those_who_waited_compute() {
    let _watchdog = Watchdog::new("an_error_goes_to_its_caller_and_those_who_waited_compute");
    let mut askers = Askers::asking();
    let failed = askers.runner();
    askers.pass_on("fail", "failed");
    askers.finish_all(failed);
}

#[test]
fn a_panic_goes_to_its_caller_and_those_who_waited_compute() {
    let _watchdog = Watchdog::new("a_panic_goes_to_its_caller_and_those_who_waited_compute");
    let mut askers = Askers::asking();
    let failed = askers.runner();
    askers.pass_on("panic now", "panicked");
    askers.finish_all(failed);
}

#[test]
fn a_fork_in_the_function_takes_nothing_and_sets_nothing() {
    let _watchdog = Watchdog::new("a_fork_in_the_function_takes_nothing_and_sets_nothing");
    let dir = Place::new();
    let board = Board::open(dir.root());
    let mut forker = Child::start("forker", dir.root(), &[]);
    forker.expect("forked");
    assert_eq!(board.get(RUNNER), 1);
    let mut asker = Child::start("asker", dir.root(), &["2"]);
    asker.expect("up");
    asker.tell("ask");
    until("the other sleeps", || sleeps(&asker));
    forker.tell("go on");
    assert_eq!(asker.expect("got"), "the parent's");
    forker.expect("done");
    assert_eq!(board.get(RAN), 0);
}

/// Whoever has the turn right after another one finished finds the value, however the two met.
#[test]
fn threads_compute_each_value_once() {
    const KEYS: usize = 3_000;
    const THREADS: usize = 4;
    let _watchdog = Watchdog::new("threads_compute_each_value_once");
    let dir = Place::new();
    let cache = cache_in(dir.root());
    let barrier = std::sync::Barrier::new(THREADS);
    let ran = std::sync::Mutex::new(vec![0; KEYS]);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for n in 0..KEYS {
                    // From time to time, so that they meet in different ways.
                    if n % 8 == 0 {
                        barrier.wait();
                    }
                    let value = n.to_string().into_bytes();
                    let got = cache.get_or_insert_as(&value, &SetOptions::new(), || {
                        ran.lock().unwrap()[n] += 1;
                        slablock::Result::Ok(value.clone())
                    });
                    assert_eq!(got.unwrap(), value);
                }
            });
        }
    });
    assert!(ran.into_inner().unwrap().iter().all(|ran| *ran == 1));
    assert!(cache.check().unwrap().is_sound());
}

fn cache_in(dir: &Path) -> Cache {
    Cache::open(dir.join("store")).unwrap()
}

fn for_long() -> SetOptions {
    SetOptions::new().expire(Duration::from_secs(3_600))
}

/// Nobody is ever not chosen by that.
const AT_ONCE: f64 = 1e15;

#[test]
fn a_value_that_is_there_is_not_computed() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    let tagged = for_long().tag("t");
    let number = |n: u8| move || slablock::Result::Ok(vec![n]);
    assert_eq!(
        cache.get_or_insert_as("k", &tagged, number(1)).unwrap(),
        [1]
    );
    assert_eq!(
        cache.get_or_insert_as("k", &tagged, number(2)).unwrap(),
        [1]
    );
    let entry = cache.entry("k").unwrap().unwrap();
    assert_eq!(entry.tag.as_deref(), Some(&b"t"[..]));
    assert!(entry.expires_in.is_some());
    assert_eq!(cache.remove_tagged("t").unwrap(), 1);
    assert_eq!(
        cache.get_or_insert_as("k", &tagged, number(3)).unwrap(),
        [3]
    );
    cache.delete("k").unwrap();
    let large = vec![7; 100_000];
    let got = cache.get_or_insert_as("k", &tagged, || slablock::Result::Ok(large.clone()));
    assert!(got.unwrap() == large);
    let fanout = FanoutCache::open(dir.root().join("fanout"), 3).unwrap();
    for n in 0..20 {
        let key = [n];
        assert_eq!(
            fanout.get_or_insert_as(key, &tagged, number(n)).unwrap(),
            key
        );
        assert_eq!(
            fanout.get_or_insert_as(key, &tagged, number(99)).unwrap(),
            key
        );
    }
    // Nothing is left of who was to compute.
    assert_eq!(cache.check().unwrap().slots_used, 1);
    assert_eq!(fanout.check().unwrap().slots_used, 20);
}

#[test]
fn one_computes_early_and_the_others_go_on() {
    let dir = Place::new();
    let cache = &cache_in(dir.root());
    let ask = |beta, value: &'static str| {
        let got = cache.get_or_refresh_as("k", &for_long(), beta, || {
            slablock::Result::Ok(value.into())
        });
        String::from_utf8(got.unwrap()).unwrap()
    };
    assert_eq!(ask(AT_ONCE, "first"), "first");
    assert_eq!(ask(1.0, "not yet"), "first");
    assert_eq!(ask(0.0, "never"), "first");
    assert_eq!(ask(AT_ONCE, "second"), "second");
    let plain = cache.get_or_insert_as("k", &for_long(), || slablock::Result::Ok(vec![]));
    assert_eq!(plain.unwrap(), b"second");
    std::thread::scope(|scope| {
        let (begun, wait) = (channel(), channel::<()>());
        let computing = scope.spawn(move || {
            cache.get_or_refresh_as("k", &for_long(), AT_ONCE, || {
                begun.0.send(()).unwrap();
                wait.1.recv().unwrap();
                slablock::Result::Ok(b"third".to_vec())
            })
        });
        begun.1.recv().unwrap();
        assert_eq!(ask(AT_ONCE, "at the same time"), "second");
        wait.0.send(()).unwrap();
        assert_eq!(computing.join().unwrap().unwrap(), b"third");
    });
    assert_eq!(ask(AT_ONCE, "fourth"), "fourth");
}

#[test]
fn an_early_error_goes_to_its_caller_and_the_value_stays() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    let ask = |result: Result<Vec<u8>, Failed>| {
        cache.get_or_refresh_as("k", &for_long(), AT_ONCE, || result)
    };
    ask(Ok(b"first".to_vec())).unwrap();
    for _ in 0..3 {
        assert!(matches!(ask(Err(Failed::Own)), Err(Failed::Own)));
        assert_eq!(cache.get("k").unwrap().unwrap(), b"first");
    }
    assert_eq!(ask(Ok(b"second".to_vec())).unwrap(), b"second");
}

#[test]
fn without_an_end_nothing_is_early() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    for _ in 0..3 {
        let got = cache.get_or_refresh_as("k", &SetOptions::new(), AT_ONCE, || {
            assert!(!cache.contains("k").unwrap());
            slablock::Result::Ok(vec![1])
        });
        assert_eq!(got.unwrap(), [1]);
    }
    // A value that somebody else set says nothing of how long it takes.
    cache.set_with("set", "v", &for_long()).unwrap();
    let got = cache.get_or_refresh_as::<Error>("set", &for_long(), AT_ONCE, || unreachable!());
    assert_eq!(got.unwrap(), b"v");
}

#[test]
fn what_cannot_be_set_is_refused_before_it_is_computed() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    drop(Lock::new(&cache, "lock").acquire().unwrap());
    let ask = |key: &[u8], options: &SetOptions, beta| {
        cache
            .get_or_refresh_as::<Error>(key, options, beta, || unreachable!())
            .unwrap_err()
    };
    let plain = SetOptions::new();
    let is_kind = |error| matches!(error, Error::KindMismatch { found, .. } if found == Kind::Lock);
    assert!(is_kind(ask(b"lock", &plain, 1.0)));
    assert!(matches!(ask(b"", &plain, 1.0), Error::KeyLength { .. }));
    let long = [0; 1_025];
    assert!(matches!(ask(&long, &plain, 1.0), Error::KeyLength { .. }));
    let tag = SetOptions::new().tag([0; 256]);
    assert!(matches!(ask(b"k", &tag, 1.0), Error::TagLength { .. }));
    let zero = SetOptions::new().expire(Duration::ZERO);
    assert!(matches!(ask(b"k", &zero, 1.0), Error::Invalid { .. }));
    for beta in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(ask(b"k", &plain, beta), Error::Invalid { .. }));
    }
    assert_eq!(cache.len().unwrap(), 1);
}

#[test]
fn a_store_that_is_cleared_meanwhile_does_not_keep_it() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    let got = cache.get_or_insert_as("k", &SetOptions::new(), || {
        // Nothing of this is to be seen.
        assert_eq!(cache.len().unwrap(), 0);
        assert!(cache.keys().unwrap().is_empty());
        assert!(cache.key_info("k").unwrap().is_none());
        assert!(!cache.remove("k").unwrap());
        assert_eq!(cache.check().unwrap().keys, 0);
        assert_eq!(cache.clear().unwrap(), 0);
        slablock::Result::Ok(b"too late".to_vec())
    });
    assert_eq!(got.unwrap(), b"too late");
    assert_eq!(cache.get("k").unwrap(), None);
    let report = cache.check().unwrap();
    assert!(report.is_sound() && report.slots_used == 0);
}

/// A lock may have the name of a turn, and a turn the name of a lock.
#[test]
fn the_turn_to_compute_is_in_nobodys_way() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    let got = cache.get_or_insert_as("k", &SetOptions::new(), || {
        let lock = Lock::new(&cache, "k");
        drop(lock.acquire().unwrap());
        assert_eq!(cache.keys().unwrap().len(), 1);
        assert!(cache.remove("k").unwrap());
        assert!(cache.check().unwrap().is_sound());
        slablock::Result::Ok(b"v".to_vec())
    });
    assert_eq!(got.unwrap(), b"v");
    assert_eq!(cache.get("k").unwrap().unwrap(), b"v");
}

#[test]
fn repair_keeps_a_value_and_how_long_it_took() {
    let dir = Place::new();
    for round in 0..3 {
        let cache = cache_in(dir.root());
        let got = cache.get_or_refresh_as("k", &for_long(), AT_ONCE, || {
            slablock::Result::Ok(vec![round])
        });
        assert_eq!(got.unwrap(), [round]);
        drop(cache);
        let report = Cache::repair(dir.store()).unwrap();
        assert_eq!((report.keys_kept, report.keys_lost), (1, 0), "{report:?}");
        assert!(report.actions.is_empty(), "{report:?}");
    }
}

/// Whoever died while it computed has left nothing that anybody would have to be told of.
#[test]
fn a_turn_of_the_dead_takes_no_room() {
    let _watchdog = Watchdog::new("a_turn_of_the_dead_takes_no_room");
    let dir = Place::new();
    let options = Cache::options().capacity(64).eviction(Eviction::None);
    let cache = options.open(dir.store()).unwrap();
    let board = Board::open(dir.root());
    let mut asker = Child::start("asker", dir.root(), &["1"]);
    asker.expect("up");
    asker.tell("ask");
    until("it computes", || board.get(RUNNER) != 0);
    for n in 0..63_u8 {
        cache.set([n], "v").unwrap();
    }
    // The turn of one who lives is not taken away for anything.
    assert!(matches!(cache.set("k", "v"), Err(Error::Full { .. })));
    asker.kill();
    cache.set("k", "v").unwrap();
    assert_eq!(cache.len().unwrap(), 64);
    assert!(cache.check().unwrap().is_sound());
}

/// What is kept beside values is the last to go, but it goes.
#[test]
fn values_fill_a_store_whatever_is_known_of_them() {
    let dir = Place::new();
    let cache = Cache::options().capacity(64).eviction(Eviction::None);
    let cache = cache.open(dir.store()).unwrap();
    for n in 0..60_u8 {
        let got = cache.get_or_refresh_as([n], &for_long(), 1.0, || slablock::Result::Ok(vec![n]));
        assert_eq!(got.unwrap(), [n]);
    }
    assert_eq!(cache.len().unwrap(), 60);
    assert!(cache.check().unwrap().is_sound());
    // Of values that are gone nothing is known, and their turns make room first.
    let dir = Place::new();
    let cache = Cache::options().capacity(64).eviction(Eviction::None);
    let cache = cache.open(dir.store()).unwrap();
    for n in 0..100_u8 {
        let compute = || slablock::Result::Ok(vec![n]);
        cache
            .get_or_refresh_as("kept", &for_long(), 1.0, compute)
            .unwrap();
        cache
            .get_or_refresh_as([n], &for_long(), 1.0, compute)
            .unwrap();
        cache.delete([n]).unwrap();
    }
    let compute = || slablock::Result::Ok(b"early".to_vec());
    let early = cache.get_or_refresh_as("kept", &for_long(), AT_ONCE, compute);
    assert_eq!(early.unwrap(), b"early");
}

#[test]
fn a_value_that_needs_itself_is_an_error() {
    let _watchdog = Watchdog::new("a_value_that_needs_itself_is_an_error");
    let dir = Place::new();
    let cache = Cache::open(dir.store()).unwrap();
    let options = SetOptions::new();
    let ask = |key: &str, compute: &mut dyn FnMut() -> slablock::Result<Vec<u8>>| {
        cache.get_or_insert_as(key, &options, compute)
    };
    let got = ask("a", &mut || ask("b", &mut || ask("a", &mut || Ok(vec![1]))));
    assert!(matches!(got, Err(Error::Deadlock { .. })), "{got:?}");
    // Nobody has either any more.
    assert_eq!(ask("a", &mut || Ok(vec![2])).unwrap(), [2]);
    assert_eq!(
        ask("b", &mut || ask("a", &mut || Ok(vec![3]))).unwrap(),
        [2]
    );
    // Another thread's computing is waited for.
    let got = ask("c", &mut || {
        std::thread::scope(|scope| {
            let other =
                scope.spawn(|| cache.get_or_insert_as("d", &options, || Ok::<_, Error>(vec![4])));
            other.join().unwrap()
        })
    });
    assert_eq!(got.unwrap(), [4]);
}

/// Its turn is gone, and another's lock lies where it lay.
#[test]
fn who_computes_while_the_store_is_cleared_waits_for_others_as_ever() {
    let _watchdog = Watchdog::new("cleared while it computes");
    let dir = Place::new();
    // Room for one key.
    let options = Cache::options().capacity(1);
    let cache = options.open(dir.store()).unwrap();
    let (lock, (taken, is_taken)) = (Lock::new(&cache, "lock"), channel());
    let got = cache.get_or_insert_as("k", &SetOptions::new(), || {
        cache.clear()?;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let guard = lock.acquire().unwrap();
                taken.send(()).unwrap();
                until("it is waited for", || lock.waiters().unwrap() == 1);
                guard.release().unwrap();
            });
            is_taken.recv().unwrap();
            lock.acquire()?.release()
        })?;
        slablock::Result::Ok(vec![1])
    });
    assert_eq!(got.unwrap(), [1]);
}

/// Over the limit, with nothing that may go for it.
#[test]
fn what_cannot_be_kept_is_returned_all_the_same() {
    let dir = Place::new();
    let options = Cache::options()
        .size_limit(4 << 20)
        .eviction(Eviction::None);
    let cache = options.open(dir.store()).unwrap();
    let large = vec![7; 5 << 20];
    let compute = || slablock::Result::Ok(large.clone());
    let plain = SetOptions::new();
    let got = cache.get_or_insert_as("k", &plain, compute).unwrap();
    assert!(got == large);
    let got = cache.get_or_refresh_as("k", &for_long(), 1.0, compute);
    assert!(got.unwrap() == large);
    assert_eq!(cache.stats().unwrap().unkept, 2);
    let computed = cache.compute_if_missing("k", &plain, compute).unwrap();
    assert!(computed.is_new && computed.value == large);
    let why = computed.unkept.unwrap();
    assert!(matches!(why, Error::ValueLength { .. }), "{why}");
    // Nobody waits for it, and nothing is left of the turns.
    assert_eq!(cache.check().unwrap().slots_used, 0);
    let small = || slablock::Result::Ok(b"small".to_vec());
    let computed = cache.compute_if_missing("k", &plain, small).unwrap();
    assert!(computed.is_new && computed.unkept.is_none());
    let there = cache
        .compute_if_missing::<Error>("k", &plain, || unreachable!())
        .unwrap();
    assert!(!there.is_new && there.unkept.is_none() && there.value == b"small");
    assert_eq!(cache.stats().unwrap().unkept, 3);
}

#[test]
fn that_a_computed_value_is_not_kept_is_told_also_if_the_store_was_cleared() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    let computed = cache.compute_if_missing("k", &SetOptions::new(), || {
        cache.clear().unwrap();
        slablock::Result::Ok(b"too late".to_vec())
    });
    let computed = computed.unwrap();
    assert!(computed.value == b"too late" && computed.is_new);
    let why = computed.unkept.unwrap();
    assert!(matches!(why, Error::Lost { .. }), "{why}");
    assert_eq!(cache.stats().unwrap().unkept, 1);
}

/// Somebody uses the key as something else by then.
#[test]
fn a_value_that_became_a_lock_meanwhile_is_returned() {
    let dir = Place::new();
    let cache = cache_in(dir.root());
    let computed = cache.compute_if_missing("k", &SetOptions::new(), || {
        drop(Lock::new(&cache, "k").acquire().unwrap());
        slablock::Result::Ok(b"value".to_vec())
    });
    // A lock that nobody holds gives way.
    let computed = computed.unwrap();
    assert!(computed.value == b"value");
    let held = cache.compute_if_missing("held", &SetOptions::new(), || {
        std::mem::forget(Lock::new(&cache, "held").acquire().unwrap());
        slablock::Result::Ok(b"value".to_vec())
    });
    let why = held.unwrap().unkept.unwrap();
    assert!(matches!(why, Error::KindMismatch { .. }), "{why}");
}

/// What was computed may be of what was before: it is returned, and not kept.
#[test]
fn what_was_changed_or_deleted_meanwhile_is_not_overwritten() {
    type Change = fn(&Cache);
    let changes: [(&str, Change, Option<&[u8]>); 8] = [
        ("delete", |c| assert!(!c.delete("k").unwrap()), None),
        ("pop", |c| drop(c.pop("k").unwrap()), None),
        ("set", |c| c.set("k", "new").unwrap(), Some(b"new")),
        (
            "large",
            |c| c.set("k", [b'7'; 300]).unwrap(),
            Some(&[b'7'; 300]),
        ),
        ("add", |c| assert!(c.add("k", "new").unwrap()), Some(b"new")),
        (
            "incr",
            |c| assert_eq!(c.incr("k", 5).unwrap(), 5),
            Some(b"5"),
        ),
        (
            "set in a transaction",
            |c| c.transact(|t| Ok(t.set("k", "new")?)).unwrap(),
            Some(b"new"),
        ),
        (
            "deleted in a transaction",
            |c| assert!(!c.transact(|t| Ok(t.delete("k")?)).unwrap()),
            None,
        ),
    ];
    let place = Place::new();
    let cache = place.open();
    for (what, change, left) in changes {
        for is_other_key in [false, true] {
            cache.clear().unwrap();
            let computed = cache.compute_if_missing("k", &SetOptions::new(), || {
                match is_other_key {
                    false => change(&cache),
                    true => assert!(!cache.delete("another").unwrap()),
                }
                slablock::Result::Ok(b"stale".to_vec())
            });
            let computed = computed.unwrap();
            assert_eq!(computed.value, b"stale", "{what}");
            assert_eq!(computed.unkept.is_some(), !is_other_key, "{what}");
            let left = if is_other_key {
                Some(&b"stale"[..])
            } else {
                left
            };
            assert_eq!(cache.get("k").unwrap().as_deref(), left, "{what}");
        }
    }
    // The next one computes, and keeps.
    cache.delete("k").unwrap();
    let again = cache.compute_if_missing("k", &SetOptions::new(), || {
        slablock::Result::Ok(b"fresh".to_vec())
    });
    assert!(again.unwrap().unkept.is_none());
    assert_eq!(cache.get("k").unwrap().unwrap(), b"fresh");
    assert!(cache.check().unwrap().is_sound());
}

/// The one that waits is given nothing that is out of date either: it computes.
#[test]
fn who_waits_for_what_is_void_computes() {
    let _watchdog = Watchdog::new("void");
    let place = Place::new();
    let cache = place.open();
    let (began, begun) = channel();
    let (go, told) = channel::<()>();
    std::thread::scope(|scope| {
        let (first, second) = (cache.clone(), cache.clone());
        let one = scope.spawn(move || {
            first.get_or_insert_with("k", &SetOptions::new(), || {
                began.send(()).unwrap();
                told.recv().unwrap();
                Ok(b"stale".to_vec())
            })
        });
        begun.recv().unwrap();
        assert!(!cache.delete("k").unwrap());
        let two = scope.spawn(move || {
            second.get_or_insert_with("k", &SetOptions::new(), || Ok(b"fresh".to_vec()))
        });
        go.send(()).unwrap();
        assert_eq!(one.join().unwrap().unwrap(), b"stale");
        assert_eq!(two.join().unwrap().unwrap(), b"fresh");
    });
    assert_eq!(cache.get("k").unwrap().unwrap(), b"fresh");
    assert_eq!(cache.stats().unwrap().unkept, 1);
}

/// Who waits for a computing that fails need not wait for the next one, too.
#[test]
fn those_who_waited_for_a_failure_compute_at_once() {
    const WAITERS: usize = 8;
    const LONG: Duration = Duration::from_millis(400);
    let _alone = alone("memo");
    for threads_fail in [true, false] {
        let (_dir, cache) = kit::store();
        let (calls, at_once, most) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let begun = Instant::now();
        let compute = || {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            let now = at_once.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(LONG);
            at_once.fetch_sub(1, Ordering::SeqCst);
            match call == 0 || threads_fail {
                true => Err(Error::Invalid {
                    what: "as told".to_string(),
                }),
                false => Ok(b"value".to_vec()),
            }
        };
        let ask = || cache.get_or_insert_as("k", &SetOptions::new(), compute);
        let failed = std::thread::scope(|scope| {
            let first = scope.spawn(ask);
            until("somebody computes", || calls.load(Ordering::SeqCst) == 1);
            let waiters: Vec<_> = (0..WAITERS).map(|_| scope.spawn(ask)).collect();
            let all = std::iter::once(first).chain(waiters);
            all.map(|one| one.join().unwrap())
                .filter(|got| got.is_err())
                .count()
        });
        let took = begun.elapsed();
        assert_eq!(failed, if threads_fail { WAITERS + 1 } else { 1 });
        assert_eq!(calls.load(Ordering::SeqCst), WAITERS as u64 + 1);
        assert!(most.load(Ordering::SeqCst) > WAITERS as u64 / 2, "{most:?}");
        assert!(took < LONG * 4, "{took:?}");
        // One of them has kept it.
        let kept = cache.get("k").unwrap();
        assert_eq!(kept.as_deref(), (!threads_fail).then_some(&b"value"[..]));
        // So it is one after the other where that is asked for.
        cache.delete("k").unwrap();
        most.store(0, Ordering::SeqCst);
        calls.store(0, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let in_turn = || cache.compute_if_missing("k", &SetOptions::new(), compute);
                scope.spawn(move || in_turn().map(drop));
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 1);
        // Afterwards one computes, as ever.
        cache.delete("k").unwrap();
        let before = calls.load(Ordering::SeqCst);
        let value = || {
            calls.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(LONG);
            slablock::Result::Ok(b"later".to_vec())
        };
        std::thread::scope(|scope| {
            for _ in 0..WAITERS {
                scope.spawn(|| {
                    cache
                        .get_or_insert_as("k", &SetOptions::new(), value)
                        .unwrap()
                });
            }
        });
        assert_eq!(calls.load(Ordering::SeqCst), before + 1);
        assert!(cache.check().unwrap().is_sound());
    }
}
