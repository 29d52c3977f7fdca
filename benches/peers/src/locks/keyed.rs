//! One lock of many, named anew each time: what it costs to have many keys.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use slablock::{Cache, Lock as SlabLock};

use super::Words;
use super::files::{Ofd, writable};
use super::libc_locks::{lock_mutex, make_mutex, mutex};
use crate::Answer;
use crate::process::{Peer, listen, tell, tell_answer};
use crate::python::Python;
use crate::values::{key, mixed};

/// Takes and gives back the lock with that number.
trait Keyed {
    fn pair(&mut self, number: u64) -> Answer<()>;
}

type Open = fn(&Path, u64) -> Answer<Box<dyn Keyed>>;

const HERE: [(&str, Open); 5] = [
    ("slablock Lock", open_slablock),
    ("slablock Lock, kept", open_kept),
    ("robust mutexes, in an array", open_mutexes),
    ("F_OFD_SETLK, a byte each", open_bytes),
    ("File::lock, a file each", open_files),
];
/// Those of Python.
const PYTHON: [&str; 3] = ["diskcache Lock", "diskcache RLock", "filelock"];

/// All, in the order of the table.
pub fn names() -> Vec<&'static str> {
    let here = HERE.iter().map(|(name, _)| *name);
    here.chain(PYTHON).collect()
}

/// What starts a worker that has room for so many keys.
pub fn command(name: &str, dir: &Path, keys: u64, python: &Python) -> Answer<Command> {
    let mut command = match PYTHON.contains(&name) {
        true => python.worker(name.split(' ').next().unwrap_or_default())?,
        false => Peer::myself()?,
    };
    command.args(["keyed", name]).arg(dir).arg(keys.to_string());
    Ok(command)
}

/// Does as it is told: `make FROM TO`, or `pair KEYS SEED MS`.
pub fn play(name: &str, dir: &str, keys: &str) {
    let found = HERE.iter().find(|(known, _)| *known == name);
    let opened = match (found, keys.parse()) {
        (Some((_, open)), Ok(keys)) => open(Path::new(dir), keys),
        _ => Err("no such worker".into()),
    };
    let mut keyed = match opened {
        Ok(keyed) => keyed,
        Err(failure) => return tell_answer(Err(failure)),
    };
    tell("ready");
    while let Some(line) = listen() {
        tell_answer(answer(&mut *keyed, &line));
    }
}

fn answer(keyed: &mut dyn Keyed, line: &str) -> Answer<String> {
    let mut words = line.split(' ');
    let verb = words.next().unwrap_or_default();
    let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    match (verb, &numbers[..]) {
        ("make", &[from, to]) => {
            (from..to).try_for_each(|number| keyed.pair(number))?;
            Ok("made".into())
        }
        ("pair", &[keys, seed, ms]) => {
            let (start, time, mut done) = (Instant::now(), Duration::from_millis(ms), 0);
            while start.elapsed() < time {
                for at in done..done + 64 {
                    keyed.pair(mixed(at ^ (seed << 32)) % keys)?;
                }
                done += 64;
            }
            Ok((start.elapsed().as_nanos() as f64 / done as f64).to_string())
        }
        _ => Err(format!("{line:?} is not understood").into()),
    }
}

/// A handle made for the occasion, which finds the key.
struct Slablock(Cache);

fn open_slablock(dir: &Path, keys: u64) -> Answer<Box<dyn Keyed>> {
    let options = Cache::options().capacity(keys as usize);
    Ok(Box::new(Slablock(options.open(dir.join("store"))?)))
}

impl Keyed for Slablock {
    fn pair(&mut self, number: u64) -> Answer<()> {
        Ok(SlabLock::new(&self.0, key(number)).acquire()?.release()?)
    }
}

/// A handle that is kept: the same key again and again, among all that were made.
struct Kept {
    all: Slablock,
    made: u64,
    handle: SlabLock,
}

fn open_kept(dir: &Path, keys: u64) -> Answer<Box<dyn Keyed>> {
    let options = Cache::options().capacity(keys as usize);
    let cache = options.open(dir.join("store"))?;
    let handle = SlabLock::new(&cache, key(0));
    let (all, made) = (Slablock(cache), 0);
    Ok(Box::new(Kept { all, made, handle }))
}

impl Keyed for Kept {
    fn pair(&mut self, number: u64) -> Answer<()> {
        if number >= self.made {
            self.made = number + 1;
            return self.all.pair(number);
        }
        Ok(self.handle.acquire()?.release()?)
    }
}

/// A cache line each.
const MUTEX_BYTES: u64 = 64;

/// By their number: there are no names.
struct Mutexes {
    words: Words,
    made: u64,
}

fn open_mutexes(dir: &Path, keys: u64) -> Answer<Box<dyn Keyed>> {
    let words = Words::with_bytes(&dir.join("mutexes"), keys * MUTEX_BYTES)?;
    Ok(Box::new(Mutexes { words, made: 0 }))
}

impl Keyed for Mutexes {
    fn pair(&mut self, number: u64) -> Answer<()> {
        let at = mutex(&self.words, (number * MUTEX_BYTES) as usize);
        if number >= self.made {
            // SAFETY: nobody else has the file, and keys are made in order.
            unsafe { make_mutex(at) };
            self.made = number + 1;
        }
        // SAFETY: made above, at some time.
        unsafe { lock_mutex(at)? };
        // SAFETY: held by this thread.
        unsafe { libc::pthread_mutex_unlock(at) };
        Ok(())
    }
}

struct Bytes(Ofd);

fn open_bytes(dir: &Path, _: u64) -> Answer<Box<dyn Keyed>> {
    Ok(Box::new(Bytes(Ofd::of(&dir.join("bytes"), 0)?)))
}

impl Keyed for Bytes {
    fn pair(&mut self, number: u64) -> Answer<()> {
        self.0.move_to(number as i64);
        self.0.pair()
    }
}

/// Opened each time, for a process may not have so many files open.
struct Files(PathBuf);

fn open_files(dir: &Path, _: u64) -> Answer<Box<dyn Keyed>> {
    let dir = dir.join("files");
    fs::create_dir_all(&dir)?;
    Ok(Box::new(Files(dir)))
}

impl Keyed for Files {
    fn pair(&mut self, number: u64) -> Answer<()> {
        let name = key(number);
        let path = self.0.join(std::str::from_utf8(&name)?);
        let file: File = writable(&path)?;
        file.lock()?;
        Ok(file.unlock()?)
    }
}
