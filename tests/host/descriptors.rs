//! Descriptors that other code in the process closes or replaces: daemons, `close_range`, `dup2`.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use slablock::{Cache, FanoutCache, Lock, Options};

use crate::kit::{
    Place, bounded, descriptors, fork, in_a_process, open_below, reap_killed, reap_well, until,
};

/// Segments of 1 MiB, so that a long value has one of its own.
fn small() -> Options {
    Cache::options().size_limit(64 << 20)
}

/// Values of all ways in which they are written and read: with a shared segment in one piece, in
/// two, and alone.
const LENGTHS: [usize; 3] = [9_000, 100_000, 400_000];

fn value(len: usize, version: u8) -> Vec<u8> {
    (0..len).map(|at| at as u8 ^ version).collect()
}

fn set_all(cache: &Cache, version: u8) {
    for len in LENGTHS {
        cache.set(format!("{len}"), value(len, version)).unwrap();
    }
}

fn assert_all(cache: &Cache, version: u8) {
    for len in LENGTHS {
        // Twice: the second time a long one is believed without its sum.
        for time in ["once", "twice"] {
            let got = cache.get(format!("{len}")).unwrap();
            assert!(got == Some(value(len, version)), "{len} {time}");
        }
    }
}

/// The numbers of what is open below a directory.
fn below(dir: &Path) -> Vec<i32> {
    open_below(dir).into_iter().map(|(fd, _)| fd).collect()
}

/// A file of the program's own, full of what looks like nothing else.
struct Theirs {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Theirs {
    fn new(dir: &Path) -> Theirs {
        let theirs = Theirs {
            path: dir.join("theirs"),
            bytes: vec![b'#'; 1 << 20],
        };
        fs::write(&theirs.path, &theirs.bytes).unwrap();
        theirs
    }

    fn open(&self) -> File {
        let mut options = File::options();
        options.read(true).write(true).open(&self.path).unwrap()
    }

    fn assert_untouched(&self) {
        let now = fs::read(&self.path).unwrap();
        assert!(now == self.bytes, "{} bytes now", now.len());
    }
}

/// Puts the program's file at a number that was the library's.
fn replace(number: i32, by: &File) {
    // SAFETY: both numbers are open; what happens to the library's is what is tested.
    assert_eq!(unsafe { libc::dup2(by.as_raw_fd(), number) }, number);
}

/// Closes it, should the library not have done so itself a moment ago.
fn close(number: i32) {
    // SAFETY: as above.
    unsafe { libc::close(number) };
}

fn is_the_program_s(number: i32, file: &File) -> bool {
    let to = fs::metadata(format!("/proc/self/fd/{number}"));
    let (to, file) = (to.unwrap(), file.metadata().unwrap());
    (to.dev(), to.ino()) == (file.dev(), file.ino())
}

#[test]
fn a_file_that_has_the_number_of_a_segment_is_not_read_written_or_closed() {
    const NAME: &str =
        "descriptors::a_file_that_has_the_number_of_a_segment_is_not_read_written_or_closed";
    bounded(|| {
        in_a_process(NAME, |dir| {
            let store = dir.join("store");
            let log = store.join("log");
            let cache = small().open(&store).unwrap();
            let theirs = Theirs::new(dir);
            let file = theirs.open();
            set_all(&cache, 0);
            assert_all(&cache, 0);
            let mut taken = Vec::new();
            for version in 1..5_u8 {
                let ours = below(&log);
                assert!(!ours.is_empty());
                ours.iter().for_each(|number| replace(*number, &file));
                taken.extend(&ours);
                // Each comes first once.
                match version % 4 {
                    1 => assert_all(&cache, version - 1),
                    2 => set_all(&cache, version - 1),
                    3 => cache.sync().unwrap(),
                    _ => assert!(cache.delete("400000").unwrap()),
                }
                set_all(&cache, version);
                assert_all(&cache, version);
                assert!(cache.check().unwrap().is_sound());
                theirs.assert_untouched();
            }
            cache.cull().unwrap();
            drop(cache);
            theirs.assert_untouched();
            for number in taken {
                assert!(is_the_program_s(number, &file), "{number}");
            }
            assert_eq!(below(&store), [0; 0]);
        });
    });
}

#[test]
fn segments_whose_descriptors_were_closed_are_opened_again() {
    const NAME: &str = "descriptors::segments_whose_descriptors_were_closed_are_opened_again";
    bounded(|| {
        in_a_process(NAME, |dir| {
            let store = dir.join("store");
            let log = store.join("log");
            let cache = small().open(&store).unwrap();
            let theirs = Theirs::new(dir);
            set_all(&cache, 0);
            assert_all(&cache, 0);
            for version in 1..5_u8 {
                below(&log).into_iter().for_each(close);
                // The directory of the store as well.
                for (number, to) in descriptors() {
                    if to == store {
                        close(number);
                    }
                }
                // The numbers are the program's by now, or nobody's.
                let files: Vec<File> = (0..version).map(|_| theirs.open()).collect();
                assert_all(&cache, version - 1);
                set_all(&cache, version);
                assert_all(&cache, version);
                theirs.assert_untouched();
                for file in &files {
                    assert!(is_the_program_s(file.as_raw_fd(), file));
                }
            }
        });
    });
}

/// As a daemon does when it starts: away from its parent, its terminal, its directory and all
/// descriptors.
#[test]
fn a_daemon_s_own_files_are_left_alone_and_its_large_values_work() {
    const NAME: &str = "descriptors::a_daemon_s_own_files_are_left_alone_and_its_large_values_work";
    bounded(|| {
        in_a_process(NAME, |dir| {
            std::env::set_current_dir(dir).unwrap();
            let cache = small().open("store").unwrap();
            set_all(&cache, 0);
            assert_all(&cache, 0);
            let theirs = Theirs::new(dir);
            let daemon = fork(|| {
                nix::unistd::setsid().unwrap();
                std::env::set_current_dir("/").unwrap();
                // SAFETY: it closes what nothing of this test uses afterwards.
                unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
                let files: Vec<File> = (0..20).map(|_| theirs.open()).collect();
                assert_all(&cache, 0);
                set_all(&cache, 1);
                assert_all(&cache, 1);
                drop(cache.clone());
                theirs.assert_untouched();
                for file in &files {
                    assert!(is_the_program_s(file.as_raw_fd(), file));
                }
            });
            reap_well(daemon);
            theirs.assert_untouched();
            assert_all(&cache, 1);
        });
    });
}

/// A child has copies of what its parent has open, and opens its own.
#[test]
fn generations_of_forks_have_no_more_segments_open_than_the_first() {
    const NAME: &str =
        "descriptors::generations_of_forks_have_no_more_segments_open_than_the_first";
    fn generation(cache: &Cache, log: &Path, left: u32, most: usize) {
        assert_eq!(below(log), [0; 0], "with {left} generations to come");
        assert_all(cache, left as u8 + 1);
        set_all(cache, left as u8);
        let open = below(log).len();
        assert!(open <= most, "{open}, with {left} generations to come");
        if left > 0 {
            reap_well(fork(|| generation(cache, log, left - 1, most)));
        }
    }
    bounded(|| {
        in_a_process(NAME, |dir| {
            let cache = small().open(dir.join("store")).unwrap();
            let log = dir.join("store/log");
            set_all(&cache, 6);
            assert_all(&cache, 6);
            let most = below(&log).len();
            assert!(most > 0);
            reap_well(fork(|| generation(&cache, &log, 5, most)));
            // The parent's own are as they were.
            assert_eq!(below(&log).len(), most);
            assert_all(&cache, 0);
        });
    });
}

#[test]
fn syncing_a_log_that_is_gone_names_its_directory() {
    let place = Place::new();
    let cache = place.open();
    cache.set("key", value(100_000, 0)).unwrap();
    fs::rename(place.store().join("log"), place.root().join("gone")).unwrap();
    let error = cache.sync().unwrap_err();
    let (text, log) = (error.to_string(), place.store().join("log"));
    let named = format!("cannot sync {}: ", log.display());
    assert!(text.starts_with(&named), "{text}");
}

/// Numbers of the library's own that are neither files nor directories: what wakes, and what hears
/// of deaths.
fn sockets_and_pidfds() -> Vec<i32> {
    let ours = descriptors().into_iter();
    let is_one = |to: &Path| {
        let name = to.to_string_lossy();
        name.starts_with("socket:") || name.contains("pidfd")
    };
    ours.filter_map(|(fd, to)| is_one(&to).then_some(fd))
        .collect()
}

const STANDARD: [i32; 3] = [0, 1, 2];

fn is_open(number: i32) -> bool {
    // SAFETY: it asks for flags, of any number.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// The holder goes with its test, also with one that fails: somebody waits for it.
struct Holder(nix::unistd::Pid);

impl Drop for Holder {
    fn drop(&mut self) {
        reap_killed(self.0);
    }
}

/// Waits for the key in a thread, long enough to have its holder watched, until `body` is done;
/// then has the holder killed, of which the waiter hears.
fn while_watching(cache: &Cache, body: impl FnOnce()) {
    let mut ends: [i32; 2] = [0; 2];
    // SAFETY: there is room for two numbers.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let holder = Holder(fork(|| {
        let lock = Lock::new(cache, "watched");
        let _hold = lock.acquire().unwrap();
        let byte = [1_u8];
        // SAFETY: there is one byte.
        assert_eq!(unsafe { libc::write(ends[1], byte.as_ptr().cast(), 1) }, 1);
        loop {
            nix::unistd::pause();
        }
    }));
    let mut byte = [0_u8];
    // SAFETY: there is room for one byte.
    assert_eq!(
        unsafe { libc::read(ends[0], byte.as_mut_ptr().cast(), 1) },
        1
    );
    close(ends[0]);
    close(ends[1]);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let lock = Lock::new(cache, "watched");
            let hold = lock.acquire().unwrap();
            assert!(hold.recovered().is_some());
        });
        let threads = || {
            let all = fs::read_dir("/proc/self/task").unwrap();
            let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
            let names = all.filter_map(|task| name(task.ok()?).ok());
            names
                .filter(|name| name.starts_with("slablock-watch"))
                .count()
        };
        until("the holder is watched", || threads() == 1);
        let holder = holder;
        body();
        drop(holder);
        waiter.join().unwrap();
        until("nobody watches any more", || threads() == 0);
    });
}

/// A program that closed its standard descriptors, and opens its log there later.
#[test]
fn nothing_of_the_library_s_stays_at_or_closes_a_standard_descriptor() {
    const NAME: &str =
        "descriptors::nothing_of_the_library_s_stays_at_or_closes_a_standard_descriptor";
    fn assert_free(when: &str) {
        let taken = STANDARD.into_iter().find(|number| is_open(*number));
        assert_eq!(taken, None, "{when}");
    }
    bounded(|| {
        in_a_process(NAME, |dir| {
            reap_well(fork(|| {
                // What is said when something fails goes there.
                let said = File::create(dir.join("said")).unwrap();
                let failed = std::panic::catch_unwind(|| {
                    STANDARD.into_iter().for_each(close);
                    let cache = small().open(dir.join("store")).unwrap();
                    assert_free("after opening");
                    set_all(&cache, 0);
                    assert_all(&cache, 0);
                    cache.sync().unwrap();
                    cache.cull().unwrap();
                    assert_free("after using values");
                    drop(Lock::new(&cache, "lock").acquire().unwrap());
                    drop(cache.lifeline().unwrap());
                    assert!(cache.check().unwrap().is_sound());
                    let fanout = FanoutCache::open(dir.join("fanout/deep"), 2).unwrap();
                    fanout.set("key", value(100_000, 0)).unwrap();
                    drop(fanout);
                    assert_free("after a fanout");
                    let lifeline = cache.lifeline().unwrap();
                    assert_free("with a lifeline");
                    drop(lifeline);
                    while_watching(&cache, || assert_free("while a holder is watched"));
                    assert_free("after watching");
                    let theirs = Theirs::new(dir);
                    let logs: Vec<File> = STANDARD.into_iter().map(|_| theirs.open()).collect();
                    assert!(
                        logs.iter()
                            .zip(STANDARD)
                            .all(|(log, at)| log.as_raw_fd() == at)
                    );
                    while_watching(&cache, || {});
                    set_all(&cache, 1);
                    assert_all(&cache, 1);
                    drop(cache);
                    drop(Cache::repair(dir.join("store")).unwrap());
                    theirs.assert_untouched();
                    for log in &logs {
                        assert!(is_the_program_s(log.as_raw_fd(), log));
                    }
                });
                if let Err(why) = failed {
                    let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                    std::io::Write::write_all(&mut &said, why.as_bytes()).unwrap();
                    panic!("{why}");
                }
            }));
        });
    });
}

/// The program closes what it does not know, while a thread of the library's waits by it.
#[test]
fn what_watches_holders_leaves_the_program_s_files_alone() {
    const NAME: &str = "descriptors::what_watches_holders_leaves_the_program_s_files_alone";
    bounded(|| {
        in_a_process(NAME, |dir| {
            let cache = small().open(dir.join("store")).unwrap();
            let theirs = Theirs::new(dir);
            let file = theirs.open();
            let before = sockets_and_pidfds();
            for replaced in [true, false] {
                let mut taken = Vec::new();
                while_watching(&cache, || {
                    taken = sockets_and_pidfds();
                    taken.retain(|number| !before.contains(number));
                    assert!(taken.len() >= 2, "{taken:?}");
                    for number in &taken {
                        match replaced {
                            true => replace(*number, &file),
                            false => close(*number),
                        }
                    }
                });
                theirs.assert_untouched();
                for number in taken {
                    match replaced {
                        true => {
                            assert!(is_the_program_s(number, &file), "{number}");
                            close(number);
                        }
                        false => assert!(!is_open(number)),
                    }
                }
            }
            assert_eq!(sockets_and_pidfds(), before);
        });
    });
}

/// A child has copies of the descriptors by which its parent's threads wait.
#[test]
fn a_child_closes_its_copies_of_what_watches_holders() {
    const NAME: &str = "descriptors::a_child_closes_its_copies_of_what_watches_holders";
    bounded(|| {
        in_a_process(NAME, |dir| {
            let cache = small().open(dir.join("store")).unwrap();
            let before = sockets_and_pidfds();
            while_watching(&cache, || {
                assert!(sockets_and_pidfds().len() > before.len());
                reap_well(fork(|| assert_eq!(sockets_and_pidfds(), before)));
            });
        });
    });
}
