//! Values after a power loss, of the slabs and the logs together, between operations and at every
//! sync in the middle of one, in a `Cache` and in a `FanoutCache`, whose transactions are decided
//! in one shard for all of them.
//!
//! With `Durability::PowerLoss` a value that was set is there, and a transaction is whole or has
//! not happened. Without, a value is one that was set once, whole, or none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use slablock::{Cache, Durability, Error, Eviction, Limits, Options, Result};

use crate::OnPanic;
use crate::device::{Ambush, Device, WATCH, Watch};
use crate::kit::{Place, Random, Watchdog};

const CHAINS: u64 = 24;
const LIVES: u64 = 4;
const STEPS: u64 = 12;
const KEYS: [&str; 5] = ["a", "b", "c", "d", "one with a name of several words"];
/// In the slots; in the log, written at once, in two parts, to a segment of its own.
const LENGTHS: [usize; 7] = [9, 200, 700, 3_000, 40_000, 100_000, 270_000];

/// What each key had, the last at the end.
type History = BTreeMap<&'static str, Vec<Option<Vec<u8>>>>;

/// Of a `FanoutCache`; the keys are spread over them by chance.
const SHARDS: usize = 3;

fn open(options: &Options, dir: &Path, shards: Option<usize>) -> Result<Cache> {
    shards
        .into_iter()
        .fold(options.clone(), Options::shards)
        .open(dir)
}

struct Chain {
    durability: Durability,
    shards: Option<usize>,
    random: Random,
    history: History,
    serial: u64,
    losses: u64,
    values: u64,
    /// How many syncs a change of so many keys took lately: those of its end matter most.
    syncs: [u64; KEYS.len() + 1],
}

impl Chain {
    fn value(&mut self) -> Vec<u8> {
        self.serial += 1;
        let len = LENGTHS[self.random.below(LENGTHS.len() as u64) as usize];
        let mut value = vec![self.serial as u8; len];
        value[..8].copy_from_slice(&self.serial.to_le_bytes());
        value
    }

    fn key(&mut self) -> &'static str {
        KEYS[self.random.below(KEYS.len() as u64) as usize]
    }

    /// What is to be: of one key, or of several at once.
    fn plan(&mut self) -> Vec<(&'static str, Option<Vec<u8>>)> {
        let count = match self.shards {
            None if self.random.below(5) == 0 => 2,
            Some(_) if self.random.below(2) == 0 => 4,
            _ => 1,
        };
        let mut plan = BTreeMap::new();
        for _ in 0..count {
            let value = (self.random.below(5) > 0).then(|| self.value());
            plan.insert(self.key(), value);
        }
        plan.into_iter().collect()
    }

    fn carry_out(cache: &Cache, plan: &[(&str, Option<Vec<u8>>)]) {
        let done = match plan {
            [(key, Some(value))] => cache.set(key, value),
            [(key, None)] => cache.delete(key).map(drop),
            several => cache.transact_as(|all| {
                several.iter().try_for_each(|(key, value)| match value {
                    Some(value) => all.set(key, value),
                    None => all.delete(key).map(drop),
                })
            }),
        };
        done.unwrap();
    }

    fn open(&self, store: &Path) -> Cache {
        // A limit is for all shards together.
        let shards = self.shards.unwrap_or(1);
        let options = Cache::options()
            .capacity(64 * shards)
            .size_limit((4 << 20) * shards as u64);
        let options = options.eviction(Eviction::None).durability(self.durability);
        match open(&options, store, self.shards) {
            Err(Error::Corrupt { .. }) => {
                Cache::repair(store).unwrap();
                open(&options, store, self.shards).unwrap()
            }
            other => other.unwrap(),
        }
    }

    /// A new store, which is told only later at times that values are to survive power failures.
    fn begin(&mut self, store: &Path) -> Cache {
        if self.durability == Durability::ProcessCrash || self.random.below(2) == 0 {
            return self.open(store);
        }
        self.durability = Durability::ProcessCrash;
        let cache = self.open(store);
        let value = vec![7; 700];
        cache.set(KEYS[0], &value).unwrap();
        self.history.get_mut(KEYS[0]).unwrap().push(Some(value));
        self.durability = Durability::PowerLoss;
        let durable = Limits::new().durability(self.durability);
        cache.configure(&durable).unwrap();
        cache
    }

    /// Looks at what a loss has left. `before`: how far back each key may be, of an operation that
    /// was under way.
    fn verify(&mut self, cache: &Cache, before: &[&str]) {
        self.losses += 1;
        let report = cache.check().unwrap();
        // Without the promise a value may be in the slots, and not in the log.
        let is_of_value = |problem: &String| problem.starts_with("the value of ");
        let excused = self.durability == Durability::ProcessCrash
            && report.slots_leaked == 0
            && report.problems.iter().all(is_of_value);
        assert!(report.is_sound() || excused, "{report:?}, {before:?}");
        let mut olds = 0;
        for (key, had) in &self.history {
            let got = cache.get(key).unwrap();
            self.values += u64::from(got.is_some());
            let last = had.last().unwrap();
            let is_under_way = before.contains(key);
            let is_old = is_under_way && had.len() > 1 && got == had[had.len() - 2] && got != *last;
            olds += u32::from(is_old);
            let fits = match self.durability {
                Durability::PowerLoss => got == *last || is_old,
                _ => got.is_none() || had.contains(&got),
            };
            let got = got.map(|value| (value.len(), value[..8].to_vec()));
            assert!(fits, "{key} is {got:?} after {} values", had.len());
        }
        if self.durability == Durability::PowerLoss {
            let changed = before.len() as u32;
            assert!(
                olds == 0 || olds == changed,
                "a part of a transaction: {olds} of {changed}"
            );
        }
    }

    fn run(&mut self, dir: &Path) {
        let mut store = dir.join("store");
        WATCH.set(Some(Watch::default()));
        let mut cache = self.begin(&store);
        let mut at = 0;
        for _ in 0..LIVES {
            for _ in 0..STEPS {
                at += 1;
                let plan = self.plan();
                let into = dir.join(format!("ambushed {at}"));
                let syncs = self.syncs[plan.len()];
                let countdown = match self.random.below(2) {
                    0 => self.random.below(syncs + 2),
                    _ => (syncs + 1).saturating_sub(self.random.below(6)),
                };
                let random = Random::new(self.random.next());
                let ambush = Ambush {
                    countdown,
                    random,
                    store: store.clone(),
                    into: into.clone(),
                    sprung: false,
                };
                WATCH.with_borrow_mut(|watch| {
                    let watch = watch.as_mut().unwrap();
                    (watch.ambush, watch.syncs) = (Some(ambush), 0);
                });
                let under_way: Vec<&str> = plan
                    .iter()
                    .filter(|(key, value)| self.history[key].last() != Some(value))
                    .map(|(key, _)| *key)
                    .collect();
                Chain::carry_out(&cache, &plan);
                let syncs = WATCH.with_borrow(|watch| watch.as_ref().unwrap().syncs);
                self.syncs[plan.len()] = syncs;
                for (key, value) in plan {
                    self.history.get_mut(key).unwrap().push(value);
                }
                let sprung = WATCH.with_borrow_mut(|w| w.as_mut().unwrap().ambush.take());
                if sprung.is_some_and(|ambush| ambush.sprung) {
                    let watch = WATCH.take();
                    let left = self.open(&into);
                    self.verify(&left, &under_way);
                    drop(left);
                    fs::remove_dir_all(&into).unwrap();
                    WATCH.set(watch);
                }
            }
            let next = dir.join(format!("boot {at}"));
            let device = WATCH.take().unwrap().device;
            device.lose(&store, &next, &mut self.random);
            drop(cache);
            cache = self.open(&next);
            self.verify(&cache, &[]);
            for (key, had) in &mut self.history {
                let now = cache.get(key).unwrap();
                had.push(now);
            }
            fs::remove_dir_all(&store).unwrap();
            store = next;
            // The reboot has synced what it has mended.
            let device = Device::of(&store);
            WATCH.set(Some(Watch {
                device,
                ..Watch::default()
            }));
        }
        WATCH.set(None);
    }
}

fn run(durability: Durability, shards: Option<usize>, name: &'static str) {
    let _watchdog = Watchdog::new(name);
    let mut random = Random::announced(name);
    let (mut losses, mut values) = (0, 0);
    // Of what need not survive little does: more chains, so that there is something to be looked
    // at.
    let chains = match durability {
        Durability::PowerLoss => CHAINS,
        _ => 3 * CHAINS,
    };
    for _ in 0..chains {
        let seed = random.next();
        let _told = OnPanic(format!("in the chain of seed {seed}"));
        let dir = Place::in_memory();
        let mut chain = Chain {
            durability,
            shards,
            random: Random::new(seed),
            history: KEYS.map(|key| (key, vec![None])).into(),
            serial: 0,
            losses: 0,
            values: 0,
            syncs: [4; KEYS.len() + 1],
        };
        chain.run(dir.root());
        (losses, values) = (losses + chain.losses, values + chain.values);
    }
    println!("{losses} losses, {values} values");
    assert!(losses >= chains * LIVES && values > CHAINS);
}

#[test]
fn a_value_that_was_to_survive_a_power_loss_is_there() {
    run(Durability::PowerLoss, None, "durable values");
}

#[test]
fn a_value_that_need_not_survive_a_power_loss_is_whole_or_gone() {
    run(Durability::ProcessCrash, None, "values");
}

#[test]
fn a_transaction_of_several_shards_that_was_to_survive_a_power_loss_does() {
    run(Durability::PowerLoss, Some(SHARDS), "durable shards");
}

#[test]
fn a_value_of_a_shard_that_need_not_survive_a_power_loss_is_whole_or_gone() {
    run(Durability::ProcessCrash, Some(SHARDS), "shards");
}
