//! Values after a power loss, of the slab and the log together, between operations and at every sync in the middle
//! of one. What survives is chosen here: of a file that was synced at least that; of later writes any pages, or none;
//! a name only if its directory was synced, otherwise perhaps.
//!
//! With `Durability::PowerLoss` a value that was set is there. Without, it is one that was set once, whole, or none.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use slablock::{Cache, Durability, Error, Eviction};

use crate::children::{Random, Watchdog};
use crate::layout::{BOOT_ID, PAGE};
use crate::{OnPanic, TOO_LONG, new_dir};

const CHAINS: u64 = 24;
const LIVES: u64 = 4;
const STEPS: u64 = 12;
const KEYS: [&str; 5] = ["a", "b", "c", "d", "one with a name of several words"];
/// In the slots; in the log, written at once, in two parts, to a segment of its own.
const LENGTHS: [usize; 7] = [9, 200, 700, 3_000, 40_000, 100_000, 270_000];
const SECTOR: usize = 512;

/// What is certainly on the disk.
#[derive(Clone, Default)]
struct Medium {
    /// By inode numbers.
    files: BTreeMap<u64, Vec<u8>>,
    /// Of each directory, by names: the inode.
    names: BTreeMap<PathBuf, BTreeMap<String, u64>>,
}

/// A power loss that is to come at a sync in the middle of an operation, just before it is done.
struct Ambush {
    countdown: u64,
    random: Random,
    store: PathBuf,
    into: PathBuf,
    sprung: bool,
}

#[derive(Default)]
struct Watch {
    medium: Medium,
    ambush: Option<Ambush>,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Called for each sync of this thread's.
pub fn note_sync(file: &File, path: &Path) {
    WATCH.with_borrow_mut(|watch| {
        let Some(watch) = watch else {
            return;
        };
        if let Some(ambush) = watch.ambush.as_mut().filter(|ambush| !ambush.sprung) {
            ambush.sprung = ambush.countdown == 0;
            ambush.countdown = ambush.countdown.saturating_sub(1);
            if ambush.sprung {
                watch
                    .medium
                    .lose(&ambush.store, &ambush.into, &mut ambush.random);
            }
        }
        watch.medium.note(file, path);
    });
}

fn names_in(dir: &Path) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let named = entries.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, entry.metadata().unwrap().ino())
    });
    named.collect()
}

impl Medium {
    fn note(&mut self, file: &File, path: &Path) {
        let meta = file.metadata().unwrap();
        if meta.is_dir() {
            self.names.insert(path.to_path_buf(), names_in(path));
        } else {
            self.files.insert(meta.ino(), bytes_of(file));
        }
    }

    /// All that is there is on the disk.
    fn of(store: &Path) -> Medium {
        let mut medium = Medium::default();
        for dir in [store.parent().unwrap(), store, &store.join("log")] {
            medium.names.insert(dir.to_path_buf(), names_in(dir));
        }
        for dir in [store.to_path_buf(), store.join("log")] {
            for name in names_in(&dir).keys() {
                let file = File::open(dir.join(name)).unwrap();
                medium.note(&file, &dir.join(name));
            }
        }
        medium
    }

    /// Puts what is left after a loss of `store` into another directory.
    fn lose(&self, store: &Path, into: &Path, random: &mut Random) {
        fs::create_dir(into).unwrap();
        let style = random.below(4);
        self.lose_dir(store, into, style, random);
        let there = self
            .names
            .get(store)
            .is_some_and(|names| names.contains_key("log"));
        if there || random.below(2) == 0 {
            let log = into.join("log");
            let _ = fs::create_dir(&log);
            self.lose_dir(&store.join("log"), &log, style, random);
        }
    }

    fn lose_dir(&self, dir: &Path, into: &Path, style: u64, random: &mut Random) {
        let nothing = BTreeMap::new();
        let (safe, now) = (self.names.get(dir).unwrap_or(&nothing), names_in(dir));
        let names: BTreeSet<&String> = safe
            .keys()
            .chain(now.keys())
            .filter(|n| *n != "log")
            .collect();
        for name in names {
            let is_certain = safe.get(name).is_some_and(|ino| now.get(name) == Some(ino));
            if !is_certain && random.below(2) == 0 {
                continue;
            }
            let ino = now.get(name).or(safe.get(name)).unwrap();
            let base = self.files.get(ino).cloned().unwrap_or_default();
            // One that was removed was cut off before.
            let path = dir.join(name);
            let last = path.is_file().then(|| bytes_of(&File::open(path).unwrap()));
            let mut bytes = mixed(&base, &last.unwrap_or_default(), style, random);
            let boot = BOOT_ID as usize;
            if name == "slab" && bytes.len() > boot + 16 && bytes[boot..boot + 16] != [0; 16] {
                bytes[boot..boot + 8].copy_from_slice(&random.next().to_le_bytes());
            }
            write_sparse(&into.join(name), &bytes);
        }
    }
}

fn bytes_of(file: &File) -> Vec<u8> {
    // It may be open for writing only.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    fs::read(path).unwrap()
}

fn write_sparse(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, page) in (0..).zip(bytes.chunks(PAGE as usize)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at * PAGE).unwrap();
        }
    }
}

/// Pages of either, some of them torn, and the length of either.
fn mixed(base: &[u8], last: &[u8], style: u64, random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| match style {
        0 => random.below(8) == 0,
        1 => random.below(8) > 0,
        2 => false,
        _ => random.below(2) == 0,
    };
    let len = if pick(random) { last.len() } else { base.len() };
    let mut bytes = vec![0; len];
    for (at, page) in bytes.chunks_mut(PAGE as usize).enumerate() {
        let new = pick(random);
        let is_torn = random.below(3) == 0;
        for (sector, to) in page.chunks_mut(SECTOR).enumerate() {
            let new = if is_torn { pick(random) } else { new };
            let from = if new { last } else { base };
            let from = from
                .get(at * PAGE as usize + sector * SECTOR..)
                .unwrap_or_default();
            let len = from.len().min(to.len());
            to[..len].copy_from_slice(&from[..len]);
        }
    }
    bytes
}

/// What each key had, the last at the end.
type History = BTreeMap<&'static str, Vec<Option<Vec<u8>>>>;

struct Chain {
    durability: Durability,
    random: Random,
    history: History,
    serial: u64,
    losses: u64,
    values: u64,
}

impl Chain {
    fn value(&mut self) -> Vec<u8> {
        self.serial += 1;
        let len = LENGTHS[self.random.below(LENGTHS.len() as u64) as usize];
        let mut value = vec![self.serial as u8; len];
        value[..8].copy_from_slice(&self.serial.to_le_bytes());
        value
    }

    fn key(&mut self) -> &'static str {
        KEYS[self.random.below(KEYS.len() as u64) as usize]
    }

    /// What is to be: of one key, or of two at once.
    fn plan(&mut self) -> Vec<(&'static str, Option<Vec<u8>>)> {
        let count = if self.random.below(5) == 0 { 2 } else { 1 };
        let mut plan = BTreeMap::new();
        for _ in 0..count {
            let value = (self.random.below(5) > 0).then(|| self.value());
            plan.insert(self.key(), value);
        }
        plan.into_iter().collect()
    }

    fn carry_out(cache: &Cache, plan: &[(&str, Option<Vec<u8>>)]) {
        match plan {
            [(key, Some(value))] => cache.set(key, value).unwrap(),
            [(key, None)] => drop(cache.delete(key).unwrap()),
            several => cache
                .transact(|all| {
                    several.iter().try_for_each(|(key, value)| match value {
                        Some(value) => all.set(key, value),
                        None => all.delete(key).map(drop),
                    })
                })
                .unwrap(),
        }
    }

    fn open(&self, store: &Path) -> Cache {
        let options = Cache::options().capacity(64).size_limit(4 << 20);
        let options = options.eviction(Eviction::None).durability(self.durability);
        match options.open(store) {
            Err(Error::Corrupt { .. }) => {
                Cache::repair(store).unwrap();
                options.open(store).unwrap()
            }
            other => other.unwrap(),
        }
    }

    /// A new store, which is told only later at times that values are to survive power failures.
    fn begin(&mut self, store: &Path) -> Cache {
        if self.durability == Durability::ProcessCrash || self.random.below(2) == 0 {
            return self.open(store);
        }
        self.durability = Durability::ProcessCrash;
        let cache = self.open(store);
        let value = vec![7; 700];
        cache.set(KEYS[0], &value).unwrap();
        self.history.get_mut(KEYS[0]).unwrap().push(Some(value));
        self.durability = Durability::PowerLoss;
        let durable = Cache::options().durability(self.durability);
        cache.configure(&durable).unwrap();
        cache
    }

    /// Looks at what a loss has left. `before`: how far back each key may be, of an operation that was under way.
    fn verify(&mut self, cache: &Cache, before: &[&str]) {
        self.losses += 1;
        let report = cache.check().unwrap();
        // Without the promise a value may be in the slots, and not in the log.
        let is_of_value = |problem: &String| problem.starts_with("the value of ");
        let excused = self.durability == Durability::ProcessCrash
            && report.slots_leaked == 0
            && report.problems.iter().all(is_of_value);
        assert!(report.is_sound() || excused, "{report:?}, {before:?}");
        let mut olds = 0;
        for (key, had) in &self.history {
            let got = cache.get(key).unwrap();
            self.values += u64::from(got.is_some());
            let last = had.last().unwrap();
            let is_under_way = before.contains(key);
            let is_old = is_under_way && had.len() > 1 && got == had[had.len() - 2] && got != *last;
            olds += u32::from(is_old);
            let fits = match self.durability {
                Durability::PowerLoss => got == *last || is_old,
                _ => got.is_none() || had.contains(&got),
            };
            let got = got.map(|value| (value.len(), value[..8].to_vec()));
            assert!(fits, "{key} is {got:?} after {} values", had.len());
        }
        if self.durability == Durability::PowerLoss {
            let changed = before.len() as u32;
            assert!(
                olds == 0 || olds == changed,
                "a part of a transaction: {olds} of {changed}"
            );
        }
    }

    fn run(&mut self, dir: &Path) {
        let mut store = dir.join("store");
        WATCH.set(Some(Watch::default()));
        let mut cache = self.begin(&store);
        let mut at = 0;
        for _ in 0..LIVES {
            for _ in 0..STEPS {
                at += 1;
                let plan = self.plan();
                let into = dir.join(format!("ambushed {at}"));
                let (countdown, random) = (self.random.below(6), Random::new(self.random.next()));
                let ambush = Ambush {
                    countdown,
                    random,
                    store: store.clone(),
                    into: into.clone(),
                    sprung: false,
                };
                WATCH.with_borrow_mut(|w| w.as_mut().unwrap().ambush = Some(ambush));
                let under_way: Vec<&str> = plan
                    .iter()
                    .filter(|(key, value)| self.history[key].last() != Some(value))
                    .map(|(key, _)| *key)
                    .collect();
                Chain::carry_out(&cache, &plan);
                for (key, value) in plan {
                    self.history.get_mut(key).unwrap().push(value);
                }
                let sprung = WATCH.with_borrow_mut(|w| w.as_mut().unwrap().ambush.take());
                if sprung.is_some_and(|ambush| ambush.sprung) {
                    let watch = WATCH.take();
                    let left = self.open(&into);
                    self.verify(&left, &under_way);
                    drop(left);
                    fs::remove_dir_all(&into).unwrap();
                    WATCH.set(watch);
                }
            }
            let next = dir.join(format!("boot {at}"));
            let medium = WATCH.take().unwrap().medium;
            medium.lose(&store, &next, &mut self.random);
            drop(cache);
            cache = self.open(&next);
            self.verify(&cache, &[]);
            for (key, had) in &mut self.history {
                let now = cache.get(key).unwrap();
                had.push(now);
            }
            fs::remove_dir_all(&store).unwrap();
            store = next;
            // The reboot has synced what it has mended.
            let medium = Medium::of(&store);
            WATCH.set(Some(Watch {
                medium,
                ambush: None,
            }));
        }
        WATCH.set(None);
    }
}

fn run(durability: Durability, name: &'static str) {
    let _watchdog = Watchdog::patient(name, TOO_LONG);
    let mut random = Random::announced(name);
    let (mut losses, mut values) = (0, 0);
    for _ in 0..CHAINS {
        let seed = random.next();
        let _told = OnPanic(format!("in the chain of seed {seed}"));
        let dir = new_dir();
        let mut chain = Chain {
            durability,
            random: Random::new(seed),
            history: KEYS.map(|key| (key, vec![None])).into(),
            serial: 0,
            losses: 0,
            values: 0,
        };
        chain.run(dir.path());
        (losses, values) = (losses + chain.losses, values + chain.values);
    }
    println!("{losses} losses, {values} values");
    assert!(losses >= CHAINS * LIVES && values > CHAINS);
}

#[test]
fn a_value_that_was_to_survive_a_power_loss_is_there() {
    run(Durability::PowerLoss, "durable values");
}

#[test]
fn a_value_that_need_not_survive_a_power_loss_is_whole_or_gone() {
    run(Durability::ProcessCrash, "values");
}

/// Files are opened for writing as they are for reading.
#[test]
fn what_is_left_is_mixed_of_both() {
    let dir = new_dir();
    let path = dir.path().join("file");
    let (base, last) = (vec![1; 9_000], vec![2; 20_000]);
    let mut random = Random::new(7);
    let lens: BTreeSet<usize> = (0..40)
        .map(|_| mixed(&base, &last, 3, &mut random).len())
        .collect();
    assert_eq!(lens, BTreeSet::from([9_000, 20_000]));
    write_sparse(&path, &base);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    assert_eq!(bytes_of(&file), base);
}
