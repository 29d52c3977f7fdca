//! What is measured. Each group is one question, and answers with tables.

mod commands;
mod correct;
mod death;
mod growing;
mod handover;
mod hot;
mod keys;
mod opening;
mod pair;
mod rounds;
mod stores;
mod tail;
mod trace;
mod traced;
mod values;
mod waiter;

use std::path::PathBuf;

pub use tail::write_and_sync;

use crate::Answer;
use crate::python::Python;
use crate::report::Table;

/// How long to measure, and where.
pub struct Run {
    pub quick: bool,
    pub dir: PathBuf,
    pub disk: PathBuf,
    pub python: Python,
}

impl Run {
    /// One of the two.
    pub fn among<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Says how far it is.
    pub fn progress(&self, what: impl std::fmt::Display) {
        eprintln!("  {what}");
    }
}

type Group = fn(&Run) -> Answer<Vec<Table>>;

/// All groups, in the order of the report.
pub const GROUPS: [(&str, Group); 13] = [
    ("correct", correct::measure),
    ("pair", pair::measure),
    ("hot", hot::measure),
    ("handover", handover::measure),
    ("takeover", death::measure),
    ("waiter", waiter::measure),
    ("keys", keys::measure),
    ("growing", growing::measure),
    ("open", opening::measure),
    ("values", values::measure),
    ("trace", trace::measure),
    ("tail", tail::measure),
    ("commands", commands::measure),
];

/// Their names.
pub fn names() -> [&'static str; GROUPS.len()] {
    GROUPS.map(|(name, _)| name)
}
