//! Where the torture takes place: stores, keys, and beside them the files of the oracle.
//!
//! Made once, before the first worker is forked, and inherited by all of them: what a worker finds
//! open it need not open, which makes dying cheap. A worker that executed itself opens it again.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slablock::{Averager, BoundedSemaphore, Cache, Eviction, FanoutCache, Lock, RLock};

use super::journal::Journal;
use crate::failure::Failure;

/// Few shards, so that each is used much.
const SHARDS: usize = 3;
/// Fewer slots than there are litter keys: making one takes another one's slot back.
const SMALL_CAPACITY: usize = 24;
const LITTER: usize = 40;
/// Tags by number, for eviction.
pub const TAGS: [&str; 2] = ["cut", "litter"];

/// The names of values that are set and deleted.
pub const VALUES: [&str; 4] = ["first value", "second value", "third value", "fourth value"];
/// Values that are counters: the one that is counted up, the one that is swapped for one more, and
/// two of which neither ever has one more than the other.
pub const COUNTERS: [&str; 4] = ["counted", "swapped", "left", "right"];
pub const COUNTED: u64 = 0;
pub const SWAPPED: u64 = 1;
pub const LEFT: u64 = 2;
pub const RIGHT: u64 = 3;
/// Little enough for the log to be compacted all the time.
const VALUES_BYTES: u64 = 4 << 20;

/// Which store a key is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    Cache,
    Fanout,
    /// A store that is too small for all of its keys.
    Small,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Lock,
    RLock,
    /// With so many permits.
    Semaphore(u32),
    Average,
    /// An average that is popped, too.
    PoppedAverage,
}

/// A key, and what may happen to it.
#[derive(Clone, Debug)]
pub struct KeySpec {
    pub name: String,
    pub place: Where,
    pub what: What,
    pub lease: Option<Duration>,
    /// Number of the tag. Keys with one are removed by force now and then.
    pub tag: Option<usize>,
    /// Taken and given back as quickly as possible, without a word in the journal.
    pub is_hot: bool,
}

impl KeySpec {
    fn new(name: &str, place: Where, what: What) -> KeySpec {
        KeySpec {
            name: name.to_owned(),
            place,
            what,
            lease: None,
            tag: None,
            is_hot: false,
        }
    }

    fn hot(self) -> KeySpec {
        KeySpec {
            is_hot: true,
            ..self
        }
    }

    fn lease_ms(self, ms: u64) -> KeySpec {
        KeySpec {
            lease: Some(Duration::from_millis(ms)),
            ..self
        }
    }

    fn cut(self) -> KeySpec {
        KeySpec {
            tag: Some(0),
            ..self
        }
    }

    /// Whether nothing but a release or a death ends a hold.
    pub fn is_plain(&self) -> bool {
        self.lease.is_none() && self.tag.is_none()
    }

    /// Whether each hold of the key is in the journal.
    pub fn is_told(&self) -> bool {
        self.permits() > 0 && !self.is_hot
    }

    pub fn is_average(&self) -> bool {
        matches!(self.what, What::Average | What::PoppedAverage)
    }

    /// How many holders the key may have at once.
    pub fn permits(&self) -> u32 {
        match self.what {
            What::Semaphore(permits) => permits,
            What::Lock | What::RLock => 1,
            What::Average | What::PoppedAverage => 0,
        }
    }
}

/// All keys, the same in every process.
pub fn keys() -> Vec<KeySpec> {
    use What::*;
    use Where::*;
    let mut keys = vec![
        KeySpec::new("lock", Cache, Lock),
        KeySpec::new("lock-in-fanout", Fanout, Lock),
        KeySpec::new("rlock", Cache, RLock),
        KeySpec::new("semaphore", Cache, Semaphore(3)),
        KeySpec::new("semaphore-in-fanout", Fanout, Semaphore(2)),
        KeySpec::new("average", Cache, Average),
        KeySpec::new("average-in-fanout", Fanout, Average),
        KeySpec::new("popped-average", Cache, PoppedAverage),
        KeySpec::new("leased-lock", Cache, Lock).lease_ms(10),
        KeySpec::new("leased-rlock", Fanout, RLock).lease_ms(7),
        KeySpec::new("leased-semaphore", Cache, Semaphore(2)).lease_ms(12),
        KeySpec::new("cut-lock", Cache, Lock).cut(),
        KeySpec::new("cut-rlock", Fanout, RLock).cut(),
        KeySpec::new("cut-semaphore", Fanout, Semaphore(2)).cut(),
        KeySpec::new("cut-leased-lock", Cache, Lock)
            .lease_ms(8)
            .cut(),
        KeySpec::new("cut-average", Cache, Average).cut(),
        KeySpec::new("hot-lock", Cache, Lock).hot(),
        KeySpec::new("hot-semaphore", Cache, Semaphore(3)).hot(),
    ];
    keys.extend((0..LITTER).map(|n| KeySpec {
        tag: Some(1),
        ..KeySpec::new(&format!("litter-{n}"), Small, Lock)
    }));
    keys
}

/// A key, ready to be used.
pub enum Handle {
    Lock(Lock),
    RLock(RLock),
    Semaphore(BoundedSemaphore),
    Average(Averager),
}

impl Handle {
    fn new(place: &Cache, key: &KeySpec) -> Handle {
        let tag = key.tag.map_or("", |tag| TAGS[tag]);
        let name = &key.name;
        match key.what {
            What::Lock => {
                let lock = Lock::new(place, name).tag(tag);
                Handle::Lock(match key.lease {
                    Some(lease) => lock.lease(lease),
                    None => lock,
                })
            }
            What::RLock => {
                let lock = RLock::new(place, name).tag(tag);
                Handle::RLock(match key.lease {
                    Some(lease) => lock.lease(lease),
                    None => lock,
                })
            }
            What::Semaphore(permits) => {
                let semaphore = BoundedSemaphore::new(place, name, permits).tag(tag);
                Handle::Semaphore(match key.lease {
                    Some(lease) => semaphore.lease(lease),
                    None => semaphore,
                })
            }
            What::Average | What::PoppedAverage => {
                Handle::Average(Averager::new(place, name).tag(tag))
            }
        }
    }
}

pub struct Site {
    pub dir: PathBuf,
    pub cache: Cache,
    pub fanout: Cache,
    pub small: Cache,
    /// Of values, nothing else.
    pub values: Cache,
    pub keys: Vec<KeySpec>,
    pub handles: Vec<Handle>,
    pub journal: Journal,
    /// What a worker has to complain about, in words. Each line is a violation.
    pub complaints: Journal,
    /// A plain file for each key that has a counter.
    counters: Vec<Option<File>>,
}

impl Site {
    /// Opens what is in `dir`, and makes what is not there.
    pub fn open(dir: &Path) -> Result<Site, Failure> {
        let cache = Cache::open(dir.join("cache"))?;
        let fanout = FanoutCache::open(dir.join("fanout"), SHARDS)?;
        let small = Cache::options()
            .capacity(SMALL_CAPACITY)
            .open(dir.join("small"))?;
        let values = Cache::options()
            .capacity(SMALL_CAPACITY)
            .size_limit(VALUES_BYTES)
            .eviction(Eviction::None)
            .open(dir.join("values"))?;
        let keys = keys();
        let handle = |key: &KeySpec| match key.place {
            Where::Cache => Handle::new(&cache, key),
            Where::Fanout => Handle::new(&fanout, key),
            Where::Small => Handle::new(&small, key),
        };
        let handles = keys.iter().map(handle).collect();
        let counters = keys.iter().map(|key| counter(dir, key));
        Ok(Site {
            handles,
            counters: counters.collect::<Result<_, _>>()?,
            journal: Journal::open(&Site::journal_path(dir))?,
            complaints: Journal::open(&Site::complaints_path(dir))?,
            dir: dir.to_owned(),
            keys,
            cache,
            fanout,
            small,
            values,
        })
    }

    pub fn journal_path(dir: &Path) -> PathBuf {
        dir.join("journal")
    }

    pub fn complaints_path(dir: &Path) -> PathBuf {
        dir.join("complaints")
    }

    pub fn counter(&self, key: usize) -> Option<&File> {
        self.counters[key].as_ref()
    }

    pub fn remove(&self, key: usize) -> slablock::Result<bool> {
        let name = &self.keys[key].name;
        match self.keys[key].place {
            Where::Cache => self.cache.remove(name),
            Where::Fanout => self.fanout.remove(name),
            Where::Small => self.small.remove(name),
        }
    }

    pub fn evict(&self, tag: usize) -> slablock::Result<usize> {
        let tag = TAGS[tag];
        Ok(self.cache.remove_tagged(tag)?
            + self.fanout.remove_tagged(tag)?
            + self.small.remove_tagged(tag)?)
    }

    /// What `check` finds wrong in any of the stores.
    pub fn problems(&self) -> slablock::Result<Vec<String>> {
        let mut problems = Vec::new();
        let reports = [
            ("cache", self.cache.check()?),
            ("fanout", self.fanout.check()?),
            ("small", self.small.check()?),
            ("values", self.values.check()?),
        ];
        for (name, report) in reports {
            if report.slots_leaked > 0 {
                problems.push(format!("{name}: {} slots leaked", report.slots_leaked));
            }
            problems.extend(report.problems.iter().map(|p| format!("{name}: {p}")));
        }
        Ok(problems)
    }
}

/// Only a hold that nothing can take away guards a plain file: under a lease, or where the key may
/// be removed, a holder may write late, and that is what tokens are for.
fn counter(dir: &Path, key: &KeySpec) -> Result<Option<File>, Failure> {
    if !key.is_plain() || !key.is_told() || key.permits() != 1 {
        return Ok(None);
    }
    let counters = dir.join("counters");
    fs::create_dir_all(&counters)?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    Ok(Some(options.open(counters.join(&key.name))?))
}
