//! What was measured: tables of cells, and how they are kept and shown.

mod charts;
mod machine;
mod markdown;

use std::fs;
use std::path::Path;

use serde::Serialize;

pub use machine::{Machine, file_system};

use crate::Answer;
use crate::stats::Spread;

/// One comparison: peers downwards, what was measured of them across.
#[derive(Serialize)]
pub struct Table {
    pub id: String,
    pub title: String,
    /// What was done, so that a reader can judge it.
    pub about: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Column {
    pub name: String,
    pub unit: &'static str,
}

#[derive(Serialize)]
pub struct Row {
    pub peer: String,
    pub cells: Vec<Cell>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cell {
    Measured(Spread),
    /// What is not a number.
    Said(String),
    /// Why there is nothing.
    Missing(String),
}

impl Cell {
    pub fn exactly(value: f64) -> Cell {
        Cell::Measured(Spread::exactly(value))
    }

    pub fn said(text: impl Into<String>) -> Cell {
        Cell::Said(text.into())
    }

    pub fn spread(&self) -> Option<Spread> {
        match self {
            Cell::Measured(spread) => Some(*spread),
            _ => None,
        }
    }

    /// The median of the samples, `scale`d to the unit of the column; or why there are none.
    pub fn median(samples: Answer<Vec<f64>>, scale: f64) -> Cell {
        match samples.map(Spread::of) {
            Ok(Some(spread)) => Cell::Measured(spread.scaled(scale)),
            Ok(None) => Cell::Missing("no sample".into()),
            Err(failure) => Cell::Missing(failure.to_string()),
        }
    }
}

impl Table {
    pub fn new(id: &str, title: &str, about: &str, columns: &[(&str, &'static str)]) -> Table {
        let column = |(name, unit): &(&str, &'static str)| Column {
            name: name.to_string(),
            unit,
        };
        Table {
            id: id.into(),
            title: title.into(),
            about: about.into(),
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, peer: &str, cells: Vec<Cell>) {
        let peer = peer.to_string();
        self.rows.push(Row { peer, cells });
    }

    /// A row of a peer that was not measured.
    pub fn missing(&mut self, peer: &str, why: &str) {
        let cell = Cell::Missing(why.to_string());
        self.row(peer, vec![cell; self.columns.len()]);
    }
}

/// All of one run.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub quick: bool,
    pub tables: Vec<Table>,
}

impl Report {
    /// Writes `peers.json`, `peers.md`, and the charts that the tables have figures for.
    pub fn write(&self, dir: &Path) -> Answer<()> {
        fs::create_dir_all(dir)?;
        let charts = charts::draw(self, dir)?;
        let json = serde_json::to_string_pretty(self)?;
        fs::write(dir.join("peers.json"), json + "\n")?;
        fs::write(dir.join("peers.md"), markdown::report(self, &charts))?;
        Ok(())
    }
}

pub use markdown::{table as as_text, thousands};
