//! Keeping what a command writes.
//!
//! Through pipes: a script that opens `/dev/stderr` would empty a file.

use std::io::{self, ErrorKind, PipeReader, Read, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// As much as fits into a value, with room for what else is kept there.
pub const OUTPUT_BYTES_MAX: usize = (1 << 30) - 128;
/// More than a pipe holds, unless an administrator allowed more. Of a command that writes without
/// end no more than this is read at a time.
const READ_BYTES_MAX: usize = 1 << 20;

/// The reading ends of a command's standard output and error.
pub struct Capture {
    output: Stream,
    errors: Stream,
}

struct Stream {
    /// `None`: no process can write to it any more.
    from: Option<PipeReader>,
    bytes: Vec<u8>,
}

impl Capture {
    /// A capture, and the writing ends of its two pipes.
    pub fn new() -> io::Result<(Capture, OwnedFd, OwnedFd)> {
        let (output, to_output) = Stream::new()?;
        let (errors, to_errors) = Stream::new()?;
        Ok((Capture { output, errors }, to_output, to_errors))
    }

    /// Reads what is there.
    pub fn read(&mut self) -> io::Result<()> {
        self.output.read()?;
        self.errors.read()
    }

    /// How many bytes there are by now.
    pub fn len(&self) -> usize {
        self.output.bytes.len() + self.errors.bytes.len()
    }

    /// The pipes from which more may come.
    pub fn open(&self) -> Vec<BorrowedFd<'_>> {
        let both = [&self.output, &self.errors];
        let open = both.into_iter().filter_map(|stream| stream.from.as_ref());
        open.map(PipeReader::as_fd).collect()
    }

    /// Standard output, standard error.
    pub fn into_bytes(self) -> (Vec<u8>, Vec<u8>) {
        (self.output.bytes, self.errors.bytes)
    }
}

impl Stream {
    fn new() -> io::Result<(Stream, OwnedFd)> {
        let (from, to) = pipe()?;
        fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let stream = Stream {
            from: Some(from),
            bytes: Vec::new(),
        };
        Ok((stream, to.into()))
    }

    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 1 << 16];
        let enough = self.bytes.len() + READ_BYTES_MAX;
        while let Some(from) = self.from.as_mut().filter(|_| self.bytes.len() < enough) {
            match from.read(&mut buffer) {
                Ok(0) => self.from = None,
                Ok(count) => append(&mut self.bytes, &buffer[..count])?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Adds `more`, with room for what will follow if there is that, else for it alone.
fn append(bytes: &mut Vec<u8>, more: &[u8]) -> io::Result<()> {
    let wanted = bytes.len() + more.len();
    bytes
        .try_reserve(more.len())
        .or_else(|_| bytes.try_reserve_exact(more.len()))
        .map_err(|_| no_memory(wanted, "what the command wrote"))?;
    bytes.extend_from_slice(more);
    Ok(())
}

/// The error that there is no memory for so many bytes of `what`.
pub fn no_memory(bytes: usize, what: &str) -> io::Error {
    let message = format!(
        "no memory for the {bytes} bytes of {what}; allow more address space (ulimit -v), or let the command write to a file"
    );
    io::Error::new(ErrorKind::OutOfMemory, message)
}
