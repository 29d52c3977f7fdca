//! Taking over from the dead: H5, with deaths at any store.

use loom::thread;

use super::world::{Key, Somebody};
use super::*;
use crate::sync::Ordering;

/// Takes, works and gives back; dies in between.
fn doomed(key: &Arc<Key>, doom: &Doom, lease: Lease) -> thread::JoinHandle<()> {
    let (key, doom) = (Arc::clone(key), doom.clone());
    thread::spawn(move || {
        doom.of(|| {
            let mut doomed = Somebody::new(&key, 1);
            doomed.lease = lease;
            if let Some((number, mine)) = doomed.try_acquire() {
                key.work();
                key.give_back(number, mine);
            }
        });
        key.beacon.put_out();
    })
}

/// Takes what is available, and gives it back. Whether it was told of a death. A successor that
/// finds work half done has to be told.
fn succeed(key: &Key, number: u16, now_us: u64) -> Option<bool> {
    let mut successor = Somebody::new(key, number);
    successor.now_us = now_us;
    let (permit, mine) = successor.try_acquire()?;
    let half_done = key.work();
    assert!(!half_done || successor.recovered(), "not told of a death");
    assert!(key.give_back(permit, mine), "robbed");
    Some(successor.recovered())
}

/// H2, H5: a holder dies at any store while another process looks; afterwards the hold is available
/// at once, and one successor is told, if there is anything to tell. Two successors do not take
/// over from the same dead holder.
#[test]
fn the_dead_are_succeeded_at_once() {
    for_each_death(|doom| {
        explore_with(Some(3), move || {
            let key = Key::new(1);
            let doomed = doomed(&key, &doom, Lease::None);
            let during = succeed(&key, 2, 0);
            doomed.join().expect("no panic");
            let after = succeed(&key, 3, 0).expect("a dead one's can be had");
            assert!(!(during == Some(true) && after), "told twice");
        });
    });
}

#[test]
fn control_take_exact() {
    refute(Rule::TakeExact, "robbed", the_dead_are_succeeded_at_once);
}

/// H5: a lease that is over besides does not hide the death.
#[test]
fn a_death_is_told_although_the_lease_is_over() {
    for_each_death(|doom| {
        explore(move || {
            let key = Key::new(1);
            let doomed = doomed(&key, &doom, Lease::Until(6_400));
            doomed.join().expect("no panic");
            succeed(&key, 2, 6_400).expect("a dead one's can be had");
        });
    });
}

#[test]
fn control_dead_first() {
    refute(
        Rule::DeadFirst,
        "not told of a death",
        a_death_is_told_although_the_lease_is_over,
    );
}

/// H5: a sweeper clears up after the dead while an acquirer takes over; the next holder is told,
/// whichever was first.
#[test]
fn clearing_up_hides_no_death() {
    for_each_death(|doom| {
        explore(move || {
            let key = Key::new(1);
            let dead = Somebody::new(&key, 1).try_acquire().expect("free");
            key.work.store(1, Ordering::Relaxed);
            key.beacon.put_out();
            let sweeper = {
                let (key, doom) = (Arc::clone(&key), doom.clone());
                thread::spawn(move || {
                    doom.of(|| key.holds[0].free_dead(|p| (p == id(1)).then_some(77)));
                })
            };
            let told = succeed(&key, 2, 0);
            sweeper.join().expect("no panic");
            let after = succeed(&key, 3, 0).expect("a dead one's can be had");
            assert_eq!(told, Some(true), "not told of a death");
            assert!(!after, "told twice");
            assert!(key.holds[0].load().sequence() > dead.1.sequence());
        });
    });
}

#[test]
fn control_abandoned_says_so() {
    refute(
        Rule::AbandonedSaysSo,
        "not told of a death",
        clearing_up_hides_no_death,
    );
}

/// L5, C1: a latch is not taken from the living although its deadline word has an old lease, of
/// another life of the slot, that fits by chance.
#[test]
fn a_latch_is_not_stolen() {
    explore(|| {
        let key = Key::new(1);
        // What a lock left behind: a lease for just the sequence that the latch will have.
        key.holds[0].set_lease(Word::held(id(7), 1), 0, Lease::Until(6_400));
        let latch = |me| {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                let mut somebody = Somebody::new(&key, me);
                somebody.leased = false;
                somebody.now_us = 6_400;
                if let Some((number, mine)) = somebody.try_acquire() {
                    assert!(!key.work(), "two have the latch");
                    assert!(key.give_back(number, mine), "two have the latch");
                }
            })
        };
        for adder in [latch(2), latch(3)] {
            adder.join().expect("no panic");
        }
    });
}

#[test]
fn control_latch_unleased() {
    refute(
        Rule::LatchUnleased,
        "two have the latch",
        a_latch_is_not_stolen,
    );
}
