//! Room for values: evicting some by the store's policy.
//!
//! Nothing is kept in order of use. When there is no room, a part of the slots is looked at, and the oldest
//! there go, some hundred at a time; a store of up to 65,536 slots is looked at as a whole.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::log::{LARGE_BYTES, Location, RECORD_ALIGN, SEGMENT_HEADER_BYTES, record_bytes};
use crate::os::clock;
use crate::record::Force;
use crate::slab::Tenant;
use crate::slab::value_cells::Form;
use crate::slab::{Growing, KEY_BYTES_MAX, SlotId, TAG_BYTES_MAX};
use crate::store::Store;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::DeadList;
use crate::store::log::segments::{Room, SegmentState, slack_of};
use crate::store::patience::Patience;
use crate::store::settings::{Durability, Eviction};
use crate::store::space::compact::{CROWDED, LATCH_PATIENCE, Mine};
use crate::store::space::recount::Counted;
use crate::store::space::set::New;
use crate::store::values::get::USE_SHIFT;
use crate::sync::{AtomicU64, Ordering};

/// How many slots are looked at for the oldest values: some two milliseconds.
pub(in crate::store) const WINDOW: u32 = 65_536;
/// How many values go at a time: each takes some five microseconds.
pub(in crate::store) const BATCH: usize = 256;
/// How long setting a value goes on compacting, or waits for somebody else who does, before it takes the last room that
/// there is. A step of its own may come on top, and evicting: 50 ms in all.
const PATIENCE: Duration = Duration::from_millis(25);
/// When even who gets on with it gives up.
const ENDLESS: Duration = Duration::from_secs(1);
/// How often others may be quicker to take the room that there was.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_micros(500);
/// How long to wait for stripes, all together, before other values go than the oldest: stripes are held for
/// microseconds, unless somebody is stopped.
pub(in crate::store) const MOMENT: Duration = Duration::from_millis(1);

/// How long somebody has been making room, or waiting for others to make it. Time in which this thread was not let run
/// does not count: on a busy machine it would give up although there is room to be made.
pub(crate) struct Wait {
    begun: Instant,
    worked_before: Duration,
    /// For others.
    waited: Cell<Duration>,
}

impl Wait {
    pub(crate) fn begin() -> Wait {
        Wait {
            begun: Instant::now(),
            worked_before: clock::worked(),
            waited: Cell::default(),
        }
    }

    fn is_over(&self) -> bool {
        let worked = clock::worked().saturating_sub(self.worked_before);
        worked + self.waited.get() > PATIENCE || self.is_endless()
    }

    /// For somebody else, who has no way to tell us.
    fn pause(&self) {
        std::thread::sleep(PAUSE);
        self.count(PAUSE);
    }

    fn count(&self, waited: Duration) {
        self.waited.set(self.waited.get() + waited);
    }

    fn is_endless(&self) -> bool {
        self.begun.elapsed() > ENDLESS
    }
}

/// A value that may go.
pub(in crate::store) struct Candidate {
    /// The smaller, the sooner.
    used: u64,
    pub(in crate::store) found: KeyEntry,
    version: u64,
    pub(in crate::store) expires_ms: u64,
    /// In the log.
    bytes: u64,
}

/// What came of evicting.
#[derive(Default)]
struct Evicted {
    values: usize,
    /// For the bytes of how many records that is.
    bytes: u64,
    /// The stripes, one in each bit, that somebody had for too long.
    busy: u64,
}

impl Store {
    /// How much of the log may be in use, so that compacting always gains something.
    fn live_limit(&self) -> u64 {
        self.size_limit() / 4 * 3
    }

    /// No record is longer: that of a value as long as the limit. One that takes more than the live limit has the log
    /// to itself, for it is never moved.
    fn longest_record(&self) -> u64 {
        let around = record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, 0) + RECORD_ALIGN;
        self.size_limit().saturating_add(around)
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
        if bytes > self.longest_record() {
            return Err(self.over_limit());
        }
        // They may begin a segment.
        let bytes = bytes + SEGMENT_HEADER_BYTES;
        loop {
            let (usage, segments) = self.usage_and_segments()?;
            if self.is_falling() && usage.bytes <= limit {
                // Values may have gone, and nothing was compacted for that.
                self.let_bound_fall()?;
            }
            let limit = limit.min(self.bound().saturating_sub(slack_of(segments + 1)));
            let live = usage.bytes - usage.dead;
            // Besides what is longer there may be the heads of segments, and nothing else.
            let alone = bytes + SEGMENT_HEADER_BYTES * segments as u64;
            let lacks = live + bytes > self.live_limit().max(alone);
            if lacks
                && self.recount_seldom()? != Counted::More
                && self.evict_from_log(bytes, false, wait)? == 0
                && self.recount_while(|| !wait.is_over())? != Counted::More
            {
                return Err(self.over_limit());
            }
            let is_full = usage.bytes + bytes > limit;
            let is_near = usage.bytes + bytes > limit - limit / 16;
            let is_half_dead = usage.dead > usage.bytes / 5 * 2;
            let is_pressed = is_near || is_half_dead || segments >= CROWDED;
            let begun = Instant::now();
            let compacted = is_pressed && self.compact(bytes, mine)?;
            if !compacted {
                // For somebody who is in the way, and no longer than anybody waits for one.
                wait.count(begun.elapsed().min(LATCH_PATIENCE));
            }
            if !is_full {
                return Ok(Room::ToSet(limit));
            }
            // What is dead where others are appended is in its way, too.
            let ended = !compacted && alone > self.live_limit() && self.end_tail()?;
            if wait.is_over() {
                // As long as we get on with it ourselves it is no reason to refuse a value that it takes longer.
                let gets_on = (compacted || ended) && !wait.is_endless();
                match self.last_room(bytes, gets_on, wait)? {
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
    fn last_room(
        self: &Arc<Store>,
        bytes: u64,
        gets_on: bool,
        wait: &Wait,
    ) -> Result<Option<Room>> {
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
        while !gets_on && self.evict_from_log(bytes, true, wait)? > 0 {
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
    ) -> Result<Location> {
        let bytes = record_bytes(key.len(), new.tag.len(), new.value.len());
        // Before anything goes for it.
        self.known_if_durable()?;
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
    /// room is free at once. How many went. None goes whose stripe somebody has, stopped perhaps, unless there are no
    /// others: then that is waited for, as long as anybody waits for room.
    fn evict_from_log(&self, bytes: u64, only_large: bool, wait: &Wait) -> Result<usize> {
        loop {
            let evicted = self.evict_some(bytes, only_large)?;
            if evicted.values > 0 || evicted.busy == 0 || wait.is_endless() {
                return Ok(evicted.values);
            }
            wait.pause();
        }
    }

    /// The same, of a part of the slots, another one each time: the next one in which anything goes.
    fn evict_some(&self, bytes: u64, only_large: bool) -> Result<Evicted> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let wanted = bytes.max(self.size_limit() / 64);
        let mut evicted = Evicted::default();
        let count = self.slab.allocated(Growing::Slots);
        if self.eviction() == Eviction::None || count == 0 {
            return Ok(evicted);
        }
        // Given back at the end, with one wait for the medium.
        let dead = DeadList::new(self);
        let least = if only_large { LARGE_BYTES } else { 1 };
        let patience = Patience::strictly(MOMENT);
        let from = NEXT.fetch_add(WINDOW.into(), Ordering::Relaxed) % u64::from(count);
        for first in (0..count).step_by(WINDOW as usize) {
            let window = first..count.min(first.saturating_add(WINDOW));
            let ids = window.filter_map(|at| {
                let number = ((from + u64::from(at)) % u64::from(count)) as u32;
                self.slab.slot_id(number)
            });
            let of_log = ids.filter_map(|id| self.candidate(id));
            let mut left: Vec<_> = of_log.filter(|one| one.bytes >= least).collect();
            while evicted.values == 0 && !left.is_empty() {
                let batch = take_oldest(&mut left, BATCH);
                self.evict_batch(batch, wanted, patience, &mut evicted, &dead)?;
            }
            if evicted.values > 0 {
                break;
            }
        }
        Ok(evicted)
    }

    fn evict_batch(
        &self,
        batch: Vec<Candidate>,
        wanted: u64,
        patience: Patience,
        evicted: &mut Evicted,
        dead: &DeadList<'_>,
    ) -> Result<()> {
        for candidate in batch {
            if evicted.bytes >= wanted {
                break;
            }
            let Some(key) = self.key_of(candidate.found) else {
                continue;
            };
            let stripe = 1 << self.stripe_of(self.hash(&key));
            if evicted.busy & stripe != 0 {
                continue;
            }
            match self.evict_value(&candidate, patience, dead)? {
                Some(true) => {
                    evicted.values += 1;
                    evicted.bytes += candidate.bytes;
                }
                Some(false) => {}
                None => evicted.busy |= stripe,
            }
        }
        Ok(())
    }

    /// The value that begins in a slot, if there is one.
    pub(in crate::store) fn candidate(&self, id: SlotId) -> Option<Candidate> {
        let meta = self.slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Tenant::Value)?;
        let found = KeyEntry { id, meta, kind };
        let used = found.cells(&self.slab)?.use_word()?.load(Ordering::Relaxed);
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

    /// `Some(false)`: it was changed since, or is being changed; `None`: the patience was over, and somebody has the
    /// stripe. What it had in the log is put to the `dead`.
    pub(in crate::store) fn evict_value(
        &self,
        candidate: &Candidate,
        patience: Patience,
        dead: &DeadList<'_>,
    ) -> Result<Option<bool>> {
        let found = candidate.found;
        let unchanged = || {
            let reading = self.read_value(found, &mut ()).and_then(|read| read.ok());
            reading.is_some_and(|reading| reading.version == candidate.version)
        };
        let evicted = self.take_away(found, Force::NotTheLiving, patience, unchanged, dead)?;
        if evicted == Some(true) {
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
        let (mut gone, wait) = (0, Wait::begin());
        loop {
            let usage = self.usage()?;
            if usage.bytes - usage.dead <= self.live_limit() || self.has_but_one()? {
                return Ok(gone);
            }
            match self.evict_from_log(0, false, &wait)? {
                0 => return Ok(gone),
                evicted => gone += evicted,
            }
        }
    }

    /// Whether all that is live is a value that has the log to itself, and still may: its segment is longer than others
    /// ever are.
    fn has_but_one(&self) -> Result<bool> {
        let segments = self.segments()?;
        let live = || segments.iter().map(SegmentState::live);
        let longest = live().max().unwrap_or(0);
        let is_alone = longest == live().sum::<u64>() && longest > self.segment_bytes();
        Ok(is_alone && longest <= self.longest_record())
    }

    /// Removes values that are over, and what is left of deleted ones. How many were over.
    pub(crate) fn expire(&self) -> Result<usize> {
        let expired = self.remove_all(|_, found| self.is_expired(found))?;
        self.remove_all(|_, found| self.is_vacant(found))?;
        Ok(expired)
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.durability() == Durability::PowerLoss
    }
}

/// The oldest so many, the oldest first; the rest is left.
pub(in crate::store) fn take_oldest(
    candidates: &mut Vec<Candidate>,
    count: usize,
) -> Vec<Candidate> {
    let count = count.min(BATCH);
    let mut rest = Vec::new();
    if count < candidates.len() {
        candidates.select_nth_unstable_by_key(count, |candidate| candidate.used);
        rest = candidates.split_off(count);
    }
    let mut taken = std::mem::replace(candidates, rest);
    taken.sort_unstable_by_key(|candidate| candidate.used);
    taken
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::log::segments::Usage;
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

    /// Whatever the rounding of records makes of it.
    #[test]
    fn a_value_as_long_as_any_limit_may_have_the_longest_key_and_tag() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        for limit in LIMIT..LIMIT + 16 {
            cache
                .configure(&Cache::options().size_limit(limit))
                .unwrap();
            let bytes = record_bytes(KEY_BYTES_MAX, TAG_BYTES_MAX, limit as usize);
            let room = cache.store.make_room(bytes, &Wait::begin(), &[]);
            assert!(room.is_ok(), "{limit}: {room:?}");
        }
    }

    /// All that is left to be done is to begin another segment, so that what is dead where others are appended can go.
    #[test]
    fn a_value_as_long_as_the_limit_is_set_also_when_making_room_took_long() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::options().size_limit(LIMIT).open(dir.path()).unwrap();
        for key in 0..60 {
            cache.set(format!("{key}"), [7; 15_000]).unwrap();
        }
        let wait = Wait::begin();
        wait.count(2 * PATIENCE);
        let bytes = record_bytes(4, 0, LIMIT as usize);
        let room = cache.store.make_room(bytes, &wait, &[]);
        assert!(room.is_ok(), "{room:?}");
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

    /// For somebody who is compacting, and no longer than that: a setter is to be answered.
    #[test]
    fn a_setter_waits_for_a_while_and_not_for_ever() {
        let wait = Wait::begin();
        assert!(!wait.is_over());
        wait.count(PATIENCE / 5);
        assert!(!wait.is_over());
        wait.count(PATIENCE);
        assert!(wait.is_over());
    }

    /// As many as are asked for, a batch at most, and none that is younger than one that is left.
    #[test]
    fn the_oldest_are_taken_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.set("k", "v").unwrap();
        let hash = cache.store.hash(b"k");
        let found = cache.store.find_value(b"k", hash).unwrap().unwrap();
        let of_age = |used| Candidate {
            used,
            found,
            version: 0,
            expires_ms: 0,
            bytes: 0,
        };
        for (there, count, taken) in [(9, 3, 3), (9, 8, 8), (9, 9, 9), (9, 99, 9), (0, 1, 0)] {
            // 4, 8, 1, 5, ...: in no order.
            let mut candidates: Vec<_> = (1..=there).map(|n| of_age(n * 4 % 11)).collect();
            let oldest = take_oldest(&mut candidates, count);
            let ages = |of: &[Candidate]| of.iter().map(|one| one.used).collect::<Vec<_>>();
            let mut all = ages(&candidates);
            all.sort_unstable();
            all.splice(0..0, ages(&oldest));
            assert_eq!(oldest.len(), taken, "{count} of {there}");
            assert!(all.is_sorted() && all.len() as u64 == there, "{all:?}");
        }
    }
}
