//! Files by their names in a directory that is open: found wherever the directory is moved to, and never those of
//! another one that was put in its place.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::os::file::above_standard_descriptors;
use crate::sync::crash_point;

/// An open directory, which need not be readable.
pub(crate) struct Dir(File);

impl Dir {
    pub(crate) fn open(path: &Path) -> io::Result<Dir> {
        let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        crash_point();
        let dir = nix::fcntl::open(path, how, Mode::empty())?;
        above_standard_descriptors(dir.into()).map(Dir)
    }

    /// Opens a file as [`file::open`](super::file::open) does.
    pub(crate) fn file(&self, name: &Path, create: bool, mode: u32) -> io::Result<File> {
        let file = match self.open_with(name, OFlag::O_RDWR, Mode::empty()) {
            Err(Errno::ENOENT) if create => self.create(name, mode)?,
            other => other?,
        };
        above_standard_descriptors(file)
    }

    fn create(&self, name: &Path, mode: u32) -> io::Result<File> {
        let how = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        match self.open_with(name, how, Mode::from_bits_truncate(mode)) {
            Ok(file) => {
                crash_point();
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                Ok(file)
            }
            // Somebody else created it in the meantime.
            Err(Errno::EEXIST) => Ok(self.open_with(name, OFlag::O_RDWR, Mode::empty())?),
            Err(e) => Err(e.into()),
        }
    }

    fn open_with(&self, name: &Path, how: OFlag, mode: Mode) -> nix::Result<File> {
        let how = how | OFlag::O_CLOEXEC | OFlag::O_LARGEFILE;
        loop {
            crash_point();
            match openat(&self.0, name, how, mode) {
                Err(Errno::EINTR) => {}
                other => return other.map(File::from),
            }
        }
    }

    /// Makes a directory in it with `mode`, whatever the umask says, unless there is one. Its name may not be on the
    /// medium yet.
    pub(crate) fn make_dir(&self, name: &Path, mode: u32) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        crash_point();
        match mkdirat(&self.0, name, mode) {
            Err(Errno::EEXIST) => return Ok(()),
            other => other?,
        }
        crash_point();
        Ok(fchmodat(&self.0, name, mode, FchmodatFlags::FollowSymlink)?)
    }

    /// Waits until its own names are on the medium. It may be written and not be read: then they are when the kernel
    /// gets to it.
    pub(crate) fn sync_own(&self) -> io::Result<()> {
        match self.sync(Path::new(".")) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        }
    }

    /// Waits until the names in a directory in it are on the medium.
    pub(crate) fn sync(&self, name: &Path) -> io::Result<()> {
        let how = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = self.open_with(name, how, Mode::empty())?;
        crash_point();
        dir.sync_all()
    }

    pub(crate) fn remove(&self, name: &Path) -> io::Result<()> {
        crash_point();
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// How long a file is, and how much of the device it takes.
    // Types of the fields differ between machines.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn size(&self, name: &Path) -> io::Result<(u64, u64)> {
        crash_point();
        let stat = fstatat(&self.0, name, AtFlags::empty())?;
        Ok((stat.st_size as u64, stat.st_blocks as u64 * 512))
    }
}
