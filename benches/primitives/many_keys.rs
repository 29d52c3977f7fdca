//! A store of a million keys beside a store of one: does a key cost more because there are others?

use std::hint::black_box;
use std::sync::atomic::AtomicU64;

use slablock::{Cache, Lock};

use crate::Effort;
use crate::report::Row;
use crate::shared::Words;
use crate::single::{Operation, exchange_pair, interleave, slices};
use crate::storage::make_keys;

const KEYS: u64 = 1_000_000;
/// More than fit the caches, with their slots.
const HANDLES: u64 = 50_000;
/// As far apart as the slots of the store.
const SLOT_BYTES: u64 = 192;
/// Coprime to the number of keys, so that no key is met twice.
const STEP: u64 = 618_033;

pub fn measure(effort: Effort) -> Vec<Row> {
    let keys = effort.among(KEYS, KEYS / 50);
    let handles = effort.among(HANDLES, HANDLES / 50);
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let open = |name: &str| {
        let options = Cache::options().capacity(keys as usize);
        let opened = options.open(dir.path().join(name));
        opened.expect("a store can be made")
    };
    let (small, large) = (open("small"), open("large"));
    make_keys(&large, keys);
    let only = Lock::new(&small, "only");

    // In an order that no prefetcher guesses.
    let scattered: Vec<u64> = (0..handles).map(|i| i * STEP % keys).collect();
    let at = |number: &u64| Lock::new(&large, number.to_le_bytes());
    let locks: Vec<Lock> = scattered.iter().map(at).collect();
    let words = Words::create(&dir.path().join("bare"), keys * SLOT_BYTES);
    let at = |number: &u64| words.at((number * SLOT_BYTES) as usize);
    let words: Vec<&AtomicU64> = scattered.iter().map(at).collect();
    // Found, and their pages faulted in.
    locks.iter().for_each(pair);
    words.iter().for_each(|word| exchange_pair(word));

    let mut base = slices(|| pair(&only));
    let mut some = locks.iter().cycle();
    let mut operations = [
        Operation::in_slices("Lock pair, one of 1,000,000 keys", 3.0, |times| {
            let lock = some.next().expect("there are some");
            (0..times).for_each(|_| pair(lock));
        }),
        each_in_turn("Lock pair, another key each time", &locks, pair),
        each_in_turn("bare pair, another word each time", &words, |word| {
            exchange_pair(word);
        }),
    ];
    interleave(&mut base, &mut operations, effort.times(800));
    let notes = [
        "beside the same in a store of one key; a key for 200 us",
        "the same; 50,000 handles in turn: cache misses",
        "the same; what those misses cost anyhow",
    ];
    let rows = operations.into_iter().map(Operation::row);
    rows.zip(notes).map(|(row, note)| row.note(note)).collect()
}

fn each_in_turn<'a, T>(name: &'static str, all: &'a [T], once: fn(&T)) -> Operation<'a> {
    let mut at = 0;
    let next = move || {
        once(&all[at]);
        at = if at + 1 == all.len() { 0 } else { at + 1 };
    };
    Operation::new(name, f64::NAN, next)
}

fn pair(lock: &Lock) {
    drop(black_box(lock).acquire().expect("it is free"));
}
