//! The protocol, and nothing but: how words of shared memory change hands.
//!
//! No I/O, no clock, no unsafe code. What time it is and which participants are dead are arguments,
//! so that loom can check all of it. The invariants that the comments name (H1, L2, ...) are those
//! of docs/protocol.md.

mod cell_sum;
mod cells;
pub(crate) mod changes;
pub(crate) mod closing;
mod controls;
pub(crate) mod deciding;
mod hold;
pub(crate) mod joining;
mod judgement;
mod lease;
pub(crate) mod life;
#[cfg(all(loom, test))]
mod models;
mod removal;
pub(crate) mod split;
mod stamp;
mod taking;
pub(crate) mod ticket;
pub(crate) mod waiting;
mod word;

pub(crate) use cell_sum::{CellSum, SEALED_WORDS_MAX};
#[cfg(all(any(fuzzing, test), not(loom)))]
pub(crate) use cells::seal_of;
#[cfg(not(loom))]
pub(crate) use cells::version_of as cells_version_of;
pub(crate) use cells::{
    Cell, Cells, Damaged, NO_VERSION, PAYLOAD_WORDS, first_version as cells_first_version,
    flip as cells_flip, prepare as cells_prepare, read_once as cells_read_once,
    read_prepared as cells_read_prepared, write as cells_write,
};
pub(crate) use hold::{Cleared, Hold, Returned, next_sequence};
pub(crate) use judgement::Judgement;
pub(crate) use lease::Lease;
pub(crate) use removal::{Force, Left, Marked, Removal};
pub(crate) use stamp::Stamp;
pub(crate) use taking::{Look, Taker, look_at_all};
pub(crate) use word::{
    PARTICIPANT_MAX, ParticipantId, SEQUENCE_LEAP, SEQUENCE_MAX, Word, reachable,
};
