//! The store itself: opening it, making keys, and the room they take.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use slablock::{Cache, Lock};

use crate::Effort;
use crate::child::{Peer, tell};
use crate::report::{Row, Spread, at_share};

const KEYS: u64 = 10_000;

/// `Cache::open` of a store that exists, closed in between. A program that has just started pays
/// for its own page faults besides; that is shown, too.
pub fn open(effort: Effort) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let store = dir.path().join("store");
    let cache = Cache::open(&store).expect("a store can be made");
    let mut attached = openings(&store, effort);
    drop(cache);
    let mut alone = openings(&store, effort);
    let row = |name, samples: &mut [f64]| Row::new(name, "us", Spread::median(samples));
    vec![
        row("opening a store that others have open", &mut attached.1).at_most(150.0),
        row("  first thing in a new process", &mut attached.0),
        row("opening a store that nobody has open", &mut alone.1).at_most(150.0),
        row("  first thing in a new process", &mut alone.0),
    ]
}

/// Microseconds, in new processes: of the first opening, and of one after it.
fn openings(store: &Path, effort: Effort) -> (Vec<f64>, Vec<f64>) {
    let both = |_| {
        let mut peer = Peer::start("open", [store]);
        (peer.hear_number(), peer.hear_number())
    };
    (0..effort.times(200)).map(both).unzip()
}

/// Opens the store twice, and tells how many microseconds each took.
pub fn open_twice(store: &str) {
    for _ in 0..2 {
        let start = Instant::now();
        let cache = Cache::open(store).expect("the store is there");
        let taken = start.elapsed();
        drop(cache);
        tell(taken.as_nanos() as f64 / 1e3);
    }
}

/// Handle, first acquire and release of keys that did not exist.
pub fn first_use(effort: Effort) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let cache = Cache::open(dir.path().join("store")).expect("a store can be made");
    let keys = effort.among(KEYS, KEYS / 10);
    let keys: Vec<String> = (0..keys).map(|number| format!("key {number}")).collect();
    let mut micros: Vec<f64> = keys
        .iter()
        .map(|key| {
            let start = Instant::now();
            let lock = Lock::new(&cache, key);
            drop(lock.acquire().expect("it is free"));
            start.elapsed().as_nanos() as f64 / 1e3
        })
        .collect();
    let mean = micros.iter().sum::<f64>() / micros.len() as f64;
    let median = Spread::median(&mut micros);
    let spread = Spread {
        value: mean,
        low: at_share(&micros, 0.01),
        high: at_share(&micros, 0.99),
    };
    vec![
        Row::new("first use of a new key, median", "us", median).at_most(5.0),
        Row::new("first use of a new key, mean", "us", spread)
            .at_most(5.0)
            .note("spread: 1 % to 99 %"),
    ]
}

/// What a store of the usual capacity takes when it is full.
pub fn size(_: Effort) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let store = dir.path().join("store");
    let cache = Cache::open(&store).expect("a store can be made");
    let keys = cache.capacity() as u64;
    make_keys(&cache, keys);
    let slab = store.join("slab").metadata().expect("there is a slab");
    let each = |bytes: u64| Spread::exactly(bytes as f64 / keys as f64);
    let name = |what: &str| format!("{what} a key, {keys} of them");
    vec![
        Row::new(name("slab bytes"), "B", each(slab.len())).at_most(256.0),
        Row::new(name("bytes on disk"), "B", each(bytes_on_disk(&store))).note("all files"),
    ]
}

/// Makes locks under the numbers from 0.
pub fn make_keys(cache: &Cache, keys: u64) {
    for number in 0..keys {
        let lock = Lock::new(cache, number.to_le_bytes());
        drop(lock.acquire().expect("there is room"));
    }
}

fn bytes_on_disk(dir: &Path) -> u64 {
    let entries = dir.read_dir().expect("the store is there");
    let metadata = entries.map(|entry| entry.and_then(|e| e.metadata()));
    // The unit of `blocks` is 512 bytes on every file system.
    metadata.map(|m| m.expect("a file").blocks() * 512).sum()
}
