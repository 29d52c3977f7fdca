//! Tags: whatever belongs to one deployment, customer or job carries its tag, and goes with one
//! call, also what is held by somebody who forgot it.

use std::error::Error;

use slablock::{Averager, BoundedSemaphore, Cache, Error as Slablock, Lock};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;

    let lock = Lock::new(&cache, "acme/import").tag("acme");
    let guard = lock.acquire()?;
    Averager::new(&cache, "acme/latency").tag("acme").add(0.1)?;
    drop(
        BoundedSemaphore::new(&cache, "acme/workers", 4)
            .tag("acme")
            .acquire()?,
    );
    drop(Lock::new(&cache, "zeta/import").tag("zeta").acquire()?);
    println!("{} keys", cache.len()?);
    assert_eq!(cache.len()?, 4);

    let gone = cache.remove_tagged("acme")?;
    println!("evicted {gone}, left {}", cache.len()?);
    assert_eq!((gone, cache.len()?), (3, 1));

    // Whoever held one of them finds it lost, and the key can be used anew at once.
    assert!(matches!(guard.check(), Err(Slablock::Lost { .. })));
    let new = lock.try_acquire()?.ok_or("it is free")?;
    assert!(
        new.token() > guard.token(),
        "tokens grow across eviction, too"
    );
    println!(
        "token {} was lost, token {} is held",
        guard.token(),
        new.token()
    );

    // The late release leaves the new holder alone.
    assert!(guard.release().is_err());
    new.check()?;
    Ok(())
}
