use super::*;
use crate::store::journal::decided::tests::{
    KEYS, decided, decided_by_a_dead_one, is_done, key, shard_dir,
};
use crate::sync::Ordering;
use crate::types::KeyState;
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
