//! Law: any sequence of operations by several participants, with time passing and participants
//! dying in between, has the results that the documentation says it has: those of a model of a page
//! (`operations/model.rs`).
//!
//! The participants are real ones, with descriptors and beacons of their own, in one process.
//! Clocks stand still and are moved by the input; a death is what the others see of one, a free
//! beacon. Nobody dies in the middle of an operation here.

mod model;
mod setting;
mod world;

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use slablock::{Cache, fuzzing};
use world::World;

use super::input::Input;
use super::layout::{self, Layout};
use super::place::Place;

/// How many operations an input has at most.
const OPERATIONS_MAX: usize = 200;
/// When it begins, in microseconds since boot and since 1970.
const BOOT_US: u64 = 1_000_000_000;
const WALL_US: u64 = 1_700_000_000_000_000;

/// What kind of store the sequence is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Room for every key and every participant.
    Roomy,
    /// For six keys of one slot each: idle ones make room.
    Tight,
    /// All participant numbers but three are in use by somebody else, alive: each of the three
    /// comes back soon, after a sweep.
    Few,
}

impl Sort {
    pub fn capacity(self) -> usize {
        match self {
            Sort::Tight => 6,
            Sort::Roomy | Sort::Few => 128,
        }
    }

    /// How many can take part at a time.
    pub fn participants(self) -> usize {
        match self {
            Sort::Few => 3,
            Sort::Roomy | Sort::Tight => usize::MAX,
        }
    }

    fn dir(self) -> &'static str {
        match self {
            Sort::Roomy => "roomy",
            Sort::Tight => "tight",
            Sort::Few => "few",
        }
    }
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

pub fn run(data: &[u8]) {
    BENCH.with_borrow_mut(|bench| bench.get_or_insert_with(Bench::new).run(data));
}

/// The directories of the stores. Their slabs are made anew for each input.
struct Bench {
    place: Place,
    /// Keeps the beacons of those who are not here.
    others: fs::File,
}

impl Bench {
    fn new() -> Bench {
        let place = Place::new();
        let dir = place.path().join(Sort::Few.dir());
        drop(Cache::open(&dir).expect("make a store"));
        let others = OpenOptions::new().write(true).open(dir.join("beacons"));
        let others = others.expect("the beacons");
        fuzzing::lock_bytes(&others, OTHERS).expect("lock the beacons of others");
        Bench { place, others }
    }

    fn run(&self, data: &[u8]) {
        let mut input = Input::new(data);
        let sort = input.of(&[Sort::Roomy, Sort::Roomy, Sort::Tight, Sort::Few]);
        fuzzing::chance(Some(u64::from(input.byte() % 4)));
        fuzzing::time(Some(fuzzing::Moment {
            boot_us: BOOT_US,
            wall_us: WALL_US,
        }));
        let dir = self.make(sort);
        let mut world = World::new(dir, sort, BOOT_US, WALL_US);
        for _ in 0..OPERATIONS_MAX {
            if input.is_empty() {
                break;
            }
            world.step(&mut input);
        }
        world.finish();
        fuzzing::forget_thread();
        fuzzing::time(None);
        fuzzing::chance(None);
    }

    fn make(&self, sort: Sort) -> PathBuf {
        let dir = self.place.path().join(sort.dir());
        let slab = dir.join("slab");
        if slab.exists() {
            fs::remove_file(&slab).expect("remove the slab");
        }
        let options = Cache::options().capacity(sort.capacity());
        drop(fuzzing::open_apart(&dir, &options).expect("make a store"));
        if sort == Sort::Few {
            occupy(&slab);
        }
        dir
    }
}

/// The numbers of those who are not here.
const OTHERS: Range<u64> = 4..4_096;

/// Marks the numbers of others as used, in a region of participants that is allocated to its end.
fn occupy(slab: &Path) {
    let map = Layout::new();
    let slab = OpenOptions::new().write(true).open(slab).expect("the slab");
    let mut records = vec![0; (4_096 * layout::PARTICIPANT_BYTES) as usize];
    for number in 1..4_096_usize {
        // In use; the first three by somebody who is dead.
        records[number * layout::PARTICIPANT_BYTES as usize + 4] = 1;
    }
    let written = slab.write_all_at(&records, map.participants);
    written.expect("write the participants");
    let written = slab.write_all_at(&4_096_u32.to_le_bytes(), layout::COUNTERS);
    written.expect("write how many there are");
}
