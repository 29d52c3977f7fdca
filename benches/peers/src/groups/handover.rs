//! How long a lock is on its way from one process to another that sleeps until it comes.

use std::thread;
use std::time::Duration;

use super::Run;
use super::rounds::{Rounds, locks};
use crate::Answer;
use crate::crew::{Crew, line};
use crate::locks::{Entry, Kind};
use crate::process::number;
use crate::report::{Cell, Table};
use crate::stats::Spread;

const ABOUT: &str = "Two processes take turns: each sleeps for 100 us inside and for 100 us outside, so \
    that the other one waits when it gives back. The time is from just before giving back to having it.";

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let entries = locks(run, |entry| entry.kind != Kind::Average);
    let mut crew = Crew::new(&run.dir, &run.python, 2)?;
    let mut rounds = Rounds::of(entries.len());
    rounds.go_some(|who| crew.open(entries[who], "turns").map(|()| None));
    for round in 0..run.among(3, 1) {
        run.progress(format!("handing over, round {}", round + 1));
        rounds.go(|who| turns(run, &mut crew, entries[who]));
    }
    let columns = [
        ("half of them", "us"),
        ("longest", "us"),
        ("hand-overs", ""),
    ];
    let mut table = Table::new("handover", "Handing over to one who waits", ABOUT, &columns);
    for (entry, told) in entries.iter().zip(rounds.finish()) {
        match told {
            Ok(told) => table.row(entry.name, cells(told.concat())),
            Err(failure) => table.missing(entry.name, &failure.to_string()),
        }
    }
    Ok(vec![table])
}

/// How many, half of them, 99 % of them, the longest, in nanoseconds; of each process.
fn turns(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<Vec<[f64; 4]>> {
    crew.page().give_back(0, 0);
    let round = Duration::from_millis(run.among(140, 60));
    let line = line("turns", entry.name, "turns");
    let told = crew.all(entry, &line, |who| who as u64 + 1, || thread::sleep(round))?;
    let four = |line: &String| {
        let words: Vec<f64> = line.split(' ').map(number).collect::<Answer<_>>()?;
        <[f64; 4]>::try_from(words).map_err(|_| "four numbers are due".into())
    };
    told.iter().map(four).collect()
}

fn cells(told: Vec<[f64; 4]>) -> Vec<Cell> {
    let told: Vec<[f64; 4]> = told
        .into_iter()
        .filter(|[count, ..]| *count > 0.0)
        .collect();
    let count: f64 = told.iter().map(|[count, ..]| count).sum();
    let longest = told
        .iter()
        .map(|[.., longest]| *longest)
        .fold(0.0, f64::max);
    match Spread::of(told.iter().map(|[_, half, ..]| half / 1e3).collect()) {
        None => vec![Cell::said("never"), Cell::said("never"), Cell::exactly(0.0)],
        Some(half) => vec![
            Cell::Measured(half),
            Cell::exactly(longest / 1e3),
            Cell::exactly(count),
        ],
    }
}
