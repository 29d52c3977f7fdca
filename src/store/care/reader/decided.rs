//! What was decided and is not carried out, as a reader sees it: it reads the list of a journal,
//! and leaves the rest to processes that may write.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::record::deciding;
use crate::store::care::reader::ReadStore;
use crate::store::key_entry::KeyEntry;
use crate::store::log::decided_list::{Flip, read_list};

/// What was decided and is not carried out, as far as it was looked at.
pub(crate) struct DecidedThere<'h> {
    /// `None`: it is gone, and what was decided with it.
    home: Option<&'h ReadStore>,
    /// The journal for which the list stands.
    journal: u64,
    /// By shard and slot.
    flips: HashMap<(u32, u32), Flip>,
}

impl<'h> DecidedThere<'h> {
    pub(crate) fn new(home: Option<&'h ReadStore>) -> DecidedThere<'h> {
        DecidedThere {
            home,
            journal: 0,
            flips: HashMap::new(),
        }
    }

    /// The version after which what is prepared counts, if a change of that value was decided.
    /// Looks at the journal each time: a reader that has seen one change of a transaction finds
    /// every other decided, or carried out.
    pub(super) fn after(&mut self, shard: u32, found: KeyEntry) -> Result<Option<u64>> {
        let Some(home) = self.home else {
            return Ok(None);
        };
        let (log, word) = (&home.log, &home.slab.header().journal);
        let new = deciding::look(word, self.journal, |journal| read_list(log, journal));
        if let Some((journal, read)) = new {
            let path = log.path((journal >> 32) as u32);
            // Without a whole list nothing was decided: damage.
            let list = read.map_err(|e| Error::io("read", &path, e))?;
            let by_slot = |flip: Flip| ((flip.shard, flip.slot), flip);
            self.flips = list.into_iter().flatten().map(by_slot).collect();
            self.journal = journal;
        }
        let flip = self.flips.get(&(shard, found.id.index()));
        let flip = flip.filter(|flip| flip.generation == found.meta.generation);
        Ok(flip.map(|flip| flip.version))
    }
}
