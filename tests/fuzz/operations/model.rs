//! What a store means, written down a second time: plain values, one thread, no clock of its own. A
//! rule here is a rule of the documentation, not a copy of the code that it judges.

use std::collections::{BTreeMap, BTreeSet};

use slablock::Kind;

/// How much longer than asked a lease may last: the unit in which its end is kept, a tick of the
/// coarse clock, and, from two seconds on, the tick that a reading may be old.
const UNIT_US: u64 = 64 + 4_000;
const LONG_US: u64 = 2_000_000;
const LONG_MORE_US: u64 = 50_000;

/// No token, and nobody's.
pub const HANDED_ON: u64 = 0;
const NOBODY: u64 = 0;

/// How a handle was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    pub key: Vec<u8>,
    pub kind: Kind,
    pub lease_us: Option<u64>,
    pub tag: Vec<u8>,
    /// Of a semaphore, otherwise 1.
    pub value: u32,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    KeyLength,
    Invalid,
    KindMismatch,
    ConfigMismatch,
    Full,
}

/// Between these two moments nobody can say whether a lease is over.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub least_us: u64,
    pub most_us: u64,
}

#[derive(Clone, Debug)]
pub struct Grant {
    /// No two grants have the same.
    pub id: u64,
    /// The life of a participant.
    pub by: u64,
    /// `HANDED_ON` if a dead one had it in a semaphore that was made again since.
    pub token: u64,
    pub lease: Option<Lease>,
    /// Of a re-entrant lock, otherwise 1.
    pub depth: u32,
    /// It is a dead one's, and that may have been noted in its word already: then no token fits
    /// it.
    pub swept: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Average {
    pub count: u64,
    pub total: f64,
    pub min: f64,
    pub max: f64,
    pub expires_us: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Key {
    /// From being made to being removed.
    pub life: u64,
    pub kind: Kind,
    pub tag: Vec<u8>,
    slots: usize,
    /// One, or a semaphore's permits.
    pub holds: Vec<Option<Grant>>,
    /// The token of a late one whose permits were taken over, until somebody was told.
    late: Option<u64>,
    pub average: Average,
}

/// Who had what is granted now, and did not give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Nobody,
    Died(u64),
    Overran(u64),
}

/// How a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    Free,
    Held,
    Dead,
    Expired,
}

pub struct Model {
    pub capacity: usize,
    pub now_us: u64,
    pub wall_us: u64,
    pub keys: BTreeMap<Vec<u8>, Key>,
    /// The lives of participants whose process lives, or whose beacon somebody else has.
    pub alive: BTreeSet<u64>,
    /// The highest token that was seen under a key, in whichever of its lives.
    tokens: BTreeMap<Vec<u8>, u64>,
    /// Semaphores with permits of the dead that were to be made again, and for which there was no
    /// room.
    untold: BTreeSet<Vec<u8>>,
    last_id: u64,
}

impl Lease {
    pub fn from(now_us: u64, asked_us: u64) -> Lease {
        let least_us = now_us + asked_us;
        let more = if asked_us < LONG_US { 0 } else { LONG_MORE_US };
        Lease {
            least_us,
            most_us: least_us + UNIT_US + more,
        }
    }
}

impl Key {
    pub fn is_idle(&self) -> bool {
        self.kind != Kind::Averager && self.holds.iter().all(Option::is_none)
    }
}

/// How many slots key and tag take.
fn slots(kind: Kind, key: usize, tag: usize) -> usize {
    // An average has its cells before the key, the others what there is of waiting.
    let before = if kind == Kind::Averager { 14 } else { 5 };
    (before + key.div_ceil(8) + tag.div_ceil(8)).div_ceil(17)
}

impl Model {
    pub fn new(capacity: usize, now_us: u64, wall_us: u64) -> Model {
        Model {
            capacity,
            now_us,
            wall_us,
            keys: BTreeMap::new(),
            alive: BTreeSet::new(),
            tokens: BTreeMap::new(),
            untold: BTreeSet::new(),
            last_id: 0,
        }
    }

    pub fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Lets time pass, and a little more if otherwise some lease might be over or not.
    pub fn pass(&mut self, to_us: u64) {
        let mut now = to_us.max(self.now_us);
        while let Some(lease) = self
            .leases()
            .find(|l| (l.least_us..l.most_us).contains(&now))
        {
            now = lease.most_us;
        }
        self.wall_us += now - self.now_us;
        self.now_us = now;
    }

    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        let holds = self.keys.values().flat_map(|key| &key.holds);
        holds.flatten().filter_map(|grant| grant.lease)
    }

    pub fn stand(&self, hold: &Option<Grant>) -> Stand {
        match hold {
            None => Stand::Free,
            Some(grant) if !self.alive.contains(&grant.by) => Stand::Dead,
            Some(grant) if self.is_over(grant) => Stand::Expired,
            Some(_) => Stand::Held,
        }
    }

    pub fn is_over(&self, grant: &Grant) -> bool {
        grant.lease.is_some_and(|l| self.now_us >= l.most_us)
    }

    /// What a handle finds: its key, made if it may be. `met` is the life in which the handle knows
    /// it.
    pub fn meet(
        &mut self,
        of: &Setting,
        met: &mut Option<u64>,
        make: bool,
    ) -> Result<Option<&mut Key>, Refusal> {
        let known = self.keys.get(&of.key).map(|key| key.life);
        if known.is_none() || known != *met {
            self.check(of)?;
            match known {
                Some(_) if self.has_other_permits(of)? => {
                    if !make {
                        return Ok(None);
                    }
                    self.take_over(of)?;
                }
                Some(_) => self.check_found(of)?,
                None if make => self.make(of)?,
                None => return Ok(None),
            }
        }
        let key = self.keys.get_mut(&of.key);
        *met = key.as_ref().map(|key| key.life);
        Ok(key)
    }

    fn check(&self, of: &Setting) -> Result<(), Refusal> {
        if !(1..=1_024).contains(&of.key.len()) {
            return Err(Refusal::KeyLength);
        }
        match of.lease_us {
            Some(0) => Err(Refusal::Invalid),
            _ => Ok(()),
        }
    }

    /// A handle with another tag gives the key its own, if there is room for it.
    fn check_found(&mut self, of: &Setting) -> Result<(), Refusal> {
        let Some(key) = self.keys.get_mut(&of.key) else {
            return Ok(());
        };
        if key.kind != of.kind {
            return Err(Refusal::KindMismatch);
        }
        if !of.tag.is_empty() && of.tag != key.tag {
            if slots(of.kind, of.key.len(), of.tag.len()) > key.slots {
                return Err(Refusal::Invalid);
            }
            key.tag.clone_from(&of.tag);
        }
        Ok(())
    }

    /// Whether it is a semaphore of another number of permits that nobody alive has one of within
    /// its lease.
    fn has_other_permits(&self, of: &Setting) -> Result<bool, Refusal> {
        let key = &self.keys[&of.key];
        if key.kind != Kind::Semaphore || of.kind != Kind::Semaphore {
            return Ok(false);
        }
        let is_in_use = || key.holds.iter().any(|hold| self.stand(hold) == Stand::Held);
        match key.holds.len() != of.value as usize {
            true if is_in_use() => Err(Refusal::ConfigMismatch),
            differs => Ok(differs),
        }
    }

    /// Makes it again; it keeps its tag, unless the handle has one. As many of its permits as can
    /// be are those of the dead; of the first of them its successor is told all, or else of the
    /// first of the late.
    fn take_over(&mut self, of: &Setting) -> Result<(), Refusal> {
        let old = self.keys.remove(&of.key).expect("it was found");
        let of_stand = |stand| -> Vec<Grant> {
            let holds = old.holds.iter().filter(|hold| self.stand(hold) == stand);
            holds.flatten().cloned().collect()
        };
        let (mut dead, late) = (of_stand(Stand::Dead), of_stand(Stand::Expired));
        for (at, grant) in dead.iter_mut().enumerate() {
            grant.token = if at == 0 { grant.token } else { HANDED_ON };
            (grant.lease, grant.swept) = (None, true);
        }
        let mut new = of.clone();
        if new.tag.is_empty() {
            new.tag = old.tag;
        }
        let made = self.make(&new);
        match self.keys.get_mut(&of.key) {
            Some(key) => {
                let late = late.first().filter(|_| dead.is_empty());
                key.late = late.map(|grant| grant.token);
                let permits = key.holds.iter_mut().zip(dead);
                permits.for_each(|(permit, grant)| *permit = Some(grant));
            }
            None if dead.is_empty() => {}
            None => drop(self.untold.insert(of.key.clone())),
        }
        made
    }

    /// Where there is no room, idle locks and semaphores make room.
    fn make(&mut self, of: &Setting) -> Result<(), Refusal> {
        let slots = slots(of.kind, of.key.len(), of.tag.len());
        let used = |keys: &BTreeMap<_, Key>| keys.values().map(|key| key.slots).sum::<usize>();
        if used(&self.keys) + slots > self.capacity {
            self.keys.retain(|_, key| !key.is_idle());
        }
        if used(&self.keys) + slots > self.capacity {
            return Err(Refusal::Full);
        }
        let mut holds = vec![None; of.value as usize];
        if of.kind == Kind::Semaphore && self.untold.remove(&of.key) {
            holds[0] = Some(Grant {
                id: self.new_id(),
                by: NOBODY,
                token: HANDED_ON,
                lease: None,
                depth: 1,
                swept: true,
            });
        }
        let key = Key {
            life: self.new_id(),
            kind: of.kind,
            tag: of.tag.clone(),
            slots,
            holds,
            late: None,
            average: Average::default(),
        };
        self.keys.insert(of.key.clone(), key);
        Ok(())
    }

    /// Whether any hold of a key can be had.
    pub fn can_be_had(&self, key: &[u8]) -> bool {
        let mut holds = self.keys[key].holds.iter();
        holds.any(|hold| self.stand(hold) != Stand::Held)
    }

    /// Whether an acquire by `by` goes one level deeper.
    pub fn goes_deeper(&self, of: &Setting, by: u64) -> bool {
        let grant = self.keys[&of.key].holds[0].as_ref();
        let mine = grant.filter(|grant| of.kind == Kind::RLock && grant.by == by);
        mine.is_some_and(|grant| of.lease_us.is_some() || !self.is_over(grant))
    }

    pub fn deeper(&mut self, of: &Setting) -> Grant {
        let lease = of.lease_us.map(|us| Lease::from(self.now_us, us));
        let key = self.keys.get_mut(&of.key).expect("it was met");
        let grant = key.holds[0].as_mut().expect("it is held");
        grant.depth += 1;
        grant.lease = lease.or(grant.lease);
        grant.clone()
    }

    /// Grants a hold. Says who had it before, and whether it was to be had at all.
    pub fn grant(&mut self, of: &Setting, at: usize, by: u64, token: u64) -> (Before, Grant) {
        let hold = &self.keys[&of.key].holds[at];
        let before = match (self.stand(hold), hold) {
            (Stand::Dead, Some(grant)) => Before::Died(grant.token),
            (Stand::Expired, Some(grant)) => Before::Overran(grant.token),
            (Stand::Held, _) => panic!("{of:?} was granted, and is held: {hold:?}"),
            _ => match self.keys[&of.key].late {
                Some(token) => Before::Overran(token),
                None => Before::Nobody,
            },
        };
        let highest = self.tokens.entry(of.key.clone()).or_default();
        assert!(token > *highest, "token {token} after {highest}");
        *highest = token;
        let grant = Grant {
            id: self.new_id(),
            by,
            token,
            lease: of.lease_us.map(|us| Lease::from(self.now_us, us)),
            depth: 1,
            swept: false,
        };
        let key = self.keys.get_mut(&of.key).expect("it was met");
        key.holds[at] = Some(grant.clone());
        key.late = None;
        (before, grant)
    }

    /// The grant of that number, if it still is one.
    pub fn standing(&mut self, key: &[u8], id: u64) -> Option<&mut Option<Grant>> {
        let holds = &mut self.keys.get_mut(key)?.holds;
        let mut same = holds.iter_mut();
        same.find(|hold| hold.as_ref().is_some_and(|grant| grant.id == id))
    }

    /// Takes one from the depth of a grant; it is over at zero. `None`: it was lost before.
    pub fn give_back(&mut self, key: &[u8], id: u64) -> Option<bool> {
        let hold = self.standing(key, id)?;
        let grant = hold.as_mut()?;
        grant.depth -= 1;
        let last = grant.depth == 0;
        if last {
            *hold = None;
        }
        Some(last)
    }

    /// How many holds are left by the dead.
    pub fn dead_holds(&self) -> usize {
        let holds = self.keys.values().flat_map(|key| &key.holds);
        let dead = holds.filter(|hold| self.stand(hold) == Stand::Dead);
        dead.count()
    }

    /// What the dead hold may have been noted to be a dead one's.
    pub fn sweep(&mut self) {
        let alive = self.alive.clone();
        let holds = self.keys.values_mut().flat_map(|key| &mut key.holds);
        let dead = holds.flatten().filter(|grant| !alive.contains(&grant.by));
        dead.for_each(|grant| grant.swept = true);
    }
}

impl Average {
    /// What is left of it at that time.
    pub fn at(&self, wall_us: u64) -> Average {
        match self.expires_us {
            Some(end) if wall_us >= end => Average::default(),
            _ => self.clone(),
        }
    }

    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.total / self.count as f64)
    }

    /// The values that are added here are sums of few powers of two, so that no sum is rounded.
    pub fn add(&mut self, value: f64) {
        let first = self.count == 0;
        self.count += 1;
        self.total += value;
        self.min = if first { value } else { self.min.min(value) };
        self.max = if first { value } else { self.max.max(value) };
    }
}
