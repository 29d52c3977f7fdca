//! What programs do to themselves beside their store: forks, other programs, few descriptors, signals.

#![allow(unsafe_code)]

use slablock::{Averager, BoundedSemaphore, Cache, Lock, RLock, Result, SetOptions};

/// Every operation once or more, as one who knows no other would use it. Errors end it.
pub fn use_everything(cache: &Cache) -> Result<()> {
    let name = nix::unistd::gettid();
    let key = |what: &str| format!("{what} of {name}");
    let lock = Lock::new(cache, key("lock"));
    lock.acquire()?.into_owned().release()?;
    let token = lock.acquire()?.into_token();
    assert!(lock.release(token)?);
    let rlock = RLock::new(cache, key("rlock"));
    let both = (rlock.acquire()?, rlock.acquire()?);
    drop(both);
    let semaphore = BoundedSemaphore::new(cache, key("semaphore"), 2);
    let both = (semaphore.acquire()?, semaphore.acquire()?);
    assert!(semaphore.try_acquire()?.is_none());
    drop(both);
    let average = Averager::new(cache, key("average"));
    average.add(2.0)?;
    assert_eq!(average.pop()?, Some(2.0));
    for len in [10, 1_000, 100_000] {
        let bytes = vec![7; len];
        cache.set(key("value"), &bytes)?;
        assert_eq!(cache.get(key("value"))?.as_ref(), Some(&bytes));
        let same = cache.get_with(key("value"), |got| got == bytes)?;
        assert_eq!(same, Some(true));
    }
    assert!(!cache.add(key("value"), "other")?);
    assert!(cache.compare_and_swap(key("value"), vec![7; 100_000], "swapped")?);
    assert_eq!(cache.pop(key("value"))?.as_deref(), Some(&b"swapped"[..]));
    cache.incr_with(key("number"), 1, 0)?;
    cache.transact(|t| {
        t.incr(key("number"), 1)?;
        t.set(key("other"), "set")
    })?;
    let computed = cache.get_or_insert_with(key("computed"), &SetOptions::new(), || {
        Result::Ok(b"computed".to_vec())
    })?;
    assert_eq!(computed, b"computed");
    for what in ["number", "other", "computed"] {
        assert!(cache.delete(key(what))?);
    }
    assert!(cache.remove(key("semaphore"))?);
    cache.stats().map(drop)
}
