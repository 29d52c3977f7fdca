//! A full disk at each step at which a store grows, on small file systems in memory that are really
//! full.

use std::fs;
use std::path::Path;

use slablock::{Averager, BoundedSemaphore, Cache, Error, FanoutCache, Lock, LockGuard, Result};

use crate::kit::{Place, Role, bounded, fork, in_a_namespace, mount, reap_well, role};

/// Room in pages: each number to more than all steps take.
fn pages() -> impl Iterator<Item = u64> {
    1..80
}
/// Several chunks of slots and blocks.
const CAPACITY: usize = 600;

/// Everything that lets a store grow, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Open,
    /// The first chunk of slots.
    Lock,
    /// More slots, eight at a time.
    Long(u32),
    /// The first chunk of blocks, and more.
    Semaphore(u32),
    Average,
}

fn steps() -> Vec<Step> {
    let mut steps = vec![Step::Open, Step::Lock, Step::Average];
    for n in 0..8 {
        steps.push(Step::Semaphore(n));
        steps.extend((0..6).map(|m| Step::Long(6 * n + m)));
    }
    steps
}

/// A store on a small disk, and what is known to be in it.
struct Small<'a> {
    dir: &'a Path,
    cache: Option<Cache>,
    done: Vec<Step>,
}

impl Small<'_> {
    fn take(&mut self, step: Step) -> Result<()> {
        if step == Step::Open {
            let options = Cache::options().capacity(CAPACITY);
            self.cache = Some(options.open(self.dir.join("store"))?);
        } else {
            grow(self.cache.as_ref().unwrap(), step)?;
        }
        self.done.push(step);
        Ok(())
    }

    /// What was there is there, as it was.
    fn is_intact(&self) {
        let Some(cache) = &self.cache else {
            return;
        };
        let report = cache.check().unwrap();
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(report.keys, self.done.len() - 1);
        for step in &self.done {
            match *step {
                Step::Open => {}
                Step::Lock => drop(Lock::new(cache, "lock").try_acquire().unwrap().unwrap()),
                Step::Long(n) => {
                    assert!(Lock::new(cache, long(n)).try_acquire().unwrap().is_some());
                }
                Step::Semaphore(n) => {
                    assert_eq!(semaphore(cache, n).available().unwrap(), permits(n));
                }
                Step::Average => {
                    let is = Averager::new(cache, "average").get().unwrap();
                    assert_eq!(is, Some(2.0));
                }
            }
        }
    }
}

fn long(n: u32) -> String {
    format!("{n:01024}")
}

fn permits(n: u32) -> u32 {
    20 + n
}

fn semaphore(cache: &Cache, n: u32) -> BoundedSemaphore {
    BoundedSemaphore::new(cache, format!("semaphore {n}"), permits(n))
}

fn grow(cache: &Cache, step: Step) -> Result<()> {
    match step {
        Step::Open => Ok(()),
        Step::Lock => Lock::new(cache, "lock").acquire().map(drop),
        Step::Long(n) => Lock::new(cache, long(n)).acquire().map(drop),
        Step::Semaphore(n) => semaphore(cache, n).acquire().map(drop),
        Step::Average => Averager::new(cache, "average").add(2.0),
    }
}

/// Gives the file system, which is mounted already, another size. Unmounting would take much
/// longer.
pub fn resize(dir: &Path, options: &str) {
    assert!(
        mount("tmpfs", &format!("remount,{options}"), dir),
        "{options}"
    );
}

/// Removes the stores of a file system, and what fills it.
pub fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.unwrap();
    }
}

/// Runs the rest of the test `name` with a file system of its own: where it is mounted. `None`: not
/// here.
pub fn is_inside(name: &str) -> Option<String> {
    let dir = role(name);
    if dir.is_none() {
        bounded_namespace(name);
    }
    dir.filter(|dir| {
        let mounts = mount("tmpfs", "size=1m", Path::new(dir));
        if !mounts {
            println!("skipped: no small file system can be mounted here");
        }
        mounts
    })
}

fn bounded_namespace(name: &str) {
    let name = name.to_string();
    bounded(move || in_a_namespace(&name, Place::new().root()));
}

pub fn is_full<T>(result: Result<T>) -> bool {
    match result {
        Ok(_) => false,
        Err(error @ Error::NoSpace { .. }) => {
            crate::kit::says(&error, &["no room", "free some space"]);
            true
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn each_step_of_growing_fails_on_a_full_disk_and_works_once_there_is_room() {
    const NAME: &str =
        "full_disk::each_step_of_growing_fails_on_a_full_disk_and_works_once_there_is_room";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    let mut failed = Vec::new();
    for pages in pages() {
        resize(dir, &format!("size={}k", 4 * pages));
        let mut small = Small {
            dir,
            cache: None,
            done: Vec::new(),
        };
        // Two failures: with more room made, but not enough; and after that with enough.
        for step in steps() {
            for more in [pages, pages + 1, 1_024] {
                if !is_full(small.take(step)) {
                    break;
                }
                assert!(more < 1_024, "{step:?} fails with {pages} pages");
                failed.push(step);
                small.is_intact();
                let next = if more == pages { pages + 1 } else { 1_024 };
                resize(dir, &format!("size={}k", 4 * next));
            }
        }
        small.is_intact();
        drop(small.cache.take());
        assert_eq!(small.done, steps());
        // Also for who comes later.
        small.cache = Some(Cache::open(dir.join("store")).unwrap());
        small.is_intact();
        drop(small);
        empty(dir);
    }
    // The steps at which something grows have all failed.
    failed.dedup();
    let has = |step| assert!(failed.contains(&step), "{step:?} in {failed:?}");
    has(Step::Open);
    has(Step::Lock);
    has(Step::Semaphore(0));
    assert!(
        failed.iter().any(|s| matches!(s, Step::Long(_))),
        "{failed:?}"
    );
    assert!(
        failed.iter().any(|s| matches!(s, Step::Semaphore(1..))),
        "{failed:?}"
    );
    println!("all told: {} failures", failed.len());
}

#[test]
fn each_file_of_a_store_may_be_the_one_too_many() {
    const NAME: &str = "full_disk::each_file_of_a_store_may_be_the_one_too_many";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    let store = dir.join("store");
    let (mut plain, mut fanned, mut repaired) = (0, 0, 0);
    let more = || resize(dir, "nr_inodes=100");
    more();
    // The root of the file system is one.
    for files in (1..8).chain([10, 13, 16]) {
        let few = |files| resize(dir, &format!("size=4m,nr_inodes={files}"));
        few(files);
        plain += u64::from(is_full(Cache::open(&store)));
        more();
        let cache = Cache::open(&store).unwrap();
        let token = Lock::new(&cache, "lock").acquire().unwrap().token();
        assert!(cache.check().unwrap().is_sound());
        drop(cache);
        // A slab without its lock files, which a repair makes anew.
        for name in ["attach", "beacons", "stripes"] {
            fs::remove_file(store.join(name)).unwrap();
        }
        // With those that are there: the root, the store and the slab.
        few(files.clamp(3, 6));
        repaired += u64::from(is_full(Cache::repair(&store)));
        more();
        assert_eq!(Cache::repair(&store).unwrap().keys_kept, 1);
        let cache = Cache::open(&store).unwrap();
        assert!(Lock::new(&cache, "lock").acquire().unwrap().token() > token);
        drop(cache);
        empty(dir);
        few(files);
        fanned += u64::from(is_full(FanoutCache::open(&store, 2)));
        more();
        let cache = FanoutCache::open(&store, 2).unwrap();
        drop(Lock::new(&cache, "lock").acquire().unwrap());
        assert!(cache.check().unwrap().is_sound());
        drop(cache);
        empty(dir);
    }
    assert_eq!(plain, 5);
    // Two shards need ten: the lock files stand once.
    assert_eq!(fanned, 7);
    assert!(repaired >= 3, "{repaired}");
    println!("all told: {plain} {fanned} {repaired}");
}

/// More processes than a chunk of participants has room for, on a disk that is full. In a process
/// of its own, which forks.
pub fn run_many(role: &Role) {
    let cache = Cache::options().capacity(64).open(&role.dir).unwrap();
    let lock = Lock::new(&cache, "lock");
    let guard: LockGuard<'_> = lock.acquire().unwrap();
    fill(&role.dir.join("../filler"));
    // Each one has its number as long as it is not known to be dead: only its child joins after it.
    fn descend(lock: &Lock, depth: u32) -> bool {
        match lock.try_acquire() {
            Err(Error::NoSpace { .. }) => {
                assert!((30..=32).contains(&depth), "{depth}");
                true
            }
            Err(other) => panic!("{other}"),
            Ok(taken) => {
                assert!(taken.is_none(), "another has it");
                reap_well(fork(|| assert!(descend(lock, depth + 1))));
                true
            }
        }
    }
    reap_well(fork(|| assert!(descend(&lock, 1))));
    assert!(cache.check().unwrap().is_sound());
    fs::remove_file(role.dir.join("../filler")).unwrap();
    guard.release().unwrap();
    reap_well(fork(|| drop(lock.try_acquire().unwrap().unwrap())));
    assert!(cache.check().unwrap().is_sound());
}

pub fn fill(path: &Path) {
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4_096]).is_ok() {}
}

#[test]
fn a_process_too_many_on_a_full_disk_is_told_and_can_join_later() {
    const NAME: &str = "full_disk::a_process_too_many_on_a_full_disk_is_told_and_can_join_later";
    let Some(dir) = is_inside(NAME) else {
        return;
    };
    let dir = Path::new(&dir);
    crate::kit::run("many", &dir.join("store"), &[]);
    println!("all told");
}
