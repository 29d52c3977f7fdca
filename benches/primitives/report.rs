//! Rows, and how they are shown: a table for people, or one JSON object.

use std::fs;
use std::path::Path;

/// What was measured, and what it should be.
pub struct Row {
    name: String,
    /// `None`: it could not be measured, and the note says why.
    value: Option<Spread>,
    unit: &'static str,
    target: Option<Target>,
    note: String,
}

/// A value, and what its spread is shown by.
#[derive(Clone, Copy)]
pub struct Spread {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    pub fn new(name: impl Into<String>, unit: &'static str, value: Spread) -> Row {
        Row {
            name: name.into(),
            value: Some(value),
            unit,
            target: None,
            note: String::new(),
        }
    }

    /// Something that cannot be measured here.
    pub fn missing(name: impl Into<String>, note: impl Into<String>) -> Row {
        Row {
            name: name.into(),
            value: None,
            unit: "",
            target: None,
            note: note.into(),
        }
    }

    pub fn at_most(self, target: f64) -> Row {
        Row {
            target: Some(Target::AtMost(target)),
            ..self
        }
    }

    pub fn at_least(self, target: f64) -> Row {
        Row {
            target: Some(Target::AtLeast(target)),
            ..self
        }
    }

    pub fn note(self, note: impl Into<String>) -> Row {
        Row {
            note: note.into(),
            ..self
        }
    }

    fn verdict(&self) -> &'static str {
        let (Some(spread), Some(target), false) = (self.value, self.target, cfg!(debug_assertions))
        else {
            return "";
        };
        let good = match target {
            Target::AtMost(most) => spread.value <= most,
            Target::AtLeast(least) => spread.value >= least,
        };
        if good { "pass" } else { "falls short" }
    }

    fn show(&self) -> String {
        let (value, spread) = match self.value {
            None => (String::new(), String::new()),
            Some(s) => {
                let spread = format!("{} .. {}", digits(s.low), digits(s.high));
                let value = format!("{} {}", digits(s.value), self.unit);
                (
                    value,
                    if s.low == s.high {
                        String::new()
                    } else {
                        spread
                    },
                )
            }
        };
        let target = match self.target {
            None => String::new(),
            Some(Target::AtMost(most)) => format!("<= {most}"),
            Some(Target::AtLeast(least)) => format!(">= {least}"),
        };
        let verdict = self.verdict();
        let (name, note) = (&self.name, &self.note);
        let line =
            format!("  {name:<46} {value:>13} {spread:>18} {target:>8}  {verdict:<11} {note}");
        line.trim_end().to_string()
    }

    fn json(&self, group: &str) -> String {
        let number = |n: Option<f64>| n.map_or("null".to_string(), |n| n.to_string());
        let of = |pick: fn(Spread) -> f64| number(self.value.map(pick));
        let (most, least) = match self.target {
            None => (None, None),
            Some(Target::AtMost(most)) => (Some(most), None),
            Some(Target::AtLeast(least)) => (None, Some(least)),
        };
        format!(
            "{{\"group\":{},\"name\":{},\"unit\":{},\"value\":{},\"low\":{},\"high\":{},\"at_most\":{},\"at_least\":{},\"verdict\":{},\"note\":{}}}",
            quoted(group),
            quoted(&self.name),
            quoted(self.unit),
            of(|s| s.value),
            of(|s| s.low),
            of(|s| s.high),
            number(most),
            number(least),
            quoted(self.verdict()),
            quoted(&self.note),
        )
    }
}

impl Spread {
    /// A figure without one.
    pub fn exactly(value: f64) -> Spread {
        Spread {
            value,
            low: value,
            high: value,
        }
    }

    /// The median, from the first to the third quartile.
    pub fn median(samples: &mut [f64]) -> Spread {
        samples.sort_by(f64::total_cmp);
        Spread {
            value: at_share(samples, 0.5),
            low: at_share(samples, 0.25),
            high: at_share(samples, 0.75),
        }
    }
}

/// The sample below which that share of the sorted samples lies.
pub fn at_share(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted[at.saturating_sub(1).min(last)]
}

/// Prints group by group, so that one can watch.
pub struct Report {
    json: bool,
    rows: Vec<String>,
}

impl Report {
    pub fn new(json: bool) -> Report {
        let report = Report {
            json,
            rows: Vec::new(),
        };
        if !json {
            let [cpu, kernel, fs] = machine();
            println!("slablock on {cpu}, Linux {kernel}, {fs}");
            if cfg!(debug_assertions) {
                println!("not optimised: shows that everything runs, and nothing else");
            }
            println!(
                "  {:<46} {:>13} {:>18} {:>8}",
                "", "measured", "spread", "target"
            );
        }
        report
    }

    pub fn add(&mut self, group: &str, rows: Vec<Row>) {
        if self.json {
            self.rows.extend(rows.iter().map(|row| row.json(group)));
            return;
        }
        println!("{group}");
        for row in rows {
            println!("{}", row.show());
        }
    }

    pub fn finish(self) {
        if self.json {
            let [cpu, kernel, fs] = machine().map(|text| quoted(&text));
            let rows = self.rows.join(",\n");
            println!("{{\"cpu\":{cpu},\"kernel\":{kernel},\"fs\":{fs},\"rows\":[\n{rows}\n]}}");
        }
    }
}

/// Three digits that mean something.
fn digits(number: f64) -> String {
    match number.abs() {
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Processor and how many, kernel, and the file system on which the stores lie.
fn machine() -> [String; 3] {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("an unknown CPU", |(_, model)| model.trim());
    let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = read("/proc/sys/kernel/osrelease").trim().to_string();
    let fs = file_system(&read("/proc/self/mounts"), &std::env::temp_dir());
    [format!("{model} ({cpus} CPUs)"), kernel, fs]
}

/// The type of the mount that `dir` lies on: the longest that it begins with, the last of those.
fn file_system(mounts: &str, dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or(dir.to_path_buf());
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        dir.starts_with(place).then_some((place.len(), kind))
    });
    mounts
        .max_by_key(|(len, _)| *len)
        .map_or("an unknown file system", |(_, kind)| kind)
        .to_string()
}
