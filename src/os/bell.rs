//! A bell that one thread rings and another one hears while it waits for something else: a pair of
//! sockets.
//!
//! Other code in the process may close or replace their numbers at any time. Then nothing is
//! written to, read from or closed that is not a socket of the pair, and the listener finds out
//! that there is nothing more to hear.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::libc;

use crate::os::file::above_standard_descriptors;
use crate::os::kept::Kept;
use crate::sync::crash_point;

/// Both ends.
pub(crate) struct Bell {
    rung: Kept,
    heard: Kept,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Anything since the last time, or nothing; there may be more to come.
    AllSoFar,
    /// One of the ends was closed or replaced: there never will be anything any more.
    Nothing,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        crash_point();
        let (rung, heard) = UnixStream::pair()?;
        Ok(Bell {
            rung: keep(rung)?,
            heard: keep(heard)?,
        })
    }

    /// Rings it. Cannot be missed: what is full of unheard rings is a bell that rings.
    pub(crate) fn ring(&self) {
        let Ok(socket) = self.rung.proven() else {
            return;
        };
        let how = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        crash_point();
        // SAFETY: the kernel reads one byte, which is there. What fails has been said above.
        let _ = unsafe { libc::send(socket.as_raw_fd(), (&raw const ONE).cast(), 1, how) };
    }

    /// Takes notice of all rings so far, without waiting.
    pub(crate) fn hear(&self) -> Heard {
        let mut rings = [0_u8; 64];
        loop {
            let Ok(socket) = self.heard.proven() else {
                return Heard::Nothing;
            };
            let (at, room) = (rings.as_mut_ptr().cast(), rings.len());
            crash_point();
            // SAFETY: the kernel writes at most as many bytes as there is room.
            let got = unsafe { libc::recv(socket.as_raw_fd(), at, room, libc::MSG_DONTWAIT) };
            match got {
                1.. => {}
                0 => return Heard::Nothing,
                _ => match Errno::last() {
                    Errno::EINTR => {}
                    Errno::EAGAIN => return Heard::AllSoFar,
                    _ => return Heard::Nothing,
                },
            }
        }
    }

    /// Closes both ends in the child of a fork; the parent continues to use them.
    pub(crate) fn close(&self) {
        self.rung.close();
        self.heard.close();
    }
}

/// What is waited for until it is readable. It may be something else by then.
impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.heard.unproven().as_fd()
    }
}

static ONE: u8 = 1;

fn keep(socket: UnixStream) -> io::Result<Kept> {
    let socket = above_standard_descriptors(OwnedFd::from(socket))?;
    Kept::new(File::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_heard_until_an_end_is_closed() {
        let bell = Bell::new().unwrap();
        assert_eq!(bell.hear(), Heard::AllSoFar);
        // More than it has room for.
        (0..100_000).for_each(|_| bell.ring());
        assert_eq!(bell.hear(), Heard::AllSoFar);
        bell.rung.close();
        assert_eq!(bell.hear(), Heard::Nothing);
        bell.ring();
        bell.heard.close();
        assert_eq!(bell.hear(), Heard::Nothing);
        let other = Bell::new().unwrap();
        other.heard.close();
        // No signal.
        other.ring();
    }
}
