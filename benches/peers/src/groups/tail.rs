//! The slowest of many, on a disk on which somebody else writes.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::Run;
use super::rounds::{Rounds, locks};
use crate::Answer;
use crate::crew::{Crew, line};
use crate::locks::Entry;
use crate::process::{Peer, number, tell};
use crate::report::{Cell, Table, file_system};
use crate::stats::Spread;

const ABOUT: &str = "Pairs on a disk file system, each timed, while another process writes 8 MiB to the \
    same file system and syncs them, again and again. The last column is the worst without that process. \
    What is in a mapped file waits when the file system wants the page for itself; what the kernel keeps \
    does not.";

/// Python's are measured by one of each kind.
const PYTHON: [&str; 3] = ["diskcache Lock", "filelock", "portalocker"];

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let kind = file_system(&run.disk);
    if kind == "tmpfs" {
        return Err("the disk is tmpfs: name another with --disk".into());
    }
    let entries = locks(run, |entry| {
        entry.open.is_some() || PYTHON.contains(&entry.name)
    });
    let mut crew = Crew::new(&run.disk, &run.python, 1)?;
    settle(&run.disk)?;
    let alone = rounds(run, &mut crew, &entries, run.among(2, 1));
    let _writer = writer(&run.disk)?;
    let beside = rounds(run, &mut crew, &entries, run.among(3, 1));
    let columns = [
        ("99 %", "us"),
        ("99.9 %", "us"),
        ("worst", "us"),
        ("worst, alone", "us"),
    ];
    let title = format!("The slowest pairs on {kind}, beside a process that writes and syncs");
    let mut table = Table::new("tail", &title, ABOUT, &columns);
    for ((entry, alone), beside) in entries.iter().zip(alone).zip(beside) {
        match (alone, beside) {
            (Ok(alone), Ok(beside)) => table.row(entry.name, cells(&alone, &beside)),
            (Err(failure), _) | (_, Err(failure)) => {
                table.missing(entry.name, &failure.to_string())
            }
        }
    }
    Ok(vec![table])
}

/// What was written before would be on its way to the disk for a long time.
fn settle(disk: &Path) -> Answer<()> {
    let dir = File::open(disk)?;
    // SAFETY: an open file, for the time of the call.
    match unsafe { libc::syncfs(dir.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// 99 %, 99.9 %, all: of each round.
type Told = [f64; 3];

fn rounds(run: &Run, crew: &mut Crew, entries: &[&Entry], count: usize) -> Vec<Answer<Vec<Told>>> {
    let mut rounds = Rounds::of(entries.len());
    for round in 0..count {
        run.progress(format!("timing each pair, round {}", round + 1));
        rounds.go(|who| {
            crew.open(entries[who], "tail")?;
            let line = line("timed", entries[who].name, "tail");
            let time = Duration::from_millis(run.among(180, 40));
            let told = crew.all(
                entries[who],
                &line,
                |_| u64::MAX >> 1,
                || thread::sleep(time),
            )?;
            let words = told.iter().flat_map(|line| line.split(' ').skip(2));
            let numbers = words.map(number).collect::<Answer<Vec<f64>>>()?;
            Told::try_from(numbers).map_err(|_| "three numbers are due".into())
        });
    }
    rounds.finish()
}

fn cells(alone: &[Told], beside: &[Told]) -> Vec<Cell> {
    let column =
        |told: &[Told], at: usize| told.iter().map(|told| told[at] / 1e3).collect::<Vec<f64>>();
    let middle = |at| Cell::median(Ok(column(beside, at)), 1.0);
    let worst = |told| Spread::of(column(told, 2)).map_or(0.0, |spread| spread.high);
    vec![
        middle(0),
        middle(1),
        Cell::exactly(worst(beside)),
        Cell::exactly(worst(alone)),
    ]
}

fn writer(dir: &Path) -> Answer<Peer> {
    let mut command = Peer::myself()?;
    command.arg("write").arg(dir);
    Peer::start(command)
}

/// The part of the one who writes, until it is killed.
pub fn write_and_sync(dir: &str) {
    // Without a name, so that it goes away with this process.
    let file = tempfile::tempfile_in(dir);
    tell("ready");
    let endless = file.and_then(|mut file| {
        let block = vec![1; 8 << 20];
        loop {
            write(&mut file, &block)?;
        }
    });
    let Err::<(), std::io::Error>(error) = endless else {
        return;
    };
    eprintln!("  the writer stopped: {error}");
}

fn write(file: &mut File, block: &[u8]) -> std::io::Result<()> {
    if file.stream_position()? >= 128 << 20 {
        file.rewind()?;
    }
    file.write_all(block)?;
    file.sync_all()
}
