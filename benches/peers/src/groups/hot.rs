//! Several processes that want one thing all the time.

use std::thread;
use std::time::{Duration, Instant};

use super::Run;
use super::rounds::{Rounds, locks};
use crate::Answer;
use crate::crew::{Crew, line};
use crate::locks::{Entry, Kind};
use crate::process::number;
use crate::report::{Cell, Table};
use crate::stats::Spread;

const ABOUT: &str = "Each process takes, adds one to a plain counter, and gives back, as often as it \
    can. The shares are those of the process that came through most seldom and most often, of all rounds \
    together; an even share would be the same for all. The wait is the longest that any one operation \
    took, and is measured in rounds of its own, because reading the clock costs more than some of these \
    locks.";

/// So often.
const ENDLESS: fn(usize) -> u64 = |_| u64::MAX >> 1;
/// One process beside nobody is in there for the chart.
const SIZES: [usize; 4] = [1, 2, 4, 16];

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let sizes = SIZES
        .into_iter()
        .filter(|size| !run.quick || [2, 4].contains(size));
    sizes.map(|size| among(run, size)).collect()
}

/// What one round of one peer told.
enum Told {
    /// How many a second, and how many each process.
    Counted(f64, Vec<f64>),
    /// Seconds.
    LongestWait(f64),
}

fn among(run: &Run, size: usize) -> Answer<Table> {
    let entries = locks(run, |_| true);
    let mut crew = Crew::new(&run.dir, &run.python, size)?;
    let mut rounds = Rounds::of(entries.len());
    rounds.go_some(|who| crew.open(entries[who], "hot").map(|()| None));
    for round in 0..run.among(3, 1) {
        run.progress(format!("{size} processes on one key, round {}", round + 1));
        rounds.go(|who| count(run, &mut crew, entries[who], size));
    }
    if size > 1 {
        run.progress(format!("{size} processes on one key, each wait"));
        rounds.go(|who| wait(run, &mut crew, entries[who]));
    }
    let columns = [
        ("throughput", "1000/s"),
        ("least share", "%"),
        ("largest share", "%"),
        ("longest wait", "ms"),
    ];
    // One alone has all, and waits for nobody.
    let (title, columns) = match size {
        1 => ("One process on one key".into(), &columns[..1]),
        _ => (format!("{size} processes on one key"), &columns[..]),
    };
    let mut table = Table::new(&format!("hot-{size}"), &title, ABOUT, columns);
    for (entry, told) in entries.iter().zip(rounds.finish()) {
        match told {
            Ok(told) => {
                let mut row = cells(told);
                row.truncate(columns.len());
                table.row(entry.name, row);
            }
            Err(failure) => table.missing(entry.name, &failure.to_string()),
        }
    }
    Ok(table)
}

fn count(run: &Run, crew: &mut Crew, entry: &Entry, size: usize) -> Answer<Told> {
    // Long enough for each of them to have a processor several times.
    let ms = run.among(40 + 5 * size as u64, 30);
    let (told, seconds) = together(ms, crew, entry, "count")?;
    let each: Vec<f64> = told.iter().map(|n| number(n)).collect::<Answer<_>>()?;
    let done: f64 = each.iter().sum();
    let lost = done - crew.page().counter() as f64;
    if lost != 0.0 && entry.kind != Kind::Average {
        return Err(format!("{lost} of {done} increments were lost").into());
    }
    Ok(Told::Counted(done / seconds, each))
}

fn wait(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<Told> {
    let (told, _) = together(run.among(100, 30), crew, entry, "timed")?;
    let mut longest: f64 = 0.0;
    for line in told {
        longest = longest.max(number(line.rsplit(' ').next().unwrap_or_default())?);
    }
    Ok(Told::LongestWait(longest))
}

/// What they answered, and for how many seconds they were let run.
fn together(ms: u64, crew: &mut Crew, entry: &Entry, verb: &str) -> Answer<(Vec<String>, f64)> {
    let line = line(verb, entry.name, "hot");
    let mut seconds = 0.0;
    let told = crew.all(entry, &line, ENDLESS, || {
        let start = Instant::now();
        thread::sleep(Duration::from_millis(ms));
        seconds = start.elapsed().as_secs_f64();
    })?;
    Ok((told, seconds))
}

fn cells(told: Vec<Told>) -> Vec<Cell> {
    let (mut rates, mut longest, mut done) = (Vec::new(), 0.0, Vec::new());
    for one in told {
        match one {
            Told::Counted(rate, each) => {
                rates.push(rate / 1e3);
                done.resize(each.len(), 0.0);
                done.iter_mut().zip(each).for_each(|(sum, one)| *sum += one);
            }
            Told::LongestWait(ns) => longest = ns.max(longest),
        }
    }
    let all: f64 = done.iter().sum();
    let share = |of: f64| Cell::exactly(100.0 * of / all.max(1.0));
    let least = done.iter().copied().fold(f64::MAX, f64::min);
    let most = done.iter().copied().fold(0.0, f64::max);
    let rates = Spread::of(rates).map_or(Cell::Missing("no sample".into()), Cell::Measured);
    vec![
        rates,
        share(least),
        share(most),
        Cell::exactly(longest / 1e6),
    ]
}
