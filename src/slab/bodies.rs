//! The bodies of the slots in which a key lies: in a row, and in one section.

use std::marker::PhantomData;

use crate::slab::layout::{SLOT_BYTES, SLOT_TABLE};
use crate::slab::records::{BODY_OFFSET, BODY_WORDS};
use crate::slab::sections::Sections;
use crate::sync::AtomicU64;

/// As many as were found to be there.
#[derive(Clone, Copy)]
pub(crate) struct Bodies<'s> {
    first: *const [AtomicU64; BODY_WORDS],
    count: u32,
    _of: PhantomData<&'s Sections>,
}

impl<'s> Bodies<'s> {
    /// Those of `count` slots from `first` on, of which the caller has found that they are
    /// allocated and in the file, and lie in one section, which is mapped.
    #[inline(always)]
    pub(super) fn new(sections: &'s Sections, first: u32, count: u32) -> Bodies<'s> {
        let slot = sections.entry(SLOT_TABLE, first);
        Bodies {
            first: slot.wrapping_add(BODY_OFFSET).cast(),
            count,
            _of: PhantomData,
        }
    }

    /// The body of slot `number`, from 0.
    #[inline(always)]
    pub(crate) fn get(self, number: usize) -> Option<&'s [AtomicU64; BODY_WORDS]> {
        if number >= self.count as usize {
            return None;
        }
        let body = self.first.wrapping_byte_add(number * SLOT_BYTES as usize);
        // SAFETY: the slot is there, in the same section as the first (M1, M2); a body consists of
        // that many atomics (M3), and slots lie at multiples of their alignment (M4).
        Some(unsafe { &*body })
    }

    /// Word `at`, counted through the bodies.
    #[inline(always)]
    pub(crate) fn word(self, at: usize) -> Option<&'s AtomicU64> {
        let body = self.get(at / BODY_WORDS)?;
        Some(&body[at % BODY_WORDS])
    }
}
