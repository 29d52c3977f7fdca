//! Being told by the kernel that a process is gone, instead of asking again and again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sync::crash_point;

/// A descriptor that becomes readable when the process `pid` of this PID namespace has ended.
pub(crate) fn open(pid: u32) -> io::Result<OwnedFd> {
    crash_point();
    // SAFETY: the call takes two numbers and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us; close-on-exec, as all pidfds are.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until at least one of `fds` is readable, and says which are.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    loop {
        crash_point();
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => break,
        }
    }
    let readable = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(polled.iter().map(readable).collect())
}

/// Whether the process has ended already.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    crash_point();
    Ok(poll(&mut polled, PollTimeout::ZERO)? > 0)
}
