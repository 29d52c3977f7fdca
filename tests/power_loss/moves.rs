//! Values that are moved when there is no room to move them all.

use std::os::unix::fs::FileExt;

use slablock::{Cache, Durability, Eviction, Limits};

use crate::disk::Image;
use crate::kit::Place;
use crate::kit::layout::{self, Layout};
use crate::{synced, word};

/// A segment for which there is less room than it takes is opened again when some of it has moved.
/// What has may move once more, over what the device has of it: by then the device has to have
/// where it is now, also if it was moved a step earlier than the room was used up.
#[test]
fn what_was_moved_is_on_the_disk_when_the_room_to_move_the_rest_is_used_up() {
    moves_until_the_room_is_used_up(60);
    moves_until_the_room_is_used_up(FITTING as usize);
}

/// How many of the first segment fit into the room there is, and how long they are there.
const FITTING: u64 = 30;
const RECORD: u64 = 15_040;
/// How many slots are looked at in a step.
const STEP_SLOTS: usize = 16_384;

/// So many of the first segment are looked at in the first step, the others in the second one.
fn moves_until_the_room_is_used_up(first: usize) {
    let dir = Place::in_memory();
    let capacity = STEP_SLOTS + 1_024;
    let options = Cache::options().eviction(Eviction::None);
    // For what lies in slots, too.
    let options = options.capacity(capacity).size_limit(12 << 20);
    let cache = options.open(dir.store()).unwrap();
    // The rest of the slots of a step is of others.
    let fillers = (first..STEP_SLOTS).map(|n| format!("filler {n}"));
    let keys: Vec<String> = (0..417).map(|key| format!("{key}")).collect();
    let slots = keys[..first].iter().cloned().chain(fillers);
    slots.for_each(|key| cache.set(key, "").unwrap());
    for key in &keys {
        cache.set(key, vec![7; RECORD as usize - 40]).unwrap();
    }
    cache
        .configure(&Limits::new().durability(Durability::PowerLoss))
        .unwrap();
    let slab = std::fs::File::options()
        .read(true)
        .write(true)
        .open(cache.path().join("slab"))
        .unwrap();
    let poke = |at, word: u64| slab.write_all_at(&word.to_le_bytes(), at).unwrap();
    // Much of the first segment is said to be dead, as when somebody counts it just as others write
    // there: the rest fits into what room there is.
    let gone = layout::SEGMENTS + layout::SEGMENT_BYTES + 16;
    poke(gone, 45 * RECORD / 16);
    let stats = cache.stats().unwrap();
    let segments = std::fs::read_dir(cache.path().join("log")).unwrap().count() as u64;
    // Another one may have to be begun for them.
    let slack = 2 * layout::PAGE * (segments + 2);
    let bound = stats.bytes_live + stats.bytes_garbage + slack + FITTING * RECORD + 2_000;
    let in_slots = stats.bytes_in_slots;
    poke(layout::SIZE_LIMIT, bound + in_slots - (1 << 20));
    let selectors = |image: &Image| -> Vec<u64> {
        let layout = Layout::new();
        let slots = (0..first).chain(STEP_SLOTS..STEP_SLOTS + keys.len() - first);
        slots
            .map(|slot| word(image, layout.slot(slot as u64) + 48))
            .collect()
    };
    let now = || selectors(&Image::of(&slab, &Image::default()));
    let before = now();
    let images = synced(|| assert_eq!(cache.cull().unwrap(), 0));
    let after = now();
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
    assert!(cache.path().join("log/00000001").exists());
    assert_eq!(moved.count() as u64, FITTING);
    assert!(images.last().is_some_and(|last| selectors(last) == after));
}
