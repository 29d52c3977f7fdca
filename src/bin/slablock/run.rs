//! `slablock run`: take, run, give back.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::Path,
    process::ExitStatus,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use slablock::Error;

use crate::{
    child::{self, Program},
    failure::{self, Failure},
    hold::{Held, Wanted},
    holder,
    place::Place,
    signals::Signals,
    supervise::{Ended, supervise},
    text::{self, complain},
};

/// Waiting in silence for longer makes people wonder.
const SILENCE: Duration = Duration::from_millis(500);
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
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// How long to wait for others.
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
    run_guarded(dir, plan).map_err(Failure::of_run)
}

fn run_guarded(dir: &Path, plan: &RunPlan) -> Result<u8, Failure> {
    let signals = Signals::block()?;
    let place = Place::open_or_create(dir)?;
    let started = Instant::now();
    let held = take(&place, plan, &signals)?.ok_or_else(|| in_vain(plan))?;
    plan.say(Talk::Verbose, || {
        let (waited, token) = (text::span(started.elapsed()), held.token());
        format!("acquired {} after {waited}, token {token}", plan.name())
    });
    warn_of_predecessor(&held, plan);
    // Whoever asked us to end meanwhile does not want the command started at all.
    if let Some(signal) = signals.end_requested()? {
        held.release()?;
        return Ok(SIGNALLED + signal as u8);
    }
    let ended = execute(dir, plan, &held, &place, &signals)?;
    give_back(held, plan, &ended)
}

fn take(place: &Place, plan: &RunPlan, signals: &Signals) -> Result<Option<Held>, Failure> {
    let shard = place.shard(&plan.key);
    let tag = plan.tag.as_deref();
    let wanted = Wanted::new(shard, &plan.key, plan.permits, plan.lease, tag);
    match wanted.try_acquire() {
        Ok(Some(held)) => return Ok(Some(held)),
        Ok(None) => {}
        // Who waits for a key waits for that, too.
        Err(Error::StructureBusy { .. }) if !matches!(plan.patience, Patience::None) => {}
        Err(error) => return Err(error.into()),
    }
    match plan.patience {
        Patience::None => Ok(None),
        // A waiter has nothing to tidy up, so the signals may simply end it.
        _ => signals.let_through(|| wait(place, plan, &wanted))?,
    }
}

fn wait(place: &Place, plan: &RunPlan, wanted: &Wanted) -> Result<Option<Held>, Failure> {
    let limit = match plan.patience {
        Patience::Limited(limit) => limit,
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
        None => waiting_for(place, plan),
    });
    Ok(match plan.patience {
        Patience::Limited(limit) => wanted.acquire_timeout(limit - SILENCE)?,
        _ => Some(wanted.acquire()?),
    })
}

fn waiting_for(place: &Place, plan: &RunPlan) -> String {
    let name = plan.name();
    match place.shard(&plan.key).key(&plan.key) {
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
    if plan.talk == Talk::Quiet {
        return Failure::silent(plan.conflict_status).chosen();
    }
    let name = plan.name();
    let message = match plan.patience {
        Patience::Limited(limit) => {
            let limit = text::span(limit);
            format!("{name} was still held after {limit}; wait longer with a larger --timeout")
        }
        _ => format!("{name} is held; wait for it with --timeout or without --nonblock"),
    };
    Failure::with_status(plan.conflict_status, message).chosen()
}

fn warn_of_predecessor(held: &Held, plan: &RunPlan) {
    let name = plan.name();
    if let Some(dead) = held.recovered() {
        plan.say(Talk::Normal, || {
            let dead = holder::named(dead);
            format!("the last holder of {name}, {dead}, died holding it: look for half-done work")
        });
    }
    if let Some(late) = held.overran() {
        plan.say(Talk::Normal, || {
            let late = holder::named(late);
            format!("the last holder of {name}, {late}, let its lease run out and may still run")
        });
    }
}

fn execute(
    dir: &Path,
    plan: &RunPlan,
    held: &Held,
    place: &Place,
    signals: &Signals,
) -> Result<Ended, Failure> {
    let lifeline = place.shard(&plan.key).lifeline()?;
    child::learn_of_ends()?;
    let token = held.token().to_string();
    let variables = [
        ("SLABLOCK_DIR", dir.as_os_str()),
        ("SLABLOCK_KEY", OsStr::from_bytes(&plan.key)),
        ("SLABLOCK_TOKEN", OsStr::new(&token)),
    ];
    let mut child = Program::new(&plan.command, &variables)
        .and_then(|program| program.start(&signals.mask_before(), &lifeline, None))
        .map_err(|error| not_started(&plan.command[0], &error))?;
    let ended = supervise(&mut child, held, plan.lease, signals);
    if ended.is_err() {
        // The hold ends with this process, so the command must end before.
        child.send(Signal::SIGKILL);
        let _ = child.wait();
    }
    ended
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

/// Says explicitly that the hold is over: a daemon that the command left behind has the lifeline.
fn give_back(held: Held, plan: &RunPlan, ended: &Ended) -> Result<u8, Failure> {
    let released = held.release();
    if ended.lost {
        return Ok(failure::LOST);
    }
    match released {
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
        (None, None) => failure::RUN_FAILED,
    }
}

impl RunPlan {
    fn name(&self) -> String {
        text::quoted(&self.key)
    }

    fn say(&self, from: Talk, message: impl FnOnce() -> String) {
        if self.talk >= from {
            complain(message());
        }
    }
}
