//! slablock side by side with what people use today. `README.md` has the commands.

mod args;
mod clock;
mod crew;
mod groups;
mod interrupt;
mod locks;
mod process;
mod python;
mod report;
mod stats;
mod temporary;
mod trace;
mod values;

use std::path::{Path, PathBuf};
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
    match work(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            let status = interrupt::signal().map_or(1, |signal| 128 + signal);
            ExitCode::from(status)
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
        ["trace", name, limit, store, steps, taken] => {
            trace::worker::play(name, limit, store, steps, taken);
        }
        _ => process::tell_answer(Err(format!("no part is called {args:?}").into())),
    }
}

fn work(args: Args) -> Answer<()> {
    let whole = !args.quick && args.only.is_empty();
    let place = Place::of(args.out.clone(), whole);
    if args.again {
        return place.keep(&Report::read(&place.dir)?);
    }
    interrupt::listen()?;
    let start = Instant::now();
    place.keep(&measure(args, start)?)?;
    eprintln!(
        "[{:3} s] written to {}",
        start.elapsed().as_secs(),
        place.dir.display()
    );
    Ok(())
}

fn measure(args: Args, start: Instant) -> Answer<Report> {
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
        seconds: Vec::new(),
    };
    println!("{}", report.machine.sentence());
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    for (name, group) in GROUPS.iter().filter(|(name, _)| wanted(name)) {
        eprintln!("[{:3} s] {name}", start.elapsed().as_secs());
        let begin = Instant::now();
        let measured = group(&run);
        interrupt::check()?;
        // A group that fails as a whole must not take the others with it.
        match measured {
            Ok(tables) => report.tables.extend(tables.into_iter().inspect(show)),
            Err(failure) => eprintln!("  {name} could not be measured: {failure}"),
        }
        report
            .seconds
            .push((name.to_string(), begin.elapsed().as_secs_f64()));
    }
    println!("\n{}", report.duration());
    Ok(report)
}

/// Where the figures go.
struct Place {
    dir: PathBuf,
    /// Which is to have some of them, too.
    page: Option<PathBuf>,
}

impl Place {
    /// As asked for; otherwise a whole run goes to the repository, and a part of one to where it cannot be
    /// taken for the whole.
    fn of(asked: Option<PathBuf>, whole: bool) -> Place {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = package.join("../..");
        let (dir, page) = match (asked, whole) {
            (Some(dir), _) => (dir, None),
            (None, true) => (
                repository.join("docs/benchmarks"),
                Some(repository.join("docs/performance.md")),
            ),
            (None, false) => (package.join("target/figures"), None),
        };
        Place { dir, page }
    }

    fn keep(&self, report: &Report) -> Answer<()> {
        report.write(&self.dir)?;
        match &self.page {
            Some(page) => report.write_into(page),
            None => Ok(()),
        }
    }
}

fn show(table: &report::Table) {
    println!("\n{}\n{}", table.title, as_text(table));
}
