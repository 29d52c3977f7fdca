//! A process that does one random operation after the other, until it is killed.

use crate::kit::{Random, Role, hear, say};
use crate::operation::{Call, What};
use crate::store::{PAIRS, Store, Ways};
use crate::tape::Tape;
use crate::value::{Form, Value};

/// The role of a worker. Its arguments: how many shards the store has, 0 for a plain one; which of
/// `Ways::ALL`.
pub fn work(role: &Role) {
    let tape = Tape::open(&role.dir);
    let shards = Some(role.number(0) as usize).filter(|shards| *shards > 0);
    let ways = Ways::ALL[role.number(1) as usize];
    let mut store = None;
    loop {
        let heard = hear();
        let (strip, seed) = heard.split_once(' ').expect("a strip and a seed");
        let (strip, seed) = (strip.parse().unwrap(), seed.parse().unwrap());
        say("ready");
        tape.wait_to_begin(strip);
        // Not before: a newcomer joins while others are at work.
        let store = store.get_or_insert_with(|| Store::open(&role.store(), shards, ways));
        play(store, &tape, strip, Random::new(seed));
        say("rests");
    }
}

fn play(store: &Store, tape: &Tape, strip: usize, random: Random) {
    let mut strip = tape.strip(strip);
    let mut choice = Choice { random, got: None };
    while strip.has_room() {
        let pair = choice.pair();
        let (call, outcome) = strip.record(
            pair,
            |number| choice.call(number),
            |call| store.carry_out(pair, call),
        );
        if let (What::Get, Some(value)) = (call.what, outcome.seen[0]) {
            choice.got = Some((pair, call.key, value));
        }
    }
}

/// What to do next.
struct Choice {
    random: Random,
    /// Got a moment ago, from which pair and key, and perhaps to be swapped for something else.
    got: Option<(usize, usize, Value)>,
}

impl Choice {
    fn pair(&mut self) -> usize {
        if self.random.below(3) == 0 {
            self.got = None;
        }
        let pair = self.random.below(PAIRS as u64) as usize;
        self.got.map_or(pair, |(pair, _, _)| pair)
    }

    fn call(&mut self, number: i64) -> Call {
        let new = self.value(number);
        if let Some((_, key, old)) = self.got.take() {
            return Call::compare_and_swap(key, old, new);
        }
        let both = [Some(new), Some(self.value(number))];
        let key = self.random.below(2) as usize;
        match self.random.below(20) {
            0..6 => Call::of(What::Get, key),
            6..8 => Call::with(What::Set, key, new),
            8..10 => Call::with(What::Add, key, new),
            10 => Call::with(What::Replace, key, new),
            11..13 => Call::incr(key, number),
            13..15 => Call::of(What::Pop, key),
            15 => Call::of(What::Delete, key),
            16 => Call::both(What::Exchange, [None; 2]),
            17 => Call::both(
                What::IncrBoth,
                [Some(Value::new(number, Form::Digits)), None],
            ),
            18 => Call::both(What::Refuse, both),
            _ => Call::both(What::SetBoth, both),
        }
    }

    fn value(&mut self, number: i64) -> Value {
        let form = match self.random.below(10) {
            0..5 => Form::Digits,
            5..7 => Form::Slots,
            7..9 => Form::Log,
            _ => Form::Parts,
        };
        Value::new(number, form)
    }
}
