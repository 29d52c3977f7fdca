//! Waiting and waking, over a futex with sleeps that end by themselves only where a model says so:
//! a wake-up that is lost is a deadlock. W1 to W5.

use loom::thread;

use super::world::{Key, Somebody};
use super::*;

/// Waits and gives back, in a thread of its own.
fn waiter(key: &Arc<Key>, number: u16) -> thread::JoinHandle<()> {
    let key = Arc::clone(key);
    thread::spawn(move || {
        let (permit, mine) = Somebody::new(&key, number).acquire().expect("patient");
        assert!(key.give_back(permit, mine), "robbed");
    })
}

/// W1: a hold that is given back while two waiters are on their way to sleep is granted to both,
/// one after the other.
#[test]
fn no_wake_up_is_lost() {
    explore_with(Some(2), || {
        let key = Key::new(1);
        let (permit, mine) = Somebody::new(&key, 9).try_acquire().expect("free");
        let waiters = [waiter(&key, 2), waiter(&key, 3)];
        assert!(key.give_back(permit, mine), "robbed");
        for waiter in waiters {
            waiter.join().expect("no panic");
        }
        assert!(key.holds[0].load().is_free());
    });
}

#[test]
fn control_wake_read_first() {
    refute(Rule::WakeReadFirst, "deadlock", no_wake_up_is_lost);
}

#[test]
fn control_waiter_marks() {
    refute(Rule::WaiterMarks, "deadlock", no_wake_up_is_lost);
}

#[test]
fn control_freed_before_wake() {
    refute(Rule::FreedBeforeWake, "deadlock", no_wake_up_is_lost);
}

#[test]
fn control_wake_raised() {
    refute(Rule::WakeRaised, "deadlock", no_wake_up_is_lost);
}

#[test]
fn control_wake_orders() {
    refute(Rule::WakeOrders, "deadlock", no_wake_up_is_lost);
}

#[test]
fn control_sleeper_marks() {
    refute(Rule::SleeperMarks, "deadlock", no_wake_up_is_lost);
}

#[test]
fn control_woken_judge() {
    refute(Rule::WokenJudge, "robbed", no_wake_up_is_lost);
}

/// W4, W5: an acquirer takes the hold between a wake-up and the waiter that was woken, which then
/// gives up; the wake-up that this waiter had in vain is not lost to the other sleeper.
#[test]
fn who_gives_up_takes_no_wake_up_along() {
    explore_with(Some(1), || {
        let key = Key::new(1);
        let (permit, mine) = Somebody::new(&key, 9).try_acquire().expect("free");
        let patient = waiter(&key, 2);
        let holder = {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                assert!(key.give_back(permit, mine), "robbed");
                // A waiter that is woken may find it taken again.
                if let Some((permit, mine)) = Somebody::new(&key, 9).try_acquire() {
                    assert!(key.give_back(permit, mine), "robbed");
                }
            })
        };
        // Here, so that the three follow one another without a preemption until all that counts is
        // to come.
        let mut hasty = Somebody::new(&key, 3);
        hasty.patience = 1;
        if let Some((permit, mine)) = hasty.acquire() {
            assert!(key.give_back(permit, mine), "robbed");
        }
        holder.join().expect("no panic");
        patient.join().expect("no panic");
    });
}

#[test]
fn control_wake_passed_on() {
    refute(
        Rule::WakePassedOn,
        "deadlock",
        who_gives_up_takes_no_wake_up_along,
    );
}

/// W3: a thief that takes over from a late holder keeps the waiters' mark, and they are woken.
#[test]
fn a_thief_keeps_the_mark() {
    explore_with(Some(3), || {
        let key = Key::new(1);
        let mut late = Somebody::new(&key, 9);
        late.lease = Lease::Until(6_400);
        late.try_acquire().expect("free");
        let sleeper = waiter(&key, 2);
        let mut thief = Somebody::new(&key, 3);
        thief.now_us = 6_400;
        // Unless the waiter sees the thief's mark, and is quicker.
        if let Some((permit, mine)) = thief.try_acquire() {
            assert!(key.give_back(permit, mine), "robbed");
        }
        sleeper.join().expect("no panic");
    });
}

#[test]
fn control_mark_stays() {
    refute(Rule::MarkStays, "deadlock", a_thief_keeps_the_mark);
}

/// W2, H5: a holder dies at any store, also on its way into the kernel to wake a waiter. The waiter
/// has the hold in the end, when time has passed, and is told if there was a death to be told of.
#[test]
fn a_death_keeps_nobody_waiting() {
    for_each_death(|doom| {
        explore_with(Some(3), move || {
            let key = Key::new(1);
            let doomed = {
                let (key, doom) = (Arc::clone(&key), doom.clone());
                thread::spawn(move || {
                    doom.of(|| {
                        let mut doomed = Somebody::new(&key, 1);
                        if let Some((permit, mine)) = doomed.try_acquire() {
                            key.work();
                            key.give_back(permit, mine);
                        }
                    });
                    key.beacon.put_out();
                    key.futex.tick();
                })
            };
            let mut waiter = Somebody::new(&key, 2);
            let (permit, mine) = waiter.acquire().expect("patient");
            let half_done = key.work();
            assert!(!half_done || waiter.recovered(), "not told of a death");
            assert!(key.give_back(permit, mine), "robbed");
            doomed.join().expect("no panic");
        });
    });
}

#[test]
fn control_sleep_bounded() {
    refute(Rule::SleepBounded, "deadlock", a_death_keeps_nobody_waiting);
}

/// W1 for permits: two are held, two wait; each return wakes one, whichever permit it was.
#[test]
fn every_permit_wakes_somebody() {
    explore_with(Some(1), || {
        let key = Key::new(2);
        let mut first = Somebody::new(&key, 9);
        let (one, mine) = first.try_acquire().expect("free");
        let (other, too) = first.try_acquire().expect("free");
        let waiters = [waiter(&key, 2), waiter(&key, 3)];
        assert!(key.give_back(one, mine), "robbed");
        assert!(key.give_back(other, too), "robbed");
        for waiter in waiters {
            waiter.join().expect("no panic");
        }
    });
}
