//! Law: whatever the segments of a store hold, and wherever its cells and its journal lead there,
//! what is read under a key is what a second reader of the format (`tests/kit/stored.rs`) finds: a
//! value that is whole and that key's, or none. No crash, no hang, and no more memory at once than
//! the longest file has bytes. `check` names the values that are damaged and no other, `repair`
//! drops them and no other, and afterwards large values can be set.
//!
//! Where a segment is not a file, or another store's, reading what leads there is an error.

mod damage;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use slablock::{Cache, Error, Eviction, SetOptions, fuzzing};

use super::input::Input;
use super::place::Place;
use super::slab_bytes::{put_sparse, says};
use super::stored::{Cell, Is, Segment, Slot, Stored, record, segment_header};
use super::{layout, memory};

const CAPACITY: u64 = 40;
/// The least there can be: values from 256 KiB on have segments of their own.
const SIZE_LIMIT: u64 = 4 << 20;
/// Whoever has so much in the log may get no more into it.
const FULL: usize = 2 << 20;
const NOW_MS: u64 = 1_700_000_000_000;
/// What the library may ask for beside what it reads.
const MEMORY_BESIDE: usize = 256 << 10;
const NEW_BYTES: usize = 3_000;

/// A store to be damaged: as it was made once, and the directory in which it is put down anew each
/// time.
struct Bench {
    place: Place,
    template: Stored,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

pub fn run(data: &[u8]) {
    fuzzing::time(Some(fuzzing::Moment {
        boot_us: 1_000_000_000,
        wall_us: NOW_MS * 1_000,
    }));
    fuzzing::chance(Some(1));
    BENCH.with_borrow_mut(|bench| bench.get_or_insert_with(Bench::new).run(data));
    fuzzing::time(None);
    fuzzing::chance(None);
}

/// Values in the log: read at once, in two parts, piece by piece, with a segment of its own; with
/// long keys and tags; one that was replaced, one that was deleted.
fn furnish(store: &std::path::Path) {
    let options = Cache::options()
        .capacity(CAPACITY as usize)
        .size_limit(SIZE_LIMIT)
        .eviction(Eviction::None);
    let cache = options.open(store).expect("make a store");
    let set = |key: &[u8], len: usize, tag: &[u8]| {
        let value: Vec<u8> = (0..len).map(|i| (i / 7) as u8 ^ key[0]).collect();
        let options = SetOptions::new().tag(tag);
        cache.set_with(key, value, &options).expect("set");
    };
    set(b"replaced", 700, b"");
    set(b"at once", 300, b"");
    set(b"two parts", 17_000, b"t");
    set(b"pieces", 140_000, b"");
    set(b"own", 262_200, b"own");
    set(&[b'k'; 1_024], 1_000, &[7; 255]);
    set(b"small", 100, b"t");
    set(b"deleted", 400, b"");
    set(b"replaced", 800, b"t");
    assert!(cache.delete("deleted").expect("delete"));
}

/// What is due under each key; `None`: nothing can be read, for the journal cannot.
type Due = Option<BTreeMap<Vec<u8>, Is>>;

fn due(stored: &Stored, now_ms: Option<u64>) -> Due {
    let mut stored = stored.clone();
    stored.settle().ok()?;
    let is = |slot: Slot| (slot.key.clone(), stored.is(&slot, now_ms));
    Some(stored.slots().into_iter().map(is).collect())
}

impl Bench {
    fn new() -> Bench {
        let place = Place::new();
        let store = place.path().join("store");
        furnish(&store);
        let template = Stored::read(&store, CAPACITY);
        let there = due(&template, Some(NOW_MS)).expect("no journal");
        let values = there.values().filter(|is| matches!(is, Is::Value { .. }));
        assert_eq!(values.count(), 7, "the second reader finds all there is");
        Bench { place, template }
    }

    fn store(&self) -> PathBuf {
        self.place.path().join("store")
    }

    fn stored(&self) -> Stored {
        Stored::read(&self.store(), CAPACITY)
    }

    fn run(&self, data: &[u8]) {
        let mut input = Input::new(data);
        let flags = input.byte();
        let mut stored = self.template.clone();
        damage::damage(&mut stored, &mut input, flags >> 2 & 31);
        self.put(&stored);
        if flags & 1 == 0 {
            self.use_damaged(&stored, (flags & 2 != 0).then_some(&mut input));
        }
        self.repair();
    }

    fn put(&self, stored: &Stored) {
        let (store, log) = (self.store(), self.store().join("log"));
        let _ = fs::remove_dir_all(&log);
        fs::create_dir(&log).expect("the log");
        for (number, segment) in &stored.segments {
            let path = log.join(format!("{number:08x}"));
            match segment {
                Segment::File(bytes) => fs::write(path, bytes).expect("a segment"),
                Segment::Other if number % 2 == 0 => fs::create_dir(path).expect("a directory"),
                Segment::Other => drop(UnixListener::bind(path).expect("a socket")),
            }
        }
        put_sparse(&store.join("slab"), &stored.slab);
    }

    fn use_damaged(&self, stored: &Stored, changes: Option<&mut Input>) {
        let before = due(stored, Some(NOW_MS));
        let is_sealed = |key: &[u8]| {
            let mut slots = stored.slots().into_iter();
            let slot = slots.find(|slot| slot.key == key);
            slot.is_some_and(|slot| stored.cell(&slot, stored.selector(&slot)).is_some())
        };
        let sealed: Vec<bool> = before.iter().flatten().map(|(k, _)| is_sealed(k)).collect();
        let mut opened = Ok(None);
        let most = longest(stored) + MEMORY_BESIDE;
        let asked = memory::largest(|| opened = Cache::open(self.store()).map(Some));
        assert!(asked <= most, "{asked} bytes of memory at once");
        let cache = match opened {
            Ok(cache) => cache.expect("just opened"),
            // A rebuild removes what is not needed of the log.
            Err(error) => {
                assert!(has_others(stored), "{error:?}");
                return says(&error);
            }
        };
        // A rebuild may have put other cells in force.
        let now = self.stored();
        let after = due(&now, Some(NOW_MS));
        assert_eq!(before.is_none(), after.is_none(), "the journal");
        let changed = before.iter().flatten().zip(after.iter().flatten());
        for ((before, after), _) in changed.zip(sealed).filter(|(_, sealed)| *sealed) {
            assert!(before == after, "{:?}", before.0);
        }
        let asked = memory::largest(|| agrees(&cache, &now));
        assert!(asked <= most, "{asked} bytes of memory at once");
        if let (Some(input), Some(known)) = (changes, after) {
            let rooms_are_sound =
                self.rooms(&now) == self.rooms(&self.template) && is_claimed_within_files(&now);
            change(&cache, known, rooms_are_sound, input);
        }
    }

    /// What the slab says of whose room is which.
    fn rooms<'a>(&self, stored: &'a Stored) -> [&'a [u8]; 3] {
        let bytes = |from: u64, to: u64| &stored.slab[from as usize..to as usize];
        [
            bytes(layout::TAIL, layout::JOURNAL),
            bytes(layout::LAST_SEGMENT, layout::LAST_SEGMENT + 8),
            bytes(layout::SEGMENTS, layout::BUCKETS),
        ]
    }

    fn repair(&self) {
        let stored = self.stored();
        let before = due(&stored, Some(NOW_MS));
        let mut repaired = None;
        let most = longest(&stored) + MEMORY_BESIDE;
        let asked = memory::largest(|| repaired = Some(Cache::repair(self.store())));
        assert!(asked <= most, "{asked} bytes of memory at once");
        let report = match repaired.expect("just done") {
            Ok(report) => report,
            Err(error) => {
                assert!(has_others(&stored), "{error:?}");
                return says(&error);
            }
        };
        assert_eq!(report.keys_lost, 0, "{report:?}");
        let now = self.stored();
        let after = due(&now, Some(NOW_MS));
        let kept = before.iter().flatten().zip(after.iter().flatten());
        for (before, after) in kept.filter(|((_, is), _)| matches!(is, Is::Value { .. })) {
            assert!(before == after, "{:?}: {report:?}", before.0);
        }
        let cache = Cache::open(self.store()).expect("open what was repaired");
        agrees(&cache, &now);
        if after.is_some() {
            // A journal stays if it lists something of other stores.
            let listed = is_high((now.word(layout::JOURNAL) >> 32) as u32);
            let used_up = listed || uses_up_the_numbers(&stored) || uses_up_the_numbers(&now);
            self.is_sound(&cache, &now, used_up);
        }
    }

    /// After one repair nothing is damaged, also not what a dead one had decided, and a large value
    /// can be set.
    fn is_sound(&self, cache: &Cache, repaired: &Stored, used_up: bool) {
        let check = cache.check().expect("check what was repaired");
        assert!(check.is_sound(), "{check:?}");
        let bytes: usize = lengths(repaired).sum();
        if used_up || bytes > FULL || has_others(repaired) {
            return;
        }
        let value = vec![9; NEW_BYTES];
        let set = cache.set("after repair", &value);
        let last = repaired.word(layout::LAST_SEGMENT);
        assert!(set.is_ok(), "{set:?}, the last segment was {last:x}");
        assert_eq!(cache.get("after repair").expect("get"), Some(value));
    }
}

fn is_high(number: u32) -> bool {
    number > u32::MAX - 600
}

/// Whether a segment of this store has nearly the highest number, or a cell leads there.
fn uses_up_the_numbers(stored: &Stored) -> bool {
    let is_ours = |number: u32| {
        matches!(stored.segments.get(&number), Some(Segment::File(bytes))
        if bytes.starts_with(&segment_header(number, stored.store_id())))
    };
    let cells = stored.slots().into_iter().flat_map(|slot| {
        let version = stored.selector(&slot);
        [version, version.wrapping_add(1)].map(|version| stored.cell(&slot, version))
    });
    let mut places = cells.filter_map(|cell| match cell {
        Some(Cell::Logged { place, .. }) => Some(place),
        _ => None,
    });
    let mut numbers = stored.segments.keys().copied();
    numbers.any(|n| is_high(n) && is_ours(n)) || places.any(|place| is_high((place >> 32) as u32))
}

fn lengths(stored: &Stored) -> impl Iterator<Item = usize> {
    stored.segments.values().map(|segment| match segment {
        Segment::File(bytes) => bytes.len(),
        Segment::Other => 0,
    })
}

/// Of all files.
fn longest(stored: &Stored) -> usize {
    lengths(stored)
        .chain([stored.slab.len()])
        .max()
        .unwrap_or(0)
}

/// Whether each cell leads to where something was written. One with a right seal that claims more,
/// which no damage makes, has room given back that is a later record's.
fn is_claimed_within_files(stored: &Stored) -> bool {
    let is_within = |slot: &Slot, version| match stored.cell(slot, version) {
        Some(Cell::Logged {
            place,
            tag_len,
            len,
            ..
        }) => {
            let around = record(0, &slot.key, &[], &[]).len() as u64;
            let end = (place & 0xffff_ffff) * 16 + around + u64::from(tag_len) + u64::from(len);
            let segment = stored.segments.get(&((place >> 32) as u32));
            matches!(segment, Some(Segment::File(bytes)) if end <= bytes.len() as u64)
        }
        _ => true,
    };
    stored.slots().iter().all(|slot| {
        let version = stored.selector(slot);
        [version, version.wrapping_add(1)]
            .into_iter()
            .all(|version| is_within(slot, version))
    })
}

/// Whether any segment is another store's, or no file.
fn has_others(stored: &Stored) -> bool {
    let mut numbers = stored.segments.keys();
    numbers.any(|number| stored.segment(*number).is_err())
}

/// What the library says is there is what the files say.
fn agrees(cache: &Cache, stored: &Stored) {
    let Some(all) = due(stored, Some(NOW_MS)) else {
        return stored.slots().iter().for_each(|slot| {
            let got = cache.get(&slot.key);
            says(&got.expect_err("the journal cannot be read"));
        });
    };
    for (key, due) in &all {
        match (due, cache.entry(key)) {
            (Is::Nothing | Is::Damaged, Ok(None)) | (Is::Refused, Err(Error::Io { .. })) => {}
            (Is::Value { value, tag }, Ok(Some(entry))) => {
                assert!(entry.value == *value, "another value of {key:?}");
                assert_eq!(entry.tag.unwrap_or_default(), *tag);
            }
            (due, got) => panic!("{key:?} is {due:?}, got {got:?}"),
        }
        let (got, due) = (cache.get(key), value_of(due));
        assert!(got.map_or(due.is_none(), |got| got == due), "{key:?}");
    }
    let whole: BTreeMap<_, _> = cache.iter().filter_map(|pair| pair.ok()).collect();
    for (key, due) in &all {
        assert!(
            whole.get(key).map(|entry| &entry.value) == value_of(due).as_ref(),
            "{key:?} in a list"
        );
    }
    // What is over is looked at as well.
    let all = due(stored, None).expect("the journal was read");
    let count = |is: Is| all.values().filter(|due| **due == is).count();
    match cache.check() {
        Ok(report) => {
            assert_eq!(count(Is::Refused), 0);
            assert_eq!(report.problems.len(), count(Is::Damaged), "{report:?}");
        }
        Err(error) => {
            says(&error);
            assert!(count(Is::Refused) > 0, "{error:?}");
        }
    }
}

fn value_of(is: &Is) -> Option<Vec<u8>> {
    match is {
        Is::Value { value, .. } => Some(value.clone()),
        _ => None,
    }
}

/// Sets, deletes and compacts. What was set is there, and no value is ever another's. Where the
/// next record goes may have been damaged, so that one is written over another: then that one is a
/// miss.
fn change(cache: &Cache, known: BTreeMap<Vec<u8>, Is>, rooms_are_sound: bool, input: &mut Input) {
    let mut known: BTreeMap<_, _> = known
        .into_iter()
        .map(|(key, is)| (key, value_of(&is)))
        .collect();
    let keys: Vec<_> = known.keys().cloned().chain([b"new".to_vec()]).collect();
    for _ in 0..input.byte() % 12 {
        let (what, key) = (input.byte(), input.of(&keys.iter().collect::<Vec<_>>()));
        let value = vec![what; input.of(&[3, NEW_BYTES, 20_000, 150_000, 263_000])];
        let set = match what % 8 {
            0..=2 => cache.set(key, &value),
            3 => cache.transact_as(|all| {
                all.get("small")?;
                all.set(key, &value)
            }),
            4 => {
                let deleted = cache.delete(key);
                if deleted.is_ok() {
                    known.insert(key.clone(), None);
                }
                deleted.map(drop)
            }
            5 => cache.cull().map(drop),
            6 => cache.sync(),
            _ => cache.touch(key, None).map(drop),
        };
        match set {
            Ok(()) if what % 8 < 4 => {
                let got = cache.get(key).expect("get");
                assert!(got.as_ref() == Some(&value) || !rooms_are_sound);
                known.insert(key.clone(), Some(value));
            }
            Ok(()) => {}
            Err(error) => says(&error),
        }
        // Who has read, or written, a value does not look again whether it is whole (G4); somebody
        // else does.
        let Ok(other) = fuzzing::open_apart(cache.path(), &Cache::options()) else {
            continue;
        };
        for (key, known) in &known {
            let got = other.get(key).ok().flatten();
            assert!(got.is_none() || got == *known, "another value of {key:?}");
        }
    }
}
