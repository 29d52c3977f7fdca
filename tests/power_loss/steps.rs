//! Losses in the middle of an operation: it is run one machine instruction at a time, and every few
//! instructions the file is noted as it is then.

use std::sync::Arc;

use slablock::{Averager, Cache};

use crate::OnPanic;
use crate::disk::{Image, Timeline};
use crate::keys::{Facts, Key, State, What, observe, take_all};
use crate::kit::{Board, Random, Role, say, step_through};
use crate::lives::{Life, World};

/// Operations that are looked into, and losses for each.
pub const OPERATIONS: u64 = 7;
const LOSSES: u64 = 60;
/// About how many instructions lie between two looks.
const EVERY: u64 = 200;
/// On the board: the token that the operation was given.
const TOKEN: usize = 0;

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Makes the key if it is not there.
    Take,
    Add(f64),
    Pop,
    Remove,
}

/// Runs in a process of its own, for it forks.
pub fn steps(role: &Role) {
    let mut random = Random::announced("power loss within operations");
    let mut world = World::new(&role.dir);
    let board = role.board();
    let nothing = Facts::of_nothing(&world.keys);
    let first = Timeline::begin(Image::default(), false, nothing).lose(&mut random);
    let empty = Timeline::begin(Image::default(), false, Facts::of_nothing(&world.keys));
    let mut life = world.boot(&empty, &first);
    let mut moments = 0;
    for n in 0..OPERATIONS {
        // The very first makes the first chunks of slots and blocks.
        for _ in 0..n.min(1) * 8 {
            world.do_something(&mut life, &mut random);
        }
        let (operation, at) = choose(n, &world, &life, &mut random);
        let _told = OnPanic(format!("{operation:?} of {}", world.keys[at].shown()));
        life.begin_anew();
        board.set(TOKEN, 0);
        if !run(&mut life, &world.keys, operation, at, &board, &mut random) {
            return say("skipped: tracing is not allowed here");
        }
        moments += life.timeline.moments.len();
        lose_and_verify(&mut world, &life, &mut random);
        say("verified");
    }
    let rebuilt = world.count.rebuilt;
    say(format!(
        "told {rebuilt} rebuilt from {moments} moments of {OPERATIONS} operations"
    ));
}

fn choose(n: u64, world: &World, life: &Life, random: &mut Random) -> (Operation, usize) {
    let there = |what: fn(What) -> bool, wanted: bool, random: &mut Random| {
        let fits = |at: &usize| {
            let absent = life.facts().states[*at].last() == Some(&State::Absent);
            let key = &world.keys[*at];
            // Long ones take long, and show no more.
            what(key.what) && absent != wanted && key.name.len() < 100
        };
        let all: Vec<usize> = (0..world.keys.len()).filter(fits).collect();
        let any = (0..world.keys.len()).find(|at| what(world.keys[*at].what));
        match all.len() {
            0 => any.unwrap(),
            some => all[random.below(some as u64) as usize],
        }
    };
    let is_average: fn(What) -> bool = |what| what == What::Average;
    let is_semaphore: fn(What) -> bool = |what| matches!(what, What::Semaphore(..=6));
    match n {
        0 => (Operation::Take, there(is_semaphore, false, random)),
        1 => (Operation::Add(n as f64), there(is_average, false, random)),
        2 | 3 => (Operation::Add(n as f64), there(is_average, true, random)),
        4 => (Operation::Pop, there(is_average, true, random)),
        5 => (Operation::Remove, there(|_| true, true, random)),
        _ => (Operation::Take, there(is_semaphore, true, random)),
    }
}

/// `false`: this process may not trace.
fn run(
    life: &mut Life,
    keys: &[Key],
    operation: Operation,
    at: usize,
    board: &Board,
    random: &mut Random,
) -> bool {
    let cache: Cache = life.cache().clone();
    let name = &keys[at].name;
    let body = || match operation {
        Operation::Take => {
            let token = take_all(&cache, &keys[at]).last().copied();
            board.set(TOKEN, token.unwrap_or(0));
        }
        Operation::Add(value) => Averager::new(&cache, name).add(value).unwrap(),
        Operation::Pop => drop(Averager::new(&cache, name).pop().unwrap()),
        Operation::Remove => drop(cache.remove(name).unwrap()),
    };
    let affected: Vec<(usize, Vec<State>)> = match operation {
        Operation::Remove => vec![(at, vec![State::Absent])],
        Operation::Add(value) => vec![(at, vec![State::Present, with(life, at, value)])],
        Operation::Take | Operation::Pop => vec![(at, vec![State::Present])],
    };
    let mut next = random.below(EVERY);
    let stepped = step_through(
        // Joined before the counting.
        || assert!(cache.len().is_ok()),
        body,
        |step| {
            if step < next {
                return;
            }
            next = step + 1 + random.below(2 * EVERY);
            life.granted(at, board.get(TOKEN));
            for (at, states) in &affected {
                states.iter().for_each(|state| life.now_is(*at, *state));
            }
            life.note_midway(&affected);
        },
    );
    if stepped.is_none() {
        return false;
    }
    life.granted(at, board.get(TOKEN));
    for (at, state) in observe(&cache, keys).into_iter().enumerate() {
        life.now_is(at, state);
    }
    life.note(false);
    true
}

/// What the average is with one more value.
fn with(life: &Life, at: usize, value: f64) -> State {
    let bits = |value: f64| value.to_bits();
    let number = f64::from_bits;
    match life.facts().states[at].last() {
        Some(State::Value {
            count,
            total,
            min,
            max,
        }) => State::Value {
            count: count + 1,
            total: bits(number(*total) + value),
            min: bits(number(*min).min(value)),
            max: bits(number(*max).max(value)),
        },
        _ => State::Value {
            count: 1,
            total: bits(value),
            min: bits(value),
            max: bits(value),
        },
    }
}

fn lose_and_verify(world: &mut World, life: &Life, random: &mut Random) {
    let timeline: &Timeline<Arc<Facts>> = &life.timeline;
    for _ in 0..LOSSES {
        let loss = timeline.lose(random);
        let _told = OnPanic(format!("after a loss: {}", loss.how));
        let mut after = world.boot(timeline, &loss);
        if random.below(2) == 0 {
            world.take_everything(&mut after);
        }
        after.end();
    }
}
