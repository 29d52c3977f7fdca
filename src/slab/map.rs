//! The mapping, and with `sections` the only pointer arithmetic of the crate.
//!
//! Why it is sound (docs/protocol.md, M1 to M4): what is mapped is never moved, changed or shrunk;
//! a reference is only made to what lies within a region that is allocated and mapped, so its pages
//! have blocks; every record consists of atomics, so other processes may write at any time; every
//! record lies at a multiple of its alignment. What lies in sections is in
//! [`sections`](crate::slab::sections).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::stat::FileStat;

use crate::error::{Error, Result};
use crate::os::file;
use crate::os::identity::FileIdentity;
use crate::os::kept::Kept;
use crate::slab::bodies::Bodies;
use crate::slab::extent::{self, Extent, Growing};
use crate::slab::header::{COUNTS_OFFSET, Counts, MUTABLE_OFFSET, Mutable, Static};
use crate::slab::layout::{
    ABSENCES_OFFSET, BLOCK_STATE_TABLE, BLOCK_TABLE, BUCKET_TABLE, Half, PAGE, PERMITS_PER_BLOCK,
    SEGMENT_BYTES, SEGMENTS, SEGMENTS_OFFSET, SLOT_STATE_TABLE, SLOT_TABLE, STRIPE_BYTES, STRIPES,
};
use crate::slab::opened::Opened;
use crate::slab::sections::{Sections, first_map, is_one_section};
use crate::slab::witnesses::Witnesses;
use crate::slab::{Absences, Layout, Participant, Permit, Segment, Slot, SlotId, Stripe};
use crate::sync::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, crash_point};

/// An open slab.
pub(crate) struct Slab {
    map: MmapRaw,
    sections: Sections,
    opened: AtomicPtr<Opened>,
    path: PathBuf,
    /// Which file it was when it was mapped.
    identity: FileIdentity,
    layout: Layout,
    part: Static,
    /// How much of each region was found to be in the file, and is mapped: what the header says is
    /// checked against the file's length once, and never again for what was covered.
    covered: [AtomicU32; 3],
}

impl Slab {
    /// Maps `file`, which has to have its fixed part allocated already. In a box, for the stack of
    /// an opener may be small.
    pub(crate) fn map(
        file: (Kept, FileIdentity),
        path: &Path,
        part: Static,
        layout: Layout,
    ) -> Result<Box<Slab>> {
        Slab::mapped_by(false, file, path, part, layout)
    }

    /// Maps a file that was opened for reading only. For
    /// [`care::reader`](crate::store::care::reader) and no other caller: to write to any record of
    /// such a slab is a SIGSEGV.
    pub(crate) fn map_to_read(
        file: (Kept, FileIdentity),
        path: &Path,
        part: Static,
        layout: Layout,
    ) -> Result<Box<Slab>> {
        Slab::mapped_by(true, file, path, part, layout)
    }

    fn mapped_by(
        is_read_only: bool,
        (file, identity): (Kept, FileIdentity),
        path: &Path,
        part: Static,
        layout: Layout,
    ) -> Result<Box<Slab>> {
        crash_point();
        let map = first_map().and_then(|options| match is_read_only {
            false => options.map_raw(file.unproven()),
            true => options.map_raw_read_only(file.unproven()),
        });
        let map = map.map_err(|e| Error::io("map", path, e))?;
        Ok(Box::new(Slab {
            sections: Sections::new(&map, is_read_only),
            map,
            opened: AtomicPtr::new(Opened::new(file, None)),
            path: path.to_path_buf(),
            identity,
            layout,
            part,
            covered: Default::default(),
        }))
    }

    /// Where it is mapped in this process.
    pub(crate) fn address(&self) -> u64 {
        self.map.as_ptr() as u64
    }

    /// Which file it was when this process mapped it, with as many names as it had then.
    pub(crate) fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn part(&self) -> &Static {
        &self.part
    }

    pub(crate) fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::Corrupt {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    /// Waits until everything is on the device. For creation and repair; holds need no such thing.
    pub(crate) fn sync(&self) -> Result<()> {
        let file = self.file()?;
        crash_point();
        let synced = file.sync_all();
        synced.map_err(|e| {
            // See `store::members::device`.
            self.header().note_failed_sync(&e);
            Error::io("sync", &self.path, e)
        })
    }

    pub(crate) fn header(&self) -> &Mutable {
        self.at(MUTABLE_OFFSET)
    }

    pub(crate) fn stripe(&self, number: u32) -> &Stripe {
        self.at(PAGE + u64::from(number % STRIPES) * STRIPE_BYTES)
    }

    /// Where the segment of that number is described, and others that have the place in turn.
    pub(crate) fn segment(&self, number: u32) -> &Segment {
        self.at(SEGMENTS_OFFSET + u64::from(number % SEGMENTS) * SEGMENT_BYTES)
    }

    pub(crate) fn absences(&self) -> &Absences {
        self.at(ABSENCES_OFFSET)
    }

    pub(crate) fn header_counts(&self) -> &Counts {
        self.at(COUNTS_OFFSET)
    }

    /// The bucket of that number. For [`Buckets`](crate::slab::buckets::Buckets), which has seen
    /// that it is there.
    #[inline]
    pub(super) fn bucket(&self, number: u32) -> &AtomicU32 {
        self.sections.at(BUCKET_TABLE, number)
    }

    /// The state of a slot, if that is allocated.
    pub(crate) fn slot_state(&self, number: u32) -> Option<&AtomicU8> {
        let inside = self.covers(Growing::Slots, number);
        inside.then(|| self.sections.at(SLOT_STATE_TABLE, number))
    }

    /// The state of a block, if that is allocated.
    pub(crate) fn block_state(&self, number: u32) -> Option<&AtomicU8> {
        let inside = self.covers(Growing::Blocks, number);
        inside.then(|| self.sections.at(BLOCK_STATE_TABLE, number))
    }

    pub(crate) fn participant(&self, number: u16) -> Option<&Participant> {
        let inside = self.covers(Growing::Participants, number.into());
        inside.then(|| self.at(self.layout.participants.offset_of(number.into())))
    }

    /// The slot of that number, if it is allocated.
    #[inline]
    pub(crate) fn slot_id(&self, number: u32) -> Option<SlotId> {
        match self.covers(Growing::Slots, number) {
            true => SlotId::new(number),
            false => None,
        }
    }

    /// The slot that a bucket head or a `next` field points to.
    pub(crate) fn follow(&self, link: u32) -> Option<SlotId> {
        self.slot_id(link.checked_sub(1)?)
    }

    #[inline]
    pub(crate) fn slot(&self, id: SlotId) -> &Slot {
        self.sections.at(SLOT_TABLE, id.index())
    }

    /// Permit `index` of a semaphore that begins at block `first`, if that block is allocated.
    #[inline(always)]
    pub(crate) fn permit(&self, first: u32, index: u32) -> Option<&Permit> {
        let block = first.checked_add(index / PERMITS_PER_BLOCK)?;
        if !self.covers(Growing::Blocks, block) {
            return None;
        }
        let permits: &[Permit; PERMITS_PER_BLOCK as usize] = self.sections.at(BLOCK_TABLE, block);
        Some(&permits[(index % PERMITS_PER_BLOCK) as usize])
    }

    /// The bodies of the key that begins at `id` and says that it takes `span` slots; `None`: no
    /// key has these.
    #[inline(always)]
    pub(crate) fn bodies(&self, id: SlotId, span: u32) -> Option<Bodies<'_>> {
        let first = id.index();
        let last = first.checked_add(span.checked_sub(1)?)?;
        let is_there =
            span == 1 || is_one_section(first, last) && self.covers(Growing::Slots, last);
        is_there.then(|| Bodies::new(&self.sections, first, span))
    }

    /// Word `at` of the bodies of the key that begins at `id` and takes `span` slots.
    pub(crate) fn body_word(&self, id: SlotId, span: u32, at: usize) -> Option<&AtomicU64> {
        self.bodies(id, span)?.word(at)
    }

    /// The record at `offset`, before the sections.
    #[inline]
    fn at<T>(&self, offset: u64) -> &T {
        debug_assert!(offset + size_of::<T>() as u64 <= Layout::mapped_bytes());
        // SAFETY: callers stay within what the mapping covers, and within what is allocated (M1,
        // M2); offsets are multiples of T's alignment by the layout (M4); T consists of atomics
        // (M3).
        unsafe { &*self.map.as_ptr().add(offset as usize).cast::<T>() }
    }
}

/// How much of it there is.
impl Slab {
    /// Whether number `at` of a region is allocated, and really in the file.
    #[inline]
    pub(crate) fn covers(&self, what: Growing, at: u32) -> bool {
        // Acquire: with what is covered goes where it is mapped. A stale value only leads to
        // another look.
        at < self.covered[what as usize].load(Ordering::Acquire)
            || self.extent().look_again(what, at)
    }

    /// So many of a region were found to be in the file: maps them.
    pub(super) fn cover(&self, what: Growing, count: u32) -> Result<()> {
        let half = match what {
            Growing::Participants => None,
            Growing::Slots => Some(Half::Slots),
            Growing::Blocks => Some(Half::Blocks),
        };
        if let Some(half) = half {
            let mapped = self.sections.map(self.file()?, half, count);
            mapped.map_err(|e| Error::io("map", &self.path, e))?;
        }
        self.covered[what as usize].fetch_max(count, Ordering::Release);
        Ok(())
    }

    /// How many of a region are allocated by the header, never more than there can be.
    pub(crate) fn allocated(&self, what: Growing) -> u32 {
        // Acquire: pairs with the Release in `Extent::grow`, after the blocks were allocated.
        what.counter(self.header())
            .load(Ordering::Acquire)
            .min(what.region(&self.layout).count)
    }

    /// Maps all that there is by now, or says why that is not possible: before a look at all of it,
    /// and before what a dead process left is ended, for what cannot be mapped must not pass for
    /// what is not there. (What the header says is there and the file has not is damage, and found
    /// as such.)
    pub(crate) fn reach(&self) -> Result<()> {
        for what in [Growing::Slots, Growing::Blocks] {
            let count = self.allocated(what);
            if count > self.covered[what as usize].load(Ordering::Acquire) {
                self.extent().try_cover(what, count - 1)?;
            }
        }
        Ok(())
    }

    /// For growing, and for what is done about a file that is not as the header says.
    pub(crate) fn extent(&self) -> Extent<'_> {
        Extent(self)
    }
}

/// The open file behind the map.
impl Slab {
    /// What this process has opened of the slab; in the child of a fork, opened again. Unproved.
    fn opened(&self) -> Result<&Opened> {
        // SAFETY: it came from `Opened::new`, and is freed with the slab only; what a fork left
        // behind, never.
        let opened = unsafe { &*self.opened.load(Ordering::Acquire) };
        match opened.disowned.load(Ordering::Acquire) {
            false => Ok(opened),
            true => self.open_again(opened),
        }
    }

    /// In the child of a fork: an opening of its own, with a page mapped that keeps what is locked
    /// through it for as long as the process lives, whatever other code does to the descriptor.
    #[cold]
    fn open_again(&self, inherited: &Opened) -> Result<&Opened> {
        let replaced = || {
            let path = self.path.parent().unwrap_or(&self.path).to_path_buf();
            Error::Replaced { path }
        };
        let file = file::open_with_names(&self.path);
        let (file, identity) = file.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => replaced(),
            _ => Error::io("open", &self.path, e),
        })?;
        if identity.number() != self.identity.number() {
            return Err(replaced());
        }
        crash_point();
        let page = MmapOptions::new().len(1).map_raw(file.unproven());
        let page = page.map_err(|e| Error::io("map", &self.path, e))?;
        let new = Opened::new(file, Some(page));
        let old = std::ptr::from_ref(inherited).cast_mut();
        let swapped = self
            .opened
            .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
        if swapped.is_err() {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(new) });
        }
        self.opened()
    }

    /// The slab's file, proved to be it: `Detached` if other code has closed or replaced the
    /// descriptor.
    pub(crate) fn file(&self) -> Result<&File> {
        let proven = self.opened()?.file.proven();
        proven.map_err(|e| Error::io("use", &self.path, e))
    }

    /// What the kernel says of the slab's file, which proves it as well.
    pub(crate) fn stat(&self) -> Result<FileStat> {
        let stat = self.opened()?.file.stat();
        stat.map_err(|e| Error::io("look at", &self.path, e))
    }

    /// How much of the disk it takes.
    pub(crate) fn disk_bytes(&self) -> Result<u64> {
        Ok(extent::blocks_of(&self.stat()?))
    }

    /// In the child of a fork, before it returns: the parent's descriptor is not its own.
    pub(crate) fn disown(&self) {
        // SAFETY: as in `opened`.
        let opened = unsafe { &*self.opened.load(Ordering::Acquire) };
        opened.file.close();
        opened.disowned.store(true, Ordering::Release);
    }

    /// What participants lock in the file.
    pub(crate) fn witnesses(&self) -> Witnesses<'_> {
        Witnesses(self)
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let opened = *self.opened.get_mut();
        // SAFETY: it came from `Opened::new`, and with the slab its last user is gone.
        drop(unsafe { Box::from_raw(opened) });
    }
}
