//! The sections that a process has mapped, and where in them an entry of a table lies. A section
//! is mapped when the first of it is needed, and then stays where it is for as long as the slab
//! is open (M1).

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

use crate::slab::layout::{Half, Layout, SECTIONS, Section, SectionTable};
use crate::sync::{AtomicPtr, Ordering, crash_point};

/// What is mapped of a slab's sections.
pub(super) struct Sections {
    slots: [Piece; SECTIONS],
    blocks: [Piece; SECTIONS],
    /// Written to by nobody.
    is_read_only: bool,
}

/// Half of a section, where it is mapped; null until it is.
#[derive(Default)]
struct Piece {
    base: AtomicPtr<u8>,
    /// What is to be unmapped; of the first section, which the slab's own map has, nothing.
    map: AtomicPtr<MmapRaw>,
}

impl Sections {
    /// `slab` is what is mapped of the slab from its beginning on.
    pub(super) fn new(slab: &MmapRaw, is_read_only: bool) -> Sections {
        let sections = Sections {
            slots: Default::default(),
            blocks: Default::default(),
            is_read_only,
        };
        let (offset, _) = Half::Slots.part(Section::of(0));
        let first = slab.as_mut_ptr().wrapping_add(offset as usize);
        sections.slots[0].base.store(first, Ordering::Release);
        sections
    }

    fn piece(&self, half: Half, section: Section) -> &Piece {
        match half {
            Half::Slots => &self.slots[section.index],
            Half::Blocks => &self.blocks[section.index],
        }
    }

    /// Maps what has the entries below `count`, where it is not mapped yet. `file` is the slab's.
    pub(super) fn map(&self, file: &File, half: Half, count: u32) -> io::Result<()> {
        for section in Section::below(count) {
            let piece = self.piece(half, section);
            if !piece.base.load(Ordering::Acquire).is_null() {
                continue;
            }
            let (offset, len) = half.part(section);
            crash_point();
            let mut options = MmapOptions::new();
            let options = options.offset(offset).len(usize_of(len)?);
            let map = match self.is_read_only {
                false => options.map_raw(file),
                true => options.map_raw_read_only(file),
            }?;
            piece.fill(map);
        }
        Ok(())
    }

    /// Entry `number` of a table, of which the caller has found that it is allocated and in the
    /// file, and that its section is mapped.
    #[inline(always)]
    pub(super) fn at<T>(&self, table: SectionTable, number: u32) -> &T {
        let section = Section::of(number);
        let piece = self.piece(table.half, section);
        let mut base = piece.base.load(Ordering::Acquire);
        if base.is_null() {
            base = piece.awaited();
        }
        let within = table.within(section, number);
        // SAFETY: the piece covers every entry of its section, and is unmapped with `self` only
        // (M1); the caller has seen that the entry is in the file (M2); T consists of atomics (M3);
        // tables begin on pages, and their strides are multiples of T's alignment (M4).
        unsafe { &*base.add(within as usize).cast::<T>() }
    }
}

impl Piece {
    /// Takes what was mapped, or unmaps it again if another thread was quicker.
    fn fill(&self, map: MmapRaw) {
        let map = Box::into_raw(Box::new(map));
        let none = std::ptr::null_mut();
        let filled = self
            .map
            .compare_exchange(none, map, Ordering::AcqRel, Ordering::Acquire);
        let mapped = match filled {
            Ok(_) => map,
            Err(first) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(map) });
                first
            }
        };
        // SAFETY: it came from `Box::into_raw`, and is freed with `self` only.
        let base = unsafe { &*mapped }.as_mut_ptr();
        self.base.store(base, Ordering::Release);
    }

    /// Where it is mapped, which this thread has been told before it could see it.
    #[cold]
    fn awaited(&self) -> *mut u8 {
        loop {
            let base = self.base.load(Ordering::Acquire);
            if !base.is_null() {
                return base;
            }
            std::hint::spin_loop();
        }
    }
}

fn usize_of(len: u64) -> io::Result<usize> {
    usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// The length of the map that the slab has from its beginning on.
pub(super) fn first_map() -> io::Result<MmapOptions> {
    let mut options = MmapOptions::new();
    options.len(usize_of(Layout::mapped_bytes())?);
    Ok(options)
}

impl Drop for Piece {
    fn drop(&mut self) {
        let map = *self.map.get_mut();
        if !map.is_null() {
            // SAFETY: it came from `Box::into_raw`, and its last user is gone.
            drop(unsafe { Box::from_raw(map) });
        }
    }
}
