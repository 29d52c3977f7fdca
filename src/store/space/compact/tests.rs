use std::os::unix::fs::FileExt;

use super::*;
use crate::log::{SEGMENT_HEADER_BYTES, record_bytes};
use crate::{Cache, Eviction};

#[test]
fn how_far_it_came_comes_back() {
    for reached in [
        Looked::Record {
            at: 0,
            has_gaps: false,
        },
        Looked::Record {
            at: 1 << 40,
            has_gaps: true,
        },
        Looked::Slot(0),
        Looked::Slot(u32::MAX),
    ] {
        assert_eq!(Looked::of(reached.bits()), reached);
    }
}

/// Sixty values, the first fifty of them in the first segment.
fn filled() -> (tempfile::TempDir, Cache, u64) {
    let dir = tempfile::tempdir().unwrap();
    let options = Cache::options().size_limit(4 << 20);
    let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
    for key in 10..70_u8 {
        cache.set(key.to_string(), vec![key; 20_000]).unwrap();
    }
    (dir, cache, record_bytes(2, 0, 20_000))
}

fn first_segment(cache: &Cache) -> std::path::PathBuf {
    cache.path().join("log/00000001")
}

/// The head of a record says that it is longer, and ends where a later one begins: what is in
/// between is not seen by reading the records.
#[test]
fn what_a_damaged_record_hides_is_kept() {
    for (hidden, lands) in [(2, 0), (2, 16), (0, 1 << 30)] {
        let (_dir, cache, bytes) = filled();
        for key in (10..50_u8).filter(|key| ![13, 14].contains(key)) {
            cache.delete(key.to_string()).unwrap();
        }
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(first_segment(&cache))
            .unwrap();
        let head_at = SEGMENT_HEADER_BYTES + 2 * bytes;
        let len = 20_000 + hidden * bytes + lands;
        file.write_all_at(&(len as u32).to_le_bytes(), head_at + 16)
            .unwrap();
        cache.cull().unwrap();
        assert!(!first_segment(&cache).exists());
        for key in [13, 14_u8] {
            let got = cache.get(key.to_string()).unwrap();
            assert!(got == Some(vec![key; 20_000]), "{key} behind {len}");
        }
        assert!(cache.check().unwrap().is_sound());
    }
}

/// It is one of which a count said that it is garbage, for its writer was slow.
#[test]
fn what_was_counted_as_garbage_too_early_is_kept() {
    let (_dir, cache, bytes) = filled();
    for key in (10..50_u8).filter(|key| ![13, 14].contains(key)) {
        cache.delete(key.to_string()).unwrap();
    }
    let lost = &cache.store.slab().segment(1).lost;
    let now = crate::slab::Lost::of(1, lost.load(Ordering::Relaxed)).unwrap();
    lost.store(now.and(2 * bytes, 0).unwrap(), Ordering::Relaxed);
    cache.cull().unwrap();
    for key in [13, 14_u8] {
        let got = cache.get(key.to_string()).unwrap();
        assert!(got == Some(vec![key; 20_000]), "{key}");
    }
}

/// Its cost is that of the segment.
#[test]
fn a_sound_segment_is_emptied_without_a_look_at_the_slots() {
    let (_dir, cache, _) = filled();
    for key in 10..50_u8 {
        cache.delete(key.to_string()).unwrap();
    }
    let cursor = &cache.store.slab().segment(1).cursor;
    while first_segment(&cache).exists() {
        assert!(Compactor(&cache.store).compact(1, &[]).unwrap());
        let reached = Looked::of(cursor.load(Ordering::Relaxed));
        assert!(matches!(reached, Looked::Record { .. }), "{reached:?}");
    }
}

/// Each of its records leads to it.
#[test]
fn what_was_set_again_and_again_is_written_again_once() {
    let dir = tempfile::tempdir().unwrap();
    let options = Cache::options().size_limit(4 << 20);
    let cache = options.eviction(Eviction::None).open(dir.path()).unwrap();
    let lock = Ranges(&cache.store).try_lock_compaction().unwrap();
    for round in 0..40_u8 {
        cache.set("k", vec![round; 20_000]).unwrap();
    }
    for key in 0..20_u8 {
        cache.set(format!("{key}"), vec![key; 20_000]).unwrap();
    }
    assert!(first_segment(&cache).exists());
    drop(lock);
    cache.cull().unwrap();
    assert!(!first_segment(&cache).exists());
    let usage = Segments(&cache.store).usage().unwrap();
    assert!(usage.garbage < 20_000, "{usage:?}");
    assert_eq!(cache.get("k").unwrap(), Some(vec![39; 20_000]));
}
