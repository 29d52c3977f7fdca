//! Verifying a store without the lock of any stripe: what looks wrong may only be changing, and is
//! looked at again.

use crate::error::{Error, Result, show_key};
use crate::record::Damaged;
use crate::slab::bytes::span_of;
use crate::slab::value_cells::Form;
use crate::slab::{STATE_USED, Tenant};
use crate::store::care::check::{self, CheckReport};
use crate::store::care::contradiction::contradiction;
use crate::store::care::reader::finder::ReadFinder;
use crate::store::care::reader::values::ValueReader;
use crate::store::home::slab_file;
use crate::store::in_slab::{key_of, permits_of};
use crate::store::key_entry::KeyEntry;
use crate::store::members::device::is_unsynced;
use crate::store::members::lock_files::opened_up_of;

/// Verifies each key, and what can be verified besides.
pub(crate) struct Verifier<'r, 'h>(pub(super) ValueReader<'r, 'h>);

impl Verifier<'_, '_> {
    /// Verifies what can be verified without a stripe: both copies of the header, each key by
    /// itself, that it is found, what is sealed and what is in the log. What is wrong is looked
    /// at again before it is said.
    pub(crate) fn check(&mut self) -> Result<CheckReport> {
        let store = self.0.store;
        let mut report = CheckReport::default();
        if is_unsynced(&store.slab) {
            report.problems.push(check::UNSYNCED.to_string());
        }
        let damaged = slab_file::damaged_copy(&store.slab)?;
        report.problems.extend(damaged);
        report.problems.extend(opened_up_of(&store.site)?);
        store.as_onlooker(|onlooker| {
            ReadFinder(store).each(|found| {
                report.keys += usize::from(self.0.is_listed(found)?);
                report.slots_used += span_of(&store.slab, found.id) as usize;
                report.dead_holds += onlooker.dead_holds(found);
                if let Some(problem) = self.problem_of(found)? {
                    report.problems.push(problem);
                }
                Ok(())
            })
        })?;
        Ok(report)
    }

    /// What is wrong with a key, if it is so twice, and still that key.
    fn problem_of(&mut self, found: KeyEntry) -> Result<Option<String>> {
        for _ in 0..2 {
            let problem = self.problem_now(found)?;
            if problem.is_none() || !self.0.store.is_still(found) {
                return Ok(None);
            }
        }
        self.problem_now(found)
    }

    fn problem_now(&mut self, found: KeyEntry) -> Result<Option<String>> {
        let store = self.0.store;
        let of_slot = |what: &str| Ok(Some(format!("slot {} {what}", found.id.index())));
        let key = key_of(&store.slab, found).unwrap_or_default();
        // On which bucket it hangs may change meanwhile; that it is found says enough.
        if let Some(what) = contradiction(&store.slab, found, None) {
            return of_slot(what);
        }
        if found.kind != Tenant::Turn {
            match ReadFinder(store).find(&key) {
                Ok(Some(other)) if other.id == found.id => {}
                // While a process makes or removes the key, or died over that, a miss is no damage.
                Ok(_) | Err(Error::StructureBusy { .. }) if self.is_changing(found) => {}
                Ok(_) => return of_slot(check::UNFOUND),
                Err(Error::StructureBusy { .. }) => {}
                Err(error) => return Ok(Some(error.to_string())),
            }
        }
        match found.kind {
            Tenant::Semaphore => Ok(permits_of(&store.slab, found.id)
                .err()
                .map(|error| error.to_string())),
            Tenant::Averager => Ok(store.summary_in(found, &key).err().map(|e| e.to_string())),
            Tenant::Value => self.damage_of(found, &key),
            _ => Ok(None),
        }
    }

    /// Whether the key is just being made or taken away, or was left so by a dead process.
    fn is_changing(&self, found: KeyEntry) -> bool {
        let slab = &self.0.store.slab;
        let hold = slab.slot(found.id).hold.load();
        let state = check::load(slab.slot_state(found.id.index()));
        hold.is_retiring() || state != STATE_USED
    }

    fn damage_of(&mut self, found: KeyEntry, key: &[u8]) -> Result<Option<String>> {
        let damaged = || {
            let what = format!("the value of {} fails its checksum", show_key(key));
            Ok(Some(what))
        };
        loop {
            let reading = match self.0.read(found, &mut ())? {
                None => return Ok(None),
                Some(Err(Damaged)) => return damaged(),
                Some(Ok(reading)) => reading,
            };
            let is_logged = matches!(reading.content.form, Form::Logged { .. });
            let values = &mut self.0;
            if !is_logged || values.read_logged(key, &reading.content, &mut Vec::new(), None)? {
                return Ok(None);
            }
            if values.is_in_force(found, &reading)? {
                let form = &reading.content.form;
                return check::why_unread(&values.store.log, key, form).map(Some);
            }
        }
    }
}
