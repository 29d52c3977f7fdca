//! Children for the tests between processes: the test binary run again in a role, speaking a line
//! per step.
//!
//! A target that uses [`Child`] has a test `child_role`, which does nothing unless the environment
//! names a role. A test that is its own child's body asks for it by [`role`] and starts it by
//! [`child`]. A process waits for a line, an exit or a number on a board; never for time to pass.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::board::Board;
use super::patience::{HANGS, LIFETIME_S};
use super::process::{KilledAtTheEnd, lines, until_stopped};

const ROLE: &str = "SLABLOCK_TEST_ROLE";
const DIR: &str = "SLABLOCK_TEST_DIR";
const ARGS: &str = "SLABLOCK_TEST_ARGS";
const SEPARATOR: char = '\x1f';

/// What this process was started to be.
pub struct Role {
    pub name: String,
    pub dir: PathBuf,
    pub args: Vec<String>,
}

impl Role {
    /// `None` in a test binary that was started as one.
    pub fn of_this_process() -> Option<Role> {
        let name = std::env::var(ROLE).ok()?;
        let args = std::env::var(ARGS).unwrap_or_default();
        nix::unistd::alarm::set(LIFETIME_S);
        Some(Role {
            name,
            dir: std::env::var_os(DIR)?.into(),
            args: args.split(SEPARATOR).map(str::to_string).collect(),
        })
    }

    pub fn number(&self, at: usize) -> u64 {
        self.args[at].parse().unwrap()
    }

    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub fn board(&self) -> Board {
        Board::open(&self.dir)
    }
}

/// The command that runs this test binary in a role.
pub fn command(role: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = of_test("child_role", role, args);
    command.env(DIR, dir).env("RUST_BACKTRACE", "0");
    command
}

/// The test binary again, to run the test `name` alone, which finds by [`role`] that it is a child.
pub fn child(name: &str, argument: &str) -> Command {
    let mut command = of_test(name, name, &[argument]);
    command.env(DIR, "").stdin(Stdio::null());
    command
}

fn of_test(test: &str, role: &str, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGS, args.join(&SEPARATOR.to_string()));
    command
}

/// The argument of this process, if it is the child of the test `name`.
pub fn role(name: &str) -> Option<String> {
    let role = Role::of_this_process().filter(|role| role.name == name);
    role.map(|mut role| role.args.remove(0))
}

/// A child in a role, killed when this is dropped.
pub struct Child {
    role: String,
    process: KilledAtTheEnd,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Child {
    pub fn start(role: &str, dir: &Path, args: &[&str]) -> Child {
        let mut process = command(role, dir, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Child {
            role: role.to_string(),
            stdin: process.stdin.take().unwrap(),
            lines: lines(process.stdout.take().unwrap()),
            process: KilledAtTheEnd(process),
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// The next line that the child says; `None` if it says none in time.
    pub fn line_within(&self, time: Duration) -> Option<String> {
        let begun = Instant::now();
        loop {
            match self
                .lines
                .recv_timeout(time.saturating_sub(begun.elapsed()))
            {
                // Others are the test harness's.
                Ok(line) => match line.strip_prefix("@ ") {
                    Some(said) => return Some(said.to_string()),
                    None => continue,
                },
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} ended without another word", self.role)
                }
            }
        }
    }

    /// Waits for the next line, which has to begin with `word`. Returns what follows.
    pub fn expect(&self, word: &str) -> String {
        let line = self
            .line_within(HANGS)
            .unwrap_or_else(|| panic!("{} does not say {word:?}", self.role));
        let rest = line.strip_prefix(word);
        rest.unwrap_or_else(|| panic!("{} said {line:?}, not {word:?}", self.role))
            .trim()
            .to_string()
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Tells the child something and waits for its answer.
    pub fn ask(&mut self, line: &str, answer: &str) -> String {
        self.tell(line);
        self.expect(answer)
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.process.wait().unwrap();
    }

    /// SIGSTOP, and stopped when this returns.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        until_stopped(self.process.id());
    }

    /// Waits for the child to end, in success.
    pub fn finish(mut self) {
        let status = self.process.ended(&self.role);
        assert!(status.success(), "{}: {status:?}", self.role);
    }
}

/// Runs a role that tests by itself, to its end.
pub fn run(role: &str, dir: &Path, args: &[&str]) {
    Child::start(role, dir, args).finish();
}

/// Says a line to the parent, in one write, so that forked children may say theirs in between.
pub fn say(line: impl AsRef<str>) {
    // The test harness may be in the middle of a line.
    let bytes = format!("\n@ {}\n", line.as_ref());
    let written = nix::unistd::write(std::io::stdout(), bytes.as_bytes()).unwrap();
    assert_eq!(written, bytes.len());
}

/// Waits for a line of the parent's.
pub fn hear() -> String {
    let mut line = String::new();
    assert_ne!(std::io::stdin().read_line(&mut line).unwrap(), 0);
    line.trim().to_string()
}
