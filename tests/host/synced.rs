//! Syncing that fails: what an error says has happened, what others learn of it, and what makes it
//! good.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use memmap2::MmapOptions;
use nix::libc;
use slablock::{Cache, Durability, Error, Options, Result};

use crate::kit::Place;
use crate::kit::layout::{BOOT_ID, FAILED_SYNCS};

/// How many calls of a kind by this thread are to succeed before one fails, and how.
#[derive(Clone, Copy, Default)]
struct Plan {
    sync: Option<(u64, c_int)>,
    read: Option<c_int>,
    /// Syncs are said to be done, and nothing is.
    pretends: bool,
    failed: u64,
}

thread_local! {
    static PLAN: Cell<Plan> = const {
        Cell::new(Plan {
            sync: None,
            read: None,
            pretends: false,
            failed: 0,
        })
    };
}

thread_local! {
    /// What others do during each sync of this thread.
    static MEANWHILE: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

/// Whether this call is the one that fails: then says with which error.
fn fails(plan: &mut Plan) -> Option<c_int> {
    let (left, errno) = plan.sync?;
    match left {
        0 => {
            plan.sync = None;
            plan.failed += 1;
            Some(errno)
        }
        _ => {
            plan.sync = Some((left - 1, errno));
            None
        }
    }
}

fn fail_with(errno: c_int) -> c_int {
    nix::errno::Errno::from_raw(errno).set();
    -1
}

/// In place of the C library's, for the whole program.
fn sync(descriptor: c_int, call: libc::c_long) -> c_int {
    MEANWHILE.with_borrow_mut(|meanwhile| {
        if let Some(others) = meanwhile {
            others();
        }
    });
    let mut plan = PLAN.get();
    let failing = fails(&mut plan);
    PLAN.set(plan);
    match failing {
        Some(errno) => fail_with(errno),
        None if plan.pretends => 0,
        // SAFETY: the arguments are those of the call.
        None => unsafe { libc::syscall(call, descriptor) as c_int },
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn fsync(descriptor: c_int) -> c_int {
    sync(descriptor, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    sync(descriptor, libc::SYS_fdatasync)
}

/// # Safety
///
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(
    descriptor: c_int,
    into: *mut c_void,
    len: usize,
    at: i64,
) -> isize {
    match PLAN.get().read {
        Some(errno) => fail_with(errno) as isize,
        // SAFETY: the arguments are those of the call.
        None => unsafe { libc::syscall(libc::SYS_pread64, descriptor, into, len, at) as isize },
    }
}

/// Does something whose sync number `nth`, from 0, fails. Whether there were as many.
fn with_failing<T>(nth: u64, errno: c_int, work: impl FnOnce() -> T) -> (T, bool) {
    PLAN.set(Plan {
        sync: Some((nth, errno)),
        ..Plan::default()
    });
    let result = work();
    (result, PLAN.take().failed > 0)
}
fn durable() -> Options {
    Cache::options().durability(Durability::PowerLoss)
}

/// It has happened.
fn is_in_force(error: &Error) -> bool {
    matches!(error, Error::NotDurable { .. })
}

/// An earlier sync failed, so it has not happened.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Unsynced { .. })
}

type Change = fn(&Cache) -> Result<()>;

const BEFORE: &str = "7";

/// Each with how it leaves `key`, whose value was [`BEFORE`].
fn changes() -> Vec<(&'static str, Change, Option<Vec<u8>>)> {
    fn large() -> Vec<u8> {
        vec![b'l'; 300_000]
    }
    vec![
        ("set", |c| c.set("key", "new"), Some(b"new".to_vec())),
        ("set large", |c| c.set("key", large()), Some(large())),
        (
            "replace",
            |c| c.replace("key", "new").map(|done| assert!(done)),
            Some(b"new".to_vec()),
        ),
        (
            "compare and swap",
            |c| {
                c.compare_and_swap("key", BEFORE, "new")
                    .map(|done| assert!(done))
            },
            Some(b"new".to_vec()),
        ),
        ("incr", |c| c.incr("key", 5).map(drop), Some(b"12".to_vec())),
        (
            "delete",
            |c| c.delete("key").map(|done| assert!(done)),
            None,
        ),
        (
            "transact",
            |c| {
                c.transact_as(|t| {
                    t.set("key", "new")?;
                    t.set("other", large())
                })
            },
            Some(b"new".to_vec()),
        ),
    ]
}

/// Whatever the error says is so, whichever of its syncs fails; and nothing is claimed before all
/// was made good.
#[test]
fn an_error_of_a_sync_says_truly_whether_it_has_happened() {
    for errno in [libc::EIO, libc::ENOSPC] {
        for (what, change, after) in changes() {
            let mut told = (0, 0);
            for nth in 0.. {
                assert!(nth < 20, "{what} never ends");
                let dir = Place::in_memory();
                let cache = durable().open(dir.root()).unwrap();
                cache.set("key", BEFORE).unwrap();
                let (done, has_failed) = with_failing(nth, errno, || change(&cache));
                let value = cache.get("key").unwrap();
                let error = match done {
                    Ok(()) => {
                        assert!(!has_failed, "{what}: sync {nth} failed and nobody was told");
                        break;
                    }
                    Err(error) => error,
                };
                assert!(has_failed, "{what}: {error}");
                let text = error.to_string();
                if is_in_force(&error) {
                    assert_eq!(value, after, "{what}, sync {nth}: {text}");
                    assert!(text.contains("in force"), "{text}");
                    told.0 += 1;
                } else {
                    assert_eq!(
                        value.as_deref(),
                        Some(BEFORE.as_bytes()),
                        "{what}, sync {nth}: {text}"
                    );
                    told.1 += 1;
                }
                assert!(!text.contains("nothing was changed"), "{text}");
                nothing_is_claimed(&cache, value.as_deref());
                cache.sync().unwrap();
                change_once_more(&cache);
                assert!(cache.check().unwrap().is_sound());
            }
            assert!(told.0 > 0, "{what} was never in force: {told:?}");
        }
    }
}

/// Adds to the word of the header, as others do.
fn note(slab: &File, more: u64) {
    let mut word = [0; 8];
    slab.read_exact_at(&mut word, FAILED_SYNCS).unwrap();
    let word = u64::from_ne_bytes(word) + more;
    let noted = slab.write_all_at(&word.to_ne_bytes(), FAILED_SYNCS);
    noted.unwrap();
}

/// During a sync that succeeds: then what it has written may be gone, also if all that was there
/// was made good since.
#[test]
fn a_failure_that_others_note_meanwhile_counts() {
    for (is_made_good, noted) in [(false, 1_u64 << 32), (true, (1 << 32) + 1)] {
        for (what, change, after) in changes() {
            let mut told = 0;
            for nth in 0.. {
                let place = Place::new();
                let cache = durable().open(place.store()).unwrap();
                cache.set("key", BEFORE).unwrap();
                let (mut left, slab): (u64, _) = (nth, place.slab_file());
                let done = Rc::new(Cell::new(false));
                let has_come = Rc::clone(&done);
                let others = move || {
                    if left == 0 {
                        note(&slab, noted);
                        has_come.set(true);
                    }
                    left = left.wrapping_sub(1);
                };
                MEANWHILE.set(Some(Box::new(others)));
                let changed = change(&cache);
                MEANWHILE.take();
                let value = cache.get("key").unwrap();
                let Err(error) = changed else {
                    assert!(!done.get(), "{what}: sync {nth}");
                    break;
                };
                match is_in_force(&error) {
                    true => assert_eq!(value, after, "{what}, sync {nth}: {error}"),
                    false => assert_eq!(value.as_deref(), Some(BEFORE.as_bytes()), "{error}"),
                }
                told += 1;
                if !is_made_good {
                    cache.sync().unwrap();
                }
                change_once_more(&cache);
            }
            assert!(told > 0, "{what}");
        }
    }
}

/// Noted by others while everything is written once more: that may be just what has failed.
#[test]
fn a_failure_during_the_making_good_is_not_made_good() {
    for nth in 0..3 {
        let place = Place::new();
        let cache = durable().open(place.store()).unwrap();
        cache.set("large", vec![7; 300_000]).unwrap();
        let (set, _) = with_failing(0, libc::EIO, || cache.set("key", BEFORE));
        set.unwrap_err();
        let (mut left, slab): (i32, _) = (nth, place.slab_file());
        MEANWHILE.set(Some(Box::new(move || {
            if left == 0 {
                note(&slab, 1 << 32);
            }
            left -= 1;
        })));
        let synced = cache.sync();
        MEANWHILE.take();
        assert!(is_refused(&synced.unwrap_err()), "sync {nth}");
        assert!(is_refused(&cache.set("key", "new").unwrap_err()));
        cache.sync().unwrap();
        cache.set("key", "new").unwrap();
    }
}

/// Until all was written anew.
fn nothing_is_claimed(cache: &Cache, value: Option<&[u8]>) {
    let refused = |what: &str, change: Change| {
        let error = change(cache).unwrap_err();
        assert!(is_refused(&error), "{what}: {error}");
        let now = cache.get("key").unwrap();
        assert_eq!(now.as_deref(), value, "{what}");
    };
    for (what, change, _) in changes() {
        // Without a value there is nothing to be changed.
        if value.is_some() || !["replace", "compare and swap", "delete"].contains(&what) {
            let is_as_before = value == Some(BEFORE.as_bytes());
            if is_as_before || !["compare and swap", "incr"].contains(&what) {
                refused(what, change);
            }
        }
    }
    if value.is_some() {
        refused("pop", |c| c.pop("key").map(drop));
        refused("touch", |c| c.touch("key", None).map(drop));
    }
    refused("add", |c| c.add("another", "value").map(drop));
    refused("incr", |c| c.incr("count", 1).map(drop));
}

fn change_once_more(cache: &Cache) {
    cache.set("key", "1").unwrap();
    assert_eq!(cache.incr("key", 1).unwrap(), 2);
    cache.transact_as(|t| t.set("other", "1")).unwrap();
    assert_eq!(cache.pop("key").unwrap().as_deref(), Some(&b"2"[..]));
}

/// Whoever asks for it again gets it.
#[test]
fn a_value_whose_popping_is_not_known_to_be_on_the_device_is_there_still() {
    let long = vec![b'l'; 300_000];
    for value in [&b"short"[..], &long] {
        let dir = Place::in_memory();
        let cache = durable().open(dir.root()).unwrap();
        let options = slablock::SetOptions::new().tag("tag");
        cache.set_with("key", value, &options).unwrap();
        let mut failed = 0;
        for nth in 0.. {
            let (popped, has_failed) = with_failing(nth, libc::EIO, || cache.pop("key"));
            let Err(error) = popped else {
                assert!(!has_failed, "sync {nth} failed and nobody was told");
                assert_eq!(popped.unwrap().as_deref(), Some(value));
                break;
            };
            assert!(!is_in_force(&error), "{error}");
            let entry = cache.entry("key").unwrap().unwrap();
            assert!(entry.value == value && entry.tag.as_deref() == Some(b"tag"));
            failed += 1;
            cache.sync().unwrap();
        }
        assert!(failed > 0);
        assert_eq!(cache.get("key").unwrap(), None);
        assert!(cache.check().unwrap().is_sound());
    }
}

/// The list of what was decided cannot be read, or there is no descriptor for it: both changes are
/// in force.
#[test]
fn a_transaction_that_has_happened_is_no_error() {
    for shards in [1, 3] {
        for errno in [libc::EIO, libc::EMFILE] {
            let dir = Place::in_memory();
            let cache = Cache::options().shards(shards).open(dir.root()).unwrap();
            // The first segment of the log is begun by that.
            let before: Result<()> = cache.transact_as(|t| {
                let mut keys = ["a", "b", "c", "d"].into_iter();
                keys.try_for_each(|key| t.set(key, "before"))
            });
            before.unwrap();
            let done: Result<()> = cache.transact_as(|t| {
                for key in ["a", "b", "c", "d"] {
                    t.set(key, "after")?;
                }
                let read = Some(errno);
                PLAN.set(Plan {
                    read,
                    ..Plan::default()
                });
                Ok(())
            });
            PLAN.take();
            let now = ["a", "b", "c", "d"].map(|key| cache.get(key).unwrap().unwrap());
            let happened = now.iter().all(|value| value == b"after");
            assert_eq!(done.is_ok(), happened, "{done:?}, {now:?}");
        }
    }
}

/// How many pages of a file the kernel has yet to write, of those that are in memory.
fn dirty_bytes(path: &Path) -> usize {
    let file = File::open(path).unwrap();
    // SAFETY: nothing shortens the file meanwhile, and its bytes are only touched.
    let map = unsafe { MmapOptions::new().map(&file) }.unwrap();
    for at in (0..map.len()).step_by(4096) {
        std::hint::black_box(map[at]);
    }
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let begin = format!("{:x}-", map.as_ptr() as usize);
    let ours = maps.split_once(&format!("\n{begin}")).unwrap().1;
    let dirty = ours
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("VmFlags"));
    let kilobytes = dirty
        .filter(|line| line.starts_with("Shared_Dirty") || line.starts_with("Private_Dirty"))
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<usize>()
                .unwrap()
        });
    kilobytes.sum::<usize>() * 1024
}

/// The kernel takes pages that it could not write for written.
#[test]
fn what_may_not_have_been_written_is_written_once_more() {
    let place = Place::new();
    let cache = durable().capacity(20_000).open(place.store()).unwrap();
    for key in 0..2_000 {
        cache.set(format!("{key}"), "value").unwrap();
    }
    cache.set("long", vec![7; 300_000]).unwrap();
    slablock::BoundedSemaphore::new(&cache, "permits", 9)
        .available()
        .unwrap();
    let slab = place.store().join("slab");
    let segment = place.store().join("log/00000001");
    cache.sync().unwrap();
    let clean = dirty_bytes(&slab) + dirty_bytes(&segment);
    if clean > 16 * 4096 {
        eprintln!("left out: on this file system pages are dirty for ever");
        return;
    }
    let (set, _) = with_failing(0, libc::EIO, || cache.set("key", "value"));
    set.unwrap_err();
    File::open(&slab).unwrap().sync_all().unwrap();
    assert!(dirty_bytes(&slab) <= 4096);
    // Its own syncs are only said to be done: so the dirty pages are there to be seen.
    PLAN.set(Plan {
        pretends: true,
        ..Plan::default()
    });
    let synced = cache.sync();
    PLAN.take();
    synced.unwrap();
    let slab_bytes =
        std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&slab).unwrap()) * 512;
    assert!(
        dirty_bytes(&slab) as u64 + 4096 >= slab_bytes,
        "{} of {slab_bytes}",
        dirty_bytes(&slab)
    );
    assert!(
        dirty_bytes(&segment) >= 300_000,
        "{}",
        dirty_bytes(&segment)
    );
}

/// Killed, or alive: the word is in the header, for all processes, also those that come later.
#[cfg(feature = "cli")]
#[test]
fn a_failed_sync_is_known_to_all_processes_until_it_is_made_good() {
    use std::process::{Command, Output};

    let dir = Place::in_memory();
    let cache = durable().open(dir.root()).unwrap();
    cache.set("key", BEFORE).unwrap();
    let slablock = |args: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
        command.arg("--dir").arg(dir.root()).args(args);
        command.output().unwrap()
    };
    let refused = |args: &[&str]| {
        let output = slablock(args);
        assert!(!output.status.success(), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("slablock repair"), "{said}");
    };
    assert!(slablock(&["set", "other", "1"]).status.success());
    let (set, _) = with_failing(0, libc::EIO, || cache.set("key", "new"));
    assert!(is_in_force(&set.unwrap_err()));
    let check = slablock(&["check"]);
    assert!(!check.status.success() && String::from_utf8_lossy(&check.stdout).contains("sync"));
    refused(&["set", "other", "2"]);
    refused(&["pop", "other"]);
    assert_eq!(slablock(&["get", "other"]).stdout, b"1");
    cache.sync().unwrap();
    assert!(slablock(&["set", "other", "2"]).status.success());
    // One that nobody who lives has seen.
    let (set, _) = with_failing(0, libc::EIO, || cache.set("key", "newer"));
    set.unwrap_err();
    drop(cache);
    refused(&["set", "other", "3"]);
    assert!(slablock(&["repair"]).status.success());
    assert!(slablock(&["set", "other", "3"]).status.success());
    assert_eq!(slablock(&["get", "key"]).stdout, b"newer");
}

/// Those that were asked for and did not come to pass are noted as well, whatever values are to
/// survive.
#[test]
fn a_sync_that_was_asked_for_is_made_good_by_the_next_one() {
    let dir = Place::in_memory();
    let cache = Cache::open(dir.root()).unwrap();
    cache.set("key", vec![7; 300_000]).unwrap();
    for nth in 0.. {
        let (synced, has_failed) = with_failing(nth, libc::EIO, || cache.sync());
        let Err(error) = synced else {
            assert!(!has_failed);
            assert!(nth > 2);
            break;
        };
        let text = error.to_string();
        assert!(text.contains("sync"), "{text}");
        cache.sync().unwrap();
    }
}

/// What is read after a reboot is what the device has.
#[test]
fn a_failed_sync_is_made_good_by_who_opens_the_store_first_after_a_reboot() {
    let place = Place::new();
    let cache = durable().open(place.store()).unwrap();
    let (set, _) = with_failing(0, libc::EIO, || cache.set("key", "value"));
    set.unwrap_err();
    drop(cache);
    let cache = place.open();
    assert!(is_refused(&cache.set("key", "newer").unwrap_err()));
    drop(cache);
    place.poke(BOOT_ID, &[7; 16]);
    let cache = place.open();
    cache.set("key", "newest").unwrap();
    assert_eq!(cache.pop("key").unwrap().as_deref(), Some(&b"newest"[..]));
}

/// Whichever sync fails: whoever opens it next has a store of which everything is known.
#[test]
fn a_store_whose_making_failed_is_made_by_the_next_one() {
    for nth in 0.. {
        let dir = Place::in_memory();
        let path = dir.store();
        let open = || durable().open(&path);
        let (made, has_failed) = with_failing(nth, libc::EIO, open);
        if !has_failed {
            made.unwrap();
            assert!(nth > 2);
            break;
        }
        made.unwrap_err();
        let cache = open().unwrap();
        // The last one comes after it was made.
        if let Err(error) = cache.set("key", "value") {
            assert!(is_refused(&error), "sync {nth}: {error}");
            cache.sync().unwrap();
        }
        cache.set("key", "newer").unwrap();
    }
}

/// It was computed, which may have taken long; that it could not be kept is told beside it.
#[test]
fn what_was_computed_is_returned_whatever_becomes_of_its_sync() {
    for nth in 0.. {
        let dir = Place::in_memory();
        let cache = durable().open(dir.root()).unwrap();
        let options = slablock::SetOptions::new();
        let compute = || slablock::Result::Ok(vec![7; 300_000]);
        let (computed, has_failed) = with_failing(nth, libc::ENOSPC, || {
            cache.compute_if_missing("key", &options, compute)
        });
        let computed = match computed {
            Ok(computed) => computed,
            // The turn could not be had, and nothing was computed.
            Err(_) => continue,
        };
        assert!(computed.value == vec![7; 300_000] && computed.is_new);
        let is_there = cache.get("key").unwrap().is_some();
        match computed.unkept {
            None => {
                assert!(is_there && !has_failed);
                assert!(nth > 1);
                break;
            }
            Some(error) => assert_eq!(is_there, is_in_force(&error), "sync {nth}: {error}"),
        }
        assert_eq!(cache.stats().unwrap().unkept, u64::from(!is_there));
    }
}
