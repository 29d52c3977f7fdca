//! The machine that was measured, as far as it matters to figures: no names of hosts, no paths.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::python::Python;

#[derive(Deserialize, Serialize)]
pub struct Machine {
    pub date: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    /// How many others wanted a processor in the last minute before.
    pub load: f64,
    pub kernel: String,
    /// On which the stores and locks lay, and which the disk of the tail latencies has.
    pub file_system: String,
    pub disk_file_system: String,
    pub versions: Vec<String>,
}

impl Machine {
    pub fn describe(dir: &Path, disk: &Path, python: &Python) -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let mut versions = rust_versions();
        let modules = python.modules().iter();
        versions.extend(modules.map(|(name, version)| format!("{name} {version} (Python)")));
        Machine {
            date: today(),
            cpu: model.map_or("unknown", |(_, model)| model.trim()).into(),
            cores: std::thread::available_parallelism().map_or(0, |n| n.get()),
            memory_gib: memory_kib(&read("/proc/meminfo")) / f64::from(1 << 20),
            load: first_number(&read("/proc/loadavg")),
            kernel: version(&read("/proc/sys/kernel/osrelease")),
            file_system: file_system(dir),
            disk_file_system: file_system(disk),
            versions,
        }
    }

    /// In a line.
    pub fn sentence(&self) -> String {
        let Machine {
            cpu,
            cores,
            memory_gib,
            load,
            kernel,
            file_system,
            disk_file_system,
            ..
        } = self;
        format!(
            "{cpu}, {cores} cores, {memory_gib:.0} GiB, Linux {kernel}, load {load:.1} before; stores and \
             locks on {file_system}, tail latencies on {disk_file_system}"
        )
    }
}

fn memory_kib(meminfo: &str) -> f64 {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    first_number(total.unwrap_or_default())
}

fn first_number(text: &str) -> f64 {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse().unwrap_or(0.0)
}

/// What the lock file of this package says of those who are compared.
fn rust_versions() -> Vec<String> {
    const COMPARED: [&str; 9] = [
        "slablock",
        "heed",
        "rusqlite",
        "redb",
        "cacache",
        "fs4",
        "fd-lock",
        "fslock",
        "named-lock",
    ];
    let lines: Vec<&str> = include_str!("../../Cargo.lock").lines().collect();
    let version = |name: &&str| {
        let at = lines
            .iter()
            .position(|line| *line == format!("name = \"{name}\""))?;
        let version = lines.get(at + 1)?.split('"').nth(1)?;
        Some(format!("{name} {version}"))
    };
    COMPARED.iter().filter_map(version).collect()
}

/// The date, in universal time.
fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = since.map_or(0, |since| since.as_secs() / 86_400);
    date(days)
}

/// So many days after the first of 1970. From "chrono-Compatible Low-Level Date Algorithms" (H. Hinnant):
/// years begin in March, so that the leap day is the last one.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + next)
}

/// The type of the mount that `dir` lies on: the longest that it begins with, the last of those.
pub fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or(dir.to_path_buf());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        dir.starts_with(place).then_some((place.len(), kind))
    });
    let found = mounts.max_by_key(|(len, _)| *len);
    found
        .map_or("an unknown file system", |(_, kind)| kind)
        .to_string()
}

/// Without what a distributor adds.
fn version(release: &str) -> String {
    let numbers = release.split(|c: char| !c.is_ascii_digit() && c != '.');
    numbers.take(1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let dates = [0, 59, 11_016, 19_782, 19_783].map(date);
        let expected = [
            "1970-01-01",
            "1970-03-01",
            "2000-02-29",
            "2024-02-29",
            "2024-03-01",
        ];
        assert_eq!(dates, expected);
    }

    #[test]
    fn a_release_is_cut_behind_its_numbers() {
        assert_eq!(version("6.1.0-13-amd64"), "6.1.0");
        assert_eq!(version("6.18.44\n"), "6.18.44");
    }
}
