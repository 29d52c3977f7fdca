//! How the log stands, segment by segment; and a count of what is needed of it, that was begun.

use std::collections::HashMap;

use crate::log::SEGMENT_HEADER_BYTES;
use crate::slab::{SEGMENT_BEGUN, SEGMENT_CLOSING};

/// A count that was begun.
pub(crate) struct Recount {
    /// As they were at the beginning: what is appended later and led to counts for more than it
    /// is.
    pub(in crate::store) segments: Vec<SegmentState>,
    /// What cells lead to in each, as far as they were looked at.
    pub(in crate::store) needed: HashMap<u32, u64>,
    /// The slot to go on with.
    pub(in crate::store) at: u32,
}

/// How the log stands, in bytes of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of the device, as far as records go.
    pub(crate) bytes: u64,
    /// Garbage that is still there.
    pub(crate) garbage: u64,
}

/// One segment, as the slab describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentState {
    pub(crate) number: u32,
    pub(crate) is_closing: bool,
    /// Somebody is about to open it.
    pub(crate) is_begun: bool,
    /// Values are still appended to it.
    pub(crate) is_active: bool,
    /// How long it is.
    pub(crate) bytes: u64,
    /// So many of them are garbage.
    pub(crate) garbage: u64,
    /// So many bytes of the garbage are not on the device any more.
    pub(crate) punched: u64,
}

impl SegmentState {
    /// What describes it.
    pub(crate) fn word(&self) -> u64 {
        let closing = if self.is_closing { SEGMENT_CLOSING } else { 0 };
        let begun = if self.is_begun { SEGMENT_BEGUN } else { 0 };
        u64::from(self.number) | closing | begun
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            bytes: self.bytes - self.punched,
            garbage: self.garbage - self.punched,
        }
    }

    pub(crate) fn live(&self) -> u64 {
        self.bytes
            .saturating_sub(SEGMENT_HEADER_BYTES)
            .saturating_sub(self.garbage)
    }
}
