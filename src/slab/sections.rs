//! The sections that a process has mapped, and where in them an entry of a table lies. A section
//! is mapped when the first of it is needed, and then stays where it is for as long as the slab
//! is open (M1).

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

use crate::slab::layout::{Half, Layout, SECTION_SLOTS, SECTIONS, Section, SectionTable, TABLES};
use crate::sync::{AtomicPtr, Ordering, crash_point};

/// What is mapped of a slab's sections.
pub(super) struct Sections {
    /// For each table, at the number of zeros that the numbers of a section begin with, where
    /// entry 0 would lie if the section were one array down to it; null until the section is
    /// mapped.
    tables: [[AtomicPtr<u8>; ZEROS]; TABLES.len()],
    /// What is to be unmapped; of the first section's slots, which the slab's own map has,
    /// nothing.
    maps: [[AtomicPtr<MmapRaw>; SECTIONS]; 2],
    /// Written to by nobody.
    is_read_only: bool,
}

/// More than any number of the first section begins with, all of them taken for its last one.
const ZEROS: usize = (SECTION_SLOTS - 1).leading_zeros() as usize + 1;

#[inline(always)]
fn zeros_of(number: u32) -> usize {
    (number | (SECTION_SLOTS - 1)).leading_zeros() as usize
}

/// Whether two numbers lie in one section.
#[inline(always)]
pub(super) fn is_one_section(one: u32, other: u32) -> bool {
    zeros_of(one) == zeros_of(other)
}

impl Sections {
    /// `slab` is what is mapped of the slab from its beginning on.
    pub(super) fn new(slab: &MmapRaw, is_read_only: bool) -> Sections {
        let sections = Sections {
            tables: Default::default(),
            maps: Default::default(),
            is_read_only,
        };
        let first = Section::of(0);
        let (offset, _) = Half::Slots.part(first);
        let from = slab.as_mut_ptr().wrapping_add(offset as usize);
        // No map lies so low that one of its tables would begin at 0.
        let _ = sections.fill(Half::Slots, first, from);
        sections
    }

    /// Maps what has the entries below `count`, where it is not mapped yet. `file` is the slab's.
    pub(super) fn map(&self, file: &File, half: Half, count: u32) -> io::Result<()> {
        for section in Section::below(count) {
            let place = &self.maps[half as usize][section.index];
            if self.is_mapped(half, section) {
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
            self.fill(half, section, keep(place, map))?;
        }
        Ok(())
    }

    fn is_mapped(&self, half: Half, section: Section) -> bool {
        let zeros = zeros_of(section.first);
        let of_half = TABLES.iter().filter(|table| table.half == half);
        let mut bases = of_half.map(|table| &self.tables[table.index][zeros]);
        bases.all(|base| !base.load(Ordering::Acquire).is_null())
    }

    /// Notes where the tables of half a section lie.
    fn fill(&self, half: Half, section: Section, from: *mut u8) -> io::Result<()> {
        for table in TABLES.into_iter().filter(|table| table.half == half) {
            let first = from.wrapping_add(table.within(section, section.first) as usize);
            let before = u64::from(section.first) * table.stride;
            let base = first.wrapping_sub(before as usize);
            if base.is_null() {
                // It could not be told from a section that is not mapped.
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.tables[table.index][zeros_of(section.first)].store(base, Ordering::Release);
        }
        Ok(())
    }

    /// Where entry `number` of a table lies, of which the caller has found that its section is
    /// mapped.
    #[inline(always)]
    pub(super) fn entry(&self, table: SectionTable, number: u32) -> *const u8 {
        let place = &self.tables[table.index][zeros_of(number)];
        let mut base = place.load(Ordering::Acquire);
        if base.is_null() {
            base = awaited(place);
        }
        base.wrapping_add(number as usize * table.stride as usize)
    }

    /// Entry `number` of a table, of which the caller has found that it is allocated and in the
    /// file, and that its section is mapped.
    #[inline(always)]
    pub(super) fn at<T>(&self, table: SectionTable, number: u32) -> &T {
        let entry = self.entry(table, number);
        // SAFETY: the map has every entry of its section, and is unmapped with `self` only (M1);
        // the caller has seen that the entry is in the file (M2); T consists of atomics (M3);
        // tables begin on pages, and their strides are multiples of T's alignment (M4).
        unsafe { &*entry.cast::<T>() }
    }
}

/// Keeps what was mapped, or unmaps it again if another thread was quicker: where it is mapped.
fn keep(place: &AtomicPtr<MmapRaw>, map: MmapRaw) -> *mut u8 {
    let map = Box::into_raw(Box::new(map));
    let none = std::ptr::null_mut();
    let kept = place.compare_exchange(none, map, Ordering::AcqRel, Ordering::Acquire);
    let mapped = match kept {
        Ok(_) => map,
        Err(first) => {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(map) });
            first
        }
    };
    // SAFETY: it came from `Box::into_raw`, and is freed with the sections only.
    unsafe { &*mapped }.as_mut_ptr()
}

/// Where a table is mapped, which this thread has been told before it could see it.
#[cold]
fn awaited(place: &AtomicPtr<u8>) -> *mut u8 {
    loop {
        let base = place.load(Ordering::Acquire);
        if !base.is_null() {
            return base;
        }
        std::hint::spin_loop();
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

impl Drop for Sections {
    fn drop(&mut self) {
        for map in self.maps.iter_mut().flatten() {
            let map = *map.get_mut();
            if !map.is_null() {
                // SAFETY: it came from `Box::into_raw`, and its last user is gone.
                drop(unsafe { Box::from_raw(map) });
            }
        }
    }
}
