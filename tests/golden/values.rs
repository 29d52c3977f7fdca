//! A store with values as it was written long ago: small and large, with tags and ends, in segments
//! that are shared and in one of its own, one that was deleted, one that was replaced and left its
//! record behind.
//!
//! `values.txt` has its files: of each, its name and length, then of each 16 bytes that are not all
//! zeros the offset and the bytes, and how often they come in a row.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use slablock::cache::Stats;
use slablock::{Cache, Eviction, SetOptions};

use crate::kit::layout::{self, BOOT_ID};
use crate::kit::stored::{Is, Stored};
use crate::kit::{Place, bounded, until};
use crate::{LINE, from_hex, make_of_this_boot, to_hex, write_with_holes};

const CAPACITY: usize = 64;
/// The least there can be: segments of 1 MiB, and from 256 KiB on a value has one of its own.
const SIZE_LIMIT: u64 = 4 << 20;
const LONG_KEY: &[u8] = &[b'k'; 1_024];
const LONG_TAG: &[u8] = &[b't'; 255];
/// Ends in the year 2109, which is as late as can be.
const FOR_EVER: Option<Duration> = Some(Duration::MAX);

type Expected = (&'static [u8], Vec<u8>, &'static [u8], Option<Duration>);

fn expected() -> Vec<Expected> {
    let counted = |len: usize| (0..len).map(|i| (i / 3) as u8).collect::<Vec<u8>>();
    vec![
        (b"empty", vec![], b"", None),
        (b"a word", b"word".to_vec(), b"", None),
        (b"tagged", b"small".to_vec(), b"one", FOR_EVER),
        (b"number", b"-41".to_vec(), b"", None),
        (b"as much as a slot has", counted(256), b"", None),
        (b"by one too long", counted(257), b"", None),
        (LONG_KEY, counted(500), LONG_TAG, FOR_EVER),
        (b"tagged in the log", counted(1_000), b"one", None),
        (b"read in two parts", vec![2; 17_000], b"two", None),
        (b"replaced", vec![4; 3_000], b"", None),
        (b"of another segment", vec![5; 240_000], b"two", None),
        (b"a segment of its own", vec![6; 263_000], b"", FOR_EVER),
    ]
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/values.txt")
}

fn furnish(cache: &Cache) {
    cache.set("replaced", [3; 2_000]).unwrap();
    cache.set("deleted", [1; 400]).unwrap();
    for number in 0..4 {
        // Until the first segment is full.
        cache
            .set(format!("filler {number}"), vec![8; 250_000])
            .unwrap();
    }
    for (key, value, tag, expire) in expected() {
        let mut options = SetOptions::new().tag(tag);
        if let Some(after) = expire {
            options = options.expire(after);
        }
        match key {
            b"number" => assert_eq!(cache.incr(key, -41).unwrap(), -41),
            _ => cache.set_with(key, value, &options).unwrap(),
        }
    }
    let soon = SetOptions::new().expire(Duration::from_millis(1));
    cache.set_with("over", [9; 300], &soon).unwrap();
    until("it is over", || cache.get("over").unwrap().is_none());
    assert!(cache.delete("deleted").unwrap());
    for number in 0..4 {
        assert!(cache.delete(format!("filler {number}")).unwrap());
    }
}

/// Makes the store, and writes down what it is.
fn written() -> String {
    let mut text = String::from(
        "# Values in format version 1, little-endian. Written by `SLABLOCK_WRITE_GOLDEN=1 cargo test --test golden`.\n",
    );
    let place = Place::new();
    let options = Cache::options().capacity(CAPACITY).size_limit(SIZE_LIMIT);
    let cache = options
        .eviction(Eviction::None)
        .open(place.store())
        .unwrap();
    furnish(&cache);
    let stats = cache.stats().unwrap();
    drop(cache);
    // Of no boot of any machine.
    place.poke(BOOT_ID, &[1; 16]);
    let log = place.store().join("log");
    let mut files = vec!["slab".to_string()];
    let names = fs::read_dir(log).unwrap().map(|e| e.unwrap().file_name());
    files.extend(names.map(|name| format!("log/{}", name.to_str().unwrap())));
    files.sort();
    for name in files {
        let bytes = fs::read(place.store().join(&name)).unwrap();
        writeln!(text, "file {name} {}", bytes.len()).unwrap();
        let lines: Vec<&[u8]> = bytes.chunks(LINE).collect();
        let mut at = 0;
        while at < lines.len() {
            let same = lines[at..].iter().take_while(|line| **line == lines[at]);
            let count = same.count();
            if lines[at].iter().any(|byte| *byte != 0) {
                let bytes = to_hex(lines[at]);
                writeln!(text, "{:06x} {bytes} {count}", at * LINE).unwrap();
            }
            at += count;
        }
    }
    let Stats {
        bytes_live,
        bytes_garbage,
        ..
    } = stats;
    writeln!(text, "bytes {bytes_live} {bytes_garbage}").unwrap();
    text
}

#[derive(Default)]
struct Golden {
    files: BTreeMap<String, Vec<u8>>,
    /// Of the log, live and dead.
    bytes: [u64; 2],
}

fn golden() -> &'static Golden {
    static READ: OnceLock<Golden> = OnceLock::new();
    READ.get_or_init(|| {
        if std::env::var_os("SLABLOCK_WRITE_GOLDEN").is_some() {
            fs::write(path(), written()).unwrap();
        }
        let text = fs::read_to_string(path()).unwrap();
        let mut golden = Golden::default();
        let mut file = Vec::new();
        let mut name = String::new();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .chain(["end"])
        {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["file", of, bytes] => {
                    let next = vec![0; bytes.parse().unwrap()];
                    let before = std::mem::replace(&mut file, next);
                    golden
                        .files
                        .insert(std::mem::replace(&mut name, of.to_string()), before);
                }
                ["bytes", live, dead] => golden.bytes = [live, dead].map(|n| n.parse().unwrap()),
                ["end"] => {
                    let last = std::mem::take(&mut file);
                    golden.files.insert(std::mem::take(&mut name), last);
                }
                [offset, bytes, count] => {
                    let (at, bytes) = (usize::from_str_radix(offset, 16).unwrap(), from_hex(bytes));
                    let all = bytes.repeat(count.parse().unwrap());
                    file[at..at + all.len()].copy_from_slice(&all);
                }
                _ => panic!("{line}"),
            }
        }
        golden.files.remove("");
        golden
    })
}

/// The store, as it was; `now`: as if it had been written by a process of this boot, here.
fn place(now: bool) -> Place {
    let place = Place::new();
    fs::create_dir_all(place.store().join("log")).unwrap();
    for (name, bytes) in &golden().files {
        write_with_holes(&place.store().join(name), bytes);
    }
    layout::name_files(&place.store(), &place.store());
    if now {
        make_of_this_boot(&place);
    }
    place
}

fn everything_is_there(cache: &Cache) {
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    for (key, value, tag, expire) in expected() {
        let shown = String::from_utf8_lossy(key);
        assert_eq!(cache.get(key).unwrap().as_ref(), Some(&value), "{shown}");
        let entry = cache.entry(key).unwrap().unwrap();
        assert!(entry.value == value, "{shown}");
        assert_eq!(entry.tag.unwrap_or_default(), tag, "{shown}");
        // To the last millisecond that can be named.
        let end = entry.expires_in.map(|left| (now + left).as_secs());
        let due = expire.map(|_| ((1_u64 << 42) - 1) / 1_000);
        assert!(
            end.zip(due).is_none_or(|(end, due)| end.abs_diff(due) < 60),
            "{shown}"
        );
        assert_eq!(end.is_some(), due.is_some(), "{shown}");
    }
    for key in ["deleted", "over", "filler 0"] {
        assert_eq!(cache.get(key).unwrap(), None, "{key}");
    }
    assert_eq!(cache.len().unwrap(), expected().len());
    let mut listed: Vec<_> = cache
        .iter()
        .map(|pair| pair.unwrap())
        .map(|(key, entry)| (key, entry.value))
        .collect();
    let mut all: Vec<_> = expected()
        .into_iter()
        .map(|(k, v, ..)| (k.to_vec(), v))
        .collect();
    listed.sort();
    all.sort();
    assert!(listed == all);
}

fn bytes(cache: &Cache) -> [u64; 2] {
    let stats = cache.stats().unwrap();
    [stats.bytes_live, stats.bytes_garbage]
}

#[test]
fn old_values_are_what_they_were() {
    bounded(|| {
        let place = place(true);
        let cache = Cache::open(place.store()).unwrap();
        everything_is_there(&cache);
        assert_eq!(bytes(&cache), golden().bytes);
        assert_eq!(cache.incr("number", 1).unwrap(), -40);
        assert_eq!(cache.remove_tagged("one").unwrap(), 2);
        assert_eq!(cache.remove_tagged(LONG_TAG).unwrap(), 1);
    });
}

#[test]
fn old_values_outlive_a_reboot_and_a_repair() {
    bounded(|| {
        let place = place(false);
        let cache = Cache::open(place.store()).unwrap();
        everything_is_there(&cache);
        drop(cache);
        let report = Cache::repair(place.store()).unwrap();
        assert!(report.actions.is_empty(), "{report:?}");
        everything_is_there(&Cache::open(place.store()).unwrap());
    });
}

#[test]
fn old_values_are_compacted_and_set_anew() {
    bounded(|| {
        let place = place(true);
        let cache = Cache::open(place.store()).unwrap();
        let before = cache.volume().unwrap();
        assert_eq!(cache.cull().unwrap(), 1, "the one that is over");
        assert!(cache.volume().unwrap() < before);
        everything_is_there(&cache);
        for (key, value, ..) in expected() {
            let other: Vec<u8> = value.iter().map(|byte| !byte).collect();
            cache.set(key, &other).unwrap();
            assert_eq!(cache.get(key).unwrap(), Some(other));
        }
        assert!(cache.check().unwrap().is_sound());
    });
}

/// By the documented format alone, without the library: in two segments that are shared and one
/// that is not.
#[test]
fn old_values_lie_where_the_design_says() {
    bounded(|| {
        let place = place(false);
        let stored = Stored::read(&place.store(), CAPACITY as u64);
        assert_eq!(stored.segments.len(), 3);
        let all: BTreeMap<_, _> = expected()
            .into_iter()
            .map(|(k, v, t, _)| (k, (v, t)))
            .collect();
        let mut found = 0;
        for slot in stored.slots() {
            match (all.get(&slot.key[..]), stored.is(&slot, None)) {
                (Some((due, of)), Is::Value { value, tag }) => {
                    assert!(*due == value && *of == tag, "{slot:?}");
                    found += 1;
                }
                (None, Is::Nothing) => {}
                (None, Is::Value { .. }) => assert_eq!(slot.key, b"over"),
                (_, is) => panic!("{slot:?} is {is:?}"),
            }
        }
        assert_eq!(found, all.len());
    });
}
