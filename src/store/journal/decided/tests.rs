use std::path::{Path, PathBuf};

use super::*;
use crate::store::home::open;
use crate::store::index::chains::Index;
use crate::store::journal::siblings::join_shards;
use crate::store::log::decided_list::LIST_KEY;
use crate::store::log::segments::Room;
use crate::store::space::set::New;
use crate::store::txn::transaction::Ongoing;
use crate::store::values::get::Values;
use crate::{Averager, Cache, Error, Eviction, FanoutCache, Lock, Options, RLock};

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
    let new = New {
        value,
        tag: &[],
        expires_ms: 0,
    };
    decided_of_each(dir, shards, |ongoing, shard, store, key| {
        ongoing.set(shard, store, key, &new).unwrap();
    });
}

fn deletion_decided(dir: &Path, shards: usize) {
    decided_of_each(dir, shards, |ongoing, shard, store, key| {
        assert!(ongoing.delete(shard, store, key).unwrap());
    });
}

/// Somebody changes all keys at once, and dies before any of it is carried out.
fn decided_of_each(
    dir: &Path,
    shards: usize,
    change: impl for<'a> Fn(&mut Ongoing<'a>, usize, &'a Arc<Store>, &[u8]),
) {
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
        change(&mut ongoing, shard, &stores[shard], key(number).as_bytes());
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
    Journal(&store).finish_decided().unwrap();
    assert!(Journal(&store).nothing_is_decided());
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
    Journal(&store).finish_decided().unwrap();
    assert!(Journal(&store).nothing_is_decided());
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

#[test]
fn a_key_of_which_the_deletion_was_decided_is_not_in_the_way_of_a_lock() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FanoutCache::open(dir.path(), 1).unwrap();
    for number in KEYS {
        cache.set(key(number), "value").unwrap();
    }
    deletion_decided(dir.path(), 1);
    let lock = Lock::new(&cache, key(0));
    drop(lock.acquire().unwrap());
}

#[test]
fn what_was_decided_is_counted_listed_and_removed() {
    let after = |look: fn(&Cache) -> usize| {
        let dir = tempfile::tempdir().unwrap();
        decided_by_a_dead_one(dir.path(), 3);
        look(&FanoutCache::open(dir.path(), 3).unwrap())
    };
    let looks: [fn(&Cache) -> usize; 6] = [
        |cache| cache.len().unwrap(),
        |cache| cache.keys().unwrap().len(),
        |cache| cache.into_iter().count(),
        |cache| cache.clear().unwrap(),
        |cache| cache.check().unwrap().keys,
        |cache| {
            let removed = KEYS.filter(|number| cache.remove(key(*number)).unwrap());
            removed.count()
        },
    ];
    for (which, look) in looks.into_iter().enumerate() {
        assert_eq!(after(look), KEYS.len(), "look {which}");
    }
}

/// The segment with the list cannot be read, by anybody.
fn make_unreadable(dir: &Path) {
    let segment = dir.join("log/00000001");
    std::fs::rename(&segment, dir.join("log/aside")).unwrap();
    std::fs::create_dir(&segment).unwrap();
}

#[test]
fn what_cannot_be_carried_out_is_no_matter_of_locks() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FanoutCache::open(dir.path(), 3).unwrap();
    for number in 0..8 {
        let lock = Lock::new(&cache, format!("lock {number}")).tag("tag");
        std::mem::forget(lock.acquire().unwrap());
    }
    decided_by_a_dead_one(dir.path(), 3);
    make_unreadable(&dir.path().join("000"));
    assert!(cache.get(key(0)).is_err());
    let lock = |number| format!("lock {number}");
    for number in 0..8 {
        assert!(cache.key_info(lock(number)).unwrap().is_some());
        assert!(Lock::new(&cache, lock(number)).is_locked().unwrap());
    }
    assert!(cache.remove(lock(0)).unwrap());
    assert!(cache.remove(key(0)).is_err() && cache.clear().is_err() && cache.len().is_err());
    let problems = cache.check().unwrap().problems;
    let told = problems.iter().filter(|what| what.contains("00000001"));
    assert_eq!(told.count(), 1, "{problems:?}");
}

#[test]
fn what_is_full_has_room_where_deletions_were_decided() {
    let dir = tempfile::tempdir().unwrap();
    let options = Cache::options().capacity(64).eviction(Eviction::None);
    let cache = options.shards(1).open(dir.path()).unwrap();
    for number in KEYS {
        cache.set(key(number), "value").unwrap();
    }
    let hold = |name: String| Lock::new(&cache, name).acquire().map(std::mem::forget);
    let full = (0..).map(|number| hold(format!("lock {number}")).err());
    let full = full.flatten().next().unwrap();
    assert!(matches!(full, Error::Full { .. }), "{full}");
    deletion_decided(dir.path(), 1);
    hold("one more".to_string()).unwrap();
}

/// Somebody may have it for as long as a process is stopped.
#[test]
fn a_key_of_another_kind_is_told_without_the_stripe() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FanoutCache::open(dir.path(), 1).unwrap();
    cache.set("value", "v").unwrap();
    std::mem::forget(Lock::new(&cache, "lock").acquire().unwrap());
    let other = open::open_apart(dir.path(), Options::default().settings()).unwrap();
    for key in ["value", "lock"] {
        let stripe = Index(&other).stripe_of(Index(&other).hash(key.as_bytes()));
        let _guard = Index(&other).lock_stripe(stripe).unwrap();
        let told = RLock::new(&cache, key).try_acquire().map(drop);
        assert!(matches!(told, Err(Error::KindMismatch { .. })), "{told:?}");
    }
}

#[test]
fn an_average_is_no_value_while_something_is_decided() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FanoutCache::open(dir.path(), 1).unwrap();
    cache.set("value", "v").unwrap();
    let average = Averager::new(&cache, "value");
    decided_by_a_dead_one(dir.path(), 1);
    assert!(matches!(average.pop(), Err(Error::KindMismatch { .. })));
    decided_by_a_dead_one(dir.path(), 1);
    assert!(matches!(average.get(), Err(Error::KindMismatch { .. })));
}

/// To carry it out the other shards would be opened.
#[test]
fn a_look_at_a_lock_carries_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FanoutCache::open(dir.path(), 1).unwrap();
    cache.set(key(0), "value").unwrap();
    decided_by_a_dead_one(dir.path(), 1);
    for number in [0, 1] {
        let lock = Lock::new(&cache, key(number));
        assert!(!lock.is_locked().unwrap());
        assert!(lock.holder().unwrap().is_none());
    }
    let store = open::open_apart(dir.path(), Options::default().settings()).unwrap();
    assert!(!Journal(&store).nothing_is_decided());
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
