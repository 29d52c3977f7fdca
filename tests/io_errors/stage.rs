//! What operations are done to: a store, and what an oracle sees in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use slablock::{
    BoundedSemaphore, Cache, CheckReport, Durability, KeyState, Kind, Lock, LockGuard, Options,
    Result,
};

use crate::kit::layout;

pub const CAPACITY: usize = 64;

pub struct Stage {
    root: PathBuf,
    is_durable: bool,
    pub shards: Option<usize>,
    pub handle: Option<Cache>,
    /// Whether the store is there before the operation, so that it can be looked at.
    pub opens: bool,
    /// What this process holds by another opening.
    pub kept: Option<(Cache, LockGuard<'static>)>,
}

impl Stage {
    pub fn new(root: &Path, is_durable: bool) -> Stage {
        Stage {
            root: root.to_path_buf(),
            is_durable,
            shards: None,
            handle: None,
            opens: false,
            kept: None,
        }
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub fn beside(&self) -> PathBuf {
        self.root.join("beside")
    }

    fn slabs(&self) -> Vec<PathBuf> {
        let stores = match self.shards {
            None => vec![self.store()],
            Some(shards) => (0..shards)
                .map(|n| self.store().join(format!("{n:03}")))
                .collect(),
        };
        stores.into_iter().map(|store| store.join("slab")).collect()
    }

    pub fn options(&self) -> Options {
        let durability = match self.is_durable {
            true => Durability::PowerLoss,
            false => Durability::ProcessCrash,
        };
        Cache::options().capacity(CAPACITY).durability(durability)
    }

    pub fn open_handle(&self) -> Result<Cache> {
        let options = self.options();
        let options = self.shards.into_iter().fold(options, Options::shards);
        options.open(self.store())
    }

    pub fn open(&mut self) {
        self.handle = Some(self.open_handle().unwrap());
    }

    pub fn cache(&self) -> &Cache {
        self.handle.as_ref().expect("a cache is open")
    }

    /// What somebody sees who opens the store now.
    pub fn look(&self) -> Result<State> {
        let mut seen = state_in(&self.open_handle()?)?;
        if let Some(handle) = &self.handle {
            let ours = state_in(handle)?;
            assert_eq!(ours, seen, "what the handle and another opening see");
        }
        for slab in self.slabs() {
            // The limit, what makes room, and what values survive.
            let mut chosen = [0; 16];
            let read = File::open(&slab)
                .and_then(|slab| slab.read_exact_at(&mut chosen, layout::SIZE_LIMIT));
            read.unwrap();
            let name = slab.strip_prefix(&self.root).unwrap().display().to_string();
            seen.keys.insert(name, format!("chosen: {chosen:?}"));
        }
        Ok(seen)
    }

    /// Opening would do what is to be tried.
    pub fn look_unless_opening(&self) -> State {
        match self.opens {
            true => State::default(),
            false => self.look().unwrap(),
        }
    }

    /// After a sync that failed.
    pub fn make_good(&self) -> Result<()> {
        match &self.handle {
            Some(cache) => cache.sync(),
            None => Ok(()),
        }
    }

    pub fn leave(&mut self) {
        self.handle = None;
        self.kept = None;
    }
}

/// Keys and what is there for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    keys: BTreeMap<String, String>,
}

impl State {
    /// Each key is as it was in one of them.
    pub fn is_between(&self, before: &State, after: &State) -> bool {
        let names = [self, before, after].map(|state| state.keys.keys());
        let mut names = names.into_iter().flatten();
        names.all(|name| {
            let [now, then, later] = [self, before, after].map(|state| state.keys.get(name));
            now == then || now == later
        })
    }
}

fn state_in(place: &Cache) -> Result<State> {
    let mut keys = BTreeMap::new();
    for info in place.keys()? {
        let state = match &info.state {
            KeyState::Lock { holder } => format!("held: {}", holder.is_some()),
            KeyState::Semaphore {
                value,
                available,
                holders,
            } => format!("{available} of {value}, {} holders", holders.len()),
            KeyState::Averager { summary } => format!("{summary:?}"),
            KeyState::Value { bytes, expires_in } => {
                let value = place.get(&info.key)?.map(|value| {
                    let sum = value.iter().fold(7_u64, |sum, byte| {
                        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
                    });
                    (value.len(), sum)
                });
                format!("{bytes} {value:?}, ends: {}", expires_in.is_some())
            }
            other => format!("{other:?}"),
        };
        let name = format!("{}", info.key.escape_ascii());
        keys.insert(name, format!("{} {:?} {state}", info.kind, info.tag));
    }
    Ok(State { keys })
}

/// Nothing is wrong, and what was held by nobody can be had. How many slots are leaked.
pub fn check(stage: &Stage) -> std::result::Result<usize, String> {
    let opened = stage.open_handle().map_err(|e| e.to_string())?;
    checked(&opened, opened.check())
}

fn checked(place: &Cache, report: Result<CheckReport>) -> std::result::Result<usize, String> {
    let report = report.map_err(|e| format!("check: {e}"))?;
    if !report.is_sound() {
        return Err(format!("{report:?}"));
    }
    let takes = || -> Result<bool> {
        let mut all = true;
        for info in place.keys()? {
            all &= match info.state {
                KeyState::Lock { holder } if info.kind == Kind::Lock => {
                    let lock = Lock::new(place, &info.key);
                    holder.is_some_and(|h| h.alive) || lock.try_acquire()?.is_some()
                }
                KeyState::Semaphore { value, .. } => {
                    let pool = BoundedSemaphore::new(place, &info.key, value);
                    pool.try_acquire()?.is_some()
                }
                _ => true,
            };
        }
        Ok(all)
    };
    match takes() {
        Ok(true) => Ok(report.slots_leaked),
        Ok(false) => Err("nobody has a lock and it is not to be had".to_string()),
        Err(e) => Err(format!("taking: {e}")),
    }
}
