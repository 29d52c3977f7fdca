//! Beginning and ending: a worker forked by the torturer, one that forks, one that executes itself.

use std::{
    env,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, exit},
};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal},
    },
    unistd::{Pid, alarm, getppid},
};
use slablock::Error;

use super::Worker;
use crate::{
    child::{self, Forked},
    failure::Failure,
    torture::{
        guard::Guard,
        journal::{Event, now_ns},
        site::Site,
    },
};

/// How many steps the child of a worker lives; it is to outlive its parent now and then, no more.
const CHILD_STEPS: u64 = 40;
/// No process lives nearly as long, unless it hangs and whoever would end it is gone.
const LIFE_MAX_S: u32 = 120;
/// For `Did`: opening the stores anew.
const OPENED: u64 = 0;

/// What makes a worker the one that it is.
#[derive(Clone, Copy, clap::Args)]
pub struct WorkerPlan {
    /// Who started it: when that process ends, so does this one
    pub master: i32,
    pub seed: u64,
    pub id: u64,
    /// When to end, on CLOCK_MONOTONIC
    pub until_ns: u64,
}

/// Forks a worker, which never returns from here.
pub fn start(site: &Site, plan: WorkerPlan) -> Result<Pid, Failure> {
    match child::fork()? {
        Forked::Child => match die_with_master(plan.master) {
            Ok(()) => Worker::new(site, plan, true).live(0, u64::MAX),
            Err(failure) => {
                failure.report();
                exit(1)
            }
        },
        Forked::Parent(pid) => Ok(pid),
    }
}

/// Goes on as a worker that has executed itself, with everything opened anew.
pub fn resume(dir: &Path, plan: WorkerPlan) -> Result<u8, Failure> {
    die_with_master(plan.master)?;
    let asked = now_ns()?;
    let site = Site::open(dir)?;
    let worker = Worker::new(&site, plan, true);
    worker.tell(Event::Did {
        kind: OPENED,
        asked,
    })?;
    worker.live(plan.id - 1, u64::MAX)
}

fn die_with_master(master: i32) -> Result<(), Failure> {
    alarm::set(LIFE_MAX_S);
    // The torturer blocks signals, and a new process inherits that.
    SigSet::empty().thread_set_mask()?;
    set_pdeathsig(Signal::SIGKILL)?;
    match getppid().as_raw() == master {
        true => Ok(()),
        false => Err(Failure::new("`slablock torture` starts this by itself")),
    }
}

impl Worker<'_> {
    fn take_id(&mut self) -> Option<u64> {
        let id = self.next_id?;
        self.next_id = Some(id + 1);
        Some(id)
    }

    /// Forks while holding. The parent goes on holding; the child must find that it holds nothing,
    /// and uses the same handles for a while.
    pub(super) fn fork_holding(&mut self, guard: &mut Option<Guard<'_>>) -> Result<(), Failure> {
        let Some(id) = self.take_id() else {
            return Ok(());
        };
        match child::fork()? {
            Forked::Parent(_) => Ok(()),
            Forked::Child => {
                // Alarms are not inherited.
                alarm::set(LIFE_MAX_S);
                let plan = WorkerPlan { id, ..self.plan };
                let child = Worker::new(self.site, plan, false);
                if let Err(failure) = child.expect_inert(guard.take()) {
                    failure.report();
                    exit(1);
                }
                child.live(self.plan.id, CHILD_STEPS)
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

    /// Becomes another program with its holds unreleased: they end as a dead one's.
    pub(super) fn exec(&mut self) -> Result<(), Failure> {
        let Some(id) = self.take_id() else {
            return Ok(());
        };
        let program = env::current_exe()?;
        let plan = self.plan;
        self.tell(Event::Exec {})?;
        let error = Command::new(program)
            .arg("torture-worker")
            .arg("--dir")
            .arg(&self.site.dir)
            .args([plan.master.to_string(), plan.seed.to_string()])
            .args([id.to_string(), plan.until_ns.to_string()])
            .exec();
        // The journal says that this life is over.
        let failure: Failure = error.into();
        failure.report();
        exit(1)
    }

    /// Ends with its holds unreleased.
    pub(super) fn exit_holding(&mut self) -> Result<(), Failure> {
        self.tell(Event::Exit {})?;
        exit(0)
    }
}
