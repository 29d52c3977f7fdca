//! Acquire and release in different functions, tied together by nothing but a token: for code in
//! which no scope spans both, as with callbacks, or a job that one request starts and another ends.

use std::error::Error;

use slablock::{Cache, Lock, Token};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let cache = Cache::open(dir.path().join("store"))?;

    let token = begin(&cache)?.ok_or("nobody has it yet")?;
    println!("began under token {token}");
    assert!(begin(&cache)?.is_none(), "it is held, though no guard is");

    end(&cache, token)?;
    println!("ended; a second end of the same does nothing");
    let again = end(&cache, token);
    assert!(matches!(again, Err(slablock::Error::NotHolder { .. })));

    // A token is good for its own hold only: the late release leaves the next holder alone.
    let next = begin(&cache)?.ok_or("it is free again")?;
    assert!(next > token);
    let late = end(&cache, token);
    assert!(matches!(late, Err(slablock::Error::Lost { .. })));
    assert!(Lock::new(&cache, "export").is_locked()?);
    println!("token {token} came late and left token {next} alone");
    end(&cache, next)?;
    Ok(())
}

/// Starts the job, unless it runs already. The number of the token could go into a database, or a
/// URL.
fn begin(cache: &Cache) -> slablock::Result<Option<Token>> {
    let lock = Lock::new(cache, "export");
    Ok(lock.try_acquire()?.map(|guard| guard.into_token()))
}

/// Ends the job that was started under `token`; an error if it is over already.
fn end(cache: &Cache, token: Token) -> slablock::Result<()> {
    Lock::new(cache, "export").release(token)
}
