//! Room for values: evicting some by the store's policy.
//!
//! Nothing is kept in order of use. When there is no room, a part of the slots is looked at, and the oldest
//! there go, some hundred at a time; a store of up to 65,536 slots is looked at as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::record::Force;
use crate::slab::{Growing, SlotId};
use crate::store::Store;
use crate::store::config::{Durability, Eviction};
use crate::store::dead::Dead;
use crate::store::index::Found;
use crate::store::value::{Form, ValueCells};
use crate::store::values::USE_SHIFT;
use crate::store::waiting::Patience;
use crate::sync::{AtomicU64, Ordering};
use crate::types::Kind;

/// How many slots are looked at for the oldest values: some two milliseconds.
pub(super) const WINDOW: u32 = 65_536;
/// How many values go at a time: each takes some five microseconds.
pub(super) const BATCH: usize = 256;
/// How long setting a value goes on compacting before it takes the room that the last segment has.
const PATIENCE: Duration = Duration::from_millis(40);
/// How long it waits for somebody else who compacts, when even that is used up.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(500);

/// A value that may go.
pub(super) struct Candidate {
    /// The smaller, the sooner.
    used: u64,
    pub(super) found: Found,
    version: u64,
    pub(super) expires_ms: u64,
    /// In the log.
    bytes: u64,
}

impl Store {
    /// How much of the log may be in use, so that compacting always gains something.
    fn live_limit(&self) -> u64 {
        self.size_limit() / 4 * 3
    }

    /// Sees to it that so many bytes more fit into the log: lets values go by the store's policy, and
    /// compacts in proportion to what is asked for.
    pub(crate) fn make_room(self: &Arc<Store>, bytes: u64) -> Result<()> {
        let limit = self.size_limit();
        if bytes > self.live_limit() {
            return Err(self.over_limit());
        }
        let begun = Instant::now();
        loop {
            let usage = self.usage()?;
            let live = usage.bytes - usage.dead;
            if live + bytes > self.live_limit() && self.evict_from_log(bytes)? == 0 {
                return Err(self.over_limit());
            }
            let is_full = usage.bytes + bytes > limit;
            let compacted = (is_full || usage.dead > usage.bytes / 5 * 2) && self.compact(bytes)?;
            if !is_full {
                return Ok(());
            }
            let waited = begun.elapsed();
            if waited > PATIENCE
                && usage.bytes + bytes <= limit.saturating_add(self.segment_bytes())
            {
                return Ok(());
            }
            if !compacted {
                if waited > LAST_PATIENCE {
                    return Err(self.over_limit());
                }
                // Somebody else is at it, who has no way to tell us.
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Evicts values that lie in the log, for that many bytes at least if there are so many. How many went.
    fn evict_from_log(&self, bytes: u64) -> Result<usize> {
        let wanted = bytes.max(self.size_limit() / 64);
        let (mut freed, mut evicted) = (0, 0);
        let mut dead = Vec::new();
        for candidate in oldest(self.candidates(|bytes| bytes > 0), BATCH) {
            if freed >= wanted {
                break;
            }
            if self.evict_value(&candidate, Patience::Forever, &mut dead)? {
                freed += candidate.bytes;
                evicted += 1;
            }
        }
        self.give_back_soon(&dead);
        Ok(evicted)
    }

    /// What may go of a part of the slots, another one each time: the next one in which anything may. Nothing if
    /// nothing may in all of them.
    fn candidates(&self, wanted: impl Fn(u64) -> bool) -> Vec<Candidate> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut candidates = Vec::new();
        let count = self.slab.allocated(Growing::Slots);
        if self.eviction() == Eviction::None || count == 0 {
            return candidates;
        }
        let from = NEXT.fetch_add(WINDOW.into(), Ordering::Relaxed) % u64::from(count);
        for first in (0..count).step_by(WINDOW as usize) {
            for at in first..count.min(first.saturating_add(WINDOW)) {
                let number = ((from + u64::from(at)) % u64::from(count)) as u32;
                let candidate = self.slab.slot_id(number).and_then(|id| self.candidate(id));
                candidates.extend(candidate.filter(|candidate| wanted(candidate.bytes)));
            }
            if !candidates.is_empty() {
                break;
            }
        }
        candidates
    }

    /// The value that begins in a slot, if there is one.
    pub(super) fn candidate(&self, id: SlotId) -> Option<Candidate> {
        let meta = self.slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Kind::Value)?;
        let found = Found { id, meta, kind };
        let used = ValueCells::of(&self.slab, found)?
            .use_word()?
            .load(Ordering::Relaxed);
        let reading = self.read_value(found, &mut ())?.ok()?;
        let content = reading.content;
        let used = match self.eviction() {
            Eviction::LeastFrequentlyUsed => used,
            _ => used & ((1 << USE_SHIFT) - 1),
        };
        (content.form != Form::Absent).then_some(Candidate {
            used,
            found,
            version: reading.version,
            expires_ms: content.expires_ms,
            bytes: content.logged(meta.key_len).map_or(0, |(_, bytes)| bytes),
        })
    }

    /// `false`: it was changed since, or is being changed, or the patience was over. What it had in the log is put to
    /// the `dead`.
    pub(super) fn evict_value(
        &self,
        candidate: &Candidate,
        patience: Patience,
        dead: &mut Vec<Dead>,
    ) -> Result<bool> {
        let found = candidate.found;
        let unchanged = || {
            let reading = self.read_value(found, &mut ()).and_then(|read| read.ok());
            reading.is_some_and(|reading| reading.version == candidate.version)
        };
        let evicted = self.take_away(found, Force::NotTheLiving, patience, unchanged, dead)?;
        if evicted {
            self.slab.header().evictions.fetch_add(1, Ordering::Relaxed);
        }
        Ok(evicted)
    }

    /// Removes what is over, lets values go until the rest fits, and compacts as far as it gains something.
    /// How many values went.
    pub(crate) fn cull(self: &Arc<Store>) -> Result<usize> {
        let mut gone = self.expire()?;
        loop {
            let usage = self.usage()?;
            if usage.bytes - usage.dead <= self.live_limit() {
                break;
            }
            match self.evict_from_log(0)? {
                0 => break,
                evicted => gone += evicted,
            }
        }
        while self.compact(u64::MAX)? {}
        Ok(gone)
    }

    /// Removes values that are over, and what is left of deleted ones. How many were over.
    pub(crate) fn expire(&self) -> Result<usize> {
        let expired = self.remove_all(|_, found| self.is_expired(found))?;
        self.remove_all(|_, found| self.is_vacant(found))?;
        Ok(expired)
    }

    /// Waits until everything that was set is on the medium.
    pub(crate) fn sync_values(&self) -> Result<()> {
        self.sync_log()?;
        self.slab.sync()
    }

    /// The same for the log alone.
    pub(crate) fn sync_log(&self) -> Result<()> {
        let log = &self.process()?.log;
        let segments = self.segments()?;
        for segment in &segments {
            match log.sync(segment.number) {
                // Removed meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(self.log_error("sync", log, segment.number))?,
            }
        }
        if segments.is_empty() {
            return Ok(());
        }
        log.sync_names().map_err(self.log_error("sync", log, 0))
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.durability() == Durability::PowerLoss
    }
}

/// The oldest so many, the oldest first.
pub(super) fn oldest(mut candidates: Vec<Candidate>, count: usize) -> Vec<Candidate> {
    let count = count.min(BATCH);
    if count < candidates.len() {
        candidates.select_nth_unstable_by_key(count, |candidate| candidate.used);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by_key(|candidate| candidate.used);
    candidates
}
