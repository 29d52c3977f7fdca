//! Which descriptors a command gets from slablock, and under which numbers.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use slablock::Lifeline;

/// Shells hand out the small numbers to scripts (`exec 3>file`), which would close the lifeline.
pub const LIFELINE_MIN: i32 = 64;

/// Which descriptors the command is to have besides its streams and those that this process was
/// given.
#[derive(Clone, Copy)]
pub enum Passed<'a> {
    /// The lifeline, at numbers that are out of the way.
    Lifeline(&'a Lifeline),
    /// These, under their numbers.
    As(&'a [OwnedFd]),
}

impl Passed<'_> {
    /// Runs in the child, where descriptors are its own but memory is its parent's.
    pub fn let_through_exec(self) -> nix::Result<()> {
        let keep = |descriptor| fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).map(drop);
        match self {
            Passed::As(descriptors) => descriptors
                .iter()
                .try_for_each(|descriptor| keep(descriptor.as_fd())),
            Passed::Lifeline(lifeline) => lifeline.descriptors().try_for_each(|it| {
                // Where few descriptors are allowed the number that it has must do.
                match fcntl(it, FcntlArg::F_DUPFD(LIFELINE_MIN)) {
                    Ok(_) => Ok(()),
                    Err(_) => keep(it),
                }
            }),
        }
    }
}
