//! The command line: coordinate programs of one machine through a directory.
//!
//! `args` holds what was typed, `task` what it means; every other file carries out one kind of
//! task through the library's public interface. This file turns one `Result` into an exit status.

mod admin;
mod args;
mod average;
mod capture;
mod child;
mod demo;
mod failure;
mod hold;
mod holder;
mod memo;
mod nesting;
mod opening;
mod output;
mod own;
mod passed;
mod place;
mod processes;
mod program;
mod run;
mod seconds;
mod sight;
mod signals;
mod snapshot;
mod start;
mod status;
mod supervise;
mod task;
mod temporary;
mod text;
mod torture;
mod tree;
mod users;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = start::refuse_large_files()
        .map_err(failure::Failure::from)
        .and_then(|()| args::Cli::typed())
        .and_then(args::Cli::into_task)
        .and_then(task::Task::carry_out);
    match done {
        Ok(status) => ExitCode::from(status),
        Err(failure) => failure.report(),
    }
}
