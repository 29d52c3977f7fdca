//! Why a command did not do what was asked: one line for the reader and an exit status.

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::geteuid;
use slablock::Error;

use crate::{text, users};

/// No: it is not there, or is there already, or is not sound. Never a failure.
pub const NO: u8 = 1;
/// Typed wrongly.
pub const USAGE: u8 = 2;
/// `slablock` itself failed, as opposed to the command that it runs (`env` and `timeout` use the
/// same).
pub const FAILED: u8 = 125;
/// The command was found but could not be started.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;
/// The hold was lost while the command ran.
pub const LOST: u8 = 76;

/// Ends a command early.
#[derive(Debug)]
pub struct Failure {
    /// `None`: nothing is printed.
    message: Option<String>,
    status: u8,
}

impl Failure {
    /// A failure of `slablock` itself.
    pub fn new(message: impl Display) -> Failure {
        Failure::with_status(FAILED, message)
    }

    pub fn with_status(status: u8, message: impl Display) -> Failure {
        Failure {
            message: Some(message.to_string()),
            status,
        }
    }

    /// Ends with `status` and says nothing.
    pub fn silent(status: u8) -> Failure {
        Failure {
            message: None,
            status,
        }
    }

    /// This failure, told after something else.
    pub fn after(self, first: impl Display) -> Failure {
        let message = match self.message {
            Some(message) => format!("{first}: {message}"),
            None => first.to_string(),
        };
        Failure {
            message: Some(message),
            ..self
        }
    }

    pub fn report(self) -> ExitCode {
        ExitCode::from(self.tell())
    }

    /// Says what there is to say, and returns the status to exit with.
    pub fn tell(self) -> u8 {
        if let Some(message) = &self.message {
            text::complain(message);
        }
        self.status
    }
}

impl From<slablock::Error> for Failure {
    fn from(error: slablock::Error) -> Failure {
        match &error {
            Error::Io { path, source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Failure::new(format!("{error}; {}; {ELSEWHERE}", denied(path)))
            }
            Error::Io { source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem => {
                Failure::new(format!("{error}; {ELSEWHERE}"))
            }
            Error::NoSpace { .. } | Error::UnsupportedFs { .. } => {
                Failure::new(format!("{error}; {ELSEWHERE}"))
            }
            _ => Failure::new(error),
        }
    }
}

/// What can be done about a directory that does not serve.
const ELSEWHERE: &str = "another directory is named with --dir or SLABLOCK_DIR";

/// Why this user may not use `path`: the first directory on the way that may not be searched, or
/// the file itself, or the directory that it would be made in; its mode, owner and group.
pub fn denied(path: &Path) -> String {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let closed = way
        .windows(2)
        .find(|pair| {
            fs::symlink_metadata(pair[1])
                .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
        })
        .map(|pair| pair[0]);
    // What is not there could not be made: what is above it decides.
    let is_there = |path: &&Path| fs::symlink_metadata(path).is_ok();
    let closed = closed.or_else(|| path.ancestors().find(is_there));
    let closed = closed.unwrap_or(path);
    let me = users::named(geteuid().as_raw());
    match fs::metadata(closed) {
        Ok(meta) => format!(
            "{} has mode {:04o} and belongs to user {} and group {}, and this is user {me}",
            closed.display(),
            meta.mode() & 0o7777,
            users::named(meta.uid()),
            meta.gid(),
        ),
        Err(_) => format!("this is user {me}"),
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(error)
    }
}

impl From<nix::Error> for Failure {
    fn from(error: nix::Error) -> Failure {
        io::Error::from(error).into()
    }
}
