//! Room for values: evicting some by the store's policy.
//!
//! Nothing is kept in order of use. When there is no room, a part of the slots is looked at, and the oldest
//! there go, some hundred at a time; a store of up to 65,536 slots is looked at as a whole.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::log::{LARGE_BYTES, Place, SEGMENT_HEADER_BYTES, record_bytes};
use crate::os::clock;
use crate::record::Force;
use crate::slab::{Growing, SlotId};
use crate::store::Store;
use crate::store::change::New;
use crate::store::compact::{CROWDED, Mine};
use crate::store::config::{Durability, Eviction};
use crate::store::dead::DeadList;
use crate::store::index::Found;
use crate::store::recount::Counted;
use crate::store::segments::{Room, slack_of};
use crate::store::value::{Form, ValueCells};
use crate::store::values::USE_SHIFT;
use crate::store::waiting::Patience;
use crate::sync::{AtomicU64, Ordering};
use crate::types::Kind;

/// How many slots are looked at for the oldest values: some two milliseconds.
pub(super) const WINDOW: u32 = 65_536;
/// How many values go at a time: each takes some five microseconds.
pub(super) const BATCH: usize = 256;
/// How long setting a value goes on compacting, or waits for somebody else who does, before it takes the last room that
/// there is. A step of its own may come on top, and evicting: 50 ms in all.
const PATIENCE: Duration = Duration::from_millis(25);
/// When even who gets on with it gives up.
const ENDLESS: Duration = Duration::from_secs(1);
/// How often others may be quicker to take the room that there was.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_micros(500);

/// How long somebody has been making room, or waiting for others to make it. Time in which this thread was not let run
/// does not count: on a busy machine it would give up although there is room to be made.
pub(crate) struct Wait {
    begun: Instant,
    worked_before: Duration,
    pauses: Cell<u32>,
}

impl Wait {
    pub(crate) fn begin() -> Wait {
        Wait {
            begun: Instant::now(),
            worked_before: clock::worked(),
            pauses: Cell::new(0),
        }
    }

    fn is_over(&self) -> bool {
        let worked = clock::worked().saturating_sub(self.worked_before);
        worked + PAUSE * self.pauses.get() > PATIENCE || self.is_endless()
    }

    /// For somebody else, who has no way to tell us.
    fn pause(&self) {
        self.pauses.set(self.pauses.get() + 1);
        std::thread::sleep(PAUSE);
    }

    fn is_endless(&self) -> bool {
        self.begun.elapsed() > ENDLESS
    }
}

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
    /// compacts in proportion to what is asked for. Says how much the log may take with them.
    pub(crate) fn make_room(
        self: &Arc<Store>,
        bytes: u64,
        wait: &Wait,
        mine: &Mine<'_>,
    ) -> Result<Room> {
        let limit = self.size_limit();
        // They may begin a segment.
        let bytes = bytes + SEGMENT_HEADER_BYTES;
        if bytes > self.live_limit() {
            return Err(self.over_limit());
        }
        loop {
            let (usage, segments) = self.usage_and_segments()?;
            if self.is_falling() && usage.bytes <= limit {
                // Values may have gone, and nothing was compacted for that.
                self.let_bound_fall()?;
            }
            let limit = limit.min(self.bound().saturating_sub(slack_of(segments + 1)));
            let live = usage.bytes - usage.dead;
            let lacks = live + bytes > self.live_limit();
            if lacks
                && self.recount_seldom()? != Counted::More
                && self.evict_from_log(bytes, false)? == 0
                && self.recount_while(|| !wait.is_over())? != Counted::More
            {
                return Err(self.over_limit());
            }
            let is_full = usage.bytes + bytes > limit;
            let is_near = usage.bytes + bytes > limit - limit / 16;
            let is_half_dead = usage.dead > usage.bytes / 5 * 2;
            let is_pressed = is_near || is_half_dead || segments >= CROWDED;
            let compacted = is_pressed && self.compact(bytes, mine)?;
            if !is_full {
                return Ok(Room::ToSet(limit));
            }
            if wait.is_over() {
                // As long as we get on with it ourselves it is no reason to refuse a value that it takes longer.
                let gets_on = compacted && !wait.is_endless();
                match self.last_room(bytes, gets_on)? {
                    Some(room) => return Ok(room),
                    None if gets_on => {}
                    None => return Err(self.over_limit()),
                }
            }
            if !compacted && !lacks {
                wait.pause();
            }
        }
    }

    /// When the log is full and there is no more time to compact it. What is moved needs a segment's room; a value that
    /// is to be set gets a quarter of that, so that there is always something that can be compacted: of a log with a
    /// quarter of dead bytes some segment has a quarter of them.
    fn last_room(self: &Arc<Store>, bytes: u64, gets_on: bool) -> Result<Option<Room>> {
        let (usage, segments) = self.usage_and_segments()?;
        let most = self.size_limit().saturating_add(self.segment_bytes() / 4);
        let most = most.min(self.bound().saturating_sub(slack_of(segments + 1)));
        if usage.bytes + bytes <= most {
            return Ok(Some(Room::ToSet(most)));
        }
        if self.is_falling() {
            return Ok(Some(Room::ToMove));
        }
        // What is large is gone at once.
        while !gets_on && self.evict_from_log(bytes, true)? > 0 {
            if self.usage()?.bytes + bytes <= most {
                return Ok(Some(Room::ToSet(most)));
            }
        }
        Ok(None)
    }

    /// Writes a value to the log, and waits for the medium if it is to survive a power failure.
    pub(crate) fn append_for(
        self: &Arc<Store>,
        key: &[u8],
        new: &New<'_>,
        mine: &Mine<'_>,
    ) -> Result<Place> {
        let bytes = record_bytes(key.len(), new.tag.len(), new.value.len());
        let wait = Wait::begin();
        for _ in 0..ATTEMPTS {
            let room = self.make_room(bytes, &wait, mine)?;
            if let Some(place) = self.append_durably(key, new.tag, new.value, room)? {
                return Ok(place);
            }
            // Others were quicker.
        }
        Err(self.over_limit())
    }

    /// Evicts values that lie in the log, for that many bytes at least if there are so many; on request only such whose
    /// room is free at once. How many went.
    fn evict_from_log(&self, bytes: u64, only_large: bool) -> Result<usize> {
        let wanted = bytes.max(self.size_limit() / 64);
        let (mut freed, mut evicted) = (0, 0);
        // Given back at the end, with one wait for the medium.
        let dead = DeadList::new(self);
        let least = if only_large { LARGE_BYTES } else { 1 };
        let wanted_of = |bytes: u64| bytes >= least;
        for candidate in oldest(self.candidates(wanted_of), BATCH) {
            if freed >= wanted {
                break;
            }
            if self.evict_value(&candidate, Patience::Forever, &dead)? {
                freed += candidate.bytes;
                evicted += 1;
            }
        }
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
        dead: &DeadList<'_>,
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
        let expired = self.expire()?;
        self.recount_while(|| true)?;
        let evicted = self.evict_what_is_too_much()?;
        while self.compact(u64::MAX, &[])? {}
        Ok(expired + evicted)
    }

    /// After the limit was lowered: lets values go, and compacts, until the log takes no more than that. If values may
    /// not go, or somebody is in the way, the next ones who set a value do the rest.
    pub(crate) fn make_fit(self: &Arc<Store>) -> Result<()> {
        self.evict_what_is_too_much()?;
        while self.usage()?.bytes > self.size_limit() && self.compact(u64::MAX, &[])? {}
        Ok(())
    }

    fn evict_what_is_too_much(&self) -> Result<usize> {
        let mut gone = 0;
        loop {
            let usage = self.usage()?;
            if usage.bytes - usage.dead <= self.live_limit() {
                return Ok(gone);
            }
            match self.evict_from_log(0, false)? {
                0 => return Ok(gone),
                evicted => gone += evicted,
            }
        }
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::segments::Usage;
    use crate::{Cache, Error, Options};

    const LIMIT: u64 = 4 << 20;

    /// A store with two megabytes that nobody needs, which nobody compacts as long as there is the lock.
    fn full_of_dead(options: Options) -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
        let lock = cache.store.try_lock_compaction().unwrap();
        for round in 0..3_u8 {
            (0..60).for_each(|key| cache.set(format!("{key}"), [round; 15_000]).unwrap());
        }
        drop(lock);
        (dir, cache)
    }

    /// Also with the header of its segment.
    #[test]
    fn a_value_that_fits_but_for_a_header_is_set() {
        let (_dir, cache) = full_of_dead(Cache::options().size_limit(LIMIT));
        let _lock = cache.store.try_lock_compaction().unwrap().unwrap();
        let Usage { bytes, .. } = cache.store.usage().unwrap();
        let len = LIMIT - bytes - record_bytes(4, 0, 0);
        assert_eq!(bytes + record_bytes(4, 0, len as usize), LIMIT);
        cache.set("rest", vec![7; len as usize]).unwrap();
        assert!(cache.store.usage().unwrap().bytes > LIMIT);
    }

    /// What was large went without anything being compacted; then nobody can compact.
    #[test]
    fn a_log_that_fits_a_lower_limit_does_not_grow_above_it() {
        let (_dir, cache) = full_of_dead(Cache::options().size_limit(16 * LIMIT));
        let lower = Cache::options().size_limit(LIMIT);
        let _lock = cache.store.try_lock_compaction().unwrap().unwrap();
        cache.configure(&lower).unwrap();
        let mut refused = 0;
        for round in 0..10_u8 {
            for key in 0..60 {
                match cache.set(format!("{key}"), [round; 15_000]) {
                    Err(Error::OverLimit { .. }) => refused += 1,
                    set => set.unwrap(),
                }
                let usage = cache.store.usage().unwrap();
                assert!(usage.bytes <= cache.store.bound(), "{round} {usage:?}");
            }
            if refused > 3 {
                return;
            }
        }
        panic!("it never was full");
    }
}
