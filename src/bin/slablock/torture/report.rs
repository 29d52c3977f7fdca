//! What a run shows: progress while it lasts, the sum of it at the end, and evidence when it
//! failed.

use std::io::{self, IsTerminal, Write, stdout};
use std::time::{Duration, Instant};
use std::{env, fmt};

use serde::Serialize;

use super::oracle::Facts;
use crate::text::{grouped, span};

/// How often a terminal is told, and how often anything else.
const LIVE: Duration = Duration::from_millis(200);
const PLAIN: Duration = Duration::from_secs(5);
/// To the start of the line, and clear it.
const START_OVER: &str = "\r\x1b[K";
const GREEN: &str = "32";
const RED: &str = "1;31";

/// Everything about a run. As JSON, under these names.
#[derive(Serialize, Default)]
pub struct Summary {
    pub dir: String,
    pub seed: u64,
    pub processes: usize,
    pub seconds: f64,
    pub rounds: u64,
    pub kills: u64,
    pub stops: u64,
    pub forks: u64,
    pub execs: u64,
    pub holds: u64,
    /// Successors that were told of a dead holder.
    pub recoveries: u64,
    /// Successors that were told of a holder with a lease that was over.
    pub expired_leases: u64,
    pub holds_lost: u64,
    pub forced_removals: u64,
    pub values_added: u64,
    /// Takeovers by processes that waited when a holder was killed.
    pub takeovers: u64,
    pub worst_takeover_ms: f64,
    pub longest_wait_ms: f64,
    pub violations: u64,
    /// Whether `check` found the stores sound after every round.
    pub is_sound: bool,
}

impl Summary {
    pub fn add(&mut self, facts: &Facts) {
        self.rounds += 1;
        self.forks += facts.forks;
        self.execs += facts.execs;
        self.holds += facts.holds;
        self.recoveries += facts.recoveries;
        self.expired_leases += facts.expiries;
        self.holds_lost += facts.lost;
        self.forced_removals += facts.removals;
        self.values_added += facts.values_added;
        self.takeovers += facts.takeovers;
        let ms = |ns: u64| ns as f64 / 1e6;
        self.worst_takeover_ms = self.worst_takeover_ms.max(ms(facts.worst_takeover_ns));
        self.longest_wait_ms = self.longest_wait_ms.max(ms(facts.longest_wait_ns));
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        vec![
            ("kills", grouped(self.kills)),
            ("stops", grouped(self.stops)),
            ("forks while holding", grouped(self.forks)),
            ("execs while holding", grouped(self.execs)),
            ("holds", grouped(self.holds)),
            ("recoveries", grouped(self.recoveries)),
            ("expired leases", grouped(self.expired_leases)),
            ("holds lost", grouped(self.holds_lost)),
            ("forced removals", grouped(self.forced_removals)),
            ("values added", grouped(self.values_added)),
            (
                "worst takeover",
                format!(
                    "{:.1} ms of {}",
                    self.worst_takeover_ms,
                    grouped(self.takeovers)
                ),
            ),
            ("longest wait", format!("{:.1} ms", self.longest_wait_ms)),
            (
                "check",
                match self.is_sound {
                    true => "sound".to_owned(),
                    false => "NOT SOUND".to_owned(),
                },
            ),
        ]
    }
}

pub struct Report {
    is_live: bool,
    has_colour: bool,
    is_silent: bool,
    started: Instant,
    shown: Instant,
}

impl Report {
    /// `is_silent`: nothing but the JSON at the end.
    pub fn new(is_silent: bool) -> Report {
        let is_live = stdout().is_terminal();
        let colour_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let now = Instant::now();
        Report {
            is_live,
            has_colour: is_live && !colour_refused,
            is_silent,
            started: now,
            shown: now,
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn line(&self, text: impl fmt::Display) -> io::Result<()> {
        match self.is_silent {
            true => Ok(()),
            false => writeln!(stdout(), "{}{text}", self.start_over()),
        }
    }

    /// Shows now and then how far the run has come.
    pub fn progress(&mut self, summary: &Summary, kills: u64) -> io::Result<()> {
        let interval = if self.is_live { LIVE } else { PLAIN };
        if self.is_silent || self.shown.elapsed() < interval {
            return Ok(());
        }
        self.shown = Instant::now();
        let text = format!(
            "{}: {} kills, {} holds, {} recoveries, worst takeover {:.1} ms, {} violations",
            span(self.elapsed()),
            grouped(kills),
            grouped(summary.holds),
            grouped(summary.recoveries),
            summary.worst_takeover_ms,
            summary.violations
        );
        let mut out = stdout().lock();
        match self.is_live {
            true => write!(out, "{START_OVER}{text}")?,
            false => writeln!(out, "{text}")?,
        }
        out.flush()
    }

    pub fn summary(&self, summary: &Summary, as_json: bool) -> io::Result<()> {
        if as_json {
            let json = serde_json::to_string_pretty(summary).map_err(io::Error::other)?;
            return writeln!(stdout(), "{json}");
        }
        self.line("")?;
        for (name, value) in summary.lines() {
            writeln!(stdout(), "{name:<20} {value}")?;
        }
        let verdict = match summary.violations {
            0 => self.painted(GREEN, "0"),
            count => self.painted(RED, &count.to_string()),
        };
        let took = span(self.elapsed());
        writeln!(stdout(), "{:<20} {verdict}, in {took}", "violations")
    }

    fn start_over(&self) -> &'static str {
        match self.is_live {
            true => START_OVER,
            false => "",
        }
    }

    pub fn painted(&self, colour: &str, text: &str) -> String {
        match self.has_colour {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}
