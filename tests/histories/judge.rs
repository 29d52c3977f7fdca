//! Whether the history of a pair is linearizable, by the checker of `todc-utils` (the algorithm of
//! Wing and Gong, with Lowe's memory), and what to show if it is not.

use std::fmt::Write;

use todc_utils::{Action, History, WGLChecker};

use crate::model::{Operation, Pair};
use crate::operation::{Call, Outcome, State, What};
use crate::tape::Record;

/// What a pair had when all was quiet, and what was done to it since, in the order in which it
/// began.
pub struct Story {
    pub begins_with: State,
    pub records: Vec<Record>,
}

/// A story in which there is no order of the operations that explains what came of each.
pub struct Violation {
    /// The shortest beginning of it that is one already.
    pub shortest: Story,
}

impl Story {
    pub fn judge(self) -> Result<(), Box<Violation>> {
        match self.is_linearizable() {
            true => Ok(()),
            false => Err(Box::new(Violation {
                shortest: self.shortest(),
            })),
        }
    }

    /// What the last looks at both keys saw.
    pub fn ends_with(&self) -> State {
        [0, 1].map(|key| {
            let is_look = |r: &&Record| r.call == Call::of(What::Get, key);
            let look = self.records.iter().rfind(is_look);
            look.and_then(|record| record.outcome.seen[0])
        })
    }

    pub fn is_linearizable(&self) -> bool {
        WGLChecker::<Pair>::is_linearizable(History::from_actions(self.actions()))
    }

    /// Calls and ends in the order of their tickets. What has no end ends last, so that it can have
    /// happened at any time.
    fn actions(&self) -> Vec<(usize, Action<Operation>)> {
        let found = Record {
            strip: 0,
            pair: 0,
            begin: 0,
            end: Some(0),
            call: Call::both(What::Found, self.begins_with),
            outcome: Outcome::DONE,
        };
        let mut actions = Vec::new();
        // The checker tells calls and ends that belong together by a number.
        for (number, record) in [&found].into_iter().chain(&self.records).enumerate() {
            let operation = Operation {
                call: record.call,
                outcome: record.outcome,
            };
            let end = record.end.unwrap_or(u64::MAX);
            actions.push((record.begin, (number, Action::Call(operation))));
            actions.push((end, (number, Action::Response(operation))));
        }
        actions.sort_by_key(|(ticket, _)| *ticket);
        actions.into_iter().map(|(_, action)| action).collect()
    }

    /// As it was known after the end with that ticket: what had not ended may have happened or not.
    fn until(&self, ticket: u64) -> Story {
        let begun = self.records.iter().filter(|record| record.begin <= ticket);
        let records = begun.cloned().map(|record| match record.end {
            Some(end) if end <= ticket => record,
            _ => Record {
                end: None,
                outcome: Outcome::UNKNOWN,
                ..record
            },
        });
        Story {
            begins_with: self.begins_with,
            records: records.collect(),
        }
    }

    /// If a beginning cannot be explained nothing that follows makes good for it.
    fn shortest(&self) -> Story {
        let mut ends: Vec<u64> = self.records.iter().filter_map(|r| r.end).collect();
        ends.sort_unstable();
        let sound = ends.partition_point(|end| self.until(*end).is_linearizable());
        self.until(ends[sound])
    }
}

impl Violation {
    /// The last line to end is the one that nothing explains.
    pub fn shown(&self) -> String {
        let Story {
            begins_with: [a, b],
            records,
        } = &self.shortest;
        let [a, b] = [*a, *b].map(crate::value::shown);
        let mut text = format!("a {a}, b {b}\n");
        let last = records.iter().filter_map(|r| r.end).max();
        for record in records {
            let end = record.end.map_or("".to_string(), |end| end.to_string());
            let mark = if record.end == last { "  <==" } else { "" };
            let outcome = match record.end {
                None => "no end, or a later one".to_string(),
                Some(_) => record.outcome.shown(&record.call),
            };
            let _ = writeln!(
                text,
                "{:>2} {:>8} {end:>8}  {}: {outcome}{mark}",
                record.strip, record.begin, record.call
            );
        }
        text
    }
}
