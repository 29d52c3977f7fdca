//! One operation, one or two deaths, and somebody who looks at what is there afterwards.
//!
//! Everything is forked, by processes that have one thread and no store open: a death takes a
//! millisecond or two, and no descriptor of one scene gets into another.

use std::panic::Location;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use slablock::{BoundedSemaphore, Cache};

use crate::kit::{Board, fork, until};
use crate::scene::{End, Entry, NEVER, Scene, Trap, place_of_death, reap};

/// What is done at every point.
#[derive(Clone, Copy)]
pub struct Operation {
    pub name: &'static str,
    /// Makes what the operation finds, in a process of its own.
    pub prepare: fn(&Scene),
    /// A process that lives throughout: it calls `Scene::accompany`.
    pub companion: Option<fn(&Scene)>,
    /// Gets ready, arms the trap, does it, disarms. Also what those do who come after a death: it
    /// has to succeed whatever the dead one had done of it.
    pub act: fn(&Scene, &Trap),
    /// Looks whether what is there is the old state or the new one; after `act` succeeded, the new
    /// one.
    pub look: fn(&Scene, &Cache, Stage),
    /// What the one who comes last does.
    pub verify: fn(&Operation, &Scene, Order),
    /// Nearly all of it is a rebuild, as in other operations: a third of so many points is enough.
    pub is_thinned: bool,
}

/// What most operations have in common: nobody lives beside them, and they are looked after by
/// [`standard`]. The rest is each one's to say.
pub const STANDARD: Operation = Operation {
    name: "",
    prepare: |_| panic!("an operation says what it finds"),
    companion: None,
    act: |_, _| panic!("an operation says what is done"),
    look: |_, _, _| panic!("an operation says what has to be there"),
    verify: standard,
    is_thinned: false,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Between,
    After,
}

/// What comes first after a death: a look at everything, which ends what was left in every stripe,
/// or the operation again, after others have taken the room that may have been in the dead one's
/// hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    LookFirst,
    ActFirst,
}

/// How a store is looked after at the end: sound, in one of two states, and without a leak.
pub fn standard(operation: &Operation, scene: &Scene, order: Order) {
    let again = || (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
    match order {
        Order::LookFirst => {
            let cache = Cache::open(scene.store()).unwrap();
            let report = cache.check().unwrap();
            assert!(report.is_sound(), "{report:?}");
            (operation.look)(scene, &cache, Stage::Between);
            again();
            (operation.look)(scene, &cache, Stage::After);
        }
        Order::ActFirst => {
            if scene.store().join("slab").exists() {
                fill_and_empty(&Cache::open(scene.store()).unwrap());
            }
            again();
            (operation.look)(scene, &Cache::open(scene.store()).unwrap(), Stage::After);
        }
    }
    no_leak(&Cache::open(scene.store()).unwrap());
}

/// Like [`standard`], where there is no room for strangers, or where they would take what the
/// operation is about.
pub fn without_strangers(operation: &Operation, scene: &Scene, order: Order) {
    match order {
        Order::LookFirst => standard(operation, scene, order),
        Order::ActFirst => {
            (operation.act)(scene, &Trap::set(scene.board, NEVER, 0));
            let cache = Cache::open(scene.store()).unwrap();
            (operation.look)(scene, &cache, Stage::After);
            no_leak(&cache);
        }
    }
}

/// Takes room, uses all of it at once, and gives it back.
fn fill_and_empty(cache: &Cache) {
    let names: Vec<String> = (0..3).map(|n| format!("stranger {n}")).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| BoundedSemaphore::new(cache, name, 6))
        .collect();
    let held: Vec<_> = all
        .iter()
        .flat_map(|one| (0..6).map(|_| one.try_acquire().unwrap()))
        .collect();
    assert!(held.iter().all(Option::is_some), "a stranger's permit");
    drop(held);
    for name in &names {
        assert!(cache.remove(name).unwrap());
    }
}

/// With all keys gone all room has to be free again.
pub fn no_leak(cache: &Cache) {
    let report = cache.check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    cache.clear().unwrap();
    let report = cache.check().unwrap();
    assert!(report.is_sound() && report.slots_used == 0, "{report:?}");
}

/// A scene with everybody on it.
struct Play<'a> {
    operation: &'a Operation,
    scene: Scene,
    companion: Option<Pid>,
}

/// What went wrong, in a sentence.
type Verdict = Result<(), String>;

impl Play<'_> {
    fn begin<'a>(operation: &'a Operation, root: &Path, board: &'static Board) -> Play<'a> {
        let scene = Scene::new(root, board);
        assert_eq!(reap(fork(|| (operation.prepare)(&scene))), End::Done);
        let companion = operation.companion.map(|role| fork(|| role(&scene)));
        if companion.is_some() {
            until("the companion is there", || board.get(Entry::Ready) == 1);
        }
        Play {
            operation,
            scene,
            companion,
        }
    }

    /// Does the operation in a child that is killed at point `fatal`.
    fn act(&self, fatal: u64, trace: usize) -> End {
        let board = self.scene.board;
        reap(fork(|| {
            let trap = Trap::set(board, fatal, trace);
            board.add(Entry::Begun, 1);
            (self.operation.act)(&self.scene, &trap);
            board.add(Entry::Done, 1);
        }))
    }

    /// The last one comes, and looks. Then the companion goes.
    fn end(self, order: Order) -> Verdict {
        let verify = || (self.operation.verify)(self.operation, &self.scene, order);
        let verified = reap(fork(verify));
        self.scene.board.set(Entry::Over, 1);
        let left = self.companion.map_or(End::Done, reap);
        match (verified, left) {
            (End::Done, End::Done) => Ok(()),
            (End::Done, other) => Err(format!("the companion: {other:?}")),
            (other, _) => Err(format!("the last one, {order:?}: {other:?}")),
        }
    }

    fn give_up(self, why: String) -> Verdict {
        if let Some(companion) = self.companion {
            let _ = kill(companion, Signal::SIGKILL);
            reap(companion);
        }
        Err(why)
    }
}

/// What came of a death. `None`: the operation has no such point.
pub type Outcome = Option<Verdict>;

pub fn one_death(
    operation: &Operation,
    root: &Path,
    board: &'static Board,
    at: u64,
    order: Order,
) -> Outcome {
    let play = Play::begin(operation, root, board);
    match play.act(at, 0) {
        End::Killed => {}
        End::Done => return play.end(order).err().map(Err),
        other => return Some(play.give_up(format!("the first one: {other:?}"))),
    }
    let place = place_of_death(board);
    let verdict = play.end(order);
    Some(verdict.map_err(|why| format!("killed at {at}, {}: {why}", show(place))))
}

/// The places of all points that the operation has, or that it has after a death at `first`.
pub fn survey(
    operation: &Operation,
    root: &Path,
    board: &'static Board,
    first: Option<u64>,
) -> Result<Vec<u64>, String> {
    let play = Play::begin(operation, root, board);
    if let Some(first) = first {
        play.act(first, 0);
    }
    let end = play.act(NEVER, TRACE);
    let places = trace_of(board);
    let verdict = match end {
        End::Done => play.end(Order::LookFirst),
        _ => play.give_up(format!("{end:?}")),
    };
    match verdict {
        Ok(()) => Ok(places),
        Err(why) => Err(format!("alive after a death at {first:?}: {why}")),
    }
}

/// Killed at `first`; the next one at its own point `second`.
pub fn two_deaths(
    operation: &Operation,
    root: &Path,
    board: &'static Board,
    (first, second): (u64, u64),
) -> Outcome {
    let order = match (first + second) % 2 {
        0 => Order::LookFirst,
        _ => Order::ActFirst,
    };
    let play = Play::begin(operation, root, board);
    let ends = [first, second].map(|at| (play.act(at, 0), place_of_death(board)));
    let [(one, first_place), (two, second_place)] = ends;
    let places = [show(first_place), show(second_place)];
    let verdict = match (one, two) {
        (End::Killed, End::Killed) => play.end(order),
        // Not every run has the same number of points: there were not two deaths.
        (End::Done, End::Killed) | (End::Killed | End::Done, End::Done) => {
            return play.end(order).err().map(Err);
        }
        other => play.give_up(format!("{other:?}")),
    };
    Some(verdict.map_err(|why| format!("killed at {first} and {second}, {places:?}: {why}")))
}

fn show(place: Option<&Location<'_>>) -> String {
    place.map_or(String::new(), |p| format!("{}:{}", p.file(), p.line()))
}

/// Where on the board the places of a trace begin, and how long a trace can be.
pub const TRACE: usize = 64;
pub const TRACE_MAX: usize = 1 << 17;

fn trace_of(board: &Board) -> Vec<u64> {
    let passed = (board.get(Entry::Passed) as usize).min(TRACE_MAX);
    (0..passed).map(|at| board.get(TRACE + at)).collect()
}
