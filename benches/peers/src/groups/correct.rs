//! Not how quick, but whether: measured, not quoted.

use std::thread;
use std::time::{Duration, Instant};

use super::rounds::locks;
use super::{Run, death};
use crate::Answer;
use crate::crew::{Crew, Line, line};
use crate::locks::{CONTROL, Entry, Kind, Words};
use crate::process::number;
use crate::report::{Cell, Table};

const ABOUT: &str = "Lost: four processes add one to a plain counter 10,000 times each, under the lock, \
    and let others run between reading and writing it; of how many that were done in the time, how many \
    are missing (an average counts for itself). Blocks: does it stay closed when its holder is killed \
    with SIGKILL? Late: who overran its lease, or never held it, gives back; is then a third one let in \
    while the second one holds? Permit: of two permits, one holder of one is killed; is there a place \
    again for the next one?";

const PROCESSES: usize = 4;
const INCREMENTS: u64 = 10_000;

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let mut crew = Crew::new(&run.dir, &run.python, PROCESSES)?;
    let columns = [
        ("lost updates", ""),
        ("a killed holder blocks", ""),
        ("a late release lets a third one in", ""),
        ("a killed holder's permit returns", ""),
    ];
    let mut table = Table::new("correct", "Correctness", ABOUT, &columns);
    let lost = said(lost(run, &mut crew, &CONTROL));
    table.row(
        CONTROL.name,
        vec![lost, Cell::said("-"), Cell::said("-"), Cell::said("-")],
    );
    for entry in locks(run, |_| true) {
        run.progress(format!("correctness of {}", entry.name));
        let cells = judge(run, &mut crew, entry);
        table.row(entry.name, cells);
    }
    Ok(vec![table])
}

fn judge(run: &Run, crew: &mut Crew, entry: &Entry) -> Vec<Cell> {
    let not_for_it = || Cell::said("-");
    let lost = said(lost(run, crew, entry));
    let unavailable = matches!(lost, Cell::Missing(_));
    if unavailable || entry.kind == Kind::Average {
        let rest = if unavailable {
            lost.clone()
        } else {
            not_for_it()
        };
        return vec![lost, rest.clone(), rest.clone(), rest];
    }
    let blocks = said(blocks(run, crew, entry));
    let late = said(late(run, crew, entry));
    let permit = match entry.kind {
        Kind::Semaphore => said(permit(run, crew, entry)),
        _ => not_for_it(),
    };
    vec![lost, blocks, late, permit]
}

/// Has those who hold, or wait for it, give back. Where that is not possible, others take their places.
fn settle(crew: &mut Crew, entry: &Entry, holders: &[usize]) {
    if crew.give_back(entry, holders).is_err() {
        crew.dismiss(entry);
    }
}

fn said(answer: Answer<String>) -> Cell {
    match answer {
        Ok(text) => Cell::Said(text),
        Err(failure) => Cell::Missing(failure.to_string()),
    }
}

/// How many updates are lost.
fn lost(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<String> {
    crew.open(entry, "lost")?;
    let limit = Duration::from_millis(run.among(500, 60));
    // A second look at it, for while the crew is busy.
    let page = Words::open(&crew.page_path())?;
    let told = crew.all(
        entry,
        &line("slowly", entry.name, "lost"),
        |_| INCREMENTS,
        || {
            watch(&page, limit);
        },
    )?;
    let each: Vec<f64> = told.iter().map(|n| number(n)).collect::<Answer<_>>()?;
    let done: f64 = each.iter().sum();
    let kept = match crew
        .ask(entry, 0, &line("tally", entry.name, "lost"), 0)?
        .as_str()
    {
        "-" => page.counter() as f64,
        tally => number(tally)?,
    };
    Ok(format!("{} of {done}", done - kept))
}

/// Until all is done, or the time is over, or nothing happens any more.
fn watch(page: &Words, limit: Duration) {
    let (start, mut last, mut since) = (Instant::now(), 0, Instant::now());
    while start.elapsed() < limit && since.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(5));
        let counter = page.counter();
        if counter >= PROCESSES as u64 * INCREMENTS {
            return;
        }
        if counter != last {
            (last, since) = (counter, Instant::now());
        }
    }
}

/// Does it stay closed when its holder is killed?
fn blocks(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<String> {
    let patience = patience(run);
    let taken = death::kill(crew, entry, 0, patience)?;
    Ok(match taken {
        Some(_) => "no".into(),
        None => format!("for {} s and more", patience.as_secs_f64()),
    })
}

/// What does not come in that time does not come.
fn patience(run: &Run) -> Duration {
    Duration::from_millis(run.among(600, 150))
}

/// Does the release of one who has it no more let a third one in?
fn late(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<String> {
    crew.open(entry, "late")?;
    let of = |verb| line(verb, entry.name, "late");
    let lease_ms = run.among(100, 30);
    let lent = crew.ask(entry, 0, &of("lend"), lease_ms)? == "lent";
    if lent {
        thread::sleep(Duration::from_millis(2 * lease_ms));
    }
    crew.ask(entry, 1, &of("hold"), 0)?;
    let second = crew.members(entry)?[1].hear_within(Duration::from_secs(1))?;
    if second.is_none() {
        crew.dismiss(entry);
        return Ok("the lease never ends".into());
    }
    if crew.ask(entry, 0, &of("late"), 0)? == "no such call" {
        settle(crew, entry, &[1]);
        return Ok("no such call".into());
    }
    crew.ask(entry, 2, &of("hold"), 0)?;
    let third = crew.members(entry)?[2].hear_within(patience(run) / 3)?;
    settle(crew, entry, &[1, 2]);
    Ok(yes_or_no(third.is_some()))
}

/// Two hold the two permits. One is killed: does a third one get in?
fn permit(run: &Run, crew: &mut Crew, entry: &Entry) -> Answer<String> {
    let of = |verb| Line {
        permits: 2,
        ..line(verb, entry.name, "permits")
    };
    for holder in [0, 1] {
        crew.ask(entry, holder, &of("hold"), 0)?;
        crew.members(entry)?[holder].hear()?;
    }
    crew.kill(entry, 0);
    // The others have moved up.
    crew.ask(entry, 1, &of("hold"), 0)?;
    let third = crew.members(entry)?[1].hear_within(patience(run))?;
    settle(crew, entry, &[0, 1]);
    Ok(yes_or_no(third.is_some()))
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}
