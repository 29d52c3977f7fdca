//! How long things may take, and how long they took.
//!
//! No waiter is promised its turn, for others may be quicker each time. What is promised is that an
//! available key is not left alone while a process waits for it; so what is bounded is how long a
//! permit lies idle, with no holder or a dead or late one, while one and the same process waits.

use super::history::{History, Hold, KeyHistory, Task, Wait};
use super::{Facts, Violation};
use crate::torture::site::KeySpec;

/// Between taking and the end of a lease lies the lease, and at most this for publishing it.
const PUBLISHED_NS: u64 = 1_000_000;

pub struct Bounds<'a> {
    pub history: &'a History,
    pub bound_ns: u64,
    pub facts: &'a mut Facts,
    pub violations: &'a mut Vec<Violation>,
}

impl Bounds<'_> {
    /// Nothing takes longer than it says, by more than the bound; and nothing is said to be busy
    /// that was not for long.
    pub fn tasks(&mut self) {
        let history = self.history;
        for hasty in &history.hasty {
            let ms = (hasty.to - hasty.from) / 1_000_000;
            self.violations.push(Violation {
                what: format!("the structure was said to be busy after {ms} ms"),
                key: None,
                tokens: Vec::new(),
                ids: vec![hasty.id],
            });
        }
        for task in &history.tasks {
            let took = history.pauses.free_between(task.from, task.to);
            let over = took.saturating_sub(task.patience);
            self.facts.longest_task_ns = self.facts.longest_task_ns.max(over);
            if over > self.bound_ns {
                let Task { what, id, key, .. } = *task;
                let took = took / 1_000_000;
                self.violations.push(Violation {
                    what: format!("{what} took {took} ms in which nobody was stopped"),
                    key,
                    tokens: Vec::new(),
                    ids: vec![id],
                });
            }
        }
    }

    pub fn key(&mut self, key: usize, spec: &KeySpec, of_key: &KeyHistory) {
        for hold in &of_key.holds {
            let waited = self.history.pauses.free_between(hold.asked, hold.take);
            self.facts.longest_wait_ns = self.facts.longest_wait_ns.max(waited);
        }
        for permit in 0..u64::from(spec.permits()) {
            let of_permit = of_key.holds.iter().filter(|hold| hold.permit == permit);
            let mut holds: Vec<_> = of_permit.collect();
            holds.sort_by_key(|hold| hold.take);
            for pair in holds.windows(2) {
                self.takeover(spec, pair[0], pair[1]);
                self.idle(key, spec, of_key, Some(pair[0]), Some(pair[1]));
            }
            self.idle(key, spec, of_key, holds.last().copied(), None);
        }
    }

    /// How long it took until a dead holder had a successor that was waiting when it died.
    fn takeover(&mut self, spec: &KeySpec, before: &Hold, next: &Hold) {
        let Some(killed) = self.history.lives.get(&before.id).and_then(|l| l.killed) else {
            return;
        };
        let died = self.history.end_of(before.id).max(killed);
        let (from, to) = (died, next.take);
        let is_successor = next.told_of == self.history.lives.get(&before.id).map(|l| l.pid)
            && before.give.is_none()
            && next.asked < died
            && spec.lease.is_none();
        // Before the kill it is no takeover, but a robbery.
        let Some(took) = to.checked_sub(from) else {
            return;
        };
        if is_successor && self.history.pauses.free_between(from, to) == took {
            self.facts.takeovers += 1;
            self.facts.worst_takeover_ns = self.facts.worst_takeover_ns.max(took);
        }
    }

    /// An available permit is taken within the bound, if a process waits for it.
    fn idle(
        &mut self,
        key: usize,
        spec: &KeySpec,
        of_key: &KeyHistory,
        before: Option<&Hold>,
        next: Option<&Hold>,
    ) {
        let from = before.map_or(0, |hold| self.idle_from(spec, hold));
        let to = next.map_or(self.history.end, |hold| hold.take);
        if to.saturating_sub(from) <= self.bound_ns {
            return;
        }
        let in_vain = |wait: &Wait| {
            let (from, to) = (wait.from.max(from), wait.to.min(to));
            self.history.pauses.free_between(from, to)
        };
        let Some(longest) = of_key.waits.iter().max_by_key(|wait| in_vain(wait)) else {
            return;
        };
        let waited = in_vain(longest);
        if waited > self.bound_ns {
            let ms = waited / 1_000_000;
            let involved: Vec<_> = before.into_iter().chain(next).collect();
            self.violations.push(Violation {
                what: format!(
                    "{}: somebody waited {ms} ms for what nobody held",
                    spec.name
                ),
                key: Some(key),
                tokens: involved.iter().map(|hold| hold.token).collect(),
                ids: involved
                    .iter()
                    .map(|hold| hold.id)
                    .chain([longest.id])
                    .collect(),
            });
        }
    }

    /// From when on the permit is available to other processes.
    fn idle_from(&self, spec: &KeySpec, hold: &Hold) -> u64 {
        let end = self.history.end_of(hold.id);
        let end = hold.give.map_or(end, |(at, _)| at.min(end));
        let began = hold.renewed.map_or(hold.take, |(_, known)| known);
        let lease = spec
            .lease
            .map(|lease| began + lease.as_nanos() as u64 + PUBLISHED_NS);
        end.min(lease.unwrap_or(u64::MAX))
    }
}
