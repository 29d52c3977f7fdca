//! Why a command did not do what was asked: one line for the reader and an exit status.

use std::{fmt::Display, io, process::ExitCode};

use crate::text;

/// Absent, unsound, or not possible.
pub const FAILED: u8 = 1;
/// Of a question about a value: no. It is not there, or is there already.
pub const NO: u8 = 1;
/// Typed wrongly.
pub const USAGE: u8 = 2;
/// `run` itself failed, as opposed to the command that it runs (`env` and `timeout` use the same).
pub const RUN_FAILED: u8 = 125;
/// The command was found but could not be started.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;
/// The hold was lost while the command ran.
pub const LOST: u8 = 76;

/// Ends a command early.
#[derive(Debug)]
pub struct Failure {
    /// `None` where nobody is left to read it.
    message: Option<String>,
    status: u8,
    /// The status is the user's own choice.
    chosen: bool,
}

impl Failure {
    /// A failure with the status of everything but `run`.
    pub fn new(message: impl Display) -> Failure {
        Failure::with_status(FAILED, message)
    }

    pub fn with_status(status: u8, message: impl Display) -> Failure {
        Failure {
            message: Some(message.to_string()),
            status,
            chosen: false,
        }
    }

    /// Ends with `status` and says nothing.
    pub fn silent(status: u8) -> Failure {
        Failure {
            message: None,
            status,
            chosen: false,
        }
    }

    /// Keeps its status whatever it is: the user chose it.
    pub fn chosen(self) -> Failure {
        Failure {
            chosen: true,
            ..self
        }
    }

    /// The same failure seen from `run`, whose status 1 would look like the command's own, and from what asks
    /// for a value, whose status 1 is an answer.
    pub fn of_run(self) -> Failure {
        match self.status {
            FAILED if !self.chosen => Failure {
                status: RUN_FAILED,
                ..self
            },
            _ => self,
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
        Failure::new(error)
    }
}

/// Whoever read our output has gone, as in `slablock status | head -1`: no failure worth a word.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::silent(0),
            _ => Failure::new(error),
        }
    }
}

impl From<nix::Error> for Failure {
    fn from(error: nix::Error) -> Failure {
        io::Error::from(error).into()
    }
}
