//! What a damaged slab gets: a clear error or a mended store, never a signal, a hang or a wrong
//! answer.

#![allow(missing_docs)]

#[macro_use]
mod kit;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use kit::layout::{self, Layout};
use kit::{
    Place, Random, bounded, child, in_a_namespace, mount, output_of, role, said, says, seed_of,
    store, store_of, succeeds, until,
};
use slablock::{
    Averager, BoundedSemaphore, Cache, CheckReport, Error, Lock, RLock, RepairReport, SetOptions,
    Token,
};

/// The capacity of the stores that are damaged here.
const CAPACITY: usize = 600;
/// What a furnished store has in it, in the order of its slots: averages, a lock, a re-entrant lock
/// with a key of eight slots, and a semaphore with thirteen blocks of permits.
const AVERAGES: usize = 300;
const LOCK_SLOT: u64 = AVERAGES as u64;
const RLOCK_SLOT: u64 = LOCK_SLOT + 1;
const SEMAPHORE_SLOT: u64 = RLOCK_SLOT + 8;
const SEMAPHORE_BLOCKS: u64 = 13;
const KEYS: usize = AVERAGES + 3;

fn layout() -> Layout {
    Layout::new()
}

/// A store with something of each kind in it, closed again.
fn furnished() -> Place {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    let slab = MADE.get_or_init(|| fs::read(furnish(Place::new()).slab()).unwrap());
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    fs::write(place.slab(), slab).unwrap();
    layout::name_files(&place.store(), &place.store());
    place
}

fn furnish(place: Place) -> Place {
    let options = Cache::options().capacity(CAPACITY);
    let cache = options.open(place.store()).unwrap();
    for n in 0..AVERAGES {
        let average = Averager::new(&cache, format!("average {n}")).tag("t");
        average.add(1.0).unwrap();
    }
    drop(Lock::new(&cache, "lock").tag("t").acquire().unwrap());
    drop(RLock::new(&cache, vec![b'r'; 1_024]).acquire().unwrap());
    let semaphore = BoundedSemaphore::new(&cache, "semaphore", 50);
    drop(semaphore.acquire().unwrap());
    place
}

fn repair(place: &Place) -> RepairReport {
    Cache::repair(place.store()).unwrap()
}

/// That the store is sound, has so many keys, and can be used.
fn assert_sound(place: &Place, keys: usize) -> Cache {
    let cache = place.open();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.keys, keys);
    cache
}

/// Takes a lock, which nobody has, and gives it back: the token it had.
fn token_of(cache: &Cache, key: &str) -> Token {
    let lock = Lock::new(cache, key);
    let guard = lock.try_acquire().unwrap().expect("nobody has it");
    guard.token()
}

/// Does everything that can be done with a store, and cares only that it ends; and that it can be
/// repaired, before or after, if it has a header.
fn use_all(dir: &Path) {
    println!("step open");
    match Cache::open(dir) {
        Ok(cache) => use_cache(&cache),
        Err(error) => says(&error, &[]),
    }
    println!("step repair");
    if let Err(error) = Cache::repair(dir) {
        return says(&error, &[]);
    }
    let cache = Cache::open(dir).unwrap();
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "after repair: {report:?}");
    let lock = Lock::new(&cache, "after repair");
    drop(lock.try_acquire().unwrap().expect("nobody has it"));
    use_cache(&cache);
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "used after repair: {report:?}");
}

fn use_cache(cache: &Cache) {
    let ok = |step: &str| println!("step {step}");
    let keys = [
        "lock",
        "semaphore",
        "average 3",
        "average 77",
        "new",
        "new 2",
    ];
    let hear = |result: Result<(), Error>| {
        if let Err(error) = result {
            says(&error, &[]);
        }
    };
    for round in 0..2 {
        ok("check");
        hear(cache.check().map(drop));
        ok("list");
        hear(cache.keys().map(drop));
        hear(cache.len().map(drop));
        for key in keys {
            ok(key);
            hear(cache.key_info(key).map(drop));
            let lock = Lock::new(cache, key).lease(Duration::from_secs(9)).tag("t");
            hear(lock.try_acquire().map(drop));
            hear(lock.acquire_timeout(Duration::from_millis(2)).map(drop));
            hear(lock.holder().map(drop));
            hear(lock.release(Token::new(1)).map(drop));
            let rlock = RLock::new(cache, key);
            hear(rlock.try_acquire().map(drop));
            let semaphore = BoundedSemaphore::new(cache, key, 50);
            hear(semaphore.try_acquire().map(drop));
            hear(semaphore.try_acquire().map(drop));
            hear(semaphore.holders().map(drop));
            let average = Averager::new(cache, key);
            hear(average.add(2.0));
            hear(average.get().map(drop));
            hear(average.pop().map(drop));
        }
        ok("long key");
        hear(RLock::new(cache, [b'r'; 1_024]).try_acquire().map(drop));
        ok("remove");
        hear(cache.remove("average 5").map(drop));
        ok("evict");
        hear(cache.remove_tagged("t").map(drop));
        if round == 0 {
            ok("fill");
            for n in 0..700 {
                hear(
                    Lock::new(cache, format!("fill {n}"))
                        .try_acquire()
                        .map(drop),
                );
            }
        }
    }
    ok("clear");
    hear(cache.clear().map(drop));
}

/// In a process of its own, so that a signal or a hang there is seen here.
fn survives(name: &str, place: &Place, what: &str) {
    let output = output_of(child(name, place.store().to_str().unwrap()));
    let said = said(&output);
    let lines: Vec<_> = said.lines().rev().take(30).collect();
    assert!(
        output.status.success() && said.contains("all done"),
        "{what}: {:?}, last said: {lines:#?}",
        output.status
    );
}

fn play_victim(name: &str) -> bool {
    role(name).is_some_and(|dir| {
        use_all(Path::new(&dir));
        println!("all done");
        true
    })
}

#[test]
fn a_sound_store_survives_everything() {
    const NAME: &str = "a_sound_store_survives_everything";
    if !play_victim(NAME) {
        bounded(|| survives(NAME, &furnished(), "sound"));
    }
}

#[test]
fn a_slab_that_is_something_else_is_refused_and_kept() {
    bounded(|| {
        let place = Place::new();
        for garbage in [
            b"SQLite format 3\0".repeat(300),
            b"x".to_vec(),
            vec![0xff; 100_000],
            [b"slablocK".to_vec(), vec![0; 8_192]].concat(),
        ] {
            let _ = fs::remove_dir_all(place.store());
            fs::create_dir(place.store()).unwrap();
            fs::write(place.slab(), &garbage).unwrap();
            let words = ["slab", "not a slablock store"];
            assert_error!(Cache::open(place.store()), Error::NotAStore { .. }, words);
            assert_error!(Cache::repair(place.store()), Error::NotAStore { .. }, words);
            assert_eq!(fs::read(place.slab()).unwrap(), garbage);
        }
        fs::remove_file(place.slab()).unwrap();
        fs::create_dir(place.slab()).unwrap();
        assert_error!(Cache::open(place.store()), _, ["slab"]);
    });
}

#[test]
fn another_format_version_is_named() {
    bounded(|| {
        let place = furnished();
        let before = fs::read(place.slab()).unwrap();
        for copy in layout::COPIES {
            place.poke(copy + layout::VERSION, &7_u32.to_le_bytes());
        }
        let words = ["format 7", "reads format 1", "slab"];
        assert_error!(Cache::open(place.store()), Error::Version { .. }, words);
        assert_error!(Cache::repair(place.store()), Error::Version { .. }, words);
        for copy in layout::COPIES {
            place.poke(copy + layout::VERSION, &1_u32.to_le_bytes());
        }
        assert_eq!(fs::read(place.slab()).unwrap(), before);
        assert_eq!(place.open().len().unwrap(), KEYS);
    });
}

#[test]
fn unknown_features_are_named() {
    bounded(|| {
        let place = furnished();
        for copy in layout::COPIES {
            let mut header = place.peek::<{ layout::STATIC_BYTES as usize }>(copy);
            header[layout::FEATURES] = 16;
            let crc = crc32fast::hash(&header[..layout::HEADER_CRC]);
            header[layout::HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
            place.poke(copy, &header);
        }
        assert_error!(Cache::open(place.store()), Error::Version { .. }, ["16"]);
    });
}

#[test]
fn one_damaged_copy_of_the_header_is_made_up_for() {
    bounded(|| {
        for at in [0, 9, 13, 17, 25, 40, 60] {
            for copy in layout::COPIES {
                let place = furnished();
                let byte = place.peek::<1>(copy + at);
                place.poke(copy + at, &[byte[0] ^ 0x10]);
                assert_eq!(place.open().len().unwrap(), KEYS, "byte {at} of {copy}");
                repair(&place);
                assert_eq!(place.peek(copy + at), byte);
            }
        }
    });
}

#[test]
fn both_copies_of_the_header_damaged_is_a_clear_error() {
    bounded(|| {
        for at in [17, 25, 40, 60] {
            let place = furnished();
            for copy in layout::COPIES {
                let byte = place.peek::<1>(copy + at);
                place.poke(copy + at, &[byte[0] ^ 0x10]);
            }
            let before = fs::read(place.slab()).unwrap();
            assert_error!(
                Cache::open(place.store()),
                Error::Corrupt { .. },
                ["slab", "header"]
            );
            assert_error!(
                Cache::repair(place.store()),
                Error::Corrupt { .. },
                ["header"]
            );
            assert_eq!(fs::read(place.slab()).unwrap(), before);
        }
    });
}

#[test]
fn a_wiped_header_does_not_pass_for_a_new_store() {
    bounded(|| {
        let place = furnished();
        place.poke(0, &[0; layout::PAGE as usize]);
        let before = fs::read(place.slab()).unwrap();
        let words = ["slab", "header is gone"];
        assert_error!(Cache::open(place.store()), Error::Corrupt { .. }, words);
        assert_error!(Cache::repair(place.store()), Error::Corrupt { .. }, words);
        assert_eq!(fs::read(place.slab()).unwrap(), before);
    });
}

#[test]
fn a_wiped_state_word_loses_nothing() {
    bounded(|| {
        for state in [0_u64, 1, u64::MAX] {
            let place = furnished();
            place.poke(layout::STATE, &state.to_le_bytes());
            let cache = place.open();
            assert_eq!(cache.len().unwrap(), KEYS, "state {state:#x}");
            assert_eq!(Averager::new(&cache, "average 3").get().unwrap(), Some(1.0));
        }
    });
}

#[test]
fn a_slab_that_was_never_finished_is_made_anew() {
    bounded(|| {
        for len in [0, 100, 4_096, 100_000] {
            let place = Place::new();
            fs::create_dir(place.store()).unwrap();
            fs::write(place.slab(), vec![0; len]).unwrap();
            let cache = place.open();
            drop(Lock::new(&cache, "k").acquire().unwrap());
            assert!(cache.check().unwrap().is_sound());
        }
    });
}

#[test]
fn a_slab_that_is_cut_off_is_refused_at_every_length() {
    bounded(|| {
        let place = furnished();
        let whole = place.slab_len();
        let map = layout();
        let lengths = [
            whole - 1,
            whole - layout::PAGE,
            map.blocks - 1,
            map.slots + layout::PAGE,
            map.slots,
            map.slot_states + 77,
            layout::BUCKETS + 5,
            map.participants + layout::PAGE,
            map.participants + 1,
            map.participants,
            layout::STRIPES,
        ];
        for len in lengths {
            // Ever shorter.
            place.slab_file().set_len(len).unwrap();
            let words = ["slab", "cut off", &len.to_string()];
            assert_error!(Cache::open(place.store()), Error::Corrupt { .. }, words);
            assert_eq!(place.slab_len(), len);
        }
        // Without the whole header there is nothing to start from.
        for len in [2_112, 2_100, 1_000, 200, 130, 64] {
            place.slab_file().set_len(len).unwrap();
            let words = ["slab", "cut off", &len.to_string()];
            assert_error!(Cache::open(place.store()), Error::Corrupt { .. }, words);
            assert_error!(Cache::repair(place.store()), Error::Corrupt { .. }, words);
            assert_eq!(place.slab_len(), len);
        }
        for len in [63, 20, 8, 1] {
            place.slab_file().set_len(len).unwrap();
            assert_error!(Cache::open(place.store()), _, ["slab"]);
            assert_error!(Cache::repair(place.store()), _, ["slab"]);
        }
    });
}

/// Lengths to cut a furnished slab to, and how many of its keys lie in what is left.
fn cuts() -> Vec<(u64, usize)> {
    let map = layout();
    let permits_end = map.block(SEMAPHORE_BLOCKS);
    vec![
        (furnished().slab_len() - 1, KEYS),
        (permits_end, KEYS),
        (permits_end - 1, KEYS - 1),
        (map.blocks + 1, KEYS - 1),
        (map.blocks, KEYS - 1),
        (map.slot(SEMAPHORE_SLOT + 1), KEYS - 1),
        (map.slot(SEMAPHORE_SLOT), KEYS - 1),
        (map.slot(SEMAPHORE_SLOT) - 1, KEYS - 2),
        (map.slot(RLOCK_SLOT), KEYS - 2),
        (map.slot(LOCK_SLOT), AVERAGES),
        (map.slot(256) + 100, 256),
        (map.slot(255), 255),
        (map.slot(1), 1),
        (map.slots, 0),
        (map.participants + 300, 0),
        (map.participants, 0),
        (map.slot_states + 77, 0),
        (layout::PAGE, 0),
    ]
}

#[test]
fn the_repair_of_a_slab_that_is_cut_off_keeps_what_is_left_and_says_what_is_lost() {
    bounded(|| {
        for (len, kept) in cuts() {
            let place = furnished();
            let whole = place.slab_len();
            place.slab_file().set_len(len).unwrap();
            let report = repair(&place);
            assert_eq!(report.keys_kept, kept, "cut at {len}: {report:?}");
            let told = report.actions.join("; ");
            for word in ["cut off", &len.to_string(), &whole.to_string()] {
                assert!(told.contains(word), "{word} is missing in: {told}");
            }
            let cache = assert_sound(&place, kept);
            for n in 0..AVERAGES {
                let there = Averager::new(&cache, format!("average {n}")).get().unwrap();
                assert_eq!(there, (n < kept).then_some(1.0), "average {n} of {kept}");
            }
            drop(cache);
            // Nothing is left to do, and nothing comes back.
            let again = repair(&place);
            assert_eq!((again.keys_kept, again.actions), (kept, vec![]));
        }
    });
}

#[test]
fn a_slab_that_was_cut_off_and_repaired_can_be_used_to_its_end() {
    const NAME: &str = "a_slab_that_was_cut_off_and_repaired_can_be_used_to_its_end";
    if play_victim(NAME) {
        return;
    }
    bounded(|| {
        for (len, _) in cuts().into_iter().step_by(3) {
            let place = furnished();
            place.slab_file().set_len(len).unwrap();
            repair(&place);
            survives(NAME, &place, &format!("cut at {len}"));
        }
    });
}

#[test]
fn what_was_cut_off_does_not_come_back_when_the_slab_grows_again() {
    bounded(|| {
        let map = layout();
        let cuts = [(280, 100), (280, 150), (256, 0), (40, 1)];
        for (kept, bytes) in cuts {
            let place = furnished();
            let len = map.slot(kept) + bytes;
            place.slab_file().set_len(len).unwrap();
            repair(&place);
            let cache = place.open();
            Averager::new(&cache, "new").add(7.0).unwrap();
            drop(cache);
            // Rebuilt from the slots alone.
            place.poke(layout::STATE, &0_u64.to_le_bytes());
            let cache = assert_sound(&place, kept as usize + 1);
            let new = Averager::new(&cache, "new").get().unwrap();
            assert_eq!(new, Some(7.0), "cut at {len}");
        }
    });
}

/// The next tokens of the lock and of the semaphore.
fn tokens(place: &Place) -> [Token; 2] {
    let cache = place.open();
    let semaphore = BoundedSemaphore::new(&cache, "semaphore", 50);
    let permit = semaphore.try_acquire().unwrap().expect("nobody has any");
    [token_of(&cache, "lock"), permit.token()]
}

#[test]
fn tokens_do_not_fall_back_when_a_repair_drops_their_keys() {
    bounded(|| {
        let map = layout();
        let flip = |at: u64| move |place: &Place| place.poke(at, &[!place.peek::<1>(at)[0]]);
        let cut = |len: u64| move |place: &Place| place.slab_file().set_len(len).unwrap();
        let check = |what: &str, damage: &dyn Fn(&Place)| {
            let place = furnished();
            for _ in 0..100 {
                tokens(&place);
            }
            let before = tokens(&place);
            assert!(before.iter().all(|t| t.get() > 100), "{before:?}");
            damage(&place);
            let report = repair(&place);
            assert!(report.keys_kept < KEYS, "{what}: {report:?}");
            assert!(!report.actions.is_empty(), "{what}");
            let after = tokens(&place);
            let grown = after.iter().zip(&before).all(|(new, old)| new > old);
            assert!(grown, "{what}: {before:?}, then {after:?}");
        };
        let hash_of = |slot: u64| map.slot(slot) + layout::HASH;
        check("hash of the lock", &flip(hash_of(LOCK_SLOT)));
        check("hash of the semaphore", &flip(hash_of(SEMAPHORE_SLOT)));
        check("cut in the permits", &cut(map.block(1)));
        check("cut before the permits", &cut(map.blocks));
        check("cut before the lock", &cut(map.slot(LOCK_SLOT)));
        check("cut before all slots", &cut(map.slots));
    });
}

// --- lock files, and copies ---

const REFUSED: &str = "lock_files_that_vanish_under_an_open_store_are_told_by_name";

#[test]
fn lock_files_that_vanish_under_an_open_store_are_told_by_name() {
    if let Some(dir) = role(REFUSED) {
        let (dir, name) = dir.split_once('|').unwrap();
        let holder = nix::unistd::getppid().to_string();
        let words = [dir, name, "removed", &*holder, "mends itself"];
        assert_error!(Cache::open(dir), Error::Busy { .. }, words);
        println!("all done");
        return;
    }
    bounded(|| {
        for name in layout::LOCKED {
            for replaced in [false, true] {
                let place = furnished();
                let cache = place.open();
                let lock = Lock::new(&cache, "lock");
                let guard = lock.acquire().unwrap();
                let path = place.store().join(name);
                fs::remove_file(&path).unwrap();
                if replaced {
                    fs::write(&path, "").unwrap();
                }
                // Another process is kept out, so that the two do not take the same.
                let argument = format!("{}|{name}", place.store().display());
                succeeds(child(REFUSED, &argument), "all done");
                // Nor is anything repaired under the one who is in.
                let busy = Cache::repair(place.store());
                assert_error!(busy, Error::Busy { .. }, [place.store().to_str().unwrap()]);
                let token = guard.token();
                guard.release().unwrap();
                drop((lock, cache));
                // Now it mends itself, without a word.
                let cache = assert_sound(&place, KEYS);
                assert!(token_of(&cache, "lock") > token);
            }
        }
    });
}

#[test]
fn a_copied_store_is_refused_and_adopted_with_all_its_keys() {
    bounded(|| {
        let place = furnished();
        let original = place.open();
        let guard = Lock::new(&original, "lock").acquire().unwrap().into_token();
        let copy = Place::new();
        fs::create_dir(copy.store()).unwrap();
        for name in ["slab"].iter().chain(&layout::LOCKED) {
            fs::copy(place.store().join(name), copy.store().join(name)).unwrap();
        }
        let path = copy.store();
        let words = [path.to_str().unwrap(), "copied", "adopt"];
        assert_error!(Cache::open(copy.store()), Error::Copied { .. }, words);
        assert_error!(Cache::repair(copy.store()), Error::Copied { .. }, words);
        drop(Cache::options().adopt(true).open(copy.store()).unwrap());
        let copied = assert_sound(&copy, KEYS);
        // Nobody holds anything in the copy, and the two have nothing to do with each other.
        let lock = Lock::new(&copied, "lock");
        let taken = lock.try_acquire().unwrap().expect("nobody has the copy");
        assert!(taken.token().get() >= guard.get() + (1 << 36));
        assert_error!(
            Cache::repair(place.store()),
            Error::Busy { .. },
            [place.store().to_str().unwrap()]
        );
        assert!(Lock::new(&original, "lock").release(guard).is_ok());
        drop(original);
        assert_sound(&place, KEYS);
    });
}

/// A copy of the slab in which what is all zeros is not there. The rest of the store is not copied.
fn copy_sparsely(from: &Path, to: &Path) {
    let bytes = fs::read(from.join("slab")).unwrap();
    fs::create_dir(to).unwrap();
    let slab = fs::File::create(to.join("slab")).unwrap();
    slab.set_len(bytes.len() as u64).unwrap();
    for (at, page) in (0..).zip(bytes.chunks(layout::PAGE as usize)) {
        if page.iter().any(|byte| *byte != 0) {
            slab.write_all_at(page, at * layout::PAGE).unwrap();
        }
    }
}

fn blocks_of(store: &Path) -> u64 {
    fs::metadata(store.join("slab")).unwrap().blocks()
}

#[test]
fn the_holes_of_a_sparse_copy_are_filled() {
    bounded(|| {
        let place = Place::new();
        furnish(Place::new());
        let whole = furnish(place);
        let copy = Place::new();
        copy_sparsely(&whole.store(), &copy.store());
        let refused = Cache::open(copy.store());
        assert_error!(refused, Error::Copied { .. }, ["copied", "adopt"]);
        Cache::adopt(copy.store()).unwrap();
        assert!(blocks_of(&copy.store()) >= blocks_of(&whole.store()));
        assert_sound(&copy, KEYS);
    });
}

#[test]
fn a_sparse_copy_on_a_full_disk_is_told_and_once_repaired_needs_no_room() {
    const NAME: &str = "a_sparse_copy_on_a_full_disk_is_told_and_once_repaired_needs_no_room";
    let Some(dir) = role(NAME) else {
        return bounded(|| in_a_namespace(NAME, Place::new().root()));
    };
    let dir = Path::new(&dir);
    if !mount("tmpfs", "size=1m", dir) {
        println!("skipped: no small file system can be mounted here");
        return;
    }
    let whole = furnish(Place::new());
    let copy = dir.join("store");
    copy_sparsely(&whole.store(), &copy);
    let filler = dir.join("filler");
    let fill = || {
        for _ in 0..1_000 {
            let mut file = OpenOptions::new();
            let mut file = file.create(true).append(true).open(&filler).unwrap();
            if std::io::Write::write_all(&mut file, &[1; 4_096]).is_err() {
                return;
            }
        }
        panic!("the file system is larger than it was made");
    };
    for name in layout::LOCKED {
        fs::write(copy.join(name), "").unwrap();
    }
    fill();
    assert_error!(Cache::adopt(&copy), Error::NoSpace { .. }, ["no room"]);
    fs::remove_file(&filler).unwrap();
    Cache::adopt(&copy).unwrap();
    fill();
    // What is written to from here on has its blocks, or is refused.
    use_all(&copy);
    println!("all told");
}

// --- a damaged slab that is in use ---

#[test]
fn a_slab_that_vanishes_while_it_is_open_is_told_and_not_waited_for() {
    bounded(|| {
        let (place, cache) = store();
        let lock = Lock::new(&cache, "k");
        let guard = lock.acquire().unwrap();
        fs::remove_file(place.slab()).unwrap();
        assert_error!(
            Cache::open(place.store()),
            _,
            [place.store().to_str().unwrap()]
        );
        guard.release().unwrap();
        drop((lock, cache));
        assert!(place.open().is_empty().unwrap());
    });
}

#[test]
fn a_slab_whose_state_is_damaged_while_it_is_open_is_told_and_not_waited_for() {
    const NAME: &str = "a_slab_whose_state_is_damaged_while_it_is_open_is_told_and_not_waited_for";
    if let Some(dir) = role(NAME) {
        assert_error!(Cache::open(&dir), Error::Corrupt { .. }, [&*dir, "slab"]);
        println!("all done");
        return;
    }
    bounded(|| {
        let (place, cache) = store();
        place.poke(layout::STATE, &[9; 8]);
        survives(NAME, &place, "state");
        drop(cache);
        place.open();
    });
}

#[test]
fn a_header_that_promises_more_than_there_is_is_not_believed() {
    const NAME: &str = "a_header_that_promises_more_than_there_is_is_not_believed";
    if let Some(dir) = role(NAME) {
        let cache = Cache::open(&dir).unwrap();
        let slab = OpenOptions::new()
            .write(true)
            .open(Path::new(&dir).join("slab"));
        slab.unwrap()
            .write_all_at(&[0xff; 12], layout::COUNTERS)
            .unwrap();
        let locks = (0..600).map(|n| Lock::new(&cache, format!("new {n}")));
        let refused = locks.filter(|lock| match lock.try_acquire() {
            Ok(_) => false,
            Err(error) => {
                says(&error, &["slab", "damaged"]);
                true
            }
        });
        assert!(refused.count() > 0);
        println!("all done");
        return;
    }
    bounded(|| {
        let (place, cache) = store_of(CAPACITY);
        drop(Lock::new(&cache, "k").acquire().unwrap());
        drop(cache);
        survives(NAME, &place, "header");
    });
}

/// Damage that no random byte finds soon, and that has a way of its own to go wrong.
#[test]
fn chosen_damage_ends_in_errors() {
    const NAME: &str = "chosen_damage_ends_in_errors";
    if play_victim(NAME) {
        return;
    }
    let map = layout();
    let ones = [0xff; 4_096];
    let stripes = |words: [u64; 5]| {
        let mut stripe = words.map(u64::to_le_bytes).concat();
        stripe.resize(64, 0);
        stripe.repeat(64)
    };
    let all = u64::from(u32::MAX);
    let endless: Vec<u8> = (0..256).flat_map(|_| 1_u32.to_le_bytes()).collect();
    let cases: Vec<(&str, u64, Vec<u8>)> = vec![
        ("unknown intents", layout::STRIPES, ones.to_vec()),
        (
            "endless creations",
            layout::STRIPES,
            stripes([layout::CREATE, all, all, 0, 0]),
        ),
        (
            "creations of everything",
            layout::STRIPES,
            stripes([layout::CREATE, 1 << 32 | all, all, 0, 0]),
        ),
        (
            "endless reclaims",
            layout::STRIPES,
            stripes([layout::RECLAIM, all, all, 0, 0]),
        ),
        (
            "endless removals",
            layout::STRIPES,
            stripes([layout::REMOVE, 550 << 32 | all, all, 0, 0]),
        ),
        (
            "removals of keys",
            layout::STRIPES,
            stripes([layout::REMOVE, 3 << 32 | all, all, 0, 0]),
        ),
        (
            "removals far off",
            layout::STRIPES,
            stripes([layout::REMOVE, all << 32 | all, all << 32, all, 0]),
        ),
        (
            "endless frees",
            layout::STRIPES,
            stripes([layout::FREE, all, all, 0, 0]),
        ),
        (
            "frees of everything",
            layout::STRIPES,
            stripes([layout::FREE, 16, 16_384, 0, 0]),
        ),
        (
            "floors at the end",
            layout::STRIPES,
            stripes([0, 0, 0, 0, u64::MAX]),
        ),
        ("counters at the end", layout::COUNTERS, ones[..24].to_vec()),
        ("hints at the end", layout::HINTS, ones[..12].to_vec()),
        ("nothing allocated", layout::COUNTERS, vec![0; 24]),
        ("another boot", layout::BOOT_ID, ones[..16].to_vec()),
        ("no lock files", layout::LOCK_FILES, vec![0; 24]),
        (
            "buckets that lead nowhere",
            layout::BUCKETS,
            ones[..2_048].to_vec(),
        ),
        ("buckets that lead to one slot", layout::BUCKETS, endless),
        ("all slots used", map.slot_states, ones[..600].to_vec()),
        ("participants of ones", map.participants, ones.to_vec()),
        ("slots of ones", map.slots, ones.to_vec()),
        ("permits of ones", map.blocks, ones.to_vec()),
        ("slots of zeros", map.slots, vec![0; 4_096]),
        ("permits of zeros", map.blocks, vec![0; 1_024]),
    ];
    for (what, at, bytes) in cases {
        bounded(move || {
            let place = furnished();
            place.poke(at, &bytes);
            survives(NAME, &place, what);
        });
    }
}

#[test]
fn a_hold_that_is_being_taken_away_by_nobody_is_freed_and_not_waited_for() {
    bounded(|| {
        let (place, cache) = store_of(CAPACITY);
        let lock = Lock::new(&cache, "k");
        let token = lock.acquire().unwrap().into_token();
        // The first key of a store is in the first slot; its hold comes first in it.
        let at = layout().slots;
        let word = place.word(at);
        assert_eq!(word & (layout::RETIRING - 1), token.get());
        place.poke(at, &(word | layout::RETIRING).to_le_bytes());
        let guard = lock.try_acquire().unwrap().expect("nobody takes it away");
        assert!(guard.token() > token);
        guard.release().unwrap();
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
fn a_permits_ticket_at_its_end_is_told_or_mended_and_no_token_falls_back() {
    bounded(|| {
        let end = 1 << layout::SEQUENCE_BITS;
        for ticket in [u64::MAX, u64::MAX - 1, end, end - 1] {
            let (place, cache) = store_of(CAPACITY);
            let semaphore = BoundedSemaphore::new(&cache, "s", 2);
            let before = semaphore.acquire().unwrap().token();
            place.poke(layout().blocks + layout::TICKET, &ticket.to_le_bytes());
            match semaphore.try_acquire() {
                Ok(guard) => assert!(guard.unwrap().token() > before),
                Err(error) => says(&error, &["\"s\"", "used up", "repair"]),
            }
            place.poke(layout().blocks + layout::TICKET, &ticket.to_le_bytes());
            drop((semaphore, cache));
            // What the message says to do helps.
            assert_eq!(repair(&place).keys_kept, 1);
            let cache = assert_sound(&place, 1);
            let semaphore = BoundedSemaphore::new(&cache, "s", 2);
            let guard = semaphore.try_acquire().unwrap().unwrap();
            assert!(guard.token() > before, "ticket {ticket:#x}");
        }
    });
}

#[test]
fn removing_a_key_with_a_damaged_token_spoils_no_other() {
    bounded(|| {
        let end = 1 << layout::SEQUENCE_BITS;
        for ticket in [u64::MAX - 1, end, end - 1] {
            let (place, cache) = store_of(CAPACITY);
            let semaphore = BoundedSemaphore::new(&cache, "s", 2);
            let before = semaphore.acquire().unwrap().token();
            place.poke(layout().blocks + layout::TICKET, &ticket.to_le_bytes());
            assert!(cache.remove("s").unwrap());
            // The same stripe, and the same slot.
            assert!(token_of(&cache, "s") > before);
            assert!(cache.remove("s").unwrap());
            let guard = semaphore.try_acquire().unwrap().unwrap();
            assert!(guard.token() > before);
        }
    });
}

#[test]
fn a_lock_whose_token_is_at_its_end_is_told_and_repaired() {
    bounded(|| {
        let (place, cache) = store_of(CAPACITY);
        let other = Lock::new(&cache, "other");
        drop(Lock::new(&cache, "k").acquire().unwrap());
        for _ in 0..9 {
            drop(other.acquire().unwrap());
        }
        let highest = other.acquire().unwrap().token();
        let last = (1_u64 << layout::SEQUENCE_BITS) - 1;
        // The first key is in the first slot.
        place.poke(layout().slots, &last.to_le_bytes());
        let words = ["\"k\"", "used up", "repair"];
        assert_error!(
            Lock::new(&cache, "k").try_acquire(),
            Error::Corrupt { .. },
            words
        );
        drop((other, cache));
        assert_eq!(repair(&place).keys_kept, 2);
        let cache = assert_sound(&place, 2);
        for key in ["k", "other", "new"] {
            assert!(token_of(&cache, key) > highest, "{key}");
        }
    });
}

#[test]
fn a_key_with_something_behind_its_last_byte_is_told_and_repaired() {
    bounded(|| {
        let (place, cache) = store_of(CAPACITY);
        let use_lock = |cache: &Cache| drop(Lock::new(cache, "lock").acquire().unwrap());
        use_lock(&cache);
        // Keys are compared in whole words. A page that is torn in one leaves what was there.
        let key = layout().slots + layout::KEY;
        place.poke(key + 4, b"....");
        let told = |report: CheckReport, what: &str| {
            let is_told = report.problems.iter().any(|p| p.contains(what));
            assert!(is_told, "{report:?}");
        };
        let not_found = "has a key that is not found";
        told(cache.check().unwrap(), not_found);
        told(
            Cache::reader(place.store()).unwrap().check().unwrap(),
            not_found,
        );
        // Whoever does not find it makes another.
        use_lock(&cache);
        place.poke(key + 4, &[0; 4]);
        told(cache.check().unwrap(), not_found);
        told(
            Cache::reader(place.store()).unwrap().check().unwrap(),
            not_found,
        );
        place.poke(key + 4, b"....");
        drop(cache);

        let report = repair(&place);
        assert_eq!((report.keys_kept, report.keys_lost), (1, 1));
        let cache = assert_sound(&place, 1);
        use_lock(&cache);
        assert_eq!(cache.keys().unwrap().len(), 1);
    });
}

#[test]
fn a_damaged_average_is_told_and_repaired_to_a_value_it_had() {
    bounded(|| {
        let (place, cache) = store_of(CAPACITY);
        let average = Averager::new(&cache, "a");
        for value in [1.0, 2.0, 3.0] {
            average.add(value).unwrap();
        }
        // The cell in force after three writes is the second.
        let cell = layout().slots + layout::CELLS + layout::CELL_BYTES;
        place.poke(cell + 8, &[0x55; 3]);
        // Who has written a version need not look at its seal again; all others do.
        let words = ["\"a\"", "checksum", "repair"];
        let fresh = || Averager::new(&cache, "a");
        assert_error!(fresh().get(), Error::Corrupt { .. }, words);
        assert_error!(fresh().add(4.0), Error::Corrupt { .. }, words);
        assert_error!(fresh().pop(), Error::Corrupt { .. }, words);
        let report = cache.check().unwrap();
        assert!(
            report.problems.iter().any(|p| p.contains("checksum")),
            "{report:?}"
        );
        drop((average, cache));
        let report = Cache::repair(place.store()).unwrap();
        assert_eq!(
            (report.keys_kept, report.keys_lost, report.actions.len()),
            (1, 0, 1)
        );
        let average = Averager::new(&place.open(), "a");
        assert_eq!(
            average.summary().unwrap().map(|s| (s.count, s.total)),
            Some((2, 3.0))
        );
    });
}

#[test]
fn a_store_with_random_damage_ends_in_errors() {
    const NAME: &str = "a_store_with_random_damage_ends_in_errors";
    if play_victim(NAME) {
        return;
    }
    let seed = seed_of(NAME);
    for round in 0..8 {
        bounded(move || {
            let mut random = Random::new(seed.wrapping_add(round << 32));
            let map = layout();
            let place = furnished();
            let len = place.slab_len();
            let regions = [
                (layout::STATE, layout::HEADER_END),
                (layout::ROWS, layout::ROWS + 256),
                (layout::STRIPES, layout::PARTICIPANTS),
                (map.participants, map.participants + 1_024),
                (layout::BUCKETS, layout::BUCKETS + 4 * 64),
                (map.slot_states, map.slot_states + 600),
                (map.slots, map.slot(SEMAPHORE_SLOT + 1)),
                (map.blocks, len),
            ];
            for _ in 0..1 + random.below(60) {
                let (from, to) = regions[random.below(8) as usize];
                let at = from + random.below(to - from);
                // The upper bytes of hold words name their holders. A lock that seems to be held by
                // one who lives is waited for, and rightly.
                let names_holder =
                    at >= map.slots && (at - map.slots) % layout::SLOT_BYTES < 8 && at % 8 >= 6
                        || at >= map.blocks
                            && (at - map.blocks) % layout::PERMIT_BYTES < 8
                            && at % 8 >= 6;
                if !names_holder {
                    place.poke(at, &[random.below(256) as u8]);
                }
            }
            survives(NAME, &place, &format!("round {round} of seed {seed}"));
        });
    }
}

/// The table of segments says whatever it likes: nothing goes on for ever, and no sum is too large.
#[test]
fn a_damaged_table_of_segments_ends_nothing() {
    const SEGMENTS: u64 = 8_192;
    bounded(|| {
        let large = vec![7; 100_000];
        let place = Place::new();
        let open = || Cache::options().size_limit(4 << 20).open(place.store());
        let cache = open().unwrap();
        cache.set("key", &large).unwrap();
        let word = |at: u64, word: u64| place.poke(at, &word.to_le_bytes());
        for (entry, number) in [(5, 7), (6, 1), (9, 9), (10, 522), (11, 1 << 32 | 12)] {
            for (field, bits) in [number, u64::MAX, u64::MAX, u64::MAX]
                .into_iter()
                .enumerate()
            {
                word(SEGMENTS + 32 * entry + 8 * field as u64, bits);
            }
        }
        let participants = Layout::new().participants;
        word(participants + 128 + 112, u64::MAX);
        word(participants + 128 * 2 + 112, u64::MAX);
        cache.stats().unwrap();
        let _ = cache.cull();
        let _ = cache.set("other", &large);
        let _ = cache.check();
        // The last number that there is.
        word(232, u32::MAX.into());
        drop(cache);
        Cache::repair(place.store()).unwrap();
        let cache = open().unwrap();
        for round in 0..100 {
            cache.set(format!("{round}"), &large).unwrap();
        }
        assert!(cache.check().unwrap().is_sound());
    });
}

/// The other copy serves meanwhile: nothing is lost, and nobody is to find out when that one fails,
/// too.
#[test]
fn a_damaged_copy_of_the_header_is_told_and_repaired() {
    bounded(|| {
        for (at, which) in layout::COPIES.into_iter().zip(["first", "second"]) {
            let place = furnished();
            place.poke(at + 24, &[0xff; 8]);
            let cache = place.open();
            let report = cache.check().unwrap();
            assert!(!report.is_sound());
            let [problem] = &report.problems[..] else {
                panic!("{report:?}");
            };
            assert!(
                problem.contains(which) && problem.contains("repair"),
                "{problem}"
            );
            drop(cache);
            assert_eq!(repair(&place).keys_kept, KEYS);
            assert_sound(&place, KEYS);
        }
    });
}

/// In the log, where the tag stands between the key and the value. One of them is damaged, the
/// others are kept.
#[test]
fn a_repair_keeps_a_tagged_value_and_drops_a_damaged_one() {
    bounded(|| {
        for len in [1_000, 100_000] {
            let place = Place::new();
            let cache = place.open();
            let blue = SetOptions::new().tag("blue");
            let value = |of: u8| vec![of; len];
            cache.set_with("tagged", value(b't'), &blue).unwrap();
            cache.set("plain", value(b'p')).unwrap();
            cache.set_with("damaged", value(b'd'), &blue).unwrap();
            drop(cache);
            assert!(repair(&place).actions.is_empty());
            let segment = place.store().join("log/00000001");
            let mut bytes = fs::read(&segment).unwrap();
            let at = bytes.iter().rposition(|byte| *byte == b'd').unwrap();
            bytes[at - len / 2] = b'!';
            fs::write(&segment, bytes).unwrap();
            let report = repair(&place);
            assert_eq!(report.actions.len(), 1, "{report:?}");
            assert!(report.actions[0].contains("\"damaged\""), "{report:?}");
            let cache = place.open();
            let tagged = cache.entry("tagged").unwrap().unwrap();
            assert!(tagged.value == value(b't'));
            assert_eq!(tagged.tag.as_deref(), Some(&b"blue"[..]));
            assert!(cache.get("plain").unwrap() == Some(value(b'p')));
            assert_eq!(cache.get("damaged").unwrap(), None);
            assert_eq!(cache.remove_tagged("blue").unwrap(), 1);
            assert!(cache.check().unwrap().is_sound());
        }
    });
}

/// What a waiter had noted of itself was overwritten while it waited: it takes nothing away from
/// what is not there.
#[test]
fn a_waiter_whose_mark_is_gone_gets_the_lock() {
    bounded(|| {
        let (place, cache) = store_of(CAPACITY);
        let lock = Lock::new(&cache, "k");
        let guard = lock.acquire().unwrap();
        let participants = layout().participants;
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| drop(lock.acquire().unwrap()));
            until("somebody waits", || lock.waiters().unwrap() == 1);
            for number in 1..3 {
                let record = participants + number * layout::PARTICIPANT_BYTES;
                place.poke(record + layout::WAITING, &[0; layout::WAITING_BYTES]);
            }
            assert_eq!(lock.waiters().unwrap(), 0);
            drop(guard);
            waiter.join().unwrap();
        });
        assert_eq!(lock.waiters().unwrap(), 0);
        assert!(cache.check().unwrap().is_sound());
    });
}

/// A key in the last slot that claims to go on in the next one, of which there is none.
#[test]
fn a_key_that_reaches_beyond_the_last_slot_is_dropped() {
    bounded(|| {
        for span in [2_u32, 3] {
            let (place, cache) = store_of(1);
            drop(Lock::new(&cache, "k").acquire().unwrap());
            let layout = Layout::new();
            drop(cache);
            place.poke(layout.slots + layout::SPAN, &span.to_le_bytes());
            let report = repair(&place);
            assert_eq!((report.keys_kept, report.keys_lost), (0, 1), "{report:?}");
            let cache = assert_sound(&place, 0);
            drop(Lock::new(&cache, "k").acquire().unwrap());
        }
    });
}
