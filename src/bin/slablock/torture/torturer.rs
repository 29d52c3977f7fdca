//! The torturer: starts workers, kills, stops and resumes them, buries the dead.
//!
//! What the torturer does, when, and to which process, is drawn from a generator of its own. It is
//! the parent, or by adoption the guardian, of every process of the torture, so it learns of each
//! one's end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::c_int;
use std::process::id as pid_of_this_process;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use nix::sys::signal::kill;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::journal::{Event, Line, id_of_worker, now_ns};
use super::random::Random;
use super::site::Site;
use super::worker::{self, WorkerPlan};
use crate::failure::Failure;
use crate::signals::Signals;

/// One blow in so many is a stop, the others kill.
const STOP_ONCE_IN: u64 = 6;
/// How long a process is stopped, mostly; short, for no process is blamed for waiting meanwhile.
const STOP_NS: (u64, u64) = (100_000, 20_000_000);
/// One stop in so many is a long one.
const LONG_STOP_ONCE_IN: u64 = 40;
const LONG_STOP_NS: (u64, u64) = (50_000_000, 250_000_000);
/// A worker that has not ended by itself this long after the end of a round hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the torturer looks meanwhile for processes that have ended.
const END_TICK: Duration = Duration::from_millis(50);
/// Being late by more than that is no matter of a busy machine, but of one that stands still.
const STALL_NS: u64 = 100_000_000;
/// The stream of the torturer's generator; no worker has that id.
const STREAM: u64 = u64::MAX;

pub struct Torturer<'a> {
    site: &'a Site,
    signals: &'a Signals,
    random: Random,
    seed: u64,
    kill_pause_ns: f64,
    serial: u64,
    slots: Vec<Option<Slot>>,
    /// When to resume which process.
    resumptions: BinaryHeap<Reverse<(u64, i32)>>,
    pub kills: u64,
    pub stops: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    pid: Pid,
    is_condemned: bool,
    is_stopped: bool,
}

/// Why a round ended.
#[derive(PartialEq, Eq)]
pub enum Ended {
    InTime,
    Interrupted(c_int),
}

impl<'a> Torturer<'a> {
    pub fn new(
        site: &'a Site,
        signals: &'a Signals,
        seed: u64,
        processes: usize,
        kills_per_second: f64,
    ) -> Result<Torturer<'a>, Failure> {
        // A process that loses its parent is to become a child of this process.
        set_child_subreaper(true)?;
        Ok(Torturer {
            site,
            signals,
            random: Random::of(seed, STREAM),
            seed,
            kill_pause_ns: 1e9 / kills_per_second,
            serial: 0,
            slots: vec![None; processes],
            resumptions: BinaryHeap::new(),
            kills: 0,
            stops: 0,
        })
    }

    /// Tortures until `until_ns`, and lets every worker end. Afterwards no process is left.
    pub fn round(
        &mut self,
        until_ns: u64,
        mut meanwhile: impl FnMut(u64) -> Result<(), Failure>,
    ) -> Result<Ended, Failure> {
        let mut ended = Ended::InTime;
        let mut blow_ns = now_ns()?;
        let mut due_ns = blow_ns;
        loop {
            self.bury()?;
            let now = self.note_stall(due_ns)?;
            due_ns = now;
            if now >= until_ns || ended != Ended::InTime {
                break;
            }
            self.fill(until_ns)?;
            self.resume_those_due(now)?;
            if now >= blow_ns {
                self.strike(now)?;
                blow_ns += self.blow_pause_ns();
                continue;
            }
            meanwhile(self.kills)?;
            let resume_ns = self.resumptions.peek().map_or(u64::MAX, |r| r.0.0);
            let next_ns = blow_ns.min(resume_ns).min(until_ns);
            let next = Instant::now() + Duration::from_nanos(next_ns.saturating_sub(now));
            due_ns = next_ns;
            if let Some(arrived) = self.signals.next(Some(next))?
                && arrived.asks_for_an_end()
            {
                ended = Ended::Interrupted(arrived.number);
            }
        }
        self.let_end()?;
        Ok(ended)
    }

    fn blow_pause_ns(&mut self) -> u64 {
        let share = (STOP_ONCE_IN - 1) as f64 / STOP_ONCE_IN as f64;
        self.random.pause_ns(self.kill_pause_ns * share)
    }

    /// Starts a worker wherever one is missing.
    fn fill(&mut self, until_ns: u64) -> Result<(), Failure> {
        for slot in &mut self.slots {
            if slot.is_some() {
                continue;
            }
            self.serial += 1;
            let plan = WorkerPlan {
                master: pid_of_this_process() as i32,
                seed: self.seed,
                parent: 0,
                id: id_of_worker(self.serial),
                until_ns,
            };
            *slot = Some(Slot {
                pid: worker::start(self.site, plan)?,
                is_condemned: false,
                is_stopped: false,
            });
        }
        Ok(())
    }

    /// Kills or stops a worker. Workers in the first places are struck more often, so that some die
    /// young and some grow old.
    fn strike(&mut self, now: u64) -> Result<(), Failure> {
        let places = self.slots.len() as u64;
        let place = self.random.below(places).min(self.random.below(places));
        let stops = self.random.once_in(STOP_ONCE_IN);
        let (least, most) = match self.random.once_in(LONG_STOP_ONCE_IN) {
            true => LONG_STOP_NS,
            false => STOP_NS,
        };
        let time_ns = self.random.spread(least, most);
        // Workers that are dying already are passed over.
        let from_there = (place..places).chain(0..place).map(|at| at as usize);
        let alive = |at: &usize| self.slots[*at].is_some_and(|slot| !slot.is_condemned);
        let Some(place) = from_there.into_iter().find(alive) else {
            return Ok(());
        };
        let Some(mut slot) = self.slots[place] else {
            return Ok(());
        };
        let pid = slot.pid.as_raw() as u64;
        match stops {
            true if slot.is_stopped => {}
            true => {
                self.tell(Event::Stop { pid })?;
                kill(slot.pid, SIGSTOP)?;
                slot.is_stopped = true;
                self.stops += 1;
                let until = Reverse((now + time_ns, slot.pid.as_raw()));
                self.resumptions.push(until);
            }
            false => {
                self.tell(Event::Kill { pid })?;
                kill(slot.pid, SIGKILL)?;
                slot.is_condemned = true;
                self.kills += 1;
            }
        }
        self.slots[place] = Some(slot);
        Ok(())
    }

    fn resume_those_due(&mut self, now: u64) -> Result<(), Failure> {
        while let Some(Reverse((due, pid))) = self.resumptions.peek().copied()
            && due <= now
        {
            self.resumptions.pop();
            self.resume(Pid::from_raw(pid))?;
        }
        Ok(())
    }

    /// Resumes a process, unless it has been buried meanwhile: then its slot is another's.
    fn resume(&mut self, pid: Pid) -> Result<(), Failure> {
        let slots = self.slots.iter_mut().flatten();
        let Some(slot) = slots.into_iter().find(|s| s.pid == pid && s.is_stopped) else {
            return Ok(());
        };
        slot.is_stopped = false;
        kill(pid, SIGCONT)?;
        let pid = pid.as_raw() as u64;
        self.tell(Event::Cont { pid })
    }

    /// Takes note of all processes that have ended.
    fn bury(&mut self) -> Result<(), Failure> {
        while self.bury_one(Some(WaitPidFlag::WNOHANG))? == Some(true) {}
        Ok(())
    }

    /// `None`: no process is left. `Some(false)`: none has ended.
    fn bury_one(&mut self, flags: Option<WaitPidFlag>) -> Result<Option<bool>, Failure> {
        let (pid, end) = match waitpid(None, flags) {
            Ok(WaitStatus::StillAlive) => return Ok(Some(false)),
            Ok(WaitStatus::Exited(pid, status)) => (pid, Err(status)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ok(signal)),
            Ok(_) => return Ok(Some(true)),
            Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => return Ok(Some(true)),
            Err(error) => return Err(error.into()),
        };
        let place = self
            .slots
            .iter()
            .position(|s| s.is_some_and(|s| s.pid == pid));
        let slot = place.and_then(|at| self.slots[at].take());
        let condemned = slot.is_some_and(|slot| slot.is_condemned);
        match end {
            Err(0) => {}
            Ok(SIGKILL) if condemned => {}
            Err(status) => self.complain(format_args!("process {pid} failed with {status}"))?,
            Ok(signal) => self.complain(format_args!("process {pid} died of {signal}"))?,
        }
        let pid = pid.as_raw() as u64;
        self.tell(Event::Dead { pid })?;
        Ok(Some(true))
    }

    /// Resumes all that are stopped and waits until every process has ended. A worker that does not
    /// hangs.
    fn let_end(&mut self) -> Result<(), Failure> {
        self.resume_those_due(u64::MAX)?;
        let deadline = Instant::now() + PATIENCE;
        let mut due_ns = now_ns()?;
        loop {
            let now = self.note_stall(due_ns)?;
            due_ns = now;
            match self.bury_one(Some(WaitPidFlag::WNOHANG))? {
                None => return Ok(()),
                Some(true) => continue,
                Some(false) => {}
            }
            if Instant::now() >= deadline {
                return self.end_those_who_hang();
            }
            self.signals.next(Some(Instant::now() + END_TICK))?;
            due_ns = now + END_TICK.as_nanos() as u64;
        }
    }

    fn end_those_who_hang(&mut self) -> Result<(), Failure> {
        for slot in self.slots.clone().into_iter().flatten() {
            let (pid, seconds) = (slot.pid, PATIENCE.as_secs());
            self.complain(format_args!(
                "process {pid} hangs: it has not ended {seconds} s after it was to"
            ))?;
            let number = pid.as_raw() as u64;
            self.tell(Event::Kill { pid: number })?;
            kill(pid, SIGKILL)?;
        }
        for slot in self.slots.iter_mut().flatten() {
            slot.is_condemned = true;
        }
        // Children of workers end by themselves, or at the latest by their alarm.
        while self.bury_one(None)?.is_some() {}
        Ok(())
    }

    /// The time now, and a line in the journal if it should be much earlier.
    fn note_stall(&self, due_ns: u64) -> Result<u64, Failure> {
        let now = now_ns()?;
        if now > due_ns + STALL_NS {
            self.tell(Event::Stall { from: due_ns })?;
        }
        Ok(now)
    }

    fn tell(&self, event: Event) -> Result<(), Failure> {
        let line = Line {
            at: now_ns()?,
            id: 0,
            pid: pid_of_this_process(),
            event,
        };
        Ok(self.site.journal.write(&line)?)
    }

    fn complain(&self, about: std::fmt::Arguments<'_>) -> Result<(), Failure> {
        let line = format!("0 {} {about}\n", pid_of_this_process());
        Ok(self.site.complaints.append(&line)?)
    }
}

impl Drop for Torturer<'_> {
    fn drop(&mut self) {
        // After a failure; otherwise no worker is left.
        for slot in self.slots.iter().flatten() {
            let _ = kill(slot.pid, SIGKILL);
        }
    }
}
