//! Several values changed all or not at all.
//!
//! A transaction takes the latch of each key that it reads or sets, and keeps it: nobody else changes these
//! values meanwhile. One at a time, so there is no circle of waiters. At the end it fills the idle cells,
//! writes to the log which selectors are to be flipped, and puts the place of that list into the journal, a
//! word of the header: by that store all has happened. Whoever meets the word, before it reads a value or
//! after it took a latch, flips what is not flipped yet (T1), so nobody sees one change without the others.
//! Nobody needs to know whether who began it lives.
//!
//! In a `FanoutCache` the journal is that of the first shard, for all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::error::{Error, Result, show_key};
use crate::log::{Log, Place, record_bytes};
use crate::os::fork;
use crate::slab::{Meta, Slab, SlotId};
use crate::store::Store;
use crate::store::change::{Latched, New};
use crate::store::config::Config;
use crate::store::dead::Dead;
use crate::store::index::{Found, check_lengths};
use crate::store::nesting::Noted;
use crate::store::open::{self, Settings};
use crate::store::room::Wait;
use crate::store::salvage;
use crate::store::segments::{RECORD_OF_NO_KEY, Room};
use crate::store::stripe::RangeGuard;
use crate::store::value::{Content, Form, VALUE_BYTES_MAX, ValueCells, cell_words, tag_hash};
use crate::store::values::Whole;
use crate::store::waiting::Patience;
use crate::sync::{AtomicU64, Ordering, crash_point};
use crate::types::Kind;

/// The shards of a `FanoutCache`, as a store that is one of them knows them.
#[derive(Default)]
pub(crate) struct Shards {
    /// In the first, as they were opened last. Who is not there any more, or was never opened here, is opened when
    /// it is needed.
    all: Mutex<Vec<Weak<Store>>>,
    /// The first; `None` in itself, so that there is no circle.
    home: Option<Arc<Store>>,
}

/// Set once, when the store is opened as a shard.
pub(crate) type ShardsOf = OnceLock<Shards>;

/// A selector that is to be flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flip {
    shard: u32,
    slot: u32,
    generation: u32,
    /// In force before.
    version: u64,
}

const FLIP_BYTES: usize = 20;
/// What the record of a list of flips has for a key, so that it passes for no value.
const LIST_KEY: &[u8] = RECORD_OF_NO_KEY;

impl Flip {
    fn encode(self) -> [u8; FLIP_BYTES] {
        let mut bytes = [0; FLIP_BYTES];
        bytes[..4].copy_from_slice(&self.shard.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.slot.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_le_bytes());
        bytes[12..].copy_from_slice(&self.version.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; FLIP_BYTES]) -> Flip {
        let u32_at =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        Flip {
            shard: u32_at(0),
            slot: u32_at(4),
            generation: u32_at(8),
            version: u64::from(u32_at(12)) | u64::from(u32_at(16)) << 32,
        }
    }

    /// In the slab of its shard; nothing, if that was done, or the key is gone.
    fn carry_out(self, slab: &Slab) {
        let Some(found) = self.value_in(slab) else {
            return;
        };
        if let Some(cells) = ValueCells::of(slab, found) {
            cells.flip(self.version);
        }
    }

    fn value_in(self, slab: &Slab) -> Option<Found> {
        let id: SlotId = slab.slot_id(self.slot)?;
        let meta: Meta = slab.slot(id).meta()?;
        let kind = meta.kind.filter(|kind| *kind == Kind::Value)?;
        (meta.generation == self.generation).then_some(Found { id, meta, kind })
    }
}

/// How much of a segment a list takes.
pub(super) fn list_bytes(flips: usize) -> u64 {
    record_bytes(LIST_KEY.len(), 0, flips * FLIP_BYTES)
}

/// What a journal lists. `None`: there is no whole list, and nothing was decided.
fn read_list(log: &Log, journal: u64) -> io::Result<Option<Vec<Flip>>> {
    let Some(place) = Place::from_bits(journal) else {
        return Ok(None);
    };
    let mut list = Vec::new();
    let whole = log.read_sized(place, LIST_KEY, &mut list)?;
    let (flips, rest) = list.as_chunks::<FLIP_BYTES>();
    let is_list = whole && rest.is_empty();
    Ok(is_list.then(|| flips.iter().map(Flip::decode).collect()))
}

/// Tells stores that they are the shards of one cache. The first one's journal is for all.
pub(crate) fn join_shards(all: &[Arc<Store>]) {
    let Some(home) = all.first() else {
        return;
    };
    for store in all {
        join_home(store, home);
    }
    if let Some(shards) = home.shards.get() {
        let mut known = shards.all.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time: of those of a cache that was closed only some may be open, for a handle's sake.
        *known = all.iter().map(Arc::downgrade).collect();
    }
}

/// Tells a store that another one's journal is its own, unless it knows.
fn join_home(store: &Arc<Store>, home: &Arc<Store>) {
    store.shards.get_or_init(|| Shards {
        home: (!Arc::ptr_eq(store, home)).then(|| Arc::clone(home)),
        ..Shards::default()
    });
}

/// The same for one that was opened alone, if it is a shard.
pub(crate) fn join_alone(store: &Arc<Store>) -> Result<()> {
    if store.shards.get().is_some() || !store.is_shard() {
        return Ok(());
    }
    let home = store.open_sibling(0)?;
    home.inspect(|home| join_home(store, home));
    Ok(())
}

impl Store {
    /// Whether no decided transaction of the cache, of which this store may be a part, waits to be carried out.
    #[inline]
    fn is_settled(&self) -> bool {
        self.home().journal().load(Ordering::Acquire) == 0
    }

    /// The store whose journal counts.
    #[inline]
    fn home(&self) -> &Store {
        let shards = self.shards.get();
        shards
            .and_then(|shards| shards.home.as_deref())
            .unwrap_or(self)
    }

    /// Ends a transaction that was decided and is not carried out. Comes before a value is read, and after a
    /// latch is taken: what is seen then is either all before it or all after it.
    #[inline]
    pub(crate) fn settle(&self) -> Result<()> {
        match self.is_settled() {
            true => Ok(()),
            false => self.settle_slowly(),
        }
    }

    #[cold]
    fn settle_slowly(&self) -> Result<()> {
        self.home().carry_out()
    }

    /// Flips what the journal says. Everybody may, at any time, again and again: a version is in force once.
    fn carry_out(&self) -> Result<()> {
        let journal = &self.slab.header().journal;
        let bits = journal.load(Ordering::Acquire);
        let log = &self.process()?.log;
        let list =
            read_list(log, bits).map_err(self.log_error("read", log, (bits >> 32) as u32))?;
        if let Some(flips) = &list {
            // Pages reach the medium in any order: first what was decided, then what is done about it, then that
            // it is done.
            self.make_durable()?;
            self.flip_all(flips)?;
        } else if journal.load(Ordering::Acquire) == bits && bits != 0 {
            // Nothing that was ever decided: damage.
            self.count_damaged();
        }
        // Whoever is first. Release: who finds it empty finds the selectors flipped.
        let ended = journal.compare_exchange(bits, 0, Ordering::AcqRel, Ordering::Relaxed);
        // What is no list may be anything, and is believed nothing: also not how long it is.
        if ended.is_ok()
            && let (Some(place), Some(flips)) = (Place::from_bits(bits), list)
        {
            // Not given back: the medium may still have the journal.
            let bytes = list_bytes(flips.len());
            self.mark_dead(Dead { place, bytes });
        }
        Ok(())
    }

    /// An error leaves the journal as it is, for the next one: some flips are not done.
    fn flip_all(&self, flips: &[Flip]) -> Result<()> {
        let mut others: HashMap<u32, Option<Arc<Store>>> = HashMap::new();
        for flip in flips {
            if flip.shard == 0 {
                flip.carry_out(&self.slab);
                continue;
            }
            let other = match others.entry(flip.shard) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.shard(flip.shard)?),
            };
            match other {
                Some(other) => flip.carry_out(&other.slab),
                None => self.count_damaged(),
            }
        }
        if self.is_durable() {
            self.slab.sync()?;
            let mut others = others.values().flatten();
            others.try_for_each(|other| other.slab.sync())?;
        }
        Ok(())
    }

    /// Another shard of the cache of which this is the first. `None`: there is no such shard.
    fn shard(&self, number: u32) -> Result<Option<Arc<Store>>> {
        let known = self.shards.get().and_then(|shards| {
            // A fork may have copied it locked: then they are opened.
            let all = shards.all.try_lock().ok()?;
            all.get(number as usize)?.upgrade()
        });
        match known {
            Some(known) => Ok(Some(known)),
            None => self.open_sibling(number),
        }
    }

    /// Whether it lies where shards lie.
    fn is_shard(&self) -> bool {
        shard_number(&self.dir).is_some()
    }

    fn open_sibling(&self, number: u32) -> Result<Option<Arc<Store>>> {
        let dir = self.dir.with_file_name(shard_name(number));
        crash_point();
        if !self.is_shard() || !dir.join(open::SLAB).is_file() {
            return Ok(None);
        }
        let settings = Settings {
            capacity: None,
            mode: self.mode,
            // It was allowed for this one.
            allow_network_fs: true,
            create: false,
            config: Config::default(),
            fs_magic: None,
        };
        open::open(&dir, &settings).map(Some)
    }

    /// The word in which the place of the list stands, for rebuilding.
    pub(crate) fn journal(&self) -> &AtomicU64 {
        &self.slab.header().journal
    }
}

/// Before a repair, alone with a slab: carries out there what was decided, so that what comes of it is mended, too.
/// Says what it did about a journal that lists nothing.
///
/// Others of the same cache may be in use: who has this one in a transaction is attached to it.
pub(super) fn finish(slab: &Slab) -> Result<Option<String>> {
    let dir = open::parent(slab.path());
    match shard_number(&dir) {
        None | Some(0) => finish_at_home(slab, &dir),
        Some(number) => {
            let home = dir.with_file_name(shard_name(0));
            for flip in decided_in(&home)?.iter().filter(|f| f.shard == number) {
                flip.carry_out(slab);
            }
            Ok(None)
        }
    }
}

/// In the slab whose journal it is. What other shards have of it is theirs to carry out, and the journal stays for
/// them.
fn finish_at_home(slab: &Slab, dir: &Path) -> Result<Option<String>> {
    let journal = &slab.header().journal;
    let bits = journal.load(Ordering::Acquire);
    if bits == 0 {
        return Ok(None);
    }
    let Some(flips) = list_of(slab)? else {
        journal.store(0, Ordering::Release);
        return Ok(Some("emptied the journal, which led nowhere".to_string()));
    };
    let mut others = 0;
    for flip in &flips {
        match flip.shard {
            0 => flip.carry_out(slab),
            _ => others += 1,
        }
    }
    if others == 0 || shard_number(dir).is_none() {
        // Only when the medium has it: it writes its pages in any order.
        slab.sync()?;
        journal.store(0, Ordering::Release);
    }
    Ok(None)
}

/// What the journal of a slab lists, whoever uses it. `None`: no whole list.
pub(super) fn list_of(slab: &Slab) -> Result<Option<Vec<Flip>>> {
    let bits = slab.header().journal.load(Ordering::Acquire);
    let log = salvage::log_of(slab)?;
    read_list(&log, bits).map_err(|e| Error::io("read", &log.path((bits >> 32) as u32), e))
}

/// What was decided in another shard's journal.
fn decided_in(home: &Path) -> Result<Vec<Flip>> {
    let decided = match open::map_unchecked(home, 0o600) {
        Ok(None) => None,
        Ok(Some(slab)) => list_of(&slab)?,
        // It cannot be repaired either: nobody will ever know.
        Err(Error::Corrupt { .. } | Error::Version { .. } | Error::NotAStore { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(decided.unwrap_or_default())
}

/// The place of a store among the shards of a `FanoutCache`, if it is one.
fn shard_number(dir: &Path) -> Option<u32> {
    let name = dir.file_name()?.to_str()?;
    let is_number = name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit());
    crash_point();
    let is_shard = is_number && dir.with_file_name(open::FANOUT).is_file();
    name.parse().ok().filter(|_| is_shard)
}

fn shard_name(number: u32) -> String {
    format!("{number:03}")
}

/// What a transaction has to do with one key.
struct Part<'a> {
    /// This thread cannot wait for it.
    _noted: Noted,
    shard: u32,
    store: &'a Arc<Store>,
    key: Vec<u8>,
    latched: Latched<'a>,
    /// As the transaction sees it; `None`: no value.
    now: Option<Whole>,
    is_changed: bool,
    /// Where in the log it was put, if it does not fit the cell.
    place: Option<Place>,
}

/// A transaction that is under way. Dropped without [`commit`](Ongoing::commit), it has not happened.
pub(crate) struct Ongoing<'a> {
    /// This thread cannot wait for it.
    _noted: Noted,
    home: &'a Arc<Store>,
    parts: Vec<Part<'a>>,
    epoch: u32,
    _alone: RangeGuard<'a>,
}

impl<'a> Ongoing<'a> {
    /// Waits until no other transaction is under way.
    ///
    /// `Invalid` for a shard that was opened alone: its journal is another one's.
    pub(crate) fn begin(home: &'a Arc<Store>) -> Result<Ongoing<'a>> {
        if !std::ptr::eq(home.home(), Arc::as_ptr(home)) {
            let dir = home.dir().display();
            let what = format!(
                "{dir} is a shard, and a transaction is one of all shards; open the FanoutCache"
            );
            return Err(Error::Invalid { what });
        }
        home.check_no_transaction()?;
        let alone = home.lock_transactions()?;
        home.settle()?;
        Ok(Ongoing {
            _noted: home.note_transaction(),
            home,
            parts: Vec::new(),
            epoch: fork::epoch(),
            _alone: alone,
        })
    }

    /// Which part is that of a key, whose latch is kept from the first time on.
    fn part(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
        bytes: usize,
    ) -> Result<usize> {
        self.check_process(key)?;
        let known = self
            .parts
            .iter()
            .position(|part| part.shard == shard as u32 && part.key == key);
        match known {
            Some(at) => Ok(at),
            None => {
                check_lengths(key, &[])?;
                self.parts.push(Part::new(shard, store, key, bytes)?);
                Ok(self.parts.len() - 1)
            }
        }
    }

    /// The latches in a store: who compacts it for us need not wait for them.
    fn mine(&self, store: &Arc<Store>) -> Vec<&Latched<'a>> {
        let there = self
            .parts
            .iter()
            .filter(|part| Arc::ptr_eq(part.store, store));
        there.map(|part| &part.latched).collect()
    }

    /// In the child of a fork nothing is held.
    fn check_process(&self, key: &[u8]) -> Result<()> {
        match self.epoch == fork::epoch() {
            true => Ok(()),
            false => Err(Error::NotHolder { key: show_key(key) }),
        }
    }

    pub(crate) fn get(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
    ) -> Result<Option<&Whole>> {
        let at = self.part(shard, store, key, 0)?;
        Ok(self.parts[at].now.as_ref())
    }

    pub(crate) fn set(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
        new: &New<'_>,
    ) -> Result<()> {
        check_lengths(key, new.tag)?;
        if new.value.len() > VALUE_BYTES_MAX {
            let len = new.value.len();
            return Err(Error::ValueLength { len });
        }
        let bytes = new.tag.len() + new.value.len();
        let at = self.part(shard, store, key, bytes)?;
        // Before anything else: if that fails, nothing is to be different.
        let place = match self.parts[at].latched.cells.fits(bytes) {
            true => None,
            false => Some(store.append_for(key, new, &self.mine(store))?),
        };
        let part = &mut self.parts[at];
        part.forget_place();
        part.is_changed = true;
        part.now = Some(Whole {
            value: new.value.to_vec(),
            tag: new.tag.to_vec(),
            expires_ms: new.expires_ms,
        });
        part.place = place;
        Ok(())
    }

    /// `false`: there was none.
    pub(crate) fn delete(
        &mut self,
        shard: usize,
        store: &'a Arc<Store>,
        key: &[u8],
    ) -> Result<bool> {
        let at = self.part(shard, store, key, 0)?;
        let part = &mut self.parts[at];
        part.forget_place();
        let was = part.now.take().is_some();
        part.is_changed |= was;
        Ok(was)
    }

    /// Makes all changes at once.
    ///
    /// Killed before the journal is set: nothing has happened, the idle cells mean nothing. After it: all has,
    /// and whoever comes next carries it out.
    pub(crate) fn commit(mut self) -> Result<()> {
        if !self.decide()? {
            return Ok(());
        }
        // Whatever becomes of it now, what was written for it is needed.
        self.parts.iter_mut().for_each(|part| part.place = None);
        self.home.settle()?;
        // What is to survive a power failure does: whoever carried it out has seen to it.
        let parts = self.parts.iter().filter(|part| part.is_changed);
        let dead: Vec<_> = parts
            .filter_map(|part| Some((part.store, part.done()?)))
            .collect();
        // Without the latches.
        drop(self);
        for (store, dead) in dead {
            store.give_back(dead);
        }
        Ok(())
    }

    /// Everything up to the moment in which it has happened. `false`: there is nothing to be changed.
    fn decide(&mut self) -> Result<bool> {
        self.check_process(b"transaction")?;
        let changed = self.parts.iter().filter(|part| part.is_changed).count();
        if changed == 0 {
            return Ok(false);
        }
        let home = self.home;
        let bytes = list_bytes(changed);
        home.make_room(bytes, &Wait::begin(), &self.mine(home))?;
        self.write_anew()?;
        // From here on nothing is compacted by us: idle cells are not looked at for that.
        let mut list = Vec::new();
        for part in self.parts.iter_mut().filter(|part| part.is_changed) {
            list.extend_from_slice(&part.prepare()?.encode());
        }
        loop {
            let place = home.append(LIST_KEY, &[], &list, Room::ToMove)?;
            let place = place.ok_or_else(|| home.over_limit())?;
            self.make_durable()?;
            if self.lead_to(place)? {
                return Ok(true);
            }
            home.mark_dead(Dead { place, bytes });
        }
    }

    /// Writes once more what lies in segments that were closed since. That may compact others, by ourselves, who do not
    /// wait for our latches: until nothing lies in such any more. Others who compact do wait.
    fn write_anew(&mut self) -> Result<()> {
        let is_stale = |part: &Part<'_>| {
            let place = part.place.filter(|_| part.is_changed);
            place.is_some_and(|place| !part.store.may_lead_to(place))
        };
        while let Some(at) = self.parts.iter().position(is_stale) {
            let part = &self.parts[at];
            let new = part.new_value();
            let append = |new| {
                part.store
                    .append_for(&part.key, &new, &self.mine(part.store))
            };
            let place = new.map(append).transpose()?;
            self.parts[at].forget_place();
            self.parts[at].place = place;
        }
        Ok(())
    }

    /// Puts the place of the list into the journal: by that it has happened. `false`: its segment is closed.
    fn lead_to(&self, place: Place) -> Result<bool> {
        let home = self.home;
        // Who compacts the segment waits for our latches, or, if there is none in that store, looks at the
        // journal after it has had the lock for growing (G3).
        let is_latched = self.parts.iter().any(|part| part.shard == 0);
        let _growth = match is_latched {
            true => None,
            false => home.lock_growth_within(Patience::Forever)?,
        };
        if !home.may_lead_to(place) {
            return Ok(false);
        }
        // Release: who finds the list finds the cells filled.
        home.journal().store(place.bits(), Ordering::Release);
        Ok(true)
    }

    /// Ends as by a death at this moment, or, with `prepared` and `decided`, after these steps of
    /// [`decide`](Ongoing::decide): the latches stay taken, the lock of transactions is free.
    #[cfg(any(fuzzing, test))]
    pub(crate) fn abandon(mut self, prepared: bool, decided: bool) -> Result<()> {
        if decided {
            self.decide()?;
        } else if prepared {
            let mut changed = self.parts.iter_mut().filter(|part| part.is_changed);
            changed.try_for_each(|part| part.prepare().map(drop))?;
        }
        for mut part in self.parts.drain(..) {
            (part.key, part.now) = (Vec::new(), None);
            std::mem::forget(part);
        }
        Ok(())
    }

    fn make_durable(&self) -> Result<()> {
        if !self.home.is_durable() {
            return Ok(());
        }
        self.home.sync_values()?;
        let mut others = self
            .parts
            .iter()
            .filter(|part| part.is_changed && part.shard != 0);
        others.try_for_each(|part| part.store.sync_values())
    }
}

impl<'a> Part<'a> {
    fn new(shard: usize, store: &'a Arc<Store>, key: &[u8], bytes: usize) -> Result<Part<'a>> {
        let hash = store.hash(key);
        let make = Some(cell_words(bytes));
        let latched = loop {
            if let Some(latched) = store.latch(key, hash, make)? {
                break latched;
            }
        };
        let mut now = Whole::default();
        let content = latched.current(&mut now.value);
        let there = match content {
            None => false,
            Some(content) => {
                now.expires_ms = content.expires_ms;
                match content.form {
                    Form::Inline { .. } => {
                        now.tag = content.tag_in(&now.value).to_vec();
                        content.keep_value(&mut now.value);
                        true
                    }
                    _ => store.read_logged(key, &content, &mut now.value, Some(&mut now.tag))?,
                }
            }
        };
        Ok(Part {
            _noted: store.note_slot(latched.found.id),
            shard: shard as u32,
            store,
            key: key.to_vec(),
            latched,
            now: there.then_some(now),
            is_changed: false,
            place: None,
        })
    }

    fn new_value(&self) -> Option<New<'_>> {
        self.now.as_ref().map(|now| New {
            value: &now.value,
            tag: &now.tag,
            expires_ms: now.expires_ms,
        })
    }

    /// What was put into the log for this key is not needed after all.
    fn forget_place(&mut self) {
        if let (Some(place), Some(new)) = (self.place.take(), self.new_value()) {
            let bytes = record_bytes(self.key.len(), new.tag.len(), new.value.len());
            self.store.give_back(Dead { place, bytes });
        }
    }

    /// Fills the idle cell.
    fn prepare(&mut self) -> Result<Flip> {
        self.latched.settle_on_medium()?;
        let (content, tag, value) = match (&self.now, self.place) {
            (None, _) => (Content::ABSENT, &[][..], &[][..]),
            (Some(now), place) => {
                let len = now.value.len();
                let form = match place {
                    None => Form::Inline { len },
                    Some(place) => Form::Logged {
                        place,
                        len,
                        tag_hash: tag_hash(&now.tag),
                    },
                };
                let content = Content {
                    expires_ms: now.expires_ms,
                    tag_len: now.tag.len(),
                    form,
                };
                match place {
                    None => (content, &now.tag[..], &now.value[..]),
                    Some(_) => (content, &[][..], &[][..]),
                }
            }
        };
        let version = self.latched.cells.prepare(content, tag, value);
        Ok(Flip {
            shard: self.shard,
            slot: self.latched.found.id.index(),
            generation: self.latched.found.meta.generation,
            version,
        })
    }

    /// After it was carried out: what is dead by it.
    fn done(&self) -> Option<Dead> {
        self.latched.note_stored();
        self.latched.left_before()
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // In the child of a fork it is the parent's, who may come to need it.
        if self.place.is_some() && self.latched.is_ours() {
            self.forget_place();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::log::SEGMENT_HEADER_BYTES;
    use crate::store::change::When;
    use crate::{Cache, Eviction, FanoutCache, Lock, Options};

    const KEYS: std::ops::Range<u32> = 0..32;

    fn key(number: u32) -> String {
        format!("key {number}")
    }

    /// Somebody sets all keys at once, and dies before any of it is carried out.
    fn decided_by_a_dead_one(dir: &Path, shards: usize) {
        decided(dir, shards, b"set");
    }

    fn decided(dir: &Path, shards: usize, value: &[u8]) {
        let cache = FanoutCache::open(dir, shards).unwrap();
        let shard = |number| {
            let dir = dir.join(format!("{number:03}"));
            open::open_apart(&dir, Options::default().settings()).unwrap()
        };
        let stores: Vec<_> = (0..shards).map(shard).collect();
        join_shards(&stores);
        let mut ongoing = Ongoing::begin(&stores[0]).unwrap();
        for number in KEYS {
            let shard = cache.shard_number(key(number).as_bytes());
            let new = New {
                value,
                tag: &[],
                expires_ms: 0,
            };
            let store = &stores[shard];
            ongoing
                .set(shard, store, key(number).as_bytes(), &new)
                .unwrap();
        }
        assert!(ongoing.decide().unwrap());
        stores.iter().for_each(|store| store.die());
        std::mem::forget(ongoing);
        drop(stores);
    }

    fn is_done(cache: &FanoutCache) {
        for number in KEYS {
            let value = cache.get(key(number)).unwrap();
            assert_eq!(value.as_deref(), Some(&b"set"[..]), "{number}");
        }
    }

    #[test]
    fn who_opens_the_first_shard_alone_carries_out_what_was_decided_in_all() {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 3);
        let first = Cache::open(dir.path().join("000")).unwrap();
        assert_eq!(first.get("something").unwrap(), None);
        drop(first);
        is_done(&FanoutCache::open(dir.path(), 3).unwrap());
    }

    #[test]
    fn who_opens_another_shard_alone_sees_what_was_decided() {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 3);
        let last = Cache::open(dir.path().join("002")).unwrap();
        let there = KEYS.filter(|number| last.get(key(*number)).unwrap().is_some());
        assert!(there.count() > 0);
        drop(last);
        is_done(&FanoutCache::open(dir.path(), 3).unwrap());
    }

    /// A repair carries out what was decided before it looks at what is in force.
    #[test]
    fn what_was_decided_above_a_damaged_value_survives_a_repair() {
        let dir = tempfile::tempdir().unwrap();
        let shard = dir.path().join("000");
        let cache = FanoutCache::open(dir.path(), 1).unwrap();
        for number in KEYS {
            cache.set(key(number), [7; 1_000]).unwrap();
        }
        drop(cache);
        let segment = shard.join("log/00000001");
        let whole = std::fs::read(&segment).unwrap();
        decided_by_a_dead_one(dir.path(), 1);
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[64..whole.len()].fill(0);
        std::fs::write(&segment, bytes).unwrap();
        let report = Cache::repair(&shard).unwrap();
        assert!(report.actions.is_empty(), "{report:?}");
        is_done(&FanoutCache::open(dir.path(), 1).unwrap());
    }

    /// One repair finds the damage, also of what nobody has seen yet.
    #[test]
    fn what_was_decided_and_is_damaged_takes_one_repair() {
        let dir = tempfile::tempdir().unwrap();
        for shards in [1, 3] {
            let dir = dir.path().join(format!("{shards}"));
            decided(&dir, shards, &[7; 1_000]);
            for shard in 0..shards {
                let segment = dir.join(format!("{shard:03}/log/00000001"));
                let mut bytes = std::fs::read(&segment).unwrap();
                // The first record there is some value's.
                bytes[500] ^= 1;
                std::fs::write(&segment, bytes).unwrap();
            }
            let report = FanoutCache::repair(&dir).unwrap();
            assert_eq!(report.actions.len(), shards, "{report:?}");
            let cache = FanoutCache::open(&dir, shards).unwrap();
            let check = cache.check().unwrap();
            assert!(check.is_sound(), "{check:?}");
            let there = KEYS.filter(|number| cache.get(key(*number)).unwrap().is_some());
            assert_eq!(there.count(), KEYS.len() - shards);
            let check = cache.check().unwrap();
            assert!(check.is_sound(), "{check:?}");
            drop(cache);
            let report = FanoutCache::repair(&dir).unwrap();
            assert!(report.actions.is_empty(), "{report:?}");
        }
    }

    /// A store whose decided list is followed by a value that is being set, and what it takes of the log.
    fn with_a_list_amid(dir: &Path) -> (Arc<Store>, Place, Place) {
        decided_by_a_dead_one(dir, 1);
        let store = open::open_apart(&dir.join("000"), Options::default().settings()).unwrap();
        let list = Place::from_bits(store.journal().load(Ordering::Relaxed)).unwrap();
        let value = store.append(b"key", &[], &[7; 200_000], Room::ToMove);
        (store, list, value.unwrap().unwrap())
    }

    /// What it says of its own length: that it goes on over what is another's.
    #[test]
    fn a_list_that_is_damaged_takes_nothing_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, list, _) = with_a_list_amid(dir.path());
        let segment = store.dir().join("log/00000001");
        let mut bytes = std::fs::read(&segment).unwrap();
        let len_at = list.offset() as usize + 16;
        bytes[len_at..len_at + 4].copy_from_slice(&150_000_u32.to_le_bytes());
        std::fs::write(&segment, bytes).unwrap();
        let before = store.usage().unwrap();
        store.settle().unwrap();
        assert!(store.is_settled());
        assert_eq!(store.usage().unwrap(), before);
        KEYS.for_each(|number| {
            assert!(store.peek_value(key(number).as_bytes()).unwrap().is_none())
        });
    }

    #[test]
    fn a_journal_that_leads_to_a_value_takes_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, value) = with_a_list_amid(dir.path());
        let before = store.usage().unwrap();
        store.journal().store(value.bits(), Ordering::Relaxed);
        store.settle().unwrap();
        assert!(store.is_settled());
        assert_eq!(store.usage().unwrap(), before);
    }

    /// Its head, its sum and its place are right, and it is none: nobody ever wrote such.
    #[test]
    fn what_is_no_list_decides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, list, _) = with_a_list_amid(dir.path());
        let log = &store.process().unwrap().log;
        let mut flips = Vec::new();
        assert!(log.read_sized(list, LIST_KEY, &mut flips).unwrap());
        for (tag, more) in [(&b"t"[..], &b""[..]), (b"", b"more")] {
            let list = [&flips[..], more].concat();
            let place = store.append(LIST_KEY, tag, &list, Room::ToMove);
            let bits = place.unwrap().unwrap().bits();
            assert_eq!(read_list(log, bits).unwrap(), None);
        }
        let there = read_list(log, list.bits()).unwrap().unwrap();
        assert_eq!(there.len(), KEYS.len());
    }

    /// As after a reboot, when everything is counted anew.
    #[test]
    fn a_list_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 1);
        let slab = dir.path().join("000/slab");
        let slab = std::fs::File::options().write(true).open(slab).unwrap();
        slab.write_all_at(&[7; 16], 136).unwrap();
        let cache = FanoutCache::open(dir.path(), 1).unwrap();
        let store = &cache.shard_caches()[0].store;
        let live = |store: &Store| store.segments().unwrap()[0].live();
        assert_eq!(live(store), list_bytes(KEYS.len()));
        is_done(&cache);
        let segment = store.segments().unwrap()[0];
        assert_eq!(segment.dead + SEGMENT_HEADER_BYTES, segment.bytes);
    }

    /// The highest number: nobody could begin a segment any more.
    #[test]
    fn a_journal_that_leads_nowhere_does_not_end_the_log() {
        for thorough in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            drop(Cache::open(dir.path()).unwrap());
            let slab = dir.path().join("slab");
            let slab = std::fs::File::options().write(true).open(slab).unwrap();
            slab.write_all_at(&[0xff; 8], 224).unwrap();
            match thorough {
                true => {
                    let report = Cache::repair(dir.path()).unwrap();
                    assert_eq!(report.actions.len(), 1, "{report:?}");
                }
                false => slab.write_all_at(&[7; 16], 136).unwrap(),
            }
            let cache = Cache::open(dir.path()).unwrap();
            cache.set("key", [7; 1_000]).unwrap();
            assert_eq!(cache.get("key").unwrap(), Some(vec![7; 1_000]));
        }
    }

    /// What a key has before is nothing; what was decided is not.
    #[test]
    fn a_key_of_which_a_value_was_decided_is_not_reclaimed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FanoutCache::options()
            .capacity(64)
            .eviction(Eviction::None)
            .open_fanout(dir.path(), Some(1))
            .unwrap();
        decided_by_a_dead_one(dir.path(), 1);
        for number in 0..64 {
            // Full, in the end.
            let _ = Lock::new(&cache, format!("lock {number}"))
                .acquire()
                .map(std::mem::forget);
        }
        is_done(&cache);
    }

    #[test]
    fn a_key_of_which_a_value_was_decided_is_in_the_way_of_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 1);
        let cache = FanoutCache::open(dir.path(), 1).unwrap();
        let lock = Lock::new(&cache, key(0));
        assert!(matches!(lock.acquire(), Err(Error::KindMismatch { .. })));
        is_done(&cache);
    }

    /// Nothing in the first shard is latched then, so nobody who compacts there waits.
    #[test]
    fn a_list_that_was_compacted_away_decides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FanoutCache::options()
            .size_limit(8 << 20)
            .open_fanout(dir.path(), Some(2))
            .unwrap();
        let stores: Vec<_> = cache.shard_caches().iter().map(|c| &c.store).collect();
        let mut ongoing = Ongoing::begin(stores[0]).unwrap();
        let new = New {
            value: b"set",
            tag: &[],
            expires_ms: 0,
        };
        ongoing.set(1, stores[1], b"key", &new).unwrap();
        let list = [0; FLIP_BYTES];
        let place = stores[0]
            .append(LIST_KEY, &[], &list, Room::ToMove)
            .unwrap()
            .unwrap();
        for _ in 0..100 {
            let large = New {
                value: &[7; 200_000],
                ..new
            };
            stores[0].put(b"large", &large, When::Always).unwrap();
        }
        stores[0].cull().unwrap();
        let mut read = Vec::new();
        let log = &stores[0].process().unwrap().log;
        assert!(!log.read_sized(place, LIST_KEY, &mut read).unwrap());
        assert!(!ongoing.lead_to(place).unwrap());
        let place = stores[0]
            .append(LIST_KEY, &[], &list, Room::ToMove)
            .unwrap()
            .unwrap();
        assert!(ongoing.lead_to(place).unwrap());
    }

    /// An iterator lets go of the shards that it is done with.
    #[test]
    fn who_has_some_shards_only_carries_out_what_was_decided_in_all() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FanoutCache::open(dir.path(), 3).unwrap();
        let last = cache.shard_caches()[2].clone();
        drop(cache);
        decided_by_a_dead_one(dir.path(), 3);
        assert_eq!(last.get("something").unwrap(), None);
        drop(last);
        is_done(&FanoutCache::open(dir.path(), 3).unwrap());
    }

    #[test]
    fn flips_come_back() {
        let flip = Flip {
            shard: 3,
            slot: 1 << 23,
            generation: u32::MAX,
            version: 7 << 32 | 5,
        };
        assert_eq!(Flip::decode(&flip.encode()), flip);
    }
}
