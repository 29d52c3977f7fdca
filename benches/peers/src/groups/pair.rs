//! What it costs to take and give back when nobody else is there.

use super::Run;
use super::rounds::{Rounds, all};
use crate::Answer;
use crate::crew::{Crew, Line, line};
use crate::locks::{Entry, LIMIT};
use crate::process::number;
use crate::report::{Cell, Table};

const ABOUT: &str = "One process takes and gives back, again and again, with a handle that it has at \
    hand; semaphores have 8 permits, and an average is added to, or read. The second figure is how many \
    bare compare-exchange pairs on a mapped file fit into that, each measured right after some of those: \
    no lock on mapped memory can be quicker than one.";
const PERMITS: u32 = 8;

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let entries = all(run);
    let mut crew = Crew::new(&run.dir, &run.python, 1)?;
    let mut rounds = Rounds::of(entries.len());
    for round in 0..run.among(12, 3) {
        run.progress(format!("pairs, round {}", round + 1));
        rounds.go(|who| {
            let bare = pairs(&mut crew, &LIMIT, run.among(8, 2))?;
            Ok((bare, pairs(&mut crew, entries[who], run.among(20, 4))?))
        });
    }
    let columns = [("time", "ns"), ("beside the bare pair", "x")];
    let mut table = Table::new("pair", "An uncontended pair", ABOUT, &columns);
    for (entry, samples) in entries.iter().zip(rounds.finish()) {
        match samples {
            Ok(samples) => table.row(entry.name, cells(&samples)),
            Err(failure) => table.missing(entry.name, &failure.to_string()),
        }
    }
    Ok(vec![table])
}

/// The nanoseconds that one takes, of as many as `ms` have room for.
fn pairs(crew: &mut Crew, entry: &Entry, ms: u64) -> Answer<f64> {
    let line = Line {
        permits: PERMITS,
        ..line("pairs", entry.name, "pair")
    };
    number(&crew.ask(entry, 0, &line, ms)?)
}

fn cells(samples: &[(f64, f64)]) -> Vec<Cell> {
    let time = samples.iter().map(|(_, time)| *time).collect();
    let ratio = samples.iter().map(|(bare, time)| time / bare).collect();
    vec![Cell::median(Ok(time), 1.0), Cell::median(Ok(ratio), 1.0)]
}
