//! Walking the index without its lock: I8.

use loom::thread;

use super::*;
use crate::record::changes;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Two chains of two stripes. In the first one, slot 1 is before slot 2, which has the key that is
/// looked for; the second is empty.
struct Index {
    /// Of the first.
    departures: AtomicU64,
    buckets: [AtomicU32; 2],
    next: [AtomicU32; 3],
    /// Whether the life in slot 1 is over, and whether it is free.
    over: AtomicU64,
    free: AtomicU64,
}

impl Index {
    fn new() -> Arc<Index> {
        Arc::new(Index {
            departures: AtomicU64::new(0),
            buckets: [AtomicU32::new(1), AtomicU32::new(0)],
            next: [AtomicU32::new(0), AtomicU32::new(2), AtomicU32::new(0)],
            over: AtomicU64::new(0),
            free: AtomicU64::new(0),
        })
    }

    /// Slot 1 leaves the first chain, and is free.
    fn take_out(&self) {
        self.over.store(1, Ordering::Release);
        self.end();
    }

    fn end(&self) {
        let unlinked = changes::take_out(&self.departures, || {
            self.buckets[0].store(2, Ordering::Release);
            Ok::<(), ()>(())
        });
        unlinked.expect("nothing is in the way");
        self.free.store(1, Ordering::Release);
    }

    /// Ends what a dead process left, as the next process that locks the stripe does: undone, which
    /// changes nothing here, or done again.
    fn recover(&self) {
        if self.over.load(Ordering::Acquire) == 1 && self.free.load(Ordering::Acquire) == 0 {
            self.end();
        }
    }

    /// The other stripe puts slot 1 into the second chain, if it is free.
    fn put_elsewhere(&self) {
        let free = &self.free;
        let claimed = free.compare_exchange(1, 2, Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_ok() {
            life::before_filling();
            self.next[1].store(0, Ordering::Relaxed);
            self.buckets[1].store(1, Ordering::Relaxed);
        }
    }

    /// Whether slot 2 is certainly not in the first chain.
    fn is_miss(&self) -> bool {
        changes::is_unchanged_while(&self.departures, || {
            let mut at = self.buckets[0].load(Ordering::Relaxed);
            while at != 0 && at != 2 {
                at = self.next[at as usize].load(Ordering::Relaxed);
            }
            at == 0
        })
    }
}

/// I8: a key that is there all the time is not missed, although the slot before it leaves its
/// chain, and is put into one of another stripe, while a reader walks by.
#[test]
fn a_miss_is_certain() {
    explore_with(Some(3), || {
        let index = Index::new();
        let walker = {
            let index = Arc::clone(&index);
            thread::spawn(move || index.is_miss())
        };
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || index.put_elsewhere())
        };
        index.take_out();
        other.join().expect("no panic");
        let missed = walker.join().expect("no panic");
        assert!(!missed, "a key that is there was missed");
    });
}

/// I8: nor when the process that takes the slot out dies, and its successor undoes or ends that.
#[test]
fn a_miss_is_certain_after_a_death() {
    for_each_death(|doom| {
        explore_with(Some(3), move || {
            let index = Index::new();
            let walker = {
                let index = Arc::clone(&index);
                thread::spawn(move || index.is_miss())
            };
            if doom.of(|| index.take_out()).is_none() {
                index.recover();
            }
            index.put_elsewhere();
            let missed = walker.join().expect("no panic");
            assert!(!missed, "a key that is there was missed");
        });
    });
}

fn refute_miss(rule: Rule) {
    refute(rule, "a key that is there was missed", a_miss_is_certain);
}

#[test]
fn control_unlinked_first() {
    refute_miss(Rule::UnlinkedFirst);
}

#[test]
fn control_departure_counted() {
    refute_miss(Rule::DepartureCounted);
}

#[test]
fn control_count_releases() {
    refute_miss(Rule::CountReleases);
}

#[test]
fn control_fill_fenced() {
    refute_miss(Rule::FillFenced);
}

#[test]
fn control_walk_fenced() {
    refute_miss(Rule::WalkFenced);
}

#[test]
fn control_count_reread() {
    refute_miss(Rule::CountReread);
}
