//! Act three: more processes than permits, and one of them is killed inside.
//!
//! Each process writes down when it was inside, on a clock that all share. Those times, laid over
//! one another, say how many were inside at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use slablock::{BoundedSemaphore, Cache};

use super::stage::{is_over, now_ns, ready, say};
use super::{Role, Screen, Stage, Worker};
use crate::failure::Failure;
use crate::text::grouped;

const KEY: &str = "seats";
const PERMITS: u32 = 3;
const PROCESSES: usize = 6;
const TIME: Duration = Duration::from_millis(1_200);
const TICK: Duration = Duration::from_millis(100);
/// How long a process works inside.
const WORK: Duration = Duration::from_millis(1);

/// A process came in (+1) or went out (-1), at that time in nanoseconds.
type Step = (u64, i32);

pub fn perform(stage: &Stage, screen: &mut Screen) -> Result<(), Failure> {
    screen.act(format_args!(
        "{PROCESSES} processes share a semaphore with {PERMITS} permits"
    ))?;
    let mut workers = stage.workers(PROCESSES, Role::Share, TIME)?;
    workers.iter_mut().try_for_each(Worker::begin)?;
    let mut steps = Vec::new();
    let started = Instant::now();
    watch(stage, screen, &workers, started + TIME / 2, &mut steps)?;
    steps.extend(steps_of_the_killed(workers.swap_remove(0))?);
    watch(stage, screen, &workers, started + TIME, &mut steps)?;
    for worker in &workers {
        collect(worker.lines_to_the_end(), &mut steps)?;
    }
    let (visits, most) = visits_and_most(steps);
    screen.check(
        format_args!("{} visits, at most {most} at once", grouped(visits)),
        visits > 0 && most <= PERMITS as i32,
    )?;
    let free = permits_free(stage)?;
    screen.check(
        format_args!("one was killed inside; permits that can be had afterwards: {free}"),
        free == PERMITS,
    )?;
    Ok(())
}

fn watch(
    stage: &Stage,
    screen: &Screen,
    workers: &[Worker],
    until: Instant,
    steps: &mut Vec<Step>,
) -> Result<(), Failure> {
    while Instant::now() < until {
        for worker in workers {
            collect(worker.lines_so_far(), steps)?;
        }
        screen.progress(format_args!("{} visits", grouped(steps.len() as u64 / 2)))?;
        stage.pause(TICK)?;
    }
    Ok(())
}

/// Kills a process while it is inside, and returns its last steps. It was inside at least until it
/// was killed; when the kernel was done with it is unknown.
fn steps_of_the_killed(mut worker: Worker) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    collect(worker.lines_so_far(), &mut steps)?;
    loop {
        let line = worker.expect("")?;
        collect([line].into_iter(), &mut steps)?;
        if steps.last().is_some_and(|&(_, change)| change > 0) {
            break;
        }
    }
    let killed_ns = now_ns()?;
    worker.kill()?;
    collect(worker.lines_to_the_end(), &mut steps)?;
    if let Some(&(came_in_ns, 1)) = steps.last() {
        // It may have slipped out and in again before the signal struck.
        steps.push((killed_ns.max(came_in_ns), -1));
    }
    Ok(steps)
}

fn collect(lines: impl Iterator<Item = String>, steps: &mut Vec<Step>) -> Result<(), Failure> {
    for line in lines {
        let (step, at_ns) = line.split_once(' ').unwrap_or((&line, ""));
        let at_ns = at_ns
            .parse()
            .map_err(|_| Failure::new(format!("not a step: {line:?}")))?;
        steps.push((at_ns, if step == "in" { 1 } else { -1 }));
    }
    Ok(())
}

/// How often a process was inside, and how many at most at once.
fn visits_and_most(mut steps: Vec<Step>) -> (u64, i32) {
    steps.sort_unstable();
    let (mut visits, mut inside, mut most) = (0, 0, 0);
    for (_, change) in steps {
        visits += u64::from(change > 0);
        inside += change;
        most = most.max(inside);
    }
    (visits, most)
}

/// How many permits can really be taken, rather than how many the store says there are.
fn permits_free(stage: &Stage) -> Result<u32, Failure> {
    let semaphore = BoundedSemaphore::new(stage.cache(), KEY, PERMITS);
    let mut taken = Vec::new();
    while let Some(guard) = semaphore.try_acquire()? {
        taken.push(guard);
    }
    Ok(taken.len() as u32)
}

/// One process: in, work, out, for as long as it was told.
pub fn work(cache: &Cache, work_ms: u64) -> Result<(), Failure> {
    let semaphore = BoundedSemaphore::new(cache, KEY, PERMITS);
    ready()?;
    let started = Instant::now();
    while !is_over(started, work_ms) {
        let guard = semaphore.acquire()?;
        say(&format!("in {}", now_ns()?))?;
        sleep(WORK);
        say(&format!("out {}", now_ns()?))?;
        guard.release()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_at_once_is_found_and_touching_visits_do_not_overlap() {
        let steps = vec![(1, 1), (5, -1), (5, 1), (6, 1), (7, -1), (9, -1)];
        assert_eq!(visits_and_most(steps), (3, 2));
    }
}
