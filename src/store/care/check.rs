//! Verifying a store while it is in use: reads only, in pieces under the lock of a stripe, so that
//! what is being changed is not taken for damage, and nobody is kept from making keys.
//!
//! Between two pieces keys come and go. A key is compared with the states of its slots under its
//! stripe, where they are its own. That two keys have one slot, or that nobody has it, is said only
//! after it was looked at again: `leaks`.

use std::fmt;

use crate::error::{Error, Result, show_key};
use crate::log::Log;
use crate::os::memory;
use crate::slab::bytes::span_of;
use crate::slab::layout::PERMITS_PER_BLOCK;
use crate::slab::value_cells::Form;
use crate::slab::{Growing, STATE_FREE, STATE_TAIL, STATE_USED, SlotId, Tally, Tenant};
use crate::store::care::contradiction::{contradiction, is_found};
use crate::store::care::leaks::Leaks;
use crate::store::care::tallies::Tallies;
use crate::store::holds::standing::{Onlooker, looking};
use crate::store::home::slab_file;
use crate::store::index::allocate::Pool;
use crate::store::index::pieces::Pieces;
use crate::store::index::stripe::StripeGuard;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::members::device::OnDevice;
use crate::store::members::lock_files::opened_up_of;
use crate::store::slots::by_slot::Slots;
use crate::store::space::moving::is_of_the_device;
use crate::store::{Store, names};
use crate::sync::{AtomicU8, Ordering};

/// What a check found.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

/// The problems, a line each, and in the last one the counts.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        write!(
            f,
            "{}: {} keys in {} slots, {} slots leaked, {} holds left by the dead",
            if self.is_sound() {
                "sound"
            } else {
                "not sound"
            },
            self.keys,
            self.slots_used,
            self.slots_leaked,
            self.dead_holds
        )
    }
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

/// What is said where a sync has failed.
pub(in crate::store) const UNSYNCED: &str =
    "a sync has failed, so nothing is known of what the device has";

/// What is said of a key that a search by its name ends without, or at another slot.
pub(in crate::store) const UNFOUND: &str = "has a key that is not found";

/// What every key was found to take, to compare with the states.
struct Census<'a> {
    store: &'a Store,
    report: CheckReport,
    /// Of each slot and block, the link of the slot in which the key begins that has it; 0: none
    /// was found.
    slots: Vec<u32>,
    blocks: Vec<u32>,
    /// Values in the log, to be read.
    logged: Vec<KeyEntry>,
    tallies: Tallies,
}

/// Looks at a store as a whole. Decides nothing.
#[derive(Clone, Copy)]
pub(crate) struct Inspector<'s>(pub(crate) &'s Store);

impl<'s> Inspector<'s> {
    /// Verifies everything that can be verified. A caller that makes or removes a key waits for a
    /// millisecond at the most; taking and giving back do not wait.
    pub(crate) fn check(self) -> Result<CheckReport> {
        self.0.check_in_place()?;
        self.0.process()?.locks.prove()?;
        self.0.slab().reach()?;
        let allocated = |what| self.0.slab().allocated(what) as usize;
        let io = |e| Error::io("check", self.0.slab().path(), e);
        let mut census = Census {
            store: self.0,
            report: CheckReport::default(),
            slots: memory::filled(0, allocated(Growing::Slots)).map_err(io)?,
            blocks: memory::filled(0, allocated(Growing::Blocks)).map_err(io)?,
            logged: Vec::new(),
            tallies: Tallies::new(),
        };
        match Journal(self.0).finish_decided() {
            // The first shard has the journal of all: it tells.
            Err(e) if is_damage(&e) && self.0.site.lane == 0 => {
                census.report.problems.push(e.to_string());
            }
            Err(e) if !is_damage(&e) => return Err(e),
            _ => {}
        }
        if OnDevice(self.0).is_unsynced() {
            census.report.problems.push(UNSYNCED.to_string());
        }
        let damaged = slab_file::damaged_copy(&self.0.slab)?;
        census.report.problems.extend(damaged);
        census.report.problems.extend(opened_up_of(&self.0.site)?);
        Pieces(self.0).each_bucket(|bucket| match bucket {
            Ok((guard, bucket)) => {
                let wrong = census.tallies.begin(guard);
                census.report.problems.extend(wrong);
                census.bucket(guard, bucket)
            }
            Err(e) => {
                census.report.problems.push(e.to_string());
                Ok(())
            }
        })?;
        let differ = census.tallies.compare(self.0.slab());
        census.report.problems.extend(differ);
        census.leaks()?;
        // Without the locks: reading takes its time.
        for found in std::mem::take(&mut census.logged) {
            census.logged_value(self.0, found)?;
        }
        Ok(census.report)
    }
}

/// Whether an error says that the store is damaged, and not that this process lacks something, or
/// has to wait.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::NotAStore { .. }) || is_of_the_device(error)
}

/// How a report tells of a value that is in force and cannot be read.
pub(in crate::store) fn why_unread(log: &Log, key: &[u8], form: &Form) -> Result<String> {
    let key = show_key(key);
    if let Form::Logged { place, .. } = form {
        let segment = log.path(place.segment());
        if !names::is_there(&segment)? {
            let segment = segment.display();
            return Ok(format!(
                "the value of {key} is a miss, for {segment} is gone"
            ));
        }
    }
    Ok(format!("the value of {key} fails its checksum"))
}

impl Census<'_> {
    fn bucket(&mut self, guard: &StripeGuard<'_>, bucket: u32) -> Result<()> {
        let mut ids = Vec::new();
        let walked = guard.walk(bucket, |id| {
            ids.push(id);
            true
        });
        if let Err(e) = walked {
            self.report.problems.push(e.to_string());
            return Ok(());
        }
        for id in ids {
            match guard.found(id) {
                Some(found) => self.key(guard, bucket, found)?,
                None => self.problem(id, "is linked and has no key"),
            }
        }
        Ok(())
    }

    fn problem(&mut self, id: SlotId, what: &str) {
        let at = id.index();
        self.report.problems.push(format!("slot {at} {what}"));
    }

    fn key(&mut self, guard: &StripeGuard<'_>, bucket: u32, found: KeyEntry) -> Result<()> {
        let store = guard.store;
        let slab = store.slab();
        self.report.keys += usize::from(Slots(store).is_listed(found));
        if let Some(what) = contradiction(slab, found, Some(bucket)) {
            self.problem(found.id, what);
            return Ok(());
        }
        if !is_found(guard, found)? {
            self.problem(found.id, UNFOUND);
        }
        let span = span_of(slab, found.id);
        self.report.slots_used += span as usize;
        self.tallies.add(guard, Tally::by(found.kind, span));
        self.take(Pool::Slots, found.id.index(), span, found.id);
        match found.kind {
            Tenant::Semaphore => match Slots(store).permits_of(found.id) {
                Ok((first, permits)) => {
                    let blocks = permits.div_ceil(PERMITS_PER_BLOCK);
                    self.take(Pool::Blocks, first, blocks, found.id);
                }
                Err(e) => self.report.problems.push(e.to_string()),
            },
            Tenant::Averager if !slab.slot(found.id).cells().is_whole() => {
                let key = Slots(store).key_of(found).unwrap_or_default();
                let what = format!("the average {} fails its checksum", show_key(&key));
                self.report.problems.push(what);
            }
            Tenant::Value => match Slots(store).read_value(found, &mut ()) {
                Some(Ok(reading)) => {
                    let logged = matches!(reading.content.form, Form::Logged { .. });
                    self.logged.extend(logged.then_some(found));
                }
                _ => self.damaged_value(store, found),
            },
            _ => {}
        }
        let dead = |onlooker: Onlooker<'_>| onlooker.dead_holds(found);
        self.report.dead_holds += looking(store, guard.process, dead);
        Ok(())
    }

    fn damaged_value(&mut self, store: &Store, found: KeyEntry) {
        let key = Slots(store).key_of(found).unwrap_or_default();
        let what = format!("the value of {} fails its checksum", show_key(&key));
        self.report.problems.push(what);
    }

    /// Reads a value of the log, as long as it is the one that is in force.
    fn logged_value(&mut self, store: &Store, found: KeyEntry) -> Result<()> {
        while let Some(read) = Slots(store).read_value(found, &mut ()) {
            let (Ok(reading), Some(key)) = (read, Slots(store).key_of(found)) else {
                self.damaged_value(store, found);
                break;
            };
            let is_logged = matches!(reading.content.form, Form::Logged { .. });
            if !is_logged
                || Slots(store).read_logged(&key, &reading.content, &mut Vec::new(), None)?
            {
                break;
            }
            if Slots(store).is_in_force(found, &reading) {
                let log = &store.process()?.log;
                let what = why_unread(log, &key, &reading.content.form)?;
                self.report.problems.push(what);
                break;
            }
        }
        Ok(())
    }

    /// Notes a run as taken by a key, under its stripe: nobody else has it, and nobody changes its
    /// states.
    fn take(&mut self, pool: Pool, first: u32, count: u32, by: SlotId) {
        for at in first..first.saturating_add(count) {
            self.note_growth(pool);
            let noted = match pool {
                Pool::Slots => &self.slots,
                Pool::Blocks => &self.blocks,
            };
            let other = noted.get(at as usize).copied();
            // The other key may have been removed since this was noted.
            if other.is_none_or(|other| other != by.link() && self.has(other, pool, at)) {
                return self.problem(by, "takes what another key has, or what is not there");
            }
            let state = load(pool.state(self.store.slab(), at));
            let (noted, problem) = match pool {
                Pool::Slots if matches!(state, STATE_USED | STATE_TAIL) => (&mut self.slots, None),
                Pool::Slots => {
                    let what = format!("slot {at} has a key and is marked {state:#x}");
                    (&mut self.slots, Some(what))
                }
                Pool::Blocks if state == STATE_USED => (&mut self.blocks, None),
                Pool::Blocks => {
                    let what = format!("permit block {at} is taken and is marked {state:#x}");
                    (&mut self.blocks, Some(what))
                }
            };
            noted[at as usize] = by.link();
            self.report.problems.extend(problem);
        }
    }

    /// There may be more than when the check began.
    fn note_growth(&mut self, pool: Pool) {
        let slab = self.store.slab();
        let (noted, now) = match pool {
            Pool::Slots => (&mut self.slots, slab.allocated(Growing::Slots)),
            Pool::Blocks => (&mut self.blocks, slab.allocated(Growing::Blocks)),
        };
        noted.resize(noted.len().max(now as usize), 0);
    }

    /// Whether the key that begins in the slot of that link has that slot or block now.
    fn has(&self, link: u32, pool: Pool, at: u32) -> bool {
        let slab = self.store.slab();
        let Some(id) = slab.follow(link) else {
            return false;
        };
        let Some(meta) = slab.slot(id).meta() else {
            return false;
        };
        let Some(kind) = meta.kind else {
            return false;
        };
        let (first, count) = match pool {
            Pool::Slots => (id.index(), span_of(slab, id)),
            Pool::Blocks if kind != Tenant::Semaphore => return false,
            Pool::Blocks => match Slots(self.store).permits_of(id) {
                Ok((first, permits)) => (first, permits.div_ceil(PERMITS_PER_BLOCK)),
                Err(_) => return false,
            },
        };
        (first..first.saturating_add(count)).contains(&at)
            && Slots(self.store).is_still(KeyEntry { id, meta, kind })
    }

    /// Compares the state bytes with what the keys take.
    fn leaks(&mut self) -> Result<()> {
        let slab = self.store.slab();
        let nobodys = |pool: Pool, takers: &[u32]| -> Vec<u32> {
            let is_used = |at: &u32| load(pool.state(slab, *at)) != STATE_FREE;
            let numbers = (0..).zip(takers).filter(|(_, taker)| **taker == 0);
            numbers.map(|(at, _)| at).filter(is_used).collect()
        };
        let slots = nobodys(Pool::Slots, &self.slots);
        self.report.slots_leaked += Leaks(self.store).leaked_slots(slots).len();
        for at in Leaks(self.store).leaked_blocks(nobodys(Pool::Blocks, &self.blocks))? {
            let state = load(slab.block_state(at));
            let what = format!("permit block {at} is marked {state:#x} and no semaphore has it");
            self.report.problems.push(what);
        }
        Ok(())
    }
}

pub(in crate::store) fn load(state: Option<&AtomicU8>) -> u8 {
    state.map_or(STATE_FREE, |s| s.load(Ordering::Acquire))
}
