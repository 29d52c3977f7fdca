//! Act one: several processes increment a number in a plain file, which loses updates unless each
//! does it alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use slablock::{Cache, Lock};

use super::stage::{is_over, ready, say, tally_file};
use super::{Role, Screen, Stage, Worker};
use crate::failure::Failure;
use crate::text::grouped;

const KEY: &str = "counter";
const PROCESSES: usize = 4;
/// Long enough to lose many; it only shows that the act is a real one.
const FREELY: Duration = Duration::from_millis(300);
const LOCKED: Duration = Duration::from_millis(1_500);
const TICK: Duration = Duration::from_millis(100);

pub fn perform(stage: &Stage, screen: &mut Screen) -> Result<(), Failure> {
    screen.act(format_args!(
        "{PROCESSES} processes increment a number in a plain file"
    ))?;
    let (made, lost) = count(stage, screen, Role::CountFreely, FREELY)?;
    screen.note(format_args!(
        "without a lock: {} increments, {} lost",
        grouped(made),
        grouped(lost)
    ))?;
    let (made, lost) = count(stage, screen, Role::CountLocked, LOCKED)?;
    screen.check(
        format_args!("under a Lock: {} increments, {lost} lost", grouped(made)),
        made > 0 && lost == 0,
    )?;
    Ok(())
}

/// How many increments the processes made by their own count, and how many of them are not in
/// the file.
fn count(
    stage: &Stage,
    screen: &Screen,
    role: Role,
    time: Duration,
) -> Result<(u64, u64), Failure> {
    let file = File::create(tally_file(stage.cache()))?;
    file.write_all_at(&0_u64.to_ne_bytes(), 0)?;
    let file = File::open(tally_file(stage.cache()))?;
    let mut workers = stage.workers(PROCESSES, role, time)?;
    workers.iter_mut().try_for_each(Worker::begin)?;
    let started = Instant::now();
    while started.elapsed() < time {
        screen.progress(format_args!("the file says {}", grouped(read(&file)?)))?;
        stage.pause(TICK)?;
    }
    let mut made = 0;
    for worker in &workers {
        made += worker
            .expect("made")?
            .parse::<u64>()
            .map_err(Failure::new)?;
    }
    // More than were made would be as wrong as fewer.
    Ok((made, made.abs_diff(read(&file)?)))
}

/// One process: read, add one, write, for as long as it was told.
pub fn work(cache: &Cache, work_ms: u64, under_lock: bool) -> Result<(), Failure> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(tally_file(cache))?;
    let lock = Lock::new(cache, KEY);
    ready()?;
    let started = Instant::now();
    let mut made = 0_u64;
    while !is_over(started, work_ms) {
        let guard = match under_lock {
            true => Some(lock.acquire()?),
            false => None,
        };
        let number = read(&file)?;
        file.write_all_at(&(number + 1).to_ne_bytes(), 0)?;
        made += 1;
        if let Some(guard) = guard {
            guard.release()?;
        }
    }
    say(&format!("made {made}"))
}

fn read(file: &File) -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_ne_bytes(bytes))
}
