//! The command lines: how long one takes that has nothing to do, and what is left when it is killed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Run;
use super::rounds::Rounds;
use crate::report::{Cell, Table};
use crate::{Answer, temporary};

const ABOUT: &str = "From the start of the program to its end, when all it does is take a free lock and \
    run `true`. Then it runs `sleep`, and is killed with SIGKILL: does its command go on, and is the \
    lock free for the next one within a second?";

/// What runs a command under a lock, in that directory.
type Runner = fn(&Path, &[&str]) -> Option<Command>;

/// For comparison.
const BY_ITSELF: &str = "the command by itself";

const RUNNERS: [(&str, Runner); 5] = [
    (BY_ITSELF, |_, command| {
        let mut itself = Command::new(command.first()?);
        itself.args(&command[1..]);
        Some(itself)
    }),
    ("flock", |dir, command| {
        let mut flock = Command::new("flock");
        flock.arg(dir.join("flock")).args(command);
        Some(flock)
    }),
    ("GNU sem", |dir, command| {
        let mut sem = Command::new("sem");
        // It keeps its files in the home directory.
        sem.env("HOME", dir)
            .env("PARALLEL_HOME", dir.join("parallel"));
        sem.args(["--will-cite", "--fg", "--id", "peers"])
            .args(command);
        Some(sem)
    }),
    ("slablock run", |dir, command| run(&built()?, dir, command)),
    ("slablock run, static", |dir, command| {
        run(&built_statically()?, dir, command)
    }),
];

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let dir = temporary::directory(&run.dir)?;
    let mut rounds = Rounds::of(RUNNERS.len());
    for round in 0..run.among(50, 5) {
        if round % 20 == 0 {
            run.progress(format!("starting commands, round {}", round + 1));
        }
        rounds.go(|who| start_ms(RUNNERS[who].1, dir.path()));
    }
    let columns = [
        ("start to end", "ms"),
        ("killed: its command goes on", ""),
        ("killed: the lock is free", ""),
    ];
    let mut table = Table::new("commands", "Commands", ABOUT, &columns);
    for ((name, runner), times) in RUNNERS.iter().zip(rounds.finish()) {
        match times {
            // The first one made the files.
            Ok(times) => {
                let mut row = vec![Cell::median(Ok(times[1..].to_vec()), 1.0)];
                row.extend(killed(name, *runner, dir.path()));
                table.row(name, row);
            }
            Err(failure) => table.missing(name, &failure.to_string()),
        }
    }
    Ok(vec![table])
}

fn command(runner: Runner, dir: &Path, what: &[&str]) -> Answer<Command> {
    let mut command = runner(dir, what).ok_or("not built (see README.md)")?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    Ok(command)
}

fn start_ms(runner: Runner, dir: &Path) -> Answer<f64> {
    let mut command = command(runner, dir, &["true"])?;
    let start = Instant::now();
    let status = command.status().map_err(|_| "not installed")?;
    match status.success() {
        true => Ok(start.elapsed().as_secs_f64() * 1e3),
        false => Err(format!("it failed with {status}").into()),
    }
}

/// Whether what it ran goes on, and whether the lock is free.
fn killed(name: &str, runner: Runner, dir: &Path) -> [Cell; 2] {
    if name == BY_ITSELF {
        return [Cell::said("-"), Cell::said("-")];
    }
    match kill_runner(runner, dir) {
        Ok(answers) => answers.map(|yes| Cell::said(if yes { "yes" } else { "no" })),
        Err(failure) => [0, 1].map(|_| Cell::Missing(failure.to_string())),
    }
}

fn kill_runner(runner: Runner, dir: &Path) -> Answer<[bool; 2]> {
    let mut first = command(runner, dir, &["sleep", "2"])?.spawn()?;
    thread::sleep(Duration::from_millis(400));
    let descendants = descendants(first.id());
    first.kill()?;
    first.wait()?;
    thread::sleep(Duration::from_millis(50));
    let goes_on = descendants.iter().any(|process| sleeps(*process));
    let mut second = command(runner, dir, &["true"])?.spawn()?;
    let free = ends_within(&mut second, Duration::from_secs(1))?;
    second.kill()?;
    second.wait()?;
    Ok([goes_on, free])
}

fn ends_within(child: &mut Child, time: Duration) -> Answer<bool> {
    let start = Instant::now();
    while start.elapsed() < time {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// Children, and theirs.
fn descendants(process: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let listed = listed.unwrap_or_default();
    let children = listed.split_whitespace().filter_map(|id| id.parse().ok());
    children
        .flat_map(|child| [vec![child], descendants(child)].concat())
        .collect()
}

/// Is that a `sleep` that runs? An ended one has no command line.
fn sleeps(process: u32) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line.starts_with(b"sleep")
}

fn run(slablock: &Path, dir: &Path, command: &[&str]) -> Option<Command> {
    let mut run = Command::new(slablock);
    run.args(["run", "-q", "-d"]).arg(dir.join("slablock"));
    run.args(["key", "--"]).args(command);
    Some(run)
}

/// The binary: named by `SLABLOCK_BIN`, or built from this repository.
fn built() -> Option<PathBuf> {
    match env::var_os("SLABLOCK_BIN") {
        Some(named) => Some(named.into()),
        None => target("release/slablock"),
    }
}

/// For any target of its own, as docs/performance.md has it.
fn built_statically() -> Option<PathBuf> {
    target(&format!(
        "{}-unknown-linux-gnu/release/slablock",
        env::consts::ARCH
    ))
}

fn target(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Some(target.join(path)).filter(|path| path.is_file())
}
