//! Six processes together: a semaphore lets two of them work at a time, a lock lets one of them
//! write. The example starts itself again as its workers.

use std::error::Error;
use std::path::Path;
use std::process::{self, Command};
use std::time::Duration;
use std::{env, fs, thread};

use slablock::{BoundedSemaphore, Cache, Lock};

const WORKERS: usize = 6;
const AT_ONCE: u32 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    match env::args_os().nth(1) {
        Some(dir) => work(Path::new(&dir)),
        None => coordinate(),
    }
}

fn coordinate() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("log"), "")?;
    let this = env::current_exe()?;
    let workers = (0..WORKERS).map(|_| Command::new(&this).arg(dir.path()).spawn());
    for mut worker in workers.collect::<Result<Vec<_>, _>>()? {
        assert!(worker.wait()?.success());
    }

    let log = fs::read_to_string(dir.path().join("log"))?;
    print!("{log}");
    let mut working = 0;
    for line in log.lines() {
        working += if line.ends_with("begins") { 1 } else { -1 };
        assert!((0..=AT_ONCE as i32).contains(&working));
    }
    assert_eq!(log.lines().count(), 2 * WORKERS, "no line was overwritten");
    println!("{WORKERS} processes, never more than {AT_ONCE} at work");
    Ok(())
}

fn work(dir: &Path) -> Result<(), Box<dyn Error>> {
    let cache = Cache::open(dir.join("store"))?;
    let _permit = BoundedSemaphore::new(&cache, "workers", AT_ONCE)
        .acquire()?
        .into_owned();
    note(&cache, dir, "begins")?;
    thread::sleep(Duration::from_millis(20)); // the work
    note(&cache, dir, "ends")
}

/// Adds a line by writing the whole file anew, which only one may do at a time.
fn note(cache: &Cache, dir: &Path, what: &str) -> Result<(), Box<dyn Error>> {
    let lock = Lock::new(cache, "log");
    let _guard = lock.acquire()?;
    let log = fs::read_to_string(dir.join("log"))?;
    fs::write(dir.join("log"), format!("{log}{} {what}\n", process::id()))?;
    Ok(())
}
