//! A re-entrant lock: functions that each take it can call each other, and themselves.

use std::error::Error;
use std::thread;

use slablock::{Cache, RLock};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;
    let lock = RLock::new(&cache, "tree");

    assert_eq!(sum_to(&lock, 10)?, 55);
    assert_eq!(lock.depth()?, 0);
    println!("ten levels taken, ten given back");

    // It is this thread that may come again, nobody else.
    let guard = lock.acquire()?;
    thread::scope(|scope| {
        let other = scope.spawn(|| lock.try_acquire().map(|guard| guard.is_some()));
        assert!(!other.join().expect("it does not panic")?);
        println!("another thread has to wait");
        slablock::Result::Ok(())
    })?;
    guard.release()?;
    Ok(())
}

/// The sum of 1 to `n`, with the lock held at each level: a plain lock would wait for itself for
/// ever.
fn sum_to(lock: &RLock, n: u32) -> slablock::Result<u32> {
    let _guard = lock.acquire()?;
    if n == 0 {
        println!("at the bottom, {} levels deep", lock.depth()?);
        assert_eq!(lock.depth()?, 11);
        return Ok(0);
    }
    Ok(n + sum_to(lock, n - 1)?)
}
