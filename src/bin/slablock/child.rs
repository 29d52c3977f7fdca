//! Starting the command so that it cannot outlive its guard: the only room with unsafe code.
//!
//! Two things tie the command to the hold. The kernel kills it when this process dies; and it
//! inherits a lifeline, so that the hold lasts while any process of its tree lives, also those
//! that the kernel did not kill (grandchildren, or a program with privileges of its own).

#![allow(unsafe_code)]

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        prctl::set_pdeathsig,
        signal::{SigHandler, SigSet, Signal, signal},
    },
    unistd::{Pid, getpid, getppid},
};

/// Shells hand out the small numbers to scripts (`exec 3>file`), which would close the lifeline.
const LIFELINE_MIN: i32 = 64;

/// Starts `command` with `mask` as its signal mask and the lifeline open in it.
///
/// The kernel's promise to kill the command is tied to the calling *thread*: call it from the one
/// that lives as long as the process.
pub fn start(mut command: Command, mask: SigSet, lifeline: OwnedFd) -> io::Result<Child> {
    let guardian = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `prepare` makes
    // system calls and nothing else: no allocation, no lock.
    unsafe { command.pre_exec(move || prepare(guardian, &mask, &lifeline)) };
    command.spawn()
}

/// Runs in the child, before it becomes the command.
fn prepare(guardian: Pid, mask: &SigSet, lifeline: &OwnedFd) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The guardian may have died before the kernel was told. 0: it is in another PID namespace.
    let parent = getppid();
    if parent != guardian && parent.as_raw() != 0 {
        return Err(nix::Error::ESRCH.into());
    }
    pass_on(lifeline)?;
    // Last, for from here on a pending signal strikes.
    mask.thread_set_mask()?;
    Ok(())
}

/// Lets the lifeline live through the exec.
fn pass_on(lifeline: &OwnedFd) -> nix::Result<()> {
    match fcntl(lifeline, FcntlArg::F_DUPFD(LIFELINE_MIN)) {
        Ok(_) => Ok(()),
        // Few descriptors are allowed here: the number that it has must do.
        Err(_) => fcntl(lifeline, FcntlArg::F_SETFD(FdFlag::empty())).map(drop),
    }
}

/// Makes sure that the command's end can be learnt.
///
/// A parent that ignores SIGCHLD hands that on, and children then vanish without a status.
pub fn learn_of_ends() -> nix::Result<()> {
    // SAFETY: installs no handler, only the default.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop)
}
