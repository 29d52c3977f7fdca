//! What a program asks of a store that is there already is in force, or an error that names both;
//! and what the system refuses to a process is named when it opens a store.

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use nix::libc;
use slablock::{
    BoundedSemaphore, Cache, Durability, Error, Eviction, FanoutCache, Limits, Options,
    SemaphoreGuard,
};

use crate::kit::{Child, Place, Role, bounded, say, until};

const MIB: u64 = 1 << 20;

/// Asks for one setting, and what it is called with its two values.
type Asked = (Options, &'static str, &'static str, &'static str);

/// What differs from a store that was made with nothing said.
fn differing() -> [Asked; 4] {
    let of = Cache::options;
    let durable = of().durability(Durability::PowerLoss);
    [
        (durable, "durability", "process-crash", "power-loss"),
        (
            of().size_limit(8 * MIB),
            "size_limit",
            "1073741824",
            "8388608",
        ),
        (
            of().eviction(Eviction::None),
            "eviction",
            "greedy-dual",
            "none",
        ),
        (of().mode(0o640), "mode", "0600", "0640"),
    ]
}

/// The message, if it is a mismatch of settings.
fn mismatch<T>(asked: slablock::Result<T>) -> String {
    match asked.map(drop) {
        Err(error @ Error::ConfigMismatch { .. }) => error.to_string(),
        other => panic!("{other:?} is no mismatch"),
    }
}

fn assert_named(message: &str, of: &Path, (_, what, found, expected): &Asked) {
    for word in [*what, *found, *expected, &of.display().to_string()] {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn settings_that_a_store_has_not_are_refused_by_both_names() {
    bounded(|| {
        let place = Place::new();
        let is_open = place.open();
        for asked in differing() {
            // Beside an opening in this process, and to a store that nobody has open.
            assert_named(
                &mismatch(asked.0.open(place.store())),
                &place.store(),
                &asked,
            );
        }
        drop(is_open);
        for asked in differing() {
            assert_named(
                &mismatch(asked.0.open(place.store())),
                &place.store(),
                &asked,
            );
        }
        Cache::open(place.store()).unwrap();
    });
}

#[test]
fn settings_that_a_store_has_may_be_asked_for_again_or_left_open() {
    bounded(|| {
        let place = Place::new();
        let asked = Cache::options()
            .capacity(500)
            .mode(0o640)
            .size_limit(16 * MIB)
            .eviction(Eviction::LeastRecentlyUsed)
            .durability(Durability::PowerLoss);
        let first = asked.open(place.store()).unwrap();
        let config = first.config().unwrap();
        assert_eq!(
            (config.capacity, config.shards, config.mode),
            (500, 1, 0o640)
        );
        assert_eq!(config.size_limit, 16 * MIB);
        assert_eq!(config.eviction, Eviction::LeastRecentlyUsed);
        assert_eq!(config.durability, Durability::PowerLoss);
        assert_eq!(asked.open(place.store()).unwrap().config().unwrap(), config);
        drop(first);
        for again in [&asked, &Cache::options()] {
            assert_eq!(again.open(place.store()).unwrap().config().unwrap(), config);
        }
        // The weaker of two is as much another one: it is cheaper, and fails less.
        let weaker = Cache::options().durability(Durability::ProcessCrash);
        mismatch(weaker.open(place.store()));
    });
}

#[test]
fn what_is_configured_is_what_may_be_asked_for_from_then_on() {
    bounded(|| {
        let place = Place::new();
        let durable = Cache::options().durability(Durability::PowerLoss);
        let cache = place.open();
        mismatch(durable.open(place.store()));
        cache
            .configure(&Limits::new().durability(Durability::PowerLoss))
            .unwrap();
        durable.open(place.store()).unwrap();
        drop(cache);
        durable.open(place.store()).unwrap();
        let before = Cache::options().durability(Durability::ProcessCrash);
        mismatch(before.open(place.store()));
    });
}

#[test]
fn a_cache_of_shards_is_asked_for_as_a_whole() {
    bounded(|| {
        let place = Place::new();
        let open = |options: &Options| options.open(place.store());
        let asked = Cache::options()
            .capacity(403)
            .size_limit(40 * MIB + 3)
            .shards(4);
        let cache = asked.open(place.store()).unwrap();
        let config = cache.config().unwrap();
        assert_eq!(
            (config.capacity, config.shards, config.mode),
            (404, 4, 0o600)
        );
        assert_eq!(config.size_limit, 40 * MIB);
        open(&asked).unwrap();
        drop(cache);
        open(&asked).unwrap();
        assert_eq!(open(&Cache::options()).unwrap().config().unwrap(), config);
        let of = Cache::options;
        let others = [
            (
                of().size_limit(64 * MIB),
                "size_limit",
                "41943040",
                "67108864",
            ),
            (of().capacity(800), "capacity", "404", "800"),
            (
                of().durability(Durability::PowerLoss),
                "durability",
                "process-crash",
                "power-loss",
            ),
        ];
        for other in others {
            assert_named(&mismatch(open(&other.0)), &place.store(), &other);
        }
        // What the shards cannot share is not raised for them.
        let small = open(&of().size_limit(8 * MIB));
        assert!(matches!(small, Err(Error::Invalid { .. })), "{small:?}");
    });
}

/// Whoever has made the first shards may have died before the others, which another one makes then.
#[test]
fn shards_that_another_opener_makes_are_like_the_first() {
    bounded(|| {
        let place = Place::new();
        let asked = Cache::options()
            .capacity(400)
            .size_limit(64 * MIB)
            .eviction(Eviction::None)
            .durability(Durability::PowerLoss)
            .shards(4);
        drop(asked.open(place.store()).unwrap());
        for number in ["002", "003"] {
            std::fs::remove_dir_all(place.store().join(number)).unwrap();
        }
        let config = {
            let other = FanoutCache::open(place.store(), 4).unwrap();
            other.config().unwrap()
        };
        assert_eq!((config.capacity, config.size_limit), (400, 64 * MIB));
        assert_eq!(config.durability, Durability::PowerLoss);
        asked.open(place.store()).unwrap();
    });
}

#[test]
#[cfg(feature = "cli")]
fn stats_show_the_settings_in_force() {
    bounded(|| {
        let place = Place::new();
        let asked = Cache::options().size_limit(64 * MIB);
        let asked = asked.durability(Durability::PowerLoss).mode(0o640);
        drop(asked.open(place.store()).unwrap());
        let stats = |how: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_slablock"));
            command.arg("-d").arg(place.store()).arg("stats").args(how);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        for (name, value) in [
            ("size limit", "67,108,864"),
            ("durability", "power-loss"),
            ("eviction", "greedy-dual"),
            ("mode", "0640"),
        ] {
            let table = stats(&[]);
            let mut lines = table.lines();
            let line = lines
                .find(|line| line.starts_with(&format!("{name} ")))
                .unwrap();
            assert!(line.ends_with(value), "{line}");
        }
        let json: serde_json::Value = serde_json::from_str(&stats(&["--json"])).unwrap();
        assert_eq!(json["settings"]["durability"], "power-loss");
        assert_eq!(json["settings"]["size_limit"], 64 * MIB);
    });
}

/// As after an edit of a crontab: `--permits 3`, and later 5.
#[test]
fn another_number_of_permits_is_taken_over_when_nobody_uses_the_key() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let [three, five] = [3, 5].map(|value| BoundedSemaphore::new(&cache, "k", value));
        let three = three.tag("nightly");
        let before = [(); 3].map(|()| three.acquire().unwrap());
        let highest = before.iter().map(|guard| guard.token()).max().unwrap();
        drop(before);
        let guards = [(); 5].map(|()| five.try_acquire().unwrap().expect("a permit"));
        assert!(five.try_acquire().unwrap().is_none());
        assert!(guards.iter().all(|guard| guard.token() > highest));
        let info = cache.key_info("k").unwrap().unwrap();
        assert_eq!(info.tag.as_deref(), Some(&b"nightly"[..]));
        // The old handle knows the key, and not that it was made again.
        let refused = mismatch(three.try_acquire());
        let me = format!("process {} (", std::process::id());
        for word in ["permits 5, not 3", &me] {
            assert!(refused.contains(word), "{refused}");
        }
        let highest = guards.iter().map(|guard| guard.token()).max().unwrap();
        drop(guards);
        let again = [(); 3].map(|()| three.try_acquire().unwrap().expect("a permit"));
        assert!(three.try_acquire().unwrap().is_none());
        assert!(again.iter().all(|guard| guard.token() > highest));
        drop(again);
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
fn permits_that_somebody_waits_for_are_not_taken_over() {
    bounded(|| {
        let place = Place::new();
        let child = Child::start("permit", place.root(), &["1"]);
        child.expect("held");
        let cache = place.open();
        let [one, five] = [1, 5].map(|value| BoundedSemaphore::new(&cache, "k", value));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| one.acquire().map(|guard| guard.recovered().cloned()));
            until("it waits", || one.waiters().unwrap() == 1);
            let refused = mismatch(five.acquire());
            assert!(
                refused.contains(&format!("process {} (", child.pid())),
                "{refused}"
            );
            let pid = child.pid();
            drop(child);
            // Of the dead the next one is told, in the old number.
            let dead = waiter.join().unwrap().unwrap().expect("somebody died");
            assert_eq!(dead.pid, pid.as_raw() as u32);
        });
        drop(five.acquire().unwrap());
    });
}

/// Starts one who holds a permit of so many.
fn holder(place: &Place, permits: u32) -> Child {
    let child = Child::start("permit", place.root(), &[&permits.to_string()]);
    child.expect("held");
    child
}

/// Whom a permit was taken over from.
fn told(guard: &SemaphoreGuard<'_>) -> Option<u32> {
    guard.recovered().map(|dead| dead.pid)
}

#[test]
fn permits_of_the_dead_are_taken_over_by_another_number_and_their_successors_told() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let [two, three, five] = [2, 3, 5].map(|value| BoundedSemaphore::new(&cache, "k", value));
        for (old, new) in [(&three, &five), (&five, &two), (&two, &five)] {
            let mut children = [(); 2].map(|()| holder(&place, old.value()));
            let before = old.holders().unwrap();
            let dead = [0, 1].map(|n| before[n].pid);
            for child in &mut children {
                child.kill();
            }
            // Looking takes nothing over.
            assert_eq!(new.available().unwrap(), new.value());
            assert_eq!(old.holders().unwrap().len(), 2);
            let first = new.acquire().unwrap();
            let by_hand = first.recovered().expect("somebody died");
            let known = (by_hand.pid, by_hand.token, by_hand.alive);
            assert_eq!(known, (before[0].pid, before[0].token, false));
            assert_eq!(by_hand.program, before[0].program);
            let second = new.try_acquire().unwrap().expect("a permit");
            assert_eq!(told(&second), Some(dead[1]));
            let rest = (2..new.value()).map(|_| new.try_acquire().unwrap().expect("a permit"));
            let rest: Vec<_> = rest.collect();
            assert!(rest.iter().all(|guard| told(guard).is_none()));
            assert!(new.try_acquire().unwrap().is_none());
            let highest = before.iter().map(|holder| holder.token).max().unwrap();
            let all = [first, second].into_iter().chain(rest);
            assert!({ all }.all(|guard| guard.token() > highest));
            drop(new.acquire().unwrap());
        }
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
fn a_living_holder_beside_the_dead_is_the_one_who_is_named() {
    bounded(|| {
        let place = Place::new();
        let [mut first, mut living, mut last] = [(); 3].map(|()| holder(&place, 3));
        first.kill();
        last.kill();
        let cache = place.open();
        let five = BoundedSemaphore::new(&cache, "k", 5);
        for _ in 0..2 {
            let refused = mismatch(five.try_acquire());
            assert!(refused.contains(&format!("process {} (", living.pid())));
            for dead in [&first, &last] {
                assert!(!refused.contains(&dead.pid().to_string()), "{refused}");
            }
            assert!(!refused.contains("dead"), "{refused}");
        }
        living.kill();
        let guards = [(); 5].map(|()| five.try_acquire().unwrap().expect("a permit"));
        let pids = [&first, &living, &last].map(|child| Some(child.pid().as_raw() as u32));
        assert_eq!(guards.each_ref().map(told)[..3], pids);
        assert!(guards[3..].iter().all(|guard| told(guard).is_none()));
    });
}

/// More died than there are permits now: as many are told of as can be.
#[test]
fn of_more_dead_than_permits_the_first_are_told_of() {
    bounded(|| {
        let place = Place::new();
        let mut children = [(); 3].map(|()| holder(&place, 3));
        children.iter_mut().for_each(Child::kill);
        let cache = place.open();
        let one = BoundedSemaphore::new(&cache, "k", 1);
        let guard = one.acquire().unwrap();
        assert_eq!(told(&guard), Some(children[0].pid().as_raw() as u32));
        drop(guard);
        assert!(one.acquire().unwrap().recovered().is_none());
    });
}

#[test]
fn a_permit_whose_lease_is_over_is_taken_over_by_another_number() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let [three, five] = [3, 5].map(|value| BoundedSemaphore::new(&cache, "k", value));
        let three = three.lease(Duration::from_millis(20));
        let late = three.acquire().unwrap();
        until("it is over", || late.check().is_err());
        let guard = five.acquire().unwrap();
        let overran = crate::kit::late(guard.predecessor()).expect("somebody was late");
        assert_eq!((overran.token, overran.alive), (late.token(), true));
        assert!(guard.recovered().is_none());
        let lost = late.release();
        assert!(matches!(lost, Err(Error::Lost { .. })), "{lost:?}");
        assert!(crate::kit::late(five.acquire().unwrap().predecessor()).is_none());
    });
}

/// Whoever is first tells the other of nothing, or both are told; never neither.
#[test]
fn of_two_who_change_the_number_at_once_one_is_told_who_died() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        for _ in 0..8 {
            let mut child = holder(&place, 3);
            child.kill();
            let pid = child.pid().as_raw() as u32;
            let acquire = |value: u32| {
                let semaphore = BoundedSemaphore::new(&cache, "k", value);
                loop {
                    match semaphore.try_acquire() {
                        Ok(Some(guard)) => return told(&guard),
                        Ok(None) | Err(Error::ConfigMismatch { .. }) => std::thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            let told = std::thread::scope(|scope| {
                let two = [2, 5].map(|value| scope.spawn(move || acquire(value)));
                two.map(|thread| thread.join().unwrap())
            });
            assert!(told.contains(&Some(pid)), "{told:?}");
        }
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
#[cfg(feature = "cli")]
fn run_takes_another_number_of_permits_over_from_the_dead() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    bounded(|| {
        let place = Place::new();
        let run = |permits: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
            command.arg("-d").arg(place.store());
            command.args(["run", "-p", permits, "s", "--"]);
            command
        };
        let mut held = run("3");
        held.args(["sh", "-c", "echo $$; exec sleep 100"]);
        let mut held = held.stdout(Stdio::piped()).spawn().unwrap();
        let mut sleeper = String::new();
        let mut lines = BufReader::new(held.stdout.take().unwrap());
        lines.read_line(&mut sleeper).unwrap();
        let refused = run("5").arg("true").output().unwrap();
        assert_eq!(refused.status.code(), Some(125));
        held.kill().unwrap();
        held.wait().unwrap();
        let sleeper = Pid::from_raw(sleeper.trim().parse().unwrap());
        // It may have been told to go with the other.
        let _ = kill(sleeper, Signal::SIGKILL);
        until("it is gone", || kill(sleeper, None).is_err());
        let done = run("5").arg("true").output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(0), "{said}");
        let who = format!("pid {} (slablock", held.id());
        for word in [&*who, "died holding it"] {
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        }
        let again = run("5").arg("true").output().unwrap();
        assert_eq!((again.status.code(), &*again.stderr), (Some(0), &b""[..]));
    });
}

/// Programs of two numbers take the key in turns: never more have it than either allows to those of
/// its number.
#[test]
fn two_numbers_in_turns_let_in_no_more_than_each_allows() {
    bounded(|| {
        let place = Place::new();
        let cache = place.open();
        let inside = [(); 2].map(|()| AtomicU32::new(0));
        let granted = [(); 2].map(|()| AtomicU32::new(0));
        std::thread::scope(|scope| {
            for (which, value) in [(0, 1_u32), (1, 2), (0, 1), (1, 2), (1, 2)] {
                let (cache, inside, granted) = (&cache, &inside, &granted);
                scope.spawn(move || {
                    let semaphore = BoundedSemaphore::new(cache, "k", value);
                    while granted[which].load(Relaxed) < 50 {
                        match semaphore.try_acquire() {
                            Ok(None) | Err(Error::ConfigMismatch { .. }) => {
                                std::thread::yield_now();
                            }
                            Err(error) => panic!("{error}"),
                            Ok(Some(guard)) => {
                                let mine = inside[which].fetch_add(1, SeqCst);
                                let others = inside[1 - which].load(SeqCst);
                                assert!(mine < value && others == 0, "{mine} {others}");
                                granted[which].fetch_add(1, Relaxed);
                                std::thread::yield_now();
                                inside[which].fetch_sub(1, SeqCst);
                                guard.release().unwrap();
                            }
                        }
                    }
                });
            }
        });
        assert!(cache.check().unwrap().is_sound());
    });
}

/// Holds a permit of so many until it is killed.
pub fn permit(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let semaphore = BoundedSemaphore::new(&cache, "k", role.number(0) as u32);
    let _guard = semaphore.acquire().unwrap();
    say("held");
    loop {
        std::thread::park();
    }
}

/// What a sandbox may refuse: a system call, by its second argument.
const FORBIDDEN: [(&str, i64, &[u32]); 6] = [
    ("futex", libc::SYS_futex, &[1]),
    ("futex", libc::SYS_futex, &[0]),
    ("fcntl", libc::SYS_fcntl, &[36, 37, 38]),
    ("fcntl", libc::SYS_fcntl, &[36]),
    ("fcntl", libc::SYS_fcntl, &[37]),
    ("fcntl", libc::SYS_fcntl, &[38]),
];

#[test]
fn a_sandbox_that_forbids_what_a_store_needs_is_refused_by_the_name_of_the_call() {
    bounded(|| {
        let store = Place::new();
        Cache::open(store.store()).unwrap().set("k", "v").unwrap();
        let empty = Place::new();
        std::fs::create_dir(empty.store()).unwrap();
        let nothing = Place::new();
        for place in [&nothing, &empty, &store] {
            let before = names_in(&place.store());
            for (which, (call, ..)) in FORBIDDEN.iter().enumerate() {
                for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL, libc::EACCES] {
                    let args = [&*which.to_string(), &*errno.to_string()];
                    let child = Child::start("sandboxed", place.root(), &args);
                    let said = child.expect("unsupported");
                    let why = std::io::Error::from_raw_os_error(errno).to_string();
                    for word in [*call, &why, "seccomp"] {
                        assert!(said.contains(word), "{word:?} is not in {said:?}");
                    }
                    child.finish();
                    assert_eq!(names_in(&place.store()), before);
                }
            }
        }
        let cache = Cache::open(store.store()).unwrap();
        assert_eq!(cache.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    });
}

fn names_in(dir: &Path) -> Option<Vec<OsString>> {
    let entries = std::fs::read_dir(dir).ok()?;
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
    names.sort();
    Some(names)
}

/// Opens a store where some system call is answered with an error.
pub fn sandboxed(role: &Role) {
    let (_, call, seconds) = FORBIDDEN[role.number(0) as usize];
    forbid(call, seconds, role.number(1) as u32);
    match Cache::open(role.store()) {
        Err(error @ Error::Unsupported { .. }) => say(format!("unsupported {error}")),
        other => say(format!("{other:?}")),
    }
}

/// Lets this thread, and those that it starts, have `errno` for a system call whose second argument
/// is one of these.
#[allow(unsafe_code)]
fn forbid(call: i64, seconds: &[u32], errno: u32) {
    let step = |code: u32, k: u32, jt: usize, jf: usize| libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    };
    let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
    let equals = |k, jt, jf| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, jt, jf);
    let answer = |k| step(libc::BPF_RET | libc::BPF_K, k, 0, 0);
    // The number of the call, then the low half of its second argument.
    let mut program = vec![load(0), equals(call as u32, 0, seconds.len() + 1), load(24)];
    for (at, second) in seconds.iter().enumerate() {
        program.push(equals(*second, seconds.len() - at, 0));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program.push(answer(libc::SECCOMP_RET_ERRNO | errno));
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: both only change what this process may do; the filter is read during the call.
    let done = unsafe {
        (
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ),
        )
    };
    assert_eq!(done, (0, 0), "{}", std::io::Error::last_os_error());
}
