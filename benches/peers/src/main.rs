//! slablock side by side with what people use today. `README.md` has the commands.

mod args;
mod clock;
mod crew;
mod groups;
mod locks;
mod process;
mod python;
mod report;
mod stats;
mod values;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::args::Args;
use crate::groups::{GROUPS, Run};
use crate::python::Python;
use crate::report::{Machine, Report, as_text};

/// Whatever went wrong: a peer that fails is told about, and nothing else is done.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Answer<T> = Result<T, Failure>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, args @ ..] = &args[..]
        && role == process::ROLE
    {
        play(args);
        return ExitCode::SUCCESS;
    }
    match measure(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the part of another process.
fn play(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["locks", dir, page] => locks::worker::play(dir, page),
        ["keyed", name, dir, keys] => locks::keyed::play(name, dir, keys),
        ["write", dir] => groups::write_and_sync(dir),
        ["values", name, dir, keys, shared] => values::worker::play(name, dir, keys, shared),
        _ => process::tell_answer(Err(format!("no part is called {args:?}").into())),
    }
}

fn measure(args: Args) -> Answer<()> {
    let start = Instant::now();
    let run = Run {
        quick: args.quick,
        dir: args.dir.unwrap_or_else(std::env::temp_dir),
        disk: args.disk.unwrap_or_else(std::env::temp_dir),
        python: Python::find(args.python),
    };
    let mut report = Report {
        machine: Machine::describe(&run.dir, &run.disk, &run.python),
        quick: run.quick,
        tables: Vec::new(),
    };
    println!("{}", report.machine.sentence());
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    for (name, group) in GROUPS.iter().filter(|(name, _)| wanted(name)) {
        eprintln!("[{:3} s] {name}", start.elapsed().as_secs());
        // A group that fails as a whole must not take the others with it.
        match group(&run) {
            Ok(tables) => report.tables.extend(tables.into_iter().inspect(show)),
            Err(failure) => eprintln!("  {name} could not be measured: {failure}"),
        }
    }
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks");
    let out = args.out.unwrap_or(usual);
    report.write(&out)?;
    eprintln!(
        "[{:3} s] written to {}",
        start.elapsed().as_secs(),
        out.display()
    );
    Ok(())
}

fn show(table: &report::Table) {
    println!("\n{}\n{}", table.title, as_text(table));
}
