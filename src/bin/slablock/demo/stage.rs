//! The temporary store, and the processes that work in it. Both are gone when this is dropped.

use std::io::{BufRead, BufReader, Write, stdout};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio, id};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{env, thread};

use clap::ValueEnum;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::getppid;
use slablock::Cache;

use super::Role;
use crate::failure::Failure;
use crate::signals::{self, Signals};
use crate::temporary::TemporaryDir;

/// No step of a process takes nearly as long, also on a busy machine.
const LINE_WAIT: Duration = Duration::from_secs(5);

/// Where the demonstration takes place.
pub struct Stage {
    cache: Cache,
    signals: Signals,
    dir: TemporaryDir,
}

impl Stage {
    pub fn new() -> Result<Stage, Failure> {
        // Blocked, so that an interrupt ends an act in order: processes killed, directory removed.
        let signals = Signals::block(signals::ending())?;
        let dir = TemporaryDir::new(None, "slablock-demo")?;
        let cache = Cache::open(dir.path().join("store"))?;
        Ok(Stage {
            cache,
            signals,
            dir,
        })
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Starts a process and waits until it is ready to be told to begin.
    pub fn worker(&self, role: Role, work: Duration) -> Result<Worker, Failure> {
        Worker::start(&self.cache, role, work)
    }

    /// Starts so many alike.
    pub fn workers(
        &self,
        count: usize,
        role: Role,
        work: Duration,
    ) -> Result<Vec<Worker>, Failure> {
        (0..count).map(|_| self.worker(role, work)).collect()
    }

    /// Lets time pass in which something may be shown. An interrupt is an error.
    pub fn pause(&self, time: Duration) -> Result<(), Failure> {
        let until = Instant::now() + time;
        while let Some(arrived) = self.signals.next(Some(until))? {
            if arrived.asks_for_an_end() {
                return Err(Failure::silent(128 + arrived.number as u8));
            }
        }
        Ok(())
    }

    /// Removes the directory; an error that dropping would swallow is reported.
    pub fn clear_away(self) -> Result<(), Failure> {
        drop(self.cache);
        self.dir.remove()
    }
}

/// A plain file for a tally: beside the store, not in it.
pub fn tally_file(cache: &Cache) -> PathBuf {
    cache.path().with_file_name("tally")
}

/// A process of the demonstration, which says a line for each of its steps.
pub struct Worker {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Worker {
    fn start(cache: &Cache, role: Role, work: Duration) -> Result<Worker, Failure> {
        let role = role.to_possible_value().expect("no role is hidden");
        let mut child = Command::new(env::current_exe()?)
            .arg("demo-worker")
            .arg("--dir")
            .arg(cache.path())
            .arg(id().to_string())
            .arg(role.get_name())
            .arg(work.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (said, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("was piped"));
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|l| said.send(l))
        });
        let input = child.stdin.take().expect("was piped");
        let worker = Worker {
            child,
            input,
            lines,
        };
        worker.expect("ready")?;
        Ok(worker)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn begin(&mut self) -> Result<(), Failure> {
        writeln!(self.input, "go")?;
        Ok(())
    }

    /// The next line, without its first word, which must be `word`.
    pub fn expect(&self, word: &str) -> Result<String, Failure> {
        let pid = self.pid();
        let line = self.lines.recv_timeout(LINE_WAIT).map_err(|_| {
            Failure::new(format!(
                "process {pid} of the demonstration did not say {word:?}"
            ))
        })?;
        match line.strip_prefix(word) {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(Failure::new(format!(
                "process {pid} said {line:?}, not {word:?}"
            ))),
        }
    }

    /// What it said up to now.
    pub fn lines_so_far(&self) -> impl Iterator<Item = String> {
        self.lines.try_iter()
    }

    /// What it still says until it ends.
    pub fn lines_to_the_end(&self) -> impl Iterator<Item = String> {
        self.lines.iter()
    }

    /// Kills it as nothing can be prevented from being killed, and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes this process end with the demonstration, whatever happens to that.
pub fn die_with_master(master: u32) -> Result<(), Failure> {
    // The demonstration blocks signals, and a new process inherits that.
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGKILL)?;
    match getppid().as_raw() as u32 == master {
        true => Ok(()),
        false => Err(Failure::new("`slablock demo` starts this by itself")),
    }
}

/// From a worker: says that it is ready, and waits to be told to begin.
pub fn ready() -> Result<(), Failure> {
    say("ready")?;
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// From a worker: one line for one step.
pub fn say(line: &str) -> Result<(), Failure> {
    writeln!(stdout(), "{line}")?;
    Ok(())
}

/// Nanoseconds on a clock that all processes share.
pub fn now_ns() -> Result<u64, Failure> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
}

/// From a worker: whether it has worked long enough.
pub fn is_over(since: Instant, work_ms: u64) -> bool {
    since.elapsed() >= Duration::from_millis(work_ms)
}
