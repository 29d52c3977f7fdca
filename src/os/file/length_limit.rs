//! The limit of a process for the length of files (`ulimit -f`): an error, and not its end.

use std::io;
use std::mem::MaybeUninit;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::sync::crash_point;

/// Runs system calls that may make a file longer. Where a limit of the process forbids that, the
/// kernel sends `SIGXFSZ` to the calling thread besides saying `EFBIG`, and a program that does not
/// know of it is ended by that. So the signal is blocked meanwhile, and taken away if these calls
/// caused it: the limit is looked at where it is applied, and may be changed by others, or other
/// processes, at any time before. One that was pending already is the program's.
pub(crate) fn growing<T>(grow: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let signal = SigSet::from(Signal::SIGXFSZ);
    crash_point();
    let before = signal.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let is_blocked = before.contains(Signal::SIGXFSZ);
    // Only what is blocked can be pending for this thread.
    let was_pending = is_blocked && is_pending(Signal::SIGXFSZ);
    let result = grow();
    let said = result.as_ref().err().and_then(io::Error::raw_os_error);
    if said == Some(Errno::EFBIG as i32) && !was_pending {
        take_pending(signal);
    }
    if !is_blocked {
        crash_point();
        // It was in the mask that was set above, so it can be set again.
        let _ = before.thread_set_mask();
    }
    result
}

#[allow(unsafe_code)]
fn is_pending(signal: Signal) -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    crash_point();
    // SAFETY: the kernel fills in a set, for which there is room.
    let asked = unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: it was filled in, or is not looked at.
    asked == 0 && unsafe { libc::sigismember(pending.as_ptr(), signal as i32) } == 1
}

/// Takes away a signal of the set that is pending, if one is; that of the thread before that of the
/// process.
#[allow(unsafe_code)]
fn take_pending(signals: SigSet) {
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        crash_point();
        // SAFETY: set and time are valid for the length of the call; nothing is to be told of the
        // signal.
        let taken = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &at_once) };
        // Another signal came first; or there is none, as where the file system's own limit was
        // meant.
        if taken >= 0 || Errno::last() != Errno::EINTR {
            return;
        }
    }
}
