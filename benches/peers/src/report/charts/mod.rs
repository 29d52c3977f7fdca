//! The tables that people would rather look at than read.

mod bars;
mod canvas;
mod lines;

use super::{Cell, Report, Row, Table};
use crate::Answer;
use bars::Bar;
use lines::Line;

/// In the line charts, which would be a tangle with all of them.
const SHOWN: [&str; 10] = [
    "bare compare-exchange",
    "slablock Lock",
    "slablock Averager",
    "robust mutex (pthread)",
    "POSIX semaphore",
    "System V semaphore",
    "F_OFD_SETLK",
    "File::lock (std)",
    "diskcache Lock",
    "filelock",
];

/// A file, its title, and what is in it.
pub type Chart = (String, &'static str, String);

/// Draws what there are tables for.
pub fn draw(report: &Report) -> Answer<Vec<Chart>> {
    let mut drawn = Vec::new();
    let mut keep = |name: &str, title: &'static str, svg: Answer<String>| -> Answer<()> {
        drawn.push((format!("{name}.svg"), title, svg?));
        Ok(())
    };
    let table = |id: &str| report.tables.iter().find(|table| table.id == id);
    if let Some(pair) = table("pair") {
        let title = "An uncontended pair, in nanoseconds";
        keep("pair", title, bars::chart(title, &sorted(bars_of(pair, 0))))?;
    }
    let hot = report.tables.iter();
    let hot: Vec<&Table> = hot.filter(|table| table.id.starts_with("hot-")).collect();
    if hot.len() > 1 {
        let title = "Several processes on one key, thousands of operations a second";
        let lines = throughput(&hot);
        keep(
            "throughput",
            title,
            lines::chart(title, "processes", &lines),
        )?;
    }
    if let Some(takeover) = table("takeover") {
        let title = "Taking over from a killed holder, in milliseconds";
        let bars = sorted(bars_of(takeover, 0));
        keep("takeover", title, bars::chart(title, &bars))?;
    }
    if let Some(keys) = table("keys") {
        let title = "A pair on a lock named anew, by number of keys, in microseconds";
        let lines = by_column(keys, "key");
        keep("keys", title, lines::chart(title, "keys", &lines))?;
    }
    if let Some(values) = table("values") {
        let title = "Values: microseconds an operation takes";
        let columns = values.columns.iter().enumerate();
        let panels = columns.map(|(at, column)| (column.name.clone(), bars_of(values, at)));
        keep(
            "values",
            title,
            bars::panels(title, &panels.collect::<Vec<_>>()),
        )?;
    }
    if let Some(keys) = table("values-keys") {
        let title = "Values: a get, by number of keys, in microseconds";
        let lines = by_column(keys, "key");
        keep("values-keys", title, lines::chart(title, "keys", &lines))?;
    }
    if let Some(mixed) = table("values-mixed") {
        let title = "Values: nine gets to a set, thousands of operations a second";
        let lines = by_column(mixed, "process");
        keep(
            "values-mixed",
            title,
            lines::chart(title, "processes", &lines),
        )?;
    }
    Ok(drawn)
}

fn bars_of(table: &Table, column: usize) -> Vec<Bar> {
    let bar = |row: &Row| match &row.cells[column] {
        Cell::Measured(spread) => Some(Bar::new(&row.peer, Some(spread.median))),
        Cell::Said(text) if text.starts_with("never") => Some(Bar::new(&row.peer, None)),
        _ => None,
    };
    table.rows.iter().filter_map(bar).collect()
}

/// The quickest first; what never comes last.
fn sorted(mut bars: Vec<Bar>) -> Vec<Bar> {
    let key = |bar: &Bar| bar.value.unwrap_or(f64::INFINITY);
    bars.sort_by(|a, b| key(a).total_cmp(&key(b)));
    bars
}

/// From the tables of so many processes each.
fn throughput(tables: &[&Table]) -> Vec<Line> {
    let at = |table: &Table| table.id.rsplit('-').next().and_then(|n| n.parse().ok());
    let line = |peer: &&str| {
        let points = tables.iter().filter_map(|table| {
            let row = table.rows.iter().find(|row| row.peer == **peer)?;
            Some((at(table)?, row.cells[0].spread()?.median))
        });
        Line::new(peer, points.collect())
    };
    SHOWN
        .iter()
        .map(line)
        .filter(|line| !line.points.is_empty())
        .collect()
}

/// From a table whose columns are named after numbers of `what`.
fn by_column(table: &Table, what: &str) -> Vec<Line> {
    let number = |name: &str| {
        let (number, of) = name.split_once(' ')?;
        of.starts_with(what)
            .then(|| number.replace(',', "").parse().ok())?
    };
    let line = |row: &Row| {
        let points = table
            .columns
            .iter()
            .zip(&row.cells)
            .filter_map(|(column, cell)| Some((number(&column.name)?, cell.spread()?.median)));
        Line::new(&row.peer, points.collect())
    };
    table
        .rows
        .iter()
        .map(line)
        .filter(|line| !line.points.is_empty())
        .collect()
}
