//! What the scenes have in common: a small store, the key in question, and a crowd of other keys
//! around it that nothing may happen to.

use nix::sys::signal::{Signal, raise};
use slablock::{Averager, BoundedSemaphore, Cache, KeyState, Lock, LockGuard, Token};

use crate::kit::{fork, layout};
use crate::scene::{End, Entry, Scene, Trap, reap};

/// Small, so that buckets have more than one key, and whole regions are quickly looked over.
pub const CAPACITY: usize = 64;
/// With that capacity.
const BUCKETS: u64 = 64;
/// The key that the operations are about.
pub const KEY: &str = "key";

/// Opens the scene's store, making it if it is not there.
pub fn open(scene: &Scene) -> Cache {
    let store = scene.store();
    match store.join("slab").exists() {
        true => Cache::open(store),
        false => Cache::options().capacity(CAPACITY).open(store),
    }
    .unwrap()
}

/// Takes the lock of the key, which is free or a dead one's; a dead one that certainly had it has
/// to be told.
pub fn take_over<'a>(scene: &Scene, lock: &'a Lock) -> LockGuard<'a> {
    let guard = lock.try_acquire().unwrap().expect("free, or a dead one's");
    told(scene, guard.recovered().map(|dead| dead.pid));
    scene.saw(guard.token());
    guard
}

/// Whether somebody who certainly had the key, and died with it, was told.
pub fn told(scene: &Scene, recovered: Option<u32>) {
    let holder = scene.board.get(Entry::Holder);
    if holder != 0 {
        assert_eq!(recovered.map(u64::from), Some(holder), "who died is told");
        scene.board.set(Entry::Holder, 0);
    }
}

/// Has a process take something with a token of the key, and die with it.
pub fn die_holding(scene: &Scene, take: impl FnOnce(&Cache) -> Token) {
    let child = fork(|| {
        let cache = open(scene);
        scene.saw(take(&cache));
        scene.board.set(Entry::Own, std::process::id().into());
        let _ = raise(Signal::SIGKILL);
    });
    assert_eq!(reap(child), End::Killed);
}

/// A store with the crowd, and nothing else.
pub fn with_a_crowd(scene: &Scene) {
    scene.crowd(&open(scene));
}

/// The crowd, and somebody who has died with the lock of the key.
pub fn a_dead_one_has_the_lock(scene: &Scene) {
    scene.crowd(&open(scene));
    die_holding(scene, |cache| {
        Lock::new(cache, KEY).acquire().unwrap().into_token()
    });
}

/// Opens the store, which somebody is to die over.
pub fn open_anew(scene: &Scene, trap: &Trap) {
    let cache = trap.armed(|| Cache::open(scene.store()));
    cache.unwrap();
}

/// From now on the store is of another boot.
pub fn reboot(scene: &Scene) {
    scene.poke(layout::BOOT_ID, &[7; 16]);
}

impl Scene {
    /// Makes the crowd: a key before and after the one in question in its chain, an average with
    /// the values 1, 2 and 3, a semaphore. Nobody has any of it.
    pub fn crowd(&self, cache: &Cache) {
        self.find_neighbours();
        let [elder, younger] = self.neighbours();
        Lock::new(cache, elder)
            .acquire()
            .unwrap()
            .release()
            .unwrap();
        let averager = Averager::new(cache, "sum");
        // The first slot is the elder's, and an average takes one.
        self.board.set(Entry::Slot, 1);
        [1.0, 2.0, 3.0]
            .into_iter()
            .for_each(|value| averager.add(value).unwrap());
        let pool = BoundedSemaphore::new(cache, "pool", 6).tag("other");
        drop([pool.acquire().unwrap(), pool.acquire().unwrap()]);
        let younger = Lock::new(cache, younger);
        younger.acquire().unwrap().release().unwrap();
    }

    /// That nothing has happened to the crowd, as far as it can be seen, and that it can be used.
    pub fn crowd_is_well(&self, cache: &Cache) {
        for name in self.neighbours() {
            assert!(cache.key_info(&name).unwrap().is_some(), "{name} is gone");
            let lock = Lock::new(cache, name);
            let guard = lock.try_acquire().unwrap().expect("nobody has it");
            assert!(guard.recovered().is_none());
            assert!(guard.token().get() >= 2);
            guard.release().unwrap();
        }
        let sum = Averager::new(cache, "sum").summary().unwrap().unwrap();
        let whole = match self.board.get(Entry::Damaged) {
            0 => (3, 6.0, 3.0),
            _ => (2, 3.0, 2.0),
        };
        assert_eq!((sum.count, sum.total, sum.max), whole);
        let info = cache.key_info("pool").unwrap().expect("the pool");
        assert_eq!(info.tag.as_deref(), Some(&b"other"[..]));
        assert!(matches!(
            info.state,
            KeyState::Semaphore {
                value: 6,
                available: 6,
                ..
            }
        ));
        let pool = BoundedSemaphore::new(cache, "pool", 6);
        let permits: Vec<_> = (0..6).map(|_| pool.try_acquire().unwrap()).collect();
        assert!(permits.iter().all(Option::is_some));
    }

    /// The hash of a name in this store.
    pub fn hash_of(&self, name: &str) -> u64 {
        hash([24, 32].map(|at| u64::from_le_bytes(self.peek(at))), name)
    }

    /// How many rows of buckets there are in the stripe of the key.
    pub fn rows(&self) -> u32 {
        let stripe = self.hash_of(KEY) & 63;
        u32::from_le_bytes(self.peek(layout::ROWS + 4 * stripe))
    }

    /// Two names in the bucket of the key.
    fn neighbours(&self) -> [String; 2] {
        [Entry::Elder, Entry::Younger].map(|which| neighbour(self.board.get(which)))
    }

    fn find_neighbours(&self) {
        let bucket = |name: &str| self.hash_of(name) & (BUCKETS - 1);
        let there = bucket(KEY);
        let mut numbers = (0..).filter(|n| bucket(&neighbour(*n)) == there);
        for which in [Entry::Elder, Entry::Younger] {
            self.board
                .set(which, numbers.next().expect("there is no end of names"));
        }
    }
}

fn neighbour(number: u64) -> String {
    format!("neighbour {number}")
}

#[allow(deprecated)]
fn hash([low, high]: [u64; 2], key: &str) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::SipHasher::new_with_keys(low, high);
    hasher.write(key.as_bytes());
    hasher.finish()
}
