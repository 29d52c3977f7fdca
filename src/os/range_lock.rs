//! Byte-range locks of the open file description (`F_OFD_SETLK`).
//!
//! Not the POSIX ones: those vanish when *any* descriptor of the file is closed in the process, so two
//! libraries in one process break each other's locks silently. These belong to the open file: they
//! exclude every other opening of it, in this process or another, and are dropped by the kernel with the
//! last descriptor. They do *not* exclude threads that share the descriptor.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::sync::crash_point;

/// Locks byte `at`, waiting as long as it takes. A signal does not end the wait.
pub(crate) fn lock(file: &File, at: u64) -> io::Result<()> {
    loop {
        crash_point();
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&request(libc::F_WRLCK, at))) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}

/// Locks byte `at` if it is free now; `false` when it is not.
pub(crate) fn try_lock(file: &File, at: u64) -> io::Result<bool> {
    crash_point();
    match fcntl(file, FcntlArg::F_OFD_SETLK(&request(libc::F_WRLCK, at))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Unlocks byte `at`, for every descriptor that shares this opening.
pub(crate) fn unlock(file: &File, at: u64) -> io::Result<()> {
    crash_point();
    fcntl(file, FcntlArg::F_OFD_SETLK(&request(libc::F_UNLCK, at)))?;
    Ok(())
}

/// Whether another opening of the file has byte `at` locked. Our own lock does not show.
pub(crate) fn is_locked(file: &File, at: u64) -> io::Result<bool> {
    let mut answer = request(libc::F_WRLCK, at);
    crash_point();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut answer))?;
    Ok(answer.l_type != libc::F_UNLCK as libc::c_short)
}

fn request(kind: libc::c_int, at: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at as libc::off_t,
        l_len: 1,
        // The kernel demands zero for locks of the open file description.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_openings_in_one_process_exclude_each_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = file.reopen().unwrap();
        let other = file.reopen().unwrap();
        assert!(try_lock(&one, 7).unwrap());
        assert!(!try_lock(&other, 7).unwrap());
        assert!(try_lock(&other, 8).unwrap());
        assert!(is_locked(&other, 7).unwrap() && !is_locked(&one, 7).unwrap());
        // The trap of POSIX locks: closing some other descriptor of the file must not free it.
        drop(file.reopen().unwrap());
        assert!(is_locked(&other, 7).unwrap());
        drop(one);
        assert!(try_lock(&other, 7).unwrap());
    }
}
