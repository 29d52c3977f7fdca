//! Files and directories: opening them in a way that no trap of Unix spoils.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl, posix_fallocate};
use nix::sys::statfs::statfs;
use nix::unistd::{Whence, lseek};

use crate::os::memory;
use crate::sync::crash_point;

/// Opens `path` for reading and writing, close-on-exec, never as one of the descriptors 0 to 2: a program
/// that closed its standard error would otherwise print into the store. Created with `mode` if missing
/// and `create`, whatever the umask says.
pub(crate) fn open(path: &Path, create: bool, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(mode);
    crash_point();
    let file = match options.open(path) {
        Err(e) if create && e.kind() == io::ErrorKind::NotFound => create_new(path, mode)?,
        other => other?,
    };
    above_standard_descriptors(file)
}

fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(mode);
    crash_point();
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            crash_point();
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
        }
        // Somebody else created it in the meantime.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            crash_point();
            options.open(path)
        }
        Err(e) => Err(e),
    }
}

#[allow(unsafe_code)]
pub(super) fn above_standard_descriptors(file: File) -> io::Result<File> {
    if file.as_raw_fd() > 2 {
        return Ok(file);
    }
    crash_point();
    let moved = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: `moved` was just made by the kernel for us, and nothing else owns it.
    let moved = unsafe { File::from_raw_fd(moved) };
    // Closing the low one would let the next opening get it again, and again; nothing of ours does so
    // between here and the end of the process's start, and standard streams are opened by their owner.
    crash_point();
    drop(file);
    Ok(moved)
}

/// Makes `path` and what is missing above it. Only the last one gets `mode`, whatever the umask says;
/// those above are made as any program would make them. Their names are on the medium afterwards, that of the last one
/// once [`sync_above`] says so.
pub(crate) fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    crash_point();
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        // Above the first part of a relative one there is the empty path, which names nothing.
        let is_missing = |one: &&Path| !one.as_os_str().is_empty() && !one.is_dir();
        let missing: Vec<_> = parent.ancestors().take_while(is_missing).collect();
        crash_point();
        std::fs::create_dir_all(parent)?;
        missing.into_iter().try_for_each(sync_above)?;
    }
    crash_point();
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            crash_point();
            std::fs::set_permissions(path, Permissions::from_mode(mode))
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// Waits until the name of `path` is on the medium. A directory that may be written and not be read cannot
/// be opened for that: then the name is there when the kernel gets to it. Nor can all file systems do that in which
/// `path` may be mounted.
pub(crate) fn sync_above(path: &Path) -> io::Result<()> {
    let above = || {
        let whole = path.canonicalize()?;
        sync_dir(whole.parent().unwrap_or(&whole))
    };
    match above() {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
        other => other,
    }
}

/// Waits until the names in a directory are on the medium.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    crash_point();
    File::open(dir)?.sync_all()
}

/// Allocates the blocks of `len` bytes from `offset`, growing the file if it ends before. Afterwards a
/// write to them through a mapping cannot fail for lack of room.
pub(crate) fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (mut at, end) = (to_offset(offset)?, to_offset(offset.saturating_add(len))?);
    // In pieces: a signal may undo one, and where signals are frequent a large one would never be done.
    while at < end {
        crash_point();
        match posix_fallocate(file, at, ALLOCATE_BYTES.min(end - at)) {
            Ok(()) => at += ALLOCATE_BYTES,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Gives the blocks of the bytes from `from` to `to` back to the file system; they are zeros from then on, and the file
/// is as long as before. `false`: the file system, or the kernel, cannot do that.
pub(crate) fn punch(file: &File, from: u64, to: u64) -> io::Result<bool> {
    let (at, len) = (to_offset(from)?, to_offset(to.saturating_sub(from))?);
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    loop {
        crash_point();
        match fallocate(file, how, at, len) {
            Ok(()) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Takes the kernel less than the shortest interval at which signals can be expected.
const ALLOCATE_BYTES: i64 = 256 * 1024;

/// Reads `len` bytes at `offset` behind what is in `into`, without making zeros there first. `false`: the file
/// ends before.
#[allow(unsafe_code)]
pub(crate) fn read_behind(
    file: &File,
    into: &mut Vec<u8>,
    len: usize,
    offset: u64,
) -> io::Result<bool> {
    memory::reserve_exact(into, len)?;
    let mut left = len;
    while left > 0 {
        let at = to_offset(offset + (len - left) as u64)?;
        let room = into.spare_capacity_mut();
        let count = left.min(room.len());
        crash_point();
        // SAFETY: the kernel writes at most `count` bytes, which `room` has.
        let read =
            unsafe { nix::libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), count, at) };
        match read {
            0 => return Ok(false),
            1.. => {
                left -= read as usize;
                let filled = into.len() + read as usize;
                // SAFETY: so many bytes more were written just now.
                unsafe { into.set_len(filled) };
            }
            _ => match Errno::last() {
                Errno::EINTR => {}
                e => return Err(e.into()),
            },
        }
    }
    Ok(true)
}

/// Makes zeros of all bytes from `from` to `to`, as far as the file has any there. Holes stay holes.
pub(crate) fn clear(file: &File, from: u64, to: u64) -> io::Result<()> {
    let to = to.min(file.metadata()?.len());
    let mut at = from;
    while at < to {
        at = match lseek(file, to_offset(at)?, Whence::SeekData) {
            Ok(data) => data as u64,
            Err(Errno::ENXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let mut bytes = [0; 1 << 14];
        let len = bytes.len().min(to.saturating_sub(at) as usize);
        file.read_exact_at(&mut bytes[..len], at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            bytes.fill(0);
            file.write_all_at(&bytes[..len], at)?;
        }
        at += len as u64;
    }
    Ok(())
}

fn to_offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// What makes a file that file, for as long as it exists.
pub(crate) fn identity(file: &File) -> io::Result<(u64, u64)> {
    crash_point();
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// Whether `path` is still the file that was opened: a lock on a file that was unlinked or renamed
/// excludes nobody who opens the path.
pub(crate) fn is_still(path: &Path, file: &File) -> io::Result<bool> {
    crash_point();
    let there = match std::fs::metadata(path) {
        Ok(meta) => (meta.dev(), meta.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    Ok(there == identity(file)?)
}

/// The file-system type of `path`, as the magic number that the kernel gives.
pub(crate) fn fs_magic(path: &Path) -> io::Result<i64> {
    crash_point();
    // A 32-bit number on some machines.
    #[allow(clippy::useless_conversion)]
    Ok(i64::from(statfs(path)?.filesystem_type().0))
}

/// The name of a file system on which mappings are not coherent between machines, or not at all.
pub(crate) fn incoherent_fs(magic: i64) -> Option<&'static str> {
    // Numbers of linux/magic.h and of the file systems' own headers.
    Some(match magic & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0xaad7_aaea => "PanFS",
        0x4750_4653 => "GPFS",
        0x7372_6562 => "VirtualBox shared folder",
        0xbacb_acbc => "VMware shared folder",
        0x786f_4256 => "VirtualBox shared folder",
        _ => return None,
    })
}

/// Closes the descriptor of a file that is not dropped itself: of one that was inherited by a fork, or that
/// has to know which it is before it is closed.
pub(crate) fn close_once(file: &ManuallyDrop<File>) {
    crash_point();
    // A failure would mean that it is closed already.
    let _ = nix::unistd::close(file.as_raw_fd());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_and_local_ones_are_not() {
        assert_eq!(incoherent_fs(0x6969), Some("NFS"));
        assert_eq!(incoherent_fs(0x6573_5546), Some("FUSE"));
        // The kernel's long is signed on some machines.
        assert_eq!(
            incoherent_fs(i64::from(0xff53_4d42_u32 as i32)),
            Some("CIFS")
        );
        for local in [
            0xef53,
            0x0102_1994,
            0x5846_5342,
            0x9123_683e_u32 as i64,
            0x794c_7630,
        ] {
            assert_eq!(incoherent_fs(local), None);
        }
    }

    /// Of /proc no name can be waited for, as of the file system of an image, in which another one may be mounted.
    #[test]
    fn where_directories_are_never_synced_nobody_waits_for_it() {
        let error = sync_dir(Path::new("/proc")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EINVAL as i32));
        sync_above(Path::new("/proc/self")).unwrap();
        let gone = tempfile::tempdir().unwrap().path().join("gone");
        assert!(sync_above(&gone).is_err());
    }

    #[test]
    fn modes_do_not_depend_on_the_umask_and_a_replaced_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = open(&path, true, 0o666).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o666);
        assert!(is_still(&path, &file).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_still(&path, &file).unwrap());
        let _other = open(&path, true, 0o600).unwrap();
        assert!(!is_still(&path, &file).unwrap());
    }
}
