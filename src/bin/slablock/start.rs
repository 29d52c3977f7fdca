//! What this process began with: which standard streams were closed, and what a file that is too
//! large would do.
//!
//! Before `main` the standard library opens `/dev/null` in place of a stream that was closed, and
//! from then on nothing tells it from a `/dev/null` that the caller chose: what was written would
//! count as written, and nothing as an empty input.

#![allow(unsafe_code)]

use std::sync::OnceLock;

use nix::libc::{self, STDERR_FILENO, STDIN_FILENO, STDOUT_FILENO, c_int};
use nix::sys::signal::Signal::SIGXFSZ;
use nix::sys::signal::{SigHandler, signal};

/// By descriptor.
static WERE_CLOSED: OnceLock<[bool; 3]> = OnceLock::new();

extern "C" fn look() {
    let is_closed = |descriptor: c_int| {
        // SAFETY: asks for the flags of a number, which need not be a descriptor; touches no
        // memory.
        unsafe { libc::fcntl(descriptor, libc::F_GETFD) == -1 }
    };
    let all = [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO];
    let _ = WERE_CLOSED.set(all.map(is_closed));
}

/// The C library calls what is listed there before `main`, and the standard library's runtime is
/// part of that.
// SAFETY: the section is a list of functions of the C calling convention that return nothing. This
// one does not need the runtime that is not there yet: it makes three system calls and stores three
// bytes.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_FIRST: extern "C" fn() = look;

fn was_closed(descriptor: c_int) -> bool {
    let all = WERE_CLOSED.get();
    all.is_some_and(|closed| closed[descriptor as usize])
}

pub fn input_was_closed() -> bool {
    was_closed(STDIN_FILENO)
}

pub fn output_was_closed() -> bool {
    was_closed(STDOUT_FILENO)
}

/// What SIGXFSZ did before [`refuse_large_files`].
static ON_LARGE_FILE: OnceLock<SigHandler> = OnceLock::new();

/// From now on, making a file longer than it may be (`ulimit -f`) is an error like any other: the
/// signal that comes with it would end this process in the middle of what it does.
pub fn refuse_large_files() -> nix::Result<()> {
    // SAFETY: installs no handler. No other thread is there yet that could expect another.
    let before = unsafe { signal(SIGXFSZ, SigHandler::SigIgn) }?;
    let _ = ON_LARGE_FILE.set(before);
    Ok(())
}

/// For the command that is started: as if this process had not changed it. Makes one system call at
/// most.
pub fn large_files_as_before() -> nix::Result<()> {
    match ON_LARGE_FILE.get() {
        None => Ok(()),
        // SAFETY: what was there when this process began is no handler: exec leaves none.
        Some(before) => unsafe { signal(SIGXFSZ, *before) }.map(drop),
    }
}
