//! The few figures of all that docs/performance.md shows, beside what they are meant to be.

mod figures;

use super::Report;
use super::markdown::rows;
use crate::Answer;

const BEGIN: &str = "<!-- figures: written by benches/peers, from its last whole run -->\n";
const END: &str = "<!-- end of figures -->\n";

/// What a figure should be.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
    None,
}
use Target::{AtLeast, AtMost};

/// In a line: what it is, how it is shown, and what is judged of it.
struct Figure {
    what: String,
    shown: String,
    judged: f64,
    target: Target,
}

fn figure(what: impl Into<String>, shown: String, judged: f64, target: Target) -> Figure {
    let what = what.into();
    Figure {
        what,
        shown,
        judged,
        target,
    }
}

impl Figure {
    fn line(self) -> Vec<String> {
        let (text, met) = match self.target {
            AtMost(most, unit) => (format!("{most} {unit}"), self.judged <= most),
            AtLeast(least, unit) => (format!("at least {least} {unit}"), self.judged >= least),
            Target::None => ("-".into(), true),
        };
        let text = if met {
            text
        } else {
            format!("{text}: **falls short**")
        };
        vec![self.what, self.shown, text]
    }
}

/// The section; what was not measured is not in it.
pub fn section(report: &Report) -> String {
    let took: f64 = report.seconds.iter().map(|(_, seconds)| seconds).sum();
    let sentence = format!(
        "{}: {}. One run of `cargo run --release --manifest-path benches/peers/Cargo.toml`, which took \
         {took:.0} s and measures all of this side by side; medians of several rounds.",
        report.machine.date,
        report.machine.sentence()
    );
    let tables = [
        (
            "uncontended, beside a bare compare-exchange pair on the same file",
            figures::pairs(report),
        ),
        ("otherwise", figures::others(report)),
        ("values of 100 bytes, 100,000 keys", figures::values(report)),
    ];
    let mut text = wrapped(&sentence);
    for (head, figures) in tables {
        let head = [head, "measured", "target"].map(String::from).to_vec();
        let lines = figures.into_iter().flatten().map(Figure::line);
        text += &format!("\n{}", rows(&[vec![head], lines.collect()].concat()));
    }
    text
}

/// Puts the section where `page` has the last one.
pub fn replaced(page: &str, section: &str) -> Answer<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.ok_or("the page has no place for figures")?;
    Ok(format!("{before}{BEGIN}{section}{END}{after}"))
}

/// In lines of a width that the rest of the page has.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 105;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        match lines[last].len() {
            0 => lines[last] += word,
            len if len + 1 + word.len() <= WIDTH => lines[last] += &format!(" {word}"),
            _ => lines.push(word.to_string()),
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_takes_the_place_of_the_last_one() {
        let readme = format!("a\n{BEGIN}old\n{END}b\n");
        let replaced = replaced(&readme, "new\n").expect("there is a place");
        assert_eq!(replaced, format!("a\n{BEGIN}new\n{END}b\n"));
        assert!(super::replaced("no place", "new\n").is_err());
    }

    #[test]
    fn what_misses_its_target_is_told() {
        let line = |judged, target| figure("", String::new(), judged, target).line()[2].clone();
        assert_eq!(line(2.0, AtMost(2.0, "x")), "2 x");
        assert_eq!(line(2.1, AtMost(2.0, "x")), "2 x: **falls short**");
        assert_eq!(
            line(1.4, AtLeast(1.5, "x")),
            "at least 1.5 x: **falls short**"
        );
    }
}
