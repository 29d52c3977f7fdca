//! What was decided and is not carried out yet: the word of the header that says where the list of
//! flips lies, that list, and carrying it out.
//!
//! By the store of that word a transaction has happened, whenever its parts are seen. Every reader
//! looks at the word before it reads a value, every writer after it takes a latch, and both flip
//! first what is listed there (T1): so none sees one change without the others. Nobody needs to
//! know whether the decider lives, and several processes may flip at once, or late: a flip is an
//! exchange of the version that was in force, which is so once (T2).
//!
//! A list is believed if it is whole. What else the word leads to is damage: nothing was decided by
//! it, and what it says of itself counts for nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::error::Result;
use crate::log::Location;
use crate::record::deciding;
use crate::store::Store;
use crate::store::journal::siblings::Siblings;
use crate::store::log::decided_list::{Flip, list_bytes, read_list};
use crate::store::log::garbage::Dead;
use crate::store::log::garbage::Garbage;
use crate::store::log::segments::Segments;
use crate::store::log::sync::Syncing;
use crate::store::members::config::InForce;
use crate::store::members::device::Known;
use crate::store::members::device::OnDevice;
use crate::sync::{AtomicU64, Ordering};

/// What was decided and is carried out.
#[derive(Clone, Copy)]
pub(crate) struct Journal<'s>(pub(crate) &'s Store);

impl<'s> Journal<'s> {
    /// Whether no decided transaction of the cache, of which this store may be a part, waits to be
    /// carried out.
    #[inline]
    fn is_settled(self) -> bool {
        Journal(Siblings(self.0).home())
            .journal()
            .load(Ordering::Acquire)
            == 0
    }

    /// Ends a transaction that was decided and is not carried out. Comes before a value is read,
    /// and after a latch is taken: what is seen then is either all before it or all after it.
    #[inline]
    pub(crate) fn settle(self) -> Result<()> {
        match self.is_settled() {
            true => Ok(()),
            false => self.settle_slowly(),
        }
    }

    /// Carries out what was decided. A reader, or a writer of something else, does not depend on
    /// what the device has of it.
    #[cold]
    fn settle_slowly(self) -> Result<()> {
        let _ = Journal(Siblings(self.0).home()).carry_out()?;
        Ok(())
    }

    /// Ends a transaction before another one is decided: the journal is empty afterwards.
    pub(in crate::store) fn settle_for_good(self) -> Result<()> {
        match self.is_settled() {
            true => Ok(()),
            false => Journal(Siblings(self.0).home()).carry_out()?,
        }
    }

    /// Flips what the journal says. Any process may, at any time, again and again: a version is in
    /// force once. The inner error: the change is in force, and the journal stays, for it may be
    /// all that the device has.
    fn carry_out(self) -> Result<Result<()>> {
        let journal = &self.0.slab.header().journal;
        let bits = journal.load(Ordering::Acquire);
        let log = &self.0.process()?.log;
        let list = read_list(log, bits).map_err(Segments(self.0).log_error(
            "read",
            log,
            (bits >> 32) as u32,
        ))?;
        let place = Location::from_bits(bits);
        if let (Some(place), Some(flips)) = (place, &list) {
            let flipped = self.flip_all(flips)?;
            if flipped.is_ok() {
                self.end_journal(place, flips.len());
            }
            return Ok(flipped);
        }
        if journal.load(Ordering::Acquire) == bits && bits != 0 {
            // Nothing that was ever decided: damage. It may be anything, and is believed nothing:
            // also not how long it is.
            self.0.count_damaged();
        }
        let _ = journal.compare_exchange(bits, 0, Ordering::AcqRel, Ordering::Relaxed);
        Ok(Ok(()))
    }

    /// Empties the journal, of which the list was carried out, unless another process has.
    pub(in crate::store) fn end_journal(self, place: Location, flips: usize) {
        // Only the first counts the list.
        if deciding::end(&self.0.slab.header().journal, place.bits()) {
            // Not given back: the device may still have the journal.
            let bytes = list_bytes(flips);
            Garbage(self.0).mark_dead(Dead { place, bytes });
        }
    }

    /// Flips what is listed, in all stores. An error leaves the journal as it is, for the next
    /// process: nothing is flipped. The inner one: all is, and the device may not have it.
    fn flip_all(self, flips: &[Flip]) -> Result<Result<()>> {
        let mut others: HashMap<u32, Option<Arc<Store>>> = HashMap::new();
        for flip in flips.iter().filter(|flip| flip.shard != 0) {
            if let Entry::Vacant(new) = others.entry(flip.shard) {
                new.insert(Siblings(self.0).shard(flip.shard)?);
            }
        }
        let carry_out = |flip: &Flip| match others.get(&flip.shard) {
            None => flip.carry_out(&self.0.slab),
            Some(Some(other)) => flip.carry_out(&other.slab),
            Some(None) => self.0.count_damaged(),
        };
        let stores: Vec<&Store> = others.values().flatten().map(|other| &**other).collect();
        Ok(self.flip_durably(&stores, || flips.iter().for_each(carry_out)))
    }

    /// Flips, and waits for the device if values are to survive a power failure. Pages reach the
    /// device in any order: first what was decided, then what is done about it in these stores,
    /// then that it is done. An error: it is done all the same, and the device may have a part of
    /// it, or the journal.
    pub(in crate::store) fn flip_durably(
        self,
        others: &[&Store],
        flip: impl FnOnce(),
    ) -> Result<()> {
        if !InForce(self.0).is_durable() {
            flip();
            return Ok(());
        }
        let mut stores = vec![self.0];
        for other in others {
            if !stores.iter().any(|store| std::ptr::eq(*store, *other)) {
                stores.push(other);
            }
        }
        let known: Result<Vec<Known>> =
            stores.iter().map(|store| OnDevice(store).known()).collect();
        let decided = known.and_then(|known| {
            Syncing(self.0).sync_slab_since(known[0])?;
            Ok(known)
        });
        flip();
        let mut known = stores.iter().zip(decided?);
        known.try_for_each(|(store, known)| Syncing(store).sync_slab_since(known))
    }

    /// The word in which the place of the list stands, for rebuilding.
    pub(crate) fn journal(self) -> &'s AtomicU64 {
        &self.0.slab.header().journal
    }
}

#[cfg(all(test, not(loom)))]
pub(in crate::store) mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::store::home::open;
    use crate::store::journal::siblings::join_shards;
    use crate::store::log::decided_list::LIST_KEY;
    use crate::store::log::segments::Room;
    use crate::store::space::set::New;
    use crate::store::txn::transaction::Ongoing;
    use crate::store::values::get::Values;
    use crate::{Cache, Error, Eviction, FanoutCache, Lock, Options};

    pub(crate) const KEYS: std::ops::Range<u32> = 0..32;

    pub(crate) fn key(number: u32) -> String {
        format!("key {number}")
    }

    /// Where one of so many shards is.
    pub(crate) fn shard_dir(dir: &Path, shards: usize, number: usize) -> PathBuf {
        match shards {
            1 => dir.to_path_buf(),
            _ => dir.join(format!("{number:03}")),
        }
    }

    /// Somebody sets all keys at once, and dies before any of it is carried out.
    pub(crate) fn decided_by_a_dead_one(dir: &Path, shards: usize) {
        decided(dir, shards, b"set");
    }

    pub(crate) fn decided(dir: &Path, shards: usize, value: &[u8]) {
        let cache = FanoutCache::open(dir, shards).unwrap();
        let shard = |number| {
            let dir = shard_dir(dir, shards, number);
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
        ongoing.abandon(false, true).unwrap();
        stores.iter().for_each(|store| store.die());
    }

    pub(crate) fn is_done(cache: &Cache) {
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

    #[test]
    fn who_opens_a_shard_by_a_link_sees_what_was_decided() {
        let (dir, links) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        decided_by_a_dead_one(dir.path(), 3);
        let link = links.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("002"), &link).unwrap();
        // With a slash behind it as well.
        for link in [link.join(""), link] {
            let last = Cache::open(&link).unwrap();
            let there = KEYS.filter(|number| last.get(key(*number)).unwrap().is_some());
            assert!(there.count() > 0, "{link:?}");
        }
        is_done(&FanoutCache::open(dir.path(), 3).unwrap());
    }

    /// A member of the group that shares the cache could lead the others anywhere.
    #[test]
    fn a_shard_that_is_a_link_to_another_place_is_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        decided_by_a_dead_one(dir.path(), 3);
        let shard = dir.path().join("002");
        let there = other.path().join("there");
        std::fs::rename(&shard, &there).unwrap();
        std::os::unix::fs::symlink(&there, &shard).unwrap();
        for error in [
            Cache::open(&shard).map(drop).unwrap_err(),
            FanoutCache::open(dir.path(), 3).map(drop).unwrap_err(),
        ] {
            assert!(error.to_string().contains("is a link"), "{error}");
        }
        std::fs::remove_file(&shard).unwrap();
        std::fs::rename(&there, &shard).unwrap();
        is_done(&FanoutCache::open(dir.path(), 3).unwrap());
    }

    /// A store with a decided list, followed by a value that is being set; and where both lie in
    /// the log.
    fn with_a_list_amid(dir: &Path) -> (Arc<Store>, Location, Location) {
        decided_by_a_dead_one(dir, 1);
        let store = open::open_apart(dir, Options::default().settings()).unwrap();
        let list = Location::from_bits(Journal(&store).journal().load(Ordering::Relaxed)).unwrap();
        let value = Segments(&store).append(b"key", &[], &[7; 200_000], Room::ToMove);
        (store, list, value.unwrap().unwrap())
    }

    /// The damage is in the length that the list says it has: the list runs over what is another's.
    #[test]
    fn a_list_that_is_damaged_takes_nothing_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, list, _) = with_a_list_amid(dir.path());
        let segment = store.dir().join("log/00000001");
        let mut bytes = std::fs::read(&segment).unwrap();
        let len_at = list.offset() as usize + 16;
        bytes[len_at..len_at + 4].copy_from_slice(&150_000_u32.to_le_bytes());
        std::fs::write(&segment, bytes).unwrap();
        let before = Segments(&store).usage().unwrap();
        Journal(&store).settle().unwrap();
        assert!(Journal(&store).is_settled());
        assert_eq!(Segments(&store).usage().unwrap(), before);
        KEYS.for_each(|number| {
            assert!(
                Values(&store)
                    .peek_value(key(number).as_bytes())
                    .unwrap()
                    .is_none()
            )
        });
    }

    #[test]
    fn a_journal_that_leads_to_a_value_takes_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, value) = with_a_list_amid(dir.path());
        let before = Segments(&store).usage().unwrap();
        Journal(&store)
            .journal()
            .store(value.bits(), Ordering::Relaxed);
        Journal(&store).settle().unwrap();
        assert!(Journal(&store).is_settled());
        assert_eq!(Segments(&store).usage().unwrap(), before);
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
            let place = Segments(&store).append(LIST_KEY, tag, &list, Room::ToMove);
            let bits = place.unwrap().unwrap().bits();
            assert_eq!(read_list(log, bits).unwrap(), None);
        }
        let there = read_list(log, list.bits()).unwrap().unwrap();
        assert_eq!(there.len(), KEYS.len());
    }

    /// What a key has before is nothing; what was decided is not.
    #[test]
    fn a_key_of_which_a_value_was_decided_is_not_reclaimed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::options()
            .capacity(64)
            .eviction(Eviction::None)
            .shards(1)
            .open(dir.path())
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

    /// An iterator lets go of the shards that it is done with.
    #[test]
    fn who_has_some_shards_only_carries_out_what_was_decided_in_all() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FanoutCache::open(dir.path(), 3).unwrap();
        let last = cache.each()[2].clone();
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
