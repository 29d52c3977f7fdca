//! Files: opening them in a way that no trap of Unix spoils.
//!
//! A directory that several users write to may hold anything by the time a name in it is opened: a
//! link to a file of another user, a FIFO, a device. So nothing is opened for being where it is
//! expected: it is a regular file with one name, found without following a link, or it is refused
//! ([`Unfit`]).

mod bytes;
mod length_limit;
mod likeness;
mod room;
mod seen;
mod unfit;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

pub(crate) use bytes::{clear, read_behind, write_all_at};
pub(crate) use length_limit::growing;
pub(crate) use likeness::{Likeness, has_mere_readers};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::{Mode, fstatat};
pub(crate) use room::{allocate, punch};
pub(crate) use seen::{NameSeen, is_still};
pub(crate) use unfit::Unfit;
use unfit::refuse_unfit_as;
pub(super) use unfit::{Names, is_directory, no_directory, refuse_unfit};

use crate::os::identity::FileIdentity;
use crate::os::kept::Kept;
use crate::sync::crash_point;

/// Opens `path` for reading and writing, close-on-exec, never as one of the descriptors 0 to 2: a
/// program that closed its standard error would otherwise print into the store. Created if missing
/// and `create`, with mode, owner and group of `like`, whatever the umask says.
pub(crate) fn open_like(path: &Path, create: bool, like: Likeness) -> io::Result<File> {
    match create {
        true => open_or_create_at(AT_FDCWD, path, like, Names::One),
        false => open_at(AT_FDCWD, path, OFlag::O_RDWR, Names::One),
    }
}

/// Opens `path` as [`open_like`] does, to be kept, and says which file it is.
pub(crate) fn open_to_keep(path: &Path, like: Likeness) -> io::Result<(Kept, FileIdentity)> {
    match open_and_look(AT_FDCWD, path, OFlag::O_RDWR, Names::One) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => keep(open_like(path, true, like)?),
        found => found.map(kept_as),
    }
}

/// Keeps a file of which nothing is known yet.
pub(crate) fn keep(file: File) -> io::Result<(Kept, FileIdentity)> {
    let identity = FileIdentity::of(&file)?;
    Ok(kept_as((file, identity)))
}

fn kept_as((file, identity): (File, FileIdentity)) -> (Kept, FileIdentity) {
    (Kept::known(file, identity.number()), identity)
}

/// Opens a file that is there, however many names it has: the slab, of which its opener says more
/// about that.
pub(crate) fn open_with_names(path: &Path) -> io::Result<(Kept, FileIdentity)> {
    open_and_look(AT_FDCWD, path, OFlag::O_RDWR, Names::Any).map(kept_as)
}

/// Opens a file of one name for reading, if it is there.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    open_at(AT_FDCWD, path, OFlag::O_RDONLY, Names::One)
}

/// The slab, for reading what is there.
pub(crate) fn open_to_read_with_names(path: &Path) -> io::Result<(Kept, FileIdentity)> {
    open_and_look(AT_FDCWD, path, OFlag::O_RDONLY, Names::Any).map(kept_as)
}

/// Opens the file `name` in `dir`, which has to be one. A device is not opened at all, unless it is
/// put there between two system calls; what was opened is looked at again.
pub(super) fn open_at(
    dir: BorrowedFd<'_>,
    name: &Path,
    how: OFlag,
    names: Names,
) -> io::Result<File> {
    open_and_look(dir, name, how, names).map(|(file, _)| file)
}

/// Opens a file as [`open_at`] does, and says which file it is.
fn open_and_look(
    dir: BorrowedFd<'_>,
    name: &Path,
    how: OFlag,
    names: Names,
) -> io::Result<(File, FileIdentity)> {
    crash_point();
    refuse_unfit(
        name,
        &fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?,
        names,
    )?;
    let file = match open_once(dir, name, how | OFlag::O_NONBLOCK, Mode::empty()) {
        // Another program has a lease on it: then opening waits until it has given that up. Should
        // a FIFO be there by now, opening it for reading and writing does not wait.
        Err(Errno::EAGAIN) if how == OFlag::O_RDWR => open_once(dir, name, how, Mode::empty())?,
        Err(Errno::ELOOP) => return Err(Unfit::error(name, "a symbolic link, not a file")),
        other => other?,
    };
    // The flag that has kept it from waiting means nothing for a regular file.
    let identity = FileIdentity::of(&file)?;
    refuse_unfit_as(name, identity.mode, identity.links, names)?;
    Ok((file, identity))
}

/// Opens the file `name` in `dir`, or makes it.
pub(super) fn open_or_create_at(
    dir: BorrowedFd<'_>,
    name: &Path,
    like: Likeness,
    names: Names,
) -> io::Result<File> {
    let mut rounds = 0;
    loop {
        match open_at(dir, name, OFlag::O_RDWR, names) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        match create_at(dir, name, like) {
            // Another process created it in the meantime.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && rounds < ROUNDS => rounds += 1,
            other => return other,
        }
    }
}

/// How often an opener may find a file there and not there by turns; beyond that, another program
/// causes it.
const ROUNDS: u32 = 16;

/// Creates a file where nothing is.
pub(super) fn create_at(dir: BorrowedFd<'_>, name: &Path, like: Likeness) -> io::Result<File> {
    let how = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    let file = open_once(dir, name, how, like.mode())?;
    like.apply(&file)?;
    Ok(file)
}

fn open_once(dir: BorrowedFd<'_>, name: &Path, how: OFlag, mode: Mode) -> nix::Result<File> {
    let always = OFlag::O_CLOEXEC | OFlag::O_LARGEFILE | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    open_anything(dir, name, how | always, mode).map(File::from)
}

/// Opens whatever is there, above the standard descriptors.
pub(super) fn open_anything(
    dir: BorrowedFd<'_>,
    name: &Path,
    how: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    loop {
        crash_point();
        match openat(dir, name, how, mode) {
            Err(Errno::EINTR) => {}
            other => return above_standard_descriptors(other?),
        }
    }
}

/// Moves a descriptor of ours away from 0 to 2, which the program may open, print to, and close.
#[allow(unsafe_code)]
pub(crate) fn above_standard_descriptors(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    crash_point();
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: `moved` was just made by the kernel for us, and nothing else owns it.
    let moved = unsafe { OwnedFd::from_raw_fd(moved) };
    // Another thread of the program may have opened its own there by `dup2` meanwhile.
    if let Ok(low) = Kept::new(File::from(fd)) {
        low.close();
    }
    Ok(moved)
}

pub(crate) fn retry<T>(mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match action() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn modes_do_not_depend_on_the_umask_and_a_replaced_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = open_like(&path, true, Likeness::of_mode(0o666)).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o666);
        let number = FileIdentity::of(&file).unwrap().number();
        assert!(is_still(&path, number).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_still(&path, number).unwrap());
        let _other = open_like(&path, true, Likeness::of_mode(0o600)).unwrap();
        assert!(!is_still(&path, number).unwrap());
    }
}
