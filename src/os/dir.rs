//! Files by their names in a directory that is open: found wherever the directory is moved to, and
//! never those of another one that was put in its place. No link is followed, see [`mod@file`].

mod by_path;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

pub(crate) use by_path::{create_dir, sync_above, sync_dir};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::os::file::{self, Likeness, Names};
use crate::os::kept::Kept;
use crate::sync::crash_point;

/// An open directory, which need not be readable. Its descriptor is proved to be its own whenever
/// it is used.
pub(crate) struct Dir(Kept);

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// And to read.
    Write,
}

impl Dir {
    pub(crate) fn open(path: &Path) -> io::Result<Dir> {
        Dir::open_at(AT_FDCWD, path, OFlag::empty())
    }

    fn open_at(dir: BorrowedFd<'_>, path: &Path, how: OFlag) -> io::Result<Dir> {
        let how = how | OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = file::open_anything(dir, path, how, Mode::empty())?;
        Dir::keep(dir.into())
    }

    /// Keeps a directory that is open, to read or only to find names in.
    pub(super) fn keep(dir: File) -> io::Result<Dir> {
        Kept::new(dir).map(Dir)
    }

    /// A directory in it.
    pub(crate) fn dir(&self, name: &Path) -> io::Result<Dir> {
        match Dir::open_at(self.fd()?, name, OFlag::O_NOFOLLOW) {
            Err(e) => Err(self.instead_of_dir(name).unwrap_or(e)),
            dir => dir,
        }
    }

    /// What there is where a directory was expected, if it is none.
    fn instead_of_dir(&self, name: &Path) -> Option<io::Error> {
        let stat = self.stat(name).ok()?;
        (!file::is_directory(&stat)).then(|| file::no_directory(name, &stat))
    }

    /// Device and inode, as they were when it was opened.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.0.identity()
    }

    /// Whether its descriptor still is its own.
    pub(crate) fn is_attached(&self) -> bool {
        self.0.proven().is_ok()
    }

    /// Closes it, if it still is its own. May run in the child of a fork.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.0.proven()?.as_fd())
    }

    fn stat(&self, name: &Path) -> io::Result<nix::sys::stat::FileStat> {
        crash_point();
        Ok(fstatat(self.fd()?, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Opens a file that is there.
    pub(crate) fn file(&self, name: &Path, access: Access) -> io::Result<File> {
        let how = match access {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_RDWR,
        };
        file::open_at(self.fd()?, name, how, Names::One)
    }

    /// Makes a file where there is nothing.
    pub(crate) fn create(&self, name: &Path, like: Likeness) -> io::Result<File> {
        file::create_at(self.fd()?, name, like)
    }

    /// Owner, group and mode of a file.
    pub(crate) fn likeness_of(&self, name: &Path) -> io::Result<Likeness> {
        Ok(Likeness::of_stat(&self.stat(name)?))
    }

    /// Makes a directory in it, unless there is one; in either case it is no link. Its name may not
    /// be on the device yet.
    pub(crate) fn make_dir(&self, name: &Path, like: Likeness) -> io::Result<()> {
        let like = like.of_dir();
        crash_point();
        match mkdirat(self.fd()?, name, like.mode()) {
            Err(Errno::EEXIST) => return self.instead_of_dir(name).map_or(Ok(()), Err),
            other => other?,
        }
        let made = match open_readable(self.fd()?, name, OFlag::O_NOFOLLOW) {
            // The umask has taken away our own right to read it.
            Err(Errno::EACCES) => {
                let setgid = self.stat(name)?.st_mode & Mode::S_ISGID.bits();
                let mode = Mode::S_IRWXU | Mode::from_bits_truncate(setgid);
                crash_point();
                fchmodat(self.fd()?, name, mode, FchmodatFlags::NoFollowSymlink)?;
                open_readable(self.fd()?, name, OFlag::O_NOFOLLOW)?
            }
            other => other?,
        };
        like.apply(made)
    }

    /// Waits until its own names are on the device. It may be written and not be read: then they
    /// are when the kernel gets to it.
    pub(crate) fn sync_own(&self) -> io::Result<()> {
        match self.sync(Path::new(".")) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        }
    }

    /// Waits until the names in a directory in it are on the device.
    pub(crate) fn sync(&self, name: &Path) -> io::Result<()> {
        let dir = File::from(self.readable(name)?);
        crash_point();
        dir.sync_all()
    }

    /// The names of what there is in a directory in it.
    pub(crate) fn names(&self, name: &Path) -> io::Result<Vec<OsString>> {
        names_in(self.readable(name)?)
    }

    fn readable(&self, name: &Path) -> io::Result<OwnedFd> {
        let opened = open_readable(self.fd()?, name, OFlag::O_NOFOLLOW);
        opened.map_err(|e| self.instead_of_dir(name).unwrap_or(e.into()))
    }

    /// Removes a name, whatever it is the name of: a directory only if it is empty.
    pub(crate) fn remove(&self, name: &Path) -> io::Result<()> {
        crash_point();
        match unlinkat(self.fd()?, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                crash_point();
                Ok(unlinkat(self.fd()?, name, UnlinkatFlags::RemoveDir)?)
            }
            other => Ok(other?),
        }
    }

    /// How long a file is, and how much of the device it takes.
    // Types of the fields differ between machines.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn size(&self, name: &Path) -> io::Result<(u64, u64)> {
        let stat = self.stat(name)?;
        file::refuse_unfit(name, &stat, Names::Any)?;
        Ok((stat.st_size as u64, stat.st_blocks as u64 * 512))
    }
}

/// Opens a directory to list or to sync it.
pub(super) fn open_readable(dir: BorrowedFd<'_>, name: &Path, how: OFlag) -> nix::Result<OwnedFd> {
    let how = how | OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    file::open_anything(dir, name, how, Mode::empty())
}

/// The names of what there is in a directory. The standard library would list it by a descriptor of
/// any number.
pub(crate) fn names(path: &Path) -> io::Result<Vec<OsString>> {
    names_in(open_readable(AT_FDCWD, path, OFlag::empty())?)
}

/// Begins to list a directory. If that fails, nix says that it closes the descriptor, and version
/// 0.31 does not.
#[allow(unsafe_code)]
fn listing(dir: OwnedFd) -> io::Result<nix::dir::Dir> {
    crash_point();
    let (number, before) = (dir.as_raw_fd(), fstat(&dir)?);
    crash_point();
    nix::dir::Dir::from_fd(dir).map_err(|error| {
        // SAFETY: borrowed to ask what it is, which does no harm to a descriptor of others.
        let is_open = match fstat(unsafe { BorrowedFd::borrow_raw(number) }) {
            Ok(now) => (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino),
            Err(e) => e != Errno::EBADF,
        };
        if is_open {
            // SAFETY: it is still open, and was given up by its only owner.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
        error.into()
    })
}

fn names_in(dir: OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in listing(dir)? {
        crash_point();
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}
