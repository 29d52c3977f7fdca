//! What the demonstration shows: acts, live progress, checks, and the sum of them.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write, stdout};
use std::time::Duration;

use crate::text;

const BOLD: &str = "1";
const GREEN: &str = "32";
const RED: &str = "1;31";
/// To the start of the line, and clear it.
const START_OVER: &str = "\r\x1b[K";

pub struct Screen {
    is_live: bool,
    has_colour: bool,
    acts: u32,
    passed: u32,
    failed: u32,
}

impl Screen {
    pub fn new() -> Screen {
        let is_live = stdout().is_terminal();
        let colour_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen {
            is_live,
            has_colour: is_live && !colour_refused,
            acts: 0,
            passed: 0,
            failed: 0,
        }
    }

    pub fn title(&self, title: &str) -> io::Result<()> {
        writeln!(stdout(), "{}", self.painted(BOLD, title))
    }

    pub fn act(&mut self, title: impl Display) -> io::Result<()> {
        self.acts += 1;
        let title = self.painted(BOLD, &title.to_string());
        writeln!(stdout(), "\n{}. {title}", self.acts)
    }

    /// Shown until the next line; only to a terminal, for elsewhere it would be litter.
    pub fn progress(&self, text: impl Display) -> io::Result<()> {
        if !self.is_live {
            return Ok(());
        }
        let mut out = stdout().lock();
        write!(out, "{START_OVER}   {text}")?;
        out.flush()
    }

    pub fn note(&self, text: impl Display) -> io::Result<()> {
        writeln!(stdout(), "{}   {text}", self.start_over())
    }

    /// A line that the independent tally confirms, or does not.
    pub fn check(&mut self, text: impl Display, passed: bool) -> io::Result<()> {
        let verdict = match passed {
            true => self.painted(GREEN, "ok"),
            false => self.painted(RED, "FAILED"),
        };
        match passed {
            true => self.passed += 1,
            false => self.failed += 1,
        }
        let text = text.to_string();
        writeln!(stdout(), "{}   {text:<66} {verdict}", self.start_over())
    }

    /// The last line. Returns whether all checks passed.
    pub fn summary(&self, took: Duration) -> io::Result<bool> {
        let (all, took) = (self.passed + self.failed, text::span(took));
        let line = match self.failed {
            0 => self.painted(GREEN, &format!("all {all} checks passed")),
            failed => self.painted(RED, &format!("{failed} of {all} checks FAILED")),
        };
        writeln!(
            stdout(),
            "\n{line} in {took}; the tally was kept outside of the store"
        )?;
        Ok(self.failed == 0)
    }

    fn start_over(&self) -> &'static str {
        match self.is_live {
            true => START_OVER,
            false => "",
        }
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        match self.has_colour {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}
