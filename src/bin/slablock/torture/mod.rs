//! `slablock torture`: processes that are killed and stopped at any moment, and a judge outside of
//! the store that compares what they say.
//!
//! A run is made of rounds. In a round workers take, hold, add, remove and fork, and are killed,
//! stopped and replaced; each writes what it does into a journal, a plain file. When no worker is
//! left, one process takes everything once more, `check` looks at the stores, and the oracle judges
//! the journal. The stores continue into the next round as they are.

mod guard;
mod journal;
mod oracle;
mod random;
mod report;
mod site;
mod torturer;
mod worker;

use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::process::id as pid_of_this_process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use journal::{Line, now_ns};
use oracle::{Leftovers, Oracle, Violation};
use report::{Report, Summary};
use site::{COUNTERS, Handle, Site};
use torturer::{Ended, Torturer};
use worker::swapped_count;
pub use worker::{WorkerPlan, resume};

use crate::args::TortureArgs;
use crate::failure::{Failure, NO};
use crate::signals::{self, Signals};
use crate::temporary::TemporaryDir;
use crate::text;

/// Long enough for things to happen, short enough for its journal to be small.
const ROUND: Duration = Duration::from_secs(2);
/// More violations of one round say less.
const VIOLATIONS_SHOWN: usize = 5;

/// What was asked for.
pub struct Plan {
    /// Below which directory the stores are to be.
    pub parent: Option<PathBuf>,
    pub processes: usize,
    pub time: Duration,
    pub seed: u64,
    pub kills_per_second: f64,
    pub bound: Duration,
    pub json: bool,
}

impl Plan {
    pub fn of(parent: Option<PathBuf>, args: TortureArgs) -> Plan {
        Plan {
            parent,
            processes: args.processes,
            time: args.seconds,
            seed: args.seed.unwrap_or_else(any_seed),
            kills_per_second: args.kills,
            bound: args.bound,
            json: args.json,
        }
    }
}

/// A seed that need not be secret, only another one each time.
fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |time| time.as_nanos() as u64);
    // Short enough to be typed.
    (nanos ^ u64::from(pid_of_this_process()).rotate_left(20)) % 1_000_000_000
}

/// Tortures; its status is 1 if anything was violated.
pub fn torture(plan: &Plan) -> Result<u8, Failure> {
    let signals = Signals::block(signals::ending())?;
    let parent = plan
        .parent
        .as_deref()
        .map(std::path::absolute)
        .transpose()?;
    parent.as_deref().map_or(Ok(()), make_place)?;
    let dir = TemporaryDir::new(parent.as_deref(), "slablock-torture")?;
    let mut run = Run::new(plan, dir.path())?;
    let outcome = run.rounds(plan, &signals)?;
    run.report.summary(&run.summary, plan.json)?;
    drop(run);
    match outcome {
        Outcome::Violated => {
            let kept = dir.keep();
            text::complain(format_args!("all of it is in {}", kept.display()));
            Ok(NO)
        }
        Outcome::Passed => dir.remove().map(|()| 0),
        Outcome::Interrupted(number) => {
            dir.remove()?;
            Err(Failure::silent(128 + number as u8))
        }
    }
}

/// Makes the directory that was named, if it is missing. It stays, for other programs may be using
/// it.
fn make_place(place: &Path) -> Result<(), Failure> {
    fs::create_dir_all(place).map_err(|error| {
        let place = place.display();
        Failure::new(format!(
            "cannot create {place}: {error}; name another place with --dir"
        ))
    })
}

enum Outcome {
    Passed,
    Violated,
    Interrupted(c_int),
}

struct Run {
    site: Site,
    oracle: Oracle,
    report: Report,
    summary: Summary,
}

impl Run {
    fn new(plan: &Plan, dir: &Path) -> Result<Run, Failure> {
        let site = Site::open(dir)?;
        Ok(Run {
            oracle: Oracle::new(&site.keys, plan.bound),
            report: Report::new(plan.json),
            summary: Summary {
                dir: dir.display().to_string(),
                seed: plan.seed,
                processes: plan.processes,
                is_sound: true,
                ..Summary::default()
            },
            site,
        })
    }

    fn rounds(&mut self, plan: &Plan, signals: &Signals) -> Result<Outcome, Failure> {
        self.report.line(format_args!(
            "slablock torture: {} processes in {} for {}, seed {}",
            plan.processes,
            self.summary.dir,
            text::span(plan.time),
            plan.seed
        ))?;
        let (seed, kills) = (plan.seed, plan.kills_per_second);
        let mut torturer = Torturer::new(&self.site, signals, seed, plan.processes, kills)?;
        loop {
            let left = plan.time.saturating_sub(self.report.elapsed());
            if left.is_zero() {
                return Ok(Outcome::Passed);
            }
            let until_ns = now_ns()? + left.min(ROUND).as_nanos() as u64;
            let (report, summary) = (&mut self.report, &self.summary);
            let ended = torturer.round(until_ns, |kills| Ok(report.progress(summary, kills)?))?;
            worker::take_everything(&self.site, seed, plan.bound)?;
            (self.summary.kills, self.summary.stops) = (torturer.kills, torturer.stops);
            let violations = judge(&self.site, &mut self.oracle, &mut self.summary)?;
            self.summary.seconds = self.report.elapsed().as_secs_f64();
            if !violations.is_empty() {
                tell(&violations);
                return Ok(Outcome::Violated);
            }
            if let Ended::Interrupted(number) = ended {
                return Ok(Outcome::Interrupted(number));
            }
        }
    }
}

/// Judges the round that is over. Returns each violation with its evidence.
fn judge(site: &Site, oracle: &mut Oracle, summary: &mut Summary) -> Result<Vec<String>, Failure> {
    let mut told: Vec<String> = fs::read_to_string(Site::complaints_path(&site.dir))?
        .lines()
        .map(str::to_owned)
        .collect();
    let problems = match site.problems() {
        Ok(problems) => problems,
        Err(error) => vec![error.to_string()],
    };
    summary.is_sound &= problems.is_empty();
    told.extend(problems);
    let lines = journal::read(&Site::journal_path(&site.dir))?;
    let (facts, violations) = oracle.judge(&lines, &leftovers(site, &mut told)?);
    summary.add(&facts);
    told.extend(violations.iter().map(|v| with_evidence(oracle, v, &lines)));
    summary.violations += told.len() as u64;
    if told.is_empty() {
        site.journal.clear()?;
    }
    Ok(told)
}

fn with_evidence(oracle: &Oracle, violation: &Violation, lines: &[Line]) -> String {
    let evidence = oracle.evidence(violation, lines).join("\n    ");
    format!("{}\n    {evidence}", violation.what)
}

fn tell(violations: &[String]) {
    for violation in violations.iter().take(VIOLATIONS_SHOWN) {
        text::complain(format_args!("violation: {violation}"));
    }
    if let Some(more) = violations.len().checked_sub(VIOLATIONS_SHOWN + 1) {
        text::complain(format_args!("and {} more", more + 1));
    }
}

/// What is there when no worker is left. What cannot be read is told.
fn leftovers(site: &Site, told: &mut Vec<String>) -> Result<Leftovers, Failure> {
    let mut leftovers = Leftovers::default();
    for key in 0..site.keys.len() {
        let counter = match site.counter(key) {
            Some(_) => Some(site.read_counter(key)?),
            None => None,
        };
        leftovers.counters.push(counter);
        let sum = match &site.handles[key] {
            Handle::Average(average) => match average.summary() {
                Ok(seen) => Some(seen.map_or((0, 0.0), |seen| (seen.count, seen.total))),
                Err(error) => {
                    told.push(error.to_string());
                    None
                }
            },
            _ => None,
        };
        leftovers.sums.push(sum);
    }
    for (name, count) in COUNTERS.iter().zip(&mut leftovers.counts) {
        match site.values.get(name) {
            Ok(bytes) => {
                let bytes = bytes.unwrap_or_default();
                *count = swapped_count(&bytes).unwrap_or_default();
            }
            Err(error) => told.push(error.to_string()),
        }
    }
    Ok(leftovers)
}

impl Site {
    fn read_counter(&self, key: usize) -> io::Result<u64> {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; 8];
        match self.counter(key) {
            Some(file) => file.read_at(&mut bytes, 0)?,
            None => 0,
        };
        Ok(u64::from_le_bytes(bytes))
    }
}
