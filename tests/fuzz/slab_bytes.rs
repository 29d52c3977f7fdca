//! Law: whatever the files of a store hold, opening it and every operation on it end with a result
//! or with an error that says what is wrong: no crash, no signal, no hang, no memory beyond what
//! the store's size asks for. As long as a hold is said to stand, nobody else is given the same.
//! And if `repair` says that it has mended the store, the store is sound and stays so.
//!
//! One exception: a hold word that names somebody alive *is* a hold of theirs, and an `add` waits
//! for such a latch for ever. So words of averages and values that the damage gives to the one
//! participant there is are freed.

mod damage;
mod work;

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use slablock::{
    Averager, BoundedSemaphore, Cache, Error, Lock, Options, RLock, SetOptions, fuzzing,
};
use work::{Work, hear};

use super::input::Input;
use super::layout::{self, Layout};
use super::place::Place;

/// Room for the keys of the template and some more, and few enough to be filled up.
pub const CAPACITY: u64 = 24;
/// A header that says more than this is not sealed: it would only cost time.
pub const CAPACITY_MAX: u64 = 2_048;

/// The kinds whose hold is a latch, as they are in a meta word.
const LATCHED: [u64; 3] = [4, 5, 6];

/// A store to be damaged: as it was made once, and the directory in which it is put down anew each
/// time.
struct Bench {
    place: Place,
    template: Vec<u8>,
    /// Its one segment.
    segment: Vec<u8>,
}

/// Where the template has its large values.
const SEGMENT: &str = "log/00000001";

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

pub fn run(data: &[u8]) {
    BENCH.with_borrow_mut(|bench| bench.get_or_insert_with(Bench::new).run(data));
}

/// What is put right again after the damage, so that it is not refused at the door each time.
#[derive(Clone, Copy)]
struct Mend(u8);

impl Mend {
    fn header_checksum(self) -> bool {
        self.0 & 1 == 0
    }

    fn lock_files(self) -> bool {
        self.0 & 2 == 0
    }

    fn state_and_boot(self) -> bool {
        self.0 & 4 == 0
    }

    fn seals(self) -> bool {
        self.0 & 8 != 0
    }

    /// Not mending, but breaking: a lock file is gone, is a directory, or has something in it.
    fn other_files(self) -> usize {
        usize::from(self.0 >> 4)
    }
}

impl Bench {
    fn new() -> Bench {
        let place = Place::new();
        let store = place.path().join("store");
        fuzzing::chance(Some(1));
        furnish(&store);
        fuzzing::chance(None);
        let template = fs::read(store.join("slab")).expect("the slab that was just made");
        let segment = fs::read(store.join(SEGMENT)).expect("its values");
        Bench {
            place,
            template,
            segment,
        }
    }

    fn store(&self) -> PathBuf {
        self.place.path().join("store")
    }

    fn run(&mut self, data: &[u8]) {
        let mut input = Input::new(data);
        let mode = input.byte() % 8;
        if mode == 0 {
            return self.fanout(input.byte(), input.rest());
        }
        let mend = Mend(input.byte());
        self.put_log(mode, &mut input);
        let steps = input.byte() % 48;
        let steps: Vec<_> = (0..steps).map(|_| (input.byte(), input.byte())).collect();
        let slab = match mode {
            1 => input.rest().to_vec(),
            2 => damage::overlaid(&self.template, &mut input),
            _ => damage::damaged(&self.template, &mut input),
        };
        let blank = self.put(slab, mend);
        self.use_damaged(blank, &steps);
        self.use_repaired();
        fuzzing::forget_thread();
        let len = fs::metadata(self.store().join("slab")).map_or(0, |m| m.len());
        let most = Layout::new().block(CAPACITY_MAX + 16_384);
        assert!(len <= most.next_multiple_of(layout::PAGE), "{len} bytes");
    }

    /// Puts the log down: whole, cut off, with other bytes in it, gone, something else, or with
    /// more files.
    fn put_log(&self, mode: u8, input: &mut Input) {
        let store = self.store();
        let log = store.join("log");
        let _ = fs::remove_dir_all(&log).or_else(|_| fs::remove_file(&log));
        let mut segment = self.segment.clone();
        // Half of the modes leave it alone, and ask the input for nothing.
        let how = if mode >= 6 { input.byte() % 8 } else { 0 };
        match how {
            1 => segment.truncate(usize::from(input.u16())),
            2 => {
                for _ in 0..4 {
                    let at = usize::from(input.u16());
                    damage::write(&mut segment, at, &input.u64().to_le_bytes());
                }
            }
            3 => return,
            4 => return fs::write(&log, b"no directory").expect("a file"),
            5 => segment.extend_from_slice(&[0xff; 5_000]),
            _ => {}
        }
        fs::create_dir(&log).expect("the log");
        match how {
            6 => fs::create_dir(store.join(SEGMENT)).expect("a directory"),
            _ => fs::write(store.join(SEGMENT), &segment).expect("a segment"),
        }
        if how == 7 {
            for name in ["00000002", "ffffffff", "00000000", "+0000001", "another"] {
                fs::write(log.join(name), &segment).expect("another segment");
            }
        }
    }

    /// Puts the files of a store down. Whether the slab has nothing in it.
    fn put(&self, mut slab: Vec<u8>, mend: Mend) -> bool {
        let store = self.store();
        if mend.header_checksum() {
            damage::seal_header(&mut slab);
        }
        if mend.seals() {
            damage::seal_cells(&mut slab);
        }
        if mend.state_and_boot() {
            for (at, len) in [(layout::STATE, 8), (layout::BOOTS, layout::BOOT_BYTES)] {
                let kept = at as usize..(at + len) as usize;
                damage::write(&mut slab, kept.start, &self.template[kept]);
            }
        }
        for (at, name) in (0..).zip(layout::LOCKED) {
            let path = store.join(name);
            if path.is_dir() {
                fs::remove_dir(&path).expect("remove a directory");
            }
            let options = OpenOptions::new().create(true).write(true).clone();
            let file = options.open(&path).expect("a lock file");
            file.set_len(0).expect("an empty lock file");
            if mend.lock_files() {
                let at = layout::LOCK_FILES as usize + layout::FILE_BYTES as usize * at;
                damage::write(&mut slab, at, &layout::words_of(&file));
            }
        }
        if let Some((name, how)) = match mend.other_files() {
            n @ 1..=9 => Some((layout::LOCKED[n % 3], n / 3)),
            _ => None,
        } {
            let path = store.join(name);
            fs::remove_file(&path).expect("remove a lock file");
            match how {
                0 | 3 => fs::write(&path, [0xff; 100]).expect("another file"),
                1 => fs::create_dir(&path).expect("a directory in its place"),
                _ => {}
            }
        }
        let path = store.join("slab");
        put_sparse(&path, &slab);
        if mend.state_and_boot() {
            // Otherwise it is a copy, and nothing else of it is looked at.
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.expect("open the slab");
            let words = layout::words_of(&file);
            if slab.len() as u64 >= layout::SLAB_FILE + layout::FILE_BYTES {
                file.write_all_at(&words, layout::SLAB_FILE)
                    .expect("name the slab");
            }
        }
        slab.iter().all(|byte| *byte == 0)
    }

    fn use_damaged(&self, blank: bool, steps: &[(u8, u8)]) {
        // One that is made anew is to be no larger than the others.
        let options = match blank {
            true => Cache::options().capacity(CAPACITY as usize),
            false => Cache::options(),
        };
        match options.open(self.store()) {
            Err(error) => says(&error),
            Ok(cache) => {
                self.free_own_latches(&cache);
                let mut work = Work::new(cache);
                match steps {
                    [] => work.everything(),
                    steps => steps.iter().for_each(|step| work.step(*step)),
                }
            }
        }
    }

    /// See the exception at the top.
    fn free_own_latches(&self, cache: &Cache) {
        let me = u64::from(fuzzing::participant(cache));
        let path = self.store().join("slab");
        let slab = OpenOptions::new().read(true).write(true).open(path);
        let slab = slab.expect("the slab");
        let map = Layout::new();
        for slot in 0..cache.capacity() as u64 {
            let (mut word, mut meta) = ([0; 8], [0; 8]);
            let at = map.slot(slot);
            let read = slab.read_exact_at(&mut word, at);
            if read.is_err() || slab.read_exact_at(&mut meta, at + 24).is_err() {
                return;
            }
            let (word, meta) = (u64::from_le_bytes(word), u64::from_le_bytes(meta));
            if word >> 52 == me && LATCHED.contains(&(meta >> 32 & 0xf)) {
                let free = word & (layout::RETIRING - 1);
                slab.write_all_at(&free.to_le_bytes(), at).expect("free it");
            }
        }
    }

    fn use_repaired(&self) {
        let report = match Cache::repair(self.store()) {
            Err(error) => return says(&error),
            Ok(report) => report,
        };
        let cache = Cache::open(self.store()).expect("open what was repaired");
        let check = cache.check().expect("check what was repaired");
        assert!(check.is_sound(), "after {report:?}: {check:?}");
        assert_eq!(check.keys, cache.len().expect("count"), "{check:?}");
        let mut work = Work::new(cache.clone());
        work.something();
        drop(work);
        let check = cache.check().expect("check what was used");
        assert!(check.is_sound(), "used after {report:?}: {check:?}");
        let lock = Lock::new(&cache, "after repair");
        let guard = lock.try_acquire().expect("a sound store");
        assert!(guard.is_some_and(|guard| guard.check().is_ok()));
    }

    /// The one file of a `FanoutCache` that is not a store's.
    fn fanout(&self, flags: u8, bytes: &[u8]) {
        let dir = self.place.path().join("fanout");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("a directory");
        let mut bytes = bytes.to_vec();
        if flags & 1 == 0 {
            damage::as_fanout(&mut bytes, flags >> 6);
        }
        fs::write(dir.join("fanout"), &bytes).expect("a fanout file");
        let options = Cache::options().capacity(1);
        let wanted = (flags & 2 != 0).then_some(usize::from(flags >> 6));
        match wanted.into_iter().fold(options, Options::shards).open(&dir) {
            Err(error) => says(&error),
            Ok(cache) => {
                assert!(wanted.is_none_or(|n| n == cache.shards()));
                hear(Lock::new(&cache, "a").try_acquire().map(drop));
                hear(cache.check().map(drop));
                assert!(cache.shards() <= 256);
            }
        }
        hear(Cache::repair(&dir).map(drop));
    }
}

/// Something of each kind, some of it held by somebody who died, and some of it removed again.
fn furnish(store: &std::path::Path) {
    let options = Cache::options().capacity(CAPACITY as usize);
    let cache = options.open(store).expect("make a store");
    let lease = Duration::from_secs(3_600);
    for (n, key) in work::AVERAGES.iter().enumerate() {
        let average = Averager::new(&cache, key).tag("t");
        average.add(n as f64 + 0.5).expect("add");
        average.add(2.0).expect("add");
    }
    drop(Lock::new(&cache, "gone").acquire().expect("acquire"));
    let lock = Lock::new(&cache, "lock").tag("t").lease(lease);
    let rlock = RLock::new(&cache, work::long_key());
    let semaphore = BoundedSemaphore::new(&cache, "semaphore", 5).lease(lease);
    let pair = BoundedSemaphore::new(&cache, "pair", 2).tag("u");
    let held = lock.acquire().expect("acquire").into_owned();
    drop(Lock::new(&cache, "free").acquire().expect("acquire"));
    let again = rlock.acquire().expect("acquire").into_owned();
    let permits = [semaphore.acquire(), semaphore.acquire(), pair.acquire()];
    let permits = permits.map(|permit| permit.expect("acquire").into_owned());
    assert!(cache.remove("gone").expect("remove"));
    let [large, larger, tagged, counter] = work::VALUES_THERE;
    cache.set(large, vec![7; 1_000]).expect("set");
    cache.set(larger, vec![8; 20_000]).expect("set");
    let options = SetOptions::new().tag("t").expire(lease);
    cache.set_with(tagged, "value", &options).expect("set");
    cache.incr(counter, 41).expect("count");
    assert!(cache.check().expect("check").is_sound());
    fuzzing::die(&cache);
    drop((held, again, permits));
    fuzzing::forget_thread();
}

/// Writes a file, but for its zeros: a slab is mostly holes.
pub fn put_sparse(path: &std::path::Path, bytes: &[u8]) {
    let mut options = OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).open(path);
    let file = file.expect("the slab");
    for (at, page) in bytes.chunks(layout::PAGE as usize).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            let written = file.write_all_at(page, at as u64 * layout::PAGE);
            written.expect("write the slab");
        }
    }
    file.set_len(bytes.len() as u64).expect("the slab's length");
}

/// An error is one line, says something, and is not about a thing that cannot happen here.
pub fn says(error: &Error) {
    let text = error.to_string();
    assert!(text.len() > 10 && text.len() < 4_000, "{text}");
    assert!(!text.contains('\n'), "{text}");
}
