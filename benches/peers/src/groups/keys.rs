//! What it costs to have many keys.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use super::Run;
use crate::Answer;
use crate::locks::keyed;
use crate::process::Peer;
use crate::report::{Cell, Table, thousands};
use crate::stats::Spread;

const ABOUT: &str = "So many locks, each made by being used once. Then they are taken and given back at \
    random, named anew each time: what finds or opens it is part of the time. Where there is one file \
    each, or one row each, that is what it costs on disk. Resident is what the process has in memory, \
    shared mappings included.";

/// Making the keys has to be done within it, in seconds.
const PATIENCE: f64 = 12.0;

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let sizes = run.among(&[1, 1_000, 100_000, 1_000_000][..], &[1, 1_000][..]);
    let mut columns: Vec<(String, &str)> = Vec::new();
    for size in sizes {
        let keys = if *size == 1 { "key" } else { "keys" };
        columns.push((format!("{} {keys}", thousands(*size)), "us"));
    }
    for size in &sizes[1..] {
        columns.push((format!("disk a key, of {}", thousands(*size)), "B"));
    }
    columns.push(("resident, most keys".into(), "MiB"));
    let columns: Vec<_> = columns
        .iter()
        .map(|(name, unit)| (name.as_str(), *unit))
        .collect();
    let mut table = Table::new("keys", "Locks by number of keys", ABOUT, &columns);
    for name in keyed::names() {
        run.progress(format!("{name}: many keys"));
        match grow(run, name, sizes) {
            Ok(cells) => table.row(name, cells),
            Err(failure) => table.missing(name, &failure.to_string()),
        }
    }
    Ok(vec![table])
}

/// One store that grows from size to size.
fn grow(run: &Run, name: &str, sizes: &[u64]) -> Answer<Vec<Cell>> {
    let dir = tempfile::tempdir_in(&run.dir)?;
    let most = sizes.last().copied().unwrap_or(1);
    let mut peer = Peer::start(keyed::command(name, dir.path(), most, &run.python)?)?;
    let (mut times, mut disk, mut resident, mut made) = (Vec::new(), Vec::new(), 0.0, 0);
    for &size in sizes {
        if let Err(failure) = make(&mut peer, made, size) {
            let why = Cell::Missing(failure.to_string());
            times.resize(sizes.len(), why.clone());
            disk.resize(sizes.len(), why);
            break;
        }
        made = size;
        times.push(pairs(run, &mut peer, size)?);
        disk.push(Cell::exactly(
            bytes_on_disk(dir.path())? as f64 / size as f64,
        ));
        resident = resident_mib(peer.id())?;
    }
    times.extend(disk.into_iter().skip(1));
    times.push(Cell::exactly(resident));
    Ok(times)
}

fn make(peer: &mut Peer, from: u64, to: u64) -> Answer<()> {
    const STEP: u64 = 5_000;
    let start = Instant::now();
    for at in (from..to).step_by(STEP as usize) {
        let share = (at - from) as f64 / (to - from) as f64;
        // Not before it is known how long it takes.
        if at > from && start.elapsed().as_secs_f64() > PATIENCE * share.max(0.1) {
            return Err(format!("making {} takes more than {PATIENCE} s", thousands(to)).into());
        }
        peer.ask(&format!("make {at} {}", to.min(at + STEP)))?;
    }
    Ok(())
}

fn pairs(run: &Run, peer: &mut Peer, keys: u64) -> Answer<Cell> {
    let ms = run.among(80, 10);
    let one = |seed| peer.ask_number(&format!("pair {keys} {seed} {ms}"));
    let samples = (1..=run.among(5, 2))
        .map(one)
        .collect::<Answer<Vec<f64>>>()?;
    let spread = Spread::of(samples).ok_or("no sample")?;
    Ok(Cell::Measured(spread.scaled(1e-3)))
}

fn bytes_on_disk(dir: &Path) -> Answer<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            sum += bytes_on_disk(&entry.path())?;
        }
        // The unit of `blocks` is 512 bytes on every file system; an inode takes 256 on most.
        sum += metadata.blocks() * 512 + 256;
    }
    Ok(sum)
}

fn resident_mib(process: u32) -> Answer<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no VmRSS")?.parse::<f64>()? / 1024.0)
}
