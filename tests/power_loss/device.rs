//! Whole directories after a power loss. What survives is chosen here: of a file that was synced at
//! least that; of later writes any pages, or none; a name only if its directory was synced,
//! otherwise perhaps.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::kit::layout::{self, BOOT_ID, PAGE};
use crate::kit::{Place, Random};

const SECTOR: usize = 512;

/// What is certainly on the disk.
#[derive(Clone, Default)]
pub struct Device {
    /// By inode numbers.
    files: BTreeMap<u64, Vec<u8>>,
    /// Of each directory, by names: the inode.
    names: BTreeMap<PathBuf, BTreeMap<String, u64>>,
}

/// A power loss that is to come at a sync in the middle of an operation, just before it is done.
pub struct Ambush {
    pub countdown: u64,
    pub random: Random,
    pub store: PathBuf,
    pub into: PathBuf,
    pub sprung: bool,
}

#[derive(Default)]
pub struct Watch {
    pub device: Device,
    pub ambush: Option<Ambush>,
    /// How many syncs there were since it was laid.
    pub syncs: u64,
}

thread_local! {
    pub static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
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
                    .device
                    .lose(&ambush.store, &ambush.into, &mut ambush.random);
            }
        }
        watch.syncs += 1;
        watch.device.note(file, path);
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

impl Device {
    fn note(&mut self, file: &File, path: &Path) {
        let meta = file.metadata().unwrap();
        if meta.is_dir() {
            self.names.insert(path.to_path_buf(), names_in(path));
        } else {
            self.files.insert(meta.ino(), bytes_of(file));
        }
    }

    /// All that is there is on the disk.
    pub fn of(store: &Path) -> Device {
        let mut device = Device::default();
        let above = store.parent().unwrap();
        device.names.insert(above.to_path_buf(), names_in(above));
        device.add(store);
        device
    }

    fn add(&mut self, dir: &Path) {
        self.note(&File::open(dir).unwrap(), dir);
        for name in names_in(dir).keys() {
            let path = dir.join(name);
            match path.is_dir() {
                true => self.add(&path),
                false => self.note(&File::open(&path).unwrap(), &path),
            }
        }
    }

    /// Puts what is left after a loss of `store` into another directory.
    pub fn lose(&self, store: &Path, into: &Path, random: &mut Random) {
        let style = random.below(4);
        self.lose_dir(store, into, style, random);
        name_all(into, into);
    }

    fn lose_dir(&self, dir: &Path, into: &Path, style: u64, random: &mut Random) {
        fs::create_dir(into).unwrap();
        let nothing = BTreeMap::new();
        let (safe, now) = (self.names.get(dir).unwrap_or(&nothing), names_in(dir));
        let names: BTreeSet<&String> = safe.keys().chain(now.keys()).collect();
        for name in names {
            let is_certain = safe.get(name).is_some_and(|ino| now.get(name) == Some(ino));
            if !is_certain && random.below(2) == 0 {
                continue;
            }
            if dir.join(name).is_dir() {
                self.lose_dir(&dir.join(name), &into.join(name), style, random);
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

/// Lets the slab in `dir`, and those of shards below it, pass for the originals.
fn name_all(dir: &Path, locks: &Path) {
    layout::name_files(dir, locks);
    for name in names_in(dir).into_keys().filter(|name| name.len() == 3) {
        name_all(&dir.join(name), dir);
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

/// Files are opened for writing as they are for reading.
#[test]
fn what_is_left_is_mixed_of_both() {
    let dir = Place::in_memory();
    let path = dir.root().join("file");
    let (base, last) = (vec![1; 9_000], vec![2; 20_000]);
    let mut random = Random::new(7);
    let lens: BTreeSet<usize> = (0..40)
        .map(|_| mixed(&base, &last, 3, &mut random).len())
        .collect();
    assert_eq!(lens, BTreeSet::from([9_000, 20_000]));
    write_sparse(&path, &base);
    let file = File::options().write(true).open(&path).unwrap();
    assert_eq!(bytes_of(&file), base);
}
