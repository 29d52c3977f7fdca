//! Walking the index without its lock: I8.

use loom::thread;

use super::*;
use crate::record::changes::{self, NO_INTENT};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// As a stripe has it.
struct Stripe {
    intent: AtomicU64,
    count: AtomicU64,
}

impl Stripe {
    fn new() -> Stripe {
        Stripe {
            intent: AtomicU64::new(NO_INTENT),
            count: AtomicU64::new(0),
        }
    }

    /// One change; dies perhaps in the middle of it.
    fn change(&self, change: impl FnOnce()) {
        changes::begin(&self.intent, &self.count, 3);
        change();
        changes::end(&self.intent);
    }
}

/// Two chains of two stripes. In the first one, slot 1 is before slot 2, which has the key that is looked for;
/// the second is empty.
struct Index {
    stripes: [Stripe; 2],
    buckets: [AtomicU32; 2],
    next: [AtomicU32; 3],
    /// Whether the life in slot 1 is over, and whether it is free.
    over: AtomicU64,
    free: AtomicU64,
}

impl Index {
    fn new() -> Arc<Index> {
        Arc::new(Index {
            stripes: [Stripe::new(), Stripe::new()],
            buckets: [AtomicU32::new(1), AtomicU32::new(0)],
            next: [AtomicU32::new(0), AtomicU32::new(2), AtomicU32::new(0)],
            over: AtomicU64::new(0),
            free: AtomicU64::new(0),
        })
    }

    /// Slot 1 leaves the first chain. No order is asked of the links: the announcement has it.
    fn take_out(&self) {
        self.stripes[0].change(|| {
            self.over.store(1, Ordering::Relaxed);
            self.unlink();
        });
    }

    fn unlink(&self) {
        self.buckets[0].store(2, Ordering::Relaxed);
        self.free.store(1, Ordering::Release);
    }

    /// Ends what a dead one left, as who locks the stripe next does: undone, which changes nothing here, or
    /// done again, without another announcement.
    fn recover(&self) {
        let stripe = &self.stripes[0];
        if stripe.intent.load(Ordering::Acquire) != NO_INTENT {
            if self.over.load(Ordering::Acquire) == 1 {
                self.unlink();
            }
            changes::end(&stripe.intent);
        }
    }

    /// The other stripe puts slot 1 into the second chain, if it is free.
    fn put_elsewhere(&self) {
        let claim = || {
            let free = &self.free;
            let claimed = free.compare_exchange(1, 2, Ordering::AcqRel, Ordering::Relaxed);
            claimed.is_ok()
        };
        self.stripes[1].change(|| {
            if claim() {
                life::before_filling();
                self.next[1].store(0, Ordering::Relaxed);
                self.buckets[1].store(1, Ordering::Relaxed);
            }
        });
    }

    /// Whether slot 2 is certainly not in the first chain.
    fn is_miss(&self) -> bool {
        let [stripe, _] = &self.stripes;
        changes::is_unchanged_while(&stripe.intent, &stripe.count, || {
            let mut at = self.buckets[0].load(Ordering::Relaxed);
            while at != 0 && at != 2 {
                at = self.next[at as usize].load(Ordering::Relaxed);
            }
            at == 0
        })
    }
}

/// I8: a key that is there all the time is not missed, although the slot before it leaves its chain, and is put
/// into one of another stripe, while somebody walks by.
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

/// I8: nor when who takes the slot out dies over it, and the next one undoes or ends that.
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
fn control_intent_first() {
    refute_miss(Rule::IntentFirst);
}

#[test]
fn control_change_counted() {
    refute_miss(Rule::ChangeCounted);
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
fn control_intent_heeded() {
    refute_miss(Rule::IntentHeeded);
}

#[test]
fn control_walk_fenced() {
    refute_miss(Rule::WalkFenced);
}

#[test]
fn control_count_reread() {
    refute_miss(Rule::CountReread);
}
