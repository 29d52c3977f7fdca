//! Processes that work at the same locks, started and spoken to together.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

use crate::Answer;
use crate::locks::worker::GIVEN_BACK;
use crate::locks::{Entry, Words, remove_system_v};
use crate::process::Peer;
use crate::python::Python;
use crate::temporary;

/// So many of this program, and as many of Python if any peer needs them.
pub struct Crew<'a> {
    // They end before what they work at goes away.
    here: Vec<Peer>,
    there: Vec<Peer>,
    place: Place,
    python: &'a Python,
    size: usize,
    page: Words,
    page_file: NamedTempFile,
}

/// What the locks lie in; goes away with all that belongs to it.
struct Place(TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        remove_system_v(self.0.path());
    }
}

/// One worker's command, without the number.
pub struct Line<'a> {
    pub verb: &'a str,
    pub name: &'a str,
    pub key: &'a str,
    pub permits: u32,
}

impl Line<'_> {
    fn with(&self, number: u64) -> String {
        let Line {
            verb,
            name,
            key,
            permits,
        } = self;
        format!("{verb}\t{name}\t{key}\t{permits}\t{number}")
    }
}

/// The usual: one permit.
pub fn line<'a>(verb: &'a str, name: &'a str, key: &'a str) -> Line<'a> {
    let permits = 1;
    Line {
        verb,
        name,
        key,
        permits,
    }
}

impl<'a> Crew<'a> {
    pub fn new(dir: &Path, python: &'a Python, size: usize) -> Answer<Crew<'a>> {
        let place = Place(temporary::directory(dir)?);
        // In memory where there is such a place: what it costs to write it to a disk is no peer's doing.
        let memory = Path::new("/dev/shm");
        let memory = if memory.is_dir() { memory } else { dir };
        let page_file = temporary::file(memory)?;
        let page = Words::open(page_file.path())?;
        Ok(Crew {
            here: Vec::new(),
            there: Vec::new(),
            place,
            python,
            size,
            page,
            page_file,
        })
    }

    pub fn page(&self) -> &Words {
        &self.page
    }

    /// Where it is, for others to map.
    pub fn page_path(&self) -> PathBuf {
        self.page_file.path().to_path_buf()
    }

    fn dir(&self) -> PathBuf {
        self.place.0.path().to_path_buf()
    }

    /// Those who speak for `entry`; started now, if they do not run.
    pub fn members(&mut self, entry: &Entry) -> Answer<&mut [Peer]> {
        let (command, size) = (self.command(entry), self.size);
        let group = self.group(entry);
        let there = group.len();
        while group.len() < size {
            group.push(Peer::spawn(command()?)?);
        }
        for new in &mut group[there..] {
            new.ready()?;
        }
        Ok(group)
    }

    fn group(&mut self, entry: &Entry) -> &mut Vec<Peer> {
        match entry.open {
            Some(_) => &mut self.here,
            None => &mut self.there,
        }
    }

    fn command(&self, entry: &Entry) -> impl Fn() -> Answer<Command> + use<'a> {
        let (dir, python, here) = (self.dir(), self.python, entry.open.is_some());
        let (needs, page) = (entry.name.split(' ').next(), self.page_path());
        let needs = needs.unwrap_or_default().to_string();
        move || {
            let mut command = match here {
                true => Peer::myself()?,
                false => python.worker(&needs)?,
            };
            command.arg("locks").arg(&dir).arg(&page);
            Ok(command)
        }
    }

    /// Has all of them open it, one after the other, for the first one makes it.
    pub fn open(&mut self, entry: &Entry, key: &str) -> Answer<()> {
        let line = line("open", entry.name, key);
        for peer in self.members(entry)? {
            peer.ask(&line.with(0))?;
        }
        Ok(())
    }

    /// Has one of them do something.
    pub fn ask(&mut self, entry: &Entry, who: usize, line: &Line, number: u64) -> Answer<String> {
        let text = line.with(number);
        self.members(entry)?[who].ask(&text)
    }

    /// Has all of them do something, each with a number of its own, while `meanwhile` is done; when that is
    /// over, the page tells them to stop. Returns what each answered.
    pub fn all(
        &mut self,
        entry: &Entry,
        line: &Line,
        numbers: impl Fn(usize) -> u64,
        meanwhile: impl FnOnce(),
    ) -> Answer<Vec<String>> {
        let told = self.together(entry, line, numbers, meanwhile);
        if told.is_err() {
            // One that did not answer would answer the next question with this one's answer.
            self.dismiss(entry);
        }
        told
    }

    fn together(
        &mut self,
        entry: &Entry,
        line: &Line,
        numbers: impl Fn(usize) -> u64,
        meanwhile: impl FnOnce(),
    ) -> Answer<Vec<String>> {
        self.members(entry)?;
        self.page.get_ready();
        for (who, peer) in self.members(entry)?.iter_mut().enumerate() {
            peer.say(&line.with(numbers(who)))?;
        }
        self.page.go();
        meanwhile();
        self.page.stop();
        let peers = self.members(entry)?;
        peers.iter_mut().map(Peer::hear).collect()
    }

    /// Has those who hold, or wait to hold, give back what they have, the one after the other.
    pub fn give_back(&mut self, entry: &Entry, holders: &[usize]) -> Answer<()> {
        for &who in holders {
            let holder = &mut self.members(entry)?[who];
            holder.say("that is all")?;
            // Who has waited tells when it had it, before.
            let patience = Duration::from_secs(2);
            while holder
                .hear_within(patience)?
                .ok_or("it is not given back")?
                != GIVEN_BACK
            {}
        }
        Ok(())
    }

    /// Ends those who speak for `entry`: others take their places when they are needed.
    pub fn dismiss(&mut self, entry: &Entry) {
        self.group(entry).clear();
    }

    /// Ends one, with SIGKILL. Another one takes its place, at the end, when it is needed.
    pub fn kill(&mut self, entry: &Entry, who: usize) {
        let group = self.group(entry);
        if who < group.len() {
            group.remove(who).kill();
        }
    }
}
