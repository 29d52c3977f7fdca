//! Histories by hand: those that no order explains, each beside its like that is in order.

use crate::judge::Story;
use crate::operation::What::{Add, Delete, Exchange, Get, Pop, Refuse, Set, SetBoth};
use crate::operation::{Call, End, Outcome, State};
use crate::tape::Record;
use crate::value::{Form, Value};

const A: usize = 0;
const B: usize = 1;
const NOTHING: State = [None; 2];

fn value(number: i64) -> Value {
    Value::new(number, Form::Digits)
}

fn large(number: i64) -> Value {
    Value::new(number, Form::Log)
}

fn got(number: i64) -> Outcome {
    Outcome::value(Some(value(number)))
}

fn both(a: i64, b: i64) -> State {
    [Some(value(a)), Some(value(b))]
}

fn read(end: End, seen: State) -> Outcome {
    Outcome { end, seen }
}

/// When each operation began, when it ended if it did, what it was, and what came of it.
type Line = (u64, Option<u64>, Call, Outcome);

fn story(begins_with: State, lines: &[Line]) -> Story {
    let record = |(strip, (begin, end, call, outcome)): (usize, &Line)| Record {
        strip,
        pair: 0,
        begin: *begin,
        end: *end,
        call: *call,
        outcome: *outcome,
    };
    Story {
        begins_with,
        records: lines.iter().enumerate().map(record).collect(),
    }
}

#[track_caller]
fn accept(begins_with: State, lines: &[Line]) {
    assert!(story(begins_with, lines).is_linearizable());
}

/// Returns what is shown.
#[track_caller]
fn refuse(begins_with: State, lines: &[Line]) -> String {
    let violation = story(begins_with, lines).judge().err();
    violation.expect("no order explains it").shown()
}

#[test]
fn a_value_that_was_replaced_is_not_seen_any_more() {
    let set = |number| Call::with(Set, A, value(number));
    let get = Call::of(Get, A);
    accept(
        NOTHING,
        &[
            (1, Some(2), set(1), Outcome::DONE),
            (3, Some(6), set(2), Outcome::DONE),
            (4, Some(5), get, got(1)),
        ],
    );
    let shown = refuse(
        NOTHING,
        &[
            (1, Some(2), set(1), Outcome::DONE),
            (3, Some(4), set(2), Outcome::DONE),
            (5, Some(6), get, got(1)),
            (7, Some(8), set(3), Outcome::DONE),
        ],
    );
    assert!(shown.contains("Get a: 1  <=="), "{shown}");
    assert!(!shown.contains("Set a 3"), "nothing after it:\n{shown}");
}

#[test]
fn what_one_has_seen_nobody_sees_undone() {
    let set = Call::with(Set, A, large(2));
    let new = Outcome::value(Some(large(2)));
    let get = Call::of(Get, A);
    let old = [Some(value(1)), None];
    accept(
        old,
        &[
            (1, Some(6), set, Outcome::DONE),
            (2, Some(3), get, got(1)),
            (4, Some(5), get, new),
        ],
    );
    refuse(
        old,
        &[
            (1, Some(6), set, Outcome::DONE),
            (2, Some(3), get, new),
            (4, Some(5), get, got(1)),
        ],
    );
}

#[test]
fn no_update_is_lost() {
    let old = [Some(value(1)), None];
    let incr = Call::incr(A, 10);
    accept(
        old,
        &[(1, Some(3), incr, got(11)), (2, Some(4), incr, got(21))],
    );
    refuse(
        old,
        &[(1, Some(3), incr, got(11)), (2, Some(4), incr, got(11))],
    );
    let swap = |new| Call::compare_and_swap(A, value(1), value(new));
    accept(
        old,
        &[
            (1, Some(3), swap(5), Outcome::DONE),
            (2, Some(4), swap(6), Outcome::DECLINED),
        ],
    );
    refuse(
        old,
        &[
            (1, Some(3), swap(5), Outcome::DONE),
            (2, Some(4), swap(6), Outcome::DONE),
        ],
    );
    // Neither: one of them must have found what it wanted.
    refuse(
        old,
        &[
            (1, Some(3), swap(5), Outcome::DECLINED),
            (2, Some(4), swap(6), Outcome::DECLINED),
        ],
    );
}

#[test]
fn of_all_who_pop_a_value_one_gets_it() {
    let old = [Some(value(7)), None];
    let pop = Call::of(Pop, A);
    let nothing = Outcome::value(None);
    accept(
        old,
        &[(1, Some(3), pop, got(7)), (2, Some(4), pop, nothing)],
    );
    refuse(old, &[(1, Some(3), pop, got(7)), (2, Some(4), pop, got(7))]);
    refuse(
        old,
        &[
            (1, Some(3), pop, got(7)),
            (2, Some(4), Call::of(Delete, A), Outcome::DONE),
        ],
    );
    let add = Call::with(Add, A, value(8));
    refuse(
        NOTHING,
        &[
            (1, Some(3), add, Outcome::DONE),
            (2, Some(4), add, Outcome::DONE),
        ],
    );
}

#[test]
fn a_transaction_is_seen_whole() {
    let change = Call::both(SetBoth, both(5, 6));
    let done = read(End::Done, both(1, 2));
    let [of_a, of_b] = [Call::of(Get, A), Call::of(Get, B)];
    accept(
        both(1, 2),
        &[
            (1, Some(6), change, done),
            (2, Some(3), of_a, got(1)),
            (4, Some(5), of_b, got(6)),
        ],
    );
    refuse(
        both(1, 2),
        &[
            (1, Some(6), change, done),
            (2, Some(3), of_b, got(6)),
            (4, Some(5), of_a, got(1)),
        ],
    );
    // What it read is of one moment, too, and the one in which it changes both.
    refuse(
        both(1, 2),
        &[
            (1, Some(2), change, done),
            (
                3,
                Some(4),
                Call::both(Exchange, NOTHING),
                read(End::Done, both(5, 2)),
            ),
        ],
    );
}

#[test]
fn what_was_refused_has_not_happened() {
    let refused = Call::both(Refuse, both(5, 6));
    let end = read(End::Declined, both(1, 2));
    let get = Call::of(Get, B);
    accept(
        both(1, 2),
        &[(1, Some(2), refused, end), (3, Some(4), get, got(2))],
    );
    refuse(
        both(1, 2),
        &[(1, Some(2), refused, end), (3, Some(4), get, got(6))],
    );
    let set = Call::with(Set, B, value(6));
    let no_room = Outcome::of(End::NoRoom);
    accept(
        both(1, 2),
        &[(1, Some(2), set, no_room), (3, Some(4), get, got(2))],
    );
    refuse(
        both(1, 2),
        &[(1, Some(2), set, no_room), (3, Some(4), get, got(6))],
    );
    let [old, incr] = [[Some(large(1)), None], [Some(value(1)), None]];
    let count = Call::incr(A, 1);
    let not_integer = Outcome::of(End::NotInteger);
    accept(old, &[(1, Some(2), count, not_integer)]);
    refuse(incr, &[(1, Some(2), count, not_integer)]);
}

#[test]
fn who_was_killed_has_done_it_or_not_but_not_both() {
    let killed = (1, None, Call::both(SetBoth, both(5, 6)), Outcome::UNKNOWN);
    let [of_a, of_b] = [Call::of(Get, A), Call::of(Get, B)];
    accept(
        both(1, 2),
        &[
            killed,
            (2, Some(3), of_a, got(1)),
            (4, Some(5), of_b, got(2)),
        ],
    );
    accept(
        both(1, 2),
        &[
            killed,
            (2, Some(3), of_a, got(5)),
            (4, Some(5), of_b, got(6)),
        ],
    );
    accept(
        both(1, 2),
        &[
            killed,
            (2, Some(3), of_a, got(1)),
            (4, Some(5), of_a, got(5)),
        ],
    );
    refuse(
        both(1, 2),
        &[
            killed,
            (2, Some(3), of_a, got(5)),
            (4, Some(5), of_b, got(2)),
        ],
    );
    refuse(
        both(1, 2),
        &[
            killed,
            (2, Some(3), of_a, got(5)),
            (4, Some(5), of_a, got(1)),
        ],
    );
    // Before it began it has not happened.
    refuse(
        both(1, 2),
        &[
            (1, Some(2), of_a, got(5)),
            (3, None, killed.2, Outcome::UNKNOWN),
        ],
    );
}

#[test]
fn what_nobody_has_set_is_not_seen() {
    let get = Call::of(Get, A);
    refuse(both(1, 2), &[(1, Some(2), get, got(3))]);
    refuse(both(1, 2), &[(1, Some(2), get, Outcome::value(None))]);
    let torn = Outcome::value(Some(Value::of_bytes(b"12 and a half")));
    refuse(both(1, 2), &[(1, Some(2), get, torn)]);
}
