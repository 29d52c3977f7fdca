//! A child that is run instruction by instruction.

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::forks::{exit_now, fork};

/// Forks, lets the child get ready, and runs `body` there instruction by instruction, calling
/// `look` before each with their number. Returns how many there were; `None` if this process may
/// not trace its children.
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
