//! `slablock run`: take, run, give back.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use slablock::{Cache, Ending, Error};

use crate::failure::{self, Failure};
use crate::hold::{Held, Wanted};
use crate::nesting::{self, Endless};
use crate::opening::{self, AT_ONCE, open_until};
use crate::passed::Passed;
use crate::place::Spot;
use crate::program::Program;
use crate::signals::{self, Signals};
use crate::supervise::{Ended, supervise};
use crate::text::{self, complain};
use crate::tree::{Running, Tree};
use crate::{child, holder};

/// Waiting in silence for longer makes people wonder.
const SILENCE: Duration = Duration::from_millis(500);
/// How often a waiter looks whether an ancestor of its own still holds the key.
const NEXT_LOOK: Duration = Duration::from_secs(1);
/// A shell's status for a command that a signal ended: this plus the signal's number.
pub const SIGNALLED: u8 = 128;

/// What `slablock run` is to do.
pub struct RunPlan {
    pub key: Vec<u8>,
    /// A semaphore with so many permits; a lock if `None`.
    pub permits: Option<u32>,
    pub patience: Patience,
    /// The exit status when the patience was in vain.
    pub conflict_status: u8,
    pub lease: Option<Duration>,
    pub tag: Option<Vec<u8>>,
    pub talk: Talk,
    /// Guards all that the command starts, by a keeper.
    pub tree: bool,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// How long to wait for others, from the start of the process on.
#[derive(Clone, Copy)]
pub enum Patience {
    None,
    Limited(Duration),
    Endless,
}

/// How much to say on standard error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Talk {
    Quiet,
    Normal,
    Verbose,
}

/// Runs the command under the hold and returns the status to exit with.
pub fn run(dir: &Path, plan: &RunPlan) -> Result<u8, Failure> {
    let signals = Signals::block(signals::catchable())?;
    let started = Instant::now();
    let cache = open(dir, plan, &signals, started)?;
    let spot = Spot::of(&cache, &plan.key)?;
    let held = take(&cache, plan, &signals, started)?.ok_or_else(|| in_vain(plan))?;
    plan.say(Talk::Verbose, || {
        let (waited, token) = (text::span(started.elapsed()), held.token());
        let dir = dir.display();
        format!(
            "acquired {} after {waited}, token {token}, in {dir}",
            plan.name()
        )
    });
    warn_of_predecessor(&held, plan);
    // If a signal has asked for an end meanwhile, the command is not started at all.
    if let Some(number) = signals.end_requested()? {
        held.release()?;
        return Ok(SIGNALLED + number as u8);
    }
    execute(dir, plan, held, &cache, &spot, &signals)
}

fn open(dir: &Path, plan: &RunPlan, signals: &Signals, started: Instant) -> Result<Cache, Failure> {
    let limit = match plan.patience {
        Patience::None => Some(AT_ONCE),
        Patience::Limited(limit) => Some(limit),
        Patience::Endless => None,
    };
    let until = limit.and_then(|limit| started.checked_add(limit));
    let message = opening::in_vain(dir, limit.unwrap_or_default());
    open_until(dir, until, plan.conflict(message), signals)
}

fn take(
    cache: &Cache,
    plan: &RunPlan,
    signals: &Signals,
    started: Instant,
) -> Result<Option<Held>, Failure> {
    let tag = plan.tag.as_deref();
    let wanted = Wanted::new(cache, &plan.key, plan.permits, plan.lease, tag);
    match wanted.try_acquire() {
        Ok(Some(held)) => return Ok(Some(held)),
        Ok(None) => {}
        // A waiter for the key waits for the end of that change, too.
        Err(Error::StructureBusy { .. }) if !matches!(plan.patience, Patience::None) => {}
        Err(error) => return Err(error.into()),
    }
    match plan.patience {
        Patience::None => Ok(None),
        // A waiter has nothing to tidy up, so the signals may simply end it.
        Patience::Limited(_) => signals.let_through(|| wait(cache, plan, &wanted, started))?,
        Patience::Endless => {
            refuse_ancestor(cache, plan)?;
            signals.let_through(|| wait(cache, plan, &wanted, started))?
        }
    }
}

/// Fails if waiting without a limit would never end: the holder waits for this process, or is dead
/// and this process keeps its hold in force.
fn refuse_ancestor(cache: &Cache, plan: &RunPlan) -> Result<(), Failure> {
    let why = match nesting::is_endless(cache, &plan.key)? {
        None => return Ok(()),
        Some(Endless::Waits(ancestor)) => format!(
            "it is held by {}, which waits for this command",
            holder::named(&ancestor)
        ),
        Some(Endless::Keeps(dead)) => format!(
            "{} died holding it, and this is part of what its command left behind and keeps it",
            holder::named(&dead)
        ),
    };
    let name = plan.name();
    Err(Failure::with_status(
        failure::FAILED,
        format!(
            "waiting for {name} would never end: {why}; use another key for one of the two, or limit \
             the wait with --timeout"
        ),
    ))
}

/// Waits without a limit. Looks again and again at a key that an ancestor of this process holds,
/// for this process itself may come to keep it.
fn wait_endlessly(cache: &Cache, plan: &RunPlan, wanted: &Wanted) -> Result<Held, Failure> {
    while nesting::is_listed(cache, &plan.key)? {
        if let Some(held) = wanted.acquire_timeout(NEXT_LOOK)? {
            return Ok(held);
        }
        refuse_ancestor(cache, plan)?;
    }
    Ok(wanted.acquire()?)
}

fn wait(
    cache: &Cache,
    plan: &RunPlan,
    wanted: &Wanted,
    started: Instant,
) -> Result<Option<Held>, Failure> {
    let limit = match plan.patience {
        Patience::Limited(limit) => limit.saturating_sub(started.elapsed()),
        _ => Duration::MAX,
    };
    let busy = match wanted.acquire_timeout(limit.min(SILENCE)) {
        Ok(Some(held)) => return Ok(Some(held)),
        Ok(None) => None,
        Err(error @ Error::StructureBusy { .. }) if limit > SILENCE => Some(error),
        Err(error) => return Err(error.into()),
    };
    if limit <= SILENCE {
        return Ok(None);
    }
    plan.say(Talk::Normal, || match busy {
        Some(error) => format!("waiting for {}: {error}", plan.name()),
        None => waiting_for(cache, plan),
    });
    Ok(match plan.patience {
        Patience::Limited(_) => wanted.acquire_timeout(limit - SILENCE)?,
        _ => Some(wait_endlessly(cache, plan, wanted)?),
    })
}

fn waiting_for(cache: &Cache, plan: &RunPlan) -> String {
    let name = plan.name();
    match cache.key_info(&plan.key) {
        // This process is between two waits, so the others are counted and it is not.
        Ok(Some(info)) => format!(
            "waiting for {name}: {}, {} waiting",
            holder::what_keeps(&info),
            info.waiters + 1
        ),
        _ => format!("waiting for {name}"),
    }
}

fn in_vain(plan: &RunPlan) -> Failure {
    let name = plan.name();
    let message = match plan.patience {
        Patience::Limited(limit) => {
            let limit = text::span(limit);
            format!("{name} was still held after {limit}; wait longer with a larger --timeout")
        }
        _ => format!("{name} is held; wait for it with --timeout or without --nonblock"),
    };
    plan.conflict(message)
}

fn warn_of_predecessor(held: &Held, plan: &RunPlan) {
    let Some(before) = held.predecessor() else {
        return;
    };
    plan.say(Talk::Normal, || {
        let what = match before.why {
            Ending::Died => "died holding it: look for half-done work",
            _ => "let its lease run out and may still run",
        };
        let (name, holder) = (plan.name(), holder::named(&before.holder));
        format!("the last holder of {name}, {holder}, {what}")
    });
}

fn execute(
    dir: &Path,
    plan: &RunPlan,
    held: Held,
    cache: &Cache,
    spot: &Spot,
    signals: &Signals,
) -> Result<u8, Failure> {
    // Nothing runs yet: where this fails, the hold is given back.
    let mut child = start(dir, plan, &held, cache, signals)?;
    match supervise(&mut child, &held, plan.lease, signals) {
        Ok(ended) => {
            let in_place = spot.check_in_place();
            let status = finish(held, plan, &ended)?;
            in_place.map(|()| status)
        }
        Err(failure) => {
            child.kill();
            let _ = child.wait();
            held.leave();
            Err(failure)
        }
    }
}

fn start(
    dir: &Path,
    plan: &RunPlan,
    held: &Held,
    cache: &Cache,
    signals: &Signals,
) -> Result<Running, Failure> {
    let lifeline = cache.lifeline_of(&plan.key)?;
    child::learn_of_ends()?;
    let token = held.token().to_string();
    let holds = nesting::with_hold(cache, &plan.key, held.token(), plan.tree)?;
    let variables = [
        ("SLABLOCK_DIR", dir.as_os_str()),
        ("SLABLOCK_KEY", OsStr::from_bytes(&plan.key)),
        ("SLABLOCK_TOKEN", OsStr::new(&token)),
        (nesting::VARIABLE, OsStr::new(&holds)),
    ];
    let mask = signals.mask_before();
    if plan.tree {
        return Ok(Running::Kept(Tree::start(
            &plan.command,
            &variables,
            &mask,
            &lifeline,
        )?));
    }
    let lifeline = Passed::Lifeline(&lifeline);
    Program::new(&plan.command, &variables)
        .and_then(|program| child::start(&program, &mask, lifeline, None))
        .map(Running::Alone)
        .map_err(|error| not_started(&plan.command[0], &error))
}

pub fn not_started(program: &OsString, error: &io::Error) -> Failure {
    let program = text::quoted(program.as_bytes());
    match error.kind() {
        io::ErrorKind::NotFound => Failure::with_status(
            failure::NOT_FOUND,
            format!("command {program} was not found; check its name and PATH"),
        ),
        _ => Failure::with_status(
            failure::NOT_EXECUTABLE,
            format!("command {program} could not be started: {error}"),
        ),
    }
}

/// Gives the hold back if the command came to an end of its own, or else leaves it to what is left
/// of the command.
fn finish(held: Held, plan: &RunPlan, ended: &Ended) -> Result<u8, Failure> {
    let still_held = match ended.status.signal() {
        // Explicitly, for a daemon that the command left behind has the lifeline.
        None => held.release(),
        // The command had no say in what it left behind, which may still be doing the same work.
        Some(_) => {
            let still_held = held.check();
            held.leave();
            still_held
        }
    };
    if ended.lost {
        return Ok(failure::LOST);
    }
    match still_held {
        Ok(()) => Ok(status_of(ended.status)),
        Err(error @ Error::Lost { .. }) => Err(Failure::with_status(
            failure::LOST,
            format!("the command ran to its end, but not alone: {error}"),
        )),
        Err(error) => {
            complain(format_args!("{} was not given back: {error}", plan.name()));
            Ok(status_of(ended.status))
        }
    }
}

pub fn status_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => SIGNALLED + signal as u8,
        // Neither ended nor killed: wait never says so.
        (None, None) => failure::FAILED,
    }
}

impl RunPlan {
    fn name(&self) -> String {
        text::quoted(&self.key)
    }

    /// The failure when the key was not available in time.
    fn conflict(&self, message: String) -> Failure {
        match self.talk {
            Talk::Quiet => Failure::silent(self.conflict_status),
            _ => Failure::with_status(self.conflict_status, message),
        }
    }

    fn say(&self, from: Talk, message: impl FnOnce() -> String) {
        if self.talk >= from {
            complain(message());
        }
    }
}
