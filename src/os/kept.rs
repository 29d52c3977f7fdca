//! Descriptors that this library keeps open, in a process in which other code may close or replace
//! them.
//!
//! Daemons close all descriptors when they start (`close_range`, `closefrom`), and the kernel gives
//! the numbers out again. A number alone therefore proves nothing: used blindly it would lock,
//! grow, write or close a file of the program's own. A [`Kept`] file knows which file it was, and
//! proves it before it is used, by one `fstat`.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};

use crate::sync::{AtomicBool, Ordering, crash_point};

/// An open file of the library's own, with what proves that its number still is that file.
pub(crate) struct Kept {
    file: ManuallyDrop<File>,
    identity: (u64, u64),
    /// Or lost.
    closed: AtomicBool,
}

/// How often the kernel is asked which file it is. Local file systems answer from memory, the first
/// time.
const ATTEMPTS: u32 = 4;

impl Kept {
    pub(crate) fn new(file: File) -> io::Result<Kept> {
        crash_point();
        let identity = identity_of(&fstat(&file)?);
        Ok(Kept::known(file, identity))
    }

    /// Keeps a file of which device and inode are known.
    pub(crate) fn known(file: File, identity: (u64, u64)) -> Kept {
        Kept {
            file: ManuallyDrop::new(file),
            identity,
            closed: AtomicBool::new(false),
        }
    }

    /// The file, proved to be what was opened; `EBADF` if it is closed, or another file by now.
    pub(crate) fn proven(&self) -> io::Result<&File> {
        self.stat().map(|_| self.unproven())
    }

    /// What the kernel says of the file, which proves it as well. Once it was lost it stays lost:
    /// the file may be opened again under that number, and is another's to close then.
    pub(crate) fn stat(&self) -> io::Result<FileStat> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Errno::EBADF.into());
        }
        match self.fstat() {
            Ok(stat) if identity_of(&stat) == self.identity => Ok(stat),
            Err(e) if e != Errno::EBADF => Err(e.into()),
            _ => {
                self.closed.store(true, Ordering::Release);
                Err(Errno::EBADF.into())
            }
        }
    }

    /// Asked again if the kernel was interrupted, or cannot answer at the moment: a file that is
    /// not closed for want of an answer would keep what is locked in it.
    fn fstat(&self) -> nix::Result<FileStat> {
        let mut attempts = 1;
        loop {
            crash_point();
            match fstat(&*self.file) {
                Err(Errno::EINTR | Errno::EIO | Errno::ENOMEM) if attempts < ATTEMPTS => {
                    attempts += 1;
                }
                answer => return answer,
            }
        }
    }

    /// The file without a proof: only for what does no harm to another file, and is not believed.
    pub(crate) fn unproven(&self) -> &File {
        &self.file
    }

    /// Device and inode, as they were when it was opened.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Leaves the number alone from now on, for it is known in another way not to be its own any
    /// more.
    pub(crate) fn give_up(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Closes it, once, and only if the number still is its own. May run in the child of a fork.
    pub(crate) fn close(&self) {
        let is_ours = self.stat().is_ok();
        if is_ours && !self.closed.swap(true, Ordering::AcqRel) {
            crash_point();
            // It was open a moment ago; a failure would mean that it is closed already.
            let _ = nix::unistd::close(self.file.as_raw_fd());
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.close();
    }
}

// Types of the fields differ between machines.
#[allow(clippy::unnecessary_cast)]
/// Device and inode.
fn identity_of(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    fn is_detached<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(Errno::EBADF as i32))
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_number_that_was_given_to_another_file_is_neither_used_nor_closed() {
        let (ours, theirs) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let kept = Kept::new(ours.try_clone().unwrap()).unwrap();
        assert!(kept.proven().is_ok());
        let number = kept.unproven().as_raw_fd();
        // SAFETY: both numbers are open; what `number` leads to is replaced, as other code may do
        // at any time.
        assert_eq!(
            unsafe { nix::libc::dup2(theirs.as_raw_fd(), number) },
            number
        );
        assert!(is_detached(kept.proven()));
        // SAFETY: `dup2` has made it a moment ago, and `kept` does not close it.
        let replaced = unsafe { File::from_raw_fd(number) };
        // Nor if it is that file's again: its other owner will close it.
        // SAFETY: as above.
        let again = unsafe { nix::libc::dup2(ours.as_raw_fd(), number) };
        assert_eq!(again, number);
        assert!(is_detached(kept.proven()));
        drop(kept);
        assert!(replaced.metadata().is_ok());
    }

    #[test]
    fn a_closed_number_is_not_used_any_more_and_closing_twice_closes_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kept = Kept::new(file.reopen().unwrap()).unwrap();
        kept.close();
        // It may get the number.
        let others = file.reopen().unwrap();
        kept.close();
        assert!(is_detached(kept.stat()));
        assert!(others.metadata().is_ok());
    }
}
