//! The holder is killed while another one waits.

use std::thread;
use std::time::Duration;

use super::Run;
use super::rounds::{Rounds, locks};
use crate::Answer;
use crate::clock::now_ns;
use crate::crew::{Crew, line};
use crate::locks::{Entry, Kind};
use crate::process::number;
use crate::report::{Cell, Table};
use crate::stats::Spread;

const ABOUT: &str = "One process holds, another one waits for it, and the holder is killed with SIGKILL, \
    without any lease. The time is from the kill to the waiter's having it.";

const PYTHON_ROUNDS: u64 = 6;

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let entries = locks(run, |entry| entry.kind != Kind::Average);
    let mut crew = Crew::new(&run.dir, &run.python, 2)?;
    let patience = Duration::from_millis(run.among(1_000, 250));
    let mut rounds = Rounds::of(entries.len());
    let mut never = vec![false; entries.len()];
    for round in 0..run.among(30, 1) {
        run.progress(format!("killing holders, round {}", round + 1));
        rounds.go_some(|who| {
            // It takes long to start another Python.
            if never[who] || (entries[who].open.is_none() && round >= PYTHON_ROUNDS) {
                return Ok(None);
            }
            let taken = kill(&mut crew, entries[who], round, patience)?;
            never[who] = taken.is_none();
            Ok(Some(taken))
        });
    }
    let columns = [("half of them", "ms"), ("longest", "ms")];
    let mut table = Table::new("takeover", "Taking over from the killed", ABOUT, &columns);
    for (entry, told) in entries.iter().zip(rounds.finish()) {
        match told {
            Ok(told) => table.row(entry.name, cells(told, patience)),
            Err(failure) => table.missing(entry.name, &failure.to_string()),
        }
    }
    Ok(vec![table])
}

fn cells(told: Vec<Option<f64>>, patience: Duration) -> Vec<Cell> {
    if told.contains(&None) {
        let text = format!("never (not in {} s)", patience.as_secs_f64());
        return vec![Cell::said(text.clone()), Cell::said(text)];
    }
    match Spread::of(told.into_iter().flatten().collect()) {
        Some(spread) => vec![Cell::Measured(spread), Cell::exactly(spread.high)],
        None => vec![Cell::Missing("no sample".into()); 2],
    }
}

/// Milliseconds from the kill to the takeover; `None`: not within `patience`.
pub fn kill(crew: &mut Crew, entry: &Entry, round: u64, patience: Duration) -> Answer<Option<f64>> {
    let key = format!("death {round}");
    let taken = kill_holder(crew, entry, &key, round, patience);
    if !matches!(taken, Ok(Some(_))) {
        // The waiter waits on, for ever maybe.
        crew.dismiss(entry);
    }
    taken
}

fn kill_holder(
    crew: &mut Crew,
    entry: &Entry,
    key: &str,
    round: u64,
    patience: Duration,
) -> Answer<Option<f64>> {
    crew.open(entry, key)?;
    let hold = line("hold", entry.name, key);
    crew.ask(entry, 0, &hold, 0)?;
    crew.members(entry)?[0].hear()?;
    crew.ask(entry, 1, &hold, 0)?;
    // At any moment of whatever rhythm the waiter has.
    thread::sleep(Duration::from_micros(10_000 + round * 617 % 10_000));
    let killed = now_ns();
    crew.kill(entry, 0);
    // The waiter has moved up.
    let waiter = &mut crew.members(entry)?[0];
    let Some(taken) = waiter.hear_within(patience)? else {
        return Ok(None);
    };
    waiter.ask("that is all")?;
    Ok(Some((number(&taken)? - killed as f64) / 1e6))
}
