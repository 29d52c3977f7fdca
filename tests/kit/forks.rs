//! Forked children. In a test binary that has several threads only children fork, so that no other
//! test's thread is in the way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::patience::{LIFETIME_S, until};

/// Forks. The child runs `body` and leaves without any destructor or exit handler: 0, or 101 after
/// a panic. A child that hangs is ended by the kernel.
pub fn fork(body: impl FnOnce()) -> Pid {
    fork_for(Some(LIFETIME_S), body)
}

/// Like [`fork`], for a child that may live for so many seconds; `None`: however long its parent
/// waits for it.
pub fn fork_for(seconds: Option<u32>, body: impl FnOnce()) -> Pid {
    // SAFETY: the child only uses what this crate makes usable after a fork, and the allocator,
    // which the C library makes usable; it never returns from here.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            if let Some(seconds) = seconds {
                nix::unistd::alarm::set(seconds);
            }
            let done = catch_unwind(AssertUnwindSafe(body));
            exit_now(if done.is_ok() { 0 } else { 101 })
        }
    }
}

/// Leaves without any destructor or exit handler: nothing of the parent's is run again or written
/// out twice.
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
