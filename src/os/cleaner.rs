//! What keeps cleaners of temporary files away: they take what has not been touched for days, and
//! pass over directories that a process has locked. All of it is a courtesy: nothing waits for it,
//! and what fails is left.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::os::dir::{Dir, names, open_readable};
use crate::sync::crash_point;

/// How old the times of a file may become. Cleaners count in days.
pub(crate) const RENEW_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Opens a directory and locks it beside others (`flock`), for as long as it stays open. `None`: it
/// cannot be opened.
pub(crate) fn mark_in_use(dir: &Path) -> Option<Dir> {
    let open = open_dir(dir, OFlag::empty())?;
    crash_point();
    // A cleaner that has it alone just now will be done before anything here is old.
    let _ = fs2::FileExt::try_lock_shared(&open);
    Dir::keep(open).ok()
}

fn open_dir(dir: &Path, how: OFlag) -> Option<File> {
    open_readable(AT_FDCWD, dir, how).ok().map(File::from)
}

/// Whether that was longer ago than [`RENEW_AFTER`], as far as can be told.
pub(crate) fn is_long_ago(written: Option<SystemTime>) -> bool {
    let age = written.and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age > RENEW_AFTER)
}

/// Sets the times of `names` in `dir`, and of the directory, to now. Links are not followed.
pub(crate) fn renew(dir: &Path, names: impl IntoIterator<Item = impl AsRef<Path>>) {
    for name in names {
        renew_in(AT_FDCWD, &dir.join(name));
    }
    renew_in(AT_FDCWD, dir);
}

/// Sets the times of all regular files in `dir` to now, and its own. It is not followed if it is a
/// link.
pub(crate) fn renew_all(dir: &Path) {
    let Some(open) = open_dir(dir, OFlag::O_NOFOLLOW) else {
        return;
    };
    for name in names(dir).unwrap_or_default() {
        renew_in(&open, Path::new(&name));
    }
    renew_in(&open, Path::new("."));
}

fn renew_in(dir: impl AsFd, name: &Path) {
    let (now, how) = (TimeSpec::UTIME_NOW, UtimensatFlags::NoFollowSymlink);
    crash_point();
    let _ = utimensat(dir, name, &now, &now, how);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_old(file: &File) -> bool {
        is_long_ago(file.metadata().unwrap().modified().ok())
    }

    #[test]
    fn old_files_are_told_and_become_new_and_links_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - 3 * RENEW_AFTER;
        let make = |path: &Path| {
            let file = File::create(path).unwrap();
            file.set_modified(long_ago).unwrap();
            file
        };
        let (here, outside) = (dir.path().join("here"), dir.path().join("outside"));
        std::fs::create_dir(&here).unwrap();
        let (file, elsewhere) = (make(&here.join("file")), make(&outside));
        std::os::unix::fs::symlink(&outside, here.join("link")).unwrap();
        assert!(is_old(&file) && is_old(&elsewhere));
        renew_all(&here);
        assert!(!is_old(&file) && is_old(&elsewhere));
        file.set_modified(long_ago).unwrap();
        renew(&here, ["file", "link", "missing"]);
        assert!(!is_old(&file) && is_old(&elsewhere));
    }

    #[test]
    fn a_marked_directory_is_locked_for_others_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let cleaner = File::open(dir.path()).unwrap();
        let mark = mark_in_use(dir.path()).unwrap();
        assert!(fs2::FileExt::try_lock_exclusive(&cleaner).is_err());
        assert!(mark_in_use(dir.path()).is_some());
        drop(mark);
        assert!(fs2::FileExt::try_lock_exclusive(&cleaner).is_ok());
        // Nor does it wait for a cleaner.
        assert!(mark_in_use(dir.path()).is_some());
    }
}
