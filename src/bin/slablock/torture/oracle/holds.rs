//! What must be so of holds: one at a time, tokens that grow, deaths that are told, losses that
//! have a reason.
//!
//! Each hold is known to have stood from when it was told (after taking) to a moment until which
//! nothing could have ended it. That moment is on the safe side:
//!
//! * Given back without a complaint: when giving back began. No other process had it in between,
//!   whatever the lease; that is what the answer means.
//! * Otherwise the earliest of: when giving back began, when the holder was about to be killed,
//!   executed or ended, when its lease may have been over, when a removal by force may have struck;
//!   but not before the library last said that it stood.
//!
//! So of a hold with a lease and a late holder nothing is claimed after the lease: its successor
//! may overlap it. What is claimed instead is that the late holder's token is smaller, by which the
//! receiver of a write can tell, and that the late holder is told so: its giving back does not
//! succeed, for otherwise the two overlap by the first rule.

use std::collections::HashSet;

use super::history::{Cut, History, Hold, KeyHistory};
use super::{Carried, Violation};
use crate::torture::site::KeySpec;

pub struct Judge<'a> {
    pub key: usize,
    pub spec: &'a KeySpec,
    pub of_key: &'a KeyHistory,
    pub history: &'a History,
    pub carried: &'a Carried,
    pub violations: &'a mut Vec<Violation>,
}

/// A hold, and until when it stood for certain.
struct Sure<'a> {
    hold: &'a Hold,
    until: u64,
    /// Not granted before that.
    granted: u64,
}

impl<'a> Judge<'a> {
    pub fn judge(&mut self) {
        let units = self.units();
        for unit in &units {
            self.exclusion(unit);
            self.deaths_are_told(unit);
        }
        let all: Vec<&Sure> = units.iter().flatten().collect();
        self.tokens_grow(&all);
        self.permits_suffice(&all);
        for sure in &all {
            self.told_of_the_dead_only(sure.hold);
            self.leases_where_there_are_leases(sure.hold);
            self.losses_have_a_reason(sure);
        }
    }

    fn complain(&mut self, what: String, holds: &[&Hold]) {
        self.violations.push(Violation {
            what: format!("{}: {what}", self.spec.name),
            key: Some(self.key),
            tokens: holds.iter().map(|hold| hold.token).collect(),
            ids: holds.iter().map(|hold| hold.id).collect(),
        });
    }

    /// The holds of each permit, ascending by token. A lock has one.
    fn units(&mut self) -> Vec<Vec<Sure<'a>>> {
        let permits = u64::from(self.spec.permits());
        let mut units: Vec<Vec<&Hold>> = (0..permits).map(|_| Vec::new()).collect();
        for hold in &self.of_key.holds {
            match units.get_mut(hold.permit as usize) {
                Some(unit) => unit.push(hold),
                None => self.complain(format!("there is no permit {}", hold.permit), &[hold]),
            }
        }
        let in_order = |mut unit: Vec<&'a Hold>| {
            unit.sort_by_key(|hold| hold.token);
            let mut done: Vec<Sure> = Vec::with_capacity(unit.len());
            let mut before = 0;
            for hold in unit {
                let granted = hold.asked.max(before);
                let until = self.sure_until(hold, granted);
                before = before.max(until);
                done.push(Sure {
                    hold,
                    until,
                    granted,
                });
            }
            done
        };
        units.into_iter().map(in_order).collect()
    }

    fn sure_until(&self, hold: &Hold, granted: u64) -> u64 {
        let end = self.history.end_of(hold.id);
        let end = hold.give.map_or(end, |(at, _)| at.min(end));
        let given_back = hold.give.is_some() && hold.lost.is_none();
        if hold.kept || (given_back && self.spec.is_plain()) {
            return end;
        }
        let renewed = hold.renewed.map(|(asked, _)| asked);
        let lease = self.lease_over(renewed, granted);
        let lease = lease.unwrap_or(u64::MAX);
        let told = hold.lost.or(hold.give.map(|give| give.0));
        let cut = self.cut_before(told.unwrap_or(u64::MAX), hold);
        let cut = cut.map_or(u64::MAX, |cut| cut.from);
        end.min(lease).min(cut).max(hold.stood)
    }

    /// The earliest end that the lease can have, if it was last renewed then.
    fn lease_over(&self, renewed: Option<u64>, granted: u64) -> Option<u64> {
        let lease = self.spec.lease?.as_nanos() as u64;
        Some(renewed.unwrap_or(granted) + lease)
    }

    /// The first removal that can have struck it by then.
    fn cut_before(&self, end: u64, hold: &Hold) -> Option<Cut> {
        let may_strike = |cut: &&Cut| cut.from <= end && cut.to >= hold.asked;
        let cuts = self.of_key.cuts.iter().filter(may_strike);
        cuts.min_by_key(|cut| cut.from).copied()
    }

    fn exclusion(&mut self, unit: &[Sure]) {
        let Some(mut longest) = unit.first() else {
            return;
        };
        for next in &unit[1..] {
            if next.hold.take < longest.until {
                let by_us = (longest.until - next.hold.take) / 1_000;
                let what = format!("two holders at once, for {by_us} us at least");
                self.complain(what, &[longest.hold, next.hold]);
            }
            if next.until > longest.until {
                longest = next;
            }
        }
    }

    /// A successor of a holder that died is told so, unless the key was taken away in between.
    fn deaths_are_told(&mut self, unit: &[Sure]) {
        for pair in unit.windows(2) {
            let (before, next) = (pair[0].hold, pair[1].hold);
            let Some(life) = self.history.lives.get(&before.id) else {
                continue;
            };
            let (Some(_), Some(gone)) = (life.end, life.gone) else {
                continue;
            };
            if before.give.is_some() || before.lost.is_some() || self.spec.tag.is_some() {
                continue;
            }
            if next.overran && life.may_look_alive(next.asked) {
                continue;
            }
            // With a lease, other holders may have had it in between and not got to tell: one that
            // took over while the one before lived, and one that was told of its death and then was
            // late itself.
            let by_lease = next.asked > gone && (next.token == before.token + 1 || !next.overran);
            let must_be_told = self.spec.lease.is_none() || by_lease;
            let pid = life.pid;
            match next.told_of {
                None if must_be_told => {
                    let what =
                        format!("process {pid} died holding, and its successor was not told");
                    self.complain(what, &[before, next]);
                }
                Some(told) if next.token == before.token + 1 && told != pid && told != 0 => {
                    let what = format!("process {pid} died holding, and process {told} is blamed");
                    self.complain(what, &[before, next]);
                }
                _ => {}
            }
        }
    }

    fn leases_where_there_are_leases(&mut self, hold: &Hold) {
        if hold.overran && self.spec.lease.is_none() {
            self.complain(
                "a holder was told of a lease, and it has none".to_owned(),
                &[hold],
            );
        }
    }

    /// No holder is told of the death of a process that lives.
    fn told_of_the_dead_only(&mut self, hold: &Hold) {
        let Some(pid) = hold.told_of.filter(|pid| *pid != 0) else {
            return;
        };
        let mut lives = self.history.lives.values().filter(|l| l.pid == pid);
        // Its end, as known, is not after its death: so one that ended later was alive.
        let died = lives.any(|l| l.end.is_some_and(|end| end <= hold.take));
        if !died {
            let what = format!("a holder was told that process {pid} died, which it had not");
            self.complain(what, &[hold]);
        }
    }

    fn losses_have_a_reason(&mut self, sure: &Sure) {
        let hold = sure.hold;
        for loss in &hold.losses {
            let by_lease = self.lease_over(loss.renewed, sure.granted);
            let by_lease = by_lease.is_some_and(|over| over <= loss.at);
            if !by_lease && self.cut_before(loss.at, hold).is_none() {
                self.complain("a hold was lost for no reason".to_owned(), &[hold]);
            }
        }
    }

    /// Each token once, all above those of earlier rounds, and above every token that was told of
    /// before its holder began to ask.
    fn tokens_grow(&mut self, all: &[&Sure]) {
        let mut seen = HashSet::new();
        for hold in all.iter().map(|sure| sure.hold) {
            if !seen.insert(hold.token) {
                let twins = all.iter().map(|sure| sure.hold);
                let twins: Vec<_> = twins.filter(|twin| twin.token == hold.token).collect();
                self.complain(format!("token {} was given twice", hold.token), &twins);
            }
            if hold.token <= self.carried.token {
                let (token, before) = (hold.token, self.carried.token);
                let what = format!("token {token} came in a later round than {before}");
                self.complain(what, &[hold]);
            }
        }
        let mut by_take: Vec<&Hold> = all.iter().map(|sure| sure.hold).collect();
        by_take.sort_by_key(|hold| hold.take);
        let mut by_asking = by_take.clone();
        by_asking.sort_by_key(|hold| hold.asked);
        let mut told = by_take.into_iter().peekable();
        let mut highest: Option<&Hold> = None;
        for hold in by_asking {
            while let Some(earlier) = told.next_if(|earlier| earlier.take <= hold.asked) {
                if highest.is_none_or(|highest| earlier.token > highest.token) {
                    highest = Some(earlier);
                }
            }
            if let Some(highest) = highest.filter(|highest| highest.token >= hold.token) {
                let what = format!("token {} came after {}", hold.token, highest.token);
                self.complain(what, &[highest, hold]);
            }
        }
    }

    /// Never more holders at once than permits, whatever permits they say they have.
    fn permits_suffice(&mut self, all: &[&Sure]) {
        let mut steps: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * all.len());
        let lasting = all
            .iter()
            .enumerate()
            .filter(|(_, s)| s.until > s.hold.take);
        for (at, sure) in lasting {
            steps.push((sure.hold.take, true, at));
            steps.push((sure.until, false, at));
        }
        // At one moment, leaving comes before entering.
        steps.sort_unstable();
        let mut inside: Vec<usize> = Vec::new();
        for (_, comes, at) in steps {
            match comes {
                true => inside.push(at),
                false => inside.retain(|other| *other != at),
            }
            if comes && inside.len() > self.spec.permits() as usize {
                let holds: Vec<_> = inside.iter().map(|at| all[*at].hold).collect();
                let (holders, permits) = (holds.len(), self.spec.permits());
                let what = format!("{holders} holders at once with a value of {permits}");
                self.complain(what, &holds);
            }
        }
    }
}
