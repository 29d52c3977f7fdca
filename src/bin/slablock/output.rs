//! Standard output, of which everything is written or it is known that it was not.
//!
//! That of the standard library takes one that was closed, or is open for reading only, for one
//! that swallows everything; and gives up in the middle where another program has set a pipe not to
//! wait.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, stdout};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{close, write};

use crate::failure::Failure;
use crate::start;

/// Why not all of it was written.
#[derive(Debug)]
pub enum Unwritten {
    /// The reader has gone, as in `slablock status | head -1`.
    Unread,
    Failed(io::Error),
}

impl Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write to standard output: ")?;
        match self {
            Unwritten::Unread => f.write_str("nobody reads it"),
            Unwritten::Failed(error) if error.kind() == ErrorKind::FileTooLarge => {
                write!(f, "{error}; allow larger files (ulimit -f)")
            }
            Unwritten::Failed(error) => error.fmt(f),
        }
    }
}

/// For what only says something: a reader that has gone wanted no more, which is no failure worth a
/// word.
impl From<Unwritten> for Failure {
    fn from(unwritten: Unwritten) -> Failure {
        match unwritten {
            Unwritten::Unread => Failure::silent(0),
            Unwritten::Failed(_) => Failure::new(unwritten),
        }
    }
}

impl From<Errno> for Unwritten {
    fn from(error: Errno) -> Unwritten {
        match error {
            Errno::EPIPE => Unwritten::Unread,
            _ => Unwritten::Failed(error.into()),
        }
    }
}

/// Writes all of it. Nothing to write always works.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<(), Unwritten> {
    let mut left = bytes.as_ref();
    if left.is_empty() {
        return Ok(());
    }
    if start::output_was_closed() {
        return Err(Unwritten::Failed(io::Error::other("it is closed")));
    }
    let out = stdout();
    while !left.is_empty() {
        match write(&out, left) {
            Ok(0) => return Err(Unwritten::Failed(ErrorKind::WriteZero.into())),
            Ok(written) => left = &left[written..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait_for_room()?,
            Err(error) => return Err(error.into()),
        }
    }
    // Some file systems say only now that there was no room. Without a descriptor to spare they are
    // not asked.
    match out.as_fd().try_clone_to_owned() {
        Ok(copy) => Ok(close(copy)?),
        Err(_) => Ok(()),
    }
}

/// Writes a line.
pub fn print_line(line: impl Display) -> Result<(), Unwritten> {
    print(format!("{line}\n"))
}

/// Writes what a change has come to. The change has happened, whatever becomes of its number.
pub fn print_done(line: impl Display) -> Result<(), Failure> {
    match print_line(&line) {
        Ok(()) | Err(Unwritten::Unread) => Ok(()),
        Err(unwritten) => {
            let line = line.to_string().replace('\n', "; ");
            Err(Failure::new(format!("done ({line}), but {unwritten}")))
        }
    }
}

fn wait_for_room() -> Result<(), Errno> {
    let out = stdout();
    let mut ready = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut ready, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}
