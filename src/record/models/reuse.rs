//! A slot that is given to another key while a handle that remembers it still acts on the one
//! before: H2 to H4, L1, L2, S2, S4 and I6, with a removal by force against everything that a
//! handle can do.

use loom::thread;

use super::world::{Key, LIFE, Somebody};
use super::*;
use crate::record::waiting::mark_all;
use crate::sync::{AtomicU64, Ordering};

const LATE: u64 = 640_000;

/// What a handle is in the middle of when the key is removed: with the hold that participant 1 has
/// (or had).
type Act = fn(&Key, Word);

fn take_fast(key: &Key, _: Word) {
    let current = || life::is_current(&key.life, LIFE);
    let taken = key.holds[0].take_if_free(id(3), current, next_sequence, || {
        Some((Lease::Until(6_400), Stamp::precise(3, 0)))
    });
    if let Some(mine) = taken {
        key.give_back(0, mine);
    }
}

fn acquire(key: &Key, _: Word) {
    let mut somebody = Somebody::new(key, 3);
    somebody.lease = Lease::Until(6_400);
    if let Some((number, mine)) = somebody.try_acquire() {
        key.give_back(number, mine);
    }
}

fn give_back(key: &Key, mine: Word) {
    key.give_back(0, mine);
}

fn give_back_and_take_again(key: &Key, mine: Word) {
    if key.give_back(0, mine) {
        take_fast(key, mine);
    }
}

fn publish(key: &Key, mine: Word) {
    key.holds[0].set_lease(mine, 0, Lease::Until(6_400));
}

fn renew(key: &Key, mine: Word) {
    key.holds[0].renew(mine, Lease::Until(LATE * 2));
}

fn steal(key: &Key, mine: Word) {
    key.holds[0].set_lease(mine, 0, Lease::Until(6_400));
    let mut thief = Somebody::new(key, 3);
    thief.now_us = 6_400;
    if let Some((number, mine)) = thief.try_acquire() {
        key.give_back(number, mine);
    }
}

fn recover(key: &Key, mine: Word) {
    key.beacon.put_out();
    acquire(key, mine);
}

fn clear_up(key: &Key, _: Word) {
    key.holds[0].free_dead(|p| (p == id(1)).then_some(77));
}

fn mark(key: &Key, _: Word) {
    let current = || life::is_current(&key.life, LIFE);
    let Ok(_): Result<bool, ()> = mark_all([Ok(&key.holds[0])], current) else {
        return;
    };
}

/// A removal by force, and the next key in the same slot, against `act` by a handle of the one
/// before.
fn reused(act: Act) {
    explore_with(Some(3), move || {
        let key = Key::new(1);
        let (_, old) = Somebody::new(&key, 1).try_acquire().expect("free");
        let actor = {
            let key = Arc::clone(&key);
            thread::spawn(move || act(&key, old))
        };
        let floor = key.remove(Force::Anybody).expect("by force");
        key.begin_next_life(floor);
        let deadline = key.holds[0].deadline_bits();
        let mine = try_take(&key.holds[0], 2).expect("the next life was touched: it is not free");
        key.holds[0].set_lease(mine, deadline, Lease::Until(LATE));
        actor.join().expect("no panic");
        let hold = &key.holds[0];
        assert_eq!(hold.load(), mine, "the next life was touched");
        let lease = hold.lease_of(mine);
        assert_eq!(lease, Lease::Until(LATE), "the next life was touched");
        assert!(key.give_back(0, mine), "the next life was touched");
    });
}

/// H2 to H4, L1, L2: nothing that is done by a handle that remembers a slot, while its key is
/// removed by force and the slot is given to another, changes anything of the other key's.
#[test]
fn a_remembered_slot_does_no_harm() {
    let acts: [Act; 10] = [
        take_fast,
        acquire,
        give_back,
        give_back_and_take_again,
        publish,
        renew,
        steal,
        recover,
        clear_up,
        mark,
    ];
    acts.into_iter().for_each(reused);
}

fn refute_reuse(rule: Rule) {
    refute(
        rule,
        "the next life was touched",
        a_remembered_slot_does_no_harm,
    );
}

#[test]
fn control_life_after_word() {
    refute_reuse(Rule::LifeAfterWord);
}

#[test]
fn control_retiring_raises() {
    refute_reuse(Rule::RetiringRaises);
}

#[test]
fn control_exchange_releases() {
    refute_reuse(Rule::ExchangeReleases);
}

#[test]
fn control_generation_grows() {
    refute_reuse(Rule::GenerationGrows);
}

#[test]
fn control_give_back_exchanges() {
    refute_reuse(Rule::GiveBackExchanges);
}

#[test]
fn control_take_exact() {
    refute_reuse(Rule::TakeExact);
}

#[test]
fn control_deadline_exchanged() {
    refute_reuse(Rule::DeadlineExchanged);
}

/// H4: a process that gives back by token, and remembers the block of a semaphore that is gone,
/// does not free the permit of the next one that happens to have the same token.
#[test]
fn a_token_is_of_one_life_only() {
    explore(|| {
        let key = Key::new(1);
        let late = {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                let current = || life::is_current(&key.life, LIFE);
                let found = key.holds[0].held_as(5, current);
                found.is_some_and(|word| key.give_back(0, word))
            })
        };
        let floor = key.remove(Force::Anybody).expect("by force");
        key.begin_next_life(floor);
        let seen = key.holds[0].load();
        let mine = key.holds[0].take(seen, id(2), 5, false);
        let mine = mine.expect("nobody else");
        assert!(!late.join().expect("no panic"), "another's was freed");
        assert!(key.give_back(0, mine), "another's was freed");
    });
}

#[test]
fn control_token_life_checked() {
    refute(
        Rule::TokenLifeChecked,
        "another's was freed",
        a_token_is_of_one_life_only,
    );
}

/// S4, H3: the tokens of a key grow although it was taken away, while an acquirer takes it, and
/// made again in another slot.
#[test]
fn tokens_grow_over_a_removal() {
    explore_with(Some(3), || {
        let (key, other) = (Key::new(1), Key::new(1));
        let user = {
            let key = Arc::clone(&key);
            thread::spawn(move || {
                let mut last = 0;
                for _ in 0..2 {
                    if let Some((number, mine)) = Somebody::new(&key, 2).try_acquire() {
                        last = mine.sequence();
                        key.give_back(number, mine);
                    }
                }
                last
            })
        };
        let floor = key.remove(Force::Anybody).expect("by force");
        other.begin_next_life(floor);
        let next = try_take(&other.holds[0], 2).expect("free");
        let last = user.join().expect("no panic");
        assert!(next.sequence() > last, "a token came again");
    });
}

#[test]
fn control_floor_heeded() {
    refute(
        Rule::FloorHeeded,
        "a token came again",
        tokens_grow_over_a_removal,
    );
}

/// I6, C2: a value that was read by a handle that remembers its slot, and found to be of the same
/// life afterwards, is of that life, whole, although the slot is being filled for another key.
#[test]
fn a_value_is_of_the_life_that_it_was_read_in() {
    explore_with(Some(3), || {
        struct Slot {
            meta: AtomicU64,
            selector: AtomicU64,
            cells: [Cell; 2],
        }
        impl Slot {
            fn cells(&self) -> Cells<'_> {
                Cells {
                    selector: &self.selector,
                    cells: &self.cells,
                }
            }
        }
        let slot = Arc::new(Slot {
            meta: AtomicU64::new(LIFE),
            selector: AtomicU64::new(0),
            cells: [Cell::new(), Cell::new()],
        });
        let reader = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                let read = slot.cells().try_read();
                read.filter(|_| life::is_current(&slot.meta, LIFE))
            })
        };
        life::end(&slot.meta);
        life::before_filling();
        slot.cells().reset(&[7; PAYLOAD_WORDS], 1);
        slot.meta.store(LIFE + 1, Ordering::Release);
        if let Some((payload, _)) = reader.join().expect("no panic") {
            assert_eq!(payload, [0; PAYLOAD_WORDS], "a value of another life");
        }
    });
}

#[test]
fn control_fill_fenced() {
    refute(
        Rule::FillFenced,
        "a value of another life",
        a_value_is_of_the_life_that_it_was_read_in,
    );
}
