//! All operations, each with each of its calls failing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::libc::c_long;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use slablock::{Error, Result};

use crate::faults::{self, MOST, Plan};
use crate::kit::{Board, Cell, HANGS, Place, descriptors, exit_now, fork_for, until};
use crate::operations::{Law, Operation};
use crate::stage::{self, Stage, State};

/// What lies where on a board.
#[derive(Clone, Copy)]
enum Entry {
    /// Grows with each attempt.
    Attempts,
    Calls,
    Failed,
    /// Attempts whose error has not shown.
    Borne,
    Violations,
    Nth,
    Way,
}

impl Cell for Entry {
    fn index(self) -> usize {
        self as usize
    }
}

/// How many numbers a board has: more than there are entries.
const CELLS: usize = 8;

/// How much is tried.
pub struct Extent {
    /// Each way of each call, or a sample.
    pub is_full: bool,
    /// One call only.
    pub only: Option<Plan>,
    /// The short form stops choosing further calls after that.
    pub time: Duration,
}

/// Calls of which an operation makes so few fail in each of their ways also in the short form.
const RARE: usize = 8;
/// Of the others it tries the first ones in one way each,
const FIRST: usize = 6;
/// and then one in so many.
const SAMPLE: usize = 5;

pub fn run(operations: &[Operation], extent: &Extent) -> bool {
    let begun = Instant::now();
    let mut sums = [0; 4];
    let mut violations = 0;
    for operation in operations {
        let board = Board::unnamed(CELLS);
        let end = in_a_child(&board, || try_all(operation, extent, &board));
        let counts = [Entry::Calls, Entry::Attempts, Entry::Failed, Entry::Borne];
        let counts = counts.map(|entry| board.get(entry));
        let [calls, attempts, failed, borne] = counts;
        println!(
            "{:42} {calls:5} calls, {attempts:5} attempts, {failed:5} failures injected, {borne:5} borne",
            operation.name
        );
        sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        violations += board.get(Entry::Violations);
        if end != Ended::Well {
            let (nth, way) = (board.get(Entry::Nth), board.get(Entry::Way));
            println!(
                "VIOLATION {}: {end:?} at call {nth}, way {way}",
                operation.name
            );
            violations += 1;
        }
    }
    let [calls, attempts, failed, borne] = sums;
    println!(
        "{} operations, {calls} calls, {attempts} attempts, {failed} failures injected, of which {borne} were borne \
         without an error; {violations} violations; {:.1} s",
        operations.len(),
        begun.elapsed().as_secs_f64()
    );
    violations == 0
}

#[derive(Debug, PartialEq)]
enum Ended {
    Well,
    Signaled(Signal),
    Hangs,
    Badly(i32),
}

fn in_a_child(board: &Board, body: impl FnOnce()) -> Ended {
    wait(fork_for(None, body), board)
}

fn wait(child: Pid, board: &Board) -> Ended {
    let mut seen = (0, Instant::now());
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::Exited(_, 0) => return Ended::Well,
            WaitStatus::Exited(_, status) => return Ended::Badly(status),
            WaitStatus::Signaled(_, signal, _) => return Ended::Signaled(signal),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
        let attempts = board.get(Entry::Attempts);
        if attempts != seen.0 {
            seen = (attempts, Instant::now());
        }
        if seen.1.elapsed() > HANGS {
            kill(child, Signal::SIGKILL).unwrap();
            waitpid(child, None).unwrap();
            return Ended::Hangs;
        }
    }
}

/// What an operation does when nothing fails.
struct Expected {
    calls: usize,
    outcome: String,
    before: State,
    after: State,
    leaked: usize,
}

fn try_all(operation: &Operation, extent: &Extent, board: &Board) {
    let begun = Instant::now();
    // What is read once in a process is read by the first one.
    without_failures(operation);
    let expected = without_failures(operation);
    let calls = faults::the_last(expected.calls);
    board.set(Entry::Calls, expected.calls as u64);
    assert!(expected.calls <= MOST);
    let attempt = |plan: Plan| {
        board.set(Entry::Nth, plan.nth as u64);
        board.set(Entry::Way, plan.way as u64);
        let (has_failed, violation) = with_a_failure(operation, &expected, plan, board);
        board.add(Entry::Attempts, 1);
        if has_failed {
            board.add(Entry::Failed, 1);
        }
        if let Some(what) = violation {
            board.add(Entry::Violations, 1);
            println!(
                "VIOLATION {}, call {}, way {}: {what}",
                operation.name, plan.nth, plan.way
            );
        }
        has_failed
    };
    if let Some(plan) = extent.only {
        faults::trace();
        attempt(plan);
        return;
    }
    if operation.is_in_a_fork {
        // Its calls are those of the child, which are not counted here.
        for nth in 0.. {
            let most = if extent.is_full { usize::MAX } else { 1 };
            if (0..most).find(|way| !attempt(Plan { nth, way: *way })) == Some(0) {
                return board.set(Entry::Calls, nth as u64);
            }
        }
    }
    for (nth, way) in chosen(&calls, extent.is_full) {
        if extent.is_full || begun.elapsed() < extent.time {
            attempt(Plan { nth, way });
        }
    }
}

/// Which call is to fail, and in which of its ways.
fn chosen(calls: &[(c_long, usize)], is_full: bool) -> Vec<(usize, usize)> {
    let mut chosen = Vec::new();
    for (nth, (number, ways)) in calls.iter().enumerate() {
        let so_far = calls[..nth].iter().filter(|(n, _)| n == number).count();
        let in_all = calls.iter().filter(|(n, _)| n == number).count();
        if is_full || in_all <= RARE {
            chosen.extend((0..*ways).map(|way| (nth, way)));
        } else if so_far < FIRST || nth % SAMPLE == 0 {
            // All ways come by turns.
            chosen.push((nth, (nth + nth / 7) % ways));
        }
    }
    chosen
}

fn without_failures(operation: &Operation) -> Expected {
    let place = Place::in_memory();
    let mut stage = Stage::new(place.root(), operation.is_durable);
    (operation.set_up)(&mut stage);
    let before = stage.look_unless_opening();
    let (outcome, seen) = faults::with(None, || (operation.act)(&mut stage));
    let outcome = outcome.expect("without a failure");
    let after = stage.look().unwrap();
    stage.leave();
    let leaked = stage::check(&stage).expect("sound");
    Expected {
        calls: seen.calls,
        outcome,
        before,
        after,
        leaked,
    }
}

/// Whether anything failed, and what went wrong.
fn with_a_failure(
    operation: &Operation,
    expected: &Expected,
    plan: Plan,
    board: &Board,
) -> (bool, Option<String>) {
    let place = Place::in_memory();
    let mut stage = Stage::new(place.root(), operation.is_durable);
    let before = descriptors().len();
    (operation.set_up)(&mut stage);
    if !operation.is_in_a_fork {
        return act_and_judge(operation, expected, &mut stage, plan, board, |stage| {
            stage.leave();
            no_trace(expected, stage, before)
        });
    }
    let ended = in_a_child(board, || {
        let judged = act_and_judge(operation, expected, &mut stage, plan, board, |_| Ok(()));
        let status = match judged {
            (false, _) => NOTHING_FAILED,
            (true, None) => 0,
            (true, Some(what)) => {
                println!("{what}");
                1
            }
        };
        exit_now(status)
    });
    stage.leave();
    match ended {
        Ended::Badly(NOTHING_FAILED) => (false, None),
        Ended::Well => (true, no_trace(expected, &stage, before).err()),
        other => (true, Some(format!("the child: {other:?}"))),
    }
}

/// How a child says that there was no such call.
const NOTHING_FAILED: i32 = 7;

fn act_and_judge(
    operation: &Operation,
    expected: &Expected,
    stage: &mut Stage,
    plan: Plan,
    board: &Board,
    end: impl FnOnce(&mut Stage) -> Judgement,
) -> (bool, Option<String>) {
    let (acted, seen) = faults::with(Some(plan), || {
        catch_unwind(AssertUnwindSafe(|| (operation.act)(stage)))
    });
    let Some(number) = seen.failed else {
        return (false, None);
    };
    if matches!(acted, Ok(Ok(_))) {
        board.add(Entry::Borne, 1);
    }
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let told = match &acted {
            Ok(Ok(outcome)) => format!("Ok({outcome})"),
            Ok(Err(error)) => format!("{error}"),
            Err(_) => "a panic".to_string(),
        };
        judge(operation, expected, stage, acted)
            .and_then(|()| end(stage))
            .map_err(|what| format!("system call {number} failed, told was {told:?}: {what}"))
    }));
    let violation = match judged {
        Ok(judged) => judged.err(),
        Err(_) => Some(format!("system call {number}: a panic while looking")),
    };
    (true, violation)
}

type Judgement = std::result::Result<(), String>;

fn judge(
    operation: &Operation,
    expected: &Expected,
    stage: &mut Stage,
    acted: std::thread::Result<Result<String>>,
) -> Judgement {
    let acted = acted.map_err(|_| "it panicked".to_string())?;
    let look = |stage: &Stage, whom: &str| {
        let looked = stage.look();
        looked.map_err(|e| format!("{whom} cannot look: {e}"))
    };
    let error = match acted {
        Ok(outcome) => {
            if outcome != expected.outcome && !(operation.bears)(&outcome) {
                return Err(format!("not {:?}", expected.outcome));
            }
            let now = look(stage, "an oracle")?;
            // What could not be done although it was not asked for may be a sync.
            if outcome != expected.outcome {
                let made_good = stage.make_good();
                made_good.map_err(|e| format!("not made good: {e}"))?;
            }
            let is_right =
                now == expected.after || (outcome != expected.outcome && now == expected.before);
            return same(is_right, "after it", &now, &expected.after);
        }
        Err(error) => error,
    };
    let is_in_force = matches!(error, Error::NotDurable { .. });
    let now = match stage.look() {
        // It still wants to be adopted.
        Err(Error::Copied { .. }) if operation.law == Law::Opens => State::default(),
        looked => looked.map_err(|e| format!("an oracle cannot look: {e}"))?,
    };
    match operation.law {
        Law::Opens => {}
        Law::Whole => {
            let right = match is_in_force {
                true => &expected.after,
                false => &expected.before,
            };
            same(now == *right, "after the error", &now, right)?;
        }
        Law::Parts => {
            let is_between = now.is_between(&expected.before, &expected.after);
            same(is_between, "partly", &now, &expected.after)?;
        }
    }
    if matches!(error, Error::Detached { .. }) {
        return Err("it takes itself for detached".to_string());
    }
    stage
        .make_good()
        .map_err(|e| format!("not made good: {e}"))?;
    if !is_in_force {
        let again = (operation.act)(stage);
        let outcome = again.map_err(|e| format!("not when done again: {e}"))?;
        if outcome != expected.outcome && operation.law != Law::Parts {
            return Err(format!("done again: {outcome}, not {}", expected.outcome));
        }
    }
    // Where the operation is to open it.
    let made_good = stage.make_good();
    made_good.map_err(|e| format!("not made good afterwards: {e}"))?;
    let now = look(stage, "an oracle afterwards")?;
    same(now == expected.after, "at last", &now, &expected.after)
}

fn same(is_right: bool, when: &str, now: &State, right: &State) -> Judgement {
    match is_right {
        true => Ok(()),
        false => Err(format!("{when} there is {now:?}, not {right:?}")),
    }
}

/// Nothing is left over, in this process and in the store.
fn no_trace(expected: &Expected, stage: &Stage, before: usize) -> Judgement {
    // A thread that watches others may be about to end.
    until("the watching thread ends", || {
        std::fs::read_dir("/proc/self/task").unwrap().count() == 1
    });
    let more = descriptors().len() as i64 - before as i64;
    if more != 0 {
        return Err(format!("{more} descriptors leaked"));
    }
    let leaked = stage::check(stage)?;
    match leaked > expected.leaked {
        true => Err(format!("{leaked} slots leaked")),
        false => Ok(()),
    }
}
