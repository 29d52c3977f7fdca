//! Byte-range locks of the open file description (`F_OFD_SETLK`).
//!
//! Not the POSIX ones: those vanish when *any* descriptor of the file is closed in the process, so
//! two libraries in one process break each other's locks silently. These belong to the open file:
//! they exclude every other opening of it, in this process or another, and are dropped by the
//! kernel with the last descriptor. They do *not* exclude threads that share the descriptor.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sync::crash_point;

/// How a byte is locked: shared with other openings, which needs read permission only, or alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Alone,
}

/// Locks byte `at` alone, waiting as long as it takes. A signal does not end the wait.
pub(crate) fn lock(file: &File, at: u64) -> io::Result<()> {
    lock_as(file, at, Mode::Alone)
}

/// Locks byte `at`, waiting as long as it takes; turns a lock of the same opening into one of that
/// mode, in one step.
pub(crate) fn lock_as(file: &File, at: u64, mode: Mode) -> io::Result<()> {
    loop {
        crash_point();
        match fcntl(file, FcntlArg::F_OFD_SETLKW(&request(mode.kind(), at, 1))) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}

/// Locks byte `at` alone if it is free now; `false` when it is not.
pub(crate) fn try_lock(file: &File, at: u64) -> io::Result<bool> {
    try_lock_as(file, at..at + 1, Mode::Alone)
}

/// Locks all these bytes at once, if nothing is in the way.
pub(crate) fn try_lock_as(file: &File, bytes: Range<u64>, mode: Mode) -> io::Result<bool> {
    crash_point();
    let wanted = request(mode.kind(), bytes.start, bytes.end - bytes.start);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Unlocks byte `at`, for every descriptor that shares this opening.
pub(crate) fn unlock(file: &File, at: u64) -> io::Result<()> {
    unlock_all(file, at..at + 1)
}

/// Unlocks all these bytes.
pub(crate) fn unlock_all(file: &File, bytes: Range<u64>) -> io::Result<()> {
    crash_point();
    let freed = request(libc::F_UNLCK, bytes.start, bytes.end - bytes.start);
    fcntl(file, FcntlArg::F_OFD_SETLK(&freed))?;
    Ok(())
}

/// Whether another opening of the file has byte `at` locked, in whatever mode. Our own lock does
/// not show. Asking needs no permission to write.
pub(crate) fn is_locked(file: &File, at: u64) -> io::Result<bool> {
    is_in_the_way(file, at, Mode::Alone)
}

/// Whether another opening of the file has byte `at` locked alone.
pub(crate) fn is_locked_alone(file: &File, at: u64) -> io::Result<bool> {
    is_in_the_way(file, at, Mode::Shared)
}

/// Whether a lock of another opening is in the way of one of that mode.
fn is_in_the_way(file: &File, at: u64, mode: Mode) -> io::Result<bool> {
    let mut answer = request(mode.kind(), at, 1);
    crash_point();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut answer))?;
    Ok(answer.l_type != libc::F_UNLCK as libc::c_short)
}

/// Fails if this process may not lock bytes at all, tried with a file that no other process sees.
/// Where no such file is available, the first lock of a real one has to tell.
pub(crate) fn probe() -> io::Result<()> {
    crash_point();
    let Ok(file) = memfd_create(c"slablock", MFdFlags::MFD_CLOEXEC) else {
        return Ok(());
    };
    let file = File::from(file);
    lock(&file, 0)?;
    // A lock that is refused as if another opening had the byte: none has.
    if !try_lock(&file, 0)? || is_locked(&file, 0)? {
        return Err(Errno::EACCES.into());
    }
    unlock(&file, 0)
}

impl Mode {
    fn kind(self) -> libc::c_int {
        match self {
            Mode::Shared => libc::F_RDLCK,
            Mode::Alone => libc::F_WRLCK,
        }
    }
}

fn request(kind: libc::c_int, at: u64, len: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at as libc::off_t,
        l_len: len as libc::off_t,
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

    #[test]
    fn a_lock_beside_others_becomes_one_alone_only_when_they_are_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = file.reopen().unwrap();
        let other = file.reopen().unwrap();
        let reader = std::fs::File::open(file.path()).unwrap();
        assert!(try_lock_as(&one, 7..8, Mode::Shared).unwrap());
        assert!(try_lock_as(&reader, 5..10, Mode::Shared).unwrap());
        assert!(is_locked(&reader, 7).unwrap() && !try_lock(&one, 7).unwrap());
        unlock_all(&reader, 0..100).unwrap();
        assert!(try_lock(&one, 7).unwrap());
        assert!(!try_lock_as(&other, 0..100, Mode::Shared).unwrap());
        lock_as(&one, 7, Mode::Shared).unwrap();
        assert!(try_lock_as(&other, 0..100, Mode::Shared).unwrap());
    }
}
