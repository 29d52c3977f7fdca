//! Values: what is under a key, and looking at it. Readers take no latch; `space::set` has what does.

use crate::error::{Error, Result};
use crate::log::{Location, Wanted, record_bytes};
use crate::os::clock;
use crate::record::Damaged;
use crate::slab::Tenant;
use crate::slab::value_cells::{Content, Form, Payload, Reading, ValueCells, tag_hash};
use crate::slab::{Growing, Meta, Slab};
use crate::store::Store;
use crate::store::expiry::is_over;
use crate::store::index::chains::VALUE_SLOTS;
use crate::store::key_entry::{KeyEntry, check_lengths};
use crate::store::log::garbage::Dead;
use crate::store::log::segments::Usage;
use crate::store::patience::Patience;
use crate::store::settings::Eviction;
use crate::sync::{AtomicU64, Ordering};
use crate::types::Stats;

/// Everything about a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    pub(crate) value: Vec<u8>,
    pub(crate) tag: Vec<u8>,
    pub(crate) expires_ms: u64,
}

impl Content {
    /// Where in the log the value is, and how much room it takes there.
    pub(crate) fn logged(&self, key_len: usize) -> Option<(Location, u64)> {
        match self.form {
            Form::Logged { place, len, .. } => {
                Some((place, record_bytes(key_len, self.tag_len, len)))
            }
            _ => None,
        }
    }
}

impl Store {
    /// The slots of a value, if the key has any.
    #[inline(always)]
    pub(in crate::store) fn find_value(&self, key: &[u8], hash: u64) -> Result<Option<KeyEntry>> {
        match self.find_unlocked(key, hash, VALUE_SLOTS) {
            Some(found) if found.kind == Tenant::Value => Ok(Some(found)),
            Some(found) => Err(self.not_a_value(key, found.kind)),
            // Field by field, not as it lies in memory: then what is found at once stays in registers.
            None => Ok(self.find_value_slowly(key, hash)?.map(|found| KeyEntry {
                id: found.id,
                meta: Meta {
                    generation: found.meta.generation,
                    kind: found.meta.kind,
                    key_len: found.meta.key_len,
                    tag_len: found.meta.tag_len,
                },
                kind: found.kind,
            })),
        }
    }

    /// The same where a walk without the lock found none.
    #[inline(never)]
    fn find_value_slowly(&self, key: &[u8], hash: u64) -> Result<Option<KeyEntry>> {
        if self.is_miss(key, hash) {
            self.check_in_place_seldom()?;
            return Ok(None);
        }
        match self.find(key, hash, Patience::Forever)? {
            Some(found) if found.kind != Tenant::Value => Err(self.not_a_value(key, found.kind)),
            found => Ok(found),
        }
    }

    #[cold]
    fn not_a_value(&self, key: &[u8], found: Tenant) -> Error {
        Error::KindMismatch {
            key: key.to_vec(),
            found: found.kind(),
            expected: Tenant::Value.kind(),
        }
    }

    /// What the cells of a key say, if it is still there. `Err`: they are damaged.
    #[inline]
    pub(crate) fn read_value(
        &self,
        found: KeyEntry,
        payload: &mut impl Payload,
    ) -> Option<std::result::Result<Reading, Damaged>> {
        let cells = found.cells(&self.slab).ok_or(Damaged);
        let read = cells.and_then(|cells| cells.read(payload));
        // What was read is of this key only if the slot still is.
        self.is_still(found).then_some(read)
    }

    /// The same without the bytes, nor whether it is damaged or gone. For who judges by it whether the key may go:
    /// what is decided counts as done (T1).
    pub(crate) fn content_of(&self, found: KeyEntry) -> Option<Content> {
        self.settle().ok()?;
        let reading = self.read_value(found, &mut ())?.ok()?;
        Some(reading.content)
    }

    /// The value under a key, into `into`. `None`: there is none, or it is over, or damaged.
    #[inline]
    pub(crate) fn get_value(&self, key: &[u8], into: &mut Vec<u8>) -> Result<Option<Content>> {
        let got = self.look_up(key, into, None)?;
        self.count_look(got.is_some());
        Ok(got)
    }

    /// The same with the tag.
    pub(crate) fn whole_value(&self, key: &[u8]) -> Result<Option<Whole>> {
        let mut whole = Whole::default();
        let got = self.look_up(key, &mut whole.value, Some(&mut whole.tag))?;
        self.count_look(got.is_some());
        whole.expires_ms = got.map_or(0, |content| content.expires_ms);
        Ok(got.map(|_| whole))
    }

    /// The value under a key, into `into`, without counting that somebody looked. `false`: there is none.
    pub(crate) fn value_at_hand(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool> {
        Ok(self.look_up(key, into, None)?.is_some())
    }

    /// Whether there is a value, and what is said of it without its bytes.
    pub(crate) fn peek_value(&self, key: &[u8]) -> Result<Option<Content>> {
        check_lengths(key, &[])?;
        self.settle()?;
        let hash = self.hash(key);
        while let Some(found) = self.find_value(key, hash)? {
            if let Some(read) = self.read_value(found, &mut ()) {
                let content = read.ok().map(|r| r.content);
                return Ok(content.filter(|c| !c.is_absent() && !is_over(c.expires_ms)));
            }
        }
        Ok(None)
    }

    #[inline]
    pub(in crate::store) fn look_up(
        &self,
        key: &[u8],
        into: &mut Vec<u8>,
        mut tag: Option<&mut Vec<u8>>,
    ) -> Result<Option<Content>> {
        check_lengths(key, &[])?;
        self.settle()?;
        let hash = self.hash(key);
        while let Some(found) = self.find_value(key, hash)? {
            let Some(read) = self.read_value(found, into) else {
                continue;
            };
            let Ok(reading) = read else {
                self.count_damaged();
                return Ok(None);
            };
            let content = reading.content;
            if content.is_absent() || is_over(content.expires_ms) {
                return Ok(None);
            }
            match content.form {
                Form::Inline { .. } => {
                    if let Some(tag) = tag.as_deref_mut() {
                        *tag = content.tag_in(into).to_vec();
                    }
                    content.keep_value(into);
                }
                _ if !self.read_in_force(key, found, &reading, into, tag.as_deref_mut())? => {
                    if self.is_in_force(found, &reading) {
                        self.count_damaged();
                        return Ok(None);
                    }
                    // It was moved, or replaced.
                    continue;
                }
                _ => {}
            }
            self.note_use(found);
            return Ok(Some(content));
        }
        Ok(None)
    }

    /// The bytes of a value that lies in the log, checked. `false`: they are not there, or not whole.
    pub(crate) fn read_logged(
        &self,
        key: &[u8],
        content: &Content,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> Result<bool> {
        self.read_record(key, content, into, tag, None)
    }

    /// The same of what was just read in a cell, whose sum need not be looked at each time.
    fn read_in_force(
        &self,
        key: &[u8],
        found: KeyEntry,
        reading: &Reading,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> Result<bool> {
        let is_needed = || self.is_in_force(found, reading);
        self.read_record(key, &reading.content, into, tag, Some(&is_needed))
    }

    fn read_record(
        &self,
        key: &[u8],
        content: &Content,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
        trusting: Option<&dyn Fn() -> bool>,
    ) -> Result<bool> {
        let Some(wanted) = wanted(key, content) else {
            return Ok(false);
        };
        let log = &self.process()?.log;
        log.read(Wanted { trusting, ..wanted }, into, tag)
            .map_err(self.log_error("read", log, wanted.place.segment()))
    }

    /// Whether what was read is still what the key has.
    pub(crate) fn is_in_force(&self, found: KeyEntry, reading: &Reading) -> bool {
        let cells = found.cells(&self.slab);
        let same = cells.is_some_and(|cells| cells.version() == reading.version);
        same && self.is_still(found)
    }

    #[inline]
    fn count_look(&self, hit: bool) {
        let Some(record) = self.me().and_then(|me| self.slab.participant(me.get())) else {
            return;
        };
        let counter = if hit { &record.hits } else { &record.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    pub(crate) fn count_damaged(&self) {
        let damaged = &self.slab.header().damaged;
        damaged.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    pub(crate) fn count_unkept(&self) {
        let unkept = &self.slab.header().unkept;
        unkept.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn note_use(&self, found: KeyEntry) {
        let eviction = self.eviction();
        if matches!(
            eviction,
            Eviction::LeastRecentlyUsed | Eviction::LeastFrequentlyUsed
        ) && let Some(word) = found
            .cells(&self.slab)
            .as_ref()
            .and_then(ValueCells::use_word)
        {
            used(word, eviction);
        }
    }

    /// Whether a key is a value's and has none, or one that is over.
    pub(crate) fn is_vacant(&self, found: KeyEntry) -> bool {
        if found.kind != Tenant::Value {
            return false;
        }
        let content = self.content_of(found);
        content.is_some_and(|c| c.is_absent() || is_over(c.expires_ms))
    }

    /// Whether a key is shown to those who list keys.
    pub(crate) fn is_listed(&self, found: KeyEntry) -> bool {
        found.kind != Tenant::Turn && !self.is_vacant(found)
    }

    /// Whether a key is that of a value that is over.
    pub(crate) fn is_expired(&self, found: KeyEntry) -> bool {
        let content = match found.kind {
            Tenant::Value => self.content_of(found),
            _ => None,
        };
        content.is_some_and(|c| !c.is_absent() && is_over(c.expires_ms))
    }

    /// The tag of a value; empty if it has none, or is damaged. An error if it cannot be read.
    pub(crate) fn tag_of_value(&self, found: KeyEntry) -> Result<Vec<u8>> {
        let tag = self.tag_if(found, |content| !content.is_absent())?;
        Ok(tag.unwrap_or_default())
    }

    /// Whether a value carries this tag.
    pub(crate) fn value_has_tag(&self, found: KeyEntry, tag: &[u8]) -> Result<bool> {
        let may_carry = |content: &Content| {
            let fits = match content.form {
                Form::Absent => false,
                Form::Inline { .. } => true,
                Form::Logged { tag_hash: of, .. } => of == tag_hash(tag),
            };
            fits && content.tag_len == tag.len() && !is_over(content.expires_ms)
        };
        Ok(self.tag_if(found, may_carry)?.as_deref() == Some(tag))
    }

    /// The tag of a value, if what is said of it is `wanted`.
    fn tag_if(
        &self,
        found: KeyEntry,
        wanted: impl Fn(&Content) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let mut payload = Vec::new();
        self.settle()?;
        loop {
            let Some(Ok(reading)) = self.read_value(found, &mut payload) else {
                return Ok(None);
            };
            let content = reading.content;
            if !wanted(&content) {
                return Ok(None);
            }
            let tag = match content.form {
                Form::Logged { .. } if content.tag_len > 0 => self.logged_tag(found, &content)?,
                _ => Some(content.tag_in(&payload).to_vec()),
            };
            // Otherwise it was moved, or replaced, while it was read.
            if tag.is_some() || self.is_in_force(found, &reading) {
                return Ok(tag);
            }
        }
    }

    fn logged_tag(&self, found: KeyEntry, content: &Content) -> Result<Option<Vec<u8>>> {
        let Form::Logged { tag_hash: hash, .. } = content.form else {
            return Ok(None);
        };
        let Some(key) = self.key_of(found) else {
            return Ok(None);
        };
        let Some(wanted) = wanted(&key, content) else {
            return Ok(None);
        };
        let log = &self.process()?.log;
        let read = log.read_tag(wanted);
        let tag = read.map_err(self.log_error("read", log, wanted.place.segment()))?;
        Ok(tag.filter(|tag| tag_hash(tag) == hash))
    }

    /// What a key that is to be taken away has in the log, which nobody will need then.
    pub(crate) fn left_by(&self, found: KeyEntry) -> Option<Dead> {
        let content = self
            .content_of(found)
            .filter(|_| found.kind == Tenant::Value)?;
        Dead::of(&content, found.meta.key_len)
    }
}

/// The word `use`: how often in the upper 20 bits, when in milliseconds below.
pub(crate) const USE_SHIFT: u32 = 44;

#[inline]
fn used(word: &AtomicU64, eviction: Eviction) {
    let seen = word.load(Ordering::Relaxed);
    if eviction == Eviction::LeastFrequentlyUsed {
        if seen >> USE_SHIFT < u64::MAX >> USE_SHIFT {
            word.fetch_add(1 << USE_SHIFT, Ordering::Relaxed);
        }
        return;
    }
    let now = clock::coarse_wall_ms();
    if seen != now {
        word.store(now, Ordering::Relaxed);
    }
}

/// What a slab says of the values in it, where its log has that much.
pub(in crate::store) fn stats_of(slab: &Slab, usage: Usage) -> Stats {
    let header = slab.header();
    let mut stats = Stats {
        evictions: header.evictions.load(Ordering::Relaxed),
        damaged: header.damaged.load(Ordering::Relaxed),
        unkept: header.unkept.load(Ordering::Relaxed),
        bytes_live: usage.bytes - usage.dead,
        bytes_dead: usage.dead,
        ..Stats::default()
    };
    for number in 0..slab.allocated(Growing::Participants) {
        if let Some(record) = slab.participant(number as u16) {
            let add = |sum: &mut u64, count: &AtomicU64| {
                *sum = sum.saturating_add(count.load(Ordering::Relaxed));
            };
            add(&mut stats.hits, &record.hits);
            add(&mut stats.misses, &record.misses);
        }
    }
    stats
}

/// All of them.
impl Store {
    pub(crate) fn stats(&self) -> Result<Stats> {
        Ok(stats_of(&self.slab, self.usage()?))
    }

    /// The keys of all values of a stripe.
    pub(crate) fn keys_of_values(&self, stripe: u32) -> Result<Vec<Vec<u8>>> {
        self.list_stripe(stripe, |_, found| {
            found.kind == Tenant::Value && !self.is_vacant(found)
        })
    }
}

/// What to read of the log for a value. `None`: it does not lie there.
pub(in crate::store) fn wanted<'k>(key: &'k [u8], content: &Content) -> Option<Wanted<'k>> {
    let Form::Logged { place, len, .. } = content.form else {
        return None;
    };
    Some(Wanted {
        place,
        key,
        tag_len: content.tag_len,
        len,
        trusting: None,
    })
}
