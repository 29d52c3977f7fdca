//! What it costs to wait.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::Run;
use super::rounds::locks;
use crate::Answer;
use crate::crew::{Crew, line};
use crate::locks::{Entry, Kind};
use crate::report::{Cell, Table};
use crate::stats::Spread;

const ABOUT: &str = "One process holds, another one waits. Processor time that the one who waits uses in \
    a second, by the scheduler's own account.";

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let mut crew = Crew::new(&run.dir, &run.python, 2)?;
    let columns = [("processor time", "ms/s")];
    let mut table = Table::new("waiter", "A waiter's processor time", ABOUT, &columns);
    for entry in locks(run, |entry| entry.kind != Kind::Average) {
        run.progress(format!("waiting for {}", entry.name));
        match wait(run, &mut crew, entry) {
            Ok(used) => table.row(entry.name, vec![used]),
            Err(failure) => table.missing(entry.name, &failure.to_string()),
        }
        crew.dismiss(entry);
    }
    Ok(vec![table])
}

fn wait(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<Cell> {
    crew.open(entry, "wait")?;
    let hold = line("hold", entry.name, "wait");
    crew.ask(entry, 0, &hold, 0)?;
    crew.members(entry)?[0].hear()?;
    crew.ask(entry, 1, &hold, 0)?;
    // The first moments of a wait are not like the rest of it.
    thread::sleep(Duration::from_millis(run.among(150, 20)));
    let window = Duration::from_millis(run.among(200, 60));
    let waiter = crew.members(entry)?[1].id();
    let mut used = Vec::new();
    for _ in 0..run.among(3, 1) {
        let (start, before) = (Instant::now(), processor_ns(waiter)?);
        thread::sleep(window);
        let after = processor_ns(waiter)?;
        used.push((after - before) / 1e6 / start.elapsed().as_secs_f64());
    }
    let spread = Spread::of(used).ok_or("no sample")?;
    Ok(Cell::Measured(spread))
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
