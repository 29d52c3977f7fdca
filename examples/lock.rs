//! A lock around a read-modify-write of a file: without it, two writers read the same number, and
//! one of their additions is lost.

use std::error::Error;
use std::path::Path;
use std::{fs, thread};

use slablock::{Cache, Lock};

const WRITERS: u64 = 4;
const ROUNDS: u64 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;
    let total = dir.path().join("total");
    fs::write(&total, "0")?;

    // Threads here, to be short; processes that open the same directory exclude each other just so.
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let lock = Lock::new(&cache, "total");
                for _ in 0..ROUNDS {
                    let _guard = lock.acquire().expect("the store works");
                    add_one(&total);
                } // given back here, by the end of the guard's scope
            });
        }
    });

    let total: u64 = fs::read_to_string(&total)?.parse()?;
    println!("{WRITERS} writers added {ROUNDS} each: {total}");
    assert_eq!(total, WRITERS * ROUNDS);
    assert!(!Lock::new(&cache, "total").is_locked()?);
    Ok(())
}

fn add_one(total: &Path) {
    let text = fs::read_to_string(total).expect("the file is there");
    let number: u64 = text.parse().expect("it holds a number");
    fs::write(total, (number + 1).to_string()).expect("it can be written");
}
