//! Sleeping on a word of shared memory. Shared futexes, for the sleepers are in other processes.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use crate::sync::{AtomicU32, crash_point};

/// Sleeps while `word` has the value `expected`, for `timeout` at most. Returns early on a wake-up,
/// on a signal, or for no reason: the caller looks again whatever the cause.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    crash_point();
    // SAFETY: `word` and `timeout` are valid for the length of the call, and the kernel only reads
    // them.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        );
    }
}

/// Whether this process may sleep and wake at all. [`wait`] and [`wake`] cannot say it: a sandbox
/// that refuses them would look like a wake-up, and every wait would burn a processor.
pub(crate) fn probe() -> io::Result<()> {
    let word = AtomicU32::new(0);
    let timeout = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1,
    };
    crash_point();
    // SAFETY: `word` is a valid address; the kernel does not write to it, and nobody sleeps on it.
    Errno::result(unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) })?;
    crash_point();
    // SAFETY: `word` and `timeout` are valid for the length of the call, which ends at once: the
    // word is another.
    let waited = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            1,
            &raw const timeout,
        )
    });
    match waited {
        Ok(_) | Err(Errno::EAGAIN | Errno::ETIMEDOUT | Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Wakes up to `count` sleepers of `word`, in whatever process.
pub(crate) fn wake(word: &AtomicU32, count: i32) {
    crash_point();
    // SAFETY: `word` is a valid address; the kernel does not write to it.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count);
    }
}
