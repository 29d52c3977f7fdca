//! What programs do to themselves beside their store: forks, other programs, few descriptors, signals.

#![allow(unsafe_code)]

use slablock::{Averager, BoundedSemaphore, Cache, Lock, RLock, Result, SetOptions};

/// Every operation once or more, under keys that no other thread uses. Errors end it.
pub fn use_everything(cache: &Cache) -> Result<()> {
    // In pieces, so that a thread with a small stack can do it.
    let own = |what: &str| format!("{what} of {}", nix::unistd::gettid());
    use_locks(cache, &own)?;
    use_counts(cache, &own)?;
    for len in [10, 1_000, 100_000] {
        use_value(cache, &own("value"), &vec![7; len])?;
    }
    change_values(cache, &own)?;
    cache.stats().map(drop)
}

#[inline(never)]
fn use_locks(cache: &Cache, own: &dyn Fn(&str) -> String) -> Result<()> {
    let lock = Lock::new(cache, own("lock"));
    lock.acquire()?.into_owned().release()?;
    let token = lock.acquire()?.into_token();
    assert!(lock.release(token)?);
    let rlock = RLock::new(cache, own("rlock"));
    let both = (rlock.acquire()?, rlock.acquire()?);
    drop(both);
    Ok(())
}

#[inline(never)]
fn use_counts(cache: &Cache, own: &dyn Fn(&str) -> String) -> Result<()> {
    let semaphore = BoundedSemaphore::new(cache, own("semaphore"), 2);
    let both = (semaphore.acquire()?, semaphore.acquire()?);
    assert!(semaphore.try_acquire()?.is_none());
    drop(both);
    let average = Averager::new(cache, own("average"));
    average.add(2.0)?;
    assert_eq!(average.pop()?, Some(2.0));
    assert!(cache.remove(own("semaphore"))?);
    Ok(())
}

#[inline(never)]
fn use_value(cache: &Cache, key: &str, bytes: &[u8]) -> Result<()> {
    cache.set(key, bytes)?;
    assert_eq!(cache.get(key)?.as_deref(), Some(bytes));
    let same = cache.get_with(key, |got| got == bytes)?;
    assert_eq!(same, Some(true));
    assert!(!cache.add(key, "other")?);
    assert!(cache.compare_and_swap(key, bytes, "swapped")?);
    assert_eq!(cache.pop(key)?.as_deref(), Some(&b"swapped"[..]));
    Ok(())
}

#[inline(never)]
fn change_values(cache: &Cache, own: &dyn Fn(&str) -> String) -> Result<()> {
    cache.incr(own("number"), 1)?;
    cache.transact(|t| {
        t.incr(own("number"), 1)?;
        t.set(own("other"), "set")
    })?;
    let computed = cache.get_or_insert_with(own("computed"), &SetOptions::new(), || {
        Result::Ok(b"computed".to_vec())
    })?;
    assert_eq!(computed, b"computed");
    for what in ["number", "other", "computed"] {
        assert!(cache.delete(own(what))?);
    }
    Ok(())
}
