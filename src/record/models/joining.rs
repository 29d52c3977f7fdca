//! Participant numbers that are used again: P3 and P4.

use loom::thread;

use super::world::{Key, Never, Somebody};
use super::*;
use crate::record::joining::{PARTICIPANT_USED, read_whole, sweep, take_number};
use crate::sync::{AtomicU64, Ordering};

/// Sweeps after participant 1, which is dead.
fn sweep_one(key: &Key, state: &AtomicU64) {
    let mut dead = [false; 8];
    dead[1] = true;
    let all = |visit: &mut dyn FnMut(&Hold)| key.holds.iter().for_each(visit);
    sweep(&mut dead, all, |_| 77, |_| Some(state));
}

/// Joins as participant 1, if that number is available.
fn join(key: &Key, state: &AtomicU64) -> bool {
    let Ok(joined): Result<_, Never> = take_number(state, || Ok(key.beacon.try_light()), || ());
    joined
}

/// Takes what is available, works, and gives it back. Whether it was told of a death.
fn succeed(key: &Key, number: u16) -> Option<bool> {
    let mut somebody = Somebody::new(key, number);
    let (permit, mine) = somebody.try_acquire()?;
    let half_done = key.work();
    assert!(!half_done || somebody.recovered(), "not told of a death");
    assert!(key.give_back(permit, mine), "the living was robbed");
    Some(somebody.recovered())
}

/// A key with a dead holder: participant 1 died in the middle of its work.
fn with_a_dead_holder() -> (Arc<Key>, Arc<AtomicU64>) {
    let key = Key::new(1);
    Somebody::new(&key, 1).try_acquire().expect("free");
    key.work.store(1, Ordering::Relaxed);
    key.beacon.put_out();
    (key, Arc::new(AtomicU64::new(PARTICIPANT_USED | 1)))
}

/// P4: a number is swept and used again while another process judges a word of its dead
/// participant. That judgement robs no live process, the death is told once, and no word is left to
/// a number that knows nothing of it.
#[test]
fn a_number_is_used_again_without_its_words() {
    explore_with(Some(3), || {
        let (key, state) = with_a_dead_holder();
        let joiner = {
            let (key, state) = (Arc::clone(&key), Arc::clone(&state));
            thread::spawn(move || {
                sweep_one(&key, &state);
                assert!(join(&key, &state), "the number is not to be had");
                succeed(&key, 1)
            })
        };
        let during = succeed(&key, 2);
        let joined = joiner.join().expect("no panic");
        let after = succeed(&key, 3);
        assert!(after.is_some(), "a word is left to who does not know of it");
        let told = [during, joined, after].into_iter().flatten();
        assert_eq!(told.filter(|told| *told).count(), 1, "not told once");
    });
}

#[test]
fn control_words_swept() {
    refute(
        Rule::WordsSwept,
        "a word is left to who does not know of it",
        a_number_is_used_again_without_its_words,
    );
}

#[test]
fn control_take_exact() {
    refute(
        Rule::TakeExact,
        "the living was robbed",
        a_number_is_used_again_without_its_words,
    );
}

/// P4: a sweeper dies at any store; the next joiner takes whatever number is free, and sweeps if
/// none is.
#[test]
fn a_death_in_a_sweep_frees_no_number_too_early() {
    for_each_death(|doom| {
        explore(move || {
            let (key, state) = with_a_dead_holder();
            let sweeper = {
                let (key, state, doom) = (Arc::clone(&key), Arc::clone(&state), doom.clone());
                thread::spawn(move || doom.of(|| sweep_one(&key, &state)))
            };
            sweeper.join().expect("no panic");
            if !join(&key, &state) {
                sweep_one(&key, &state);
                assert!(join(&key, &state), "the number is not to be had");
            }
            let told = succeed(&key, 3);
            assert!(told.is_some(), "a word is left to who does not know of it");
            assert_eq!(told, Some(true), "not told once");
        });
    });
}

#[test]
fn control_numbers_last() {
    refute(
        Rule::NumbersLast,
        "a word is left to who does not know of it",
        a_death_in_a_sweep_frees_no_number_too_early,
    );
}

/// P4, H6: a dead remover's number that a retiring word names stays taken until the next process
/// that locks the stripe has ended the removal.
#[test]
fn a_retiring_word_keeps_its_number() {
    explore(|| {
        let key = Key::new(1);
        let state = Arc::new(AtomicU64::new(PARTICIPANT_USED | 1));
        let seen = key.holds[0].load();
        key.holds[0].retire(seen, id(1)).expect("nobody else");
        key.beacon.put_out();
        let stripe = {
            let key = Arc::clone(&key);
            thread::spawn(move || key.removal().give_up(|| key.futex.wake(9)))
        };
        sweep_one(&key, &state);
        let named = key.holds[0].load().participant() == Some(id(1));
        let free = state.load(Ordering::Acquire) & PARTICIPANT_USED == 0;
        assert!(!(named && free), "a word names a free number");
        stripe.join().expect("no panic");
        sweep_one(&key, &state);
        assert!(join(&key, &state), "the number is not to be had");
    });
}

#[test]
fn control_retiring_keeps_number() {
    refute(
        Rule::RetiringKeepsNumber,
        "a word names a free number",
        a_retiring_word_keeps_its_number,
    );
}

/// P4: a number is not used while a child of the dead still has its beacon: the end of the child
/// would be taken for the death of the joiner.
#[test]
fn an_orphans_beacon_is_not_ones_own() {
    explore_with(Some(3), || {
        let key = Key::new(1);
        let state = Arc::new(AtomicU64::new(1));
        let orphan = {
            let key = Arc::clone(&key);
            thread::spawn(move || key.beacon.put_out())
        };
        let joiner = {
            let (key, state) = (Arc::clone(&key), Arc::clone(&state));
            thread::spawn(move || {
                if join(&key, &state) {
                    succeed(&key, 1);
                }
            })
        };
        succeed(&key, 2);
        orphan.join().expect("no panic");
        joiner.join().expect("no panic");
    });
}

#[test]
fn control_beacon_locked() {
    refute(
        Rule::BeaconLocked,
        "the living was robbed",
        an_orphans_beacon_is_not_ones_own,
    );
}

/// P3: a description is read whole, of one process, or not at all.
#[test]
fn a_description_is_of_one_process() {
    explore_with(Some(3), || {
        struct Record {
            state: AtomicU64,
            pid: AtomicU64,
            started: AtomicU64,
        }
        let record = Arc::new(Record {
            state: AtomicU64::new(PARTICIPANT_USED | 1),
            pid: AtomicU64::new(1),
            started: AtomicU64::new(1),
        });
        let reader = {
            let record = Arc::clone(&record);
            thread::spawn(move || {
                read_whole(&record.state, || {
                    let pid = record.pid.load(Ordering::Relaxed);
                    (pid, record.started.load(Ordering::Relaxed))
                })
            })
        };
        let none = |_: &mut dyn FnMut(&Hold)| {};
        sweep(&mut [false, true], none, |_| 0, |_| Some(&record.state));
        let describe = || {
            record.pid.store(2, Ordering::Relaxed);
            record.started.store(2, Ordering::Relaxed);
        };
        let Ok(joined): Result<_, Never> = take_number(&record.state, || Ok(true), describe);
        assert!(joined);
        let read = reader.join().expect("no panic");
        if let Some((state, read)) = read.filter(|(state, _)| state & PARTICIPANT_USED != 0) {
            let joins = state & 0xffff_ffff;
            assert_eq!(read, (joins, joins), "a description of two processes");
        }
    });
}

#[test]
fn control_record_fenced() {
    refute(
        Rule::RecordFenced,
        "a description of two processes",
        a_description_is_of_one_process,
    );
}

#[test]
fn control_record_reread() {
    refute(
        Rule::RecordReread,
        "a description of two processes",
        a_description_is_of_one_process,
    );
}
