//! What every process says of what it does: a line in a plain file, kept outside of the store.
//!
//! A line is one `write` to a file opened with O_APPEND, so lines of different processes never mix.
//! All are of one length, of which a page is a multiple: the kernel lets a killed process leave a
//! `write` between two pages, and so a killed one leaves a whole line or none. Each is written on
//! the *inside* of what it tells: taking is told after it succeeded, giving back before it begins.
//! So what the journal claims is never more than what was so, whenever the writer was killed or
//! stopped.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::site::KeySpec;

/// With its end; filled up with blanks.
const LINE_BYTES: usize = 128;

macro_rules! events {
    ($($(#[$doc:meta])* $word:literal $name:ident { $($field:ident),* })*) => {
        /// What happened. All fields are numbers; `key` is one into the list of keys.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $name { $($field: u64),* },)*
        }

        impl Event {
            fn word(&self) -> &'static str {
                match self {
                    $(Event::$name { .. } => $word,)*
                }
            }

            fn fields(&self) -> Vec<(&'static str, u64)> {
                match self {
                    $(Event::$name { $($field),* } => vec![$((stringify!($field), *$field)),*],)*
                }
            }

            fn parse(word: &str, mut numbers: impl Iterator<Item = u64>) -> Option<Event> {
                match word {
                    $($word => Some(Event::$name { $($field: numbers.next()?),* }),)*
                    _ => None,
                }
            }
        }
    };
}

events! {
    /// A life begins: forked or executed by `parent`, or one of its threads.
    "born" Born { parent }
    /// It is about to wait for a key.
    "want" Want { key }
    /// It has the key. `asked`: when it began to ask. `died`: one more than the process id of the
    /// dead predecessor that it was told of, 0 if of none. `overran`: 1 if told of a late one.
    "take" Take { key, token, asked, permit, died, overran }
    /// At `asked`, the library was asked whether the hold stands, and said yes.
    "stands" Stands { key, token, asked }
    /// At `asked`, the library was asked to renew the hold, and did.
    "renewed" Renewed { key, token, asked }
    /// It is about to give back; `count` is what it wrote to the counter, 0 if there is none.
    "give" Give { key, token, count }
    /// Giving back succeeded. Only told of keys that can be lost.
    "kept" Kept { key, token }
    /// Giving back, or asking, said that the hold was lost.
    "lost" Lost { key, token }
    /// It asked in vain, for at most `patience` nanoseconds.
    "passed" Passed { key, asked, patience }
    /// It could not even find out whether the key was available: another process was in the middle
    /// of a change of the structure for too long.
    "busy" Busy { key, asked, patience }
    /// It is about to add `value` to an average `times` times.
    "add" Add { key, value, times }
    /// It has added them.
    "added" Added { key, value, times }
    /// It is about to set a value under a name.
    "announce" Announce { value, number }
    /// It has read such a value.
    "saw" Saw { value, number }
    /// It is about to add one to a counter among the values `times` times; it has.
    "count" Count { counter, times }
    "counted" Counted { counter, times }
    /// It is about to remove a key by force.
    "remove" Remove { key }
    /// It is about to remove by force all keys with a tag.
    "evict" Evict { tag }
    /// The removal is done.
    "cut" Cut { }
    /// Something that has to come to an end, named by a number, has; it began at `asked`.
    "did" Did { kind, asked }
    /// It is about to fork.
    "fork" Fork { }
    /// It is about to execute this program again, holds and all.
    "exec" Exec { }
    /// It is about to end, holds and all.
    "exit" Exit { }
    /// The torturer is about to kill or stop a process; has let it run again; has seen it ended.
    "kill" Kill { pid }
    "stop" Stop { pid }
    "cont" Cont { pid }
    "dead" Dead { pid }
    /// The torturer, which waits for no process, was to continue at `from` and only now does: every
    /// other process was as late, for the machine stood still.
    "stall" Stall { from }
}

/// A line of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub at: u64,
    /// The life that says it. A process may have several: one after the other by executing, and
    /// one for each thread.
    pub id: u64,
    pub pid: u32,
    pub event: Event,
}

impl Line {
    fn written(&self) -> String {
        let Line { at, id, pid, event } = self;
        let mut text = format!("{at} {id} {pid} {}", event.word());
        for (_, number) in event.fields() {
            text.push_str(&format!(" {number}"));
        }
        format!("{text:<0$}\n", LINE_BYTES - 1)
    }

    fn parse(text: &str) -> Option<Line> {
        let mut words = text.split_ascii_whitespace();
        let mut number = || words.next()?.parse::<u64>().ok();
        let (at, id, pid) = (number()?, number()?, number()? as u32);
        let word = words.next()?;
        let numbers = words.map_while(|word| word.parse().ok());
        let event = Event::parse(word, numbers)?;
        Some(Line { at, id, pid, event })
    }

    /// For people: with names instead of numbers, and seconds since `start`.
    pub fn told(&self, keys: &[KeySpec], start: u64) -> String {
        let seconds = |at: u64| (at as f64 - start as f64) / 1e9;
        let mut text = format!(
            "{:+.6} s  {} (process {})  {}",
            seconds(self.at),
            name_of(self.id),
            self.pid,
            self.event.word()
        );
        for (name, value) in self.event.fields() {
            text.push_str(&match (name, keys.get(value as usize)) {
                ("key", Some(key)) => format!(" {}", key.name),
                ("asked", _) => format!(" asked={:+.6}", seconds(value)),
                ("parent", _) => format!(" of {}", name_of(value)),
                _ => format!(" {name}={value}"),
            });
        }
        text
    }
}

/// How many lives a process and its children may have.
const BRANCH_BITS: u32 = 20;

/// The first life of a worker.
pub fn id_of_worker(serial: u64) -> u64 {
    serial << BRANCH_BITS
}

fn name_of(id: u64) -> String {
    let branch = id & ((1 << BRANCH_BITS) - 1);
    format!("w{}.{branch}", id >> BRANCH_BITS)
}

/// The clock of the journal, the same in all processes.
pub fn now_ns() -> nix::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// A file to which lines are appended, whole.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    pub fn open(path: &Path) -> io::Result<Journal> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Journal { file })
    }

    pub fn write(&self, line: &Line) -> io::Result<()> {
        let written = line.written();
        match written.len() {
            LINE_BYTES => self.append(&written),
            _ => Err(io::Error::other(format!("too long a line: {written:?}"))),
        }
    }

    /// One line in one write; less than the whole of it would be mistaken for another.
    pub fn append(&self, text: &str) -> io::Result<()> {
        match (&self.file).write(text.as_bytes())? {
            written if written == text.len() => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    /// Forgets everything: the round is judged.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

/// All lines of the journal at `path`.
pub fn read(path: &Path) -> io::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .map(|line| {
            let failure = || io::Error::other(format!("not a line of the journal: {line:?}"));
            Line::parse(line).ok_or_else(failure)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were_written() {
        let events = [
            Event::Cut {},
            Event::Want { key: 3 },
            Event::Take {
                key: 1,
                token: 1 << 50,
                asked: u64::MAX / 1_000,
                permit: 4,
                died: 5,
                overran: 1,
            },
        ];
        for event in events {
            let line = Line {
                at: u64::MAX / 1_000,
                id: id_of_worker(1 << 30) + 3,
                pid: 4711,
                event,
            };
            let written = line.written();
            assert_eq!(Line::parse(written.trim_end_matches('\n')), Some(line));
            assert_eq!((written.len(), 4_096 % written.len()), (LINE_BYTES, 0));
        }
        assert_eq!(Line::parse("1 2 3 take 4"), None);
        assert_eq!(Line::parse("1 2 3 nonsense"), None);
    }
}
