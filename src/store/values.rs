//! Values: setting, getting, changing, taking away.
//!
//! Who changes a value has the latch of its key, writes the idle cell, and flips the selector; a value that
//! does not fit a cell is written to the log before, and the cell says where. Readers take no latch. A key
//! whose value was deleted or is over keeps its slots, without a value, until they are needed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result, show_key};
use crate::log::{Place, Wanted, record_bytes};
use crate::os::{clock, futex};
use crate::record::{Damaged, Word, life, next_sequence, waiting};
use crate::slab::{Growing, Meta, Slot};
use crate::store::Store;
use crate::store::binding::Binding;
use crate::store::config::Eviction;
use crate::store::index::{Found, check_lengths};
use crate::store::value::{
    Content, EXPIRES_MS_MAX, Form, Payload, Reading, VALUE_BYTES_MAX, ValueCells, cell_words,
    tag_hash,
};
use crate::store::waiting::Patience;
use crate::sync::{AtomicU64, Ordering};
use crate::types::{Kind, Stats};

/// A value that is to be set.
#[derive(Clone, Copy)]
pub(crate) struct New<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) tag: &'a [u8],
    /// As in [`Content`].
    pub(crate) expires_ms: u64,
}

/// When to set a value.
#[derive(Clone, Copy)]
pub(crate) enum When<'a> {
    Always,
    /// If there is none.
    Absent,
    /// If there is one.
    Present,
    /// If it is this one.
    Equal(&'a [u8]),
}

/// Everything about a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    pub(crate) value: Vec<u8>,
    pub(crate) tag: Vec<u8>,
    pub(crate) expires_ms: u64,
}

/// What came of an attempt.
enum Attempt {
    Done(bool),
    /// The value does not fit there, or not any more: it has to go to the log.
    Elsewhere,
}

/// The moment at which what begins now and lasts so long is over.
pub(crate) fn expires_ms(after: Option<Duration>) -> Result<u64> {
    match after {
        None => Ok(0),
        Some(Duration::ZERO) => Err(Error::Invalid {
            what: "expire of zero would be over at once; use a longer one, or none".to_string(),
        }),
        Some(after) => {
            let end_us = clock::wall_us().saturating_add(clock::duration_us(after));
            Ok(end_us.div_ceil(1_000).min(EXPIRES_MS_MAX))
        }
    }
}

/// Whether that moment has come. Far from it, the coarse clock says so.
#[inline]
pub(crate) fn is_over(expires_ms: u64) -> bool {
    /// More than a tick of the coarse clock.
    const NEAR_MS: u64 = 50;
    if expires_ms == 0 {
        return false;
    }
    let coarse = clock::coarse_wall_ms();
    if expires_ms > coarse + NEAR_MS {
        return false;
    }
    expires_ms <= coarse || expires_ms <= clock::wall_us() / 1_000
}

/// How long it is until then.
pub(crate) fn left_until(expires_ms: u64) -> Option<Duration> {
    let left_us = (expires_ms * 1_000).saturating_sub(clock::wall_us());
    (expires_ms != 0).then_some(Duration::from_micros(left_us))
}

/// A value whose latch we have.
pub(crate) struct Latched<'a> {
    store: &'a Store,
    pub(crate) found: Found,
    pub(crate) cells: ValueCells<'a>,
    word: Word,
}

impl Latched<'_> {
    fn slot(&self) -> &Slot {
        self.store.slab.slot(self.found.id)
    }

    /// What is in force and not over; what is damaged is as good as nothing.
    #[inline]
    pub(crate) fn current(&self, payload: &mut impl Payload) -> Option<Content> {
        let content = self.cells.read(payload).ok()?.content;
        (!content.is_absent() && !is_over(content.expires_ms)).then_some(content)
    }

    /// Puts something else in force, and forgets what was.
    #[inline]
    pub(crate) fn write(&self, content: Content, tag: &[u8], value: &[u8]) {
        let key_len = self.found.meta.key_len;
        let old = self.cells.logged_now();
        self.cells.write(content, tag, value);
        if let Some((place, bytes)) = old.and_then(|old| old.logged(key_len))
            && content.logged(key_len).is_none_or(|(new, _)| new != place)
        {
            self.store.mark_dead(place, bytes);
        }
    }
}

impl Drop for Latched<'_> {
    fn drop(&mut self) {
        let slot = self.slot();
        // Nobody takes a latch from the living, so it is still ours.
        if !slot.hold.try_give_back(self.word) {
            waiting::give_back(&slot.hold, self.word, &slot.wake, || {
                futex::wake(&slot.wake, 1)
            });
        }
    }
}

impl Content {
    /// Where in the log the value is, and how much room it takes there.
    pub(crate) fn logged(&self, key_len: usize) -> Option<(Place, u64)> {
        match self.form {
            Form::Logged { place, len, .. } => {
                Some((place, record_bytes(key_len, self.tag_len, len)))
            }
            _ => None,
        }
    }
}

/// Reading.
impl Store {
    /// The slots of a value, if the key has any.
    #[inline]
    fn find_value(&self, key: &[u8], hash: u64) -> Result<Option<Found>> {
        let found = match self.find_unlocked(key, hash) {
            None if self.is_miss(key, hash) => {
                self.check_in_place_seldom()?;
                None
            }
            None => self.find(key, hash, Patience::Forever)?,
            found => found,
        };
        match found {
            Some(found) if found.kind != Kind::Value => Err(self.not_a_value(key, found.kind)),
            found => Ok(found),
        }
    }

    #[cold]
    fn not_a_value(&self, key: &[u8], found: Kind) -> Error {
        Error::KindMismatch {
            key: show_key(key),
            found,
            expected: Kind::Value,
        }
    }

    /// What the cells of a key say, if it is still there. `Err`: they are damaged.
    #[inline]
    pub(crate) fn read_value(
        &self,
        found: Found,
        payload: &mut impl Payload,
    ) -> Option<std::result::Result<Reading, Damaged>> {
        let cells = ValueCells::of(&self.slab, found).ok_or(Damaged);
        let read = cells.and_then(|cells| cells.read(payload));
        // What was read is of this key only if the slot still is.
        self.is_still(found).then_some(read)
    }

    /// The same without the bytes, nor whether it is damaged or gone.
    pub(crate) fn content_of(&self, found: Found) -> Option<Content> {
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
    fn look_up(
        &self,
        key: &[u8],
        into: &mut Vec<u8>,
        mut tag: Option<&mut Vec<u8>>,
    ) -> Result<Option<Content>> {
        check_lengths(key, &[])?;
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
                _ if !self.read_logged(key, &content, into, tag.as_deref_mut())? => {
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

    /// The bytes of a value that lies in the log. `false`: they are not there, or not whole.
    pub(crate) fn read_logged(
        &self,
        key: &[u8],
        content: &Content,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> Result<bool> {
        let Form::Logged { place, len, .. } = content.form else {
            return Ok(false);
        };
        let wanted = Wanted {
            place,
            key,
            tag_len: content.tag_len,
            len,
        };
        let log = &self.process()?.log;
        log.read(wanted, into, tag)
            .map_err(self.log_error("read", log, place.segment()))
    }

    /// Whether what was read is still what the key has.
    pub(crate) fn is_in_force(&self, found: Found, reading: &Reading) -> bool {
        let cells = ValueCells::of(&self.slab, found);
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

    #[inline]
    fn note_use(&self, found: Found) {
        let eviction = self.eviction();
        if matches!(
            eviction,
            Eviction::LeastRecentlyUsed | Eviction::LeastFrequentlyUsed
        ) && let Some(word) = ValueCells::of(&self.slab, found)
            .as_ref()
            .and_then(ValueCells::use_word)
        {
            used(word, eviction);
        }
    }

    /// Whether a key is a value's and has none, or one that is over.
    pub(crate) fn is_vacant(&self, found: Found) -> bool {
        if found.kind != Kind::Value {
            return false;
        }
        let content = self.content_of(found);
        content.is_some_and(|c| c.is_absent() || is_over(c.expires_ms))
    }

    /// Whether a key is that of a value that is over.
    pub(crate) fn is_expired(&self, found: Found) -> bool {
        let content = match found.kind {
            Kind::Value => self.content_of(found),
            _ => None,
        };
        content.is_some_and(|c| !c.is_absent() && is_over(c.expires_ms))
    }

    pub(crate) fn tag_of_value(&self, found: Found) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        let reading = self.read_value(found, &mut payload)?.ok()?;
        match reading.content.form {
            Form::Absent => None,
            Form::Inline { .. } => Some(reading.content.tag_in(&payload).to_vec()),
            Form::Logged { .. } if reading.content.tag_len == 0 => None,
            Form::Logged { .. } => self.logged_tag(found, &reading.content),
        }
    }

    /// Whether a value carries this tag.
    pub(crate) fn value_has_tag(&self, found: Found, tag: &[u8]) -> bool {
        let mut payload = Vec::new();
        let Some(Ok(reading)) = self.read_value(found, &mut payload) else {
            return false;
        };
        let content = reading.content;
        if content.tag_len != tag.len() || is_over(content.expires_ms) {
            return false;
        }
        match content.form {
            Form::Absent => false,
            Form::Inline { .. } => content.tag_in(&payload) == tag,
            Form::Logged { tag_hash: of, .. } => {
                of == tag_hash(tag) && self.logged_tag(found, &content).as_deref() == Some(tag)
            }
        }
    }

    fn logged_tag(&self, found: Found, content: &Content) -> Option<Vec<u8>> {
        let key = self.key_of(found)?;
        let (mut value, mut tag) = (Vec::new(), Vec::new());
        let read = self.read_logged(&key, content, &mut value, Some(&mut tag));
        read.is_ok_and(|whole| whole).then_some(tag)
    }

    /// Before a key is taken away: what it has in the log is needed no more.
    pub(crate) fn forget_value(&self, found: Found) {
        if found.kind == Kind::Value
            && let Some(content) = self.content_of(found)
            && let Some((place, bytes)) = content.logged(found.meta.key_len)
        {
            self.mark_dead(place, bytes);
        }
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

/// Looking at all of them.
impl Store {
    pub(crate) fn stats(&self) -> Result<Stats> {
        let header = self.slab.header();
        let usage = self.usage()?;
        let mut stats = Stats {
            evictions: header.evictions.load(Ordering::Relaxed),
            damaged: header.damaged.load(Ordering::Relaxed),
            bytes_live: usage.bytes - usage.dead,
            bytes_dead: usage.dead,
            ..Stats::default()
        };
        for number in 0..self.slab.allocated(Growing::Participants) {
            if let Some(record) = self.slab.participant(number as u16) {
                stats.hits += record.hits.load(Ordering::Relaxed);
                stats.misses += record.misses.load(Ordering::Relaxed);
            }
        }
        Ok(stats)
    }

    /// The keys of all values of a stripe.
    pub(crate) fn keys_of_values(&self, stripe: u32) -> Result<Vec<Vec<u8>>> {
        let guard = self.lock_stripe(stripe)?;
        guard.list(|found| found.kind == Kind::Value && !self.is_vacant(found))
    }
}

/// Changing.
impl Store {
    /// Takes the latch of a value. With `make`, makes the key if need be, with cells of so many words.
    #[inline]
    pub(crate) fn latch(
        self: &Arc<Store>,
        key: &[u8],
        hash: u64,
        make: Option<usize>,
    ) -> Result<Option<Latched<'_>>> {
        if let Some(found) = self.find_unlocked(key, hash)
            && found.kind == Kind::Value
            && let Some(me) = self.me()
        {
            let slot = self.slab.slot(found.id);
            let of = Meta::life_of(found.meta.generation, Kind::Value);
            let is_current = || life::is_current(&slot.meta, of);
            if let Some(word) = slot
                .hold
                .take_if_free(me, is_current, next_sequence, || None)
            {
                return self.latched(found, word).map(Some);
            }
        }
        self.latch_slowly(key, hash, make)
    }

    #[cold]
    fn latch_slowly(
        self: &Arc<Store>,
        key: &[u8],
        hash: u64,
        make: Option<usize>,
    ) -> Result<Option<Latched<'_>>> {
        if make.is_none() && self.find_value(key, hash)?.is_none() {
            return Ok(None);
        }
        let words = make.unwrap_or(cell_words(0));
        let binding = Binding::of_value(Arc::clone(self), key, hash, words);
        let not_holder = || Error::NotHolder { key: show_key(key) };
        let (grant, _) = binding.acquire(Patience::Forever)?.ok_or_else(not_holder)?;
        let found = binding.found_at(grant.spot).ok_or_else(not_holder)?;
        self.latched(found, grant.word).map(Some)
    }

    #[inline]
    fn latched(&self, found: Found, word: Word) -> Result<Latched<'_>> {
        let cells = ValueCells::of(&self.slab, found);
        let Some(cells) = cells else {
            let slot = self.slab.slot(found.id);
            waiting::give_back(&slot.hold, word, &slot.wake, || futex::wake(&slot.wake, 1));
            let what = format!("slot {} has no room for a value", found.id.index());
            return Err(self.slab.corrupt(what));
        };
        Ok(Latched {
            store: self,
            found,
            cells,
            word,
        })
    }

    /// Sets a value. `false`: it was not to be, by `when`.
    pub(crate) fn put(
        self: &Arc<Store>,
        key: &[u8],
        new: &New<'_>,
        when: When<'_>,
    ) -> Result<bool> {
        check_lengths(key, new.tag)?;
        if new.value.len() > VALUE_BYTES_MAX {
            let len = new.value.len();
            return Err(Error::ValueLength { len });
        }
        let hash = self.hash(key);
        let mut fits = self.fits(key, hash, new);
        loop {
            let place = match fits {
                true => None,
                false => match self.is_wanted(key, when)? {
                    true => Some(self.append_for(key, new)?),
                    false => return Ok(false),
                },
            };
            match self.put_once(key, hash, new, place, when)? {
                Attempt::Done(done) => return Ok(done),
                Attempt::Elsewhere => fits = false,
            }
        }
    }

    /// Whether the value is likely to fit into the key's cells.
    #[inline]
    fn fits(&self, key: &[u8], hash: u64, new: &New<'_>) -> bool {
        let bytes = new.tag.len() + new.value.len();
        let found = self
            .find_unlocked(key, hash)
            .filter(|f| f.kind == Kind::Value);
        match found.and_then(|found| ValueCells::of(&self.slab, found)) {
            Some(cells) => cells.fits(bytes),
            None => bytes <= crate::store::value::INLINE_BYTES_MAX,
        }
    }

    /// Before anything is written to the log: whether it will be wanted, as things stand.
    fn is_wanted(&self, key: &[u8], when: When<'_>) -> Result<bool> {
        Ok(match when {
            When::Always => true,
            When::Absent => self.peek_value(key)?.is_none(),
            When::Present => self.peek_value(key)?.is_some(),
            When::Equal(old) => {
                let mut value = Vec::new();
                self.look_up(key, &mut value, None)?.is_some() && value == old
            }
        })
    }

    /// Writes a value to the log, and waits for the medium if it is to survive a power failure.
    fn append_for(self: &Arc<Store>, key: &[u8], new: &New<'_>) -> Result<Place> {
        let bytes = record_bytes(key.len(), new.tag.len(), new.value.len());
        self.make_room(bytes)?;
        let place = self.append(key, new.tag, new.value)?;
        if self.is_durable() {
            let log = &self.process()?.log;
            log.sync(place.segment())
                .map_err(self.log_error("sync", log, place.segment()))?;
        }
        Ok(place)
    }

    #[inline]
    fn put_once(
        self: &Arc<Store>,
        key: &[u8],
        hash: u64,
        new: &New<'_>,
        place: Option<Place>,
        when: When<'_>,
    ) -> Result<Attempt> {
        let len = new.value.len();
        let make = cell_words(new.tag.len() + len);
        // Without a place it fits, or it is found out that it does not.
        let wasted = |place: Option<Place>| {
            let bytes = record_bytes(key.len(), new.tag.len(), len);
            place.inspect(|place| self.mark_dead(*place, bytes));
        };
        let latched = self.latch(key, hash, Some(make));
        let Some(latched) = latched.inspect_err(|_| wasted(place))? else {
            return Ok(Attempt::Elsewhere);
        };
        let is_so = self.is_so(key, when, &latched);
        if !is_so.inspect_err(|_| wasted(place))? {
            wasted(place);
            return Ok(Attempt::Done(false));
        }
        let form = match place {
            None if latched.cells.fits(new.tag.len() + len) => Form::Inline { len },
            Some(place) if self.may_lead_to(place) => Form::Logged {
                place,
                len,
                tag_hash: tag_hash(new.tag),
            },
            _ => return Ok(Attempt::Elsewhere),
        };
        let content = Content {
            expires_ms: new.expires_ms,
            tag_len: new.tag.len(),
            form,
        };
        let (tag, value) = match form {
            Form::Inline { .. } => (new.tag, new.value),
            _ => (&[][..], &[][..]),
        };
        latched.write(content, tag, value);
        let now = clock::coarse_wall_ms();
        let word = latched.cells.use_word();
        word.inspect(|word| word.store(now, Ordering::Relaxed));
        drop(latched);
        self.make_durable()?;
        Ok(Attempt::Done(true))
    }

    /// Whether `when` is so, under the latch.
    #[inline]
    fn is_so(&self, key: &[u8], when: When<'_>, latched: &Latched<'_>) -> Result<bool> {
        Ok(match when {
            When::Always => true,
            When::Absent => latched.current(&mut ()).is_none(),
            When::Present => latched.current(&mut ()).is_some(),
            When::Equal(old) => {
                let mut value = Vec::new();
                latched
                    .current(&mut value)
                    .is_some_and(|content| content.len() == old.len())
                    && self.value_under_latch(key, latched, &mut value)?.is_some()
                    && value == old
            }
        })
    }

    /// The value, where nobody moves it. `None`: there is none, or it is damaged.
    fn value_under_latch(
        &self,
        key: &[u8],
        latched: &Latched<'_>,
        value: &mut Vec<u8>,
    ) -> Result<Option<Content>> {
        let Some(content) = latched.current(value) else {
            return Ok(None);
        };
        let whole = match content.form {
            Form::Inline { .. } => {
                content.keep_value(value);
                true
            }
            _ => self.read_logged(key, &content, value, None)?,
        };
        Ok(whole.then_some(content))
    }

    /// Waits for the medium, if values are to survive a power failure.
    fn make_durable(&self) -> Result<()> {
        match self.is_durable() {
            true => self.slab.sync(),
            false => Ok(()),
        }
    }

    /// Deletes a value, and says what it was.
    pub(crate) fn take_value(self: &Arc<Store>, key: &[u8], read: bool) -> Result<Option<Vec<u8>>> {
        check_lengths(key, &[])?;
        let hash = self.hash(key);
        let Some(latched) = self.latch(key, hash, None)? else {
            return Ok(None);
        };
        if latched.current(&mut ()).is_none() {
            return Ok(None);
        }
        let mut value = Vec::new();
        let whole = !read || self.value_under_latch(key, &latched, &mut value)?.is_some();
        latched.write(Content::ABSENT, &[], &[]);
        drop(latched);
        if !whole {
            self.count_damaged();
        }
        self.make_durable()?;
        Ok(whole.then_some(value))
    }

    /// Gives a value another expiry. `false`: there is none.
    pub(crate) fn touch_value(self: &Arc<Store>, key: &[u8], expires_ms: u64) -> Result<bool> {
        check_lengths(key, &[])?;
        let Some(latched) = self.latch(key, self.hash(key), None)? else {
            return Ok(false);
        };
        let mut payload = Vec::new();
        let Some(old) = latched.current(&mut payload) else {
            return Ok(false);
        };
        let content = Content { expires_ms, ..old };
        match content.form {
            Form::Inline { len } => {
                let (tag, value) = payload.split_at(content.tag_len);
                latched.write(content, tag, &value[..len]);
            }
            _ => latched.write(content, &[], &[]),
        }
        drop(latched);
        self.make_durable()?;
        Ok(true)
    }

    /// Adds to an integer. What is not there counts as `default`.
    pub(crate) fn add_to(self: &Arc<Store>, key: &[u8], delta: i128, default: i64) -> Result<i64> {
        check_lengths(key, &[])?;
        let hash = self.hash(key);
        let refuse = |why| Error::NotInteger {
            key: show_key(key),
            why,
        };
        let sum = |old: i64| {
            let sum = i64::try_from(i128::from(old) + delta);
            sum.map_err(|_| refuse("the sum does not fit 64 bits"))
        };
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        loop {
            let make = Some(cell_words(0));
            let Some(latched) = self.latch(key, hash, make)? else {
                continue;
            };
            payload.clear();
            let Some(content) = latched.current(&mut payload) else {
                let new = sum(default)?;
                write_integer(&latched, Content::ABSENT, &[], new);
                drop(latched);
                self.make_durable()?;
                return Ok(new);
            };
            let tag = content.tag_in(&payload).to_vec();
            let is_short = content.len() <= DIGITS;
            if !is_short
                || self
                    .value_under_latch(key, &latched, &mut payload)?
                    .is_none()
            {
                return Err(refuse(match is_short {
                    true => "its value is damaged",
                    false => "its value is no integer",
                }));
            }
            let number = parse_integer(&payload);
            let new = sum(number.ok_or_else(|| refuse("its value is no integer"))?)?;
            if matches!(content.form, Form::Inline { .. })
                && write_integer(&latched, content, &tag, new)
            {
                drop(latched);
                self.make_durable()?;
                return Ok(new);
            }
            drop(latched);
            // The tag takes the room.
            if let Some(whole) = self.whole_value(key)? {
                let value = new.to_string();
                let new_value = New {
                    value: value.as_bytes(),
                    tag: &whole.tag,
                    expires_ms: whole.expires_ms,
                };
                if self.put(key, &new_value, When::Equal(&payload))? {
                    return Ok(new);
                }
            }
        }
    }
}

fn parse_integer(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The longest integer has so many.
const DIGITS: usize = 20;
/// Enough for them and a short tag.
const PAYLOAD_BYTES: usize = 64;

/// `false`: it does not fit beside the tag.
fn write_integer(latched: &Latched<'_>, old: Content, tag: &[u8], new: i64) -> bool {
    use std::io::Write;
    let mut digits = io::Cursor::new([0; DIGITS]);
    // All of them fit.
    let _ = write!(digits, "{new}");
    let len = digits.position() as usize;
    if !latched.cells.fits(tag.len() + len) {
        return false;
    }
    let content = Content {
        form: Form::Inline { len },
        tag_len: tag.len(),
        ..old
    };
    latched.write(content, tag, &digits.get_ref()[..len]);
    if old.is_absent() {
        let word = latched.cells.use_word();
        word.inspect(|word| word.store(clock::coarse_wall_ms(), Ordering::Relaxed));
    }
    true
}
