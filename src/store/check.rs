//! Verifying a store while it is in use: reads only, stripe by stripe, so that what is being changed is
//! not taken for damage.

use crate::error::{Error, Result, show_key};
use crate::os::memory;
use crate::record::Judgement;
use crate::slab::layout::{PERMITS_PER_BLOCK, STRIPES};
use crate::slab::{CLAIMED, Intent, Meta, STATE_FREE, STATE_TAIL, STATE_USED, SlotId};
use crate::store::Store;
use crate::store::index::{Found, Place, hash_as, span_of};
use crate::store::stripe::StripeGuard;
use crate::store::value::Form;
use crate::sync::{AtomicU8, Ordering};
use crate::types::Kind;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// How many keys there are.
    pub keys: usize,
    /// How many slots they take.
    pub slots_used: usize,
    /// How many slots are marked as used and belong to no key. `Cache::repair` frees them.
    pub slots_leaked: usize,
    /// How many holds are left by the dead, for their successors to take over. No damage.
    pub dead_holds: usize,
    /// What does not hold, one sentence each. Empty for a sound store.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong and nothing leaked.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.slots_leaked == 0
    }

    /// Both reports in one, for a store of several shards.
    pub(crate) fn merge(&mut self, other: CheckReport) {
        self.keys += other.keys;
        self.slots_used += other.slots_used;
        self.slots_leaked += other.slots_leaked;
        self.dead_holds += other.dead_holds;
        self.problems.extend(other.problems);
    }
}

/// What every key was found to take, to compare with the states.
struct Census {
    report: CheckReport,
    slots: Vec<bool>,
    blocks: Vec<bool>,
    /// Values in the log, to be read.
    logged: Vec<Found>,
}

impl Store {
    /// Verifies everything that can be verified. Locks the whole structure while it looks: making keys
    /// waits for it, taking and giving back do not.
    pub(crate) fn check(&self) -> Result<CheckReport> {
        self.check_in_place()?;
        self.process()?.locks.prove()?;
        let layout = self.slab().layout();
        let io = |e| Error::io("check", self.slab().path(), e);
        let mut census = Census {
            report: CheckReport::default(),
            slots: memory::filled(false, layout.slots.count as usize).map_err(io)?,
            blocks: memory::filled(false, layout.blocks.count as usize).map_err(io)?,
            logged: Vec::new(),
        };
        if self.is_unsynced() {
            let what = "a sync has failed, so nothing is known of what the device has";
            census.report.problems.push(what.to_string());
        }
        let mut guards = Vec::new();
        for number in 0..STRIPES {
            // In ascending order, as nobody else locks two, so nobody waits in a circle.
            match self.lock_stripe(number) {
                Ok(guard) => {
                    census.stripe(&guard)?;
                    guards.push(guard);
                }
                Err(e) => census.report.problems.push(e.to_string()),
            }
        }
        census.states(self);
        drop(guards);
        // Without the locks: reading takes its time.
        for found in std::mem::take(&mut census.logged) {
            census.logged_value(self, found)?;
        }
        Ok(census.report)
    }
}

impl Census {
    fn stripe(&mut self, guard: &StripeGuard<'_>) -> Result<()> {
        for bucket in guard.buckets() {
            let mut ids = Vec::new();
            let walked = guard.walk(bucket, |id| {
                ids.push(id);
                true
            });
            if let Err(e) = walked {
                self.report.problems.push(e.to_string());
                continue;
            }
            for id in ids {
                match guard.found(id) {
                    Some(found) => self.key(guard, bucket, found)?,
                    None => self.problem(id, "is linked and has no key"),
                }
            }
        }
        Ok(())
    }

    fn problem(&mut self, id: SlotId, what: &str) {
        let at = id.index();
        self.report.problems.push(format!("slot {at} {what}"));
    }

    fn key(&mut self, guard: &StripeGuard<'_>, bucket: u32, found: Found) -> Result<()> {
        let store = guard.store;
        let slab = store.slab();
        self.report.keys += usize::from(store.is_listed(found));
        if let Some(what) = contradiction(store, found, bucket) {
            self.problem(found.id, what);
            return Ok(());
        }
        let span = span_of(slab, found.id);
        self.report.slots_used += span as usize;
        self.take(true, found.id.index(), span, found.id);
        match found.kind {
            Kind::Semaphore => match store.permits_of(found.id) {
                Ok((first, permits)) => {
                    let blocks = permits.div_ceil(PERMITS_PER_BLOCK);
                    self.take(false, first, blocks, found.id);
                }
                Err(e) => self.report.problems.push(e.to_string()),
            },
            Kind::Averager if !slab.slot(found.id).cells().is_whole() => {
                let key = store.key_of(found).unwrap_or_default();
                let what = format!("the average {} fails its checksum", show_key(&key));
                self.report.problems.push(what);
            }
            Kind::Value => match store.read_value(found, &mut ()) {
                Some(Ok(reading)) => {
                    let logged = matches!(reading.content.form, Form::Logged { .. });
                    self.logged.extend(logged.then_some(found));
                }
                _ => self.damaged_value(store, found),
            },
            _ => {}
        }
        self.count_dead(guard, found)
    }

    fn damaged_value(&mut self, store: &Store, found: Found) {
        let key = store.key_of(found).unwrap_or_default();
        let what = format!("the value of {} fails its checksum", show_key(&key));
        self.report.problems.push(what);
    }

    /// Reads a value of the log, as long as it is the one that is in force.
    fn logged_value(&mut self, store: &Store, found: Found) -> Result<()> {
        while let Some(read) = store.read_value(found, &mut ()) {
            let (Ok(reading), Some(key)) = (read, store.key_of(found)) else {
                self.damaged_value(store, found);
                break;
            };
            let is_logged = matches!(reading.content.form, Form::Logged { .. });
            if !is_logged || store.read_logged(&key, &reading.content, &mut Vec::new(), None)? {
                break;
            }
            if store.is_in_force(found, &reading) {
                self.damaged_value(store, found);
                break;
            }
        }
        Ok(())
    }

    fn count_dead(&mut self, guard: &StripeGuard<'_>, found: Found) -> Result<()> {
        if found.kind.is_latched() {
            let is_dead = |p| guard.store.is_dead(guard.process, p);
            let hold = &guard.store.slab().slot(found.id).hold;
            let judgement = hold.judge(hold.load(), || 0, is_dead);
            self.report.dead_holds += usize::from(judgement == Judgement::Dead);
        } else if let Ok(standing) = guard.store.standing(found) {
            let dead = standing.holders.iter().filter(|h| !h.alive);
            self.report.dead_holds += dead.count();
        }
        Ok(())
    }

    /// Marks a run as taken, each number once.
    fn take(&mut self, slots: bool, first: u32, count: u32, by: SlotId) {
        for at in first..first.saturating_add(count) {
            let taken = match slots {
                true => self.slots.get_mut(at as usize),
                false => self.blocks.get_mut(at as usize),
            };
            match taken {
                Some(taken) if !*taken => *taken = true,
                _ => return self.problem(by, "takes what another key has, or what is not there"),
            }
        }
    }

    /// Compares the state bytes with what the keys take.
    fn states(&mut self, store: &Store) {
        let slab = store.slab();
        for at in 0..slab.layout().slots.count {
            let state = load(slab.slot_state(at));
            let taken = self.slots[at as usize];
            match (taken, state) {
                (true, STATE_USED | STATE_TAIL) | (false, STATE_FREE) => {}
                (true, _) => {
                    let what = format!("slot {at} has a key and is marked {state:#x}");
                    self.report.problems.push(what);
                }
                // An intent that could not be read has its own problem already.
                (false, _) => self.report.slots_leaked += 1,
            }
        }
        for at in 0..slab.layout().blocks.count {
            let state = load(slab.block_state(at));
            let taken = self.blocks[at as usize];
            if taken != (state == STATE_USED) || state & CLAIMED != 0 {
                let what = format!("permit block {at} is marked {state:#x}, taken is {taken}");
                self.report.problems.push(what);
            }
        }
        for number in 0..STRIPES {
            if slab.stripe(number).intent() != Some(Intent::None) {
                let what = format!("stripe {number} has an unfinished change");
                self.report.problems.push(what);
            }
        }
    }
}

fn load(state: Option<&AtomicU8>) -> u8 {
    state.map_or(STATE_FREE, |s| s.load(Ordering::Acquire))
}

/// What in a slot contradicts itself, or the bucket it hangs on.
pub(super) fn contradiction(store: &Store, found: Found, bucket: u32) -> Option<&'static str> {
    let Some(key) = store.key_of(found) else {
        return Some("has a key that is longer than its slots");
    };
    let hash = hash_as(found.kind, store.hash(&key));
    let slot = store.slab().slot(found.id);
    let Meta {
        key_len, tag_len, ..
    } = found.meta;
    if slot.hash.load(Ordering::Relaxed) != hash as u32 {
        return Some("has a key that does not fit its hash");
    }
    if store.bucket_of(hash) != bucket {
        return Some("hangs on the wrong bucket");
    }
    if Place::of(found.kind, key_len, tag_len).span() > span_of(store.slab(), found.id) {
        return Some("has a tag that is longer than its slots");
    }
    None
}
