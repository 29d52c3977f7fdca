//! Signals, taken one by one instead of striking at any moment.
//!
//! Blocked signals stay pending, so none is lost between taking the lock and starting the command.

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;
use std::{fs, process};

use nix::errno::Errno;
use nix::libc::{self, pid_t};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal::{
    self, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU,
    SIGURG, SIGWINCH,
};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpid, getsid};

/// The signals that ask a program to end.
pub const ENDING: [Signal; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];
/// What only a handler notices: without one these end nothing.
const HARMLESS: [c_int; 4] = [
    SIGCHLD as c_int,
    SIGCONT as c_int,
    SIGURG as c_int,
    SIGWINCH as c_int,
];

/// The signals that are taken, blocked for as long as the process lives.
pub struct Signals {
    descriptor: SignalFd,
    before: SigSet,
    /// Those that may strike while there is nothing to be guarded. The news of a child is none of
    /// them.
    striking: SigSet,
}

/// A signal that came.
pub struct Arrived {
    /// Real-time signals have no name.
    pub number: c_int,
    /// What its sender sent along with it.
    pub value: Option<u64>,
    sender: Sender,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// The kernel, because of what this process did: a write beyond a limit, say.
    Ourselves,
    Process,
    /// The kernel: a key at the terminal, a hang-up, an alarm that was set before this program was
    /// executed.
    Kernel,
}

/// The signals that ask a program to end, and the news of a child.
pub fn ending() -> SigSet {
    ENDING.into_iter().chain([SIGCHLD]).collect()
}

/// All that can be caught, without those that stop a process, and without SIGPIPE, which every Rust
/// program ignores.
pub fn catchable() -> SigSet {
    let mut catchable = SigSet::all();
    for left in [SIGTSTP, SIGTTIN, SIGTTOU, SIGPIPE] {
        catchable.remove(left);
    }
    catchable
}

impl Signals {
    pub fn block(taken: SigSet) -> nix::Result<Signals> {
        let before = SigSet::thread_get_mask()?;
        taken.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&taken, flags)?;
        let mut striking = taken;
        striking.remove(SIGCHLD);
        Ok(Signals {
            descriptor,
            before,
            striking,
        })
    }

    /// What was blocked when this process started: the command is to start with the same.
    pub fn mask_before(&self) -> SigSet {
        self.before
    }

    /// Does `work` while these signals have their usual effect: most of them end this process at
    /// once.
    pub fn let_through<T>(&self, work: impl FnOnce() -> T) -> nix::Result<T> {
        self.striking.thread_unblock()?;
        let done = work();
        self.striking.thread_block()?;
        Ok(done)
    }

    /// For the rest of what is let through: takes the signals one by one again.
    pub fn hold_back(&self) -> nix::Result<()> {
        self.striking.thread_block()
    }

    /// The next signal, or `None` when it is `until` and none came.
    pub fn next(&self, until: Option<Instant>) -> nix::Result<Option<Arrived>> {
        self.next_beside(until, &[])
    }

    /// The next signal, or `None` when it is `until`, or as soon as one of these can be read.
    pub fn next_beside(
        &self,
        until: Option<Instant>,
        others: &[BorrowedFd<'_>],
    ) -> nix::Result<Option<Arrived>> {
        loop {
            if let Some(info) = self.descriptor.read_signal()? {
                return Ok(Some(Arrived::new(&info)));
            }
            let all = [self.descriptor.as_fd()]
                .into_iter()
                .chain(others.iter().copied());
            let mut ready: Vec<PollFd<'_>> = all
                .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
                .collect();
            match poll(&mut ready, timeout(until)) {
                Ok(0) if until.is_some_and(|until| Instant::now() >= until) => return Ok(None),
                Ok(_) if ready.iter().skip(1).any(|other| other.any() == Some(true)) => {
                    return Ok(None);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next signal that has come already, or `None`. The news of a child is left out.
    pub fn pending(&self) -> nix::Result<Option<Arrived>> {
        while let Some(arrived) = self.next(Some(Instant::now()))? {
            if !arrived.is_news_of_a_child() && !arrived.is_our_own() {
                return Ok(Some(arrived));
            }
        }
        Ok(None)
    }

    /// The number of a signal that has come already and would have ended this process.
    pub fn end_requested(&self) -> nix::Result<Option<c_int>> {
        while let Some(arrived) = self.pending()? {
            if arrived.asks_for_an_end() && !is_ignored(arrived.number) {
                return Ok(Some(arrived.number));
            }
        }
        Ok(None)
    }
}

impl Arrived {
    fn new(info: &siginfo) -> Arrived {
        let sender = match info.ssi_code {
            code if code > 0 => Sender::Kernel,
            _ if Pid::from_raw(info.ssi_pid as pid_t) == getpid() => Sender::Ourselves,
            _ => Sender::Process,
        };
        Arrived {
            number: info.ssi_signo as c_int,
            value: (info.ssi_code == libc::SI_QUEUE).then_some(info.ssi_ptr),
            sender,
        }
    }

    fn is_news_of_a_child(&self) -> bool {
        self.number == SIGCHLD as c_int
    }

    fn is_our_own(&self) -> bool {
        self.sender == Sender::Ourselves
    }

    /// Whether it would have ended this process.
    pub fn asks_for_an_end(&self) -> bool {
        !HARMLESS.contains(&self.number) && !self.is_our_own()
    }

    /// Whether it is for the command and has not reached it: a key at the terminal has, for the
    /// command is in the same process group, and must not come twice. A hang-up that the kernel
    /// tells a session's leader only must be told on.
    pub fn is_to_be_passed_on(&self) -> bool {
        let from_terminal = [SIGINT, SIGQUIT, SIGHUP, SIGWINCH, SIGCONT].map(|s| s as c_int);
        let leads_session = || getsid(None) == Ok(getpid());
        match self.sender {
            _ if self.is_news_of_a_child() => false,
            Sender::Ourselves => false,
            Sender::Process => true,
            Sender::Kernel if self.number == SIGHUP as c_int => leads_session(),
            Sender::Kernel => !from_terminal.contains(&self.number),
        }
    }
}

/// The time until `until` in whole milliseconds, rounded up so that waking early does not spin.
fn timeout(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else {
        return PollTimeout::NONE;
    };
    let left = until.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(PollTimeout::MAX)
}

/// Whether the process that started this one made it ignore that signal, as `nohup` does.
///
/// Asked in the rare case only, so the text is read rather than the state kept.
fn is_ignored(number: c_int) -> bool {
    is_ignored_by(process::id(), number)
}

/// Whether that process ignores a signal.
pub fn is_ignored_by(pid: u32, number: c_int) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}
