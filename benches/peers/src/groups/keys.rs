//! What it costs to have many keys.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Run;
use super::rounds::Rounds;
use crate::locks::keyed;
use crate::process::{Peer, number};
use crate::report::{Cell, Column, Table, thousands};
use crate::{Answer, temporary};

const ABOUT: &str = "So many locks, each made by being used once: the first column is what that costs, on \
    the way to 100,000. Then they are taken and given back at random, named anew each time: what finds or \
    opens it is part of the time; only with a handle that is kept it is always the same one. Where there is one \
    file each, or one row each, that is what it costs on disk. Resident is what the process has in memory, shared mappings included.";

/// Making the keys has to be done within it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Made at a time.
const STEP: u64 = 5_000;
/// Few enough for most.
const TIMED_TO: u64 = 100_000;

pub fn measure(run: &Run) -> Answer<Vec<Table>> {
    let sizes = run.among(&[1, 1_000, TIMED_TO, 1_000_000][..], &[1, 1_000][..]);
    let most = sizes[sizes.len() - 1];
    let store = |name: &&'static str| Store::new(run, name, most);
    let mut stores = keyed::names()
        .iter()
        .map(store)
        .collect::<Answer<Vec<Store>>>()?;
    for &size in sizes {
        for store in &mut stores {
            run.progress(format!("{}: {} keys", store.name, thousands(size)));
            store.grow(size);
        }
        let mut rounds = Rounds::of(stores.len());
        for seed in 1..=run.among(5, 2) {
            rounds.go(|who| {
                let line = format!("pair {size} {seed} {}", run.among(80, 10));
                stores[who].ask(&line).and_then(|told| number(&told))
            });
        }
        for (store, samples) in stores.iter_mut().zip(rounds.finish()) {
            store.times.push(Cell::median(samples, 1e-3));
        }
    }
    let mut table = Table::new("keys", "Locks by number of keys", ABOUT, &[]);
    table.columns = columns(sizes);
    for store in stores {
        table.row(store.name, store.cells());
    }
    Ok(vec![table])
}

fn columns(sizes: &[u64]) -> Vec<Column> {
    let keys = |size: u64| {
        format!(
            "{} key{}",
            thousands(size),
            if size == 1 { "" } else { "s" }
        )
    };
    let times = sizes.iter().map(|size| Column::new(keys(*size), "us"));
    let disk = sizes[1..].iter();
    let disk = disk.map(|size| Column::new(format!("disk a key, of {}", thousands(*size)), "B"));
    let mut columns = vec![Column::new("first use", "us")];
    columns.extend(times.chain(disk));
    columns.push(Column::new("resident, most keys", "MiB"));
    columns
}

/// One that grows from size to size.
struct Store {
    name: &'static str,
    /// Ended, with the reason, when it cannot have as many as it should.
    peer: Answer<Peer>,
    dir: TempDir,
    made: u64,
    /// On the way to so many, the nanoseconds that a new one takes.
    timed_to: u64,
    first: Vec<f64>,
    times: Vec<Cell>,
    disk: Vec<Cell>,
    resident: f64,
}

impl Store {
    fn new(run: &Run, name: &'static str, most: u64) -> Answer<Store> {
        let dir = temporary::directory(&run.dir)?;
        let command = keyed::command(name, dir.path(), most, &run.python);
        Ok(Store {
            name,
            peer: command.and_then(Peer::start),
            dir,
            made: 0,
            timed_to: run.among(TIMED_TO, 1_000),
            first: Vec::new(),
            times: Vec::new(),
            disk: Vec::new(),
            resident: 0.0,
        })
    }

    fn ask(&mut self, line: &str) -> Answer<String> {
        match &mut self.peer {
            Ok(peer) => peer.ask(line),
            Err(why) => Err(why.to_string().into()),
        }
    }

    fn grow(&mut self, size: u64) {
        let cell = match self.make(size).and_then(|()| self.weigh()) {
            Ok(bytes) => Cell::exactly(bytes),
            Err(why) => {
                let cell = Cell::Missing(why.to_string());
                self.peer = Err(why);
                cell
            }
        };
        self.disk.push(cell);
    }

    fn make(&mut self, to: u64) -> Answer<()> {
        let (begin, from) = (Instant::now(), self.made);
        while self.made < to {
            let share = (self.made - from) as f64 / (to - from) as f64;
            // Not before it is known how long it takes.
            if self.made > from && begin.elapsed() > PATIENCE.mul_f64(share.max(0.1)) {
                let seconds = PATIENCE.as_secs();
                return Err(format!("making {} takes more than {seconds} s", thousands(to)).into());
            }
            let (start, next) = (Instant::now(), to.min(self.made + STEP));
            self.ask(&format!("make {} {next}", self.made))?;
            if to == self.timed_to {
                let each = start.elapsed().as_nanos() as f64 / (next - self.made) as f64;
                self.first.push(each);
            }
            self.made = next;
        }
        Ok(())
    }

    /// Bytes on disk, of each.
    fn weigh(&mut self) -> Answer<f64> {
        if let Ok(peer) = &self.peer {
            self.resident = resident_mib(peer.id())?;
        }
        Ok(bytes_on_disk(self.dir.path())? as f64 / self.made as f64)
    }

    fn cells(self) -> Vec<Cell> {
        let first = match self.peer {
            Err(why) if self.first.is_empty() => Err(why),
            _ => Ok(self.first),
        };
        let mut cells = vec![Cell::median(first, 1e-3)];
        cells.extend(self.times);
        cells.extend(self.disk.into_iter().skip(1));
        cells.push(Cell::exactly(self.resident));
        cells
    }
}

pub fn bytes_on_disk(dir: &Path) -> Answer<u64> {
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
