//! What a pair of keys is to do, one operation after the other: the specification of the checker.
//!
//! A pair and not a key, because a transaction makes one object of all keys that it touches.
//! Linearizability is of each object on its own (Herlihy and Wing), so the pairs of a store are
//! judged apart.

use todc_utils::Specification;

use crate::operation::{Call, End, Outcome, State, What};
use crate::value::{Form, Value};

/// An operation and what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub call: Call,
    pub outcome: Outcome,
}

pub struct Pair;

impl Specification for Pair {
    type State = State;
    type Operation = Operation;

    /// A history says itself what it begins with.
    fn init() -> State {
        [None; 2]
    }

    fn apply(operation: &Operation, state: &State) -> (bool, State) {
        let (outcome, next) = carry_out(&operation.call, *state);
        match operation.outcome.end {
            // The end of the history is the end of those of the killed, so to happen last is never
            // to happen.
            End::Unknown => (true, next),
            End::NoRoom => (true, *state),
            _ if operation.outcome == outcome => (true, next),
            _ => (false, *state),
        }
    }
}

fn carry_out(call: &Call, state: State) -> (Outcome, State) {
    let (here, [first, second]) = (state[call.key], call.given);
    let with = |value| {
        let mut next = state;
        next[call.key] = value;
        next
    };
    let only_if = |so: bool, value| match so {
        true => (Outcome::DONE, with(value)),
        false => (Outcome::DECLINED, state),
    };
    match call.what {
        What::Get => (Outcome::value(here), state),
        What::Set => (Outcome::DONE, with(first)),
        What::Add => only_if(here.is_none(), first),
        What::Replace => only_if(here.is_some(), first),
        What::CompareAndSwap => only_if(here == first, second),
        What::Delete => only_if(here.is_some(), None),
        What::Pop => (Outcome::value(here), with(None)),
        What::Incr => match sum(here, first) {
            Some(sum) => (Outcome::value(Some(sum)), with(Some(sum))),
            None => (Outcome::of(End::NotInteger), state),
        },
        What::Found => (Outcome::DONE, call.given),
        What::SetBoth | What::Exchange | What::IncrBoth | What::Refuse => transact(call, state),
    }
}

fn transact(call: &Call, state: State) -> (Outcome, State) {
    let [a, b] = state;
    let (end, next) = match call.what {
        What::SetBoth => (End::Done, call.given),
        What::Exchange => (End::Done, [b, a]),
        What::IncrBoth => match (sum(a, call.given[0]), sum(b, call.given[0])) {
            (Some(a), Some(b)) => (End::Done, [Some(a), Some(b)]),
            _ => (End::NotInteger, state),
        },
        _ => (End::Declined, state),
    };
    (Outcome { end, seen: state }, next)
}

/// What is not there counts as 0.
fn sum(old: Option<Value>, by: Option<Value>) -> Option<Value> {
    let old = old.unwrap_or(Value::new(0, Form::Digits));
    let number = match old.form {
        Form::Digits => old.number.checked_add(by?.number),
        _ => None,
    };
    Some(Value::new(number?, Form::Digits))
}
