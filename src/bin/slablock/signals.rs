//! The signals that end things, taken one by one instead of striking at any moment.
//!
//! Blocked signals stay pending, so none is lost between taking the lock and starting the command.

use std::{fs, time::Instant};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{
            SigSet,
            Signal::{self, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
        },
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{getpid, getsid},
};
use std::os::fd::{AsFd, BorrowedFd};

/// The signals that ask a program to end.
pub const ENDING: [Signal; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];

/// The ending signals and the news of a child, blocked for as long as the process lives.
pub struct Signals {
    descriptor: SignalFd,
    before: SigSet,
}

/// A signal that came.
pub struct Arrived {
    pub signal: Signal,
    sent_by_a_process: bool,
}

impl Signals {
    pub fn block() -> nix::Result<Signals> {
        let mut blocked: SigSet = ENDING.into_iter().collect();
        blocked.add(SIGCHLD);
        let before = SigSet::thread_get_mask()?;
        blocked.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&blocked, flags)?;
        Ok(Signals { descriptor, before })
    }

    /// What was blocked when this process started: the command is to start with the same.
    pub fn mask_before(&self) -> SigSet {
        self.before
    }

    /// Does `work` with the ending signals at their usual effect: they end this process at once.
    pub fn let_through<T>(&self, work: impl FnOnce() -> T) -> nix::Result<T> {
        let ending: SigSet = ENDING.into_iter().collect();
        ending.thread_unblock()?;
        let done = work();
        ending.thread_block()?;
        Ok(done)
    }

    /// For the rest of what is let through: takes the signals one by one again.
    pub fn hold_back(&self) -> nix::Result<()> {
        ENDING.into_iter().collect::<SigSet>().thread_block()
    }

    /// The next signal, or `None` when it is `until` and none came.
    pub fn next(&self, until: Option<Instant>) -> nix::Result<Option<Arrived>> {
        self.next_beside(until, &[])
    }

    /// The same, and also `None` as soon as one of these can be read.
    pub fn next_beside(
        &self,
        until: Option<Instant>,
        others: &[BorrowedFd<'_>],
    ) -> nix::Result<Option<Arrived>> {
        loop {
            if let Some(info) = self.descriptor.read_signal()? {
                return Ok(Some(Arrived {
                    signal: Signal::try_from(info.ssi_signo as i32)?,
                    // Codes above zero are the kernel's: a key at the terminal, a hang-up.
                    sent_by_a_process: info.ssi_code <= 0,
                }));
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

    /// A signal that has come already and asks this process to end.
    pub fn end_requested(&self) -> nix::Result<Option<Signal>> {
        while let Some(arrived) = self.next(Some(Instant::now()))? {
            let signal = arrived.signal;
            if ENDING.contains(&signal) && !is_ignored(signal) {
                return Ok(Some(signal));
            }
        }
        Ok(None)
    }
}

impl Arrived {
    /// A key at the terminal has reached the command too, which is in the same process group: it
    /// must not come twice. A hang-up that the kernel tells a session's leader only must be told on.
    pub fn is_for_us_alone(&self) -> bool {
        let leads_session = || getsid(None) == Ok(getpid());
        self.sent_by_a_process || (self.signal == SIGHUP && leads_session())
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

/// Whether whoever started this process had it ignore `signal`, as `nohup` does.
///
/// Asked in the rare case only, so the text is read rather than the state kept.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal as u64 - 1)) != 0)
}
