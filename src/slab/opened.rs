//! The open file behind the map of a slab.

use memmap2::MmapRaw;

use crate::os::kept::Kept;
use crate::sync::AtomicBool;

/// What one process has opened of the slab. Its opening carries the witness, and the map (or the
/// one page) keeps that locked when other code in the process closes the descriptor.
pub(super) struct Opened {
    pub(super) file: Kept,
    _page: Option<MmapRaw>,
    /// Inherited by a fork, and closed.
    pub(super) disowned: AtomicBool,
}

impl Opened {
    pub(super) fn new(file: Kept, page: Option<MmapRaw>) -> *mut Opened {
        Box::into_raw(Box::new(Opened {
            file,
            _page: page,
            disowned: AtomicBool::new(false),
        }))
    }
}
