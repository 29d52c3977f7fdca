//! What a path names now, without opening it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::fstatat;

use crate::os::file::likeness::Likeness;
use crate::os::file::unfit::{Names, refuse_unfit};
use crate::sync::crash_point;

/// What is at a path. No link is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameSeen {
    pub(crate) like: Likeness,
    /// How many names it has, if it is a file; else one.
    pub(crate) links: u64,
    /// Device and inode.
    pub(crate) number: (u64, u64),
}

impl NameSeen {
    // Types of the fields differ between machines.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn at(path: &Path) -> io::Result<NameSeen> {
        crash_point();
        let stat = fstatat(AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let links = match refuse_unfit(path, &stat, Names::Any) {
            Ok(()) => stat.st_nlink as u64,
            Err(_) => 1,
        };
        Ok(NameSeen {
            like: Likeness::of_stat(&stat),
            links,
            number: (stat.st_dev as u64, stat.st_ino as u64),
        })
    }
}

/// Whether `path` is still the file of that device and inode: a lock on a file that was unlinked or
/// renamed excludes no process that opens the path.
pub(crate) fn is_still(path: &Path, number: (u64, u64)) -> io::Result<bool> {
    crash_point();
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok((meta.dev(), meta.ino()) == number),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
