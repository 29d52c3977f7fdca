//! What is written down of a round, outside the store, in memory that all processes share and none
//! takes along when it is killed.
//!
//! A ticket is drawn before a call and one after it, all from one counter. So if one operation
//! ended before another one began, its tickets are lower, whatever the clocks say. A call is on the
//! tape before it is made, its outcome after it has returned: an operation without an outcome was
//! cut short by the death of its process, and may have happened or not.

use std::path::Path;

use crate::kit::{Board, until};
use crate::operation::{CALL_WORDS, Call, OUTCOME_WORDS, Outcome};

/// Each worker of a round has a strip of the tape; the first is the driver's.
pub const STRIPS: usize = 12;
/// How many operations a strip has room for.
pub const RECORDS: usize = 60;

/// On a strip: whether its worker is to begin. Then the records.
const STRIP_WORDS: usize = 1 + RECORDS * RECORD_WORDS;
/// In a record: the first ticket, the second one, the pair, the call, the outcome.
const RECORD_WORDS: usize = 3 + CALL_WORDS + OUTCOME_WORDS;

pub struct Tape {
    /// The number of tickets drawn, and the strips.
    board: Board,
}

/// An operation on the tape.
#[derive(Clone, Debug)]
pub struct Record {
    pub strip: usize,
    pub pair: usize,
    pub begin: u64,
    /// `None`: its process was killed.
    pub end: Option<u64>,
    pub call: Call,
    pub outcome: Outcome,
}

impl Tape {
    pub fn open(dir: &Path) -> Tape {
        let board = Board::of_cells(&dir.join("tape"), 1 + STRIPS * STRIP_WORDS);
        Tape { board }
    }

    /// For a new round. Tickets go on: the values that were made of them are still there.
    pub fn clear(&self) {
        (1..1 + STRIPS * STRIP_WORDS).for_each(|at| self.board.set(at, 0));
    }

    pub fn tickets(&self) -> u64 {
        self.board.get(0)
    }

    fn draw(&self) -> u64 {
        1 + self.board.add(0, 1)
    }

    pub fn let_begin(&self, strip: usize) {
        self.board.set(start_of(strip), 1);
    }

    pub fn wait_to_begin(&self, strip: usize) {
        until("the driver lets this worker begin", || {
            self.board.get(start_of(strip)) == 1
        });
    }

    pub fn strip(&self, number: usize) -> Strip<'_> {
        Strip {
            tape: self,
            number,
            used: 0,
        }
    }

    /// All operations of the round, in the order in which they began.
    pub fn records(&self) -> Vec<Record> {
        let places = (0..STRIPS).flat_map(|strip| (0..RECORDS).map(move |n| (strip, n)));
        let mut records: Vec<_> = places
            .filter_map(|(strip, n)| self.record(strip, n))
            .collect();
        records.sort_by_key(|record| record.begin);
        records
    }

    fn record(&self, strip: usize, number: usize) -> Option<Record> {
        let at = record_of(strip, number);
        let words = |from: usize| move |n: usize| self.board.get(at + from + n);
        let (begin, end) = (self.board.get(at), self.board.get(at + 1));
        (begin != 0).then(|| Record {
            strip,
            pair: self.board.get(at + 2) as usize,
            begin,
            end: (end != 0).then_some(end),
            call: Call::of_words(std::array::from_fn(words(3))),
            outcome: match end {
                0 => Outcome::UNKNOWN,
                _ => Outcome::of_words(std::array::from_fn(words(3 + CALL_WORDS))),
            },
        })
    }

    fn write(&self, at: usize, words: &[u64]) {
        for (n, word) in words.iter().enumerate() {
            self.board.set(at + n, *word);
        }
    }
}

fn start_of(strip: usize) -> usize {
    1 + strip * STRIP_WORDS
}

fn record_of(strip: usize, number: usize) -> usize {
    start_of(strip) + 1 + number * RECORD_WORDS
}

/// Where one process writes.
pub struct Strip<'t> {
    tape: &'t Tape,
    number: usize,
    used: usize,
}

impl Strip<'_> {
    pub fn has_room(&self) -> bool {
        self.used < RECORDS
    }

    /// Carries out a call and writes down when, and what came of it. The call may have its first
    /// ticket for a number.
    pub fn record(
        &mut self,
        pair: usize,
        call: impl FnOnce(i64) -> Call,
        carry_out: impl FnOnce(&Call) -> Outcome,
    ) -> (Call, Outcome) {
        let at = record_of(self.number, self.used);
        self.used += 1;
        let begin = self.tape.draw();
        let call = call(begin as i64);
        self.tape.board.set(at + 2, pair as u64);
        self.tape.write(at + 3, &call.to_words());
        // A record is there once it has its first ticket, and its outcome once it has the second
        // one.
        self.tape.board.set(at, begin);
        let outcome = carry_out(&call);
        let end = self.tape.draw();
        self.tape.write(at + 3 + CALL_WORDS, &outcome.to_words());
        self.tape.board.set(at + 1, end);
        (call, outcome)
    }
}
