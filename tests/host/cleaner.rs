//! Cleaners of temporary files, and other removals of a store's files.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use slablock::{Cache, Durability, Error, Eviction, FanoutCache, Lock, Reader, Token};

use crate::kit::layout::LOCKED;
use crate::kit::{
    Board, Child, Place, Role, Watchdog, fork, hear, lock_bytes, reap_well, say, until,
};

/// Holds a lock until it is told to give it back.
pub fn hold(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let lock = Lock::new(&cache, "hold");
    let guard = lock.acquire().unwrap();
    say(format!("held {}", guard.token()));
    hear();
    // What a handle knows it gives back, whatever became of the files.
    guard.release().unwrap();
    say("given back");
    hear();
}

/// Waits for the lock.
pub fn wait(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    say("waits");
    let guard = Lock::new(&cache, "hold").acquire().unwrap().into_owned();
    say(format!("has {}", guard.token()));
    hear();
}

fn token(line: &str) -> u64 {
    line.parse().unwrap()
}

/// Each choice of some of the lock files, but none of them.
fn choices() -> impl Iterator<Item = Vec<&'static str>> {
    (1..8).map(|bits: u32| {
        let files = LOCKED.into_iter().enumerate();
        let chosen = files.filter(|(at, _)| bits & 1 << at != 0);
        chosen.map(|(_, name)| name).collect()
    })
}

fn remove(place: &Place, names: &[&str]) {
    for name in names {
        fs::remove_file(place.store().join(name)).unwrap();
    }
}

#[test]
fn a_store_that_nobody_uses_mends_itself_when_its_lock_files_are_gone() {
    let _watchdog = Watchdog::new("removed");
    for names in choices() {
        let place = Place::new();
        let cache = place.open();
        cache.set("large", vec![7; 100_000]).unwrap();
        let board = Board::open(place.root());
        // Somebody who died with it, so that there is something to be told.
        reap_well(fork(|| {
            let token = Lock::new(&cache, "k").acquire().unwrap().into_token();
            board.set(0, token.get());
        }));
        drop(cache);
        remove(&place, &names);
        let cache = place.open();
        assert!(cache.check().unwrap().is_sound(), "{names:?}");
        assert_eq!(cache.get("large").unwrap(), Some(vec![7; 100_000]));
        let guard = Lock::new(&cache, "k")
            .try_acquire()
            .unwrap()
            .unwrap()
            .into_owned();
        assert!(guard.token().get() > board.get(0) && guard.recovered().is_some());
        // And stays so.
        drop(guard);
        drop(cache);
        drop(place.open());
    }
}

#[test]
fn nothing_is_taken_from_a_holder_whose_lock_files_were_removed() {
    let _watchdog = Watchdog::new("removed under a holder");
    for names in choices() {
        let place = Place::new();
        drop(place.open());
        let mut holder = Child::start("hold", place.root(), &[]);
        let held = token(&holder.expect("held"));
        let mut waiter = Child::start("wait", place.root(), &[]);
        waiter.expect("waits");
        remove(&place, &names);
        let (pid, waits) = (holder.pid().to_string(), waiter.pid().to_string());
        for _ in 0..2 {
            let words = [&*pid, &*waits, names[0], "removed", "mends itself"];
            assert_error!(Cache::open(place.store()), Error::Busy { .. }, words);
        }
        let words = [&*pid, "in use"];
        assert_error!(Cache::repair(place.store()), Error::Busy { .. }, words);
        assert_error!(Cache::adopt(place.store()), Error::Busy { .. }, words);
        // Those who are in go on.
        holder.ask("give back", "given back");
        let next = token(&waiter.expect("has"));
        assert!(next > held);
        assert_error!(Cache::open(place.store()), Error::Busy { .. }, [&*waits]);
        waiter.kill();
        holder.tell("end");
        holder.finish();
        let cache = place.open();
        let guard = Lock::new(&cache, "hold")
            .try_acquire()
            .unwrap()
            .unwrap()
            .into_owned();
        assert!(guard.token().get() > next && guard.recovered().is_some());
        assert!(cache.check().unwrap().is_sound());
    }
}

/// Who may read the slab may lock it, and takes no part in anything.
#[test]
fn of_a_locked_slab_nobody_is_named_who_is_gone() {
    let _watchdog = Watchdog::new("a locked slab");
    let place = Place::new();
    // Not by this process, which has other stores where it had this one, and so is not known to
    // have closed it.
    let open_and_close = || assert_eq!(length_elsewhere(&place, "none"), 0);
    open_and_close();
    let gone = [(); 3].map(|()| {
        let mut holder = Child::start("hold", place.root(), &[]);
        holder.expect("held");
        let pid = holder.pid().to_string();
        holder.kill();
        pid
    });
    let mut holder = Child::start("hold", place.root(), &[]);
    holder.expect("held");
    let living = holder.pid().to_string();
    let slab = fs::File::open(place.store().join("slab")).unwrap();
    lock_shared(&slab);
    remove(&place, &LOCKED);
    let is_told = |result: slablock::Result<()>, is_living: bool| {
        let said = result.unwrap_err().to_string();
        assert!(!gone.iter().any(|pid| names(&said, pid)), "{said}");
        assert_eq!(names(&said, &living), is_living, "{said}");
        assert_eq!(said.contains("/proc/locks"), !is_living, "{said}");
    };
    is_told(Cache::open(place.store()).map(drop), true);
    holder.kill();
    is_told(Cache::open(place.store()).map(drop), false);
    is_told(Cache::repair(place.store()).map(drop), false);
    is_told(Cache::adopt(place.store()), false);
    drop(slab);
    open_and_close();
    // With its lock files nobody is kept from anything but being alone.
    let slab = fs::File::open(place.store().join("slab")).unwrap();
    lock_shared(&slab);
    open_and_close();
    is_told(Cache::repair(place.store()).map(drop), false);
    drop(slab);
    assert!(place.open().check().unwrap().is_sound());
}

fn lock_shared(file: &fs::File) {
    lock_bytes(file, nix::libc::F_RDLCK, 0..0);
}

/// Whether a message names that process.
fn names(said: &str, pid: &str) -> bool {
    said.split(|c: char| !c.is_ascii_digit())
        .any(|word| word == pid)
}

/// When lock files are gone one wants to look.
#[cfg(feature = "cli")]
#[test]
fn commands_that_look_do_so_while_lock_files_are_gone() {
    let _watchdog = Watchdog::new("looking while lock files are gone");
    let place = Place::new();
    place.open().set("small", "value").unwrap();
    let mut holder = Child::start("hold", place.root(), &[]);
    holder.expect("held");
    remove(&place, &LOCKED);
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
        command.arg("--dir").arg(place.store()).args(arguments);
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    assert_eq!(ask(&["get", "small"]), (Some(0), "value".into()));
    let (status, said) = ask(&["status"]);
    assert_eq!(status, Some(0), "{said}");
    let note = "read only: its lock files were removed";
    assert!(
        said.contains(note) && names(&said, &holder.pid().to_string()),
        "{said}"
    );
    for arguments in [&["status", "hold"][..], &["check"], &["keys"], &["stats"]] {
        let (status, said) = ask(arguments);
        assert_eq!(status, Some(0), "{arguments:?}: {said}");
    }
    let (status, said) = ask(&["set", "small", "x"]);
    assert!(status == Some(125) && said.contains("removed"), "{said}");
    holder.kill();
    assert!(!ask(&["status"]).1.contains("read only"));
}

/// Reads a value, as a process that has nothing open.
pub fn get(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let value = cache.get(&*role.args[0]).unwrap();
    say(format!("got {}", value.map_or(0, |value| value.len())));
}

fn length_elsewhere(place: &Place, key: &str) -> usize {
    let child = Child::start("read", place.root(), &[key]);
    let length = child.expect("got").parse().unwrap();
    child.finish();
    length
}

fn remove_log(place: &Place, name: &str) {
    let path = place.store().join(name);
    match path.is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

#[test]
fn a_log_that_is_gone_costs_what_was_in_it_and_nothing_else() {
    let _watchdog = Watchdog::new("log removed");
    for name in ["log/00000001", "log"] {
        for durability in [Durability::ProcessCrash, Durability::PowerLoss] {
            let place = Place::new();
            let options = Cache::options().durability(durability);
            let cache = options.open(place.store()).unwrap();
            cache.set("lost", vec![7; 100_000]).unwrap();
            cache.set("count", "1").unwrap();
            drop(cache);
            remove_log(&place, name);
            let cache = place.open();
            assert_eq!(cache.get("lost").unwrap(), None);
            let problems = cache.check().unwrap().problems;
            assert!(
                problems.len() == 1
                    && problems[0].contains("is a miss")
                    && problems[0].contains("00000001 is gone"),
                "{problems:?}"
            );
            assert_eq!(cache.incr("count", 1).unwrap(), 2);
            let both = cache.transact_as(|t| {
                t.set("large", vec![8; 100_000])?;
                t.set("count", "3")
            });
            both.unwrap();
            cache.set("other", vec![9; 50_000]).unwrap();
            assert_eq!(length_elsewhere(&place, "large"), 100_000);
            assert_eq!(length_elsewhere(&place, "other"), 50_000);
            // The key is in nobody's way.
            cache.set("lost", vec![7; 10_000]).unwrap();
            assert!(cache.check().unwrap().is_sound());
            assert_eq!(length_elsewhere(&place, "lost"), 10_000);
        }
    }
}

/// What it writes would have no name, and be found by nobody else.
#[test]
fn a_process_whose_segment_was_removed_writes_to_another_one() {
    let _watchdog = Watchdog::new("segment removed under a writer");
    for name in ["log/00000001", "log"] {
        let place = Place::new();
        let cache = place.open();
        cache.set("first", vec![7; 50_000]).unwrap();
        remove_log(&place, name);
        until("it writes to another one", || {
            cache.set("next", vec![8; 50_000]).unwrap();
            place.store().join("log/00000002").exists()
        });
        assert_eq!(length_elsewhere(&place, "next"), 50_000);
        assert_eq!(length_elsewhere(&place, "first"), 0);
    }
}

const KEYS: std::ops::Range<u8> = 0..40;

fn sharded(place: &Place) -> Cache {
    FanoutCache::open(place.store(), 4).unwrap()
}

fn token_of(cache: &Cache) -> Token {
    Lock::new(cache, "k").acquire().unwrap().token()
}

/// Gives each key a value of its own.
fn fill(cache: &Cache) {
    for key in KEYS {
        cache.set([key], [key; 20_000]).unwrap();
    }
}

/// Of each key the value that it was given, or nothing; how many there are.
fn values_left(cache: &Cache) -> usize {
    let is_there = |key: &u8| match cache.get([*key]).unwrap() {
        Some(value) => value == [*key; 20_000],
        None => false,
    };
    KEYS.filter(is_there).count()
}

#[test]
fn a_cache_of_shards_outlives_the_loss_of_the_file_that_says_how_many() {
    let _watchdog = Watchdog::new("fanout removed");
    let place = Place::new();
    let cache = sharded(&place);
    fill(&cache);
    let held = token_of(&cache);
    drop(cache);
    let record = || fs::read(place.store().join("fanout")).unwrap();
    let before = record();
    let remove = || fs::remove_file(place.store().join("fanout")).unwrap();

    // A reader puts nothing back.
    remove();
    let reader = Reader::open(place.store()).unwrap();
    assert_eq!(reader.get([1]).unwrap().unwrap(), [1; 20_000]);
    drop(reader);
    assert!(!place.store().join("fanout").exists());

    // Whoever opens it does, with or without the number.
    let cache = sharded(&place);
    assert_eq!(values_left(&cache), KEYS.len());
    assert_eq!(record(), before);
    remove();
    assert_error!(
        FanoutCache::open(place.store(), 5),
        Error::ConfigMismatch { .. },
        ["shards"]
    );
    remove();
    let again = Cache::options().open(place.store());
    assert_eq!(values_left(&again.unwrap()), KEYS.len());
    drop(cache);
    remove();
    Cache::repair(place.store()).unwrap();
    assert_eq!(record(), before);

    // With everything that a cleaner takes because it is never written.
    for name in LOCKED.into_iter().chain(["fanout"]) {
        fs::remove_file(place.store().join(name)).unwrap();
    }
    let cache = sharded(&place);
    assert_eq!(values_left(&cache), KEYS.len());
    assert!(cache.check().unwrap().is_sound());
    assert!(token_of(&cache) > held && record() == before);
}

#[test]
fn a_shard_that_is_gone_costs_what_was_in_it_and_nothing_else() {
    let _watchdog = Watchdog::new("shard removed");
    for lost in ["000/slab", "002", "003/log"] {
        let place = Place::new();
        let cache = sharded(&place);
        fill(&cache);
        drop(cache);
        remove_log(&place, lost);
        Cache::repair(place.store()).unwrap();
        let cache = Cache::options().open(place.store()).unwrap();
        let left = values_left(&cache);
        assert!(left > KEYS.len() / 2 && left < KEYS.len(), "{lost}: {left}");
        fill(&cache);
        assert_eq!(values_left(&cache), KEYS.len());
        let both = cache.transact_as(|t| {
            for key in KEYS {
                t.set([key], [key; 20_000])?;
            }
            Ok::<_, Error>(())
        });
        both.unwrap();
        assert!(cache.check().unwrap().is_sound(), "{lost}");
    }
}

/// A cleaner goes by the times of directories, too, which whatever lists them renews.
#[test]
fn a_cache_of_which_only_directories_are_left_begins_again() {
    let _watchdog = Watchdog::new("directories left");
    for left in ["", "log", "lock files"] {
        let place = Place::new();
        let cache = sharded(&place);
        fill(&cache);
        let held = token_of(&cache);
        drop(cache);
        fs::remove_file(place.store().join("fanout")).unwrap();
        for number in 0..4 {
            let shard = place.store().join(format!("{number:03}"));
            fs::remove_file(shard.join("slab")).unwrap();
            if left != "log" {
                fs::remove_dir_all(shard.join("log")).unwrap();
            }
        }
        if left != "lock files" {
            for name in LOCKED {
                fs::remove_file(place.store().join(name)).unwrap();
            }
        }
        // Nobody knows how many shards there were: commands see no store yet, and make no other in
        // its place.
        let run = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
            let output = command
                .arg("-d")
                .arg(place.store())
                .args(arguments)
                .output();
            let output = output.unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), err)
        };
        assert_eq!(run(&["keys"]), (Some(0), String::new()), "{left}");
        let (status, err) = run(&["run", "k", "--", "true"]);
        assert!(
            status == Some(125) && err.contains("no slab"),
            "{left}: {err}"
        );
        let cache = sharded(&place);
        assert_eq!(values_left(&cache), 0, "{left}");
        fill(&cache);
        assert_eq!(values_left(&cache), KEYS.len(), "{left}");
        assert!(cache.check().unwrap().is_sound(), "{left}");
        assert!(token_of(&cache) > held, "{left}");
    }
}

/// A disk may be slow to sync the record, and its maker is alone until then.
#[test]
fn an_opener_waits_for_the_maker_of_a_cache_however_long_it_takes() {
    let _watchdog = Watchdog::new("slow maker");
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    let attach = File::create(place.store().join("attach")).unwrap();
    lock_bytes(&attach, nix::libc::F_WRLCK, 0..1);
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| sharded(&place));
        // Longer than an opener looks beside processes that make nothing.
        std::thread::sleep(Duration::from_millis(2_500));
        assert!(!opener.is_finished());
        lock_bytes(&attach, nix::libc::F_UNLCK, 0..1);
        assert!(opener.join().unwrap().is_empty().unwrap());
    });
}

/// No opener can join processes that have a removed slab open. That is no damage.
#[test]
fn a_slab_that_was_removed_under_a_holder_is_said_to_be_so() {
    let _watchdog = Watchdog::new("slab removed");
    for lost in ["000/slab", "002/slab", "fanout"] {
        let place = Place::new();
        let cache = sharded(&place);
        let lock = Lock::new(&cache, "k");
        let guard = lock.acquire().unwrap();
        let remove = |name: &str| fs::remove_file(place.store().join(name)).unwrap();
        remove(lost);
        if lost == "fanout" {
            (0..4).for_each(|number| remove(&format!("{number:03}/slab")));
        }
        // In another process, for here the store is open.
        let child = fork(|| {
            let opened = FanoutCache::open(place.store(), 4);
            assert_error!(opened, Error::NotAStore { .. }, ["removed", "lives"]);
        });
        reap_well(child);
        drop(guard);
        drop(lock);
        drop(cache);
        assert!(sharded(&place).check().unwrap().is_sound());
    }
}

/// What cannot be looked at is not taken for a store of another shape.
#[test]
fn what_stands_in_the_place_of_a_record_is_named() {
    let _watchdog = Watchdog::new("record replaced");
    let place = Place::new();
    drop(sharded(&place));
    let record = place.store().join("fanout");
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    let look = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
        let output = command.arg("-d").arg(place.store()).arg("status").output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    let err = look();
    assert!(
        err.contains("fanout") && err.contains("a directory"),
        "{err}"
    );
    fs::remove_dir(&record).unwrap();
    // A shard of another cache.
    let other = Place::new();
    drop(sharded(&other));
    fs::copy(
        other.store().join("001/slab"),
        place.store().join("001/slab"),
    )
    .unwrap();
    let err = look();
    assert!(err.contains("different caches"), "{err}");
}

/// The values of the other shards are read, and those of the one that is gone are not there.
#[test]
fn a_reader_reads_what_is_left_of_a_cache_of_shards() {
    let _watchdog = Watchdog::new("reader of shards");
    for lost in ["000/slab", "001/slab", "002"] {
        let place = Place::new();
        let cache = sharded(&place);
        fill(&cache);
        let before = cache.config().unwrap();
        drop(cache);
        remove_log(&place, lost);
        let reader = Reader::open(place.store()).unwrap();
        let found = KEYS.filter(|key| {
            let value = reader.get([*key]).unwrap();
            value
                .inspect(|value| assert_eq!(value, &[*key; 20_000]))
                .is_some()
        });
        let found = found.count();
        assert!(0 < found && found < KEYS.len(), "{lost}: {found}");
        assert_eq!(reader.config().unwrap(), before, "{lost}");
        assert_eq!(reader.len().unwrap(), found);
        assert!(reader.get("").is_err() && reader.key_info("none").unwrap().is_none());
        let report = reader.check().unwrap();
        assert!(report.problems[0].contains("is gone"), "{report:?}");
    }
}

/// A shard that is gone begins again as the others are, where its opener asks for nothing.
#[test]
fn a_shard_begins_again_with_the_settings_of_the_others() {
    let _watchdog = Watchdog::new("settings of a shard");
    for lost in ["000/slab", "000", "002"] {
        let place = Place::new();
        let options = Cache::options()
            .capacity(4_000)
            .size_limit(64 << 20)
            .eviction(Eviction::None)
            .durability(Durability::PowerLoss)
            .mode(0o640)
            .shards(4);
        let cache = options.open(place.store()).unwrap();
        let before = (cache.config().unwrap(), cache.capacity());
        drop(cache);
        remove_log(&place, lost);
        let cache = FanoutCache::open(place.store(), 4).unwrap();
        let now = (cache.config().unwrap(), cache.capacity());
        assert_eq!(now, before, "{lost}");
        for number in 0..4 {
            let shard = place.store().join(format!("{number:03}"));
            let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(
                (mode(shard.join("slab")), mode(shard)),
                (0o640, 0o750),
                "{lost}"
            );
        }
        drop(cache);
        options.open(place.store()).unwrap();
    }
}

/// The daily cleaning of a directory in which a store is kept, by the program that most hosts have.
#[test]
fn systemd_tmpfiles_leaves_a_store_in_use_alone_and_an_idle_one_usable() {
    let _watchdog = Watchdog::new("cleaner");
    let version = Command::new("systemd-tmpfiles").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) || !nix::unistd::geteuid().is_root() {
        println!("skipped: no systemd-tmpfiles to be run here");
        return;
    }
    let place = Place::new();
    let parent = place.root().join("parent");
    fs::create_dir(&parent).unwrap();
    let line = format!("q {} 1777 root root 1s\n", parent.display());
    let config = place.root().join("tmpfiles.conf");
    fs::write(&config, line).unwrap();
    let clean = || {
        // Older than the line allows, which is all that this waits for.
        std::thread::sleep(Duration::from_millis(2_500));
        let mut command = Command::new("systemd-tmpfiles");
        let output = command.arg("--clean").arg(&config).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let store = parent.join("store");
    let cache = Cache::open(&store).unwrap();
    cache.set("large", vec![7; 100_000]).unwrap();
    drop(cache);
    std::os::unix::fs::symlink(&store, parent.parent().unwrap().join("store")).unwrap();
    let mut holder = Child::start("hold", place.root(), &[]);
    let held = token(&holder.expect("held"));
    clean();
    let all = |store: &Path| {
        let there = |name: &&str| store.join(name).exists();
        ["attach", "beacons", "stripes", "slab", "log/00000001"]
            .iter()
            .filter(|n| there(n))
            .count()
    };
    assert_eq!(all(&store), 5, "in use");
    let cache = Cache::open(&store).unwrap();
    assert!(Lock::new(&cache, "hold").try_acquire().unwrap().is_none());
    assert_eq!(cache.get("large").unwrap(), Some(vec![7; 100_000]));
    drop(cache);
    holder.ask("give back", "given back");
    holder.tell("end");
    holder.finish();
    // Nobody uses it: the cleaner may have all of it, and the next one who comes has a store.
    clean();
    assert!(all(&store) < 5, "the cleaner takes what nobody uses");
    let cache = Cache::open(&store).unwrap();
    let guard = Lock::new(&cache, "hold")
        .try_acquire()
        .unwrap()
        .unwrap()
        .into_owned();
    assert!(guard.token().get() > held);
    assert!(cache.check().unwrap().is_sound());
}

/// Days go by, in the times of the files.
#[test]
fn opening_renews_the_times_of_what_is_seldom_written() {
    let place = Place::new();
    let cache = place.open();
    cache.set("large", vec![7; 100_000]).unwrap();
    drop(cache);
    let names = [
        "attach",
        "beacons",
        "stripes",
        "slab",
        "log/00000001",
        "log",
    ];
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3 * 86_400);
    for name in names {
        let file = fs::File::open(place.store().join(name)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    drop(place.open());
    for name in names {
        let meta = fs::metadata(place.store().join(name)).unwrap();
        let age = meta.modified().unwrap().elapsed().unwrap();
        assert!(age < Duration::from_secs(3_600), "{name}: {age:?}");
    }

    let place = Place::new();
    drop(sharded(&place));
    let names = ["fanout", "attach", "beacons", "stripes", "000/slab"];
    for name in names {
        let file = fs::File::open(place.store().join(name)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    drop(sharded(&place));
    for name in names {
        let meta = fs::metadata(place.store().join(name)).unwrap();
        let age = meta.modified().unwrap().elapsed().unwrap();
        assert!(age < Duration::from_secs(3_600), "{name}: {age:?}");
    }
}

/// A holder of which nothing is left but what its command has inherited.
#[cfg(feature = "cli")]
#[test]
fn nothing_is_taken_from_a_command_whose_guard_was_killed_and_whose_lock_files_are_gone() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let _watchdog = Watchdog::new("removed under a command");
    let place = Place::new();
    let script = "trap '' TERM; sh -c 'echo $$; exec sleep 100' & wait";
    let mut run = Command::new(env!("CARGO_BIN_EXE_slablock"))
        .args(["run", "hold", "--", "sh", "-c", script])
        .env("SLABLOCK_DIR", place.store())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(run.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let survivor = Pid::from_raw(line.trim().parse().unwrap());
    remove(&place, &LOCKED);
    kill(Pid::from_raw(run.id() as i32), Signal::SIGKILL).unwrap();
    run.wait().unwrap();
    // It lives, and the key with it.
    assert_error!(Cache::open(place.store()), Error::Busy { .. }, ["removed"]);
    assert_error!(Cache::repair(place.store()), Error::Busy { .. }, ["in use"]);
    kill(survivor, Signal::SIGKILL).unwrap();
    let mut rest = String::new();
    // Until everybody who has the pipe is gone.
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    crate::kit::until("the kernel has closed its descriptors", || {
        Cache::open(place.store()).is_ok()
    });
    let cache = place.open();
    let guard = Lock::new(&cache, "hold")
        .try_acquire()
        .unwrap()
        .unwrap()
        .into_owned();
    assert!(guard.recovered().is_some());
}
