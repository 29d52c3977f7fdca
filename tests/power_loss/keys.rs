//! The keys that live through power losses, and what is known of them from outside the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slablock::{Averager, BoundedSemaphore, Cache, KeyInfo, KeyState, Lock, RLock};

/// Enough for three chunks of slots.
pub const CAPACITY: usize = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Average,
    Lock,
    RLock,
    Semaphore(u32),
}

pub struct Key {
    pub name: Vec<u8>,
    pub what: What,
}

/// Short ones and such that take many slots; long ones that begin alike; enough to fill a chunk.
pub fn universe() -> Vec<Key> {
    let mut keys = Vec::new();
    let mut add = |name: String, len: usize, what| {
        let mut name = name.into_bytes();
        name.resize(len.max(name.len()), b'.');
        keys.push(Key { name, what });
    };
    for n in 0..6 {
        add(format!("average {n}"), 0, What::Average);
        add(format!("lock {n}"), 0, What::Lock);
    }
    for n in 0..8 {
        add(
            format!("a long name, of which averages begin alike: {n}"),
            0,
            What::Average,
        );
        add(format!("very long lock {n}"), 1_024, What::Lock);
    }
    for n in 0..10 {
        add(format!("very long average {n}"), 1_024, What::Average);
    }
    for (n, permits) in [1, 3, 6, 10, 20, 30].into_iter().enumerate() {
        add(format!("semaphore {n}"), 20 * n, What::Semaphore(permits));
        add(format!("rlock {n}"), 200 * n, What::RLock);
    }
    keys
}

/// What a key is at a moment. Numbers are kept as bits, so that they can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Absent,
    /// There, and of an average: nothing was added.
    Present,
    Value {
        count: u64,
        total: u64,
        min: u64,
        max: u64,
    },
}

/// What is known of all keys at a moment: what each may be, and the highest token that was ever
/// given.
#[derive(Clone)]
pub struct Facts {
    pub states: Vec<Vec<State>>,
    /// What each was before that; `None`: that is long ago.
    pub before: Vec<Option<State>>,
    pub tokens: Vec<u64>,
}

impl Facts {
    pub fn of_nothing(keys: &[Key]) -> Arc<Facts> {
        Arc::new(Facts {
            states: keys.iter().map(|_| vec![State::Absent]).collect(),
            before: vec![None; keys.len()],
            tokens: vec![0; keys.len()],
        })
    }
}

/// What a store says its keys are, which has to be some of `keys`, of the same kinds.
pub fn observe(cache: &Cache, keys: &[Key]) -> Vec<State> {
    let mut infos: BTreeMap<Vec<u8>, KeyInfo> = BTreeMap::new();
    for info in cache.keys().unwrap() {
        let key = info.key.clone();
        assert!(infos.insert(key, info).is_none(), "a key is there twice");
    }
    let states = keys
        .iter()
        .map(|key| match infos.remove(&key.name) {
            None => State::Absent,
            Some(info) => state_of(&info, key),
        })
        .collect();
    assert!(infos.is_empty(), "keys that never were: {:?}", infos.keys());
    states
}

fn state_of(info: &KeyInfo, key: &Key) -> State {
    match (&info.state, key.what) {
        (KeyState::Averager { summary: Some(s) }, What::Average) => State::Value {
            count: s.count,
            total: s.total.to_bits(),
            min: s.min.to_bits(),
            max: s.max.to_bits(),
        },
        (KeyState::Averager { summary: None }, What::Average) => State::Present,
        (KeyState::Lock { .. }, What::Lock | What::RLock) => State::Present,
        (KeyState::Semaphore { value, .. }, What::Semaphore(permits)) if *value == permits => {
            State::Present
        }
        other => panic!("{} has become {other:?}", key.name.escape_ascii()),
    }
}

/// What an average says, as a state.
pub fn value_of(cache: &Cache, key: &Key) -> State {
    match Averager::new(cache, &key.name).summary().unwrap() {
        None => State::Present,
        Some(s) => State::Value {
            count: s.count,
            total: s.total.to_bits(),
            min: s.min.to_bits(),
            max: s.max.to_bits(),
        },
    }
}

/// Takes all there is of a key, at once and without waiting, and gives it back. The tokens,
/// ascending; fewer than there are permits if somebody has some.
pub fn take_all(cache: &Cache, key: &Key) -> Vec<u64> {
    let mut tokens = BTreeSet::new();
    match key.what {
        What::Average => {}
        What::Lock => {
            let lock = Lock::new(cache, &key.name);
            tokens.extend(lock.try_acquire().unwrap().map(|g| g.token().get()));
        }
        What::RLock => {
            let lock = RLock::new(cache, &key.name);
            tokens.extend(lock.try_acquire().unwrap().map(|g| g.token().get()));
        }
        What::Semaphore(permits) => {
            let semaphore = BoundedSemaphore::new(cache, &key.name, permits);
            let guards: Vec<_> = (0..permits)
                .map_while(|_| semaphore.try_acquire().unwrap())
                .collect();
            tokens.extend(guards.iter().map(|g| g.token().get()));
            assert_eq!(tokens.len(), guards.len(), "a token was given twice");
        }
    }
    tokens.into_iter().collect()
}

impl Key {
    pub fn shown(&self) -> String {
        let end = self.name.len().min(50);
        self.name[..end].escape_ascii().to_string()
    }

    /// How many tokens `take_all` returns when nobody has any.
    pub fn holds(&self) -> usize {
        match self.what {
            What::Average => 0,
            What::Semaphore(permits) => permits as usize,
            What::Lock | What::RLock => 1,
        }
    }
}
