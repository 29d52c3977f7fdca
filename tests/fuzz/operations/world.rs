//! The store and the model side by side: every operation is done in both, and the results compared.

mod averages;
mod holds;
mod looks;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;

use slablock::{Cache, Error, Lifeline, Result, Token, fuzzing};

use super::Sort;
use super::model::{Model, Refusal, Setting};
use super::setting::{Acquire, Guard, Handle, assert_refused, setting};
use crate::fuzz::input::Input;

/// Who takes part, from being opened to being closed or dying.
struct Participant {
    life: u64,
    cache: Cache,
    handles: BTreeMap<Setting, Known>,
    held: Vec<Held>,
}

/// A handle, and the life of the key in which it knows it.
struct Known {
    handle: Handle,
    met: Option<u64>,
}

struct Held {
    guard: Guard,
    of: Setting,
    id: u64,
}

pub struct World {
    dir: PathBuf,
    sort: Sort,
    model: Model,
    seats: [Option<Participant>; 4],
    /// Beacons that were handed on, and whose.
    lifelines: Vec<(u64, Lifeline)>,
    /// The last tokens that were given, for releases by who does not hold.
    tokens: Vec<Token>,
}

/// Compares a result with what the model says.
fn agree<T>(
    result: Result<T>,
    expected: std::result::Result<(), Refusal>,
    of: &Setting,
) -> Option<T> {
    match (result, expected) {
        (Ok(value), Ok(())) => Some(value),
        (Err(error), Err(refusal)) => {
            assert_refused(&error, refusal, of);
            None
        }
        (Ok(_), Err(refusal)) => panic!("{of:?} was accepted in spite of {refusal:?}"),
        (Err(error), Ok(())) => panic!("{of:?} was refused: {error:?}"),
    }
}

impl World {
    pub fn new(dir: PathBuf, sort: Sort, boot_us: u64, wall_us: u64) -> World {
        World {
            dir,
            sort,
            model: Model::new(sort.capacity(), boot_us, wall_us),
            seats: Default::default(),
            lifelines: Vec::new(),
            tokens: vec![Token::new(1)],
        }
    }

    pub fn step(&mut self, input: &mut Input) {
        let what = input.byte();
        let seat = usize::from(what >> 6);
        match what & 31 {
            0..=7 => self.acquire(seat, input, Acquire::Try),
            8 => self.acquire(seat, input, Acquire::Timeout),
            9 => self.acquire(seat, input, Acquire::Wait),
            10..=12 => self.release(seat, input, true),
            13 => self.release(seat, input, false),
            14 => self.renew(seat, input),
            15 => self.check_guard(seat, input),
            16 => self.release_token(seat, input),
            17 => self.look(seat, input),
            18 | 19 => self.average(seat, input),
            20 | 21 => self.pass(input),
            22 => self.die(seat),
            23 => self.close(seat),
            24 => self.remove(seat, input),
            25 => self.evict(seat, input),
            26 => self.key(seat, input),
            27 => self.look_at_all(seat),
            28 => self.lifeline(seat, input),
            29 => self.set_wall_clock(input),
            30 => self.repair(),
            _ => self.clear(seat, input),
        }
    }

    /// Everything as it should be at the end, and everybody gone.
    pub fn finish(&mut self) {
        self.look_at_all(0);
        (0..4).for_each(|seat| self.close(seat));
        self.lifelines.clear();
    }

    /// Who sits there; opens the store if nobody does. `None`: there is no number left.
    fn take_seat(&mut self, seat: usize) -> Option<&mut Participant> {
        if self.seats[seat].is_none() {
            let life = self.model.new_id();
            let full = self.model.alive.len() >= self.sort.participants();
            match fuzzing::open_apart(&self.dir, &Cache::options()) {
                Ok(cache) => {
                    assert!(!full, "there was a number for one more");
                    self.model.alive.insert(life);
                    self.seats[seat] = Some(Participant {
                        life,
                        cache,
                        handles: BTreeMap::new(),
                        held: Vec::new(),
                    });
                }
                Err(Error::TooManyParticipants { .. }) if full => {}
                Err(error) => panic!("cannot open: {error:?}"),
            }
            if self.sort == Sort::Few {
                self.model.sweep();
            }
        }
        self.seats[seat].as_mut()
    }

    /// The participant in a seat, its handle for what the input asks for, and the model.
    fn handle(
        &mut self,
        seat: usize,
        input: &mut Input,
    ) -> Option<(Setting, Handle, Option<u64>, u64)> {
        let (key_byte, how) = (input.byte(), input.byte());
        let sort = self.sort;
        let here = self.take_seat(seat)?;
        // Every other time one that is there: what it remembers of its key is half of the story.
        let known = here.handles.keys().nth(
            usize::from(key_byte)
                .checked_rem(here.handles.len())
                .unwrap_or(0),
        );
        let of = match known {
            Some(known) if how >= 128 => known.clone(),
            _ => setting(sort, key_byte, how),
        };
        let known = here.handles.entry(of.clone()).or_insert_with(|| Known {
            handle: Handle::new(&here.cache, &of),
            met: None,
        });
        Some((of, known.handle.clone(), known.met, here.life))
    }

    /// What the model says to a handle's way to its key, and notes for the next time.
    fn meet(
        &mut self,
        seat: usize,
        of: &Setting,
        mut met: Option<u64>,
        make: bool,
    ) -> std::result::Result<bool, Refusal> {
        let found = self.model.meet(of, &mut met, make).map(|key| key.is_some());
        let here = self.seats[seat].as_mut().expect("it was taken");
        here.handles.get_mut(of).expect("it was made").met = met;
        found
    }

    fn pass(&mut self, input: &mut Input) {
        let now = self.model.now_us;
        let by = input.byte();
        let lease = self.model.leases().nth(usize::from(by >> 4));
        let to = match (by % 8, lease) {
            (0, Some(lease)) => lease.least_us - 1,
            (1, Some(lease)) => lease.most_us,
            (n, _) => {
                now + [
                    1,
                    100,
                    4_000,
                    300_000,
                    1_000_000,
                    3_000_000,
                    60_000_000,
                    1 << 42,
                ][usize::from(n)]
            }
        };
        // Not past what a lease can say: 35 years after boot.
        if to < 1 << 49 {
            self.model.pass(to);
        }
        self.set_clocks();
    }

    fn set_clocks(&self) {
        fuzzing::time(Some(fuzzing::Moment {
            boot_us: self.model.now_us,
            wall_us: self.model.wall_us,
        }));
    }

    /// Leases do not mind.
    fn set_wall_clock(&mut self, input: &mut Input) {
        let by = [1, 1_000_000, 60_000_000, 3_600_000_000][usize::from(input.byte() % 4)];
        match input.byte() % 2 {
            0 => self.model.wall_us += by,
            _ => self.model.wall_us -= by,
        }
        self.set_clocks();
    }

    /// What is held stays as it is, for the next to take over.
    fn die(&mut self, seat: usize) {
        if let Some(here) = self.seats[seat].take() {
            fuzzing::die(&here.cache);
            self.leave(here.life);
        }
    }

    /// What is held is given back.
    fn close(&mut self, seat: usize) {
        if let Some(here) = self.seats[seat].take() {
            for held in &here.held {
                self.model.give_back(&held.of.key, held.id);
            }
            drop(here.held);
            self.leave(here.life);
        }
    }

    fn leave(&mut self, life: u64) {
        if !self.lifelines.iter().any(|(of, _)| *of == life) {
            self.model.alive.remove(&life);
        }
    }

    /// Hands a beacon on, or lets one go.
    fn lifeline(&mut self, seat: usize, input: &mut Input) {
        if input.byte().is_multiple_of(2) && !self.lifelines.is_empty() {
            let at = usize::from(input.byte()) % self.lifelines.len();
            let (life, line) = self.lifelines.swap_remove(at);
            drop(line);
            if !self.seats.iter().flatten().any(|here| here.life == life) {
                self.leave(life);
            }
        } else if let Some(here) = self.take_seat(seat) {
            let line = here.cache.lifeline().expect("a lifeline");
            let life = here.life;
            self.lifelines.push((life, line));
        }
    }
}
