//! A cache on a device that has less room than the cache's limit: that it is full is a reason to
//! evict.

use std::fs;
use std::path::Path;

use slablock::{Cache, Error, Eviction, Limits};

use crate::full_disk::{empty, fill, is_inside, resize};
use crate::kit::until;

const POLICIES: [Eviction; 4] = [
    Eviction::GreedyDual,
    Eviction::LeastRecentlyUsed,
    Eviction::LeastFrequentlyUsed,
    Eviction::LeastRecentlyStored,
];

fn set(cache: &Cache, keys: std::ops::Range<u32>) {
    for key in keys {
        let set = cache.set(key.to_string(), vec![key as u8; 20_000]);
        set.unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

fn kept(cache: &Cache, keys: std::ops::Range<u32>) -> usize {
    let is_kept = |key: &u32| {
        let value = cache.get(key.to_string()).unwrap();
        assert!(
            value
                .as_ref()
                .is_none_or(|v| *v == vec![*key as u8; 20_000])
        );
        value.is_some()
    };
    keys.filter(is_kept).count()
}

/// The highest number that a segment has.
fn last_segment(cache: &Cache) -> u32 {
    let names = fs::read_dir(cache.path().join("log")).unwrap();
    let number = |name: fs::DirEntry| u32::from_str_radix(name.file_name().to_str()?, 16).ok();
    names
        .filter_map(|name| number(name.unwrap()))
        .max()
        .unwrap()
}

#[test]
fn a_cache_goes_on_whatever_room_the_device_has() {
    const NAME: &str = "room::a_cache_goes_on_whatever_room_the_device_has";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    for eviction in POLICIES {
        resize(dir, "size=40m");
        let options = Cache::options().size_limit(64 << 20).eviction(eviction);
        let cache = options.open(dir.join("store")).unwrap();
        set(&cache, 0..4_000);
        let left = kept(&cache, 0..4_000);
        assert!(left > 1_000, "{eviction:?}: {left}");
        if eviction != Eviction::GreedyDual {
            assert_eq!(kept(&cache, 3_500..4_000), 500, "{eviction:?}");
        }
        set(&cache, 3_000..4_000);
        assert!(last_segment(&cache) < 400, "{}", last_segment(&cache));
        cache.cull().unwrap();
        assert!(cache.check().unwrap().is_sound());
        // Others take all the room that there is, for a while.
        fill(&dir.join("filler"));
        set(&cache, 4_000..5_000);
        fill(&dir.join("filler"));
        set(&cache, 5_000..6_000);
        fs::remove_file(dir.join("filler")).unwrap();
        resize(dir, "size=60m");
        let (mut from, before) = (6_000, kept(&cache, 0..6_000));
        until("the limit rises", || {
            set(&cache, from..from + 100);
            from += 100;
            kept(&cache, 0..from) > before + 200
        });
        let limit = Limits::new().size_limit(8 << 20);
        cache.configure(&limit).unwrap();
        set(&cache, 0..1_000);
        assert!(cache.check().unwrap().is_sound());
        drop(cache);
        empty(dir);
    }
    println!("all told");
}

/// Nothing goes; what has no room is refused, and there is some after values were deleted.
#[test]
fn without_eviction_a_full_device_refuses_and_recovers() {
    const NAME: &str = "room::without_eviction_a_full_device_refuses_and_recovers";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    resize(dir, "size=20m");
    let options = Cache::options().size_limit(64 << 20);
    let cache = options.eviction(Eviction::None).open(dir.join("store"));
    let cache = cache.unwrap();
    let one = |key: u32| cache.set(key.to_string(), vec![key as u8; 20_000]);
    let full = (0..4_000).find(|key| is_no_space(one(*key))).unwrap();
    for key in full..full + 100 {
        assert!(is_no_space(one(key)));
    }
    assert!(last_segment(&cache) < 100, "{}", last_segment(&cache));
    assert_eq!(kept(&cache, 0..full), full as usize);
    // A few whole segments.
    for key in 0..200 {
        assert!(cache.delete(key.to_string()).unwrap());
    }
    for key in 0..100 {
        one(key).unwrap();
    }
    assert_eq!(kept(&cache, 200..full), (full - 200) as usize);
    assert!(cache.check().unwrap().is_sound());
    println!("all told");
}

fn is_no_space(set: slablock::Result<()>) -> bool {
    match set {
        Ok(()) => false,
        Err(Error::NoSpace { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}
