//! Everything that can be done with a store, in whatever order, with what must hold even in a
//! damaged one.

use std::collections::HashMap;
use std::time::Duration;

use slablock::{
    Averager, BoundedSemaphore, Cache, Error, Lock, LockGuard, RLock, RLockGuard, Result,
    SemaphoreGuard, SetOptions, Token,
};

/// The averages of the template, the last one of several slots.
pub const AVERAGES: [&str; 3] = ["average", "b", "an average with a rather long name"];
/// The values of the template: two that lie in the log, one with a tag, an integer.
pub const VALUES_THERE: [&str; 4] = ["large", "larger", "tagged", "counter"];
const TAGS: [&str; 4] = ["t", "u", "", "another tag"];
/// How many guards are kept at most.
const GUARDS_MAX: usize = 12;
const MOMENT: Duration = Duration::from_micros(200);

/// The longest key there can be.
pub fn long_key() -> Vec<u8> {
    vec![b'r'; 1_024]
}

fn key(number: u8) -> Vec<u8> {
    let keys = [
        "lock",
        "semaphore",
        "pair",
        "free",
        "gone",
        AVERAGES[0],
        AVERAGES[1],
        AVERAGES[2],
        "new",
    ];
    match usize::from(number) % 16 {
        n @ 0..9 => keys[n].into(),
        9 => long_key(),
        n @ 12.. => VALUES_THERE[n - 12].into(),
        n => format!("new {n}").into(),
    }
}

/// A hold that was granted, with the most that may stand at a time under its key.
enum Guard {
    Lock(LockGuard<'static>),
    RLock(RLockGuard<'static>),
    Permit(SemaphoreGuard<'static>),
}

impl Guard {
    fn check(&self) -> Result<()> {
        match self {
            Guard::Lock(guard) => guard.check(),
            Guard::RLock(guard) => guard.check(),
            Guard::Permit(guard) => guard.check(),
        }
    }

    fn token(&self) -> Token {
        match self {
            Guard::Lock(guard) => guard.token(),
            Guard::RLock(guard) => guard.token(),
            Guard::Permit(guard) => guard.token(),
        }
    }

    fn renew(&self) -> Result<()> {
        match self {
            Guard::Lock(guard) => guard.renew(),
            Guard::RLock(guard) => guard.renew(),
            Guard::Permit(guard) => guard.renew(),
        }
    }

    fn look(&self) {
        let before = match self {
            Guard::Lock(guard) => [guard.recovered(), crate::fuzz::late(guard.predecessor())],
            Guard::RLock(guard) => [guard.recovered(), crate::fuzz::late(guard.predecessor())],
            Guard::Permit(guard) => [guard.recovered(), crate::fuzz::late(guard.predecessor())],
        };
        assert!(before[0].is_none() || before[1].is_none());
    }

    fn release(self) -> Result<()> {
        match self {
            Guard::Lock(guard) => guard.release(),
            Guard::RLock(guard) => guard.release(),
            Guard::Permit(guard) => guard.release(),
        }
    }
}

/// A store at work.
pub struct Work {
    cache: Option<Cache>,
    guards: Vec<(Vec<u8>, Guard)>,
}

/// A result is fine, and so is an error that can be read.
pub fn hear(result: Result<()>) {
    if let Err(error) = result {
        super::says(&error);
    }
}

fn keep<T>(result: Result<Option<T>>) -> Option<T> {
    result.unwrap_or_else(|error| {
        super::says(&error);
        None
    })
}

impl Work {
    pub fn new(cache: Cache) -> Work {
        let (cache, guards) = (Some(cache), Vec::new());
        Work { cache, guards }
    }

    /// Every operation, on every key and with every choice.
    pub fn everything(&mut self) {
        for op in 0..OPS {
            let each = match !(PER_KEY..VALUES).contains(&op) {
                true => 16,
                false => 2,
            };
            (0..each).for_each(|choice| self.step((op, choice)));
        }
        self.guards.clear();
        self.step((CLEAR, 1));
    }

    /// A little of everything, of what a sound store has to bear.
    pub fn something(&mut self) {
        let per_key = [0, 1, 2, 3].into_iter().flat_map(|op| [(op, op), (op, 9)]);
        let rest = [
            (4, 1),
            (8, 0),
            (7, 0),
            (3, 5),
            (0, 12 + 64),
            (12, 0),
            (15, 0),
        ];
        per_key.chain(rest).for_each(|step| self.step(step));
        self.guards.clear();
        self.step((CLEAR, 0));
    }

    pub fn step(&mut self, (op, choice): (u8, u8)) {
        let Some(cache) = self.cache.clone() else {
            return;
        };
        self.act(&cache, op % OPS, choice);
        if self.guards.len() > GUARDS_MAX {
            self.guards.remove(0);
        }
        self.look_for_doubles();
    }

    fn act(&mut self, cache: &Cache, op: u8, choice: u8) {
        let key = key(choice % 16);
        let (lease, tag) = (choice & 16 != 0, TAGS[usize::from(choice >> 6)]);
        match op {
            0 => self.lock(cache, &key, choice),
            1 => self.rlock(cache, &key, lease),
            2 => self.semaphore(cache, &key, [5, 2, 1, 65_535][usize::from(choice >> 6)]),
            3 => average(cache, &key, tag),
            4 => look_at(cache, &key),
            5 => hear(cache.key_info(&key).map(drop)),
            6 => self.release_by_token(cache, &key),
            7 => hear(cache.remove(&key).map(drop)),
            8 => self.give_back(choice),
            9 => list(cache),
            10 => hear(cache.remove_tagged(TAGS[usize::from(choice % 4)]).map(drop)),
            11 => hear(cache.check().map(drop)),
            12 => hear(cache.lifeline().map(drop)),
            13 => fill(cache),
            14 => assert!(matches!(
                Cache::repair(cache.path()),
                Err(Error::Busy { .. } | Error::Corrupt { .. } | Error::Io { .. })
            )),
            15 => self.reopen(),
            17 => value(cache, &key, choice),
            18 => change(cache, &key, choice),
            19 => all_values(cache),
            _ => hear(cache.clear().map(drop)),
        }
    }

    fn lock(&mut self, cache: &Cache, key: &[u8], choice: u8) {
        let mut lock = Lock::new(cache, key).tag(TAGS[usize::from(choice >> 6)]);
        if choice & 16 != 0 {
            lock = lock.lease(Duration::from_secs(9));
        }
        let guard = match choice & 32 {
            0 => keep(lock.try_acquire()),
            _ => keep(lock.acquire_timeout(MOMENT)),
        };
        self.took(key, guard.map(|guard| Guard::Lock(guard.into_owned())));
    }

    fn rlock(&mut self, cache: &Cache, key: &[u8], lease: bool) {
        let mut lock = RLock::new(cache, key);
        if lease {
            lock = lock.lease(Duration::from_secs(9));
        }
        for guard in [lock.try_acquire(), lock.acquire_timeout(MOMENT)] {
            let guard = keep(guard).map(|guard| Guard::RLock(guard.into_owned()));
            self.took(key, guard);
        }
        hear(lock.depth().map(drop));
    }

    fn semaphore(&mut self, cache: &Cache, key: &[u8], value: u32) {
        let semaphore = BoundedSemaphore::new(cache, key, value);
        for guard in [semaphore.try_acquire(), semaphore.acquire_timeout(MOMENT)] {
            let guard = keep(guard).map(|guard| Guard::Permit(guard.into_owned()));
            self.took(key, guard);
        }
    }

    fn took(&mut self, key: &[u8], guard: Option<Guard>) {
        if let Some(guard) = guard {
            guard.look();
            self.guards.push((key.to_vec(), guard));
        }
    }

    fn give_back(&mut self, choice: u8) {
        if self.guards.is_empty() {
            return;
        }
        let at = usize::from(choice >> 2) % self.guards.len();
        match choice & 3 {
            0 => drop(self.guards.remove(at)),
            1 => hear(self.guards.remove(at).1.release()),
            2 => hear(self.guards[at].1.renew()),
            _ => hear(self.guards[at].1.check()),
        }
    }

    fn release_by_token(&mut self, cache: &Cache, key: &[u8]) {
        let tokens = self.guards.iter().map(|(_, guard)| guard.token());
        for token in tokens.chain([Token::new(1)]).collect::<Vec<_>>() {
            hear(Lock::new(cache, key).release(token).map(drop));
            hear(RLock::new(cache, key).release(token).map(drop));
            hear(BoundedSemaphore::new(cache, key, 5).release(token));
        }
    }

    /// As a new participant, unless a guard keeps the old one.
    fn reopen(&mut self) {
        let path = self.cache.take().map(|cache| cache.path().to_path_buf());
        self.guards.clear();
        self.cache = path.and_then(|path| keep(Cache::open(path).map(Some)));
    }

    /// Of all that says that it stands, no two are the same, and no lock is held twice.
    fn look_for_doubles(&self) {
        let mut holds: HashMap<_, Vec<(Option<u32>, Token)>> = HashMap::new();
        for (key, guard) in self.guards.iter().filter(|(_, g)| g.check().is_ok()) {
            let (kind, permit) = match guard {
                Guard::Lock(_) => (0, None),
                Guard::RLock(_) => (1, None),
                Guard::Permit(guard) => (2, Some(guard.permit())),
            };
            let hold = (permit, guard.token());
            let others = holds.entry((&key[..], kind)).or_default();
            let same = others.iter().filter(|(p, _)| *p == permit);
            for (_, token) in same {
                // Levels of a re-entrant lock are one hold.
                assert!(kind == 1 && *token == hold.1, "{key:?} is held twice");
            }
            others.push(hold);
        }
    }
}

/// How many operations there are; the first of them, and those from `VALUES` on, are about a key.
const OPS: u8 = 20;
const PER_KEY: u8 = 9;
const CLEAR: u8 = 16;
const VALUES: u8 = 17;

fn average(cache: &Cache, key: &[u8], tag: &str) {
    let mut average = Averager::new(cache, key).tag(tag);
    for value in [2.0, f64::MAX, f64::NAN] {
        hear(average.add(value));
    }
    average = average.expire(Duration::from_secs(9));
    hear(average.add(-1.5));
    hear(average.get().map(drop));
    hear(average.summary().map(drop));
    // One that fails, as when damage has used up the tokens, changes nothing.
    let popped = keep(average.pop().map(Some)).is_some();
    if let Some(mean) = keep(average.get()).filter(|_| popped) {
        panic!("{mean} is left after a pop");
    }
}

fn look_at(cache: &Cache, key: &[u8]) {
    let (lock, rlock) = (Lock::new(cache, key), RLock::new(cache, key));
    hear(lock.is_locked().map(drop));
    hear(lock.holder().map(drop));
    hear(lock.waiters().map(drop));
    hear(rlock.is_locked().map(drop));
    hear(rlock.holder().map(drop));
    hear(rlock.waiters().map(drop));
    let semaphore = BoundedSemaphore::new(cache, key, 5);
    if let Some(available) = keep(semaphore.available().map(Some)) {
        assert!(available <= 5);
    }
    hear(semaphore.holders().map(drop));
    hear(semaphore.waiters().map(drop));
}

/// Reading, in all ways. Whatever is there, it is no longer than it may be.
fn value(cache: &Cache, key: &[u8], choice: u8) {
    let got = keep(cache.get(key));
    assert!(got.is_none_or(|got| got.len() <= 1 << 30));
    hear(cache.entry(key).map(drop));
    hear(cache.contains(key).map(drop));
    if choice & 16 != 0 {
        hear(cache.read(key, <[u8]>::len).map(drop));
    }
}

/// What was set is there, and what was deleted is not.
fn change(cache: &Cache, key: &[u8], choice: u8) {
    let options = SetOptions::new().tag(TAGS[usize::from(choice >> 6)]);
    let len = [3, 200, 3_000, 300_000][usize::from(choice >> 4 & 3)];
    let value = vec![choice; len];
    match choice >> 4 & 7 {
        0..4 => {
            if keep(cache.set_with(key, &value, &options).map(Some)).is_some() {
                let got = keep(cache.get(key).map(Some));
                assert!(
                    got.is_none_or(|got| got == Some(value)),
                    "what was set is there"
                );
            }
        }
        4 => hear(cache.incr(key, 1).map(drop)),
        5 => hear(cache.touch(key, Some(Duration::from_secs(9))).map(drop)),
        6 => hear(cache.transact_as(|all| {
            all.get("counter")?;
            all.set(key, &value)?;
            all.set("tagged", "changed")
        })),
        _ => {
            let deleted = keep(cache.pop(key).map(Some));
            let got = keep(cache.get(key).map(Some)).flatten();
            assert!(
                deleted.is_none() || got.is_none(),
                "what was popped is gone"
            );
        }
    }
}

fn all_values(cache: &Cache) {
    for pair in cache.iter().take(1_000) {
        hear(pair.map(drop));
    }
    hear(cache.remove_expired().map(drop));
    hear(cache.cull().map(drop));
    hear(cache.stats().map(drop));
    hear(cache.volume().map(drop));
    hear(cache.sync());
}

fn list(cache: &Cache) {
    hear(cache.keys().map(drop));
    hear(cache.len().map(drop));
    hear(cache.is_empty().map(drop));
}

/// More keys than there is room for.
fn fill(cache: &Cache) {
    for number in 0..super::CAPACITY + 4 {
        let lock = Lock::new(cache, format!("fill {number}"));
        hear(lock.try_acquire().map(drop));
    }
}
