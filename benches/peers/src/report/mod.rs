//! What was measured: tables of cells, and how they are kept and shown.

mod charts;
mod machine;
mod markdown;
mod readme;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use machine::{Machine, file_system};

use crate::Answer;
use crate::stats::Spread;

/// One comparison: peers downwards, what was measured of them across.
#[derive(Deserialize, Serialize)]
pub struct Table {
    pub id: String,
    pub title: String,
    /// What was done, so that a reader can judge it.
    pub about: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

#[derive(Clone, Deserialize, Serialize)]
pub struct Column {
    pub name: String,
    pub unit: String,
}

#[derive(Deserialize, Serialize)]
pub struct Row {
    pub peer: String,
    pub cells: Vec<Cell>,
}

#[derive(Clone, Deserialize, Serialize)]
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

impl Column {
    pub fn new(name: impl Into<String>, unit: &str) -> Column {
        let (name, unit) = (name.into(), unit.into());
        Column { name, unit }
    }
}

impl Table {
    pub fn new(id: &str, title: &str, about: &str, columns: &[(&str, &str)]) -> Table {
        let column = |(name, unit): &(&str, &str)| Column::new(*name, unit);
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
#[derive(Deserialize, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub quick: bool,
    pub tables: Vec<Table>,
    /// How long each group took.
    pub seconds: Vec<(String, f64)>,
}

impl Report {
    /// The one that was written to that directory.
    pub fn read(dir: &Path) -> Answer<Report> {
        Ok(serde_json::from_slice(&fs::read(dir.join(JSON))?)?)
    }

    /// Writes it for programs, as Markdown, the section of the page of costs, and the charts that there are figures for.
    pub fn write(&self, dir: &Path) -> Answer<()> {
        fs::create_dir_all(dir)?;
        let json = serde_json::to_string_pretty(self)?;
        fs::write(dir.join(JSON), json + "\n")?;
        for (name, text) in self.texts()? {
            fs::write(dir.join(name), text)?;
        }
        Ok(())
    }

    /// All files but the one for programs, which has everything that they are made of.
    fn texts(&self) -> Answer<Vec<(String, String)>> {
        let charts = charts::draw(self)?;
        let titles = charts.iter().map(|(file, title, _)| (&**file, *title));
        let mut texts = vec![
            ("peers.md".to_string(), markdown::report(self, titles)),
            ("readme.md".to_string(), readme::section(self)),
        ];
        texts.extend(charts.into_iter().map(|(file, _, svg)| (file, svg)));
        Ok(texts)
    }

    /// Puts the short tables where `page` has the last ones.
    pub fn write_into(&self, page: &Path) -> Answer<()> {
        let text = fs::read_to_string(page)?;
        fs::write(page, readme::replaced(&text, &readme::section(self))?)?;
        Ok(())
    }

    /// In a sentence.
    pub fn duration(&self) -> String {
        let all: f64 = self.seconds.iter().map(|(_, seconds)| seconds).sum();
        let each = self.seconds.iter();
        let each = each.map(|(name, seconds)| format!("{name} {seconds:.0} s"));
        format!("{all:.0} s: {}.", each.collect::<Vec<_>>().join(", "))
    }
}

const JSON: &str = "peers.json";

pub use markdown::{table as as_text, thousands};

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the run that the repository shows.
    fn kept() -> Report {
        Report::read(&root().join("docs/benchmarks")).expect("it can be read")
    }

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn what_the_repository_shows_is_what_was_measured() {
        for (name, text) in kept().texts().expect("they can be made") {
            let there = fs::read_to_string(root().join("docs/benchmarks").join(&name));
            assert!(
                there.expect("it is there") == text,
                "{name} is not what peers.json says"
            );
        }
    }

    #[test]
    fn the_page_of_costs_shows_what_was_measured() {
        let page = fs::read_to_string(root().join("docs/performance.md")).expect("it is there");
        let replaced = readme::replaced(&page, &readme::section(&kept()));
        assert!(page == replaced.expect("it has a place for figures"));
    }
}
