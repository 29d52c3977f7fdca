//! Owner, group, root, readers, and links that a member of the group puts in the way.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{Gid, Uid, geteuid, mkfifo, setgid, setgroups, setuid};
use slablock::{Cache, Error, FanoutCache, Lock, Options};

use crate::kit::layout::{Layout, PARTICIPANT_BYTES, PROCESS_AND_USER};
use crate::kit::{Place, bounded, child, output_of, role, said, succeeds};

/// Segments of 1 MiB: what is longer than a quarter of that has one of its own.
fn small() -> Options {
    Cache::options().size_limit(64 << 20)
}

/// Too large for the slots.
const LARGE: usize = 100_000;
/// In the slots of no key either, and so short that many are in one segment.
const MEDIUM: usize = 20_000;

/// What a member of the group puts in the place of a file of the store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trap {
    Link,
    Dangling,
    Fifo,
    Device,
    Directory,
    HardLink,
}

impl Trap {
    const ALL: [Trap; 6] = [
        Trap::Link,
        Trap::Dangling,
        Trap::Fifo,
        Trap::Device,
        Trap::Directory,
        Trap::HardLink,
    ];

    /// Those that can be laid here; says which cannot.
    fn all() -> Vec<Trap> {
        let may_all = geteuid().is_root();
        if !may_all {
            println!("left out: device nodes, which only root can make");
        }
        let may = |trap: &Trap| may_all || *trap != Trap::Device;
        Trap::ALL.into_iter().filter(may).collect()
    }

    /// What an error calls it.
    fn words(self) -> &'static str {
        match self {
            Trap::Link | Trap::Dangling => "symbolic link",
            Trap::Fifo => "FIFO",
            Trap::Device => "device",
            Trap::Directory => "directory",
            Trap::HardLink => "2 names",
        }
    }

    /// Lays it at `path`; what was there is moved `away` first.
    fn lay(self, path: &Path, away: &Away) {
        let old = away.0.join("old");
        let was_there = fs::rename(path, &old).is_ok();
        match self {
            Trap::Link => symlink(away.precious(), path).unwrap(),
            Trap::Dangling => symlink(away.absent(), path).unwrap(),
            Trap::Fifo => mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap(),
            Trap::Device => {
                let mode = Mode::from_bits_truncate(0o666);
                mknod(path, SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
            }
            Trap::Directory => fs::create_dir(path).unwrap(),
            Trap::HardLink if was_there => fs::hard_link(old, path).unwrap(),
            Trap::HardLink => fs::hard_link(away.precious(), path).unwrap(),
        }
    }
}

/// A directory beside the store, with a file that nobody may change.
struct Away(PathBuf);

const PRECIOUS: &[u8] = b"somebody else's";

impl Away {
    fn beside(place: &Place) -> Away {
        let away = Away(place.root().join("away"));
        fs::create_dir(&away.0).unwrap();
        fs::write(away.precious(), PRECIOUS).unwrap();
        away
    }

    fn precious(&self) -> PathBuf {
        self.0.join("precious")
    }

    fn absent(&self) -> PathBuf {
        self.0.join("absent")
    }

    fn assert_untouched(&self, when: &str) {
        assert_eq!(fs::read(self.precious()).unwrap(), PRECIOUS, "{when}");
        assert!(!self.absent().exists(), "{when}");
    }
}

/// The error names the file and says what it is instead.
fn assert_told<T>(result: slablock::Result<T>, name: &str, trap: Trap, when: &str) {
    match result {
        Ok(_) => panic!("{when} is not refused"),
        Err(error) => {
            let text = error.to_string();
            let told = text.contains(name) && text.contains(trap.words());
            assert!(told, "{when}: {text}");
        }
    }
}

fn segment(store: &Path, number: u32) -> PathBuf {
    store.join("log").join(format!("{number:08x}"))
}

#[test]
fn what_is_no_file_of_one_name_in_the_place_of_slab_or_lock_files_is_refused() {
    bounded(|| {
        for trap in Trap::all() {
            for name in ["slab", "attach", "beacons", "stripes"] {
                let when = format!("{trap:?} as {name}");
                let place = Place::new();
                let away = Away::beside(&place);
                drop(place.open());
                trap.lay(&place.store().join(name), &away);
                // Of the slab's names the opener of the slab speaks in words of its own.
                match (trap, name) {
                    (Trap::HardLink, "slab") => assert!(Cache::open(place.store()).is_err()),
                    _ => assert_told(Cache::open(place.store()), name, trap, &when),
                }
                away.assert_untouched(&when);
            }
        }
    });
}

#[test]
fn what_is_no_file_of_one_name_in_the_place_of_the_next_segment_is_refused() {
    bounded(|| {
        for trap in Trap::all() {
            let when = format!("{trap:?} as the next segment");
            let place = Place::new();
            let away = Away::beside(&place);
            let cache = small().open(place.store()).unwrap();
            cache.set("first", [1; MEDIUM]).unwrap();
            let next = segment(&place.store(), 2);
            trap.lay(&next, &away);
            let kind = fs::symlink_metadata(&next).unwrap().file_type();
            // One that has a segment of its own.
            let set = cache.set("second", vec![2; 3 * LARGE]);
            assert_told(set, "00000002", trap, &when);
            away.assert_untouched(&when);
            // What the error speaks of is still there to be looked at.
            assert_eq!(fs::symlink_metadata(&next).unwrap().file_type(), kind);
            assert!(cache.get("second").unwrap().is_none());
            cache.set("second", vec![2; 3 * LARGE]).unwrap();
            assert!(cache.delete("second").unwrap());
            assert_eq!(cache.get("first").unwrap(), Some(vec![1; MEDIUM]));
            away.assert_untouched(&when);
        }
    });
}

#[test]
fn what_is_put_in_the_place_of_a_segment_is_neither_read_nor_cut_off() {
    bounded(|| {
        for trap in Trap::all() {
            let when = format!("{trap:?} in the place of a segment");
            let place = Place::new();
            let away = Away::beside(&place);
            let cache = small().open(place.store()).unwrap();
            cache.set("key", vec![1; 3 * LARGE]).unwrap();
            drop(cache);
            let one = segment(&place.store(), 1);
            trap.lay(&one, &away);
            let before = fs::metadata(away.0.join("old")).unwrap().len();
            let cache = place.open();
            assert_told(cache.get("key"), "00000001", trap, &when);
            away.assert_untouched(&when);
            // It is the only value there: its segment goes with it.
            assert!(cache.delete("key").unwrap(), "{when}");
            cache.cull().unwrap();
            away.assert_untouched(&when);
            assert_eq!(fs::metadata(away.0.join("old")).unwrap().len(), before);
            drop(cache);
            Cache::repair(place.store()).unwrap();
            away.assert_untouched(&when);
            let cache = place.open();
            cache.set("key", vec![3; 3 * LARGE]).unwrap();
            assert_eq!(cache.get("key").unwrap(), Some(vec![3; 3 * LARGE]));
        }
    });
}

#[test]
fn a_log_that_is_no_directory_of_the_store_is_refused() {
    bounded(|| {
        for trap in Trap::all() {
            for is_made in [false, true] {
                let when = format!("{trap:?} as log, which was there: {is_made}");
                let place = Place::new();
                let away = Away::beside(&place);
                let log = place.store().join("log");
                let cache = place.open();
                if is_made {
                    cache.set("key", vec![1; LARGE]).unwrap();
                }
                drop(cache);
                let old = away.0.join("old");
                match (trap, is_made) {
                    // To a directory there, in which segments could be made.
                    (Trap::Link, true) => {
                        fs::rename(&log, &old).unwrap();
                        symlink(&old, &log).unwrap();
                    }
                    (Trap::Link, false) => symlink(&away.0, &log).unwrap(),
                    (Trap::Directory | Trap::HardLink, _) => continue,
                    _ => trap.lay(&log, &away),
                }
                let cache = place.open();
                assert_told(cache.set("other", vec![2; LARGE]), "log is", trap, &when);
                if is_made {
                    assert_told(cache.get("key"), "log is", trap, &when);
                    assert_told(cache.sync(), "log is", trap, &when);
                    assert_eq!(fs::read_dir(&old).unwrap().count(), 1, "{when}");
                    assert!(fs::metadata(old.join("00000001")).unwrap().len() > 0);
                }
                away.assert_untouched(&when);
                let there = fs::read_dir(&away.0).unwrap().count();
                assert_eq!(there, 1 + usize::from(is_made), "{when}");
            }
        }
    });
}

/// Between two system calls of whoever writes, the directory is a link to another one.
#[test]
fn nothing_is_made_where_a_link_leads_that_comes_and_goes() {
    bounded(|| {
        let place = Place::new();
        let away = Away::beside(&place);
        let cache = small().open(place.store()).unwrap();
        cache.set("key", vec![0; 3 * LARGE]).unwrap();
        let (log, aside) = (place.store().join("log"), place.store().join("aside"));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::rename(&log, &aside).unwrap();
                    // Unless one was made there meanwhile.
                    let _ = symlink(&away.0, &log);
                    let _ = fs::remove_file(&log);
                    while fs::rename(&aside, &log).is_err() {
                        let _ = fs::remove_dir_all(&log);
                    }
                }
            });
            for version in 0..60_u8 {
                // In vain at times.
                let _ = cache.set("key", vec![version; 3 * LARGE]);
                let _ = cache.delete("key");
            }
            done.store(true, Ordering::Relaxed);
        });
        away.assert_untouched("after the link");
        assert_eq!(fs::read_dir(&away.0).unwrap().count(), 1);
    });
}

#[test]
fn what_is_no_file_of_one_name_in_the_place_of_a_fanout_s_files_is_refused() {
    bounded(|| {
        for trap in Trap::all() {
            for name in ["fanout.new", "attach"] {
                let when = format!("{trap:?} as {name}");
                let place = Place::new();
                let away = Away::beside(&place);
                fs::create_dir(place.store()).unwrap();
                trap.lay(&place.store().join(name), &away);
                assert_told(FanoutCache::open(place.store(), 2), name, trap, &when);
                away.assert_untouched(&when);
                assert!(!place.store().join("fanout").exists(), "{when}");
            }
            let when = format!("{trap:?} as fanout");
            let place = Place::new();
            let away = Away::beside(&place);
            drop(FanoutCache::open(place.store(), 2).unwrap());
            trap.lay(&place.store().join("fanout"), &away);
            assert_told(FanoutCache::open(place.store(), 2), "fanout", trap, &when);
            away.assert_untouched(&when);
        }
    });
}

/// Owner, another member of the group, and a stranger.
const OWNER: u32 = 5_001;
const MEMBER: u32 = 5_002;
const TEAM: u32 = 1_234;

/// Becomes a user for good, whose own group has the user's number, and who is in these groups.
fn become_user(uid: u32, groups: &[Gid]) {
    if uid == 0 {
        return;
    }
    setgroups(groups).unwrap();
    setgid(Gid::from_raw(uid)).unwrap();
    setuid(Uid::from_raw(uid)).unwrap();
}

/// The steps of a test, each run by a user in a process of its own.
struct Users {
    test: &'static str,
    place: Place,
}

impl Users {
    /// `None` in a process that was started for a step, which is done then; and, with a line that
    /// says so, where this process may not become others.
    fn of(test: &'static str, steps: impl Fn(&str, &Path)) -> Option<Users> {
        if as_step(test, steps) {
            return None;
        }
        let place = Place::for_others()?;
        Some(Users { test, place })
    }

    /// A directory in which the store is made: its owner, group and mode.
    fn parent(&self, uid: u32, gid: u32, mode: u32) -> PathBuf {
        let parent = self.place.root().join("parent");
        fs::create_dir(&parent).unwrap();
        std::os::unix::fs::chown(&parent, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&parent, Permissions::from_mode(mode)).unwrap();
        parent.join("store")
    }

    /// Has `uid` do the step of that name.
    fn let_do(&self, uid: u32, step: &str, store: &Path) {
        let store = store.to_str().unwrap();
        succeeds(
            child(self.test, &format!("{step} {uid} {store}")),
            "step done",
        );
    }
}

/// Does the step, if this process was started for one.
fn as_step(test: &'static str, steps: impl Fn(&str, &Path)) -> bool {
    let Some(argument) = role(test) else {
        return false;
    };
    let mut words = argument.splitn(3, ' ');
    let mut next = || words.next().unwrap().to_string();
    let (step, uid, store) = (next(), next(), next());
    // No mode of a store's depends on that.
    umask(Mode::from_bits_truncate(match &*step {
        // Directories above the store are made as any program makes them.
        "fan" => 0o007,
        _ => 0o777,
    }));
    let groups = [Gid::from_raw(TEAM)];
    let groups = if step == "alone" { &[] } else { &groups[..] };
    become_user(uid.parse().unwrap(), groups);
    steps(&step, Path::new(&store));
    println!("step done");
    true
}

/// Owner, group and mode.
fn rights(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}

/// Values of several sizes by all users, each of which each can read, change and remove.
fn use_all(store: &Path) {
    let cache = Cache::open(store).unwrap();
    drop(Lock::new(&cache, "lock").acquire().unwrap());
    for (key, len) in [("large", LARGE), ("alone", 4 * LARGE), ("medium", MEDIUM)] {
        if let Some(there) = cache.get(key).unwrap() {
            assert_eq!(there.len(), len);
        }
        cache.set(key, vec![7; len]).unwrap();
        assert_eq!(cache.get(key).unwrap(), Some(vec![7; len]));
    }
    assert!(cache.check().unwrap().is_sound());
    assert!(cache.delete("alone").unwrap());
    cache.cull().unwrap();
}

/// For those who read the slab by its documented format.
#[test]
fn a_participant_s_record_names_its_process_and_its_user() {
    const NAME: &str = "users::a_participant_s_record_names_its_process_and_its_user";
    let users = Users::of(NAME, |_, store| {
        let cache = small().open(store).unwrap();
        drop(Lock::new(&cache, "lock").acquire().unwrap());
        let slab = fs::read(store.join("slab")).unwrap();
        let participants = Layout::new().participants as usize;
        let at = participants + (PARTICIPANT_BYTES + PROCESS_AND_USER) as usize;
        let word: [u8; 8] = slab[at..at + 8].try_into().unwrap();
        let mine = u64::from(std::process::id()) | u64::from(geteuid().as_raw()) << 32;
        assert_eq!(u64::from_le_bytes(word), mine);
    });
    let Some(users) = users else {
        return;
    };
    let store = users.parent(OWNER, OWNER, 0o755);
    users.let_do(OWNER, "look", &store);
}

#[test]
fn what_root_writes_into_a_user_s_store_is_the_user_s() {
    const NAME: &str = "users::what_root_writes_into_a_user_s_store_is_the_user_s";
    let users = Users::of(NAME, |step, store| match step {
        "make" => drop(small().open(store).unwrap()),
        "repair" => drop(Cache::repair(store).unwrap()),
        _ => use_all(store),
    });
    let Some(users) = users else {
        return;
    };
    let store = users.parent(OWNER, OWNER, 0o755);
    users.let_do(OWNER, "make", &store);
    users.let_do(0, "use", &store);
    assert_eq!(rights(&store.join("log")), (OWNER, OWNER, 0o700));
    for entry in fs::read_dir(store.join("log")).unwrap() {
        assert_eq!(rights(&entry.unwrap().path()), (OWNER, OWNER, 0o600));
    }
    users.let_do(OWNER, "use", &store);
    users.let_do(OWNER, "repair", &store);
    users.let_do(0, "use", &store);
    users.let_do(0, "repair", &store);
    users.let_do(OWNER, "use", &store);
}

#[test]
fn files_of_a_member_who_names_no_mode_have_the_store_s() {
    const NAME: &str = "users::files_of_a_member_who_names_no_mode_have_the_store_s";
    let users = Users::of(NAME, |step, store| match step {
        "make" => drop(small().mode(0o660).open(store).unwrap()),
        _ => use_all(store),
    });
    let Some(users) = users else {
        return;
    };
    let store = users.parent(OWNER, OWNER, 0o755);
    users.let_do(OWNER, "make", &store);
    // The team's, as an administrator makes it; the directory gives no group to what is made in it.
    let all = [".", "slab", "attach", "beacons", "stripes"];
    for name in all {
        std::os::unix::fs::chown(store.join(name), None, Some(TEAM)).unwrap();
    }
    users.let_do(MEMBER, "use", &store);
    assert_eq!(rights(&store.join("log")), (MEMBER, TEAM, 0o770));
    for entry in fs::read_dir(store.join("log")).unwrap() {
        assert_eq!(rights(&entry.unwrap().path()), (MEMBER, TEAM, 0o660));
    }
    users.let_do(OWNER, "use", &store);
    users.let_do(MEMBER, "use", &store);
}

#[test]
fn rights_that_are_meant_for_the_group_are_given_to_no_other_group() {
    const NAME: &str = "users::rights_that_are_meant_for_the_group_are_given_to_no_other_group";
    let users = Users::of(NAME, |step, store| match step {
        "make" => drop(small().mode(0o664).open(store).unwrap()),
        _ => use_all(store),
    });
    let Some(users) = users else {
        return;
    };
    let store = users.parent(OWNER, OWNER, 0o755);
    users.let_do(OWNER, "make", &store);
    std::os::unix::fs::chown(store.join("slab"), None, Some(TEAM)).unwrap();
    // The owner is none of the team, and cannot give it anything.
    users.let_do(OWNER, "alone", &store);
    assert_eq!(rights(&store.join("log")), (OWNER, OWNER, 0o755));
    for entry in fs::read_dir(store.join("log")).unwrap() {
        assert_eq!(rights(&entry.unwrap().path()), (OWNER, OWNER, 0o644));
    }
}

#[test]
fn a_segment_that_may_not_be_written_leads_to_another_one() {
    const NAME: &str = "users::a_segment_that_may_not_be_written_leads_to_another_one";
    let users = Users::of(NAME, |step, store| match step {
        "make" => {
            let cache = small().open(store).unwrap();
            cache.set("a", [1; MEDIUM]).unwrap();
        }
        _ => {
            let cache = Cache::open(store).unwrap();
            // The segment that is written to, and the next one, are another's.
            for key in ["b", "c", "d"] {
                cache.set(key, [2; MEDIUM]).unwrap();
                assert_eq!(cache.get(key).unwrap(), Some(vec![2; MEDIUM]));
            }
            cache.set("alone", vec![3; 4 * LARGE]).unwrap();
            assert_eq!(cache.get("alone").unwrap(), Some(vec![3; 4 * LARGE]));
            // May be read: that is enough for reading.
            assert_eq!(cache.get("a").unwrap(), Some(vec![1; MEDIUM]));
            assert!(cache.check().unwrap().is_sound());
            assert!(cache.delete("a").unwrap());
        }
    });
    let Some(users) = users else {
        return;
    };
    let store = users.parent(OWNER, OWNER, 0o755);
    users.let_do(OWNER, "make", &store);
    for number in [1, 2] {
        let path = segment(&store, number);
        if number == 2 {
            fs::write(&path, b"").unwrap();
        }
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    }
    users.let_do(OWNER, "use", &store);
    assert_eq!(fs::metadata(segment(&store, 2)).unwrap().len(), 0);
    // Where nothing can be made it is an error, not a search for another number.
    fs::set_permissions(store.join("log"), Permissions::from_mode(0o500)).unwrap();
    let place = store.to_str().unwrap();
    let output = output_of(child(NAME, &format!("use {OWNER} {place}")));
    assert!(!output.status.success());
    assert!(
        said(&output).contains("PermissionDenied"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_team_s_directory_gives_its_group_to_the_store() {
    const NAME: &str = "users::a_team_s_directory_gives_its_group_to_the_store";
    let users = Users::of(NAME, |step, store| match step {
        "make" => drop(small().mode(0o660).open(store).unwrap()),
        "fan" => {
            let fanout = store.with_file_name("fanout").join("deep");
            let options = small().mode(0o660);
            let cache = options.shards(2).open(fanout).unwrap();
            for key in 0..8_u8 {
                cache.set([key], [key; LARGE]).unwrap();
            }
        }
        _ => use_all(store),
    });
    let Some(users) = users else {
        return;
    };
    let store = users.parent(0, TEAM, 0o2770);
    users.let_do(OWNER, "make", &store);
    assert_eq!(rights(&store), (OWNER, TEAM, 0o2770));
    users.let_do(MEMBER, "use", &store);
    users.let_do(OWNER, "use", &store);
    users.let_do(MEMBER, "fan", &store);
    users.let_do(OWNER, "fan", &store);
    let mut looked_at = 0;
    let mut left = vec![store.clone(), store.with_file_name("fanout")];
    while let Some(path) = left.pop() {
        let (_, gid, mode) = rights(&path);
        assert_eq!(gid, TEAM, "{path:?}");
        looked_at += 1;
        if path.is_dir() {
            assert_eq!(mode & 0o2000, 0o2000, "{path:?}");
            left.extend(fs::read_dir(&path).unwrap().map(|one| one.unwrap().path()));
        } else {
            assert_eq!(mode, 0o660, "{path:?}");
        }
    }
    assert!(looked_at > 20, "{looked_at}");
}

/// The error is one that a program can tell from others.
#[test]
fn refusing_what_is_no_file_is_an_error_of_reading_and_writing() {
    let place = Place::new();
    let away = Away::beside(&place);
    drop(place.open());
    Trap::Fifo.lay(&place.store().join("stripes"), &away);
    let error = Cache::open(place.store()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    let there = fs::symlink_metadata(place.store().join("stripes")).unwrap();
    assert!(there.file_type().is_fifo());
}
