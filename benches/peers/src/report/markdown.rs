//! Tables as Markdown, which is what the terminal gets as well.

use super::{Cell, Report, Table};

/// All tables, with the charts at their head.
pub fn report<'a>(report: &Report, charts: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = format!(
        "# Side by side with what people use today\n\n{}: {}.\n",
        report.machine.date,
        report.machine.sentence()
    );
    if report.quick {
        text += "\nA quick run: it shows that everything works, and its figures mean little.\n";
    }
    text += "\nMedians of several rounds in one run, all peers in turn in each; in brackets the smallest and \
             the largest. The rows that say \"not measured\" say why. How to have them again: \
             [benches/peers/README.md](../../benches/peers/README.md). The same figures for programs: \
             [peers.json](peers.json).\n";
    for (file, title) in charts {
        text += &format!("\n![{title}]({file})\n");
    }
    for one in &report.tables {
        text += &format!("\n## {}\n\n{}\n\n{}", one.title, one.about, table(one));
    }
    text += &format!("\n## Versions\n\n{}.\n", report.machine.versions.join(", "));
    text + &format!("\n## How long it took\n\n{}\n", report.duration())
}

/// A table as Markdown.
pub fn table(table: &Table) -> String {
    let name = |unit: &str, name: &str| match unit {
        "" => name.to_string(),
        unit => format!("{name}, {unit}"),
    };
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(table.columns.iter().map(|c| name(&c.unit, &c.name)));
    for row in &table.rows {
        let mut line = vec![row.peer.clone()];
        line.extend(cells(&row.cells));
        lines.push(line);
    }
    rows(&lines)
}

/// The first line is the head. Columns are as wide as they need to be.
pub fn rows(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let rule = widths.iter().enumerate().map(|(at, width)| match at {
        0 => "-".repeat(*width + 2),
        _ => "-".repeat(*width + 1) + ":",
    });
    let rule = format!("|{}|\n", rule.collect::<Vec<_>>().join("|"));
    let mut lines = lines.iter().map(|line| aligned(line, &widths));
    lines.next().unwrap_or_default() + &rule + &lines.collect::<String>()
}

/// Names to the left, figures to the right.
fn aligned(line: &[String], widths: &[usize]) -> String {
    let cell = |(at, text): (usize, &String)| match at {
        0 => format!(" {text:<width$} ", width = widths[0]),
        _ => format!(" {text:>width$} ", width = widths[at]),
    };
    let cells: Vec<String> = line.iter().enumerate().map(cell).collect();
    format!("|{}|\n", cells.join("|"))
}

/// A reason that holds for the whole row is given once.
fn cells(cells: &[Cell]) -> Vec<String> {
    let mut said = None;
    let show = |cell: &Cell| match cell {
        Cell::Said(text) => text.clone(),
        Cell::Missing(why) if said.as_ref() == Some(why) => "-".into(),
        Cell::Missing(why) => {
            said = Some(why.clone());
            format!("not measured: {why}")
        }
        Cell::Measured(spread) if spread.low == spread.high => digits(spread.median),
        Cell::Measured(spread) => {
            let [median, low, high] = [spread.median, spread.low, spread.high].map(digits);
            format!("{median} ({low} .. {high})")
        }
    };
    cells.iter().map(show).collect()
}

/// Three digits that mean something.
pub fn digits(number: f64) -> String {
    match number.abs() {
        0.0 => "0".into(),
        n if n >= 100.0 => grouped(number),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 0.1 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}

/// Thousands apart.
fn grouped(number: f64) -> String {
    thousands(number.round() as u64)
}

/// A whole number, its thousands apart.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Cell, Table};
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.0, 0.0123, 0.5, 12.34, 123.4, 1234567.0].map(digits);
        assert_eq!(shown, ["0", "0.0123", "0.50", "12.3", "123", "1,234,567"]);
    }

    #[test]
    fn a_reason_is_given_once_a_row() {
        let mut table = Table::new("id", "title", "about", &[("a", "us"), ("b", "")]);
        table.missing("peer", "not installed");
        table.row("other", vec![Cell::exactly(1.5), Cell::said("never")]);
        let text = super::table(&table);
        assert_eq!(text.matches("not measured: not installed").count(), 1);
        assert!(
            text.lines()
                .all(|line| line.chars().filter(|c| *c == '|').count() == 4)
        );
    }
}
