//! What the tests share: a store in a directory of its own, a watchdog, and waiting for events.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use slablock::Cache;
use tempfile::TempDir;

/// Far more than any test takes: who gets there hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A lease that ends while a test looks on.
pub const SHORT: Duration = Duration::from_millis(20);
/// A lease that is not over at once, not even on a busy machine, and ends while a test looks on.
pub const LEASE: Duration = Duration::from_millis(150);
/// A lease or a timeout that does not end during a test.
pub const LONG: Duration = Duration::from_secs(3_600);

/// Runs a test, and fails it when it hangs.
pub fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    if finished.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the test hangs: not done after {PATIENCE:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until something observable has happened.
pub fn until(what: &str, happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// An empty directory, and in it the place for a store. Gone when dropped.
pub struct Place {
    root: TempDir,
}

impl Place {
    pub fn new() -> Place {
        let root = tempfile::tempdir().expect("a temporary directory");
        Place { root }
    }

    /// Exists, and holds nothing but the store.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where the store is or will be.
    pub fn store(&self) -> PathBuf {
        self.root().join("store")
    }

    pub fn slab(&self) -> PathBuf {
        self.store().join("slab")
    }

    pub fn open(&self) -> Cache {
        Cache::open(self.store()).expect("open the store")
    }
}

/// A store with room for `capacity` keys.
pub fn store_of(capacity: usize) -> (Place, Cache) {
    let place = Place::new();
    let cache = Cache::options().capacity(capacity).open(place.store());
    (place, cache.expect("make a store"))
}

/// A small store.
pub fn store() -> (Place, Cache) {
    store_of(1_024)
}

const ROLE: &str = "SLABLOCK_TEST_ROLE";
const ARGUMENT: &str = "SLABLOCK_TEST_ARGUMENT";

/// What this process is to do, if it is the child of a test: its argument.
pub fn role(name: &str) -> Option<String> {
    let mine = std::env::var(ROLE).is_ok_and(|role| role == name);
    mine.then(|| std::env::var(ARGUMENT).unwrap_or_default())
}

/// The test binary again, to run the test `name`, which finds that it has a role.
pub fn child(name: &str, argument: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, name)
        .env(ARGUMENT, argument)
        .stdin(Stdio::null());
    command
}

/// Runs a child to its end, or kills it when it hangs.
pub fn run(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run the child");
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || read_all(out));
    let err = std::thread::spawn(move || read_all(err));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for the child") {
            break status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            break child.wait().expect("wait for the child");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Output {
        status,
        stdout: out.join().unwrap_or_default(),
        stderr: err.join().unwrap_or_default(),
    }
}

fn read_all(stream: Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    bytes
}

/// Everything that a child said.
pub fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}
