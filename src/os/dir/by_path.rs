//! Directories by their paths: making them, and waiting until names are on the device.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};

use crate::os::dir::{Dir, open_readable};
use crate::os::file::Likeness;
use crate::sync::crash_point;

/// Makes `path` and what is missing above it. Only the last one gets `mode`, whatever the umask
/// says; those above are made as any program would make them. Their names are on the device
/// afterwards, that of the last one once [`sync_above`] says so.
pub(crate) fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    crash_point();
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = above {
        // Above the first part of a relative one there is the empty path, which names nothing.
        let is_missing = |one: &&Path| !one.as_os_str().is_empty() && !one.is_dir();
        let missing: Vec<_> = parent.ancestors().take_while(is_missing).collect();
        crash_point();
        std::fs::create_dir_all(parent)?;
        missing.into_iter().try_for_each(sync_above)?;
    }
    let Some(name) = path.file_name().map(OsStr::as_ref) else {
        // It ends in `..`: what that points to is made by now, if anything could make it.
        return match path.is_dir() {
            true => Ok(()),
            false => Err(Errno::ENOENT.into()),
        };
    };
    let above = Dir::open(above.unwrap_or(Path::new(".")))?;
    match above.make_dir(name, Likeness::of_mode(mode)) {
        // Made in the meantime, or a link to one: the directory of a store may be one.
        Err(_) if path.is_dir() => Ok(()),
        other => other,
    }
}

/// Waits until the name of `path` is on the device. A directory that may be written and not be read
/// cannot be opened for that: then the name is there when the kernel gets to it. Nor can all file
/// systems do that in which `path` may be mounted.
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

/// Waits until the names in a directory are on the device.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = File::from(open_readable(AT_FDCWD, dir, OFlag::empty())?);
    crash_point();
    dir.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of /proc no name can be waited for, as of the file system of an image, in which another one
    /// may be mounted.
    #[test]
    fn where_directories_are_never_synced_nobody_waits_for_it() {
        let error = sync_dir(Path::new("/proc")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EINVAL as i32));
        sync_above(Path::new("/proc/self")).unwrap();
        let gone = tempfile::tempdir().unwrap().path().join("gone");
        assert!(sync_above(&gone).is_err());
    }
}
