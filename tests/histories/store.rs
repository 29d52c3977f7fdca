//! A store under test: pairs of keys in a `Cache`, or in a `Options` where the two lie in different
//! shards.

use std::path::Path;
use std::thread::{sleep, yield_now};
use std::time::Duration;

use slablock::{Cache, CheckReport, Error, Eviction, Options, Result, Transaction};

use crate::operation::{Call, End, Outcome, State, What};
use crate::value::Value;

pub const PAIRS: usize = 3;
/// The least there is, so that the log is compacted every few rounds.
const LIMIT_BYTES: u64 = 4 << 20;
/// Between the two steps of what is broken on purpose.
const GAP: Duration = Duration::from_micros(300);

/// Whether operations are the library's, or one of them is made of two, as a negative control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    Sound,
    SwapInTwoSteps,
    PopInTwoSteps,
    TransactInTwoSteps,
}

impl Ways {
    pub const ALL: [Ways; 4] = [
        Ways::Sound,
        Ways::SwapInTwoSteps,
        Ways::PopInTwoSteps,
        Ways::TransactInTwoSteps,
    ];
}

pub struct Store {
    cache: Cache,
    keys: Vec<[String; 2]>,
    ways: Ways,
}

impl Store {
    pub fn open(dir: &Path, shards: Option<usize>, ways: Ways) -> Store {
        let many = shards.unwrap_or(1);
        let options = Cache::options()
            .capacity(64 * many)
            .size_limit(LIMIT_BYTES * many as u64)
            .eviction(Eviction::None);
        let options = shards.into_iter().fold(options, Options::shards);
        let cache = options.open(dir).unwrap();
        let keys = (0..PAIRS).map(|pair| keys_of(&cache, pair)).collect();
        Store { cache, keys, ways }
    }

    pub fn check(&self) -> CheckReport {
        self.cache.check().unwrap()
    }

    pub fn carry_out(&self, pair: usize, call: &Call) -> Outcome {
        let done = match (self.ways, call.what) {
            (Ways::SwapInTwoSteps, What::CompareAndSwap) => self.swap_in_two_steps(pair, call),
            (Ways::PopInTwoSteps, What::Pop) => self.pop_in_two_steps(pair, call),
            (Ways::TransactInTwoSteps, What::SetBoth) => self.set_both_in_two_steps(pair, call),
            (_, what) if what.is_transaction() => self.transact(pair, call),
            _ => self.plain(pair, call),
        };
        match done {
            Ok(outcome) => outcome,
            Err(Error::NotInteger { .. }) => Outcome::of(End::NotInteger),
            Err(Error::OverLimit { .. } | Error::Full { .. }) => Outcome::of(End::NoRoom),
            Err(error) => panic!("{call}: {error}"),
        }
    }

    fn plain(&self, pair: usize, call: &Call) -> Result<Outcome> {
        let key = &self.keys[pair][call.key];
        let [first, second] = call.given.map(bytes_of);
        let cache = &self.cache;
        Ok(match call.what {
            What::Set => Outcome::was(cache.set(key, first).map(|()| true)?),
            What::Add => Outcome::was(cache.add(key, first)?),
            What::Replace => Outcome::was(cache.replace(key, first)?),
            What::CompareAndSwap => Outcome::was(cache.compare_and_swap(key, first, second)?),
            What::Delete => Outcome::was(cache.delete(key)?),
            What::Pop => Outcome::value(cache.pop(key)?.map(|bytes| Value::of_bytes(&bytes))),
            What::Incr => {
                let by = call.given[0].map_or(0, |value| value.number);
                let sum = cache.incr(key, by)?.to_string();
                Outcome::value(Some(Value::of_bytes(sum.as_bytes())))
            }
            _ => Outcome::value(cache.get(key)?.map(|bytes| Value::of_bytes(&bytes))),
        })
    }

    fn transact(&self, pair: usize, call: &Call) -> Result<Outcome> {
        let keys = &self.keys[pair];
        let mut seen = [None; 2];
        let done = self.cache.transact_as(|all| {
            seen = [read(all, &keys[0])?, read(all, &keys[1])?];
            yield_now();
            change(all, keys, call, seen)
        });
        let end = match done {
            Ok(()) => End::Done,
            Err(Undone::Refused) => End::Declined,
            Err(Undone::Error(Error::NotInteger { .. })) => End::NotInteger,
            Err(Undone::Error(error)) => return Err(error),
        };
        Ok(Outcome { end, seen })
    }

    fn swap_in_two_steps(&self, pair: usize, call: &Call) -> Result<Outcome> {
        let seen = self.plain(pair, &Call::of(What::Get, call.key))?.seen[0];
        sleep(GAP);
        match (seen == call.given[0], call.given[1]) {
            (true, Some(new)) => self.plain(pair, &Call::with(What::Set, call.key, new)),
            _ => Ok(Outcome::DECLINED),
        }
    }

    fn pop_in_two_steps(&self, pair: usize, call: &Call) -> Result<Outcome> {
        let got = self.plain(pair, &Call::of(What::Get, call.key))?;
        sleep(GAP);
        self.plain(pair, &Call::of(What::Delete, call.key))?;
        Ok(got)
    }

    fn set_both_in_two_steps(&self, pair: usize, call: &Call) -> Result<Outcome> {
        let mut seen = [None; 2];
        for (key, given) in call.given.into_iter().enumerate() {
            seen[key] = self.plain(pair, &Call::of(What::Get, key))?.seen[0];
            if let Some(value) = given {
                self.plain(pair, &Call::with(What::Set, key, value))?;
            }
            sleep(GAP);
        }
        Ok(Outcome {
            end: End::Done,
            seen,
        })
    }
}

/// Of several shards in two of them, so that transactions go over both.
fn keys_of(cache: &Cache, pair: usize) -> [String; 2] {
    let shard = |key: &str| cache.slab_of(key.as_bytes());
    let first = format!("{pair}a");
    let mut others = (0..).map(|n| format!("{pair}b{n}"));
    let second = others.find(|key| cache.shards() == 1 || shard(key) != shard(&first));
    [first, second.unwrap_or_default()]
}

fn bytes_of(value: Option<Value>) -> Vec<u8> {
    value.map(Value::bytes).unwrap_or_default()
}

/// Why a transaction has not happened.
enum Undone {
    Refused,
    Error(Error),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Undone {
        Undone::Error(error)
    }
}

fn read(all: &mut Transaction<'_>, key: &str) -> Result<Option<Value>> {
    Ok(all.get(key)?.map(Value::of_bytes))
}

fn change(
    all: &mut Transaction<'_>,
    keys: &[String; 2],
    call: &Call,
    seen: State,
) -> std::result::Result<(), Undone> {
    let next = match call.what {
        What::IncrBoth => {
            let by = call.given[0].map_or(0, |value| value.number);
            all.incr(&keys[0], by)?;
            all.incr(&keys[1], by)?;
            return Ok(());
        }
        What::Exchange => [seen[1], seen[0]],
        _ => call.given,
    };
    for (key, value) in keys.iter().zip(next) {
        match value {
            Some(value) => all.set(key, value.bytes())?,
            None => all.delete(key).map(drop)?,
        }
    }
    match call.what {
        What::Refuse => Err(Undone::Refused),
        _ => Ok(()),
    }
}
