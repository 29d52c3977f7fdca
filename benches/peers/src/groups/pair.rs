//! What it costs to take and give back when nobody else is there.

use super::Run;
use super::rounds::{Rounds, locks};
use crate::Answer;
use crate::crew::{Crew, line};
use crate::locks::{Entry, LIMIT};
use crate::process::number;
use crate::report::{Cell, Table};

const ABOUT: &str = "One process takes and gives back, again and again, with a handle that it has at \
    hand; an average is added to. The second figure is how many bare compare-exchange pairs on a mapped \
    file fit into that, each measured right after some of those: none of them can be quicker than one.";

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let entries = locks(run, |_| true);
    let mut crew = Crew::new(&run.dir, &run.python, 1)?;
    let mut rounds = Rounds::of(entries.len());
    for round in 0..run.among(15, 3) {
        run.progress(format!("pairs, round {}", round + 1));
        rounds.go(|who| {
            let bare = pairs(run, &mut crew, &LIMIT)?;
            Ok((bare, pairs(run, &mut crew, entries[who])?))
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

/// Nanoseconds.
fn pairs(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<f64> {
    let line = line("pairs", entry.name, "pair");
    number(&crew.ask(entry, 0, &line, run.among(20, 4))?)
}

fn cells(samples: &[(f64, f64)]) -> Vec<Cell> {
    let time = samples.iter().map(|(_, time)| *time).collect();
    let ratio = samples.iter().map(|(bare, time)| time / bare).collect();
    vec![Cell::median(Ok(time), 1.0), Cell::median(Ok(ratio), 1.0)]
}
