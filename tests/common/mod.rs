//! What the tests share: a store in a directory of its own, a watchdog, and waiting for events.

#![allow(dead_code, unused_imports, unused_macros)]

pub mod layout;
#[allow(clippy::duplicate_mod)]
pub mod patience;
pub mod stored;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

pub use patience::{HANGS, is_within, kept_at_last, until};
use slablock::{Cache, Error};
use tempfile::TempDir;

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
    if finished.recv_timeout(HANGS) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the test hangs: not done after {HANGS:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
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

    pub fn slab_file(&self) -> File {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).open(self.slab());
        file.expect("open the slab")
    }

    /// How long the slab is.
    pub fn slab_len(&self) -> u64 {
        self.slab_file().metadata().expect("look at the slab").len()
    }

    /// Writes into the slab, past everybody who has it open.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let written = self.slab_file().write_all_at(bytes, at);
        written.expect("write into the slab");
    }

    /// Reads from the slab.
    pub fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let read = self.slab_file().read_exact_at(&mut bytes, at);
        read.expect("read from the slab");
        bytes
    }

    /// The word at `at` in the slab.
    pub fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.peek(at))
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

/// Runs a child to its end.
pub fn run(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run the child");
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let out = std::thread::spawn(move || read_all(out));
    let err = std::thread::spawn(move || read_all(err));
    let mut status = None;
    until("the child ends", || {
        status = child.try_wait().expect("wait for the child");
        status.is_some()
    });
    Output {
        status: status.expect("it has ended"),
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

/// Mounts something for this process and its children alone; gone with them.
pub fn mount(kind: &str, options: &str, at: &Path) -> bool {
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).output();
        status.is_ok_and(|output| output.status.success())
    };
    mount(&["-t", kind, "-o", options, kind, at.to_str().unwrap()])
}

/// Runs the test `name` in a mount namespace of its own, or says why not.
pub fn in_a_namespace(name: &str, argument: &Path) {
    let inner = child(name, argument.to_str().unwrap());
    let mut command = Command::new("unshare");
    match nix::unistd::geteuid().is_root() {
        true => command.arg("--mount"),
        false => command.args(["--mount", "--map-root-user"]),
    };
    let usable = command.arg("true").output();
    if !usable.is_ok_and(|o| o.status.success()) {
        println!("skipped: no mount namespace to be had here");
        return;
    }
    let mut command = Command::new("unshare");
    match nix::unistd::geteuid().is_root() {
        true => command.arg("--mount"),
        false => command.args(["--mount", "--map-root-user"]),
    };
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = run(command);
    let said = said(&output);
    assert!(output.status.success(), "{:?}: {said}", output.status);
    assert!(
        said.contains("all told") || said.contains("skipped"),
        "{said}"
    );
    if said.contains("skipped") {
        println!("{said}");
    }
}

/// The message of an error, which has to say all of this.
pub fn says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains("  "), "{text}");
}

/// That something failed, how, and that the message says all of the words.
macro_rules! assert_error {
    ($result:expr, $pattern:pat, $words:expr) => {
        match $result {
            Err(error) => {
                assert!(matches!(error, $pattern), "{error:?}");
                $crate::common::says(&error, &$words);
            }
            Ok(_) => panic!("no error from {}", stringify!($result)),
        }
    };
}
