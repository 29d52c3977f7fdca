//! Leases: publishing, renewing, stealing. L1 to L3.

use loom::thread;

use super::*;

const EARLY: u64 = 6_400;
const LATE: u64 = 640_000;

/// Takes the hold as a process with a lease does.
fn take_with_lease(hold: &Hold, me: u16, until: u64) -> Option<Word> {
    let deadline = hold.deadline_bits();
    let mine = try_take(hold, me)?;
    hold.set_lease(mine, deadline, Lease::Until(until));
    Some(mine)
}

/// Steals whatever is there, if its lease is over at `now`.
fn steal(hold: &Hold, me: u16, now: u64) -> Option<(Word, Word)> {
    let seen = hold.load();
    let judgement = Judgement::of(hold, seen, || now, |_| false);
    if judgement != Judgement::Expired || !hold.mark_over(seen, || now) {
        return None;
    }
    let sequence = next_sequence(seen)?;
    let mine = hold.take(seen, id(me), sequence, false).ok()?;
    Some((seen, mine))
}

/// L3: a renewal and a theft never both succeed, and one of them does.
#[test]
fn renewal_and_theft_exclude_each_other() {
    explore_with(Some(2), || {
        let hold = Arc::new(Hold::new());
        let mine = take_with_lease(&hold, 1, EARLY).expect("free");
        let thieves: Vec<_> = [2, 3]
            .into_iter()
            .map(|me| {
                let hold = Arc::clone(&hold);
                thread::spawn(move || steal(&hold, me, EARLY))
            })
            .collect();
        let renewed = hold.renew(mine, Lease::Until(LATE));
        let stolen: Vec<_> = thieves
            .into_iter()
            .filter_map(|t| t.join().expect("no panic"))
            .collect();
        assert!(stolen.len() <= 1, "stolen twice");
        assert!(!(renewed && !stolen.is_empty()), "renewed and stolen");
        assert!(renewed || !stolen.is_empty(), "neither renewed nor stolen");
    });
}

#[test]
fn control_thief_marks() {
    refute(
        Rule::ThiefMarks,
        "renewed and stolen",
        renewal_and_theft_exclude_each_other,
    );
}

#[test]
fn control_renewal_heeds_mark() {
    refute(
        Rule::RenewalHeedsMark,
        "renewed and stolen",
        renewal_and_theft_exclude_each_other,
    );
}

/// L1: a holder that has not published its lease yet is not robbed by its predecessor's.
#[test]
fn an_unpublished_lease_is_not_over() {
    explore(|| {
        let hold = Arc::new(Hold::new());
        let first = take_with_lease(&hold, 1, EARLY).expect("free");
        assert_eq!(hold.give_back(first), Returned::Free);
        let thief = {
            let hold = Arc::clone(&hold);
            thread::spawn(move || steal(&hold, 2, EARLY))
        };
        let second = take_with_lease(&hold, 3, LATE).expect("nobody else takes what is free");
        let stolen = thief.join().expect("no panic");
        assert_eq!(stolen, None, "robbed by another's lease");
        assert!(hold.load().same_hold(second));
        assert_eq!(hold.lease_of(second), Lease::Until(LATE), "no lease");
    });
}

#[test]
fn control_deadline_tagged() {
    refute(
        Rule::DeadlineTagged,
        "robbed by another's lease",
        an_unpublished_lease_is_not_over,
    );
}

/// L2: a holder that publishes so late that the hold was lost by force meanwhile leaves the
/// successor's lease as it is, and the successor finds its lease published whatever comes late.
#[test]
fn a_late_publication_leaves_the_successors_lease() {
    explore(|| {
        let hold = Arc::new(Hold::new());
        let before = hold.deadline_bits();
        let first = try_take(&hold, 1).expect("free");
        let late = {
            let hold = Arc::clone(&hold);
            thread::spawn(move || hold.set_lease(first, before, Lease::Until(EARLY)))
        };
        // By force, as in a recovery that a removal of the beacon made possible.
        let deadline = hold.deadline_bits();
        let second = hold.take(first, id(2), 2, false).expect("nobody else");
        hold.set_lease(second, deadline, Lease::Until(LATE));
        assert_eq!(hold.lease_of(second), Lease::Until(LATE), "not published");
        late.join().expect("no panic");
        assert_eq!(hold.lease_of(second), Lease::Until(LATE), "overwritten");
    });
}

#[test]
fn control_deadline_exchanged() {
    refute(
        Rule::DeadlineExchanged,
        "overwritten",
        a_late_publication_leaves_the_successors_lease,
    );
}

#[test]
fn control_deadline_looks_again() {
    refute(
        Rule::DeadlineLooksAgain,
        "overwritten",
        a_late_publication_leaves_the_successors_lease,
    );
}

/// A renewal of a hold that a thief has taken changes nothing of the thief's.
#[test]
fn a_stale_renewal_leaves_the_successors_lease() {
    explore_with(Some(3), || {
        let hold = Arc::new(Hold::new());
        let first = take_with_lease(&hold, 1, EARLY).expect("free");
        let stale = {
            let hold = Arc::clone(&hold);
            thread::spawn(move || hold.renew(first, Lease::Until(LATE / 2)))
        };
        let stolen = steal(&hold, 2, EARLY);
        if let Some((_, mine)) = stolen {
            hold.set_lease(mine, hold.deadline_bits(), Lease::Until(LATE));
        }
        let renewed = stale.join().expect("no panic");
        match stolen {
            Some((_, mine)) => {
                assert!(!renewed);
                assert_eq!(hold.lease_of(mine), Lease::Until(LATE), "overwritten");
            }
            None => assert_eq!(hold.lease_of(first), Lease::Until(LATE / 2)),
        }
    });
}
