//! `slablock demo`: real processes on a temporary store, and an independent tally of what they did.
//!
//! Each act is a file of its own that holds both sides: what the demonstration does, and what each
//! of its processes does. The tally never comes from the store that it checks.

mod contend;
mod measure;
mod screen;
mod share;
mod stage;
mod takeover;

use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use screen::Screen;
use slablock::Cache;
use stage::{Stage, Worker};

use crate::args::WorkerArgs;
use crate::failure::{Failure, NO};

/// What one process of the demonstration does.
#[derive(Clone, Copy, ValueEnum)]
pub enum Role {
    /// Increment a plain file without any lock.
    CountFreely,
    /// Increment a plain file under a lock.
    CountLocked,
    /// Take a lock and keep it until killed.
    Hold,
    /// Take and give back a permit.
    Share,
    /// Add to an average.
    Measure,
}

/// The demonstration; its status is 1 if any check failed.
pub fn demo() -> Result<u8, Failure> {
    let started = Instant::now();
    let mut screen = Screen::new();
    screen.title("slablock demo: real processes on a temporary store")?;
    let stage = Stage::new()?;
    contend::perform(&stage, &mut screen)?;
    takeover::perform(&stage, &mut screen)?;
    share::perform(&stage, &mut screen)?;
    measure::perform(&stage, &mut screen)?;
    stage.clear_away()?;
    match screen.summary(started.elapsed())? {
        true => Ok(0),
        false => Ok(NO),
    }
}

/// One process of the demonstration.
pub fn work(dir: &Path, args: &WorkerArgs) -> Result<u8, Failure> {
    stage::die_with_master(args.master)?;
    let cache = Cache::open(dir)?;
    match args.role {
        Role::CountFreely => contend::work(&cache, args.work_ms, false)?,
        Role::CountLocked => contend::work(&cache, args.work_ms, true)?,
        Role::Hold => takeover::work(&cache)?,
        Role::Share => share::work(&cache, args.work_ms)?,
        Role::Measure => measure::work(&cache, args.work_ms)?,
    }
    Ok(0)
}
