//! A segment of its own into which a large value is being written: no cell points to it yet, and
//! yet it is needed. Its writer says so in the segment's cursor, which nobody uses before the
//! segment is closed; a count of what is needed leaves it alone as long as that writer lives.
//!
//! Killed: the note is a dead one's, and what it is about is garbage. Stopped: its room stays its
//! own. A compactor that closes the segment for another reason takes the cursor; then the writer
//! finds it closed, as any writer does, and writes the value again.

use crate::log::Location;
use crate::record::ParticipantId;
use crate::slab::SEGMENT_WRITING;
use crate::slab::layout::SEGMENTS;
use crate::store::Store;
use crate::store::members::participants::{Members, pid_of};
use crate::store::members::process::Process;
use crate::sync::{AtomicU64, Ordering};

/// Where in the note the participant, its process and the number of the segment lie.
const PID_AT: u32 = 16;
const NUMBER_AT: u32 = 48;
const NUMBER_BITS: u32 = 13;

/// A record that was written, and what keeps its segment until a cell points there.
pub(crate) struct Placed<'s> {
    pub(crate) place: Location,
    pub(in crate::store) writing: Option<Writing<'s>>,
}

/// Until this is dropped.
pub(in crate::store) struct Writing<'s> {
    cursor: &'s AtomicU64,
    note: u64,
}

impl<'s> Writing<'s> {
    pub(in crate::store) fn begin(
        store: &'s Store,
        process: &Process,
        place: Location,
    ) -> Writing<'s> {
        let cursor = &store.slab.segment(place.segment()).cursor;
        let note = note_of(process.id, process.identity.pid, place.segment());
        cursor.store(note, Ordering::Relaxed);
        Writing { cursor, note }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let (note, none) = (self.note, 0);
        // Unless a compactor has it.
        let _ = self
            .cursor
            .compare_exchange(note, none, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn note_of(id: ParticipantId, pid: u32, number: u32) -> u64 {
    let life = u64::from(number / SEGMENTS) & ((1 << NUMBER_BITS) - 1);
    SEGMENT_WRITING | life << NUMBER_AT | u64::from(pid) << PID_AT | u64::from(id.get())
}

/// Whether a process that lives is writing to the segment of that number.
pub(in crate::store) fn is_being_written(store: &Store, process: &Process, number: u32) -> bool {
    let cursor = store.slab.segment(number).cursor.load(Ordering::Relaxed);
    let Some(id) = ParticipantId::new(cursor as u16).filter(|_| cursor & SEGMENT_WRITING != 0)
    else {
        return false;
    };
    let pid = store.slab.participant(id.get()).map_or(0, pid_of);
    cursor == note_of(id, pid, number) && !Members(store).is_dead(process, id)
}
