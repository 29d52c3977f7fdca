//! Structure that is busy for too long, and the processes that have it locked. A busy structure is
//! no hold: an acquirer gets an error of its own for it, and is never told that the key is held.

use crate::error::Error;
use crate::record::ParticipantId;
use crate::slab::Growing;
use crate::slab::layout::STRIPES;
use crate::store::index::pieces::Pieces;
use crate::store::members::participants::Members;

/// The byte of the file `stripes` that is locked for a stripe.
pub(in crate::store) fn stripe_byte(stripe: u32) -> u64 {
    u64::from(stripe % STRIPES)
}

impl<'s> Pieces<'s> {
    /// The error that a process has had that byte of the file `stripes` locked for too long, with
    /// its pid.
    #[cold]
    pub(in crate::store) fn structure_busy(self, byte: u64) -> Error {
        let pids = self.0.process().ok().and_then(|process| {
            let numbers = 1..self.0.slab().allocated(Growing::Participants);
            let ids = numbers.filter_map(|number| ParticipantId::new(number as u16));
            let described = ids.filter_map(|id| Members(self.0).describe(process, id));
            let here = described.filter(|described| described.same_pid_namespace);
            process.locks.lockers(byte, here.map(|d| d.pid)).ok()
        });
        // Without a name it is as busy.
        let mut pids = pids.unwrap_or_default();
        pids.sort_unstable();
        pids.dedup();
        Error::StructureBusy {
            path: self.0.known_as().to_path_buf(),
            pids,
        }
    }
}
