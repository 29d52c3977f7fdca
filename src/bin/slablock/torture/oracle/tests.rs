//! The judge is judged: journals with each kind of violation, and ones that only look like it.

use std::time::Duration;

use super::*;
use crate::torture::{
    journal::id_of_worker,
    site::{What, keys},
};

const MS: u64 = 1_000_000;
const BOUND: Duration = Duration::from_secs(1);

/// A journal that is made up, with times in milliseconds. Worker n has the process id 100 + n.
struct Story {
    lines: Vec<Line>,
    keys: Vec<KeySpec>,
    leftovers: Leftovers,
}

impl Story {
    fn new() -> Story {
        let keys = keys();
        let leftovers = Leftovers {
            counters: vec![None; keys.len()],
            sums: vec![None; keys.len()],
        };
        Story {
            lines: Vec::new(),
            keys,
            leftovers,
        }
    }

    fn key(&self, name: &str) -> u64 {
        let mut keys = self.keys.iter();
        keys.position(|key| key.name == name).unwrap() as u64
    }

    fn line(&mut self, at_ms: u64, worker: u64, event: Event) -> &mut Story {
        self.lines.push(Line {
            at: at_ms * MS,
            id: id_of_worker(worker),
            pid: 100 + worker as u32,
            event,
        });
        self
    }

    /// What the torturer does to a worker.
    fn fate(&mut self, at_ms: u64, worker: u64, fate: fn(u64) -> Event) -> &mut Story {
        self.lines.push(Line {
            at: at_ms * MS,
            id: 0,
            pid: 99,
            event: fate(100 + worker),
        });
        self
    }

    fn killed(&mut self, at_ms: u64, worker: u64) -> &mut Story {
        self.fate(at_ms, worker, |pid| Event::Kill { pid });
        self.fate(at_ms + 1, worker, |pid| Event::Dead { pid })
    }

    fn take(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        self.take_told(at_ms, worker, key, token, 0, None)
    }

    /// The worker asked a millisecond before.
    fn take_told(
        &mut self,
        at_ms: u64,
        worker: u64,
        key: &str,
        token: u64,
        permit: u64,
        dead: Option<u64>,
    ) -> &mut Story {
        let key = self.key(key);
        let event = Event::Take {
            key,
            token,
            asked: (at_ms - 1) * MS,
            permit,
            died: dead.map_or(0, |worker| 100 + worker + 1),
            overran: 0,
        };
        self.line(at_ms, worker, event)
    }

    fn give(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        self.give_counted(at_ms, worker, key, token, 0)
    }

    fn give_counted(
        &mut self,
        at_ms: u64,
        worker: u64,
        key: &str,
        token: u64,
        count: u64,
    ) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Give { key, token, count })
    }

    fn kept(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Kept { key, token })
    }

    fn lost(&mut self, at_ms: u64, worker: u64, key: &str, token: u64) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Lost { key, token })
    }

    fn want(&mut self, at_ms: u64, worker: u64, key: &str) -> &mut Story {
        let key = self.key(key);
        self.line(at_ms, worker, Event::Want { key })
    }

    fn add(&mut self, at_ms: u64, worker: u64, value: u64, times: u64) -> &mut Story {
        let key = self.key("average");
        self.line(at_ms, worker, Event::Add { key, value, times })
    }

    fn added(&mut self, at_ms: u64, worker: u64, value: u64, times: u64) -> &mut Story {
        let key = self.key("average");
        self.line(at_ms, worker, Event::Added { key, value, times })
    }

    fn left(&mut self, name: &str, count: u64, total: f64) -> &mut Story {
        let key = self.key(name) as usize;
        match self.keys[key].what {
            What::Average | What::PoppedAverage => {
                self.leftovers.sums[key] = Some((count, total));
            }
            _ => self.leftovers.counters[key] = Some(count),
        }
        self
    }

    fn verdict(&self) -> (Facts, Vec<Violation>) {
        Oracle::new(&self.keys, BOUND).judge(&self.lines, &self.leftovers)
    }

    fn is_clean(&self) {
        let (_, violations) = self.verdict();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// There are violations, and all are of this kind. Returns one with its evidence.
    fn is_caught(&self, words: &str) -> Vec<String> {
        let mut oracle = Oracle::new(&self.keys, BOUND);
        let (_, violations) = oracle.judge(&self.lines, &self.leftovers);
        assert!(!violations.is_empty(), "nothing was found");
        for violation in &violations {
            assert!(violation.what.contains(words), "{violation:?}");
        }
        oracle.evidence(&violations[0], &self.lines)
    }
}

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
    let key = story.key("leased-lock");
    let asked = 18 * MS;
    story.take(10, 1, "leased-lock", 1);
    story.line(
        19,
        1,
        Event::Renewed {
            key,
            token: 1,
            asked,
        },
    );
    story
        .take(25, 2, "leased-lock", 2)
        .give(40, 2, "leased-lock", 2);
    story.lost(41, 1, "leased-lock", 1);
    story.is_caught("holders at once");
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
