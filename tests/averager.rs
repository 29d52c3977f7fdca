//! What an `Averager` means, point by point, within one process.

#![allow(missing_docs)]

mod kit;

use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use std::time::Duration;

use kit::{LONG, SHORT, bounded, store, until};
use slablock::{Averager, Error, KeyState, Kind};

#[test]
fn the_average_of_nothing_is_none_and_asking_makes_no_key() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a");
        assert_eq!(average.get().unwrap(), None);
        assert_eq!(average.pop().unwrap(), None);
        assert_eq!(average.summary().unwrap(), None);
        assert_eq!(cache.len().unwrap(), 0);
    });
}

#[test]
fn it_is_total_by_count_until_it_is_popped() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a");
        for value in [4.0, -1.0, 0.0, 9.0] {
            average.add(value).unwrap();
        }
        assert_eq!(average.get().unwrap(), Some(3.0));
        let other = Averager::new(&cache, "a");
        let summary = other.summary().unwrap().unwrap();
        assert_eq!((summary.count, summary.total, summary.mean), (4, 12.0, 3.0));
        assert_eq!((summary.min, summary.max), (-1.0, 9.0));
        assert_eq!(other.pop().unwrap(), Some(3.0));
        assert_eq!(average.pop().unwrap(), None);
        assert_eq!(average.get().unwrap(), None);
        assert_eq!(average.summary().unwrap(), None);
        average.add(7.0).unwrap();
        let summary = average.summary().unwrap().unwrap();
        assert_eq!((summary.count, summary.min, summary.max), (1, 7.0, 7.0));
    });
}

#[test]
fn numbers_that_are_not_finite_are_refused_and_change_nothing() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a");
        let odd = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        for value in odd {
            assert!(matches!(average.add(value), Err(Error::Invalid { .. })));
        }
        assert_eq!(cache.len().unwrap(), 0);
        average.add(2.0).unwrap();
        let before = average.summary().unwrap();
        for value in odd {
            assert!(matches!(average.add(value), Err(Error::Invalid { .. })));
        }
        assert_eq!(average.summary().unwrap(), before);
    });
}

#[test]
fn a_total_that_would_not_be_finite_is_refused_and_changes_nothing() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a");
        average.add(f64::MAX).unwrap();
        let before = average.summary().unwrap();
        assert!(matches!(average.add(f64::MAX), Err(Error::Invalid { .. })));
        assert_eq!(average.summary().unwrap(), before);
        average.add(f64::MIN).unwrap();
        assert_eq!(average.get().unwrap(), Some(0.0));
    });
}

#[test]
fn the_edges_of_floating_point_are_kept() {
    bounded(|| {
        let (_place, cache) = store();
        for (name, value) in [
            ("tiny", f64::MIN_POSITIVE / 2.0),
            ("zero", -0.0),
            ("most", f64::MAX),
        ] {
            let average = Averager::new(&cache, name);
            average.add(value).unwrap();
            assert_eq!(average.get().unwrap(), Some(value));
        }
    });
}

#[test]
fn sums_are_compensated() {
    bounded(|| {
        let (_place, cache) = store();
        let tenths = Averager::new(&cache, "tenths");
        for _ in 0..20_000 {
            tenths.add(0.1).unwrap();
        }
        let mean = tenths.get().unwrap().unwrap();
        // A plain sum of 20,000 tenths is off by a thousand times this.
        assert!((mean - 0.1).abs() <= 0.1 * f64::EPSILON, "{mean}");
        let wide = Averager::new(&cache, "wide");
        for value in [1e100, 1.0, -1e100, 1.0] {
            wide.add(value).unwrap();
        }
        assert_eq!(wide.get().unwrap(), Some(0.5));
        assert_eq!(wide.summary().unwrap().unwrap().total, 2.0);
    });
}

#[test]
fn no_value_is_lost_among_threads() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let adders = [(); 3].map(|()| {
                scope.spawn(|| {
                    for value in 0..2_000 {
                        average.add(f64::from(value)).unwrap();
                    }
                })
            });
            // Whoever looks meanwhile sees a state between two adds, never half of one.
            scope.spawn(|| {
                let mut last = 0;
                while !over.load(SeqCst) {
                    let Some(seen) = average.summary().unwrap() else {
                        continue;
                    };
                    assert!(seen.count >= last && seen.mean <= seen.max);
                    assert_eq!(seen.mean, seen.total / seen.count as f64);
                    last = seen.count;
                }
            });
            adders.into_iter().for_each(|a| a.join().unwrap());
            over.store(true, SeqCst);
        });
        let summary = average.summary().unwrap().unwrap();
        assert_eq!((summary.count, summary.total), (6_000, 5_997_000.0));
        assert_eq!((summary.min, summary.max), (0.0, 1_999.0));
    });
}

#[test]
fn every_value_is_in_exactly_one_pop() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a");
        let start = Barrier::new(3);
        let popped = AtomicUsize::new(0);
        let round = || {
            start.wait();
            popped.fetch_add(usize::from(average.pop().unwrap().is_some()), SeqCst);
            start.wait();
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..300).for_each(|_| round()));
            }
            for number in 0..300 {
                average.add(1.0).unwrap();
                start.wait();
                start.wait();
                assert_eq!(popped.load(SeqCst), number + 1);
            }
        });
    });
}

#[test]
fn a_pop_among_adds_never_tears_a_value() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a");
        const ADDS: u32 = 3_000;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let adder = scope.spawn(|| {
                for _ in 0..ADDS {
                    average.add(1.0).unwrap();
                }
            });
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let mean = average.pop().unwrap();
                    assert!(mean.is_none_or(|m| m == 1.0), "{mean:?}");
                }
            });
            adder.join().unwrap();
            over.store(true, SeqCst);
        });
        average.pop().unwrap();
        assert_eq!(average.get().unwrap(), None);
    });
}

#[test]
fn an_average_is_forgotten_when_its_time_is_over() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a").expire(SHORT);
        average.add(5.0).unwrap();
        until("its time is over", || average.get().unwrap().is_none());
        assert_eq!(average.summary().unwrap(), None);
        assert_eq!(average.pop().unwrap(), None);
        average.add(1.0).unwrap();
        assert_eq!(
            Averager::new(&cache, "a")
                .summary()
                .unwrap()
                .map_or(0, |s| s.count),
            1
        );
    });
}

#[test]
fn each_add_starts_the_time_anew() {
    bounded(|| {
        let (_place, cache) = store();
        Averager::new(&cache, "a").expire(SHORT).add(1.0).unwrap();
        let long = Averager::new(&cache, "a").expire(LONG);
        long.add(3.0).unwrap();
        let count = long.summary().unwrap().unwrap().count;
        thread::sleep(2 * SHORT);
        assert_eq!(long.summary().unwrap().unwrap().count, count);
        Averager::new(&cache, "a").expire(SHORT).add(3.0).unwrap();
        until("its time is over", || long.get().unwrap().is_none());
    });
}

#[test]
fn a_lease_of_zero_is_refused() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a").expire(Duration::ZERO);
        assert!(matches!(average.add(1.0), Err(Error::Invalid { .. })));
        assert!(matches!(average.get(), Err(Error::Invalid { .. })));
        assert_eq!(cache.len().unwrap(), 0);
        let forever = Averager::new(&cache, "a").expire(Duration::MAX);
        forever.add(1.0).unwrap();
        assert_eq!(forever.get().unwrap(), Some(1.0));
    });
}

#[test]
fn a_removed_average_starts_from_nothing() {
    bounded(|| {
        let (_place, cache) = store();
        let average = Averager::new(&cache, "a").tag("t");
        average.add(100.0).unwrap();
        assert!(cache.remove("a").unwrap());
        assert_eq!(average.get().unwrap(), None);
        average.add(1.0).unwrap();
        assert_eq!(average.get().unwrap(), Some(1.0));
        assert_eq!(cache.remove_tagged("t").unwrap(), 1);
        assert_eq!(average.summary().unwrap(), None);
    });
}

#[test]
fn a_slot_that_was_a_lock_is_a_clean_average_and_back() {
    bounded(|| {
        let (_place, cache) = kit::store_of(1);
        for round in 0..5 {
            let key = format!("{round:x<90}");
            drop(
                slablock::Lock::new(&cache, &key)
                    .lease(SHORT)
                    .acquire()
                    .unwrap(),
            );
            assert!(cache.remove(&key).unwrap());
            let average = Averager::new(&cache, "a");
            assert_eq!(average.get().unwrap(), None);
            average.add(2.0).unwrap();
            assert_eq!(average.pop().unwrap(), Some(2.0));
            assert!(cache.remove("a").unwrap());
        }
        assert!(cache.check().unwrap().is_sound());
    });
}

#[test]
fn averages_outlive_the_last_handle() {
    bounded(|| {
        let (place, cache) = store();
        Averager::new(&cache, "a").add(2.5).unwrap();
        drop(cache);
        let cache = place.open();
        assert_eq!(Averager::new(&cache, "a").get().unwrap(), Some(2.5));
        let info = cache.key_info("a").unwrap().unwrap();
        assert_eq!(info.kind, Kind::Averager);
        match info.state {
            KeyState::Averager { summary } => assert_eq!(summary.unwrap().count, 1),
            other => panic!("{other:?}"),
        }
        fn everywhere<T: Clone + Send + Sync + 'static>() {}
        everywhere::<Averager>();
    });
}
