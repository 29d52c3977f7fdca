//! What makes a file that file, and no copy of it.
//!
//! An inode number alone does not: file systems give it out again as soon as the file is gone, and
//! an overlay shows one number for two files. Together with the time at which the inode was made it
//! is as good as unique: a copy, a restored backup and an overlay's own version of a file were all
//! made later. The device says nothing beyond that, and changes when the same file system is
//! mounted again, so it is compared only where the kernel tells no birth time.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;

use crate::sync::crash_point;

/// Set in [`FileIdentity::born`] if it is no time, but the generation that the file system gave to
/// the inode.
const IS_GENERATION: u64 = 1 << 63;

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// When the inode was made, in nanoseconds since 1970; or its generation, with bit 63 set; 0
    /// where the file system tells neither.
    pub(crate) born: u64,
    /// How many names it has.
    pub(crate) links: u64,
    /// When it was written last.
    pub(crate) written: Option<SystemTime>,
    /// How long it is.
    pub(crate) len: u64,
    /// What type of file it is, and its permissions.
    pub(crate) mode: u32,
}

impl FileIdentity {
    pub(crate) fn of(file: &File) -> io::Result<FileIdentity> {
        crash_point();
        let meta = file.metadata()?;
        let time = meta.created().ok();
        let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let born = match since {
            Some(since) => since.as_nanos() as u64 & !IS_GENERATION,
            None => generation(file).map_or(0, |number| u64::from(number) | IS_GENERATION),
        };
        Ok(FileIdentity {
            device: meta.dev(),
            inode: meta.ino(),
            born,
            links: meta.nlink(),
            written: meta.modified().ok(),
            len: meta.len(),
            mode: meta.mode(),
        })
    }

    /// Device and inode, which tell the open files of a process apart.
    pub(crate) fn number(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether it is the file that was described so, as far as that can be told.
    pub(crate) fn is(&self, device: u64, inode: u64, born: u64) -> bool {
        let same_birth = match (self.born, born) {
            // The device is all that there is besides.
            (0, 0) => self.device == device,
            (now, then) => now == then,
        };
        self.inode == inode && same_birth
    }
}

nix::ioctl_read!(
    /// `FS_IOC_GETVERSION` of linux/fs.h.
    get_version,
    b'v',
    1,
    libc::c_long
);

/// The number by which some file systems tell the inodes apart that had a number one after the
/// other.
#[allow(unsafe_code)]
fn generation(file: &File) -> Option<u32> {
    let mut number: libc::c_long = 0;
    crash_point();
    // SAFETY: the call writes an int, for which a long has room, and the descriptor is open.
    let asked = unsafe { get_version(file.as_raw_fd(), &raw mut number) };
    asked.ok().map(|_| number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_itself_and_a_copy_is_not_although_it_gets_the_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"1").unwrap();
        let first = FileIdentity::of(&File::open(&path).unwrap()).unwrap();
        let again = FileIdentity::of(&File::open(&path).unwrap()).unwrap();
        assert!(again.is(first.device, first.inode, first.born));
        assert_eq!(first.links, 1);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"1").unwrap();
        let copy = FileIdentity::of(&File::open(&path).unwrap()).unwrap();
        assert!(!copy.is(first.device, first.inode, first.born), "{copy:?}");
    }

    #[test]
    fn the_device_counts_only_where_no_birth_is_told() {
        let file = FileIdentity {
            device: 1,
            inode: 2,
            born: 3,
            links: 1,
            written: None,
            len: 0,
            mode: 0o100600,
        };
        assert!(file.is(9, 2, 3) && !file.is(1, 2, 4) && !file.is(1, 3, 3));
        let unborn = FileIdentity { born: 0, ..file };
        assert!(unborn.is(1, 2, 0) && !unborn.is(9, 2, 0) && !unborn.is(1, 2, 3));
    }
}
