//! Beginning and ending: a worker forked by the torturer, one that forks, one that executes itself.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, exit};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, alarm, getppid};
use slablock::Error;

use super::{Standing, Worker};
use crate::child::{self, Forked};
use crate::failure::Failure;
use crate::signals::ENDING;
use crate::torture::guard::Guard;
use crate::torture::journal::{Event, now_ns};
use crate::torture::site::Site;

/// How many steps the child of a worker lives; it is to outlive its parent now and then, no more.
const CHILD_STEPS: u64 = 40;
/// What a worker becomes now and then, and how many steps each of them lives.
const THREADS: usize = 3;
const THREAD_STEPS: u64 = 20;
/// No process lives nearly as long, unless it hangs and the process that would end it is gone.
const LIFE_MAX_S: u32 = 40;
/// This program, also when another one was put in its place meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// For `Did`: opening the stores again.
const OPENED: u64 = 0;

/// What makes a worker the one that it is.
#[derive(Clone, Copy, clap::Args)]
pub struct WorkerPlan {
    /// Who started it: when that process ends, so does this one
    pub master: i32,
    pub seed: u64,
    /// The life that it comes from, 0 if none
    pub parent: u64,
    pub id: u64,
    /// When to end, on CLOCK_MONOTONIC
    pub until_ns: u64,
}

/// Forks a worker, which never returns from here.
pub fn start(site: &Site, plan: WorkerPlan) -> Result<Pid, Failure> {
    match child::fork()? {
        Forked::Child => match die_with_master(plan.master) {
            Ok(()) => Worker::new(site, plan, Standing::Free).live(u64::MAX),
            Err(failure) => {
                failure.report();
                exit(1)
            }
        },
        Forked::Parent(pid) => Ok(pid),
    }
}

/// Continues as a worker that has executed itself, with everything opened again.
pub fn resume(dir: &Path, plan: WorkerPlan) -> Result<u8, Failure> {
    die_with_master(plan.master)?;
    let asked = now_ns()?;
    let site = Site::open(dir)?;
    let worker = Worker::new(&site, plan, Standing::Free);
    worker.tell(Event::Did {
        kind: OPENED,
        asked,
    })?;
    worker.live(u64::MAX)
}

fn die_with_master(master: i32) -> Result<(), Failure> {
    alarm::set(LIFE_MAX_S);
    // A key at the terminal reaches all processes; the torturer ends the run in order.
    ENDING.into_iter().collect::<SigSet>().thread_block()?;
    set_pdeathsig(Signal::SIGKILL)?;
    match getppid().as_raw() == master {
        true => Ok(()),
        false => Err(Failure::new("`slablock torture` starts this by itself")),
    }
}

impl Worker<'_> {
    /// The number of another life; `None` if this worker may make none.
    fn take_id(&mut self) -> Option<u64> {
        if self.standing != Standing::Free {
            return None;
        }
        self.lives += 1;
        Some(self.plan.id + self.lives)
    }

    fn plan_of(&self, id: u64) -> WorkerPlan {
        WorkerPlan {
            id,
            parent: self.plan.id,
            ..self.plan
        }
    }

    /// Forks while holding. The parent continues to hold; the child must find that it holds
    /// nothing, and uses the same handles for a while.
    pub(super) fn fork_holding(&mut self, guard: &mut Option<Guard<'_>>) -> Result<(), Failure> {
        let Some(id) = self.take_id() else {
            return Ok(());
        };
        self.tell(Event::Fork {})?;
        match child::fork()? {
            Forked::Parent(_) => Ok(()),
            Forked::Child => {
                // Alarms are not inherited.
                alarm::set(LIFE_MAX_S);
                let plan = self.plan_of(id);
                let child = Worker::new(self.site, plan, Standing::Child);
                if let Err(failure) = child.expect_inert(guard.take()) {
                    failure.report();
                    exit(1);
                }
                child.live(CHILD_STEPS)
            }
        }
    }

    /// In the child of a fork: the copy of a guard does nothing.
    fn expect_inert(&self, guard: Option<Guard<'_>>) -> Result<(), Failure> {
        let Some(guard) = guard else { return Ok(()) };
        let (checked, renewed) = (guard.check(), guard.renew());
        let answers = [
            ("check", checked),
            ("renew", renewed),
            ("release", guard.release()),
        ];
        for (asked, answer) in answers {
            if !matches!(answer, Err(Error::NotHolder { .. })) {
                self.complain(format_args!(
                    "{asked} of a guard that a fork copied said {answer:?}"
                ))?;
            }
        }
        Ok(())
    }

    /// Continues as several threads for a while: they exclude each other as processes do. They do
    /// not fork or end, for what becomes of the other threads then cannot be foreseen.
    pub(super) fn crowd(&mut self) -> Result<(), Failure> {
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let Some(id) = self.take_id() else {
                return Ok(());
            };
            let plan = self.plan_of(id);
            threads.push(Worker::new(self.site, plan, Standing::Thread));
        }
        let work = |mut thread: Worker<'_>| {
            thread.tell_birth()?;
            thread.steps(THREAD_STEPS)
        };
        std::thread::scope(|scope| {
            let started: Vec<_> = threads
                .into_iter()
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            started.into_iter().try_for_each(|thread| {
                let panicked = |_| Failure::new("a thread of a worker panicked");
                thread.join().map_err(panicked)?
            })
        })
    }

    /// Executes this program again with its holds unreleased: they end as those of a dead process.
    pub(super) fn exec(&mut self) -> Result<(), Failure> {
        let Some(id) = self.take_id() else {
            return Ok(());
        };
        let plan = self.plan_of(id);
        self.tell(Event::Exec {})?;
        let error = Command::new(OWN_PROGRAM)
            .arg("torture-worker")
            .arg("--dir")
            .arg(&self.site.dir)
            .arg(plan.master.to_string())
            .args([plan.seed, plan.parent, plan.id, plan.until_ns].map(|n| n.to_string()))
            .exec();
        // The journal says that this life is over.
        let failure: Failure = error.into();
        failure.report();
        exit(1)
    }

    /// Ends with its holds unreleased.
    pub(super) fn exit_holding(&mut self) -> Result<(), Failure> {
        if self.standing == Standing::Thread {
            return Ok(());
        }
        self.tell(Event::Exit {})?;
        exit(0)
    }
}
