//! What a program asks of a store that is there already is in force, or an error that names both; and what the
//! system refuses to a process is named when it opens a store.

use std::path::Path;

use slablock::{Cache, Durability, Error, Eviction, FanoutCache, Options};

use crate::common::{Place, bounded};

const MIB: u64 = 1 << 20;

/// Asks for one setting, and what it is called with its two values.
type Asked = (Options, &'static str, &'static str, &'static str);

/// What differs from a store that was made with nothing said.
fn differing() -> [Asked; 4] {
    let of = Cache::options;
    let durable = of().durability(Durability::PowerLoss);
    [
        (durable, "durability", "process-crash", "power-loss"),
        (
            of().size_limit(8 * MIB),
            "size_limit",
            "1073741824",
            "8388608",
        ),
        (
            of().eviction(Eviction::None),
            "eviction",
            "least-recently-stored",
            "none",
        ),
        (of().mode(0o640), "mode", "0600", "0640"),
    ]
}

/// The message, if it is a mismatch of settings.
fn mismatch<T>(asked: slablock::Result<T>) -> String {
    match asked.map(drop) {
        Err(error @ Error::ConfigMismatch { .. }) => error.to_string(),
        other => panic!("{other:?} is no mismatch"),
    }
}

fn assert_named(message: &str, of: &Path, (_, what, found, expected): &Asked) {
    for word in [*what, *found, *expected, &of.display().to_string()] {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn settings_that_a_store_has_not_are_refused_by_both_names() {
    bounded(|| {
        let place = Place::new();
        let is_open = place.open();
        for asked in differing() {
            // Beside an opening in this process, and to a store that nobody has open.
            assert_named(
                &mismatch(asked.0.open(place.store())),
                &place.store(),
                &asked,
            );
        }
        drop(is_open);
        for asked in differing() {
            assert_named(
                &mismatch(asked.0.open(place.store())),
                &place.store(),
                &asked,
            );
        }
        Cache::open(place.store()).unwrap();
    });
}

#[test]
fn settings_that_a_store_has_may_be_asked_for_again_or_left_open() {
    bounded(|| {
        let place = Place::new();
        let asked = Cache::options()
            .capacity(500)
            .mode(0o640)
            .size_limit(16 * MIB)
            .eviction(Eviction::LeastRecentlyUsed)
            .durability(Durability::PowerLoss);
        let first = asked.open(place.store()).unwrap();
        let config = first.config().unwrap();
        assert_eq!(
            (config.capacity, config.shards, config.mode),
            (500, 1, 0o640)
        );
        assert_eq!(config.size_limit, 16 * MIB);
        assert_eq!(config.eviction, Eviction::LeastRecentlyUsed);
        assert_eq!(config.durability, Durability::PowerLoss);
        assert_eq!(asked.open(place.store()).unwrap().config().unwrap(), config);
        drop(first);
        for again in [&asked, &Cache::options()] {
            assert_eq!(again.open(place.store()).unwrap().config().unwrap(), config);
        }
        // The weaker of two is as much another one: it is cheaper, and fails less.
        let weaker = Cache::options().durability(Durability::ProcessCrash);
        mismatch(weaker.open(place.store()));
    });
}

#[test]
fn what_is_configured_is_what_may_be_asked_for_from_then_on() {
    bounded(|| {
        let place = Place::new();
        let durable = Cache::options().durability(Durability::PowerLoss);
        let cache = place.open();
        mismatch(durable.open(place.store()));
        cache.configure(&durable).unwrap();
        durable.open(place.store()).unwrap();
        drop(cache);
        durable.open(place.store()).unwrap();
        let before = Cache::options().durability(Durability::ProcessCrash);
        mismatch(before.open(place.store()));
    });
}

#[test]
fn a_cache_of_shards_is_asked_for_as_a_whole() {
    bounded(|| {
        let place = Place::new();
        let open = |options: &Options| options.open_fanout(place.store(), None);
        let asked = Cache::options().capacity(403).size_limit(40 * MIB + 3);
        let cache = asked.open_fanout(place.store(), Some(4)).unwrap();
        let config = cache.config().unwrap();
        assert_eq!(
            (config.capacity, config.shards, config.mode),
            (404, 4, 0o600)
        );
        assert_eq!(config.size_limit, 40 * MIB);
        open(&asked).unwrap();
        drop(cache);
        open(&asked).unwrap();
        assert_eq!(open(&Cache::options()).unwrap().config().unwrap(), config);
        let of = Cache::options;
        let others = [
            (
                of().size_limit(64 * MIB),
                "size_limit",
                "41943040",
                "67108864",
            ),
            (of().capacity(800), "capacity", "404", "800"),
            (
                of().durability(Durability::PowerLoss),
                "durability",
                "process-crash",
                "power-loss",
            ),
        ];
        for other in others {
            assert_named(&mismatch(open(&other.0)), &place.store(), &other);
        }
        // What the shards cannot share is not raised for them.
        let small = open(&of().size_limit(8 * MIB));
        assert!(matches!(small, Err(Error::Invalid { .. })), "{small:?}");
    });
}

/// Whoever has made the first shards may have died before the others, which another one makes then.
#[test]
fn shards_that_another_opener_makes_are_like_the_first() {
    bounded(|| {
        let place = Place::new();
        let asked = Cache::options()
            .capacity(400)
            .size_limit(64 * MIB)
            .eviction(Eviction::None)
            .durability(Durability::PowerLoss);
        drop(asked.open_fanout(place.store(), Some(4)).unwrap());
        for number in ["002", "003"] {
            std::fs::remove_dir_all(place.store().join(number)).unwrap();
        }
        let config = {
            let other = FanoutCache::open(place.store(), 4).unwrap();
            other.config().unwrap()
        };
        assert_eq!((config.capacity, config.size_limit), (400, 64 * MIB));
        assert_eq!(config.durability, Durability::PowerLoss);
        asked.open_fanout(place.store(), Some(4)).unwrap();
    });
}

#[test]
#[cfg(feature = "cli")]
fn stats_show_the_settings_in_force() {
    bounded(|| {
        let place = Place::new();
        let asked = Cache::options().size_limit(64 * MIB);
        let asked = asked.durability(Durability::PowerLoss).mode(0o640);
        drop(asked.open(place.store()).unwrap());
        let stats = |how: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_slablock"));
            command.arg("-d").arg(place.store()).arg("stats").args(how);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        for (name, value) in [
            ("size limit", "67,108,864"),
            ("durability", "power-loss"),
            ("eviction", "least-recently-stored"),
            ("mode", "0640"),
        ] {
            let table = stats(&[]);
            let mut lines = table.lines();
            let line = lines
                .find(|line| line.starts_with(&format!("{name} ")))
                .unwrap();
            assert!(line.ends_with(value), "{line}");
        }
        let json: serde_json::Value = serde_json::from_str(&stats(&["--json"])).unwrap();
        assert_eq!(json["settings"]["durability"], "power-loss");
        assert_eq!(json["settings"]["size_limit"], 64 * MIB);
    });
}
