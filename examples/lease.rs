//! A lease bounds how long a stuck holder can block the others; the token fences off what the stuck
//! one still writes when it comes to again.

use std::error::Error;
use std::thread;
use std::time::Duration;

use slablock::{Cache, Ending, Error as Slablock, Lock, Token};

const LEASE: Duration = Duration::from_millis(300);

/// What the lock protects: it refuses whoever comes with a smaller token than it has seen.
#[derive(Default)]
struct Ledger {
    seen: u64,
    entries: Vec<&'static str>,
}

impl Ledger {
    fn write(&mut self, token: Token, entry: &'static str) -> bool {
        if token.get() < self.seen {
            return false;
        }
        self.seen = token.get();
        self.entries.push(entry);
        true
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;
    let lock = Lock::new(&cache, "ledger").lease(LEASE);
    let mut ledger = Ledger::default();

    // Who renews keeps it for as long as it takes.
    let slow = lock.acquire()?;
    for _ in 0..3 {
        thread::sleep(LEASE / 4);
        slow.renew()?;
    }
    assert!(lock.try_acquire()?.is_none());
    assert!(ledger.write(slow.token(), "by the slow one"));

    // Who does not, loses it to the next one who asks.
    let next = lock
        .acquire_timeout(10 * LEASE)?
        .ok_or("the lease is over by now")?;
    println!(
        "token {} took over from token {}",
        next.token(),
        slow.token()
    );
    let before = next.predecessor().ok_or("somebody was late")?;
    assert_eq!(before.why, Ending::LeaseExpired);
    assert!(ledger.write(next.token(), "by the next one"));

    // The slow one can find out ...
    assert!(matches!(slow.check(), Err(Slablock::Lost { .. })));
    assert!(matches!(slow.renew(), Err(Slablock::Lost { .. })));
    // ... but may have been stopped just after it asked. The token settles that.
    assert!(!ledger.write(slow.token(), "too late"));
    println!("the ledger says {:?}", ledger.entries);
    assert_eq!(ledger.entries.len(), 2);
    assert!(slow.release().is_err());
    next.release()?;
    Ok(())
}
