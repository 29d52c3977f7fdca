//! The judge of a round: reads the journal and knows nothing of the store.

mod counts;
mod history;
mod holds;
mod pauses;
#[cfg(test)]
mod tests;
mod values;
mod waits;

use std::collections::HashSet;
use std::time::Duration;

use history::History;
use holds::Judge;
use values::CarriedValues;
use waits::Bounds;

use super::journal::{Event, Line};
use super::site::{COUNTERS, KeySpec};

/// More lines of evidence say less.
const EVIDENCE_MAX: usize = 60;

/// How long before and after the holds in question removals are of interest.
const AROUND_NS: u64 = 5_000_000;

/// Something that must not be, with the key, the tokens and the lives that it is about.
#[derive(Clone, Debug)]
pub struct Violation {
    pub what: String,
    pub key: Option<usize>,
    pub tokens: Vec<u64>,
    pub ids: Vec<u64>,
}

/// What was counted and measured in a round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    pub holds: u64,
    pub forks: u64,
    pub execs: u64,
    /// Successors that were told of a dead holder.
    pub recoveries: u64,
    /// Successors that were told of a late holder.
    pub expiries: u64,
    pub lost: u64,
    pub removals: u64,
    pub values_added: u64,
    /// Takeovers from killed holders by waiters, while no process was stopped; and the slowest.
    pub takeovers: u64,
    pub worst_takeover_ns: u64,
    pub longest_wait_ns: u64,
    pub longest_task_ns: u64,
}

/// What is known of a key when a round begins.
#[derive(Clone, Debug, Default)]
struct Carried {
    /// The highest token that was ever told of.
    token: u64,
    /// What the counter can be.
    counts: Vec<u64>,
    /// Count and sum of the average.
    sum: (u64, u64),
}

/// What is there when no worker is left: the counters, read past the store, and the averages, read
/// out of it.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    /// By key; `None` where there is no such thing.
    pub counters: Vec<Option<u64>>,
    pub sums: Vec<Option<(u64, f64)>>,
    /// Of the counters among the values.
    pub counts: [u64; COUNTERS.len()],
}

pub struct Oracle {
    keys: Vec<KeySpec>,
    bound_ns: u64,
    carried: Vec<Carried>,
    values: CarriedValues,
}

impl Oracle {
    pub fn new(keys: &[KeySpec], bound: Duration) -> Oracle {
        let fresh = Carried {
            counts: vec![0],
            ..Carried::default()
        };
        Oracle {
            keys: keys.to_vec(),
            bound_ns: bound.as_nanos() as u64,
            carried: vec![fresh; keys.len()],
            values: CarriedValues::default(),
        }
    }

    /// Judges a round, at the end of which no worker was left.
    pub fn judge(&mut self, lines: &[Line], leftovers: &Leftovers) -> (Facts, Vec<Violation>) {
        let history = History::of(lines, &self.keys);
        let mut violations = Vec::new();
        let mut facts = count(lines);
        let mut bounds = Bounds {
            history: &history,
            bound_ns: self.bound_ns,
            facts: &mut facts,
            violations: &mut violations,
        };
        bounds.tasks();
        for (key, spec) in self.keys.iter().enumerate() {
            bounds.key(key, spec, &history.keys[key]);
        }
        for key in 0..self.keys.len() {
            self.judge_key(key, &history, leftovers, &mut violations);
        }
        self.values.judge(lines, leftovers.counts, &mut violations);
        (facts, violations)
    }

    fn judge_key(
        &mut self,
        key: usize,
        history: &History,
        leftovers: &Leftovers,
        violations: &mut Vec<Violation>,
    ) {
        let (spec, of_key) = (&self.keys[key], &history.keys[key]);
        let carried = &self.carried[key];
        let about_the_end = |what| Violation {
            what,
            key: Some(key),
            tokens: Vec::new(),
            ids: Vec::new(),
        };
        Judge {
            key,
            spec,
            of_key,
            history,
            carried,
            violations,
        }
        .judge();
        let mut next = carried.clone();
        let told = of_key.holds.iter().map(|hold| hold.token);
        next.token = told.fold(next.token, u64::max);
        if let Some(counter) = leftovers.counters[key] {
            let possible = counts::judge_counter(key, spec, &of_key.holds, carried, violations);
            if !possible.contains(&counter) {
                let name = &spec.name;
                violations.push(about_the_end(format!(
                    "{name}: the counter is {counter} at the end, and not one of {possible:?}"
                )));
            }
            next.counts = vec![counter];
        }
        if let Some(seen) = leftovers.sums[key] {
            let judged = counts::judge_sum(spec, of_key, history, carried, seen);
            violations.extend(judged.map(about_the_end));
            next.sum = (seen.0, seen.1 as u64);
        }
        self.carried[key] = next;
    }

    /// The lines about a violation.
    pub fn evidence(&self, violation: &Violation, lines: &[Line]) -> Vec<String> {
        let ids: HashSet<u64> = violation.ids.iter().copied().collect();
        let own = lines.iter().filter(|line| ids.contains(&line.id));
        let pids: HashSet<u64> = own.map(|line| u64::from(line.pid)).collect();
        let of_holds = |line: &&Line| of_hold(line).is_some_and(|of| violation.is_about(of));
        let (mut from, mut to) = (u64::MAX, 0);
        for line in lines.iter().filter(of_holds) {
            from = from.min(line.at.saturating_sub(AROUND_NS));
            to = to.max(line.at + AROUND_NS);
        }
        let is_near = |line: &Line| (from..=to).contains(&line.at);
        let is_about = |line: &&Line| match line.event {
            Event::Kill { pid }
            | Event::Stop { pid }
            | Event::Cont { pid }
            | Event::Dead { pid } => pids.contains(&pid),
            Event::Born { .. } | Event::Fork {} | Event::Exec {} | Event::Exit {} => {
                ids.contains(&line.id)
            }
            Event::Want { key } | Event::Passed { key, .. } | Event::Busy { key, .. } => {
                violation.key == Some(key as usize) && ids.contains(&line.id) && is_near(line)
            }
            Event::Remove { key } => violation.key == Some(key as usize) && is_near(line),
            Event::Evict { tag } => {
                let spec = violation.key.and_then(|key| self.keys.get(key));
                spec.is_some_and(|spec| spec.tag == Some(tag as usize)) && is_near(line)
            }
            _ => of_holds(line),
        };
        let about = lines.iter().filter(is_about).take(EVIDENCE_MAX);
        let start = lines.first().map_or(0, |line| line.at);
        about.map(|line| line.told(&self.keys, start)).collect()
    }
}

impl Violation {
    fn is_about(&self, (key, token): (u64, u64)) -> bool {
        self.key == Some(key as usize) && self.tokens.contains(&token)
    }
}

/// Key and token of what is said of a hold.
fn of_hold(line: &Line) -> Option<(u64, u64)> {
    match line.event {
        Event::Take { key, token, .. }
        | Event::Stands { key, token, .. }
        | Event::Renewed { key, token, .. }
        | Event::Give { key, token, .. }
        | Event::Kept { key, token }
        | Event::Lost { key, token } => Some((key, token)),
        _ => None,
    }
}

fn count(lines: &[Line]) -> Facts {
    let mut facts = Facts::default();
    let mut pid_of_life = std::collections::HashMap::new();
    for line in lines {
        match line.event {
            Event::Born { parent } => {
                // A life with the process id of its parent is an executed program or a thread, not
                // a fork.
                let forked = pid_of_life.get(&parent) != Some(&line.pid);
                facts.forks += u64::from(parent != 0 && forked);
                pid_of_life.insert(line.id, line.pid);
            }
            Event::Exec {} => facts.execs += 1,
            Event::Take { died, overran, .. } => {
                facts.holds += 1;
                facts.recoveries += u64::from(died > 0);
                facts.expiries += overran;
            }
            Event::Lost { .. } => facts.lost += 1,
            Event::Cut {} => facts.removals += 1,
            Event::Added { times, .. } => facts.values_added += times,
            _ => {}
        }
    }
    facts
}
