//! Taking keys away, by force or not: H4 and H6, and deaths of the remover.

use loom::thread;

use super::world::{Key, Somebody};
use super::*;

/// H4, H6: reclaiming takes no key that is held. The holder of a key that was left alone has it
/// still; and a key that is gone has no holder.
#[test]
fn an_idle_key_is_taken_from_nobody() {
    explore_with(Some(3), || {
        let key = Key::new(2);
        let user = {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                let granted = Somebody::new(&key, 2).try_acquire();
                let current = Somebody::new(&key, 2).is_current();
                // Kept until the end.
                granted.map(|granted| (granted, current))
            })
        };
        let removed = key.remove(Force::Idle).is_some();
        let granted = user.join().expect("no panic");
        if let Some(((number, mine), _)) = granted {
            assert!(!removed, "a held key was reclaimed");
            assert!(life::is_current(&key.life, world::LIFE), "a held key went");
            assert!(key.give_back(number, mine), "robbed");
        }
        if !removed {
            assert!(life::is_current(&key.life, world::LIFE), "a held key went");
            let holds = &key.holds;
            assert!(holds.iter().all(|hold| hold.load().is_plainly_free()));
        }
    });
}

#[test]
fn control_idle_takes_nobodys() {
    refute(
        Rule::IdleTakesNobodys,
        "a held key was reclaimed",
        an_idle_key_is_taken_from_nobody,
    );
}

#[test]
fn control_words_before_life() {
    refute(
        Rule::WordsBeforeLife,
        "a held key went",
        an_idle_key_is_taken_from_nobody,
    );
}

/// Makes a semaphore again, or does not after all, beside an acquirer of it. A dead holder left one
/// of its permits.
fn make_again(is_wanted: bool) {
    explore_with(Some(3), move || {
        let key = Key::new(2);
        Somebody::new(&key, 1).try_acquire().expect("free");
        key.beacon.put_out();
        key.holds[0].free_dead(|p| (p == id(1)).then_some(77));
        let user = {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                // The second permit by the quick way, the first by the other, each if it is
                // available.
                let token = |seen| ticket::draw(&key.ticket, seen);
                let current = || life::is_current(&key.life, world::LIFE);
                let second = key.holds[1].take_if_free(id(3), current, token, || None);
                let mut user = Somebody::new(&key, 2);
                let granted = user.try_acquire();
                for (permit, mine) in granted.into_iter().chain(second.map(|mine| (1, mine))) {
                    assert!(key.give_back(permit, mine), "robbed");
                }
                granted.is_some() && user.recovered()
            })
        };
        let untold = [(0, Stamp::precise(77, 0))];
        let removal = Removal {
            untold: &untold,
            ..key.removal()
        };
        let wake_all = || key.futex.wake(9);
        let begun = removal.begin(id(9), Force::Unheld, |_| false, |_| is_wanted, wake_all);
        if let Some(marked) = begun {
            key.finish_removal(marked);
        }
        let told = user.join().expect("no panic");
        let told_later = || {
            let mut successor = Somebody::new(&key, 4);
            let mut holds = || successor.try_acquire().map(|_| successor.recovered());
            [holds(), holds()].contains(&Some(true))
        };
        // The remaker tells the first acquirer that comes.
        let is_handed_on = begun.is_some() || told_later();
        assert!(told || is_handed_on, "nobody is told of a death");
        assert!(!(told && is_handed_on), "told twice");
    });
}

/// H5, H6: the remaker of a semaphore takes no permit that is held, and hands on what a dead holder
/// left unless an acquirer was told of it meanwhile.
#[test]
fn what_the_dead_left_is_handed_on_once() {
    make_again(true);
}

#[test]
fn control_unheld_takes_nobodys() {
    refute(
        Rule::UnheldTakesNobodys,
        "robbed",
        what_the_dead_left_is_handed_on_once,
    );
}

#[test]
fn control_handed_on_once() {
    refute(
        Rule::HandedOnOnce,
        "told twice",
        what_the_dead_left_is_handed_on_once,
    );
}

/// H5: a semaphore that is not made again after all says as before that a holder died.
#[test]
fn what_the_dead_left_stays_where_nothing_is_made_again() {
    make_again(false);
}

#[test]
fn control_undone_is_told() {
    refute(
        Rule::UndoneIsTold,
        "nobody is told of a death",
        what_the_dead_left_stays_where_nothing_is_made_again,
    );
}

/// H6, L5: an average is taken from the dead, never from a live writer in the middle of an `add`.
#[test]
fn an_average_is_not_taken_from_the_living() {
    for_each_death(|doom| {
        explore_with(Some(3), move || {
            let key = Key::new(1);
            let adder = {
                let (key, doom) = (Arc::clone(&key), doom.clone());
                thread::spawn(move || {
                    let lived = doom.of(|| {
                        let mut adder = Somebody::new(&key, 1);
                        adder.leased = false;
                        let (number, mine) = adder.try_acquire()?;
                        key.work();
                        Some(key.give_back(number, mine))
                    });
                    key.beacon.put_out();
                    lived.flatten()
                })
            };
            let during = key.remove(Force::NotTheLiving).is_some();
            let returned = adder.join().expect("no panic");
            assert_ne!(returned, Some(false), "taken from the living");
            let after = during || key.remove(Force::NotTheLiving).is_some();
            assert!(after, "the dead keep it");
        });
    });
}

#[test]
fn control_living_undisturbed() {
    refute(
        Rule::LivingUndisturbed,
        "taken from the living",
        an_average_is_not_taken_from_the_living,
    );
}

/// H6: a removal by force that dies at any store is done again if it had every word, and undone
/// otherwise; a holder that acquired in between keeps the hold.
#[test]
fn a_dead_removal_robs_nobody() {
    for_each_death(|doom| {
        explore_with(Some(3), move || {
            let key = Key::new(2);
            let remover = {
                let (key, doom) = (Arc::clone(&key), doom.clone());
                thread::spawn(move || doom.of(|| key.remove(Force::Anybody)).is_some())
            };
            let done = remover.join().expect("no panic");
            // Acquires after that death, in the middle of another process's clearing up.
            let user = {
                let key = Arc::clone(&key);
                thread::spawn(move || {
                    let token = |seen| ticket::draw(&key.ticket, seen);
                    let current = || life::is_current(&key.life, world::LIFE);
                    let granted = key.holds[1].take_if_free(id(2), current, token, || None);
                    // An acquirer that was turned away looks no further.
                    granted.map(|mine| key.give_back(1, mine))
                })
            };
            if !done {
                // As the process that locks the stripe next.
                match key.removal().left(Force::Anybody) {
                    Left::Finish => key.finish_removal(Marked::UNKNOWN),
                    Left::Again => assert!(key.remove(Force::Anybody).is_some()),
                    Left::Undo => key.removal().give_up(|| key.futex.wake(9)),
                }
            }
            let kept = user.join().expect("no panic");
            assert_ne!(kept, Some(false), "robbed by the dead");
            let free = |hold: &Hold| hold.load().is_plainly_free();
            assert!(key.holds.iter().all(free), "a word is stuck");
        });
    });
}

#[test]
fn control_undone_unless_all() {
    refute(
        Rule::UndoneUnlessAll,
        "robbed by the dead",
        a_dead_removal_robs_nobody,
    );
}

/// W1: a waiter that sleeps for a key that is taken away is woken to find it gone; also when the
/// remover died halfway and its successor undid the removal.
#[test]
fn a_removal_wakes_who_waits() {
    for_each_death(|doom| {
        explore_with(Some(2), move || {
            let key = Key::new(2);
            let mut holder = Somebody::new(&key, 5);
            holder.try_acquire().expect("free");
            holder.try_acquire().expect("free");
            let waiter = {
                let key = Arc::clone(&key);
                thread::spawn(move || {
                    let granted = Somebody::new(&key, 2).acquire();
                    if let Some((number, mine)) = granted {
                        key.give_back(number, mine);
                    }
                })
            };
            let lived = doom.of(|| key.remove(Force::Anybody));
            if lived.is_none() {
                match key.removal().left(Force::Anybody) {
                    Left::Finish => key.finish_removal(Marked::UNKNOWN),
                    Left::Again => assert!(key.remove(Force::Anybody).is_some()),
                    Left::Undo => {
                        key.removal().give_up(|| key.futex.wake(9));
                        // The holder still has the other permit, and gives it back some day.
                        key.remove(Force::Anybody);
                    }
                }
            }
            waiter.join().expect("no panic");
        });
    });
}

#[test]
fn control_removal_wakes() {
    refute(Rule::RemovalWakes, "deadlock", a_removal_wakes_who_waits);
}

/// H6, W1: a removal that finds the key wanted after all leaves everything as it was: the key is
/// there, its word is available, and the waiter for the dead holder waits no longer.
#[test]
fn what_is_wanted_after_all_stays() {
    explore_with(Some(3), || {
        let key = Key::new(1);
        let (_, _dead) = Somebody::new(&key, 1).try_acquire().expect("free");
        let waiter = {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                let granted = Somebody::new(&key, 2).acquire();
                granted.is_some_and(|(number, mine)| key.give_back(number, mine))
            })
        };
        key.beacon.put_out();
        let is_dead = |other| other == id(1);
        let wake_all = || key.futex.wake(9);
        let removal = key.removal();
        let begun = removal.begin(id(9), Force::NotTheLiving, is_dead, |_| false, wake_all);
        assert!(begun.is_none(), "a wanted key went");
        assert!(
            life::is_current(&key.life, world::LIFE),
            "a wanted key went"
        );
        // No process tells of the death, except the one that took the dead holder's mark away.
        if key.holds[0].load().participant() == Some(id(1)) {
            key.futex.wake(9);
        }
        assert!(waiter.join().expect("no panic"), "robbed");
        assert!(key.holds[0].load().is_plainly_free());
    });
}

#[test]
fn control_veto_heeded() {
    refute(
        Rule::VetoHeeded,
        "a wanted key went",
        what_is_wanted_after_all_stays,
    );
}

#[test]
fn control_veto_wakes() {
    refute(Rule::VetoWakes, "deadlock", what_is_wanted_after_all_stays);
}
