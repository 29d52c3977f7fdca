//! Locks of files: one file for each, kept open, as the documentation of each has it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use fd_lock::RwLock;
use fslock::LockFile;
use named_lock::NamedLock;

use super::{Guard, Lock, Place};
use crate::Answer;

/// Made if it is not there, and left as it is if it is.
pub fn writable(path: &Path) -> Answer<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    Ok(options.open(path)?)
}

/// The byte at `offset`, locked by an open file description.
pub struct Ofd {
    file: File,
    offset: i64,
}

pub fn open_ofd(place: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(Ofd::of(&place.file("ofd"), 0)?))
}

impl Ofd {
    pub fn of(path: &Path, offset: i64) -> Answer<Ofd> {
        let file = writable(path)?;
        Ok(Ofd { file, offset })
    }

    pub fn move_to(&mut self, offset: i64) {
        self.offset = offset;
    }

    /// Takes it and gives it back.
    pub fn pair(&self) -> Answer<()> {
        self.change(libc::F_WRLCK)?;
        self.change(libc::F_UNLCK)
    }

    fn change(&self, kind: i32) -> Answer<()> {
        let lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: self.offset,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: an open file, and a valid structure that is only read.
        match unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLKW, &lock) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().into()),
        }
    }
}

impl Guard for Ofd {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        self.change(libc::F_WRLCK)?;
        inside();
        self.change(libc::F_UNLCK)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        self.change(libc::F_UNLCK)?;
        Ok(true)
    }
}

/// `flock`, since Rust 1.89 in the standard library.
struct Std(File);

pub fn open_std(place: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(Std(writable(&place.file("std"))?)))
}

impl Guard for Std {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        self.0.lock()?;
        inside();
        Ok(self.0.unlock()?)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        self.0.unlock()?;
        Ok(true)
    }
}

struct Fs4(File);

pub fn open_fs4(place: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(Fs4(writable(&place.file("fs4"))?)))
}

impl Guard for Fs4 {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        // `File` has methods of the same names now.
        fs4::FileExt::lock(&self.0)?;
        inside();
        Ok(fs4::FileExt::unlock(&self.0)?)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        fs4::FileExt::unlock(&self.0)?;
        Ok(true)
    }
}

struct FdLock(RwLock<File>);

pub fn open_fd_lock(place: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(FdLock(RwLock::new(writable(
        &place.file("fd-lock"),
    )?))))
}

impl Guard for FdLock {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let _guard = self.0.write()?;
        inside();
        Ok(())
    }
}

struct FsLock(LockFile);

pub fn open_fslock(place: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(FsLock(LockFile::open(&place.file("fslock"))?)))
}

impl Guard for FsLock {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        self.0.lock()?;
        inside();
        Ok(self.0.unlock()?)
    }
}

struct Named(NamedLock);

pub fn open_named_lock(place: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(Named(NamedLock::with_path(place.file("named"))?)))
}

impl Guard for Named {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let _guard = self.0.lock()?;
        inside();
        Ok(())
    }
}
