//! `slablock status`: a table for people, JSON for programs.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};

use crate::admin::no_such_key;
use crate::failure::Failure;
use crate::output::{print, print_line};
use crate::sight::Sight;
use crate::snapshot::{HolderOf, Key, Snapshot};
use crate::text;

const REFRESH: Duration = Duration::from_secs(1);
/// Home, and clear from there on.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";
/// As much of a command line as a table bears.
const COMMAND_CHARS_MAX: usize = 48;

const HEADER: [&str; 13] = [
    "KEY",
    "KIND",
    "HOLDER",
    "ALIVE",
    "HELD FOR",
    "LEASE LEFT",
    "PERMITS",
    "WAITERS",
    "AVERAGE",
    "COUNT",
    "BYTES",
    "EXPIRES IN",
    "TAG",
];

/// What to show, and how.
pub struct View {
    /// `None`: all keys.
    pub key: Option<Vec<u8>>,
    pub json: bool,
    /// Show it each second.
    pub again: bool,
}

pub fn show(dir: &Path, view: &View) -> Result<u8, Failure> {
    let mut place = Sight::open(dir)?;
    if !view.again {
        show_once(&take(dir, place.as_ref(), view)?, place.as_ref(), view)?;
        return Ok(0);
    }
    loop {
        if !view.json && stdout().is_terminal() {
            print(CLEAR_SCREEN)?;
        }
        // It may be made meanwhile.
        if place.is_none() {
            place = Sight::open(dir)?;
        }
        match take(dir, place.as_ref(), view) {
            Ok(snapshot) => show_once(&snapshot, place.as_ref(), view)?,
            // A key that is not there yet is worth watching for.
            Err(failure) => drop(failure.report()),
        }
        sleep(REFRESH);
    }
}

/// `None`: there is no store yet, and no key in it.
fn take(dir: &Path, place: Option<&Sight>, view: &View) -> Result<Snapshot, Failure> {
    let keys = match (place, &view.key) {
        (None, None) => Vec::new(),
        (Some(place), None) => place.keys()?,
        (Some(place), Some(key)) => match place.key(key)? {
            Some(info) => vec![info],
            None => return Err(no_such_key(dir, key)),
        },
        (None, Some(key)) => return Err(no_such_key(dir, key)),
    };
    Ok(Snapshot::new(dir, keys))
}

fn show_once(snapshot: &Snapshot, place: Option<&Sight>, view: &View) -> Result<(), Failure> {
    let note = place.and_then(Sight::note);
    let note = note.map(|note| format!("\n{note}")).unwrap_or_default();
    let text = match (view.json, view.again) {
        (true, true) => serde_json::to_string(snapshot).map_err(Failure::new)?,
        (true, false) => serde_json::to_string_pretty(snapshot).map_err(Failure::new)?,
        (false, _) if snapshot.keys.is_empty() => {
            format!("no keys in {}{note}", snapshot.dir)
        }
        (false, _) => {
            let dir = text::printable(&snapshot.dir);
            format!("store {dir}{note}\n{}", table(snapshot).trim_fmt())
        }
    };
    print_line(text)?;
    Ok(())
}

/// One row for each holder, and one for each key without a holder.
fn table(snapshot: &Snapshot) -> Table {
    let rows: Vec<[String; HEADER.len()]> = snapshot.keys.iter().flat_map(rows_of).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if stdout().is_terminal() {
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    // A column in which nothing is written says nothing.
    let is_used = |column: &usize| rows.iter().any(|row| !row[*column].is_empty());
    let columns: Vec<usize> = (0..HEADER.len()).filter(is_used).collect();
    table.set_header(columns.iter().map(|&column| HEADER[column]));
    for row in &rows {
        table.add_row(columns.iter().map(|&column| row[column].as_str()));
    }
    table
}

fn rows_of(key: &Key) -> Vec<[String; HEADER.len()]> {
    let mut rows = vec![row_of_key(key)];
    rows.extend((1..key.holders.len()).map(|_| Default::default()));
    for (row, holder) in rows.iter_mut().zip(&key.holders) {
        fill_in_holder(row, holder);
    }
    rows
}

fn row_of_key(key: &Key) -> [String; HEADER.len()] {
    let holder = match key.kind.as_str() {
        "averager" | "value" => "",
        _ if key.holders.is_empty() => "free",
        _ => "",
    };
    let permits = |permits: &crate::snapshot::Permits| {
        let (used, total) = (permits.used, permits.total);
        format!("{used} of {total}")
    };
    let average = key.average.as_ref();
    let value = key.value.as_ref();
    [
        text::printable(&key.key),
        key.kind.clone(),
        holder.to_owned(),
        String::new(),
        String::new(),
        String::new(),
        key.permits.as_ref().map(permits).unwrap_or_default(),
        match key.waiters {
            0 => String::new(),
            waiters => waiters.to_string(),
        },
        average
            .map(|average| average.mean.to_string())
            .unwrap_or_default(),
        average
            .map(|average| average.count.to_string())
            .unwrap_or_default(),
        value
            .map(|value| text::grouped(value.bytes as u64))
            .unwrap_or_default(),
        value
            .and_then(|value| value.expires_in_seconds)
            .map(time)
            .unwrap_or_default(),
        key.tag.as_deref().map(text::printable).unwrap_or_default(),
    ]
}

fn fill_in_holder(row: &mut [String; HEADER.len()], holder: &HolderOf) {
    let command = holder.command.as_ref().unwrap_or(&holder.program);
    let command = text::shortened(command, COMMAND_CHARS_MAX);
    row[2] = format!("{} {command}", holder.pid).trim_end().to_owned();
    row[3] = match holder.alive {
        true => "yes".to_owned(),
        false => "dead".to_owned(),
    };
    row[4] = holder.held_seconds.map(time).unwrap_or_default();
    row[5] = match holder.is_expired() {
        true => "over".to_owned(),
        false => holder.lease_left_seconds.map(time).unwrap_or_default(),
    };
}

fn time(seconds: f64) -> String {
    text::span(Duration::from_secs_f64(seconds))
}
