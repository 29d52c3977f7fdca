//! Opening a store, and closing it.

use std::fs;

use super::Run;
use super::rounds::{Rounds, is_like_another};
use crate::process::{Peer, number};
use crate::report::{Cell, Table};
use crate::values::{self, Needs};
use crate::{Answer, temporary};

const ABOUT: &str = "A store of 1,000 keys, in a process that has opened it before. First nobody else \
    has it open, then another process has.";

const KEYS: usize = 1_000;

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let mut names = values::names();
    names.retain(|name| values::is_opened(name) && !(run.quick && is_like_another(name)));
    let mut alone = Rounds::of(names.len());
    let mut beside = Rounds::of(names.len());
    for round in 0..run.among(4, 1) {
        run.progress(format!("opening, round {}", round + 1));
        alone.go(|who| open(run, names[who], false));
        beside.go(|who| open(run, names[who], true));
    }
    let columns = [
        ("open", "us"),
        ("close", "us"),
        ("open, others have it open", "us"),
        ("close, others have it open", "us"),
    ];
    let mut table = Table::new("open", "Opening and closing a store", ABOUT, &columns);
    for ((name, alone), beside) in names.iter().zip(alone.finish()).zip(beside.finish()) {
        let mut row = cells(alone).to_vec();
        row.extend(cells(beside));
        table.row(name, row);
    }
    Ok(vec![table])
}

fn cells(told: Answer<Vec<(f64, f64)>>) -> [Cell; 2] {
    match told {
        Ok(told) => {
            let (opening, closing) = told.into_iter().unzip();
            [opening, closing].map(|nanos| Cell::median(Ok(nanos), 1e-3))
        }
        Err(failure) => [0, 1].map(|_| Cell::Missing(failure.to_string())),
    }
}

/// Nanoseconds.
fn open(run: &Run, name: &str, others: bool) -> Answer<(f64, f64)> {
    let dir = temporary::directory(&run.dir)?;
    let place = dir.path().join("store");
    fs::create_dir_all(&place)?;
    let needs = Needs {
        keys: KEYS,
        shared: true,
    };
    let start = || Peer::start(values::worker::command(name, &place, needs, &run.python)?);
    let mut peer = start()?;
    peer.ask(&format!("fill 0 {KEYS}"))?;
    let _other = if others { Some(start()?) } else { None };
    let line = peer.ask(&format!("reopen {}", run.among(60, 20)))?;
    let (opening, closing) = line.split_once(' ').ok_or("two numbers are due")?;
    Ok((number(opening)?, number(closing)?))
}
