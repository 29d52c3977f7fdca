//! Act four: several processes add to one average, and each adds up for itself as well.

use std::time::{Duration, Instant};

use slablock::{Averager, Cache};

use super::stage::{is_over, ready, say};
use super::{Role, Screen, Stage, Worker};
use crate::failure::Failure;
use crate::text::grouped;

const KEY: &str = "latency";
const PROCESSES: usize = 4;
const TIME: Duration = Duration::from_millis(700);
const TICK: Duration = Duration::from_millis(100);
/// Values are whole and below this, so that sums are exact and can be compared to the digit.
const VALUE_MAX: u64 = 1_000;

pub fn perform(stage: &Stage, screen: &mut Screen) -> Result<(), Failure> {
    screen.act(format_args!("{PROCESSES} processes add to one average"))?;
    let averager = Averager::new(stage.cache(), KEY);
    let mut workers = stage.workers(PROCESSES, Role::Measure, TIME)?;
    workers.iter_mut().try_for_each(Worker::begin)?;
    let started = Instant::now();
    while started.elapsed() < TIME {
        if let Some(now) = averager.summary()? {
            let (count, mean) = (grouped(now.count), now.mean);
            screen.progress(format_args!("{count} values, average {mean:.3}"))?;
        }
        stage.pause(TICK)?;
    }
    let (count, total) = tally(&workers)?;
    let seen = averager.summary()?.map(|seen| (seen.count, seen.total));
    let missing = count.abs_diff(seen.map_or(0, |(count, _)| count));
    screen.check(
        format_args!("{} values added, {missing} lost", grouped(count)),
        count > 0 && missing == 0,
    )?;
    let mean = averager.pop()?.unwrap_or_default();
    let expected = total as f64 / count as f64;
    let is_exact = seen.is_some_and(|(_, sum)| sum == total as f64) && mean == expected;
    screen.check(
        format_args!("average {mean:.6}, by the tally {expected:.6}"),
        is_exact,
    )?;
    Ok(())
}

/// How many values the processes added by their own count, and the sum.
fn tally(workers: &[Worker]) -> Result<(u64, u64), Failure> {
    let (mut count, mut total) = (0, 0);
    for worker in workers {
        let line = worker.expect("added")?;
        let numbers = line.split_once(' ');
        let numbers =
            numbers.and_then(|(c, t)| Some((c.parse::<u64>().ok()?, t.parse::<u64>().ok()?)));
        let Some((added, sum)) = numbers else {
            return Err(Failure::new(format!("not a count and a sum: {line:?}")));
        };
        count += added;
        total += sum;
    }
    Ok((count, total))
}

/// One process: add values for as long as it was told.
pub fn work(cache: &Cache, work_ms: u64) -> Result<(), Failure> {
    let averager = Averager::new(cache, KEY);
    ready()?;
    let started = Instant::now();
    let (mut count, mut total) = (0_u64, 0_u64);
    while !is_over(started, work_ms) {
        // Differs from process to process and from value to value; that is all that it has to.
        let value = (u64::from(std::process::id()) + count * 7_919) % VALUE_MAX;
        averager.add(value as f64)?;
        count += 1;
        total += value;
    }
    say(&format!("added {count} {total}"))
}
