//! Reading a store that may not be written to, or should not be.
//!
//! A reader takes part in nothing: it has no number, opens no lock file, and maps the slab so that
//! it cannot be written. Nothing here gets hold of a `Store`, for every way into one joins it, and
//! nothing here writes to a record: with such a map that would be a SIGSEGV.
//!
//! Without a stripe a reader has to look again instead: a key that is found is proved by its own
//! bytes and its life, one that is missed by the count of those that left (I8). Whole lists go by
//! the slots and not by the chains: a key stays in its slots while it exists, so one that exists
//! throughout is listed once. Where a transaction was decided and not carried out, its list is
//! read, and of what it names the prepared cell counts (T1).

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result, show_key};
use crate::log::Log;
use crate::os::clock;
use crate::os::dir::Dir;
use crate::os::process::Identity;
use crate::record::{Damaged, NO_VERSION, ParticipantId, deciding};
use crate::slab::bytes::{KeyPlace, read_bytes, span_of};
use crate::slab::hash::hash;
use crate::slab::value_cells::{Content, Form, Payload, Reading, tag_hash};
use crate::slab::{Growing, STATE_FREE, STATE_TAIL, STATE_USED, Slab, Tenant};
use crate::store::care::check::{self, CheckReport, contradiction};
use crate::store::expiry::{is_over, left_until};
use crate::store::holds::standing::Onlooker;
use crate::store::home::open::{prepare_dir, refuse_strangers};
use crate::store::home::{original, slab_file};
use crate::store::in_slab::{is_still, key_of, permits_of, wanted};
use crate::store::index::chains::matches;
use crate::store::index::stripe::{bucket_of, stripe_of};
use crate::store::key_entry::{KeyEntry, check_lengths};
use crate::store::log::decided_list::{Flip, read_list};
use crate::store::log::segments::{segments, usage_of};
use crate::store::members::device::is_unsynced;
use crate::store::members::living;
use crate::store::members::lock_files::opened_up_of;
use crate::store::members::participants::{is_gone_by_witness, waiters};
use crate::store::members::recount::Usage;
use crate::store::names::{SLAB, Shard, Site, not_a_store};
use crate::store::settings::{Config, Settings, config_of};
use crate::store::slots::by_slot::Whole;
use crate::store::values::average::Average;
use crate::store::values::get::stats_of;
use crate::sync::{Ordering, crash_point};
use crate::types::{KeyInfo, KeyState, Stats, Summary};

/// So often a chain is walked that changes meanwhile. Each time it is some keys of its 64th of the
/// store that were removed within a microsecond.
const WALKS: u32 = 10_000;

/// A store, or one shard of a cache, opened to be read.
pub(crate) struct ReadStore {
    slab: Slab,
    slab_identity: (u64, u64),
    log: Log,
    /// Its lane is the number by which lists of decided changes name it.
    site: Site,
}

/// What was decided and is not carried out, as far as it was looked at.
pub(crate) struct DecidedThere<'h> {
    /// `None`: it is gone, and what was decided with it.
    home: Option<&'h ReadStore>,
    /// The journal for which the list stands.
    journal: u64,
    /// By shard and slot.
    flips: HashMap<(u32, u32), Flip>,
}

/// How a walk along a chain ended.
enum Walked {
    KeyEntry(KeyEntry),
    /// At its end, and nothing left the stripe meanwhile.
    Missed,
    /// At its end, or somewhere else, and something did.
    Disturbed,
    /// In a circle, or where there is no slot.
    Astray,
}

impl ReadStore {
    pub(crate) fn open(dir: &Path) -> Result<ReadStore> {
        let settings = Settings {
            create: false,
            ..Settings::default()
        };
        crash_point();
        let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
        prepare_dir(&dir, &settings)?;
        refuse_strangers(&dir, &settings)?;
        let site = Site::of(&dir)?;
        let slab = slab_file::map_to_read(&dir)?.filter(|slab| original::names_itself(slab));
        let slab = slab.ok_or_else(|| not_a_store(&dir, "its slab was never finished"))?;
        match original::check(&slab) {
            // What a copy says may be read: nobody is granted anything by that.
            Err(Error::Copied { .. }) => {}
            other => other?,
        }
        let home = Dir::open(&dir).map_err(|e| Error::io("open", &dir, e))?;
        let log = Log::new(&dir, Arc::new(home), SLAB, slab.part().id).reading_only();
        let store = ReadStore {
            slab_identity: slab.identity().number(),
            slab: *slab,
            log,
            site,
        };
        store.check_usable()?;
        Ok(store)
    }

    /// The first shard of the cache of which this is another one.
    pub(crate) fn open_home(&self) -> Result<Option<ReadStore>> {
        let shard = Shard::at(&self.site.dir)?.filter(|shard| shard.number != 0);
        shard
            .map(|shard| ReadStore::open(&shard.sibling(0)))
            .transpose()
    }

    /// What `look` finds, unless the store is being repaired, was removed or was replaced.
    pub(crate) fn looking<T>(&self, look: impl FnOnce() -> Result<T>) -> Result<T> {
        self.check_usable()?;
        let seen = look();
        // What was seen in the midst of a repair is nothing to tell, nor that it made no sense.
        self.check_ready()?;
        seen
    }

    fn check_usable(&self) -> Result<()> {
        self.check_ready()?;
        let replaced = || {
            let path = self.site.locks.clone();
            Err(Error::Replaced { path })
        };
        crash_point();
        match std::fs::metadata(self.slab.path()) {
            Ok(there) if (there.dev(), there.ino()) != self.slab_identity => replaced(),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                match self.slab.stat()?.st_nlink {
                    0 => replaced(),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_ready(&self) -> Result<()> {
        match living::is_ready(&self.slab) {
            true => Ok(()),
            false => Err(self.slab.corrupt("it is being repaired, or is to be")),
        }
    }
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
    fn after(&mut self, shard: u32, found: KeyEntry) -> Result<Option<u64>> {
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

/// Finding keys.
impl ReadStore {
    /// Looks for a key, as often as others change its chain meanwhile.
    fn find(&self, key: &[u8]) -> Result<Option<KeyEntry>> {
        check_lengths(key, &[])?;
        let hash = hash(self.slab.part().seed, key);
        let mut walked = Walked::Disturbed;
        for _ in 0..WALKS {
            walked = self.walk(key, hash);
            match walked {
                Walked::KeyEntry(found) => return Ok(Some(found)),
                Walked::Missed => return Ok(None),
                Walked::Astray => break,
                Walked::Disturbed => std::hint::spin_loop(),
            }
        }
        Err(match walked {
            Walked::Astray => {
                let bucket = bucket_of(&self.slab, hash);
                let what = format!("the chain of bucket {bucket} does not end");
                self.slab.corrupt(what)
            }
            _ => Error::StructureBusy {
                path: self.site.locks.clone(),
                pids: Vec::new(),
            },
        })
    }

    fn walk(&self, key: &[u8], hash: u64) -> Walked {
        let slab = &self.slab;
        let stripe = slab.stripe(stripe_of(slab, hash));
        let (mut found, mut ended) = (None, false);
        let unchanged = stripe.is_unchanged_while(|| {
            let bucket = slab.bucket(bucket_of(slab, hash));
            let mut link = bucket.load(Ordering::Acquire);
            let mut marked = 0;
            for step in 0..=slab.layout().capacity {
                ended = link == 0;
                // As the walk under a stripe: a circle is noticed before it was gone round many
                // times.
                if ended || link == marked {
                    break;
                }
                if step.is_power_of_two() {
                    marked = link;
                }
                let Some(id) = slab.follow(link) else {
                    break;
                };
                found = matches(slab, id, key, hash);
                if found.is_some() {
                    break;
                }
                link = slab.slot(id).next.load(Ordering::Acquire);
            }
            true
        });
        match found {
            Some(found) => Walked::KeyEntry(found),
            None if !unchanged => Walked::Disturbed,
            None if ended => Walked::Missed,
            None => Walked::Astray,
        }
    }

    /// Visits every key that there is, by its slots.
    fn each(&self, mut visit: impl FnMut(KeyEntry) -> Result<()>) -> Result<()> {
        for number in 0..self.slab.allocated(Growing::Slots) {
            let state = check::load(self.slab.slot_state(number));
            // Also what is claimed: the maker of a key there may be dead, or stopped, and the key
            // exists.
            if matches!(state, STATE_FREE | STATE_TAIL) {
                continue;
            }
            let Some(id) = self.slab.slot_id(number) else {
                continue;
            };
            let Some(meta) = self.slab.slot(id).meta() else {
                continue;
            };
            if let Some(kind) = meta.kind {
                visit(KeyEntry { id, meta, kind })?;
            }
        }
        Ok(())
    }

    fn is_still(&self, found: KeyEntry) -> bool {
        is_still(&self.slab, found)
    }

    fn wrong_kind(&self, key: &[u8], found: KeyEntry, expected: Tenant) -> Result<()> {
        match found.kind == expected {
            true => Ok(()),
            false => Err(Error::KindMismatch {
                key: key.to_vec(),
                found: found.kind.kind(),
                expected: expected.kind(),
            }),
        }
    }
}

/// Values.
impl ReadStore {
    /// The value under a key; `None`: there is none, or it is over, or damaged.
    pub(crate) fn value(
        &self,
        decided: &mut DecidedThere<'_>,
        key: &[u8],
    ) -> Result<Option<Whole>> {
        let mut whole = Whole::default();
        while let Some(found) = self.find(key)? {
            self.wrong_kind(key, found, Tenant::Value)?;
            let Some(read) = self.read(decided, found, &mut whole.value)? else {
                continue;
            };
            let Ok(reading) = read else {
                return Ok(None);
            };
            let content = reading.content;
            if content.is_absent() || is_over(content.expires_ms) {
                return Ok(None);
            }
            whole.expires_ms = content.expires_ms;
            if let Form::Logged { .. } = content.form {
                let Whole { value, tag, .. } = &mut whole;
                if self.read_logged(key, &content, value, Some(tag))? {
                    return Ok(Some(whole));
                }
                if self.is_in_force(decided, found, &reading)? {
                    return Ok(None);
                }
                // It was moved, or replaced.
                continue;
            }
            whole.tag = content.tag_in(&whole.value).to_vec();
            content.keep_value(&mut whole.value);
            return Ok(Some(whole));
        }
        Ok(None)
    }

    /// What the cells of a value say, with what was decided. `None`: it is not there any more.
    fn read(
        &self,
        decided: &mut DecidedThere<'_>,
        found: KeyEntry,
        payload: &mut impl Payload,
    ) -> Result<Option<std::result::Result<Reading, Damaged>>> {
        let after = decided.after(self.site.lane.into(), found)?;
        let cells = found.cells(&self.slab).ok_or(Damaged);
        let read = cells.and_then(|cells| match after {
            Some(version) => cells.read_decided(version, payload),
            None => cells.read(payload),
        });
        Ok(self.is_still(found).then_some(read))
    }

    /// Whether what was read is still what the key has.
    fn is_in_force(
        &self,
        decided: &mut DecidedThere<'_>,
        found: KeyEntry,
        reading: &Reading,
    ) -> Result<bool> {
        let now = self.read(decided, found, &mut ())?;
        Ok(now.is_some_and(|now| now.is_ok_and(|now| now.version == reading.version)))
    }

    /// The bytes of a value that lies in the log, checked. `false`: they are not there, or not
    /// whole.
    fn read_logged(
        &self,
        key: &[u8],
        content: &Content,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> Result<bool> {
        let Some(wanted) = wanted(key, content) else {
            return Ok(false);
        };
        let path = self.log.path(wanted.place.segment());
        let read = self.log.read(wanted, into, tag);
        read.map_err(|e| Error::io("read", &path, e))
    }

    /// The average under a key.
    pub(crate) fn summary(&self, key: &[u8]) -> Result<Option<Summary>> {
        while let Some(found) = self.find(key)? {
            self.wrong_kind(key, found, Tenant::Averager)?;
            let summary = self.summary_in(found, key);
            if self.is_still(found) {
                return summary;
            }
        }
        Ok(None)
    }

    fn summary_in(&self, found: KeyEntry, key: &[u8]) -> Result<Option<Summary>> {
        match self.slab.slot(found.id).cells().read(NO_VERSION) {
            Ok((words, _)) => Ok(Average::from_words(words).summary(clock::wall_us)),
            Err(Damaged) => {
                let what = format!("the average {} fails its checksum", show_key(key));
                Err(self.slab.corrupt(what))
            }
        }
    }
}

/// Showing.
impl ReadStore {
    /// Shows `look` what is seen of holds by this process, as it is now: it may be the child of the
    /// one that opened this.
    fn as_onlooker<T>(&self, look: impl FnOnce(Onlooker<'_>) -> Result<T>) -> Result<T> {
        let me = Identity::of_this_process()
            .map_err(|e| Error::io("read", Path::new("/proc/self/stat"), e))?;
        look(Onlooker {
            slab: &self.slab,
            pid_namespace: me.pid_namespace,
            is_dead: &|id: ParticipantId| is_gone_by_witness(&self.slab, &me, id.get()),
        })
    }

    /// How one key stands.
    pub(crate) fn key_info(
        &self,
        decided: &mut DecidedThere<'_>,
        key: &[u8],
    ) -> Result<Option<KeyInfo>> {
        self.as_onlooker(|onlooker| {
            while let Some(found) = self.find(key)? {
                let info = self.info(onlooker, decided, found, key);
                if self.is_still(found) {
                    return info;
                }
            }
            Ok(None)
        })
    }

    /// How all keys stand.
    pub(crate) fn key_infos(&self, decided: &mut DecidedThere<'_>) -> Result<Vec<KeyInfo>> {
        let mut infos = Vec::new();
        self.as_onlooker(|onlooker| {
            self.each(|found| {
                let Some(key) = key_of(&self.slab, found).filter(|_| self.is_still(found)) else {
                    return Ok(());
                };
                let info = self.info(onlooker, decided, found, &key);
                // What did not make sense may be of another key by now.
                if self.is_still(found) {
                    infos.extend(info?);
                }
                Ok(())
            })
        })?;
        Ok(infos)
    }

    /// How many keys there are.
    pub(crate) fn len(&self, decided: &mut DecidedThere<'_>) -> Result<usize> {
        let mut len = 0;
        self.each(|found| {
            len += usize::from(self.is_listed(decided, found)?);
            Ok(())
        })?;
        Ok(len)
    }

    /// Whether a key is shown in lists of keys.
    fn is_listed(&self, decided: &mut DecidedThere<'_>, found: KeyEntry) -> Result<bool> {
        Ok(match found.kind {
            Tenant::Turn => false,
            Tenant::Value => match self.read(decided, found, &mut ())? {
                Some(Ok(reading)) => is_there(&reading.content),
                Some(Err(Damaged)) => true,
                None => false,
            },
            _ => self.is_still(found),
        })
    }

    /// Everything about a key. `None`: it is none of those that are listed.
    fn info(
        &self,
        onlooker: Onlooker<'_>,
        decided: &mut DecidedThere<'_>,
        found: KeyEntry,
        key: &[u8],
    ) -> Result<Option<KeyInfo>> {
        let mut tag = Vec::new();
        if found.kind != Tenant::Value {
            let place = KeyPlace::of(found.kind, found.meta.key_len, found.meta.tag_len);
            let read = read_bytes(&self.slab, found.id, place.tag_at, found.meta.tag_len);
            tag = read.unwrap_or_default();
        }
        let state = match found.kind {
            Tenant::Turn => return Ok(None),
            Tenant::Averager => KeyState::Averager {
                summary: self.summary_in(found, key)?,
            },
            Tenant::Semaphore => {
                let standing = onlooker.standing(found)?;
                KeyState::Semaphore {
                    value: standing.value,
                    available: standing.available,
                    holders: standing.holders,
                }
            }
            Tenant::Value => {
                let Some(content) = self.content_with_tag(decided, found, key, &mut tag)? else {
                    return Ok(None);
                };
                KeyState::Value {
                    bytes: content.len(),
                    expires_in: left_until(content.expires_ms),
                }
            }
            Tenant::Lock | Tenant::RLock => KeyState::Lock {
                holder: onlooker.standing(found)?.holders.pop(),
            },
        };
        Ok(Some(KeyInfo {
            key: key.to_vec(),
            kind: found.kind.kind(),
            tag: (!tag.is_empty()).then_some(tag),
            state,
            waiters: waiters(&self.slab, found.id, onlooker.is_dead),
        }))
    }

    /// What is said of a value, and its tag. `None`: there is none. One that is damaged is listed,
    /// as of no bytes.
    fn content_with_tag(
        &self,
        decided: &mut DecidedThere<'_>,
        found: KeyEntry,
        key: &[u8],
        tag: &mut Vec<u8>,
    ) -> Result<Option<Content>> {
        let mut payload = Vec::new();
        loop {
            let reading = match self.read(decided, found, &mut payload)? {
                None => return Ok(None),
                Some(Err(Damaged)) => return Ok(Some(Content::ABSENT)),
                Some(Ok(reading)) => reading,
            };
            let content = reading.content;
            if !is_there(&content) {
                return Ok(None);
            }
            *tag = match content.form {
                Form::Logged { tag_hash: of, .. } if content.tag_len > 0 => {
                    let read = wanted(key, &content).map(|wanted| self.log.read_tag(wanted));
                    // Where it cannot be read the value is listed without it.
                    let read = read.and_then(|read| read.ok().flatten());
                    let read = read.filter(|tag| tag_hash(tag) == of);
                    if read.is_none() && !self.is_in_force(decided, found, &reading)? {
                        // It was moved, or replaced.
                        continue;
                    }
                    read.unwrap_or_default()
                }
                Form::Logged { .. } => Vec::new(),
                _ => content.tag_in(&payload).to_vec(),
            };
            return Ok(Some(content));
        }
    }

    fn usage(&self) -> Result<Usage> {
        Ok(usage_of(&segments(&self.slab, &self.log)?))
    }

    pub(crate) fn stats(&self) -> Result<Stats> {
        Ok(stats_of(&self.slab, self.usage()?))
    }

    /// The settings in force.
    pub(crate) fn config(&self) -> Result<Config> {
        config_of(&self.slab)
    }

    /// How many bytes of the device it takes.
    pub(crate) fn volume(&self) -> Result<u64> {
        Ok(self.slab.disk_bytes()? + self.usage()?.bytes)
    }
}

fn is_there(content: &Content) -> bool {
    !content.is_absent() && !is_over(content.expires_ms)
}

/// Checking.
impl ReadStore {
    /// Verifies what can be verified without a stripe: both copies of the header, each key by
    /// itself, that it is found, what is sealed and what is in the log. What is wrong is looked
    /// at again before it is said.
    pub(crate) fn check(&self, decided: &mut DecidedThere<'_>) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        if is_unsynced(&self.slab) {
            report.problems.push(check::UNSYNCED.to_string());
        }
        let damaged = slab_file::damaged_copy(&self.slab)?;
        report.problems.extend(damaged);
        report.problems.extend(opened_up_of(&self.site)?);
        self.as_onlooker(|onlooker| {
            self.each(|found| {
                report.keys += usize::from(self.is_listed(decided, found)?);
                report.slots_used += span_of(&self.slab, found.id) as usize;
                report.dead_holds += onlooker.dead_holds(found);
                if let Some(problem) = self.problem_of(decided, found)? {
                    report.problems.push(problem);
                }
                Ok(())
            })
        })?;
        Ok(report)
    }

    /// What is wrong with a key, if it is so twice, and still that key.
    fn problem_of(
        &self,
        decided: &mut DecidedThere<'_>,
        found: KeyEntry,
    ) -> Result<Option<String>> {
        for _ in 0..2 {
            let problem = self.problem_now(decided, found)?;
            if problem.is_none() || !self.is_still(found) {
                return Ok(None);
            }
        }
        self.problem_now(decided, found)
    }

    fn problem_now(
        &self,
        decided: &mut DecidedThere<'_>,
        found: KeyEntry,
    ) -> Result<Option<String>> {
        let of_slot = |what: &str| Ok(Some(format!("slot {} {what}", found.id.index())));
        let key = key_of(&self.slab, found).unwrap_or_default();
        let bucket = bucket_of(&self.slab, hash(self.slab.part().seed, &key));
        if let Some(what) = contradiction(&self.slab, found, bucket) {
            return of_slot(what);
        }
        if found.kind != Tenant::Turn {
            match self.find(&key) {
                Ok(Some(other)) if other.id == found.id => {}
                // While a process makes or removes the key, or died over that, a miss is no damage.
                Ok(_) | Err(Error::StructureBusy { .. }) if self.is_changing(found) => {}
                Ok(_) => return of_slot("has a key that is not found"),
                Err(Error::StructureBusy { .. }) => {}
                Err(error) => return Ok(Some(error.to_string())),
            }
        }
        match found.kind {
            Tenant::Semaphore => Ok(permits_of(&self.slab, found.id)
                .err()
                .map(|error| error.to_string())),
            Tenant::Averager => Ok(self.summary_in(found, &key).err().map(|e| e.to_string())),
            Tenant::Value => self.damage_of(decided, found, &key),
            _ => Ok(None),
        }
    }

    /// Whether the key is just being made or taken away, or was left so by a dead process.
    fn is_changing(&self, found: KeyEntry) -> bool {
        let hold = self.slab.slot(found.id).hold.load();
        let state = check::load(self.slab.slot_state(found.id.index()));
        hold.is_retiring() || state != STATE_USED
    }

    fn damage_of(
        &self,
        decided: &mut DecidedThere<'_>,
        found: KeyEntry,
        key: &[u8],
    ) -> Result<Option<String>> {
        let damaged = || {
            let what = format!("the value of {} fails its checksum", show_key(key));
            Ok(Some(what))
        };
        loop {
            let reading = match self.read(decided, found, &mut ())? {
                None => return Ok(None),
                Some(Err(Damaged)) => return damaged(),
                Some(Ok(reading)) => reading,
            };
            let is_logged = matches!(reading.content.form, Form::Logged { .. });
            if !is_logged || self.read_logged(key, &reading.content, &mut Vec::new(), None)? {
                return Ok(None);
            }
            if self.is_in_force(decided, found, &reading)? {
                let form = &reading.content.form;
                return check::why_unread(&self.log, key, form).map(Some);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::journal::decided::tests::{
        KEYS, decided, decided_by_a_dead_one, is_done, key, shard_dir,
    };
    use crate::{Cache, FanoutCache, Reader};

    fn journal_of(dir: &Path, shards: usize) -> u64 {
        let first = ReadStore::open(&shard_dir(dir, shards, 0)).unwrap();
        first.slab.header().journal.load(Ordering::Acquire)
    }

    fn bytes_of(dir: &Path, shards: usize) -> Vec<Vec<u8>> {
        let slab = |number| shard_dir(dir, shards, number).join("slab");
        (0..shards)
            .map(|n| std::fs::read(slab(n)).unwrap())
            .collect()
    }

    #[test]
    fn what_was_decided_is_read_and_not_carried_out() {
        for shards in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            decided_by_a_dead_one(dir.path(), shards);
            let before = bytes_of(dir.path(), shards);
            let reader = Reader::open(dir.path()).unwrap();
            for number in KEYS {
                let value = reader.get(key(number)).unwrap();
                assert_eq!(value.as_deref(), Some(&b"set"[..]), "{number}");
                let info = reader.key_info(key(number)).unwrap().unwrap();
                assert!(matches!(info.state, KeyState::Value { bytes: 3, .. }));
            }
            assert_eq!(reader.len().unwrap(), KEYS.len());
            assert_eq!(reader.keys().unwrap().len(), KEYS.len());
            let report = reader.check().unwrap();
            assert!(report.is_sound() && report.keys == KEYS.len(), "{report:?}");
            assert_ne!(journal_of(dir.path(), shards), 0);
            assert!(bytes_of(dir.path(), shards) == before, "it has written");
            // A writer carries it out, and the reader sees no difference.
            is_done(&FanoutCache::open(dir.path(), shards).unwrap());
            assert_eq!(journal_of(dir.path(), shards), 0);
            let value = reader.get(key(7)).unwrap();
            assert_eq!(value.as_deref(), Some(&b"set"[..]));
            assert_eq!(reader.len().unwrap(), KEYS.len());
        }
    }

    #[test]
    fn what_was_decided_is_read_in_the_log_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let large = vec![7; 50_000];
        decided(dir.path(), 2, &large);
        let reader = Reader::open(dir.path()).unwrap();
        for number in KEYS {
            assert_eq!(reader.get(key(number)).unwrap(), Some(large.clone()));
        }
        let report = reader.check().unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_ne!(journal_of(dir.path(), 2), 0);
    }

    #[test]
    fn who_reads_one_shard_alone_sees_what_was_decided_in_all() {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 3);
        let last = Reader::open(dir.path().join("002")).unwrap();
        let there = last.len().unwrap();
        assert!(there > 0);
        assert_ne!(journal_of(dir.path(), 3), 0);
        let carried_out = Cache::open(dir.path().join("002")).unwrap();
        assert_eq!(carried_out.get("something").unwrap(), None);
        assert_eq!(carried_out.len().unwrap(), there);
    }

    /// What is no list was decided by nobody.
    #[test]
    fn a_journal_that_leads_to_no_list_is_passed_over_and_left() {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 1);
        for entry in std::fs::read_dir(dir.path().join("log")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let reader = Reader::open(dir.path()).unwrap();
        assert_eq!(reader.get(key(1)).unwrap(), None);
        assert_eq!(reader.len().unwrap(), 0);
        assert_ne!(journal_of(dir.path(), 1), 0);
    }

    #[test]
    fn a_store_that_is_being_repaired_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.set("key", "value").unwrap();
        let reader = Reader::open(dir.path()).unwrap();
        let state = &cache.store.slab().header().state;
        let ready = state.swap(crate::slab::header::STATE_REBUILDING, Ordering::AcqRel);
        let is_told = |error: Error| assert!(error.to_string().contains("repaired"), "{error}");
        is_told(reader.get("key").unwrap_err());
        is_told(reader.keys().unwrap_err());
        is_told(Reader::open(dir.path()).unwrap_err());
        state.store(ready, Ordering::Release);
        assert_eq!(reader.get("key").unwrap().as_deref(), Some(&b"value"[..]));
    }
}
