//! Taking and giving back: H1 to H3.

use loom::thread;

use super::*;
use crate::sync::{AtomicU64, Ordering};

/// H1, H3: two contend for a hold; a plain number is raised only by its holder. No raise is lost,
/// so the successor sees what its predecessor did.
#[test]
fn a_lock_excludes() {
    explore_with(Some(3), || {
        let hold = Arc::new(Hold::new());
        // Relaxed on purpose: the hold word alone has to order it.
        let data = Arc::new(AtomicU64::new(0));
        let contend = |me: u16| {
            let (hold, data) = (Arc::clone(&hold), Arc::clone(&data));
            thread::spawn(move || {
                let mut raised = 0;
                for _ in 0..2 {
                    let Some(mine) = try_take(&hold, me) else {
                        continue;
                    };
                    let seen = data.load(Ordering::Relaxed);
                    data.store(seen + 1, Ordering::Relaxed);
                    assert_eq!(hold.give_back(mine), Returned::Free);
                    raised += 1;
                }
                raised
            })
        };
        let threads = [contend(1), contend(2)];
        let raised: u64 = threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .sum();
        assert_eq!(data.load(Ordering::Relaxed), raised, "a raise is lost");
        assert_eq!(hold.load().sequence(), raised, "a grant is lost");
    });
}

#[test]
fn control_take_acquires() {
    refute(Rule::TakeAcquires, "a raise is lost", a_lock_excludes);
}

#[test]
fn control_give_back_releases() {
    refute(Rule::GiveBackReleases, "a raise is lost", a_lock_excludes);
}

/// H2: a process that lost a hold cannot free its successor's, however late it comes.
#[test]
fn a_late_return_frees_nobody() {
    explore(|| {
        let hold = Arc::new(Hold::new());
        let first = try_take(&hold, 1).expect("free");
        let late = {
            let hold = Arc::clone(&hold);
            thread::spawn(move || hold.give_back(first))
        };
        // Judged dead, rightly or wrongly: the exchange is of the exact word.
        let second = hold.take(first, id(2), 2, false);
        let returned = late.join().expect("no panic");
        match second {
            Ok(second) => {
                assert!(hold.load().same_hold(second), "the successor was freed");
                assert_eq!(returned, Returned::Lost);
            }
            Err(_) => assert_eq!(returned, Returned::Free),
        }
    });
}

#[test]
fn control_give_back_exchanges() {
    refute(
        Rule::GiveBackExchanges,
        "the successor was freed",
        a_late_return_frees_nobody,
    );
}

/// H3: a judgement of one hold is not acted upon in the next, also not when the same participant
/// has both.
#[test]
fn a_judgement_is_of_one_hold_only() {
    explore(|| {
        let hold = Arc::new(Hold::new());
        let first = try_take(&hold, 1).expect("free");
        let thief = {
            let hold = Arc::clone(&hold);
            thread::spawn(move || {
                let sequence = next_sequence(first).expect("far from the end");
                hold.take(first, id(2), sequence, false).is_ok()
            })
        };
        // Given back in time, and taken again: what the thief has seen is over.
        let returned = hold.give_back(first) == Returned::Free;
        let second = try_take(&hold, 1).filter(|_| returned);
        let stolen = thief.join().expect("no panic");
        assert!(
            !(stolen && second.is_some()),
            "a hold went by the judgement of another"
        );
    });
}

#[test]
fn control_sequence_grows() {
    refute(
        Rule::SequenceGrows,
        "by the judgement of another",
        a_judgement_is_of_one_hold_only,
    );
}
