//! A report that takes long is computed once, however many programs and threads ask for it; and
//! once it is asked for all the time, it is computed anew before it is over, so that nobody waits.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use slablock::{Cache, SetOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;
    let for_a_minute = SetOptions::new().expire(Duration::from_secs(60));
    let computed = AtomicU32::new(0);
    let compute = || -> slablock::Result<Vec<u8>> {
        thread::sleep(Duration::from_millis(50)); // the work
        let edition = computed.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(format!("edition {edition}").into_bytes())
    };

    thread::scope(|scope| {
        for reader in 0..8 {
            let (cache, compute, for_a_minute) = (&cache, &compute, &for_a_minute);
            scope.spawn(move || {
                // Also between processes: who comes second waits for what the first one computes.
                let report = cache.get_or_refresh_as("report", for_a_minute, 1.0, compute);
                let report = report.expect("the store works");
                println!("reader {reader} has {}", String::from_utf8_lossy(&report));
            });
        }
    });
    assert_eq!(computed.load(Ordering::SeqCst), 1);

    // A large beta does at once what 1.0 does shortly before the minute is over.
    let report = cache.get_or_refresh_as("report", &for_a_minute, 1e9, compute)?;
    println!("early: {}", String::from_utf8_lossy(&report));
    assert_eq!(report, b"edition 2");
    Ok(())
}
