use super::*;
use crate::record::Judgement;

fn id(number: u16) -> ParticipantId {
    ParticipantId::new(number).unwrap()
}

fn take(hold: &Hold, me: u16) -> Word {
    let seen = hold.load();
    hold.take(seen, id(me), seen.sequence() + 1, false).unwrap()
}

#[test]
fn a_late_return_leaves_the_successor_alone() {
    let hold = Hold::new();
    let first = take(&hold, 1);
    let second = hold.take(first, id(2), 2, false).unwrap();
    assert_eq!(hold.give_back(first), Returned::Lost);
    assert!(hold.load() == second);
    assert_eq!(hold.give_back(second), Returned::Free);
}

#[test]
fn the_contended_bit_asks_for_a_wake_and_is_gone_after_it() {
    let hold = Hold::new();
    let mine = take(&hold, 1);
    hold.mark_contended(mine).unwrap();
    assert_eq!(hold.give_back(mine), Returned::Wake);
    assert!(!hold.load().is_contended());
}

#[test]
fn renewal_and_theft_exclude_each_other() {
    let hold = Hold::new();
    let mine = take(&hold, 1);
    hold.set_lease(mine, 0, Lease::Until(6_400));
    assert!(!hold.mark_over(mine, || 6_399));
    assert!(hold.renew(mine, Lease::Until(12_800)));
    assert!(!hold.mark_over(mine, || 12_799));
    assert!(hold.mark_over(mine, || 12_800));
    assert!(!hold.renew(mine, Lease::Until(64_000)));
}

#[test]
fn a_late_publication_does_not_touch_the_successors_lease() {
    let hold = Hold::new();
    let before = hold.deadline_bits();
    let first = take(&hold, 1);
    let second = hold.take(first, id(2), 2, false).unwrap();
    hold.set_lease(second, before, Lease::Until(500));
    hold.set_lease(first, before, Lease::Until(10));
    assert_eq!(hold.lease_of(second), Lease::Until(512));
}

#[test]
fn a_retired_word_defeats_what_was_prepared_before() {
    let hold = Hold::new();
    let seen = hold.load();
    hold.retire(seen, id(3)).unwrap();
    assert!(hold.take(seen, id(1), 1, false).is_err());
    hold.end_retirement();
    assert!(hold.take(seen, id(1), 1, false).is_err());
    assert!(hold.load().is_plainly_free());
}

#[test]
fn an_abandoned_hold_remembers_the_process() {
    let hold = Hold::new();
    let dead = take(&hold, 4);
    hold.set_stamp(dead, Stamp::precise(1234, 0));
    assert_eq!(
        Judgement::of(&hold, dead, || 0, |p| p == id(4)),
        Judgement::Dead
    );
    assert_eq!(hold.abandon(dead, 1230), Returned::Free);
    let left = hold.load();
    assert_eq!(
        Judgement::of(&hold, left, || 0, |_| unreachable!()),
        Judgement::Abandoned
    );
    assert_eq!(hold.stamp_of(left).unwrap().tid, 1230);
}
