//! Counters, sums, and how long things may take.

use super::*;

#[test]
fn an_update_that_went_missing_is_caught() {
    let counted = |second| {
        let mut story = Story::new();
        story
            .take(10, 1, "lock", 1)
            .give_counted(20, 1, "lock", 1, 1);
        story
            .take(30, 2, "lock", 2)
            .give_counted(40, 2, "lock", 2, second);
        story.left("lock", second, 0.0);
        story
    };
    counted(2).is_clean();
    counted(1).is_caught("the counter was set to 1");
    let mut story = counted(2);
    story
        .left("lock", 3, 0.0)
        .is_caught("the counter is 3 at the end");
}

#[test]
fn a_killed_holder_may_have_counted_or_not() {
    for (count, is_right) in [(1, false), (2, true), (3, true), (4, false)] {
        let mut story = Story::new();
        story
            .take(10, 1, "lock", 1)
            .give_counted(12, 1, "lock", 1, 1);
        story.take(15, 2, "lock", 2).killed(20, 2);
        story
            .take_told(30, 3, "lock", 3, 0, Some(2))
            .give_counted(40, 3, "lock", 3, count);
        story.left("lock", count, 0.0);
        match is_right {
            true => story.is_clean(),
            false => drop(story.is_caught("the counter was set to")),
        }
    }
}

#[test]
fn a_sum_that_is_off_is_caught() {
    let left = |count, total| {
        let mut story = Story::new();
        story.add(10, 1, 2_001, 3).added(11, 1, 2_001, 3);
        // Killed in the middle: from none to all five of them.
        story.add(12, 2, 5_001, 5).killed(13, 2);
        story.left("average", count, total);
        story
    };
    left(3, 6_003.0).is_clean();
    left(5, 16_005.0).is_clean();
    left(8, 31_008.0).is_clean();
    left(2, 4_002.0).is_caught("it has 2 values");
    left(9, 36_009.0).is_caught("it has 9 values");
    left(4, 13_004.0).is_caught("the total is");
    left(3, 6_004.0).is_caught("is not of 3 values");
    left(3, 6_003.5).is_caught("the total is");
}

#[test]
fn a_wait_over_its_bound_is_caught() {
    let after = |take| {
        let mut story = Story::new();
        story
            .take(10, 1, "lock", 1)
            .want(20, 2, "lock")
            .give(30, 1, "lock", 1);
        story.take(take, 2, "lock", 2).give(take + 1, 2, "lock", 2);
        story
    };
    after(1_020).is_clean();
    after(1_040).is_caught("somebody waited 1010 ms for what nobody held");
}

#[test]
fn a_dead_holder_that_is_not_taken_over_is_caught() {
    let mut story = Story::new();
    story
        .take(10, 1, "lock", 1)
        .want(20, 2, "lock")
        .killed(30, 1);
    story.killed(1_500, 2);
    story.is_caught("for what nobody held");
    let (facts, _) = story.verdict();
    assert_eq!(facts.takeovers, 0);
}

#[test]
fn a_wait_in_vain_that_lasts_too_long_is_caught() {
    let mut story = Story::new();
    let (key, asked) = (story.key("lock"), 10 * MS);
    let patience = 500 * MS;
    story.line(
        1_400,
        1,
        Event::Passed {
            key,
            asked,
            patience,
        },
    );
    story.is_clean();
    story.line(
        1_600,
        1,
        Event::Passed {
            key,
            asked,
            patience,
        },
    );
    story.is_caught("waiting in vain took 1590 ms");
}

#[test]
fn structure_is_said_to_be_busy_neither_at_once_nor_late() {
    let told = |from, at, patience: u64| {
        let mut story = Story::new();
        let key = story.key("lock");
        let (asked, patience) = (10 * MS, patience * MS);
        let busy = Event::Busy {
            key,
            asked,
            patience,
        };
        story.want(from, 1, "lock").line(at, 1, busy);
        story
    };
    told(10, 59, 0).is_caught("the structure was said to be busy after 49 ms");
    told(10, 60, 0).is_clean();
    told(300, 1_060, 0).is_clean();
    told(300, 1_061, 0).is_caught("finding the structure busy took 1051 ms");
    told(300, 1_061, 60).is_clean();
    // It is no wait any more.
    told(10, 60, 0).killed(3_000, 1).is_clean();
}

#[test]
fn nobody_is_blamed_for_time_in_which_somebody_is_stopped() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 1).want(20, 2, "lock");
    story.fate(25, 1, |pid| Event::Stop { pid });
    story.give(30, 1, "lock", 1);
    story.fate(3_000, 1, |pid| Event::Cont { pid });
    story.take(3_500, 2, "lock", 2).give(3_600, 2, "lock", 2);
    story.is_clean();
}

#[test]
fn nobody_is_blamed_while_the_machine_stands_still() {
    let mut story = Story::new();
    story
        .take(10, 1, "lock", 1)
        .want(20, 2, "lock")
        .give(30, 1, "lock", 1);
    story.take(3_500, 2, "lock", 2).give(3_600, 2, "lock", 2);
    story.is_caught("for what nobody held");
    let from = 31 * MS;
    story.line(3_000, 0, Event::Stall { from });
    story.is_clean();
}

#[test]
fn takeovers_are_measured_from_the_kill() {
    let mut story = Story::new();
    let key = story.key("lock");
    story
        .take(10, 1, "lock", 1)
        .want(15, 2, "lock")
        .killed(20, 1);
    story.line(
        27,
        2,
        Event::Take {
            key,
            token: 2,
            asked: 15 * MS,
            permit: 0,
            died: 102,
            overran: 0,
        },
    );
    story.give(28, 2, "lock", 2);
    story.is_clean();
    let (facts, _) = story.verdict();
    assert_eq!((facts.takeovers, facts.worst_takeover_ns), (1, 7 * MS));
    assert_eq!((facts.holds, facts.recoveries), (2, 1));
}
