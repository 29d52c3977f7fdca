//! Which process may hold what when, under which token, and what is told of the holders before.

use super::*;

#[test]
fn one_after_the_other_is_as_it_should_be() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 1).give(20, 1, "lock", 1);
    story.take(20, 2, "lock", 2).give(30, 2, "lock", 2);
    story.is_clean();
}

#[test]
fn two_holders_at_once_are_caught() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 1).take(15, 2, "lock", 2);
    story.give(20, 1, "lock", 1).give(30, 2, "lock", 2);
    let (_, violations) = story.verdict();
    assert!(violations[0].what.contains("two holders at once"));
    let evidence = story.is_caught("holders at once");
    assert_eq!(evidence.len(), 4, "{evidence:?}");
    assert!(evidence[1].contains("take lock token=2"), "{evidence:?}");
}

#[test]
fn a_living_holder_that_is_robbed_is_caught() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 1);
    story
        .take_told(15, 2, "lock", 2, 0, Some(1))
        .give(16, 2, "lock", 2);
    story.killed(20, 1);
    let (_, violations) = story.verdict();
    let told = |words: &str| violations.iter().any(|v| v.what.contains(words));
    assert!(
        told("two holders at once") && told("which it had not"),
        "{violations:?}"
    );
}

#[test]
fn a_killed_holder_has_a_successor_from_the_kill_on() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 1).killed(20, 1);
    story
        .take_told(21, 2, "lock", 2, 0, Some(1))
        .give(25, 2, "lock", 2);
    story.is_clean();
}

#[test]
fn a_death_that_is_not_told_is_caught() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 1).killed(20, 1);
    story.take(25, 2, "lock", 2).give(30, 2, "lock", 2);
    story.is_caught("its successor was not told");
}

#[test]
fn a_death_that_is_blamed_on_another_is_caught() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 1).killed(20, 1);
    story.line(5, 3, Event::Born { parent: 0 }).killed(20, 3);
    story
        .take_told(25, 2, "lock", 2, 0, Some(3))
        .give(30, 2, "lock", 2);
    story.is_caught("is blamed");
}

#[test]
fn holds_end_where_a_process_executes_another_program_or_exits() {
    for last in [Event::Exec {}, Event::Exit {}] {
        let mut story = Story::new();
        story.take(10, 1, "lock", 1).line(20, 1, last);
        story
            .take_told(21, 2, "lock", 2, 0, Some(1))
            .give(22, 2, "lock", 2);
        story.is_clean();
    }
}

#[test]
fn a_token_that_went_back_is_caught() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 7).give(20, 1, "lock", 7);
    story.take(30, 2, "lock", 6).give(40, 2, "lock", 6);
    let (_, violations) = story.verdict();
    assert!(
        violations
            .iter()
            .any(|v| v.what.contains("token 6 came after 7"))
    );
}

#[test]
fn a_token_that_was_given_twice_is_caught() {
    let mut story = Story::new();
    story
        .take_told(10, 1, "semaphore", 7, 0, None)
        .take_told(10, 2, "semaphore", 7, 1, None);
    story.is_caught("token 7 was given twice");
}

#[test]
fn a_token_that_falls_behind_an_earlier_round_is_caught() {
    let mut story = Story::new();
    story.take(10, 1, "lock", 7).give(20, 1, "lock", 7);
    let mut oracle = Oracle::new(&story.keys, BOUND);
    assert!(oracle.judge(&story.lines, &story.leftovers).1.is_empty());
    let (_, violations) = oracle.judge(&story.lines, &story.leftovers);
    assert!(
        violations[0].what.contains("in a later round"),
        "{violations:?}"
    );
}

#[test]
fn more_holders_than_permits_are_caught_whatever_permits_they_claim() {
    let mut story = Story::new();
    for worker in 1..=3 {
        story.take_told(10 + worker, worker, "semaphore", worker, worker - 1, None);
    }
    story.is_clean();
    story.take_told(20, 4, "semaphore", 4, 0, None);
    for worker in 1..=4 {
        story.give(30, worker, "semaphore", worker);
    }
    let (_, violations) = story.verdict();
    let told = |words: &str| violations.iter().any(|v| v.what.contains(words));
    assert!(
        told("4 holders at once with a value of 3"),
        "{violations:?}"
    );

    let mut story = Story::new();
    story.take_told(10, 1, "semaphore", 1, 3, None);
    story.is_caught("there is no permit 3");
}

#[test]
fn a_late_holder_may_overlap_its_successor_and_must_be_told() {
    let late = |answer: fn(&mut Story)| {
        let mut story = Story::new();
        story.take(10, 1, "leased-lock", 1);
        story
            .take(30, 2, "leased-lock", 2)
            .give(50, 1, "leased-lock", 1);
        answer(&mut story);
        story
            .give(60, 2, "leased-lock", 2)
            .kept(61, 2, "leased-lock", 2);
        story
    };
    late(|story| {
        story.lost(51, 1, "leased-lock", 1);
    })
    .is_clean();
    late(|story| {
        story.kept(51, 1, "leased-lock", 1);
    })
    .is_caught("holders at once");
}

#[test]
fn a_lease_that_ends_early_is_caught() {
    let mut story = Story::new();
    story
        .take(10, 1, "leased-lock", 1)
        .take(15, 2, "leased-lock", 2);
    story
        .give(30, 1, "leased-lock", 1)
        .lost(31, 1, "leased-lock", 1);
    story.is_caught("holders at once");

    // It was renewed, and that counts.
    let mut story = Story::new();
    story.take(10, 1, "leased-lock", 1);
    story.renewed(19, 1, "leased-lock", 1, 18);
    story
        .take(25, 2, "leased-lock", 2)
        .give(40, 2, "leased-lock", 2);
    story.lost(41, 1, "leased-lock", 1);
    story.is_caught("holders at once");
}

#[test]
fn a_death_under_a_lease_is_told_unless_others_came_in_between() {
    let followed = |token, overran| {
        let mut story = Story::new();
        story.take(10, 1, "leased-lock", 1).killed(15, 1);
        let (key, asked) = (story.key("leased-lock"), 29 * MS);
        let (permit, died) = (0, 0);
        let take = Event::Take {
            key,
            token,
            asked,
            permit,
            died,
            overran,
        };
        story
            .line(30, 2, take)
            .give(31, 2, "leased-lock", token)
            .kept(31, 2, "leased-lock", token);
        story
    };
    // Another holder was told of the death, did not get to say so, and was late.
    followed(3, 1).is_clean();
    followed(3, 0).is_caught("was not told");
    followed(2, 1).is_caught("was not told");
}

/// Once in a million holds: a child had not begun to live when its parent had executed itself.
#[test]
fn a_process_that_executed_itself_looks_alive_while_a_child_has_its_copies() {
    let executed = |born_ms| {
        let mut story = Story::new();
        story.line(9, 1, Event::Fork {});
        story.take(10, 1, "leased-lock", 1);
        story.line(15, 1, Event::Exec {});
        story.born_of(16, 3, 1, 1).born_of(born_ms, 4, 4, 1);
        let (key, asked) = (story.key("leased-lock"), 29 * MS);
        let take = Event::Take {
            key,
            token: 2,
            asked,
            permit: 0,
            died: 0,
            overran: 1,
        };
        story
            .line(30, 2, take)
            .give(31, 2, "leased-lock", 2)
            .kept(31, 2, "leased-lock", 2);
        story
    };
    executed(40).is_clean();
    executed(20).is_caught("was not told");
}

#[test]
fn a_loss_without_a_reason_is_caught() {
    let mut story = Story::new();
    story
        .take(10, 1, "lock", 1)
        .give(20, 1, "lock", 1)
        .lost(21, 1, "lock", 1);
    story.is_caught("lost for no reason");
    let mut story = Story::new();
    story
        .take(10, 1, "leased-lock", 1)
        .lost(15, 1, "leased-lock", 1);
    story.is_caught("lost for no reason");
}

/// No other process had taken it, so it could be renewed. Once in three million holds.
#[test]
fn a_hold_that_was_found_late_and_renewed_since_is_judged_by_the_lease_it_had() {
    let late = |lost_ms, key| {
        let mut story = Story::new();
        story.take(10, 1, key, 1).lost(lost_ms, 1, key, 1);
        story.renewed(lost_ms + 2, 1, key, 1, lost_ms + 1);
        story
    };
    let mut story = late(30, "leased-lock");
    story
        .give(33, 1, "leased-lock", 1)
        .kept(34, 1, "leased-lock", 1);
    story.is_clean();
    // It was too early to be late.
    let mut story = late(15, "leased-lock");
    story
        .give(33, 1, "leased-lock", 1)
        .kept(34, 1, "leased-lock", 1);
    story.is_caught("lost for no reason");
    // Renewed in vain: lost again, too early.
    let mut story = late(30, "leased-lock");
    story
        .give(33, 1, "leased-lock", 1)
        .lost(34, 1, "leased-lock", 1);
    story.is_caught("lost for no reason");
    // Lost again, and that time by force.
    let mut story = late(30, "cut-leased-lock");
    let key = story.key("cut-leased-lock");
    story
        .line(33, 3, Event::Remove { key })
        .line(34, 3, Event::Cut {});
    story
        .take(35, 2, "cut-leased-lock", 2)
        .give(36, 2, "cut-leased-lock", 2)
        .kept(37, 2, "cut-leased-lock", 2);
    story
        .give(36, 1, "cut-leased-lock", 1)
        .lost(37, 1, "cut-leased-lock", 1);
    story.is_clean();
    // It stood again when its holder died, which its successor is to be told.
    let mut story = late(30, "leased-lock");
    story.killed(33, 1);
    story
        .take(40, 2, "leased-lock", 2)
        .give(41, 2, "leased-lock", 2)
        .kept(42, 2, "leased-lock", 2);
    story.is_caught("was not told");
}

#[test]
fn a_removal_by_force_takes_holds_away_and_no_others() {
    let with_cut = |from, to| {
        let mut story = Story::new();
        let key = story.key("cut-lock");
        story.take(10, 1, "cut-lock", 1);
        story
            .line(from, 3, Event::Remove { key })
            .line(to, 3, Event::Cut {});
        story.take(20, 2, "cut-lock", 4).give(40, 1, "cut-lock", 1);
        story.lost(41, 1, "cut-lock", 1);
        story.give(42, 2, "cut-lock", 4).kept(42, 2, "cut-lock", 4);
        story
    };
    with_cut(12, 14).is_clean();
    // It was over before, or began afterwards.
    with_cut(5, 8).is_caught("cut-lock");
    with_cut(30, 31).is_caught("holders at once");
}

#[test]
fn what_is_removed_before_it_is_told_of_may_have_a_successor_already() {
    let mut story = Story::new();
    let key = story.key("cut-lock");
    story
        .line(10, 3, Event::Remove { key })
        .line(11, 3, Event::Cut {});
    story
        .take(12, 2, "cut-lock", 4)
        .give(13, 2, "cut-lock", 4)
        .kept(13, 2, "cut-lock", 4);
    let (token, asked, permit) = (1, 9 * MS, 0);
    let (died, overran) = (0, 0);
    let take = Event::Take {
        key,
        token,
        asked,
        permit,
        died,
        overran,
    };
    story.line(14, 1, take).lost(15, 1, "cut-lock", 1);
    story.is_clean();
}

#[test]
fn an_eviction_concerns_the_keys_with_the_tag() {
    let with_tag = |tag| {
        let mut story = Story::new();
        story.take(10, 1, "cut-lock", 1);
        story
            .line(12, 3, Event::Evict { tag })
            .line(13, 3, Event::Cut {});
        story.give(20, 1, "cut-lock", 1).lost(21, 1, "cut-lock", 1);
        story
    };
    with_tag(0).is_clean();
    with_tag(1).is_caught("lost for no reason");
}

#[test]
fn being_told_of_a_lease_where_there_is_none_is_caught() {
    let mut story = Story::new();
    let key = story.key("lock");
    story.line(
        10,
        1,
        Event::Take {
            key,
            token: 1,
            asked: 9 * MS,
            permit: 0,
            died: 0,
            overran: 1,
        },
    );
    story.is_caught("and it has none");
}
