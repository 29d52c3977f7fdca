//! What the primitives cost, beside something that every reader can judge: a bare compare-exchange
//! pair, a robust mutex, `flock`. Each comparison is measured interleaved, within one run.
//!
//! `cargo bench` takes about a minute. `cargo bench -- --only takeover` measures one group,
//! `--quick` takes a second or two and is what `cargo test --benches` does, `--json` prints one
//! object for programs.

mod child;
mod contention;
mod many_keys;
mod mutex;
mod recovery;
mod report;
mod run;
mod shared;
mod single;
mod storage;

use std::process::ExitCode;

use crate::report::{Report, Row};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    quick: bool,
}

impl Effort {
    /// As often as that, or a small share of it.
    pub fn times(self, full: u64) -> u64 {
        self.among(full, full.div_ceil(40))
    }

    /// One of the two.
    pub fn among<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

type Group = fn(Effort) -> Vec<Row>;

/// All groups, in the order of the table.
const GROUPS: [(&str, Group); 9] = [
    ("single", single::measure),
    ("hot", contention::measure),
    ("takeover", recovery::takeover),
    ("waiter", recovery::waiter),
    ("open", storage::open),
    ("first-use", storage::first_use),
    ("many-keys", many_keys::measure),
    ("size", storage::size),
    ("run", run::measure),
];

/// What was asked for.
struct Asked {
    effort: Effort,
    only: Option<String>,
    json: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == child::ROLE) {
        child::play(&args[1..]);
        return ExitCode::SUCCESS;
    }
    match parse(&args) {
        Ok(Some(asked)) => {
            measure(&asked);
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}

fn measure(asked: &Asked) {
    let wanted = |name: &str| asked.only.as_deref().is_none_or(|only| only == name);
    let mut report = Report::new(asked.json);
    for (name, group) in GROUPS.iter().filter(|(name, _)| wanted(name)) {
        report.add(name, group(asked.effort));
    }
    report.finish();
}

/// `None`: nothing is to be done. Without `--bench` it is `cargo test` that started this, with
/// arguments that are meant for tests.
fn parse(args: &[String]) -> Result<Option<Asked>, String> {
    let benching = args.iter().any(|arg| arg == "--bench");
    if args.iter().any(|arg| arg == "--list") {
        return Ok(None);
    }
    let mut asked = Asked {
        effort: Effort { quick: !benching },
        only: None,
        json: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--quick" => asked.effort.quick = true,
            "--json" => asked.json = true,
            "--only" => asked.only = Some(group_name(args.next())?),
            other if benching => return Err(format!("{other} is unknown; {USAGE}")),
            _ => {}
        }
    }
    Ok(Some(asked))
}

const USAGE: &str = "usage: cargo bench -- [--quick] [--json] [--only GROUP]";

fn group_name(name: Option<&String>) -> Result<String, String> {
    let names = GROUPS.map(|(name, _)| name);
    name.filter(|name| names.contains(&name.as_str()))
        .cloned()
        .ok_or_else(|| format!("--only takes one of {}", names.join(", ")))
}
