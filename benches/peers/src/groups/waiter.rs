//! What it costs to wait.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::Run;
use super::rounds::{Rounds, locks};
use crate::Answer;
use crate::crew::{Crew, line};
use crate::locks::{Entry, Kind};
use crate::report::{Cell, Table};

const ABOUT: &str = "One process holds, another one waits. Processor time that the one who waits uses in \
    a second, by the scheduler's own account.";

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let entries = locks(run, |entry| entry.kind != Kind::Average);
    let mut crew = Crew::new(&run.dir, &run.python, 2)?;
    let mut rounds = Rounds::of(entries.len());
    for round in 0..run.among(3, 1) {
        run.progress(format!("waiting, round {}", round + 1));
        rounds.go(|who| {
            let used = wait(run, &mut crew, entries[who]);
            if used.is_err() {
                crew.dismiss(entries[who]);
            }
            used
        });
    }
    let columns = [("processor time", "ms/s")];
    let mut table = Table::new("waiter", "A waiter's processor time", ABOUT, &columns);
    for (entry, used) in entries.iter().zip(rounds.finish()) {
        table.row(entry.name, vec![Cell::median(used, 1.0)]);
    }
    Ok(vec![table])
}

/// Milliseconds a second.
fn wait(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<f64> {
    crew.open(entry, "wait")?;
    let hold = line("hold", entry.name, "wait");
    crew.ask(entry, 0, &hold, 0)?;
    crew.members(entry)?[0].hear()?;
    crew.ask(entry, 1, &hold, 0)?;
    // The first moments of a wait are not like the rest of it.
    thread::sleep(Duration::from_millis(run.among(120, 20)));
    let waiter = crew.members(entry)?[1].id();
    let (start, before) = (Instant::now(), processor_ns(waiter)?);
    thread::sleep(Duration::from_millis(run.among(120, 60)));
    let after = processor_ns(waiter)?;
    let used = (after - before) / 1e6 / start.elapsed().as_secs_f64();
    crew.give_back(entry, &[0, 1])?;
    Ok(used)
}

/// Nanoseconds on a processor, of all threads.
fn processor_ns(process: u32) -> Answer<f64> {
    let mut sum = 0.0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split(' ').next().unwrap_or_default();
        sum += first.parse::<f64>()?;
    }
    Ok(sum)
}
