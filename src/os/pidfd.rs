//! Being told by the kernel that a process is gone, instead of asking again and again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::file::above_standard_descriptors;
use crate::os::kept::Kept;
use crate::sync::crash_point;

/// A descriptor that becomes readable when a process has ended.
pub(crate) struct Pidfd(Kept);

impl Pidfd {
    /// That of the process `pid` of this PID namespace.
    pub(crate) fn open(pid: u32) -> io::Result<Pidfd> {
        crash_point();
        // SAFETY: the call takes two numbers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        let fd = i32::try_from(fd).map_err(|_| io::Error::from(Errno::EBADF))?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for us; close-on-exec, as all pidfds are.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let fd = above_standard_descriptors(fd)?;
        Kept::new(File::from(fd)).map(Pidfd)
    }

    /// Whether the process has ended already.
    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        crash_point();
        Ok(poll(&mut polled, PollTimeout::ZERO)? > 0)
    }

    /// Closes it, if it still is one. To kernels before 6.9 all pidfds, event counters and their
    /// like are the same file, so that it is not enough to ask which file it is.
    pub(crate) fn close(&self) {
        let nobody = std::ptr::null::<libc::siginfo_t>();
        let fd = self.as_fd().as_raw_fd();
        crash_point();
        // SAFETY: signal 0 is sent to nobody, and no memory is touched: there is no `siginfo_t`.
        let asked = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, 0, nobody, 0) };
        if asked < 0 && Errno::last() == Errno::EBADF {
            self.0.give_up();
        }
        self.0.close();
    }
}

/// What is waited for until it is readable. It may be something else by then.
impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.unproven().as_fd()
    }
}

impl Drop for Pidfd {
    fn drop(&mut self) {
        self.close();
    }
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
