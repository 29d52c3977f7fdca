//! The blocks of a file on the device: allocated before they are written to, and given back.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate, posix_fallocate};

use crate::os::file::bytes::to_offset;
use crate::os::file::length_limit::growing;
use crate::sync::crash_point;

/// Takes the kernel less than the shortest interval at which signals can be expected.
const ALLOCATE_BYTES: i64 = 256 * 1024;

/// Allocates the blocks of `len` bytes from `offset`, growing the file if it ends before.
/// Afterwards a write to them through a mapping cannot fail for lack of room.
pub(crate) fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (mut at, end) = (to_offset(offset)?, to_offset(offset.saturating_add(len))?);
    // In pieces: a signal may undo one, and where signals are frequent a large one would never be
    // done.
    while at < end {
        let len = ALLOCATE_BYTES.min(end - at);
        crash_point();
        match growing(|| Ok(posix_fallocate(file, at, len)?)) {
            Ok(()) => at += ALLOCATE_BYTES,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Gives the blocks of the bytes from `from` to `to` back to the file system; they are zeros from
/// then on, and the file is as long as before. `false`: the file system, or the kernel, cannot do
/// that.
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
