//! Locks: those who let one process at a time through, behind one trait.

mod files;
pub mod keyed;
mod libc_locks;
mod slablock;
mod system_v;
mod words;
pub mod worker;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use files::writable;
pub use system_v::remove as remove_system_v;
pub use words::Words;

use crate::Answer;
use crate::stats::Times;

/// What guards the way: a lock, a re-entrant lock, a permit; or a running average, which guards itself.
pub trait Guard {
    /// Waits until it has it, does `inside`, and gives it back.
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()>;

    /// Takes it under a lease and keeps it; `false`: this one knows no leases.
    fn lend(&mut self, _lease: Duration) -> Answer<bool> {
        Ok(false)
    }

    /// Gives back what it lost, or never had; `false`: this one has no call for that.
    fn give_back_late(&mut self) -> Answer<bool> {
        Ok(false)
    }

    /// How many additions an average has seen, or `None` for a lock.
    fn tally(&mut self) -> Answer<Option<u64>> {
        Ok(None)
    }
}

/// A guard that is only known when the program runs. The loops are compiled for each by itself, so that no
/// call through a table is measured.
pub trait Lock {
    /// Takes and gives back, so many times.
    fn pairs(&mut self, times: u64) -> Answer<Duration>;

    /// Adds one to the counter of `page`, not in one step, as long as that says so. Returns how often.
    fn count(&mut self, page: &Words, most: u64) -> Answer<u64>;

    /// Adds as `count` does, and lets others run in the midst of it.
    fn count_slowly(&mut self, page: &Words, most: u64) -> Answer<u64>;

    /// As `count`, and how long each took.
    fn count_timed(&mut self, page: &Words, times: &mut Times) -> Answer<()>;

    /// Does something inside.
    fn once(&mut self, inside: &mut dyn FnMut()) -> Answer<()>;

    /// The rest, as the guard has it.
    fn lend(&mut self, lease: Duration) -> Answer<bool>;
    fn give_back_late(&mut self) -> Answer<bool>;
    fn tally(&mut self) -> Answer<Option<u64>>;
}

impl<G: Guard> Lock for G {
    fn pairs(&mut self, times: u64) -> Answer<Duration> {
        let start = Instant::now();
        for _ in 0..times {
            black_box(&mut *self).with(|| {})?;
        }
        Ok(start.elapsed())
    }

    fn count(&mut self, page: &Words, most: u64) -> Answer<u64> {
        let mut done = 0;
        while done < most && page.running() {
            self.with(|| page.add_one())?;
            done += 1;
        }
        Ok(done)
    }

    fn count_slowly(&mut self, page: &Words, most: u64) -> Answer<u64> {
        let mut done = 0;
        while done < most && page.running() {
            self.with(|| page.add_one_slowly())?;
            done += 1;
        }
        Ok(done)
    }

    fn count_timed(&mut self, page: &Words, times: &mut Times) -> Answer<()> {
        let mut before = Instant::now();
        while page.running() {
            self.with(|| page.add_one())?;
            let now = Instant::now();
            times.add((now - before).as_nanos() as u64);
            before = now;
        }
        Ok(())
    }

    fn once(&mut self, inside: &mut dyn FnMut()) -> Answer<()> {
        self.with(inside)
    }

    fn lend(&mut self, lease: Duration) -> Answer<bool> {
        Guard::lend(self, lease)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        Guard::give_back_late(self)
    }

    fn tally(&mut self) -> Answer<Option<u64>> {
        Guard::tally(self)
    }
}

/// Where a lock lives, and under which name.
pub struct Place {
    pub dir: PathBuf,
    pub key: String,
    pub permits: u32,
}

impl Place {
    /// A file of this key alone.
    pub fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{what}-{}", self.key))
    }
}

/// What it is, for the reader of a table.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Lock,
    Semaphore,
    Average,
    /// Keeps nobody away: of interest is what it costs one process.
    Alone,
}

/// One who takes part.
pub struct Entry {
    pub name: &'static str,
    pub kind: Kind,
    /// Part of this program, or Python's.
    pub open: Option<Open>,
}

type Open = fn(&Place) -> Answer<Box<dyn Lock>>;

const fn here(name: &'static str, kind: Kind, open: Open) -> Entry {
    let open = Some(open);
    Entry { name, kind, open }
}

const fn python(name: &'static str, kind: Kind) -> Entry {
    let open = None;
    Entry { name, kind, open }
}

/// The bare pair, with which all are compared.
pub const LIMIT: Entry = here("bare compare-exchange", Kind::Lock, words::open_bare);
/// No lock at all: shows that lost updates would be noticed.
pub const CONTROL: Entry = here("nothing (control)", Kind::Lock, open_nothing);

/// All, in the order of the tables.
pub const ALL: [Entry; 29] = [
    LIMIT,
    here("slablock Lock", Kind::Lock, slablock::open_lock),
    here("slablock Lock, leased", Kind::Lock, slablock::open_leased),
    here("slablock RLock", Kind::Lock, slablock::open_rlock),
    here("slablock RLock, nested", Kind::Alone, slablock::open_nested),
    here(
        "slablock BoundedSemaphore",
        Kind::Semaphore,
        slablock::open_semaphore,
    ),
    here("slablock Averager", Kind::Average, slablock::open_averager),
    here(
        "slablock Averager, get",
        Kind::Alone,
        slablock::open_reading,
    ),
    here("robust mutex (pthread)", Kind::Lock, libc_locks::open_mutex),
    here(
        "POSIX semaphore",
        Kind::Semaphore,
        libc_locks::open_semaphore,
    ),
    here("System V semaphore", Kind::Semaphore, system_v::open),
    here("F_OFD_SETLK", Kind::Lock, files::open_ofd),
    here("File::lock (std)", Kind::Lock, files::open_std),
    here("fs4", Kind::Lock, files::open_fs4),
    here("fd-lock", Kind::Lock, files::open_fd_lock),
    here("fslock", Kind::Lock, files::open_fslock),
    here("named-lock", Kind::Lock, files::open_named_lock),
    python("diskcache Lock", Kind::Lock),
    python("diskcache RLock", Kind::Lock),
    python("diskcache BoundedSemaphore", Kind::Semaphore),
    python("diskcache Averager", Kind::Average),
    python("diskcache Lock, Fanout", Kind::Lock),
    python("diskcache RLock, Fanout", Kind::Lock),
    python("diskcache BoundedSemaphore, Fanout", Kind::Semaphore),
    python("diskcache Averager, Fanout", Kind::Average),
    python("filelock", Kind::Lock),
    python("fasteners", Kind::Lock),
    python("portalocker", Kind::Lock),
    python("portalocker BoundedSemaphore", Kind::Semaphore),
];

fn open(name: &str, dir: &Path, key: &str, permits: u32) -> Answer<Box<dyn Lock>> {
    let place = Place {
        dir: dir.to_path_buf(),
        key: key.to_string(),
        permits,
    };
    let mut known = ALL.iter().chain([&CONTROL]);
    let found = known.find(|entry| entry.name == name);
    let open = found.and_then(|entry| entry.open);
    open.ok_or_else(|| format!("no lock is called {name}"))?(&place)
}

/// Lets everybody through.
struct Nothing;

fn open_nothing(_: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(Nothing))
}

impl Guard for Nothing {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        inside();
        Ok(())
    }
}
