//! The holder is killed while another one waits.

use std::thread;
use std::time::Duration;

use super::Run;
use super::rounds::{Rounds, locks};
use crate::Answer;
use crate::clock::now_ns;
use crate::crew::{Crew, line};
use crate::locks::{Entry, Kind};
use crate::report::{Cell, Table};
use crate::stats::at_share;

const ABOUT: &str = "One process holds, another one waits for it, and the holder is killed with SIGKILL, \
    without any lease. The time is from the kill to the waiter's having it.";

/// It takes long to start another Python.
const PYTHON_ROUNDS: u64 = 3;
const ROUNDS: u64 = 30;
/// Of the first one, so that there is a 99th percentile.
const MANY_ROUNDS: u64 = 300;
const OURS: &str = "slablock Lock";

/// So many kills, of that one.
fn rounds_of(entry: &Entry) -> u64 {
    match (entry.name, entry.open) {
        (OURS, _) => MANY_ROUNDS,
        (_, Some(_)) => ROUNDS,
        (_, None) => PYTHON_ROUNDS,
    }
}

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let entries = locks(run, |entry| entry.kind != Kind::Average);
    let mut crew = Crew::new(&run.dir, &run.python, 2)?;
    let patience = Duration::from_millis(run.among(600, 200));
    let mut rounds = Rounds::of(entries.len());
    let mut never = vec![false; entries.len()];
    for round in 0..run.among(MANY_ROUNDS, 1) {
        if round % 30 < PYTHON_ROUNDS {
            run.progress(format!("killing holders, round {}", round + 1));
        }
        rounds.go_some(|who| {
            if never[who] || round >= rounds_of(entries[who]) {
                return Ok(None);
            }
            let taken = kill(&mut crew, entries[who], round, patience)?;
            never[who] = taken.is_none();
            Ok(Some(taken))
        });
    }
    let columns = [
        ("half of them", "ms"),
        ("99 %", "ms"),
        ("longest", "ms"),
        ("kills", ""),
    ];
    let mut table = Table::new("takeover", "Taking over from the killed", ABOUT, &columns);
    for (entry, told) in entries.iter().zip(rounds.finish()) {
        match told {
            Ok(told) => table.row(entry.name, cells(told, patience)),
            Err(failure) => table.missing(entry.name, &failure.to_string()),
        }
    }
    Ok(vec![table])
}

/// The share is of use only where there are a hundred.
fn cells(told: Vec<Option<u64>>, patience: Duration) -> Vec<Cell> {
    let kills = Cell::exactly(told.len() as f64);
    let never = Cell::said(format!("never (not in {} s)", patience.as_secs_f64()));
    let Some(mut nanos) = told.into_iter().collect::<Option<Vec<u64>>>() else {
        return vec![never.clone(), Cell::said("-"), never, kills];
    };
    nanos.sort_unstable();
    let ms = |share| Cell::exactly(at_share(&nanos, share) as f64 / 1e6);
    let most = match nanos.len() {
        100.. => ms(0.99),
        _ => Cell::said("-"),
    };
    let half = nanos.iter().map(|nanos| *nanos as f64).collect();
    vec![Cell::median(Ok(half), 1e-6), most, ms(1.0), kills]
}

/// Nanoseconds from the kill to the takeover; `None`: not within `patience`.
pub fn kill(crew: &mut Crew, entry: &Entry, round: u64, patience: Duration) -> Answer<Option<u64>> {
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
) -> Answer<Option<u64>> {
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
    Ok(Some(taken.parse::<u64>()?.saturating_sub(killed)))
}
