//! What a store is after a power loss: sound, or mended by `repair`; every average some value that
//! it had; every hold void; tokens above all that were ever given. Whatever pages were written, and
//! in what order.

#![allow(missing_docs, unsafe_code)]

mod device;
mod disk;
mod keys;
#[path = "../kit/mod.rs"]
mod kit;
mod lives;
mod moves;
mod names;
mod steps;
mod values;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use disk::{Image, Sync, Timeline, noting_syncs};
use keys::{Facts, universe};
use kit::layout::{self, Layout};
use kit::{Child, HANGS, Place, Random, Role, Watchdog};
use lives::{Count, World};
use slablock::{Averager, Cache, Durability};
const CHAINS: u64 = 100;
const LIVES: u64 = 10;
const LOSSES: u64 = 10;
const STEPS: u64 = 14;
const THREADS: usize = 2;

#[test]
fn child_role() {
    if let Some(role) = Role::of_this_process() {
        assert_eq!(role.name, "steps");
        steps::steps(&role);
    }
}

#[test]
fn a_power_loss_in_the_middle_of_an_operation_leaves_it_done_or_not() {
    let _watchdog = Watchdog::new("power loss within operations");
    let dir = Place::in_memory();
    let child = Child::start("steps", dir.root(), &[]);
    loop {
        let said = child.line_within(HANGS).expect("the next operation");
        if said != "verified" {
            println!("{said}");
            return child.finish();
        }
    }
}

/// One loss after another: what the first has left is what the next one meets.
#[test]
fn a_store_lives_through_one_power_loss_after_another() {
    let _watchdog = Watchdog::new("power losses");
    let mut random = Random::announced("power losses");
    let seeds: Vec<u64> = (0..CHAINS).map(|_| random.next()).collect();
    let dir = Place::in_memory();
    let count = std::thread::scope(|scope| {
        let halves = seeds.chunks(seeds.len().div_ceil(THREADS));
        let threads: Vec<_> = halves
            .map(|seeds| scope.spawn(|| chains(seeds, dir.root())))
            .collect();
        let mut count = Count::default();
        for thread in threads {
            count.add(&thread.join().unwrap());
        }
        count
    });
    assert_eq!(count.rebuilt, CHAINS * LIVES * LOSSES);
    println!("{count:?}");
}

fn chains(seeds: &[u64], dir: &Path) -> Count {
    let mut count = Count::default();
    for seed in seeds {
        let _told = OnPanic(format!("in the chain of seed {seed}"));
        count.add(&chain(*seed, dir));
    }
    count
}

fn chain(seed: u64, dir: &Path) -> Count {
    let mut random = Random::new(seed);
    let dir = Place::below(dir);
    let mut world = World::new(dir.root());
    let nothing: Arc<Facts> = Facts::of_nothing(&universe());
    let mut timeline = Timeline::begin(disk::Image::default(), false, nothing);
    for _ in 0..LIVES {
        world.count.lives += 1;
        for n in 1..=LOSSES {
            let loss = timeline.lose(&mut random);
            let _told = OnPanic(format!("after a loss: {}", loss.how));
            let mut life = world.boot(&timeline, &loss);
            if n == LOSSES {
                life.note(false);
            }
            if random.below(2) == 0 {
                world.take_everything(&mut life);
            }
            if n == LOSSES {
                life.note(false);
                for _ in 0..STEPS {
                    world.do_something(&mut life, &mut random);
                }
                timeline = life.end();
                break;
            }
            life.end();
        }
    }
    world.count
}

/// The first slot of a long average, torn: what tells its keys apart lies in the next slot, and the
/// value was that of the key which had the slot before.
#[test]
fn an_average_never_has_the_value_of_the_one_that_had_its_slot() {
    let dir = Place::in_memory();
    let store = dir.store();
    let name = |n: u32| format!("names that begin alike for longer than a slot has room: {n}");
    let cache = Cache::options().capacity(64).open(&store).unwrap();
    let file = || std::fs::File::open(store.join("slab")).unwrap();
    let first = Averager::new(&cache, name(1));
    [1.0, 2.0, 3.0].iter().for_each(|n| first.add(*n).unwrap());
    let before = Image::of(&file(), &Image::default());
    assert!(cache.remove(name(1)).unwrap());
    let second = Averager::new(&cache, name(2));
    [5.0, 6.0, 7.0].iter().for_each(|n| second.add(*n).unwrap());
    let mut image = Image::of(&file(), &before);
    let slot = Layout::new().slot(0);
    // From the second line of 64 bytes on, which is where a sector may begin.
    image.set(slot + 64, &before.get::<128>(slot + 64));
    image.set(layout::BOOT_ID, &[1; 16]);
    drop((first, second, cache));
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    image.write(&store.join("slab"));
    layout::name_files(&store, &store);
    let cache = Cache::open(&store).unwrap();
    assert_eq!(cache.len().unwrap(), 1);
    assert_eq!(Averager::new(&cache, name(2)).get().unwrap(), None);
    assert!(cache.check().unwrap().is_sound());
}

/// The slab at each sync of it.
fn synced(body: impl FnOnce()) -> Vec<Image> {
    let ((), syncs) = noting_syncs(body);
    let slabs = syncs.into_iter().filter_map(|sync| match sync {
        Sync::File(image) => Some(image),
        Sync::Directory(_) => None,
    });
    slabs.collect()
}

fn durable(dir: &std::path::Path) -> Cache {
    let options = Cache::options().durability(Durability::PowerLoss);
    options.capacity(64).open(dir.join("store")).unwrap()
}

fn word(image: &Image, at: u64) -> u64 {
    u64::from_le_bytes(image.get(at))
}

/// Pages reach the disk in any order: nothing is changed before what decides is there, and that
/// stays until all is changed.
#[test]
fn a_transaction_is_on_the_disk_before_it_is_carried_out_and_until_it_is() {
    let dir = Place::in_memory();
    let cache = durable(dir.root());
    let keys = ["a", "b"];
    keys.iter().for_each(|key| cache.set(key, "old").unwrap());
    let slots = [0, 1].map(|slot| Layout::new().slot(slot));
    let before = synced(|| cache.sync().unwrap());
    let is_old =
        |image: &Image| slots.map(|slot| word(image, slot + 48) == word(&before[0], slot + 48));
    let images = synced(|| {
        let both = |t: &mut slablock::Transaction<'_>| -> slablock::Result<()> {
            keys.iter().try_for_each(|key| t.set(key, "new"))
        };
        cache.transact_as(both).unwrap();
    });
    let is_decided = |image: &&Image| word(image, layout::JOURNAL) != 0;
    let decided: Vec<_> = images.iter().filter(is_decided).map(is_old).collect();
    assert_eq!(decided.first(), Some(&[true; 2]));
    assert_eq!(decided.last(), Some(&[false; 2]));
}

/// The next change is made in the place of the one before: whoever makes it has to know that the
/// value in force is on the disk.
#[test]
fn a_value_is_on_the_disk_before_the_next_one_may_change_it() {
    let dir = Place::in_memory();
    let cache = durable(dir.root());
    cache.set("key", "1").unwrap();
    let slot = Layout::new().slot(0);
    let changes: [&dyn Fn(); 4] = [
        &|| cache.set("key", "2").unwrap(),
        &|| assert_eq!(cache.incr("key", 1).unwrap(), 3),
        &|| assert!(cache.touch("key", Some(Duration::from_secs(60))).unwrap()),
        &|| assert!(cache.delete("key").unwrap()),
    ];
    for (number, change) in changes.iter().enumerate() {
        let before = synced(|| cache.sync().unwrap());
        let images = synced(change);
        let mut changed = images
            .iter()
            .filter(|image| word(image, slot + 48) != word(&before[0], slot + 48));
        let first = changed.next().expect("it is synced");
        assert_ne!(word(first, slot) >> 52, 0, "change {number}");
    }
}

/// Says where it was, if it comes to a panic.
struct OnPanic(String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.rebuilt += other.rebuilt;
        self.missing += other.missing;
        self.repaired += other.repaired;
        self.lives += other.lives;
        self.values += other.values;
        self.tokens += other.tokens;
    }
}
