//! Lives of a slot: which key it belongs to, by the lower part of its meta word.
//!
//! ```text
//!        35    32 31                        0
//! --------+------+---------------------------+
//!   ...   | kind |        generation         |
//! --------+------+---------------------------+
//! ```
//!
//! A life ends in one store that makes the kind "none", which is 0, and the generation one higher
//! (S2). A handle that remembers a slot compares both, after it has read what it wants to know (H4,
//! I6).

use crate::record::controls::{self, Rule, left_out};
use crate::sync::{AtomicU64, Ordering};

const GENERATION_BITS: u32 = 32;
const LIFE_MASK: u64 = (1 << (GENERATION_BITS + 4)) - 1;

/// What a handle remembers of a meta word: generation and kind.
#[inline(always)]
pub(crate) fn of(meta: u64) -> u64 {
    meta & LIFE_MASK
}

/// Whether the slot is still in that life. `Acquire`: what is read afterwards is of it or of a
/// later one.
#[inline(always)]
pub(crate) fn is_current(meta: &AtomicU64, life: u64) -> bool {
    of(meta.load(Ordering::Acquire)) == life
}

/// Whether no key is in the slot.
pub(crate) fn is_over(meta: &AtomicU64) -> bool {
    of(meta.load(Ordering::Acquire)) >> GENERATION_BITS == 0
}

/// Ends the life. Only under the stripe.
pub(crate) fn end(meta: &AtomicU64) {
    let generation = meta.load(Ordering::Relaxed) as u32;
    let next = generation.wrapping_add(u32::from(!left_out(Rule::GenerationGrows)));
    // Release: pairs with the Acquire in `is_current`: a process that finds the life over sees the
    // words taken.
    meta.store(next.into(), Ordering::Release);
}

/// Comes before the first store into a slot that is between two lives. Pairs with the Acquire fence
/// of a reader that has read the contents and looks at the life next: if any word was of the next
/// life, the reader finds its own over.
pub(crate) fn before_filling() {
    controls::fence(Rule::FillFenced, Ordering::Release);
}
