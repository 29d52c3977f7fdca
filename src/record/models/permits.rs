//! Semaphores: H7, and that a death costs one permit.

use loom::thread;

use super::world::{Key, Somebody};
use super::*;

/// The quick way to a permit.
fn take_fast(key: &Key, me: u16, number: u32) -> Option<Word> {
    let token = |seen| ticket::draw(&key.ticket, seen);
    key.holds[number as usize].take_if_free(id(me), || true, token, || None)
}

/// H7: whichever permits two holders have, by the quick way or the other, their tokens differ, and
/// each is above what its permit had before.
#[test]
fn no_token_comes_twice() {
    explore_with(Some(3), || {
        let key = Key::new(3);
        // A removal was begun and undone: the word is ahead of the ticket.
        let retiring = key.holds[1].retire(key.holds[1].load(), id(9));
        let ahead = retiring.expect("nobody else").sequence();
        key.holds[1].end_retirement();
        let quick = {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                let mine = take_fast(&key, 2, 0)?;
                assert!(key.give_back(0, mine), "robbed");
                Some(mine)
            })
        };
        let second = take_fast(&key, 4, 1);
        let third = take_fast(&key, 4, 2);
        let mut slow = Somebody::new(&key, 3);
        let slow = slow.try_acquire();
        let first = quick.join().expect("no panic");
        let of_ahead = second.or(slow
            .filter(|(number, _)| *number == 1)
            .map(|(_, word)| word));
        let above = of_ahead.is_none_or(|word| word.sequence() > ahead);
        assert!(above, "a token that the permit was past");
        let mut tokens: Vec<_> = [first, second, third, slow.map(|(_, word)| word)]
            .into_iter()
            .flatten()
            .map(Word::sequence)
            .collect();
        let drawn = tokens.len();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), drawn, "a token twice");
    });
}

#[test]
fn control_token_drawn_once() {
    refute(Rule::TokenDrawnOnce, "a token twice", no_token_comes_twice);
}

#[test]
fn control_token_above_word() {
    refute(
        Rule::TokenAboveWord,
        "a token that the permit was past",
        no_token_comes_twice,
    );
}

/// H1 for permits: never more than there are, whenever a holder dies; and the dead holder's is
/// available again.
#[test]
fn a_death_costs_one_permit_and_no_other() {
    for_each_death(|doom| {
        explore_with(Some(3), move || {
            let key = Key::new(2);
            let doomed = {
                let (key, doom) = (Arc::clone(&key), doom.clone());
                thread::spawn(move || {
                    doom.of(|| {
                        let (number, mine) = Somebody::new(&key, 1).try_acquire()?;
                        key.give_back(number, mine);
                        Some(())
                    });
                    key.beacon.put_out();
                })
            };
            let mut living = Somebody::new(&key, 2);
            let (kept, word) = living.try_acquire().expect("there are two");
            doomed.join().expect("no panic");
            let (other, mine) = living.try_acquire().expect("the other can be had");
            assert_ne!(kept, other, "a permit was had twice");
            assert!(
                living.try_acquire().is_none(),
                "more permits than there are"
            );
            assert!(key.give_back(kept, word), "robbed");
            assert!(key.give_back(other, mine), "robbed");
        });
    });
}

#[test]
fn control_take_exact() {
    refute(
        Rule::TakeExact,
        "a permit was had twice",
        a_death_costs_one_permit_and_no_other,
    );
}
