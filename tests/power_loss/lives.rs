//! A store that lives through one power loss after another, and what has to hold after each.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slablock::{Averager, Cache, Error, Lock, RLock};

use crate::disk::{Image, Loss, Sync, Timeline, noting_syncs};
use crate::keys::{CAPACITY, Facts, Key, State, What, observe, take_all, universe, value_of};
use crate::kit::Random;
use crate::kit::layout::{self, Layout};

/// What the test saw, to be told at its end.
#[derive(Default, Debug)]
pub struct Count {
    pub rebuilt: u64,
    /// Not even the file was on the disk.
    pub missing: u64,
    /// Refused as damaged, and then repaired.
    pub repaired: u64,
    pub lives: u64,
    /// Averages and holds that were looked at.
    pub values: u64,
    pub tokens: u64,
}

pub struct World {
    pub keys: Vec<Key>,
    /// Every value that each average ever had.
    pub had: Vec<BTreeSet<State>>,
    /// Which were ever there.
    was_made: Vec<bool>,
    pub count: Count,
    dir: PathBuf,
    serial: u64,
    next_value: f64,
}

/// One boot.
pub struct Life {
    cache: Cache,
    store: PathBuf,
    pub timeline: Timeline<Arc<Facts>>,
}

impl World {
    pub fn new(dir: &Path) -> World {
        let keys = universe();
        World {
            had: keys.iter().map(|_| BTreeSet::new()).collect(),
            was_made: vec![false; keys.len()],
            keys,
            count: Count::default(),
            dir: dir.to_path_buf(),
            serial: 0,
            next_value: 0.0,
        }
    }

    pub fn new_store(&mut self) -> PathBuf {
        self.serial += 1;
        let store = self.dir.join(format!("store {}", self.serial));
        fs::create_dir(&store).unwrap();
        store
    }

    /// Boots with what `loss` left on the disk, and verifies all that can be said about it.
    pub fn boot(&mut self, before: &Timeline<Arc<Facts>>, loss: &Loss<Arc<Facts>>) -> Life {
        self.count.rebuilt += 1;
        let store = self.new_store();
        if let Some(image) = &loss.image {
            image.write(&store.join("slab"));
            layout::name_files(&store, &store);
        } else {
            self.count.missing += 1;
        }
        let (cache, syncs) = noting_syncs(|| self.open(&store));
        let states = observe(&cache, &self.keys);
        let among = &before.moments[loss.since..=loss.until];
        for (at, state) in states.iter().enumerate() {
            self.count.values += u64::from(matches!(state, State::Value { .. }));
            let was = |state| among.iter().any(|m| m.facts.states[at].contains(state));
            // Of the two values that an average keeps, only the older one may have reached the
            // disk. What was being made or removed may be there without any.
            let fits = was(state)
                || loss.since < loss.until
                    && match among[0].facts.before[at] {
                        Some(before) => *state == before,
                        None => *state == State::Present || self.had[at].contains(state),
                    }
                || *state == State::Present && was(&State::Absent) && self.was_made[at];
            let key = self.keys[at].shown();
            assert!(fits, "{key} is {state:?}, which it was not");
        }
        // Every other time, for it takes as long as all the rest.
        if self.count.rebuilt.is_multiple_of(2) {
            let report = cache.check().unwrap();
            assert!(report.is_sound(), "{report:?}");
        }
        let tokens = loss.facts.tokens.clone();
        let linked = loss.image.is_some();
        let states = states.into_iter().map(|state| vec![state]).collect();
        let facts = Arc::new(Facts {
            before: vec![None; self.keys.len()],
            states,
            tokens,
        });
        let mut timeline = Timeline::begin(loss.image.clone().unwrap_or_default(), linked, facts);
        timeline.take_syncs(syncs);
        Life {
            cache,
            store,
            timeline,
        }
    }

    fn open(&mut self, store: &Path) -> Cache {
        let options = Cache::options().capacity(CAPACITY);
        match options.open(store) {
            Ok(cache) => cache,
            Err(Error::Corrupt { .. }) => {
                self.count.repaired += 1;
                Cache::repair(store).unwrap();
                options.open(store).unwrap()
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Takes everything that was ever there, and everything that is: nobody holds anything.
    pub fn take_everything(&mut self, life: &mut Life) {
        for at in 0..self.keys.len() {
            let before = life.facts().tokens[at];
            if self.keys[at].what == What::Average || before == 0 && life.is_absent(at) {
                continue;
            }
            let key = &self.keys[at];
            let tokens = take_all(&life.cache, key);
            assert_eq!(tokens.len(), key.holds(), "{} is held", key.shown());
            assert!(
                tokens[0] > before,
                "{}: {} after {before}",
                key.shown(),
                tokens[0]
            );
            self.count.tokens += tokens.len() as u64;
            life.granted(at, *tokens.last().unwrap());
        }
    }

    /// Does something, anything, and notes what the file is afterwards.
    pub fn do_something(&mut self, life: &mut Life, random: &mut Random) {
        let at = random.below(self.keys.len() as u64) as usize;
        let (_, syncs) = noting_syncs(|| match random.below(14) {
            0..8 => self.use_key(life, at, random),
            8 | 9 => {
                life.cache.remove(&self.keys[at].name).unwrap();
                life.now_is(at, State::Absent);
            }
            10 => {
                let tag = [b't', random.below(3) as u8];
                life.cache.remove_tagged(tag).unwrap();
                for (at, state) in observe(&life.cache, &self.keys).into_iter().enumerate() {
                    life.now_is(at, state);
                }
            }
            11 if !life.is_absent(BUSY) => {
                life.make_busy(BUSY, &self.keys[BUSY]);
            }
            _ => (0..12).for_each(|_| {
                let at = random.below(self.keys.len() as u64) as usize;
                self.use_key(life, at, random);
            }),
        });
        life.timeline.take_syncs(syncs);
        // Sometimes the kernel has just written everything.
        life.note(random.below(12) == 0);
    }

    fn use_key(&mut self, life: &mut Life, at: usize, random: &mut Random) {
        let key = &self.keys[at];
        self.was_made[at] = true;
        if key.what != What::Average {
            let tag = [b't', random.below(3) as u8];
            // Some are never given back.
            let kept = match (key.what, random.below(4)) {
                (What::Lock, 0) => {
                    let lock = Lock::new(&life.cache, &key.name).tag(retags(at, tag));
                    lock.try_acquire().unwrap().map(|g| g.into_token().get())
                }
                (What::RLock, 0) => {
                    let lock = RLock::new(&life.cache, &key.name);
                    let guard = lock.try_acquire().unwrap();
                    guard.map(|g| {
                        let token = g.token().get();
                        std::mem::forget(g);
                        token
                    })
                }
                _ => take_all(&life.cache, key).last().copied(),
            };
            kept.into_iter().for_each(|token| life.granted(at, token));
            return life.now_is(at, State::Present);
        }
        let averager = Averager::new(&life.cache, &key.name);
        if random.below(6) == 0 && averager.pop().unwrap().is_some() {
            return life.now_is(at, State::Present);
        }
        // No two sums are alike, whatever is mixed.
        self.next_value += 1.0;
        averager
            .add(self.next_value + 1.0 / (at + 2) as f64)
            .unwrap();
        if life.is_absent(at) {
            life.now_is(at, State::Present);
        }
        let state = value_of(&life.cache, key);
        self.had[at].insert(state);
        life.now_is(at, state);
    }
}

/// The lock that is busy at times.
const BUSY: usize = 1;

/// Keys are made with room for a tag, or without any.
fn retags(at: usize, tag: [u8; 2]) -> Vec<u8> {
    match at % 2 {
        0 => tag.to_vec(),
        _ => Vec::new(),
    }
}

impl Life {
    pub fn facts(&self) -> &Facts {
        &self.timeline.last().facts
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    fn is_absent(&self, at: usize) -> bool {
        self.facts().states[at].last() == Some(&State::Absent)
    }

    fn change(&mut self, change: impl FnOnce(&mut Facts)) {
        let moment = self.timeline.moments.last_mut().unwrap();
        change(Arc::make_mut(&mut moment.facts));
    }

    /// From the next moment on. Until then a key may be this, or what it was.
    pub fn now_is(&mut self, at: usize, state: State) {
        self.change(|facts| {
            if facts.states[at].last() != Some(&state) {
                facts.states[at].push(state);
            }
        });
    }

    pub fn granted(&mut self, at: usize, token: u64) {
        self.change(|facts| facts.tokens[at] = facts.tokens[at].max(token));
        self.now_is(at, State::Present);
    }

    /// Notes what the file is in the middle of an operation, from which these may come.
    pub fn note_midway(&mut self, affected: &[(usize, Vec<State>)]) {
        let before = self.facts().states.clone();
        self.note(false);
        for (at, _) in affected {
            self.change(|facts| facts.states[*at] = before[*at].clone());
        }
    }

    /// All that was is on the disk by now.
    pub fn begin_anew(&mut self) {
        self.note(true);
        let last = self.timeline.moments.pop().unwrap();
        self.timeline = Timeline::begin(last.image, true, last.facts);
    }

    /// Notes what the file is now.
    pub fn note(&mut self, synced: bool) {
        let last = self.timeline.last();
        let mut facts = Facts::clone(&last.facts);
        for (states, before) in facts.states.iter_mut().zip(&mut facts.before) {
            *before = states.iter().rev().nth(1).copied().or(*before);
            *states = vec![*states.last().unwrap()];
        }
        let file = File::open(self.store.join("slab")).unwrap();
        let image = Image::of(&file, &last.image);
        self.timeline.push(image, synced, Arc::new(facts));
        if synced {
            let directory = Sync::Directory(self.store.clone());
            self.timeline.take_syncs(vec![directory]);
        }
    }

    /// As if a lock, which nobody has now, had been taken and given back for a long time: its
    /// tokens are far ahead of all others'.
    fn make_busy(&mut self, at: usize, key: &Key) {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true);
        let file = file.open(self.store.join("slab")).unwrap();
        let word = |at| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        let slots = u32::from_le_bytes(word(layout::COUNTERS + 4)[..4].try_into().unwrap());
        let layout = Layout::new();
        for slot in (0..u64::from(slots)).map(|slot| layout.slot(slot)) {
            let is_lock = word(slot + layout::META)[4] & 15 == 1;
            let hold = u64::from_le_bytes(word(slot));
            let is_free = hold < layout::RETIRING;
            if is_lock && is_free && word(slot + layout::KEY)[..key.name.len()] == key.name[..] {
                let sequence = hold + (1 << 34);
                file.write_all_at(&sequence.to_le_bytes(), slot).unwrap();
                // In so long a time everything was written now and then.
                self.note(true);
                self.granted(at, sequence);
            }
        }
    }

    pub fn end(self) -> Timeline<Arc<Facts>> {
        drop(self.cache);
        fs::remove_dir_all(self.store).unwrap();
        self.timeline
    }
}
