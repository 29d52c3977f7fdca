//! Turns, alone and among several who want them.

use super::*;
use crate::store::care::check::Inspector;
use crate::store::home::open;
use crate::store::settings::Settings;
use crate::sync::{AtomicU64, Ordering};

fn store_in(dir: &tempfile::TempDir) -> Arc<Store> {
    open::open_apart(dir.path(), &Settings::default()).unwrap()
}

/// With as much time left as it takes, one in e is chosen; with a tenth of it, nine in ten;
/// with forty times it, nobody.
#[test]
fn who_is_chosen_early_is_chosen_more_often_near_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(&dir);
    let took = Duration::from_secs(1_000);
    let Begun::Turn(turn) = Turns(&store).begin_turn(b"k", &|| false).unwrap() else {
        panic!("nobody has it");
    };
    assert_eq!(Turns(&store).last_turn(b"k"), None);
    turn.finish(took, true);
    assert_eq!(Turns(&store).last_turn(b"k"), Some(took));
    const ASKED: u32 = 2_000;
    let chosen = |left_ms: u64, beta: f64| {
        let expires_ms = clock::wall_us() / 1_000 + left_ms;
        let due = (0..ASKED).filter(|_| Turns(&store).is_due(b"k", expires_ms, beta).unwrap());
        due.count() as f64 / f64::from(ASKED)
    };
    for (left_ms, beta, share) in [
        (1_000_000, 1.0, 0.37),
        (2_000_000, 2.0, 0.37),
        (100_000, 1.0, 0.90),
    ] {
        // Five times as far off as it may be by chance, and then some.
        let chosen = chosen(left_ms, beta);
        assert!((chosen - share).abs() < 0.06, "{chosen}, not {share}");
    }
    assert_eq!(chosen(40_000_000, 1.0), 0.0);
    assert_eq!(chosen(1_000_000, 0.0), 0.0);
    assert!(!Turns(&store).is_due(b"k", 0, 1e9).unwrap());
}

#[test]
fn a_turn_that_ends_in_vain_leaves_what_was_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(&dir);
    let took = Duration::from_micros(77);
    let begin_turn = || Turns(&store).try_begin_turn(b"k").unwrap();
    begin_turn().unwrap().finish(took, true);
    let turn = begin_turn().unwrap();
    assert!(begin_turn().is_none());
    drop(turn);
    assert_eq!(Turns(&store).last_turn(b"k"), Some(took));
    // What nobody wants to know leaves nothing.
    Turns(&store)
        .try_begin_turn(b"other")
        .unwrap()
        .unwrap()
        .finish(took, false);
    assert_eq!(Turns(&store).last_turn(b"other"), None);
    assert_eq!(Inspector(&store).check().unwrap().slots_used, 1);
}

#[test]
fn who_waits_leaves_when_the_value_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(&dir);
    let there = AtomicU64::new(0);
    let turn = Turns(&store).try_begin_turn(b"k").unwrap().unwrap();
    let handle = Handle::new(Arc::clone(&store), Tenant::Turn, b"k", 0);
    let is_needless = || there.load(Ordering::Acquire) == 1;
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let begun = Turns(&store).begin_turn(b"k", &is_needless);
                    matches!(begun.unwrap(), Begun::NotNeeded)
                })
            })
            .collect();
        while handle.waiters().unwrap() < 3 {
            std::thread::yield_now();
        }
        there.store(1, Ordering::Release);
        turn.finish(Duration::from_secs(1), false);
        for waiter in waiting {
            assert!(waiter.join().unwrap(), "it took the turn");
        }
    });
}
