//! Reading beside a transaction that is decided, carried out, over, and beside the next ones: T1.

use loom::thread;

use super::*;
use crate::record::controls::left_out;
use crate::record::deciding;
use crate::sync::{AtomicU64, Ordering, fence};

/// What lies where nothing was written yet.
const NOTHING: u64 = 99;

/// A value that each transaction sets to its own number, in two words.
struct Value {
    selector: AtomicU64,
    cells: [[AtomicU64; 2]; 2],
}

impl Value {
    fn new() -> Value {
        let cell = |value| [AtomicU64::new(value), AtomicU64::new(value)];
        Value {
            selector: AtomicU64::new(0),
            cells: [cell(0), cell(NOTHING)],
        }
    }

    fn prepare(&self, number: u64) -> u64 {
        cells_prepare(&self.selector, |at, _| {
            let words = self.cells[at].iter();
            words.for_each(|word| word.store(number, Ordering::Relaxed));
        })
    }

    fn load(&self, at: usize) -> [u64; 2] {
        self.cells[at].each_ref().map(|w| w.load(Ordering::Relaxed))
    }
}

/// Values, which all transactions change, and a log in which each list is one word for each value.
struct Store {
    journal: AtomicU64,
    values: Vec<Value>,
    lists: Vec<Vec<AtomicU64>>,
    /// The last transaction that its decider has said to be decided.
    said: AtomicU64,
}

/// After which versions what is prepared counts, if there is a whole list.
type List = Option<Vec<u64>>;

impl Store {
    fn new(values: usize, transactions: u64) -> Arc<Store> {
        let list = || (0..values).map(|_| AtomicU64::new(NOTHING)).collect();
        Arc::new(Store {
            journal: AtomicU64::new(0),
            values: (0..values).map(|_| Value::new()).collect(),
            lists: (0..transactions).map(|_| list()).collect(),
            said: AtomicU64::new(0),
        })
    }

    /// Sets all values to `number`, all or nothing. Afterwards its list is gone.
    fn transact(&self, number: u64) {
        let list: Vec<u64> = self.values.iter().map(|v| v.prepare(number)).collect();
        let place = match left_out(Rule::PlaceGivenOnce) {
            true => 1,
            false => number,
        };
        self.write(place, &list);
        deciding::decide(&self.journal, place);
        self.said.store(number, Ordering::Release);
        self.carry_out(place, &list);
    }

    /// Carries a list out: by its decider, from memory, or by a successor that finds the list.
    fn carry_out(&self, place: u64, list: &[u64]) {
        for (value, version) in self.values.iter().zip(list) {
            cells_flip(&value.selector, *version);
        }
        if deciding::end(&self.journal, place) {
            // A compactor has fences for its own reasons, and more than one.
            fence(Ordering::Release);
            self.write(place, &vec![NOTHING; list.len()]);
        }
    }

    /// What the next decider does before it decides something.
    fn settle(&self) {
        let place = self.journal.load(Ordering::Acquire);
        if let Some(list) = self.list(place) {
            self.carry_out(place, &list);
        }
    }

    fn write(&self, place: u64, list: &[u64]) {
        for (to, word) in self.lists[place as usize - 1].iter().zip(list) {
            to.store(*word, Ordering::Relaxed);
        }
    }

    /// What lies at a place, if it is whole.
    fn list(&self, place: u64) -> List {
        let list = self.lists[place.checked_sub(1)? as usize].iter();
        let list: Vec<u64> = list.map(|word| word.load(Ordering::Relaxed)).collect();
        (!list.contains(&NOTHING)).then_some(list)
    }
}

/// A reader that may only read, in the midst of one call.
struct Reader<'s> {
    store: &'s Store,
    known: u64,
    list: List,
}

impl Reader<'_> {
    /// The number of the transaction that has set the value. `None`: it was flipped while it was
    /// read, and loom would follow retries for ever.
    fn read(&mut self, at: usize) -> Option<u64> {
        let store = self.store;
        let new = deciding::look(&store.journal, self.known, |place| store.list(place));
        if let Some((place, list)) = new {
            assert!(place == 0 || list.is_some(), "{NO_DAMAGE}");
            (self.known, self.list) = (place, list);
        }
        let value = &store.values[at];
        let after = self.list.as_ref().map(|list| list[at]);
        let prepared = after
            .and_then(|after| cells_read_prepared(&value.selector, after, |at| value.load(at)));
        let words = match prepared {
            Some(words) => words,
            None => cells_read_once(&value.selector, |at| value.load(at))?.0,
        };
        assert_eq!(words[0], words[1], "a mixed value");
        Some(words[0])
    }

    /// All values, one after the other: none is older than what was known to be decided before, or
    /// than was seen.
    fn read_all(&mut self) -> Vec<u64> {
        let mut seen = Vec::new();
        for at in 0..self.store.values.len() {
            let said = self.store.said.load(Ordering::Acquire);
            let Some(value) = self.read(at) else {
                continue;
            };
            assert_ne!(value, NOTHING, "a value that never was");
            assert!(value >= said, "an old value after the decision");
            let before = seen.last().copied().unwrap_or(0);
            assert!(value >= before, "one change without the others");
            seen.push(value);
        }
        seen
    }
}

fn read_all(store: &Arc<Store>) -> thread::JoinHandle<Vec<u64>> {
    let store = Arc::clone(store);
    thread::spawn(move || {
        let store = &*store;
        let (known, list) = (0, None);
        Reader { store, known, list }.read_all()
    })
}

fn transactions_are_read(values: usize, transactions: u64) {
    explore_with(Some(2), move || {
        let store = Store::new(values, transactions);
        let reader = read_all(&store);
        (1..=transactions).for_each(|number| store.transact(number));
        reader.join().expect("no panic");
    });
}

/// T1: beside a transaction and the next one a reader sees all of each or nothing, and old values
/// only if it looked before the decision.
#[test]
fn what_is_decided_is_read() {
    transactions_are_read(2, 2);
}

/// T1, C2: a value that is read where it was prepared is whole, although later ones are prepared in
/// the same cell.
#[test]
fn what_is_prepared_is_read_whole() {
    transactions_are_read(1, 3);
}

/// T1: the same when the decider dies, and its successor carries out what was decided, and decides
/// something else. No reader sees what was not decided.
#[test]
fn what_the_dead_have_decided_is_read() {
    for_each_death(|doom| {
        explore_with(Some(1), move || {
            let store = Store::new(2, 2);
            let reader = read_all(&store);
            let lived = doom.of(|| store.transact(1)).is_some();
            let is_one = |word: &AtomicU64| word.load(Ordering::Relaxed) == 1;
            let decided = lived || is_one(&store.journal) || is_one(&store.said);
            store.settle();
            store.transact(2);
            let seen = reader.join().expect("no panic");
            assert!(decided || !seen.contains(&1), "a value that never was");
        });
    });
}

const NO_DAMAGE: &str = "damage is told where there is none";

fn refute_all_or_nothing(rule: Rule, expected: &str) {
    refute(rule, expected, what_is_decided_is_read);
}

fn refute_whole(rule: Rule, expected: &str) {
    refute(rule, expected, what_is_prepared_is_read_whole);
}

#[test]
fn control_decision_releases() {
    refute_all_or_nothing(Rule::DecisionReleases, NO_DAMAGE);
}

#[test]
fn control_journal_acquired() {
    refute_all_or_nothing(Rule::JournalAcquired, NO_DAMAGE);
}

#[test]
fn control_end_releases() {
    refute_all_or_nothing(Rule::EndReleases, "an old value after the decision");
}

/// G1: what lies in the place of another is taken for its list.
#[test]
fn control_place_given_once() {
    refute_all_or_nothing(Rule::PlaceGivenOnce, "an old value after the decision");
}

#[test]
fn control_list_fenced() {
    refute_whole(Rule::ListFenced, NO_DAMAGE);
}

#[test]
fn control_journal_reread() {
    refute_whole(Rule::JournalReread, NO_DAMAGE);
}

#[test]
fn control_prepared_fenced() {
    refute_whole(Rule::PreparedFenced, "a mixed value");
}

#[test]
fn control_prepared_reread() {
    refute_whole(Rule::PreparedReread, "a mixed value");
}
