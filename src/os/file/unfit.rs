//! What is refused where a file of one name, or a directory, was expected, and in which words.

use std::path::Path;
use std::{fmt, io};

use nix::sys::stat::{FileStat, SFlag};

/// How many names a file may have.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::os) enum Names {
    One,
    Any,
}

/// Something that is no file of one name, where one was expected: nothing was opened, and nothing
/// done to it.
#[derive(Debug)]
pub(crate) struct Unfit {
    name: String,
    what: String,
}

impl Unfit {
    pub(super) fn error(name: &Path, what: impl Into<String>) -> io::Error {
        let name = name.file_name().unwrap_or(name.as_os_str());
        io::Error::other(Unfit {
            name: name.to_string_lossy().into_owned(),
            what: what.into(),
        })
    }

    pub(crate) fn is(error: &io::Error) -> bool {
        let inner = error.get_ref();
        inner.is_some_and(|inner| inner.is::<Unfit>())
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.name, self.what)
    }
}

impl std::error::Error for Unfit {}

/// What a file is that is none, in words.
fn kind_of(mode: u32) -> &'static str {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => "a file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFBLK | SFlag::S_IFCHR => "a device",
        _ => "something unknown",
    }
}

/// Says that `name` is no directory.
pub(in crate::os) fn no_directory(name: &Path, stat: &FileStat) -> io::Error {
    let what = format!(
        "{}, not a directory of the store's; look who has put it there, and remove it",
        kind_of(stat.st_mode)
    );
    Unfit::error(name, what)
}

pub(in crate::os) fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// Refuses what is no regular file, or has other names than may be.
// Types of the fields differ between machines.
#[allow(clippy::unnecessary_cast)]
pub(in crate::os) fn refuse_unfit(name: &Path, stat: &FileStat, names: Names) -> io::Result<()> {
    refuse_unfit_as(name, stat.st_mode, stat.st_nlink as u64, names)
}

pub(super) fn refuse_unfit_as(name: &Path, mode: u32, links: u64, names: Names) -> io::Result<()> {
    if mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        let what = format!(
            "{}, not a file; look who has put it there, and remove it",
            kind_of(mode)
        );
        return Err(Unfit::error(name, what));
    }
    // None at all: it was removed a moment ago, which is for the caller to notice.
    if names == Names::One && links > 1 {
        let what = format!(
            "a file of {} names (hard links), and those of a store have one; remove the others, and copy a store \
             without links",
            links
        );
        return Err(Unfit::error(name, what));
    }
    Ok(())
}
