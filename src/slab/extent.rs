//! How much of a slab there is: what is allocated of each region that can grow, and how much of
//! that is in the file. Growing is here, and what is done alone about a file that is too short, has
//! holes, or is longer than the header knows.

use nix::sys::stat::FileStat;

use crate::error::{Error, Result};
use crate::os::file;
use crate::slab::header::Mutable;
use crate::slab::region::Region;
use crate::slab::{Layout, Slab};
use crate::sync::{AtomicU32, Ordering};

/// What can grow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Growing {
    Participants,
    Slots,
    Blocks,
}

/// All of them, in the order of their regions.
const GROWING: [Growing; 3] = [Growing::Participants, Growing::Slots, Growing::Blocks];

impl Growing {
    /// Where in the slab they lie.
    pub(super) fn region(self, layout: &Layout) -> Region {
        match self {
            Growing::Participants => layout.participants,
            Growing::Slots => layout.slots,
            Growing::Blocks => layout.blocks,
        }
    }

    /// How many of them are allocated, as the header says.
    pub(super) fn counter(self, header: &Mutable) -> &AtomicU32 {
        match self {
            Growing::Participants => &header.participants,
            Growing::Slots => &header.slots,
            Growing::Blocks => &header.blocks,
        }
    }
}

/// A slab as to how much of it there is.
#[derive(Clone, Copy)]
pub(crate) struct Extent<'s>(pub(super) &'s Slab);

impl Extent<'_> {
    #[cold]
    pub(super) fn look_again(self, what: Growing, at: u32) -> bool {
        self.try_cover(what, at).unwrap_or(false)
    }

    /// Believes the header only as far as the file is long: touching a page behind its end is a
    /// SIGBUS. Errors: the file cannot be looked at, or no more of it can be mapped.
    pub(super) fn try_cover(self, what: Growing, at: u32) -> Result<bool> {
        let count = self.0.allocated(what);
        if at >= count {
            return Ok(false);
        }
        let end = what.region(self.0.layout()).end_of(count);
        let inside = length_of(&self.0.stat()?) >= end;
        if inside {
            self.0.cover(what, count)?;
        }
        Ok(inside)
    }

    /// Why number `at` of a region, to which something leads, cannot be reached: damage, of which
    /// `what_is_wrong` tells, if it is not that this process cannot map it.
    #[cold]
    pub(crate) fn unreachable(
        self,
        what: Growing,
        at: u32,
        what_is_wrong: impl FnOnce() -> String,
    ) -> Error {
        match self.try_cover(what, at) {
            Err(error) => error,
            Ok(_) => self.0.corrupt(what_is_wrong()),
        }
    }

    /// Believes all that the header says to be allocated, if the file is as long as that; otherwise
    /// how long it is, and has to be.
    pub(crate) fn cover_all(self) -> Result<Option<(u64, u64)>> {
        // In this order: the file grows before the header says so.
        let counts = GROWING.map(|what| self.0.allocated(what));
        let (need, len) = (self.bytes_needed(), self.file_len()?);
        if len < need {
            return Ok(Some((len, need)));
        }
        for (what, count) in GROWING.into_iter().zip(counts) {
            // What it says may be damaged a moment later.
            if what.region(self.0.layout()).end_of(count) <= len {
                self.0.cover(what, count)?;
            }
        }
        Ok(None)
    }

    /// Allocates the next chunk of a region; `false` when it is at its end. Only under the lock for
    /// growing. A failure, as on a full disk, changes nothing.
    pub(crate) fn grow(self, what: Growing) -> Result<bool> {
        let region = what.region(self.0.layout());
        let have = self.0.allocated(what);
        let want = region.next(have);
        if have == want {
            return Ok(false);
        }
        for (from, len) in region.pages(have, want) {
            // Proved to be the slab a moment before: the number may be another file's in a process
            // that closes descriptors, and what the count promises must be there.
            file::allocate(self.0.file()?, from, len)
                .map_err(|e| Error::io("grow", self.0.path(), e))?;
        }
        what.counter(self.0.header()).store(want, Ordering::Release);
        Ok(true)
    }

    fn file_len(self) -> Result<u64> {
        Ok(length_of(&self.0.stat()?))
    }

    /// Allocates what the header says is allocated, in case it is not: a copy that left out blocks
    /// of zeros, or a power failure, leaves holes, and writing to them on a full disk is a
    /// SIGBUS. Only alone.
    pub(crate) fn fill_holes(self) -> Result<()> {
        let parts = self.allocated_parts();
        let bytes: u64 = parts.iter().map(|(_, len)| len).sum();
        let stat = self.0.stat()?;
        if blocks_of(&stat) >= bytes && length_of(&stat) >= self.bytes_needed() {
            return Ok(());
        }
        let file = self.0.file()?;
        for (offset, len) in parts {
            file::allocate(file, offset, len).map_err(|e| Error::io("grow", self.0.path(), e))?;
        }
        Ok(())
    }

    /// Makes zeros of what lies in regions behind what is allocated: after a power loss the header
    /// may know less than there is, and when the region grows again, what is there must not
    /// pass for a record. Only alone.
    pub(crate) fn clear_unallocated(self) -> Result<()> {
        let len = self.file_len()?;
        for what in GROWING {
            let region = what.region(self.0.layout());
            let behind = region.behind(self.0.allocated(what), len);
            for (from, to) in behind {
                file::clear(self.0.file()?, from, to)
                    .map_err(|e| Error::io("clear", self.0.path(), e))?;
            }
        }
        Ok(())
    }

    /// Takes the header's word only as far as the file is long, record by record, and says what is
    /// missing if it is cut off. For repair, alone.
    pub(crate) fn clamp_to_file(self) -> Result<Option<String>> {
        let (len, need) = (self.file_len()?, self.bytes_needed());
        let io = |e| Error::io("grow", self.0.path(), e);
        let file = self.0.file()?;
        for (offset, len) in Layout::fixed() {
            file::allocate(file, offset, len).map_err(io)?;
        }
        if len >= need {
            return Ok(None);
        }
        for what in GROWING {
            let region = what.region(self.0.layout());
            let count = region.inside(len);
            if count >= self.0.allocated(what) {
                continue;
            }
            what.counter(self.0.header())
                .store(count, Ordering::Release);
            // What is left of a record must not pass for one when the region grows again.
            for (from, to) in region.behind(count, len) {
                file::clear(file, from, to).map_err(io)?;
            }
        }
        Ok(Some(format!("it was cut off at {len} of {need} bytes")))
    }

    /// Offset and length of what is allocated.
    fn allocated_parts(self) -> Vec<(u64, u64)> {
        let of = |what: Growing| {
            let region = what.region(self.0.layout());
            region.pages(0, self.0.allocated(what))
        };
        let growing = GROWING.into_iter().flat_map(of);
        Layout::fixed().into_iter().chain(growing).collect()
    }

    /// How long the file has to be for what the header says is allocated.
    fn bytes_needed(self) -> u64 {
        let parts = self.allocated_parts().into_iter();
        parts.map(|(offset, len)| offset + len).max().unwrap_or(0)
    }
}

// Types of the fields differ between machines.
#[allow(clippy::unnecessary_cast)]
fn length_of(stat: &FileStat) -> u64 {
    stat.st_size as u64
}

/// How much of the disk it takes. The kernel counts in units of 512 bytes, whatever the block size.
#[allow(clippy::unnecessary_cast)]
pub(super) fn blocks_of(stat: &FileStat) -> u64 {
    stat.st_blocks as u64 * 512
}
