//! Files that a process has open, and locks of parts of them, past the library.

use std::collections::BTreeMap;
use std::fs::{File, read_dir, read_link};
use std::ops::Range;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// What this process has open, and under which numbers.
pub fn descriptors() -> BTreeMap<RawFd, PathBuf> {
    let names = read_dir("/proc/self/fd").unwrap();
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.unwrap().file_name();
        name.to_str().unwrap().parse().unwrap()
    };
    let numbers: Vec<RawFd> = names.map(number).collect();
    // The list's own is closed by now.
    let open = numbers.into_iter().filter_map(|number| {
        let path = read_link(format!("/proc/self/fd/{number}"));
        path.ok().map(|path| (number, path))
    });
    open.collect()
}

/// What of it is below a directory.
pub fn open_below(dir: &Path) -> Vec<(RawFd, PathBuf)> {
    let dir = dir.canonicalize().unwrap();
    let open = descriptors().into_iter();
    open.filter(|(_, path)| path.starts_with(&dir)).collect()
}

/// The record of a lock of some bytes, for `fcntl`. An empty range: of all bytes from there on.
pub fn lock_record(kind: libc::c_int, bytes: Range<i64>) -> libc::flock {
    libc::flock {
        l_type: kind as _,
        l_whence: libc::SEEK_SET as _,
        l_start: bytes.start,
        l_len: bytes.end - bytes.start,
        l_pid: 0,
    }
}

/// Locks bytes of a file, or unlocks them, for as long as it is open at the most.
pub fn lock_bytes(file: &File, kind: libc::c_int, bytes: Range<i64>) {
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock_record(kind, bytes))).unwrap();
}

/// Locks stripes of a store by itself, as a process does that is in the middle of changing them.
pub fn lock_stripes(store: &Path, stripes: Range<i64>) -> File {
    let mut options = File::options();
    let file = options.read(true).write(true).open(store.join("stripes"));
    let file = file.unwrap();
    // Each is followed by those of shards.
    lock_bytes(&file, libc::F_WRLCK, stripes.start << 8..stripes.end << 8);
    file
}
