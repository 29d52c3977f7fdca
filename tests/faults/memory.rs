//! Too little address space for a value: an error that says how much was wanted, never the end of
//! the process.

use std::fs;

use nix::libc;
use slablock::{Cache, Error, Result, SetOptions};

use crate::descriptors::limit;
use crate::kit::{Child, HANGS, Place, Role, say};

const LARGE: usize = 64 << 20;
/// Enough for all else.
const SPARE: u64 = 24 << 20;

fn address_space() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

/// What cannot be done says so, and how much it would have taken.
fn lacks<T: std::fmt::Debug>(what: &str, result: Result<T>) {
    let error = result.expect_err(what);
    let text = error.to_string();
    assert!(matches!(error, Error::Io { .. }), "{what}: {text}");
    assert!(text.contains(&LARGE.to_string()), "{what}: {text}");
    assert!(text.contains("ulimit -v"), "{what}: {text}");
}

pub fn run(role: &Role) {
    let cache = Cache::open(role.store()).unwrap();
    let (small, other) = (vec![b's'; 100_000], vec![b'o'; LARGE]);
    limit(libc::RLIMIT_AS, address_space() + SPARE);
    lacks("get", cache.get("large"));
    lacks("get into", cache.get_into("large", &mut Vec::new()));
    lacks("entry", cache.entry("large"));
    lacks("pop", cache.pop("large"));
    lacks("swap", cache.compare_and_swap("large", &other, "new"));
    lacks("check", cache.check());
    lacks(
        "get in a transaction",
        cache.transact_as(|t| t.get("large").map(drop)),
    );
    lacks(
        "incr in a transaction",
        cache.transact_as(|t| t.incr("large", 1)),
    );
    let failed = cache.compute_if_missing("large", &SetOptions::new(), || Ok(Vec::new()));
    lacks("compute", failed);
    // What is smaller goes on, also beside it.
    cache.set("small", &small).unwrap();
    assert_eq!(cache.get("small").unwrap().as_ref(), Some(&small));
    assert!(cache.contains("large").unwrap());
    assert!(cache.touch("large", None).unwrap());
    for _ in 0..100 {
        cache.set("small", &small).unwrap();
    }
    // A tag is found without its value.
    assert_eq!(cache.remove_tagged("tag").unwrap(), 1);
    // It cannot be moved, and is not damaged for that.
    let _ = cache.cull();
    limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
    assert_eq!(cache.stats().unwrap().damaged, 0);
    let large = cache.pop("large").unwrap().unwrap();
    assert!(large.len() == LARGE && large.iter().all(|byte| *byte == b'7'));
    assert!(cache.check().unwrap().is_sound());
    say("done");
}

#[test]
fn a_value_for_which_there_is_no_memory_is_an_error() {
    let place = Place::new();
    let cache = place.open();
    let large = vec![b'7'; LARGE];
    let tagged = SetOptions::new().tag("tag");
    cache.set("large", &large).unwrap();
    cache.set_with("tagged", &large, &tagged).unwrap();
    drop(cache);
    let child = Child::start("memory", place.root(), &[]);
    assert_eq!(child.line_within(HANGS).as_deref(), Some("done"));
    child.finish();
}
