//! The binary in a temporary store of its own, run to its end or watched line by line.

use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::kit::{HANGS, KilledAtTheEnd, Place, lines, until};

/// A command that says `up` and then lives until its standard input ends.
const UNTIL_TOLD: [&str; 3] = ["sh", "-c", "echo up; exec cat > /dev/null"];

/// A temporary directory with a store in it, and the binary to use it with.
pub struct Shop {
    pub dir: Place,
}

impl Shop {
    pub fn new() -> Shop {
        let dir = Place::new();
        Shop { dir }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.store()
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.root().join(name).to_str().unwrap().to_owned()
    }

    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
        command.args(arguments).env("SLABLOCK_DIR", self.store());
        heed_signals(&mut command);
        command
    }

    /// Runs it to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Outcome {
        Outcome::of(self.command(arguments).stdin(Stdio::null()))
    }

    pub fn start<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Running {
        Running::start(self.command(arguments))
    }

    /// A command that holds `key`, with `options`, until its standard input ends.
    pub fn hold(&self, key: &str, options: &[&str]) -> Running {
        let running = self.start(&[&["run", key], options, &["--"], &UNTIL_TOLD].concat());
        running.expect("up");
        running
    }

    pub fn is_free(&self, key: &str) -> bool {
        self.run(&["run", "-n", "-q", key, "--", "true"]).code == 0
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let outcome = self.run(&[&["status", "--json"], arguments].concat());
        serde_json::from_str(&outcome.out).expect(&outcome.err)
    }
}

/// What started the tests may ignore some signals, as `nohup` and shells do for jobs in the
/// background; that is handed on, and heeded.
#[allow(unsafe_code)]
fn heed_signals(command: &mut Command) {
    use nix::sys::signal::{SigHandler, signal};
    let heed = || {
        for number in [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
        ] {
            // SAFETY: installs no handler, only the default.
            unsafe { signal(number, SigHandler::SigDfl) }?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls, and nothing else.
    unsafe { command.pre_exec(heed) };
}

/// What a run left behind.
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    pub fn of(command: &mut Command) -> Outcome {
        let output = command.output().unwrap();
        Outcome {
            code: code(output.status),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks that it failed with one line that says all of `words`.
    pub fn complains(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        assert!(self.err.starts_with("slablock: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {}", self.err);
        }
    }
}

/// What a shell would call it.
pub fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// A process under way, read line by line.
pub struct Running {
    pub child: KilledAtTheEnd,
    pub input: Option<ChildStdin>,
    pub out: Receiver<String>,
    pub err: Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Running {
            input: child.stdin.take(),
            out: lines(child.stdout.take().unwrap()),
            err: lines(child.stderr.take().unwrap()),
            child: KilledAtTheEnd(child),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub fn line(&self) -> String {
        self.out
            .recv_timeout(HANGS)
            .expect("a line on standard output")
    }

    pub fn expect(&self, line: &str) {
        assert_eq!(self.line(), line);
    }

    pub fn complaint(&self) -> String {
        self.err
            .recv_timeout(HANGS)
            .expect("a line on standard error")
    }

    /// Waits until everybody who could write to its standard output has gone.
    pub fn silence(&self) {
        let end = self.out.recv_timeout(HANGS);
        assert_eq!(end, Err(RecvTimeoutError::Disconnected));
    }

    pub fn finish(mut self) -> i32 {
        drop(self.input.take());
        let mut ended = None;
        until("it has ended", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        code(ended.unwrap())
    }
}
