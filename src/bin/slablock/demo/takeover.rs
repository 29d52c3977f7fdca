//! Act two: a process that holds a lock is killed, again and again, while another waits.

use std::io::stdin;
use std::thread::sleep;
use std::time::{Duration, Instant};

use slablock::{Cache, Lock};

use super::stage::{now_ns, ready, say};
use super::{Role, Screen, Stage, Worker};
use crate::failure::Failure;

const KEY: &str = "baton";
const KILLS: usize = 40;
/// How often to look whether the next one waits; short beside what is measured.
const LOOK: Duration = Duration::from_micros(200);
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// What a new holder reports.
struct Taken {
    at_ns: u64,
    token: u64,
    /// The process id of the predecessor that died, as the library told it; 0 if it told of none.
    died: u32,
}

pub fn perform(stage: &Stage, screen: &mut Screen) -> Result<(), Failure> {
    screen.act(format_args!(
        "the holder of a lock is killed with SIGKILL, {KILLS} times"
    ))?;
    let mut holder = stage.worker(Role::Hold, Duration::ZERO)?;
    holder.begin()?;
    let mut token = taken(&holder)?.token;
    let (mut took_ns, mut told, mut grew) = (Vec::new(), 0, 0);
    for round in 1..=KILLS {
        let mut next = stage.worker(Role::Hold, Duration::ZERO)?;
        next.begin()?;
        let (pid, killed_ns) = (holder.pid(), kill_while_one_waits(stage, holder)?);
        let news = taken(&next)?;
        took_ns.push(news.at_ns.saturating_sub(killed_ns));
        told += usize::from(news.died == pid);
        grew += usize::from(news.token > token);
        token = news.token;
        holder = next;
        screen.progress(format_args!(
            "{round} of {KILLS}: process {pid} killed, next has it"
        ))?;
        stage.pause(Duration::ZERO)?;
    }
    took_ns.sort_unstable();
    let (median, slowest) = (took_ns[KILLS / 2], took_ns[KILLS - 1]);
    screen.note(format_args!(
        "the next had it after {} (median), {} (slowest), without any lease",
        milliseconds(median),
        milliseconds(slowest)
    ))?;
    screen.check(
        format_args!("the next was told who died: {told} of {KILLS}"),
        told == KILLS,
    )?;
    screen.check(
        format_args!("fencing tokens grew: {grew} of {KILLS}"),
        grew == KILLS,
    )?;
    Ok(())
}

/// Returns when it was killed.
fn kill_while_one_waits(stage: &Stage, mut holder: Worker) -> Result<u64, Failure> {
    let lock = Lock::new(stage.cache(), KEY);
    let started = Instant::now();
    while lock.waiters()? == 0 {
        if started.elapsed() > LOOK_LIMIT {
            return Err(Failure::new(
                "the next process of the demonstration did not wait",
            ));
        }
        sleep(LOOK);
    }
    let killed_ns = now_ns()?;
    holder.kill()?;
    Ok(killed_ns)
}

fn taken(worker: &Worker) -> Result<Taken, Failure> {
    let line = worker.expect("took")?;
    let mut words = line.split(' ');
    let mut number = || {
        let number = words.next().and_then(|word| word.parse::<u64>().ok());
        number.ok_or_else(|| Failure::new(format!("not three numbers: {line:?}")))
    };
    Ok(Taken {
        at_ns: number()?,
        token: number()?,
        died: number()? as u32,
    })
}

fn milliseconds(ns: u64) -> String {
    format!("{:.1} ms", ns as f64 / 1e6)
}

/// One process: take the lock, say so, keep it until killed.
pub fn work(cache: &Cache) -> Result<(), Failure> {
    let lock = Lock::new(cache, KEY);
    ready()?;
    let guard = lock.acquire()?;
    let at_ns = now_ns()?;
    let died = guard.recovered().map_or(0, |dead| dead.pid);
    say(&format!("took {at_ns} {} {died}", guard.token()))?;
    stdin().read_line(&mut String::new())?;
    Ok(())
}
