//! What `/proc` says of other processes.

use std::collections::BTreeMap;
use std::fs;

/// A process, as it was when asked for.
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// In the kernel's ticks: a number alone may be another process's by now.
    pub started: u64,
    /// Its first thread has ended. Its parent has not reaped it yet, or other threads still run.
    pub is_zombie: bool,
}

impl Process {
    /// `None`: there is none, or nothing that says so.
    pub fn of(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may have anything in it.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        Some(Process {
            pid,
            is_zombie: fields.next()? == "Z",
            parent: fields.next()?.parse().ok()?,
            started: fields.nth(17)?.parse().ok()?,
        })
    }
}

/// All processes that descend from `pid`, whatever has become of their own parents: for a process
/// that adopts orphans.
pub fn descendants_of(pid: u32) -> Vec<u32> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for process in numbers.filter_map(Process::of) {
        children
            .entry(process.parent)
            .or_default()
            .push(process.pid);
    }
    let mut found = Vec::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        // Taken out, so that a list that was read while it changed leads to an end, too.
        let of_parent = children.remove(&parent).unwrap_or_default();
        next.extend(&of_parent);
        found.extend(of_parent);
    }
    found
}
