//! What a store is after a power loss: sound, or mended by `repair`; every average some value that it had;
//! every hold void; tokens above all that were ever given. Whatever pages were written, and in what order.

#![allow(missing_docs, unsafe_code)]

#[path = "../common/children.rs"]
mod children;
mod disk;
mod keys;
#[path = "../common/layout.rs"]
#[allow(dead_code)]
mod layout;
mod lives;

use std::path::Path;
use std::sync::Arc;

use children::{Random, Watchdog};
use disk::Timeline;
use keys::{Facts, universe};
use lives::{Count, World};

/// In memory, where there is room: what is on the disk is the test's to say.
fn new_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    tempfile::tempdir_in(shm).unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

const CHAINS: u64 = 60;
const LIVES: u64 = 10;
const LOSSES: u64 = 10;
const STEPS: u64 = 14;

/// One loss after another: what the first has left is what the next one meets.
#[test]
fn a_store_lives_through_one_power_loss_after_another() {
    let _watchdog = Watchdog::new("power losses");
    let mut random = Random::announced("power losses");
    let mut count = Count::default();
    let dir = new_dir();
    for _ in 0..CHAINS {
        let seed = random.next();
        let _told = OnPanic(format!("in the chain of seed {seed}"));
        count.add(&chain(seed, dir.path()));
    }
    println!("{count:?}");
}

fn chain(seed: u64, dir: &Path) -> Count {
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir_in(dir).unwrap();
    let mut world = World::new(dir.path());
    let nothing: Arc<Facts> = Facts::of_nothing(&universe());
    let mut timeline = Timeline::begin(disk::Image::default(), false, nothing);
    for _ in 0..LIVES {
        world.count.lives += 1;
        for n in 1..=LOSSES {
            let loss = timeline.lose(&mut random);
            let _told = OnPanic(format!("after a loss: {}", loss.how));
            let mut life = world.boot(&timeline, &loss);
            if random.below(2) == 0 {
                life.note(false);
                world.take_everything(&mut life);
            }
            life.note(false);
            if n == LOSSES {
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
