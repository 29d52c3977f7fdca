//! loom models of the protocol: every interleaving, and every value that a load may see.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test --release --lib`. Each model names the invariant of DESIGN.md
//! that it is about.

use std::sync::Arc;

use loom::thread;

use super::*;
use crate::sync::{AtomicU64, Ordering};

fn id(number: u16) -> ParticipantId {
    ParticipantId::new(number).expect("in range")
}

fn try_take(hold: &Hold, me: u16) -> Option<Word> {
    let seen = hold.load();
    if !seen.is_plainly_free() {
        return None;
    }
    hold.take(seen, id(me), next_sequence(seen)?, false).ok()
}

/// H1, H3: two takers, a plain word that only the holder touches. Nothing is lost, and the successor sees
/// what the predecessor did.
#[test]
fn a_lock_excludes() {
    loom::model(|| {
        let hold = Arc::new(Hold::new());
        // Relaxed on purpose: the hold word alone has to order it.
        let data = Arc::new(AtomicU64::new(0));
        let contend = |me: u16| {
            let (hold, data) = (Arc::clone(&hold), Arc::clone(&data));
            thread::spawn(move || {
                let Some(mine) = try_take(&hold, me) else {
                    return 0;
                };
                let seen = data.load(Ordering::Relaxed);
                data.store(seen + 1, Ordering::Relaxed);
                assert_eq!(hold.give_back(mine), Returned::Free);
                1
            })
        };
        let threads = [contend(1), contend(2)];
        let taken: u64 = threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .sum();
        assert_eq!(data.load(Ordering::Relaxed), taken);
        assert_eq!(hold.load().sequence(), taken);
    });
}

/// H2: whoever lost a hold cannot free its successor's, however late it comes.
#[test]
fn a_late_return_frees_nobody() {
    loom::model(|| {
        let hold = Arc::new(Hold::new());
        let first = try_take(&hold, 1).expect("free");
        let late = {
            let hold = Arc::clone(&hold);
            thread::spawn(move || hold.give_back(first))
        };
        // Judged dead by somebody who is right or wrong: the exchange is of the exact word.
        let second = hold.take(first, id(2), 2, false);
        let returned = late.join().expect("no panic");
        match second {
            Ok(second) => {
                assert_eq!(returned, Returned::Lost);
                assert!(hold.load().same_hold(second));
            }
            Err(_) => assert_eq!(returned, Returned::Free),
        }
    });
}

/// L3: a renewal and a theft never both succeed.
#[test]
fn renewal_and_theft_exclude_each_other() {
    loom::model(|| {
        let hold = Arc::new(Hold::new());
        let mine = try_take(&hold, 1).expect("free");
        hold.set_lease(mine, 0, Lease::Until(6_400));
        let thief = {
            let hold = Arc::clone(&hold);
            thread::spawn(move || {
                hold.mark_over(mine, || 6_400) && hold.take(mine, id(2), 2, false).is_ok()
            })
        };
        let renewed = hold.renew(mine, Lease::Until(640_000));
        let stolen = thief.join().expect("no panic");
        assert!(!(renewed && stolen));
        assert!(renewed || stolen);
    });
}

/// H4: what was prepared in one life of a slot does not succeed in the next.
#[test]
fn a_retired_word_is_not_taken_by_who_saw_it_before() {
    loom::model(|| {
        let hold = Arc::new(Hold::new());
        let life = Arc::new(AtomicU64::new(0));
        let taker = {
            let (hold, life) = (Arc::clone(&hold), Arc::clone(&life));
            thread::spawn(move || {
                // The order of the fast path: word, life, exchange.
                let seen = hold.load();
                let current = life.load(Ordering::Acquire) == 0;
                let plain = seen.is_plainly_free() && current;
                plain && hold.take(seen, id(1), seen.sequence() + 1, false).is_ok()
            })
        };
        let seen = hold.load();
        let retired = hold.retire(seen, id(2)).is_ok();
        if retired {
            life.store(1, Ordering::Release);
            hold.end_retirement();
        }
        let taken = taker.join().expect("no panic");
        assert!(!(retired && taken));
    });
}

/// C1, C2: a reader sees a value that was written, whole, and never an older one than it saw before.
#[test]
fn cells_are_read_whole() {
    loom::model(|| {
        let shared = Arc::new((AtomicU64::new(0), [Cell::new(), Cell::new()]));
        let cells = |shared: &(AtomicU64, [Cell; 2])| -> Option<([u64; PAYLOAD_WORDS], u64)> {
            let cells = Cells {
                selector: &shared.0,
                cells: &shared.1,
            };
            // One attempt: loom would follow a reader's retries for ever.
            cells.try_read()
        };
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let cells = Cells {
                    selector: &shared.0,
                    cells: &shared.1,
                };
                let first = cells.write(&[1; PAYLOAD_WORDS], 0);
                cells.write(&[2; PAYLOAD_WORDS], first);
            })
        };
        if let Some((payload, version)) = cells(&shared) {
            assert_eq!(payload, [version; PAYLOAD_WORDS]);
        }
        writer.join().expect("no panic");
        assert_eq!(cells(&shared), Some(([2; PAYLOAD_WORDS], 2)));
    });
}
