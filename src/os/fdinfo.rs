//! Which process has a byte of a file locked. The kernel's own answer to that question names no
//! process for locks of the open file description; the description of each descriptor in `/proc`
//! lists them. For messages only: a process that the caller may not look at shows nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::os::dir;
use crate::sync::crash_point;

/// Those of the processes that have a descriptor of `file` with byte `at` locked.
pub(crate) fn lockers(
    file: &File,
    at: u64,
    pids: impl Iterator<Item = u32>,
) -> io::Result<Vec<u32>> {
    let inode = file.metadata()?.ino();
    crash_point();
    Ok(pids.filter(|pid| has_locked(*pid, inode, at)).collect())
}

fn has_locked(pid: u32, inode: u64, at: u64) -> bool {
    let all = PathBuf::from(format!("/proc/{pid}/fdinfo"));
    let Ok(descriptors) = dir::names(&all) else {
        return false;
    };
    let mut infos = descriptors
        .iter()
        .filter_map(|one| fs::read_to_string(all.join(one)).ok());
    infos.any(|info| info.lines().any(|line| is_lock_of(line, inode, at)))
}

/// A line is `lock: 1: OFDLCK ADVISORY WRITE 4711 08:01:123456 5 5`.
fn is_lock_of(line: &str, inode: u64, at: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["lock:", _, "OFDLCK", .., file, first, last] = words[..] else {
        return false;
    };
    let is_file = file
        .rsplit(':')
        .next()
        .is_some_and(|n| n.parse() == Ok(inode));
    // The end of a lock without one is a word.
    let last = last.parse().unwrap_or(u64::MAX);
    is_file
        && first
            .parse()
            .is_ok_and(|first: u64| (first..=last).contains(&at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::range_lock;

    #[test]
    fn who_has_a_byte_locked_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, other) = (file.reopen().unwrap(), file.reopen().unwrap());
        let me = || std::iter::once(std::process::id());
        assert_eq!(lockers(&other, 7, me()).unwrap(), []);
        assert!(range_lock::try_lock(&one, 7).unwrap());
        assert_eq!(lockers(&other, 7, me()).unwrap(), [std::process::id()]);
        assert_eq!(lockers(&other, 8, me()).unwrap(), []);
        let another = tempfile::tempfile().unwrap();
        assert_eq!(lockers(&another, 7, me()).unwrap(), []);
    }

    #[test]
    fn a_lock_without_an_end_covers_what_follows() {
        let line = "lock:\t2: OFDLCK  ADVISORY  WRITE -1 08:01:123 5 EOF";
        assert!(is_lock_of(line, 123, 5) && is_lock_of(line, 123, 99));
        assert!(!is_lock_of(line, 123, 4) && !is_lock_of(line, 12, 5));
        assert!(!is_lock_of("pos:\t0", 123, 5));
    }
}
