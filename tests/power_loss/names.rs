//! Names are on the device as soon as anything counts on them: those of stores, shards and logs,
//! also if whoever made the directory died before that.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use slablock::{Cache, Durability, FanoutCache, Limits};

use crate::disk::{Sync, noting_syncs};
use crate::kit::{Place, layout};

/// A record that is lost would make strangers of the shards, and a directory that is lost takes all
/// with it.
#[test]
fn the_names_of_what_was_made_are_on_the_disk() {
    let dir = Place::in_memory();
    let fanout = dir.root().join("fanout");
    let (made, syncs) = noting_syncs(|| FanoutCache::open(&fanout, 2).map(drop));
    made.unwrap();
    let files = syncs.iter().filter(|sync| matches!(sync, Sync::File(_)));
    // The record, and the slab of each shard before and after it is ready.
    assert_eq!(files.count(), 5);
    let directories: Vec<_> = syncs
        .iter()
        .filter_map(|sync| match sync {
            Sync::Directory(path) => Some(path.clone()),
            Sync::File(_) => None,
        })
        .collect();
    let shards = [fanout.join("000"), fanout.join("001")];
    let expected = [
        dir.root(),
        &fanout,
        // The names in each shard, and its own.
        &shards[0],
        &fanout,
        &shards[1],
        &fanout,
    ];
    assert_eq!(directories, expected);
    // The record's name is safe before there is a shard.
    let record = syncs.iter().position(|s| matches!(s, Sync::File(_)));
    assert_eq!(record, Some(0));
    assert!(matches!(&syncs[2], Sync::Directory(path) if *path == fanout));
}

/// The directories that are synced.
fn directories(body: impl FnOnce()) -> Vec<PathBuf> {
    let ((), syncs) = noting_syncs(body);
    let directories = syncs.into_iter().filter_map(|sync| match sync {
        Sync::Directory(path) => Some(path),
        Sync::File(_) => None,
    });
    directories.collect()
}

/// A directory that is there may be the work of somebody who died before its name was on the
/// device.
#[test]
fn the_names_of_what_the_dead_have_made_are_on_the_disk() {
    let dir = Place::in_memory();
    let above = dir.root();
    let [store, fanout] = ["store", "fanout"].map(|name| above.join(name));
    let shard = fanout.join("000");
    for made in [&store, &fanout] {
        std::fs::create_dir(made).unwrap();
    }
    let options = Cache::options().durability(Durability::PowerLoss);
    let synced = directories(|| drop(options.open(&store).unwrap()));
    assert!(synced.contains(&above.to_path_buf()), "{synced:?}");
    let synced = directories(|| drop(options.clone().shards(2).open(&fanout).unwrap()));
    assert!(synced.contains(&above.to_path_buf()), "{synced:?}");
    assert!(synced.contains(&fanout), "{synced:?}");
    for store in [&store, &shard] {
        std::fs::create_dir(store.join("log")).unwrap();
        let cache = options.open(store).unwrap();
        let set = |key| directories(|| cache.set(key, vec![7; 5_000_000]).unwrap());
        let log = store.join("log");
        assert_eq!(set("first"), [log.clone(), store.clone()]);
        // Once is enough.
        assert_eq!(set("second"), [log]);
    }
}

/// What is in the log already when values are to survive is there as well.
#[test]
fn the_name_of_the_log_is_on_the_disk_when_values_are_to_survive() {
    let dir = Place::in_memory();
    let store = dir.store();
    let cache = Cache::open(&store).unwrap();
    cache.set("key", vec![7; 5_000_000]).unwrap();
    let durable = Limits::new().durability(Durability::PowerLoss);
    let synced = directories(|| cache.configure(&durable).unwrap());
    assert_eq!(synced, [store.join("log"), store]);
}

/// Somebody began a segment when no value was to survive, and was stopped; all names were synced
/// when they were to survive from then on; and only then could others append to it.
#[test]
fn the_name_of_a_segment_is_on_the_disk_before_a_value_there_is_to_survive() {
    const DURABILITY: u64 = layout::SIZE_LIMIT + 12;
    let dir = Place::in_memory();
    let store = dir.store();
    let cache = Cache::open(&store).unwrap();
    cache.set("first", [7; 9_000]).unwrap();
    let slab = std::fs::File::options()
        .write(true)
        .open(store.join("slab"));
    slab.unwrap().write_all_at(&[1], DURABILITY).unwrap();
    let set = |key| directories(|| cache.set(key, [7; 9_000]).unwrap());
    assert_eq!(set("second"), [store.join("log"), store]);
    assert_eq!(set("third"), Vec::<PathBuf>::new());
}

#[test]
fn the_names_of_all_that_was_made_above_a_store_are_on_the_disk() {
    let dir = Place::in_memory();
    let [one, two] = ["one", "one/two"].map(|name| dir.root().join(name));
    let store = two.join("store");
    let synced = directories(|| drop(Cache::open(&store).unwrap()));
    assert_eq!(synced, [&one, dir.root(), &store, &two]);
}
