//! Large values on a full disk, and without descriptors: what can not be set is an error, what was
//! there is there, and reading asks for no room.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use slablock::{Cache, Error, Eviction};

use crate::descriptors::with_ever_more;
use crate::full_disk::{fill, is_full, is_inside, resize};
use crate::kit::{self, Place, Role, Watchdog, bind, say};

/// Written with its head at once, apart from it, and to a segment of its own.
const LENGTHS: [usize; 3] = [3_000, 40_000, 300_000];
const PAGE: u64 = 4_096;

fn value(round: u64, len: usize) -> Vec<u8> {
    let mut value = vec![round as u8; len];
    value[..8].copy_from_slice(&round.to_le_bytes());
    value
}

/// A store, and what is known to be in it.
struct Known {
    cache: Cache,
    values: BTreeMap<String, Vec<u8>>,
    round: u64,
}

impl Known {
    fn new(store: &Path) -> Known {
        let options = Cache::options().capacity(64).size_limit(4 << 20);
        let cache = options.eviction(Eviction::None).open(store).unwrap();
        let mut known = Known {
            cache,
            values: BTreeMap::new(),
            round: 0,
        };
        for len in LENGTHS {
            assert!(known.set(len));
        }
        known.small();
        known
    }

    /// `false`: the disk is full, and nothing has changed.
    fn set(&mut self, len: usize) -> bool {
        self.round += 1;
        let (key, value) = (format!("large {len}"), value(self.round, len));
        let set = !is_full(self.cache.set(&key, &value));
        if set {
            self.values.insert(key, value);
        }
        set
    }

    /// What lies in the slots needs no room.
    fn small(&mut self) {
        self.round += 1;
        let value = self.round.to_string();
        self.cache.set("small", &value).unwrap();
        assert_eq!(self.cache.incr("small", 1).unwrap(), self.round as i64 + 1);
        self.cache.touch("small", None).unwrap();
        let value = (self.round + 1).to_string().into_bytes();
        self.values.insert("small".to_string(), value);
    }

    fn is_intact(&mut self) {
        self.small();
        for (key, value) in &self.values {
            assert!(
                self.cache.get(key).unwrap().as_ref() == Some(value),
                "{key}"
            );
        }
        let report = self.cache.check().unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(self.cache.stats().unwrap().damaged, 0);
    }
}

#[test]
fn a_large_value_too_many_for_the_disk_is_refused_and_all_else_goes_on() {
    const NAME: &str =
        "values::a_large_value_too_many_for_the_disk_is_refused_and_all_else_goes_on";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    let filler = dir.join("filler");
    resize(dir, "size=6m,nr_inodes=100");
    let mut known = Known::new(&dir.join("store"));
    let (mut set, mut refused) = (0, [0; LENGTHS.len()]);
    // So many pages are left.
    for pages in (0..16).chain((16..200).step_by(9)) {
        fill(&filler);
        let full = fs::metadata(&filler).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&filler).unwrap();
        file.set_len(full.saturating_sub(pages * PAGE)).unwrap();
        drop(file);
        for at in 0..3 * LENGTHS.len() {
            let at = at % LENGTHS.len();
            match known.set(LENGTHS[at]) {
                true => set += 1,
                false => refused[at] += 1,
            }
            known.is_intact();
        }
        fs::remove_file(&filler).unwrap();
        for len in LENGTHS {
            assert!(known.set(len), "there is room");
        }
        known.is_intact();
    }
    assert!(
        set > 20 && refused.iter().all(|count| *count > 1),
        "{set} {refused:?}"
    );
    // Segments that could not be begun have left no file.
    known.cache.cull().unwrap();
    let files = fs::read_dir(known.cache.path().join("log"))
        .unwrap()
        .count();
    assert!(files <= 3, "{files}");
    // No file more: besides these there are four of the store, and three directories.
    resize(dir, &format!("size=6m,nr_inodes={}", files + 7));
    let without_inodes = (0..30).filter(|_| !known.set(LENGTHS[2])).count();
    known.is_intact();
    resize(dir, "size=6m,nr_inodes=100");
    assert!(known.set(LENGTHS[2]));
    drop(known.cache);
    // Also for who comes later.
    known.cache = Cache::open(dir.join("store")).unwrap();
    known.is_intact();
    println!("all told: {set} set, {refused:?} refused, {without_inodes} for want of a file");
}

/// What was moved before the disk was full is in force, or given back: it does not pass for needed.
#[test]
fn compacting_on_a_full_disk_leaves_nothing_behind() {
    const NAME: &str = "values::compacting_on_a_full_disk_leaves_nothing_behind";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    resize(dir, "size=6m,nr_inodes=100");
    let options = Cache::options().capacity(600).size_limit(4 << 20);
    let cache = options.eviction(Eviction::None).open(dir.join("store"));
    let cache = cache.unwrap();
    let key = |key: u64| format!("{key}");
    (0..150).for_each(|at| cache.set(key(at), value(at, 15_000)).unwrap());
    for at in (0..150).filter(|at| at % 3 == 0) {
        assert!(cache.delete(key(at)).unwrap());
    }
    let filler = dir.join("filler");
    fill(&filler);
    let full = fs::metadata(&filler).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&filler).unwrap();
    file.set_len(full - 30 * PAGE).unwrap();
    let before = cache.stats().unwrap();
    // As far as there is room for what is moved.
    assert_eq!(cache.cull().unwrap(), 0);
    let after = cache.stats().unwrap();
    // The last one is a gap, and the headers of segments.
    assert!(
        after.bytes_live < before.bytes_live + 16_000,
        "{before:?} {after:?}"
    );
    drop(file);
    fs::remove_file(&filler).unwrap();
    cache.cull().unwrap();
    for at in 0..150 {
        let there = (at % 3 != 0).then(|| value(at, 15_000));
        assert!(cache.get(key(at)).unwrap() == there, "{at}");
    }
    println!("all told: {before:?} {after:?}");
}

/// It is cut off, and only its name stays: whoever wrote a value there and was stopped writes it
/// anew.
#[test]
fn a_segment_whose_name_stays_is_gone_nevertheless() {
    const NAME: &str = "values::a_segment_whose_name_stays_is_gone_nevertheless";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    resize(dir, "size=8m,nr_inodes=100");
    let options = Cache::options().size_limit(4 << 20).capacity(600);
    let cache = options.open(dir.join("store")).unwrap();
    let set_all =
        |round| (0..100).for_each(|key| cache.set(format!("{key}"), value(round, 15_000)).unwrap());
    set_all(1);
    let first = dir.join("store/log/00000001");
    // What something is mounted on cannot be removed.
    assert!(bind(&first, &first));
    set_all(2);
    cache.cull().unwrap();
    assert_eq!(fs::metadata(&first).unwrap().len(), 0);
    let stats = cache.stats().unwrap();
    assert!(
        stats.damaged == 0 && stats.bytes_garbage < 100_000,
        "{stats:?}"
    );
    (0..100)
        .for_each(|key| assert!(cache.get(format!("{key}")).unwrap() == Some(value(2, 15_000))));
    println!("all told: {stats:?}");
}

pub fn run(role: &Role) {
    let store = role.store();
    let known = Known::new(&store);
    let values = known.values.clone();
    drop(known);
    for (key, value) in &values {
        let needed = with_ever_more("reading", || {
            let got = Cache::open(&store)?.get(key)?;
            assert!(got.as_ref() == Some(value));
            Ok(())
        });
        say(format!("read {needed}"));
        let needed = with_ever_more("setting", || Cache::open(&store)?.set(key, value));
        say(format!("set {needed}"));
    }
    let cache = Cache::open(&store).unwrap();
    assert!(cache.check().unwrap().is_sound());
    for (key, value) in &values {
        assert!(cache.get(key).unwrap().as_ref() == Some(value));
    }
    assert_eq!(cache.stats().unwrap().damaged, 0);
    let missing = cache.set("", "value");
    assert!(matches!(missing, Err(Error::KeyLength { .. })));
    say("done");
}

#[test]
fn without_descriptors_values_are_refused_clearly_and_none_is_harmed() {
    let _watchdog = Watchdog::new("values");
    let place = Place::new();
    let child = kit::Child::start("values", place.root(), &[]);
    let keys = LENGTHS.len() + 1;
    for _ in 0..keys {
        for word in ["read", "set"] {
            let count: u64 = child.expect(word).parse().unwrap();
            assert!((4..=40).contains(&count), "{word} {count}");
        }
    }
    child.expect("done");
    child.finish();
}
