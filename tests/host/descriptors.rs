//! Descriptors that other code in the process closes or replaces: daemons, `close_range`, `dup2`.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use slablock::{Cache, Options};

use crate::children::{fork, reap_well};
use crate::common::{Place, bounded, child, role, run, said};

/// Segments of 1 MiB, so that a long value has one of its own.
fn small() -> Options {
    Cache::options().size_limit(64 << 20)
}

/// Values of all ways in which they are written and read: with a shared segment in one piece, in two, and alone.
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

/// All descriptors of this process, but the one that looks.
fn descriptors() -> BTreeMap<i32, PathBuf> {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let look = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        Some((number, fs::read_link(path).ok()?))
    };
    let mut all: BTreeMap<i32, PathBuf> = all.filter_map(look).collect();
    all.retain(|_, to| !to.starts_with("/proc/"));
    all
}

fn below(dir: &Path) -> Vec<i32> {
    let ours = descriptors().into_iter();
    ours.filter_map(|(fd, to)| to.starts_with(dir).then_some(fd))
        .collect()
}

/// Runs the test `name` in a process of its own, whose descriptors nobody else has to do with.
fn in_a_process(name: &str, test: impl FnOnce(&Path)) {
    if let Some(dir) = role(name) {
        test(Path::new(&dir));
        return println!("all told");
    }
    let place = Place::new();
    let output = run(child(name, place.root().to_str().unwrap()));
    let said = said(&output);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    assert!(said.contains("all told"), "{said}");
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

fn close(number: i32) {
    // SAFETY: as above.
    assert_eq!(unsafe { libc::close(number) }, 0);
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
            assert_eq!(below(&store), []);
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

/// As a daemon does when it starts: away from its parent, its terminal, its directory and all descriptors.
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
        assert_eq!(below(log), [], "with {left} generations to come");
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
