//! Which records a process has found whole: it believes a long value without summing it up again,
//! until another record takes its entry here, one of 256, or until damage is seen.

use crate::log::Location;
use crate::sync::{AtomicU64, Ordering};

/// So many records are known at a time.
const KNOWN: usize = 256;

/// Places of records that were read whole, or written, by this process lately.
// Not in a frame: the thread that makes it may have a small stack.
pub(super) struct FoundWhole(Box<[AtomicU64]>);

impl Default for FoundWhole {
    fn default() -> FoundWhole {
        FoundWhole((0..KNOWN).map(|_| AtomicU64::new(0)).collect())
    }
}

impl FoundWhole {
    pub(super) fn has(&self, place: Location) -> bool {
        self.0[known_at(place)].load(Ordering::Relaxed) == place.bits()
    }

    pub(super) fn note(&self, place: Location) {
        self.0[known_at(place)].store(place.bits(), Ordering::Relaxed);
    }

    /// Forgets a record that was whole before, and is damaged now.
    #[cold]
    pub(super) fn forget(&self, place: Location) {
        let known = &self.0[known_at(place)];
        let _ = known.compare_exchange(place.bits(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn known_at(place: Location) -> usize {
    // Fibonacci hashing: places that follow one another are put into different entries.
    (place.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % KNOWN
}
