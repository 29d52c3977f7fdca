//! Users who may read a store and not write it, read-only mounts: what they see, that they leave no
//! trace, and that they keep nobody from anything.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use slablock::{
    Averager, BoundedSemaphore, Cache, Error, FanoutCache, KeyState, Kind, Lock, Reader, SetOptions,
};

use crate::kit::layout::LOCKED;
use crate::kit::{
    Child, Place, Role, Watchdog, bind_read_only, hear, in_a_namespace, lock_record, mount,
    remount, role, say,
};

/// Whose the store is, whose group may read it, and who is in that group and in nothing else.
const OWNER: u32 = 5_001;
const GROUP: u32 = 6_000;
const READER: u32 = 5_002;

/// Does not fit the slots.
fn large() -> Vec<u8> {
    (0..100_000_u32).map(|n| n as u8).collect()
}

/// A store for `readers_of`, with one of everything.
fn furnish(cache: &Cache) {
    cache.set("small", "value").unwrap();
    cache.set("large", large()).unwrap();
    let hour = Duration::from_secs(3_600);
    let options = SetOptions::new().tag("tag").expire(hour);
    cache.set_with("tagged", "value", &options).unwrap();
    cache.set_with("tagged large", large(), &options).unwrap();
    cache.set("deleted", "value").unwrap();
    cache.delete("deleted").unwrap();
    let averager = Averager::new(cache, "average").tag("of averages");
    averager.add(1.0).unwrap();
    averager.add(2.0).unwrap();
    drop(Lock::new(cache, "free").acquire().unwrap());
    drop(
        BoundedSemaphore::new(cache, "permits", 3)
            .acquire()
            .unwrap(),
    );
}

/// What anybody sees of that.
fn is_seen(reader: &Reader) {
    let get = |key: &str| reader.get(key).unwrap();
    assert_eq!(get("small").as_deref(), Some(&b"value"[..]));
    assert!(get("large") == Some(large()));
    assert_eq!(get("deleted"), None);
    assert_eq!(get("never"), None);
    let entry = reader.entry("tagged large").unwrap().unwrap();
    assert!(entry.value == large() && entry.tag.as_deref() == Some(b"tag"));
    assert!(entry.expires_in.is_some());
    assert_error!(
        reader.get("average"),
        Error::KindMismatch { .. },
        ["average"]
    );
    assert_error!(reader.get(""), Error::KeyLength { .. }, ["key"]);
    assert_error!(
        reader.summary("small"),
        Error::KindMismatch { .. },
        ["small"]
    );
    let summary = reader.summary("average").unwrap().unwrap();
    assert_eq!((summary.count, summary.mean), (2, 1.5));
    assert_eq!(reader.summary("never").unwrap(), None);

    let keys = reader.keys().unwrap();
    let kinds: BTreeMap<String, Kind> = keys
        .iter()
        .map(|info| (String::from_utf8(info.key.clone()).unwrap(), info.kind))
        .collect();
    assert_eq!(kinds.len(), keys.len());
    for (key, kind) in [
        ("small", Kind::Value),
        ("large", Kind::Value),
        ("tagged", Kind::Value),
        ("tagged large", Kind::Value),
        ("average", Kind::Averager),
        ("free", Kind::Lock),
        ("permits", Kind::Semaphore),
    ] {
        assert_eq!(kinds.get(key), Some(&kind), "{key}");
        let info = reader.key_info(key).unwrap().unwrap();
        let listed = keys.iter().find(|i| i.key == key.as_bytes()).unwrap();
        assert_eq!((info.kind, &info.tag), (kind, &listed.tag));
    }
    assert!(!kinds.contains_key("deleted") && reader.key_info("deleted").unwrap().is_none());
    assert_eq!(reader.len().unwrap(), keys.len());
    assert!(!reader.is_empty().unwrap());
    let tag = |key: &str| reader.key_info(key).unwrap().unwrap().tag;
    assert_eq!(tag("tagged large").as_deref(), Some(&b"tag"[..]));
    assert_eq!(tag("average").as_deref(), Some(&b"of averages"[..]));
    assert!(reader.stats().unwrap().bytes_live >= 200_000);
    assert!(reader.volume().unwrap() >= 200_000);
    let report = reader.check().unwrap();
    assert!(report.is_sound() && report.keys == keys.len(), "{report:?}");
}

/// Name, length, times of change, and bytes of all that there is.
type Trace = BTreeMap<PathBuf, (u64, i64, i64, i64, i64, Vec<u8>)>;

fn trace_of(dir: &Path) -> Trace {
    let mut trace = Trace::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        let here = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        for path in here.chain([dir.clone()]) {
            let meta = fs::symlink_metadata(&path).unwrap();
            let bytes = match meta.is_dir() {
                true => Vec::new(),
                false => fs::read(&path).unwrap(),
            };
            if meta.is_dir() && path != dir {
                dirs.push(path.clone());
            }
            let times = (
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            );
            let of = (meta.len(), times.0, times.1, times.2, times.3, bytes);
            trace.insert(path, of);
        }
    }
    trace
}

/// Gives a store that root has made to its owner, with its group allowed to read it.
fn give_away(path: &Path) {
    chown(path, Some(OWNER), Some(GROUP)).unwrap();
    let meta = fs::symlink_metadata(path).unwrap();
    if meta.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o750)).unwrap();
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

fn become_user(uid: u32) {
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(GROUP)).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
}

/// Makes a store and a cache of shards that `GROUP` may read.
fn stores_for_readers(place: &Place) -> [PathBuf; 2] {
    let options = Cache::options().mode(0o640);
    let (store, fanout) = (place.store(), place.root().join("fanout"));
    furnish(&options.open(&store).unwrap());
    let shards = options.shards(3).open(&fanout).unwrap();
    for (key, value) in [("small", b"value".to_vec()), ("large", large())] {
        shards.set(key, value).unwrap();
    }
    drop(shards);
    give_away(&store);
    give_away(&fanout);
    [store, fanout]
}

/// Reads, as one who may do nothing else, whatever it is told to.
pub fn reads(role: &Role) {
    become_user(READER);
    let store = role.store();
    assert_error!(Cache::open(&store), Error::Io { .. }, ["ermission denied"]);
    let reader = Cache::reader(&store).unwrap();
    let fanout = Reader::open(role.dir.join("fanout")).unwrap();
    say("open");
    loop {
        match &*hear() {
            "see all" => {
                is_seen(&reader);
                assert_eq!(fanout.get("small").unwrap().as_deref(), Some(&b"value"[..]));
                assert!(fanout.get("large").unwrap() == Some(large()));
                assert_eq!(fanout.len().unwrap(), 2);
                assert!(fanout.check().unwrap().is_sound());
                say("seen");
            }
            "look" => {
                assert!(reader.keys().unwrap().len() > 6);
                say("seen");
            }
            "holder" => {
                let info = reader.key_info("held").unwrap().unwrap();
                let KeyState::Lock { holder } = info.state else {
                    panic!("{info:?}");
                };
                let of = |holder: slablock::Holder| format!("{} {}", holder.pid, holder.alive);
                say(format!("holder {}", holder.map_or("none".into(), of)));
            }
            _ => return,
        }
    }
}

#[test]
fn who_may_only_read_sees_everything_and_leaves_no_trace() {
    let _watchdog = Watchdog::new("a user who may only read");
    let Some(place) = Place::for_others() else {
        return;
    };
    let stores = stores_for_readers(&place);
    let before = stores.clone().map(|store| trace_of(&store));
    let mut reader = Child::start("reads", place.root(), &[]);
    reader.expect("open");
    reader.ask("see all", "seen");
    for (store, before) in stores.iter().zip(&before) {
        assert!(trace_of(store) == *before, "{}", store.display());
    }
    // Beside somebody who has it open and is idle.
    let cache = Cache::open(place.store()).unwrap();
    let lock = Lock::new(&cache, "held");
    let held = lock.acquire().unwrap();
    let before = trace_of(&place.store());
    reader.ask("see all", "seen");
    let holder = reader.ask("holder", "holder");
    assert_eq!(holder, format!("{} true", std::process::id()));
    assert!(trace_of(&place.store()) == before);
    // What is done later is seen later.
    drop(held);
    assert_eq!(reader.ask("holder", "holder"), "none");
    reader.tell("end");
    reader.finish();
}

#[test]
fn who_reads_does_not_wait_for_a_process_that_is_stopped_in_the_structure() {
    let _watchdog = Watchdog::new("reading beside who is stopped in the structure");
    let Some(place) = Place::for_others() else {
        return;
    };
    stores_for_readers(&place);
    let mut holder = Child::start("in the structure", place.root(), &[]);
    holder.expect("in it");
    holder.stop();
    let mut reader = Child::start("reads", place.root(), &[]);
    reader.expect("open");
    reader.ask("see all", "seen");
    let alive = format!("{} true", holder.pid());
    assert_eq!(reader.ask("holder", "holder"), alive);
    let pid = holder.pid();
    holder.kill();
    let dead = format!("{pid} false");
    assert_eq!(reader.ask("holder", "holder"), dead);
    // It has cleared nothing up: who may do that is told.
    let cache = Cache::open(place.store()).unwrap();
    let lock = Lock::new(&cache, "held");
    let guard = lock.acquire().unwrap();
    assert!(
        guard
            .recovered()
            .is_some_and(|holder| holder.pid == pid.as_raw() as u32)
    );
    drop(guard);
    reader.tell("end");
    reader.finish();
}

/// Whoever writes goes through all that moves: keys made and removed, values replaced, in the slots
/// and in the log, grown, compacted, changed together.
#[test]
fn who_reads_beside_a_writer_sees_what_was_there_at_some_moment() {
    const ROUNDS: u32 = 300;
    let _watchdog = Watchdog::new("reading beside a writer");
    let place = Place::new();
    let options = Cache::options().size_limit(64 << 20).capacity(4_096);
    let cache = options.open(place.store()).unwrap();
    cache.set("always", "there").unwrap();
    let value = |round: u32| vec![round as u8; if round.is_multiple_of(2) { 20 } else { 30_000 }];
    cache.set("changing", value(0)).unwrap();
    cache.set("one", "0").unwrap();
    cache.set("other", "0").unwrap();
    let ended = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let reader = Reader::open(place.store()).unwrap();
            let (mut looks, mut last) = (0, 0);
            while !ended.load(Ordering::Acquire) || looks == 0 {
                looks += 1;
                assert_eq!(
                    reader.get("always").unwrap().as_deref(),
                    Some(&b"there"[..])
                );
                let seen = reader.get("changing").unwrap().unwrap();
                assert!(seen.iter().all(|byte| *byte == seen[0]));
                assert!(matches!(seen.len(), 20 | 30_000), "{}", seen.len());
                // Both are changed together, so what is seen later is not older.
                let number = |key: &str| -> u32 {
                    let digits = reader.get(key).unwrap().unwrap();
                    String::from_utf8(digits).unwrap().parse().unwrap()
                };
                let (one, other) = (number("one"), number("other"));
                assert!(last <= one && one <= other, "{last}, {one}, {other}");
                last = other;
                let keys = reader.keys().unwrap();
                let is_there = |key: &str| keys.iter().filter(|i| i.key == key.as_bytes()).count();
                for key in ["always", "changing", "one", "other"] {
                    assert_eq!(is_there(key), 1, "{key}");
                }
                assert!(reader.len().unwrap() >= 4);
                let report = reader.check().unwrap();
                assert!(report.is_sound(), "{report:?}");
                reader.stats().unwrap();
            }
            looks
        });
        for round in 1..=ROUNDS {
            cache.set("changing", value(round)).unwrap();
            for key in 0..20 {
                let key = format!("{round} {key}");
                cache.set(&key, "value").unwrap();
                cache.remove(&key).unwrap();
            }
            let lock = Lock::new(&cache, format!("lock {}", round % 7));
            drop(lock.acquire().unwrap());
            cache.remove(format!("lock {}", round % 7)).unwrap();
            cache
                .transact_as(|values| {
                    values.set("one", round.to_string())?;
                    values.set("other", round.to_string())?;
                    Ok::<_, Error>(())
                })
                .unwrap();
            if round.is_multiple_of(20) {
                cache.cull().unwrap();
            }
        }
        ended.store(true, Ordering::Release);
        looking.join().unwrap()
    });
    println!("{looks} looks beside {ROUNDS} rounds");
    assert!(cache.check().unwrap().is_sound());
}

#[test]
fn a_store_behind_a_read_only_mount_is_read() {
    const NAME: &str = "readers::a_store_behind_a_read_only_mount_is_read";
    let Some(dir) = role(NAME) else {
        return in_a_namespace(NAME, Place::new().root());
    };
    let dir = Path::new(&dir);
    let (store, there) = (dir.join("store"), dir.join("there"));
    let cache = Cache::open(&store).unwrap();
    furnish(&cache);
    let lock = Lock::new(&cache, "held");
    let held = lock.acquire().unwrap();
    fs::create_dir(&there).unwrap();
    if !bind_read_only(&store, &there) {
        return println!("skipped: nothing can be mounted here");
    }
    let reader = Reader::open(&there).unwrap();
    is_seen(&reader);
    let info = reader.key_info("held").unwrap().unwrap();
    let KeyState::Lock { holder } = info.state else {
        panic!("{info:?}");
    };
    assert!(holder.is_some_and(|holder| holder.alive));
    // Written by the other name.
    cache.set("small", "another").unwrap();
    assert_eq!(
        reader.get("small").unwrap().as_deref(),
        Some(&b"another"[..])
    );
    drop(held);
    #[cfg(feature = "cli")]
    {
        let (status, said) = slablock(&there, &["get", "small"], None);
        assert_eq!((status, &*said), (Some(0), "another"));
        let (status, said) = slablock(&there, &["check"], None);
        assert!(
            status == Some(0) && said.contains("read only: its file system"),
            "{said}"
        );
        assert_eq!(slablock(&there, &["set", "small", "x"], None).0, Some(125));
    }
    // A whole file system, of which nobody has anything open.
    drop((cache, reader));
    let disk = dir.join("disk");
    fs::create_dir(&disk).unwrap();
    assert!(mount("tmpfs", "size=16m", &disk));
    furnish(&Cache::open(disk.join("store")).unwrap());
    assert!(remount("ro", &disk));
    is_seen(&Reader::open(disk.join("store")).unwrap());
    println!("all told");
}

/// A copy is refused by who would take part in it, and read.
#[test]
fn a_copy_is_read_and_a_store_that_is_gone_is_noticed() {
    let place = Place::new();
    furnish(&place.open());
    let copy = place.root().join("copy");
    let status = Command::new("cp")
        .arg("-a")
        .arg(place.store())
        .arg(&copy)
        .status();
    assert!(status.unwrap().success());
    assert_error!(Cache::open(&copy), Error::Copied { .. }, ["adopt"]);
    let reader = Reader::open(&copy).unwrap();
    is_seen(&reader);
    fs::rename(&copy, place.root().join("moved")).unwrap();
    is_seen(&reader);
    fs::rename(place.root().join("moved"), &copy).unwrap();
    fs::remove_dir_all(&copy).unwrap();
    assert_error!(reader.get("small"), Error::Replaced { .. }, ["copy"]);
    assert_error!(reader.keys(), Error::Replaced { .. }, ["copy"]);
    assert_error!(Reader::open(&copy), Error::NotAStore { .. }, ["copy"]);
    // Nothing is made for a reader.
    fs::create_dir(&copy).unwrap();
    assert_error!(Reader::open(&copy), Error::NotAStore { .. }, ["copy"]);
    assert_eq!(fs::read_dir(&copy).unwrap().count(), 0);
    // What has two names has two logs.
    let linked = place.root().join("linked");
    let status = Command::new("cp")
        .arg("-al")
        .arg(place.store())
        .arg(&linked)
        .status();
    assert!(status.unwrap().success());
    assert_error!(Reader::open(&linked), Error::Linked { .. }, ["2"]);
}

#[test]
fn what_is_damaged_is_told_by_a_reader_that_checks() {
    let place = Place::new();
    let cache = place.open();
    furnish(&cache);
    let reader = Reader::open(place.store()).unwrap();
    assert!(reader.check().unwrap().is_sound());
    // The second copy of the header.
    let byte = place.peek::<1>(2_048 + 30);
    place.poke(2_048 + 30, &[byte[0] ^ 1]);
    let problems = reader.check().unwrap().problems;
    assert!(problems[0].contains("second copy"), "{problems:?}");
    place.poke(2_048 + 30, &byte);
    // A value in the log.
    let segment = place.store().join("log/00000001");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let problems = reader.check().unwrap().problems;
    assert!(problems[0].contains("large"), "{problems:?}");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(reader.get("large").unwrap(), None);
    // It is not counted: that would be to write.
    assert_eq!(cache.stats().unwrap().damaged, 0);
}

/// Locks, in every way that there is, whatever it can open, as one who may only read.
pub fn locks_all(role: &Role) {
    become_user(READER);
    let mut files = Vec::new();
    let mut paths = vec![role.store(), role.store().join("log")];
    for dir in paths.clone() {
        let here = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        paths.extend(here.filter(|path| !path.is_dir()));
    }
    let mut refused = Vec::new();
    for path in paths {
        match File::open(&path) {
            Ok(file) => files.push((path, file)),
            Err(_) => refused.push(path.file_name().unwrap().to_str().unwrap().to_string()),
        }
    }
    refused.sort();
    assert_eq!(refused, ["attach", "beacons", "stripes"]);
    for (path, file) in &files {
        // What somebody has locked shared is not to be had alone; shared it is.
        let flock = |how| {
            // SAFETY: the descriptor is open.
            #[allow(unsafe_code)]
            unsafe {
                libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) == 0
            }
        };
        let flocked = flock(libc::LOCK_EX) || flock(libc::LOCK_SH);
        assert!(flocked, "{}", path.display());
        if path.is_dir() {
            continue;
        }
        let all = lock_record(libc::F_RDLCK, 0..0);
        fcntl(file, FcntlArg::F_OFD_SETLK(&all)).unwrap();
        fcntl(file, FcntlArg::F_SETLK(&all)).unwrap();
    }
    assert!(files.iter().any(|(path, _)| path.ends_with("slab")));
    assert!(files.iter().any(|(path, _)| path.ends_with("00000001")));
    say(format!("locked {}", files.len()));
    hear();
}

fn change_everything(store: &Path) {
    let cache = Cache::open(store).unwrap();
    cache.set("small", "value").unwrap();
    cache.set("large", large()).unwrap();
    cache.delete("large").unwrap();
    cache.cull().unwrap();
    cache.set("large", large()).unwrap();
    let lock = Lock::new(&cache, "a new lock");
    drop(lock.try_acquire().unwrap().unwrap());
    assert!(cache.remove("a new lock").unwrap());
    cache.sync().unwrap();
    assert!(cache.check().unwrap().is_sound());
    assert!(cache.lifeline().is_ok());
}

/// A member of the group that may read locks all that it can, before anybody has the store open,
/// and while somebody has.
#[test]
fn who_may_only_read_keeps_nobody_from_anything_but_repair() {
    let _watchdog = Watchdog::new("a reader who locks all that it can");
    let Some(place) = Place::for_others() else {
        return;
    };
    let [store, _] = stores_for_readers(&place);
    for is_open_before in [false, true] {
        let open = is_open_before.then(|| Cache::open(&store).unwrap());
        let mut reader = Child::start("locks all", place.root(), &[]);
        reader.expect("locked");
        change_everything(&store);
        drop(open);
        // By processes of their own, which join, and open it after everybody has closed it.
        let opener = Child::start("changes all", place.root(), &[]);
        opener.finish();
        #[cfg(feature = "cli")]
        for arguments in [
            &["run", "-n", "key", "--", "true"][..],
            &["set", "small", "value"],
            &["status"],
        ] {
            let (status, said) = slablock(&store, arguments, None);
            assert_eq!(status, Some(0), "{arguments:?}: {said}");
        }
        assert_error!(Cache::repair(&store), Error::Busy { .. }, ["store"]);
        assert_error!(Cache::adopt(&store), Error::Busy { .. }, ["store"]);
        reader.tell("let go");
        reader.finish();
        assert!(Cache::repair(&store).is_ok());
    }
}

/// `chmod -R a+rX` lets others read, and would let them lock what everybody waits for.
#[test]
fn whoever_opens_a_store_whose_lock_files_others_may_read_takes_that_back() {
    let _watchdog = Watchdog::new("lock files that may be read");
    let Some(place) = Place::for_others() else {
        return;
    };
    let stores = stores_for_readers(&place);
    let modes = |store: &Path| LOCKED.map(|name| mode_of(&store.join(name)));
    let open_up = |how: &str| {
        for store in &stores {
            let status = Command::new("chmod").args(["-R", how]).arg(store).status();
            assert!(status.unwrap().success());
        }
    };
    let [store, fanout] = &stores;
    open_up("a+rX");
    drop(FanoutCache::open(fanout, 3).unwrap());
    assert_eq!(modes(fanout), [0o600; 3]);
    let open = Cache::open(store).unwrap();
    assert_eq!(modes(store), [0o600; 3]);
    assert_eq!(mode_of(&store.join("slab")), 0o644);
    let mut reader = Child::start("locks all", place.root(), &[]);
    reader.expect("locked");
    change_everything(store);
    drop(open);
    Child::start("changes all", place.root(), &[]).finish();
    reader.tell("let go");
    reader.finish();
    // What is opened up while it is open, is told.
    let open = Cache::open(store).unwrap();
    let shards = FanoutCache::open(fanout, 3).unwrap();
    open_up("a+rX");
    let reports = [
        open.check().unwrap(),
        shards.check().unwrap(),
        Reader::open(store).unwrap().check().unwrap(),
        Reader::open(fanout).unwrap().check().unwrap(),
    ];
    for problems in reports.map(|report| report.problems) {
        let told = problems.iter().zip(LOCKED).all(|(problem, name)| {
            problem.contains(name) && problem.contains("mode 0644") && problem.contains("chmod")
        });
        assert!(told && problems.len() == 3, "{problems:?}");
    }
    drop((open, shards));
    #[cfg(feature = "cli")]
    {
        // Its owner, who is not root.
        for store in &stores {
            let (status, said) = slablock(store, &["check"], Some(OWNER));
            assert_eq!(status, Some(0), "{said}");
            assert_eq!(modes(store), [0o600; 3]);
        }
        // A member who may write, and is not the owner, goes on.
        open_up("g+rwX,o+rX");
        let (status, said) = slablock(store, &["set", "small", "value"], Some(READER));
        assert_eq!(status, Some(0), "{said}");
        let (status, said) = slablock(store, &["check"], Some(READER));
        assert!(
            status == Some(1) && said.contains("stripes") && said.contains("chmod"),
            "{said}"
        );
        assert_eq!(slablock(store, &["check"], None).0, Some(0));
        assert_eq!(modes(store), [0o660; 3]);
    }
}

/// The commands of docs/operations.md, on a store that the command line has made.
#[cfg(feature = "cli")]
#[test]
fn a_store_is_opened_up_for_readers_without_its_lock_files() {
    let _watchdog = Watchdog::new("opened up");
    let Some(place) = Place::for_others() else {
        return;
    };
    let store = place.store();
    let fanout = place.root().join("fanout");
    drop(FanoutCache::open(&fanout, 2).unwrap());
    for store in [&store, &fanout] {
        assert_eq!(slablock(store, &["set", "small", "value"], None).0, Some(0));
        assert_eq!(
            slablock(store, &["get", "small"], Some(READER)).0,
            Some(125)
        );
        let manual = include_str!("../../docs/operations.md");
        let line = manual.lines().find(|line| line.starts_with("find DIR"));
        let script = line.unwrap().replace("DIR", "\"$0\"");
        let status = Command::new("sh").args(["-c", &script]).arg(store).status();
        assert!(status.unwrap().success());
        assert_eq!(LOCKED.map(|name| mode_of(&store.join(name))), [0o600; 3]);
        // Also what is made later.
        let large = "x".repeat(100_000);
        assert_eq!(slablock(store, &["set", "large", &large], None).0, Some(0));
        for (key, value) in [("small", "value"), ("large", &large)] {
            let (status, said) = slablock(store, &["get", key], Some(READER));
            assert!(status == Some(0) && said == value, "{key}");
        }
        assert_eq!(slablock(store, &["check"], Some(READER)).0, Some(0));
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// One who opens the store, and changes all.
pub fn changes_all(role: &Role) {
    change_everything(&role.store());
}

#[cfg(feature = "cli")]
fn slablock(store: &Path, arguments: &[&str], uid: Option<u32>) -> (Option<i32>, String) {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
    command.arg("--dir").arg(store).args(arguments);
    if let Some(uid) = uid {
        command.gid(GROUP).uid(uid);
    }
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code(), said)
}

#[cfg(feature = "cli")]
#[test]
fn commands_that_look_serve_a_user_who_may_only_read() {
    let _watchdog = Watchdog::new("commands of a user who may only read");
    let Some(place) = Place::for_others() else {
        return;
    };
    let stores = stores_for_readers(&place);
    let before = stores.clone().map(|store| trace_of(&store));
    let [store, fanout] = &stores;
    let ask = |store: &Path, arguments: &[&str]| slablock(store, arguments, Some(READER));
    for store in [store, fanout] {
        assert_eq!(ask(store, &["get", "small"]), (Some(0), "value".into()));
        assert_eq!(ask(store, &["get", "never"]), (Some(1), String::new()));
        let (status, said) = ask(store, &["keys"]);
        assert!(
            status == Some(0) && said.starts_with("large\nsmall\n"),
            "{said}"
        );
        for arguments in [&["status"][..], &["check"]] {
            let (status, said) = ask(store, arguments);
            assert_eq!(status, Some(0), "{said}");
            let notes = said
                .matches("\nread only: this user may not write it")
                .count();
            assert_eq!(notes, 1, "{said}");
        }
        for arguments in [
            &["status", "--json"][..],
            &["status", "small"],
            &["stats"],
            &["stats", "--json"],
            &["keys", "--json"],
            &["volume"],
        ] {
            let (status, said) = ask(store, arguments);
            assert_eq!(status, Some(0), "{arguments:?}: {said}");
            if !matches!(arguments, ["status", "small"]) {
                assert!(!said.contains("read only"), "{arguments:?}: {said}");
            }
        }
        // Whatever would write is refused as it was.
        for arguments in [
            &["set", "small", "x"][..],
            &["delete", "small"],
            &["pop", "small"],
            &["run", "key", "--", "true"],
        ] {
            let (status, said) = ask(store, arguments);
            assert_eq!(status, Some(125), "{arguments:?}: {said}");
            assert!(said.contains("ermission denied"), "{said}");
        }
    }
    assert_eq!(
        ask(store, &["keys"]).1,
        "large\nsmall\ntagged\ntagged large\n"
    );
    assert_eq!(ask(fanout, &["keys"]).1, "large\nsmall\n");
    assert_eq!(
        ask(store, &["average", "get", "average"]),
        (Some(0), "1.5\n".into())
    );
    assert_eq!(ask(store, &["average", "pop", "average"]).0, Some(125));
    for (store, before) in stores.iter().zip(&before) {
        assert!(trace_of(store) == *before, "{}", store.display());
    }
    // Who may not even read is told which file, and whose.
    for path in [store.join("slab"), fanout.join("fanout")] {
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let (status, said) = ask(path.parent().unwrap(), &["get", "small"]);
        assert_eq!(status, Some(125), "{said}");
        assert!(
            said.contains("mode 0600") && said.contains("5001"),
            "{said}"
        );
    }
}
