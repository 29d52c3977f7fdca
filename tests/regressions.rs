//! Faults that fuzzing has found, each told by hand, so that none comes back. The inputs themselves
//! are in `tests/fuzz/found` and are run with the library's own tests.

#![allow(missing_docs)]

#[macro_use]
mod kit;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Barrier;

use kit::{Place, bounded, layout, store, stored};
use slablock::{
    Averager, BoundedSemaphore, Cache, Error, FanoutCache, Kind, Lock, RLock, Result, SetOptions,
};

/// Its name, for which kind of key, and what it does with the key.
type FirstUse<'a> = (&'a str, Kind, &'a dyn Fn(&str) -> Result<()>);

/// A re-entrant lock looks for its key before it acquires it, and remembered where it is; and so
/// did whoever asked first who holds a lock. What is remembered is not looked at for its tag again:
/// `evict` would never have found it.
#[test]
fn the_first_use_sets_the_tag_whatever_it_is() {
    bounded(|| {
        let (_place, cache) = store();
        let first_uses: [FirstUse; 8] = [
            ("acquire an rlock", Kind::RLock, &|key| {
                RLock::new(&cache, key).tag("t").acquire().map(drop)
            }),
            ("try an rlock", Kind::RLock, &|key| {
                RLock::new(&cache, key).tag("t").try_acquire().map(drop)
            }),
            ("ask for the depth", Kind::RLock, &|key| {
                RLock::new(&cache, key).tag("t").depth().map(drop)
            }),
            ("ask for the holder", Kind::Lock, &|key| {
                let lock = Lock::new(&cache, key).tag("t");
                lock.holder()?;
                lock.acquire().map(drop)
            }),
            ("ask for the number of waiters", Kind::Lock, &|key| {
                Lock::new(&cache, key).tag("t").waiters().map(drop)
            }),
            ("ask how many there are", Kind::Semaphore, &|key| {
                let semaphore = BoundedSemaphore::new(&cache, key, 2).tag("t");
                semaphore.available()?;
                semaphore.acquire().map(drop)
            }),
            ("get the average", Kind::Averager, &|key| {
                let average = Averager::new(&cache, key).tag("t");
                average.get()?;
                average.add(1.0)
            }),
            ("pop the average", Kind::Averager, &|key| {
                Averager::new(&cache, key).tag("t").pop().map(drop)
            }),
        ];
        for (what, kind, first_use) in first_uses {
            let made = match kind {
                Kind::Lock => Lock::new(&cache, what).acquire().map(drop),
                Kind::RLock => RLock::new(&cache, what).acquire().map(drop),
                Kind::Semaphore => BoundedSemaphore::new(&cache, what, 2).acquire().map(drop),
                _ => Averager::new(&cache, what).add(1.0),
            };
            made.unwrap();
            assert_eq!(cache.key_info(what).unwrap().unwrap().tag, None);
            first_use(what).unwrap();
            let tag = cache.key_info(what).unwrap().unwrap().tag;
            assert_eq!(tag.as_deref(), Some(&b"t"[..]), "{what}");
        }
        assert_eq!(cache.remove_tagged("t").unwrap(), 8);
    });
}

/// A thread knows the re-entrant locks that it has by the place of their holds. When one key was
/// removed and the next got its slot, a handle of the first took the thread's hold of the second
/// for its own.
#[test]
fn a_handle_of_a_removed_rlock_does_not_get_in_by_way_of_another_key() {
    bounded(|| {
        let (_place, cache) = store();
        let first = RLock::new(&cache, "first");
        drop(first.acquire().unwrap());
        assert!(cache.remove("first").unwrap());
        // In the slot that was freed.
        let second = RLock::new(&cache, "second");
        let held = second.acquire().unwrap();
        let other = RLock::new(&cache, "first");
        let (taken, seen) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let guard = other.acquire().unwrap();
                taken.wait();
                seen.wait();
                drop(guard);
            });
            taken.wait();
            let got_in = first.try_acquire().map(|guard| guard.is_some());
            seen.wait();
            assert!(!got_in.unwrap(), "two threads have it");
        });
        assert_eq!((second.depth().unwrap(), first.depth().unwrap()), (1, 0));
        held.release().unwrap();
        assert!(first.try_acquire().unwrap().is_some());
    });
}

/// The record of a `FanoutCache` was read whole, however long it was.
#[test]
fn a_fanout_file_of_any_length_takes_no_memory() {
    bounded(|| {
        let place = Place::new();
        fs::create_dir(place.store()).unwrap();
        let file = File::create(place.store().join("fanout")).unwrap();
        for len in [35, 37, 1 << 20, 1 << 40] {
            file.set_len(len).unwrap();
            let words = ["fanout", "wrong length"];
            assert_error!(
                FanoutCache::open(place.store(), 2),
                Error::Corrupt { .. },
                words
            );
            assert_error!(Cache::repair(place.store()), Error::Corrupt { .. }, words);
        }
    });
}

/// A file that only had the name of the highest segment, and to which nothing led, used up all
/// numbers when a repair removed it: no large value could be set any more.
#[test]
fn a_file_with_the_name_of_the_last_segment_does_not_use_up_their_numbers() {
    bounded(|| {
        let (place, cache) = store();
        cache.set("large", [7; 3_000]).unwrap();
        drop(cache);
        let log = place.store().join("log");
        fs::copy(log.join("00000001"), log.join("ffffffff")).unwrap();
        Cache::repair(place.store()).unwrap();
        assert!(!log.join("ffffffff").exists());
        let cache = Cache::open(place.store()).unwrap();
        cache.set("another", [8; 3_000]).unwrap();
        assert_eq!(cache.get("large").unwrap(), Some(vec![7; 3_000]));
    });
}

/// A removal asked again and again for what somebody had decided, for ever, where the journal could
/// not be read.
#[test]
fn a_removal_says_that_the_journal_cannot_be_read() {
    bounded(|| {
        let (place, cache) = store();
        cache
            .set_with("small", "value", &SetOptions::new().tag("t"))
            .unwrap();
        let (log, aside) = (place.store().join("log"), place.store().join("aside"));
        let _ = fs::rename(&log, &aside);
        fs::write(&log, b"no directory").unwrap();
        let slab = OpenOptions::new()
            .write(true)
            .open(place.store().join("slab"))
            .unwrap();
        let decided = stored::place_of(1, 4).to_le_bytes();
        slab.write_all_at(&decided, layout::JOURNAL).unwrap();

        let words = ["log", "not a directory"];
        assert_error!(cache.remove("small"), Error::Io { .. }, words);
        assert_error!(cache.remove_tagged("t"), Error::Io { .. }, words);
        assert_error!(cache.clear(), Error::Io { .. }, words);
        assert_error!(cache.remove_expired(), Error::Io { .. }, words);
        assert_error!(cache.delete("small"), Error::Io { .. }, words);
        let lock = Lock::new(&cache, "lock");
        assert!(lock.try_acquire().unwrap().is_some(), "which has no value");

        fs::remove_file(&log).unwrap();
        assert_eq!(cache.get("small").unwrap(), Some(b"value".to_vec()));
        assert!(cache.remove("small").unwrap());
    });
}
