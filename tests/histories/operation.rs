//! What is done to a pair of keys, and what came of it.

use std::fmt;

use crate::value::{Form, Value, shown};

/// What a pair of keys has.
pub type State = [Option<Value>; 2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Get,
    Set,
    Add,
    Replace,
    CompareAndSwap,
    Incr,
    Pop,
    Delete,
    /// Transactions: all of them read both keys first.
    SetBoth,
    /// Each key gets what the other one has.
    Exchange,
    /// Adds to both. One that is no integer undoes the other.
    IncrBoth,
    /// Sets both, and returns an error.
    Refuse,
    /// Not done by anybody: both keys were found so when all was quiet.
    Found,
}

use What::*;

const WHATS: [What; 13] = [
    Get,
    Set,
    Add,
    Replace,
    CompareAndSwap,
    Incr,
    Pop,
    Delete,
    SetBoth,
    Exchange,
    IncrBoth,
    Refuse,
    Found,
];

impl What {
    pub fn is_transaction(self) -> bool {
        matches!(self, SetBoth | Exchange | IncrBoth | Refuse)
    }
}

/// An operation as it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub what: What,
    /// Which of the two. A transaction has both.
    pub key: usize,
    /// What is given: a new value, the old and the new one, what is added, one for each key.
    pub given: State,
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    /// What it returned or, in a transaction, what it read of both keys.
    pub seen: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its process was killed before it could tell.
    Unknown,
    Done,
    /// `false`, or the error that `work` returned.
    Declined,
    NotInteger,
    /// `OverLimit`, `Full`: it did not happen.
    NoRoom,
}

const ENDS: [End; 5] = [
    End::Unknown,
    End::Done,
    End::Declined,
    End::NotInteger,
    End::NoRoom,
];

pub const CALL_WORDS: usize = 6;
pub const OUTCOME_WORDS: usize = 5;

impl Call {
    pub fn of(what: What, key: usize) -> Call {
        Call {
            what,
            key,
            given: [None; 2],
        }
    }

    /// One that is given a value.
    pub fn with(what: What, key: usize, value: Value) -> Call {
        Call {
            what,
            key,
            given: [Some(value), None],
        }
    }

    pub fn compare_and_swap(key: usize, old: Value, new: Value) -> Call {
        Call {
            what: CompareAndSwap,
            key,
            given: [Some(old), Some(new)],
        }
    }

    pub fn incr(key: usize, by: i64) -> Call {
        Call::with(Incr, key, Value::new(by, Form::Digits))
    }

    /// A transaction.
    pub fn both(what: What, given: State) -> Call {
        Call {
            what,
            key: 0,
            given,
        }
    }

    pub fn to_words(self) -> [u64; CALL_WORDS] {
        let [a, b] = self.given.map(Value::to_words);
        [self.what as u64, self.key as u64, a[0], a[1], b[0], b[1]]
    }

    pub fn of_words([what, key, a0, a1, b0, b1]: [u64; CALL_WORDS]) -> Call {
        Call {
            what: WHATS[what as usize],
            key: key as usize,
            given: [[a0, a1], [b0, b1]].map(Value::of_words),
        }
    }
}

impl Outcome {
    pub const UNKNOWN: Outcome = Outcome::of(End::Unknown);
    pub const DONE: Outcome = Outcome::of(End::Done);
    pub const DECLINED: Outcome = Outcome::of(End::Declined);

    pub const fn of(end: End) -> Outcome {
        Outcome {
            end,
            seen: [None; 2],
        }
    }

    /// `true` or `false`.
    pub fn was(done: bool) -> Outcome {
        match done {
            true => Outcome::DONE,
            false => Outcome::DECLINED,
        }
    }

    /// A value was returned.
    pub fn value(value: Option<Value>) -> Outcome {
        Outcome {
            end: End::Done,
            seen: [value, None],
        }
    }

    pub fn to_words(self) -> [u64; OUTCOME_WORDS] {
        let [a, b] = self.seen.map(Value::to_words);
        [self.end as u64, a[0], a[1], b[0], b[1]]
    }

    pub fn of_words([end, a0, a1, b0, b1]: [u64; OUTCOME_WORDS]) -> Outcome {
        Outcome {
            end: ENDS[end as usize],
            seen: [[a0, a1], [b0, b1]].map(Value::of_words),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = ["a", "b"][self.key];
        let [first, second] = self.given.map(shown);
        match self.what {
            Get | Pop | Delete => write!(f, "{:?} {key}", self.what),
            Set | Add | Replace | Incr => write!(f, "{:?} {key} {first}", self.what),
            CompareAndSwap => write!(f, "CompareAndSwap {key} {first} -> {second}"),
            Exchange => write!(f, "Exchange a and b"),
            IncrBoth => write!(f, "IncrBoth {first}"),
            SetBoth | Refuse | Found => write!(f, "{:?} a {first}, b {second}", self.what),
        }
    }
}

impl Outcome {
    pub fn shown(&self, call: &Call) -> String {
        let [first, second] = self.seen.map(shown);
        match (self.end, call.what) {
            (End::Unknown, _) => "killed".to_string(),
            (End::NoRoom, _) => "no room".to_string(),
            (end, what) if what.is_transaction() => format!("{end:?}, read a {first}, b {second}"),
            (End::Done, Get | Pop | Incr) => first,
            (end, _) => format!("{end:?}"),
        }
    }
}
