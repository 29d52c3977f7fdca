//! One of the processes that are tortured: takes, holds, forks, removes, adds, until it is killed.
//!
//! What it does next is drawn from a generator of its own, so the seed repeats its decisions. It
//! decides nothing about right and wrong, but for answers that are wrong whenever they come (an
//! error where there can be none); those are complaints, and each is a violation.

mod branch;
mod everything;
mod holding;
mod others;
mod values;

use std::process::{exit, id as pid_of_this_process};
use std::thread::{sleep, yield_now};
use std::time::Duration;

pub use branch::{WorkerPlan, resume, start};
pub use everything::take_everything;
pub use others::{POPPED_VALUE, VALUE_REMAINDER, VALUE_STEP};
pub use values::swapped_count;

use super::journal::{Event, Line, now_ns};
use super::random::Random;
use super::site::{Site, Where};
use crate::failure::Failure;
use crate::text;

pub struct Worker<'a> {
    site: &'a Site,
    plan: WorkerPlan,
    pid: u32,
    random: Random,
    standing: Standing,
    /// How many came after it under its number: by fork, by exec, as threads.
    lives: u64,
}

/// What a worker may do besides its work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Anything.
    Free,
    /// Not fork, nor execute, but end.
    Child,
    /// None of that: others live in the same process.
    Thread,
}

impl<'a> Worker<'a> {
    fn new(site: &'a Site, plan: WorkerPlan, standing: Standing) -> Worker<'a> {
        Worker {
            site,
            pid: pid_of_this_process(),
            random: Random::of(plan.seed, plan.id),
            plan,
            standing,
            lives: 0,
        }
    }

    /// Works until its time is over, or for so many steps, and ends the process.
    fn live(mut self, steps: u64) -> ! {
        let lived = self.tell_birth().and_then(|()| {
            self.steps(steps)?;
            self.tell(Event::Exit {})
        });
        match lived {
            Ok(()) => exit(0),
            Err(failure) => {
                failure.report();
                exit(1)
            }
        }
    }

    fn steps(&mut self, steps: u64) -> Result<(), Failure> {
        let own_seed = Random::of(self.plan.seed, self.plan.id).next();
        for step in 0..steps {
            if now_ns()? >= self.plan.until_ns {
                break;
            }
            // Seeded for each step: what it tries does not depend on what came of the steps before.
            self.random = Random::of(own_seed, step);
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        match self.random.below(100) {
            0..60 => {
                // The first keys most of all: where many meet, deaths have witnesses.
                let key = match self.random.once_in(2) {
                    true => self.random.below(4) as usize,
                    false => self.some_key(|key| key.place != Where::Small && key.is_told()),
                };
                self.hold(key, 0)
            }
            60..68 => self.add(),
            68..74 => self.use_values(),
            74..77 => self.pop(),
            77..87 => self.rush(),
            87..89 => self.cut_key(),
            89 => self.cut_tag(),
            90..94 => self.litter(),
            94 => self.grow(),
            95 => self.crowd(),
            96..99 => self.look_around(),
            _ => self.check(),
        }
    }

    fn tell_birth(&self) -> Result<(), Failure> {
        let parent = self.plan.parent;
        self.tell(Event::Born { parent })
    }

    fn tell(&self, event: Event) -> Result<(), Failure> {
        self.tell_at(now_ns()?, event)
    }

    fn tell_at(&self, at: u64, event: Event) -> Result<(), Failure> {
        let (id, pid) = (self.plan.id, self.pid);
        let line = Line { at, id, pid, event };
        Ok(self.site.journal.write(&line)?)
    }

    /// An answer that can never be right.
    fn complain(&self, about: impl std::fmt::Display) -> Result<(), Failure> {
        let (id, pid) = (self.plan.id, self.pid);
        let about = text::printable(&about.to_string());
        let line = format!("{id} {pid} {about}\n");
        Ok(self.site.complaints.append(&line)?)
    }

    /// Lets a little time pass, in one of the ways in which programs do.
    fn dawdle(&mut self) {
        match self.random.below(4_000) {
            // Long enough for a waiter to have the holders watched.
            0 => sleep(Duration::from_micros(self.random.spread(60_000, 200_000))),
            1..800 => sleep(Duration::from_micros(self.random.spread(10, 800))),
            800..1_600 => yield_now(),
            1_600..2_400 => (0..self.random.below(20_000)).for_each(|_| std::hint::spin_loop()),
            _ => {}
        }
    }
}
