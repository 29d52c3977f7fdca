//! The bytes of a file: written, read into memory that is not cleared before, and cleared.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Whence, lseek};

use crate::os::file::length_limit::growing;
use crate::os::memory;
use crate::sync::crash_point;

/// Writes all of it. A limit of the process for the length of files (`ulimit -f`) is an error.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    growing(|| {
        crash_point();
        file.write_all_at(bytes, offset)
    })
}

/// Reads `len` bytes at `offset` behind what is in `into`, without making zeros there first.
/// `false`: the file ends before.
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
        let read = unsafe { libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), count, at) };
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

/// Makes zeros of all bytes from `from` to `to`, as far as the file has any there. Holes stay
/// holes.
pub(crate) fn clear(file: &File, from: u64, to: u64) -> io::Result<()> {
    let to = to.min(file.metadata()?.len());
    let mut at = from;
    // Not in a frame: the thread may have a small stack.
    let mut bytes = memory::filled(0, 1 << 14)?;
    while at < to {
        at = match lseek(file, to_offset(at)?, Whence::SeekData) {
            Ok(data) => data as u64,
            Err(Errno::ENXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let len = bytes.len().min(to.saturating_sub(at) as usize);
        file.read_exact_at(&mut bytes[..len], at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            bytes.fill(0);
            write_all_at(file, &bytes[..len], at)?;
        }
        at += len as u64;
    }
    Ok(())
}

pub(super) fn to_offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
