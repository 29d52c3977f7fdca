//! Making the pages of a slab dirty, so that the next sync writes them all.
//!
//! A store through the map does that, and no process notices one of a word's own value. It is an
//! exchange, not an addition of 0, which compilers make a load of.

use crate::slab::buckets::Buckets;
use crate::slab::layout::{PAGE, PERMITS_PER_BLOCK, SECTION_SLOTS, SEGMENTS, STRIPES};
use crate::slab::{BODY_WORDS, Growing, Slab};
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Exchanges the word for itself, unless the last one lay in the same page. Relaxed: other
/// processes continue with it as if nothing had been done.
macro_rules! touch {
    ($last:ident, $word:expr) => {
        let word = $word;
        let page = std::ptr::from_ref(word) as usize / PAGE as usize;
        if $last != page {
            $last = page;
            let mut seen = word.load(Ordering::Relaxed);
            while let Err(now) =
                word.compare_exchange(seen, seen, Ordering::Relaxed, Ordering::Relaxed)
            {
                seen = now;
            }
        }
    };
}

impl Slab {
    /// Makes all pages dirty in which there is anything, while others use them.
    pub(crate) fn dirty_pages(&self) {
        let mut last = 0;
        let mut word = |word: &AtomicU64| {
            touch!(last, word);
        };
        word(&self.header().failed_syncs);
        (0..STRIPES).for_each(|number| word(&self.stripe(number).intent));
        (0..SEGMENTS).for_each(|number| word(&self.segment(number).number));
        self.absences().words().for_each(&mut word);
        for number in 0..self.allocated(Growing::Participants) {
            if let Some(participant) = self.participant(number as u16) {
                word(&participant.state);
            }
        }
        for id in (0..self.allocated(Growing::Slots)).filter_map(|at| self.slot_id(at)) {
            word(&self.slot(id).meta);
            // Its end may lie in the next page.
            if let Some(body) = self.bodies(id, 1).and_then(|bodies| bodies.get(0)) {
                word(&body[BODY_WORDS - 1]);
            }
        }
        for block in 0..self.allocated(Growing::Blocks) {
            (0..PERMITS_PER_BLOCK)
                .filter_map(|permit| self.permit(block, permit))
                .for_each(|permit| word(&permit.ticket));
        }
        self.dirty_states();
    }

    fn dirty_states(&self) {
        let mut last = 0;
        let mut half = |word: &AtomicU32| {
            touch!(last, word);
        };
        let slots = self.allocated(Growing::Slots);
        let buckets = 0..slots.max(SECTION_SLOTS);
        buckets
            .filter_map(|number| Buckets(self).head(number))
            .for_each(&mut half);
        self.header_counts().rows.iter().for_each(half);
        let mut last = 0;
        let mut byte = |byte: &AtomicU8| {
            touch!(last, byte);
        };
        (0..slots)
            .filter_map(|number| self.slot_state(number))
            .for_each(&mut byte);
        (0..self.allocated(Growing::Blocks))
            .filter_map(|number| self.block_state(number))
            .for_each(&mut byte);
    }
}
