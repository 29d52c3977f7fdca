//! Two chains from one, walked meanwhile: I10.

use loom::thread;

use super::*;
use crate::record::changes;
use crate::record::split::{Chained, Split};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const SLOTS: usize = 3;

/// One chain of three slots, 1 to 3, of which one belongs to the bucket that is added.
struct Index {
    departures: AtomicU64,
    rows: AtomicU32,
    buckets: [AtomicU32; 2],
    slots: Slots,
}

struct Slots {
    next: [AtomicU32; SLOTS + 1],
    moves: u32,
}

impl Chained for Slots {
    fn next(&self, link: u32) -> Option<&AtomicU32> {
        self.next.get(link as usize)
    }

    fn moves(&self, link: u32) -> bool {
        link == self.moves
    }
}

impl Index {
    fn new(moves: u32) -> Arc<Index> {
        Arc::new(Index {
            departures: AtomicU64::new(0),
            rows: AtomicU32::new(1),
            buckets: [AtomicU32::new(1), AtomicU32::new(0)],
            slots: Slots {
                next: [0, 2, 3, 0].map(AtomicU32::new),
                moves,
            },
        })
    }

    fn both(&self) -> Split<'_, Slots> {
        Split {
            old: &self.buckets[0],
            new: &self.buckets[1],
            slots: &self.slots,
            steps: 50,
        }
    }

    fn split(&self) {
        self.both().begin(&self.rows, 2);
        self.unzip();
    }

    fn unzip(&self) {
        let parted = self.both().unzip(&self.departures);
        parted.expect("the chains end");
    }

    /// Ends what a dead process left, as the next process that locks the stripe does.
    fn recover(&self) {
        if self.rows.load(Ordering::Acquire) == 2 {
            self.unzip();
        }
    }

    /// What hangs on a bucket.
    fn chain(&self, bucket: usize) -> Vec<u32> {
        let mut links = Vec::new();
        let mut link = self.buckets[bucket].load(Ordering::Acquire);
        while link != 0 && links.len() <= SLOTS {
            links.push(link);
            link = self.slots.next[link as usize].load(Ordering::Acquire);
        }
        links
    }

    /// Whether that slot is certainly in no chain.
    fn is_miss(&self, slot: u32) -> bool {
        changes::is_unchanged_while(&self.departures, || {
            let rows = self.rows.load(Ordering::Acquire);
            let bucket = usize::from(rows == 2 && self.slots.moves(slot));
            !self.chain(bucket).contains(&slot)
        })
    }

    fn staying(&self) -> Vec<u32> {
        (1..=SLOTS as u32)
            .filter(|slot| !self.slots.moves(*slot))
            .collect()
    }

    fn is_parted(&self) -> bool {
        self.rows.load(Ordering::Acquire) == 1 && self.chain(0) == [1, 2, 3]
            || self.chain(0) == self.staying() && self.chain(1) == [self.slots.moves]
    }
}

fn look_for(index: &Arc<Index>, slot: u32) -> thread::JoinHandle<bool> {
    let index = Arc::clone(index);
    thread::spawn(move || index.is_miss(slot))
}

fn nothing_is_missed(moves: u32, slot: u32) {
    explore_with(Some(3), move || {
        let index = Index::new(moves);
        let walker = look_for(&index, slot);
        index.split();
        assert!(index.is_parted());
        let missed = walker.join().expect("no panic");
        assert!(!missed, "a key that is there was missed");
    });
}

/// I10: a key that moves, or one that stays, is not missed while its chain becomes two.
#[test]
fn what_moves_is_not_missed() {
    nothing_is_missed(2, 2);
}

#[test]
fn what_moves_from_the_front_is_not_missed() {
    nothing_is_missed(1, 1);
}

#[test]
fn what_stays_is_not_missed() {
    nothing_is_missed(2, 1);
    nothing_is_missed(2, 3);
    nothing_is_missed(1, 2);
}

/// I10: nor when the process that adds the bucket dies, and its successor goes on.
#[test]
fn nothing_is_missed_after_a_death() {
    for slot in [2, 3] {
        for_each_death(move |doom| {
            explore_with(Some(3), move || {
                let index = Index::new(2);
                let walker = look_for(&index, slot);
                if doom.of(|| index.split()).is_none() {
                    index.recover();
                }
                assert!(index.is_parted());
                let missed = walker.join().expect("no panic");
                assert!(!missed, "a key that is there was missed");
            });
        });
    }
}

fn refute_miss(rule: Rule) {
    refute(
        rule,
        "a key that is there was missed",
        what_moves_is_not_missed,
    );
}

#[test]
fn control_shared_first() {
    refute_miss(Rule::SharedFirst);
}

#[test]
fn control_rows_release() {
    refute_miss(Rule::RowsRelease);
}

#[test]
fn control_step_counted() {
    refute_miss(Rule::StepCounted);
}

#[test]
fn control_step_counted_first() {
    refute(
        Rule::StepCountedFirst,
        "a key that is there was missed",
        what_moves_from_the_front_is_not_missed,
    );
}

#[test]
fn control_step_releases() {
    refute_miss(Rule::StepReleases);
}

#[test]
fn control_link_releases() {
    refute_miss(Rule::LinkReleases);
}
