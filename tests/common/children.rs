//! Children for the tests between processes: the test binary run again in a role, speaking a line per step.
//!
//! A test file that uses this has a test `child_role`, which does nothing unless the environment names a
//! role. Whoever waits, waits for a line, an exit or a number on the board; never for
//! time to pass. Forks are made in children only, so that no other test's thread is in the way.

#![allow(unsafe_code, dead_code, unused_imports)]

#[allow(clippy::duplicate_mod)]
pub mod patience;

use std::io::Write;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
pub use patience::{HANGS, Stopwatch, is_within, kept_at_last, until};

/// The longest that a child lives, whatever becomes of its parent.
const LIFETIME_S: u32 = 3 * HANGS.as_secs() as u32;

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
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIR, dir)
        .env("RUST_BACKTRACE", "0")
        .env(ARGS, args.join(&SEPARATOR.to_string()));
    command
}

/// A child in a role, killed when this is dropped.
pub struct Child {
    role: String,
    process: std::process::Child,
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
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(said) = line.strip_prefix("@ ") {
                    let _ = to.send(said.to_string());
                }
            }
        });
        Child {
            role: role.to_string(),
            stdin: process.stdin.take().unwrap(),
            process,
            lines,
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// The next line that the child says; `None` if it says none in time.
    pub fn line_within(&self, time: Duration) -> Option<String> {
        match self.lines.recv_timeout(time) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{} ended without another word", self.role)
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
        let stat = format!("/proc/{}/stat", self.pid());
        until("the child is stopped", || {
            let text = std::fs::read_to_string(&stat).unwrap();
            text.rsplit_once(") ").unwrap().1.starts_with('T')
        });
    }

    /// Waits for the child to end, in success.
    pub fn finish(mut self) {
        let mut status = None;
        until(&format!("{} ends", self.role), || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{}: {status:?}", self.role);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
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

/// Forks. The child runs `body` and leaves without any destructor or exit handler: 0, or 101 after a panic.
pub fn fork(body: impl FnOnce()) -> Pid {
    // SAFETY: the child only uses what this crate makes usable after a fork, and the allocator, which the
    // C library makes usable; it never returns from here.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            nix::unistd::alarm::set(LIFETIME_S);
            let done = catch_unwind(AssertUnwindSafe(body));
            exit_now(if done.is_ok() { 0 } else { 101 })
        }
    }
}

/// Leaves without any destructor or exit handler.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: it has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Waits for a forked child to end.
pub fn reap(pid: Pid) -> WaitStatus {
    let mut status = WaitStatus::StillAlive;
    until("the forked child ends", || {
        status = waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap();
        status != WaitStatus::StillAlive
    });
    status
}

/// Waits for a forked child to end in success.
pub fn reap_well(pid: Pid) {
    assert_eq!(reap(pid), WaitStatus::Exited(pid, 0));
}

/// Kills a forked child and waits until it is gone.
pub fn reap_killed(pid: Pid) {
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(reap(pid), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
}

/// Numbers that all processes of a test share, outside any store: the oracle.
pub struct Board {
    map: MmapRaw,
    cells: usize,
}

/// How many numbers a board has.
pub const BOARD_CELLS: usize = 8192;

impl Board {
    pub fn open(dir: &Path) -> Board {
        Board::of_cells(&dir.join("board"), BOARD_CELLS)
    }

    pub fn of_cells(path: &Path, cells: usize) -> Board {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        let len = 8 * cells;
        file.set_len(len as u64).unwrap();
        Board {
            map: MmapOptions::new().len(len).map_raw(&file).unwrap(),
            cells,
        }
    }

    pub fn cell(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.cells);
        // SAFETY: the mapping is page-aligned and has so many words, seen through atomics only.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(at) }
    }

    pub fn get(&self, at: usize) -> u64 {
        self.cell(at).load(Ordering::SeqCst)
    }

    pub fn set(&self, at: usize, to: u64) {
        self.cell(at).store(to, Ordering::SeqCst);
    }

    /// Reads, adds, writes: loses additions when two do it at once, which is the point.
    pub fn increment_badly(&self, at: usize) {
        let was = self.cell(at).load(Ordering::Relaxed);
        std::hint::spin_loop();
        self.cell(at).store(was + 1, Ordering::Relaxed);
    }
}

/// Ends the test binary when a test takes too long, and says which.
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    pub fn new(test: &'static str) -> Watchdog {
        let (alive, ended) = channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(2 * HANGS) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// A small generator of random numbers (xorshift64*), for a test to be had again by its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    /// A new seed each time, printed with the test's output.
    pub fn announced(test: &str) -> Random {
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let given = std::env::var("SLABLOCK_TEST_SEED").ok();
        let seed = given.map_or(nanos.as_nanos() as u64, |s| s.parse().unwrap());
        eprintln!("{test}: SLABLOCK_TEST_SEED={seed}");
        Random::new(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Forks, lets the child get ready, and runs `body` there instruction by instruction, calling `look` before
/// each with their number. Returns how many there were; `None` if this process may not trace its children.
pub fn step_through(
    ready: impl FnOnce(),
    body: impl FnOnce(),
    mut look: impl FnMut(u64),
) -> Option<u64> {
    const REFUSED: i32 = 77;
    let child = fork(|| {
        // Whatever is done once in a process, as joining the store, is done before the counting.
        ready();
        if trace(libc::PTRACE_TRACEME, Pid::from_raw(0)).is_err() {
            exit_now(REFUSED);
        }
        nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
        body();
        exit_now(0);
    });
    match waitpid(child, None).unwrap() {
        WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
        WaitStatus::Exited(_, REFUSED) => return None,
        other => panic!("{other:?}"),
    }
    for step in 0.. {
        look(step);
        trace(libc::PTRACE_SINGLESTEP, child).unwrap();
        match waitpid(child, None).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            WaitStatus::Exited(_, 0) => return Some(step),
            other => panic!("after {step} instructions: {other:?}"),
        }
    }
    None
}

fn trace(request: libc::c_uint, pid: Pid) -> nix::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests read and write no memory.
    let result = unsafe { libc::ptrace(request, pid.as_raw(), nothing, nothing) };
    nix::errno::Errno::result(result).map(drop)
}
