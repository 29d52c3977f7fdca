//! Which store is used, and what typing mistakes get.

use std::path::Path;

use slablock::{Cache, FanoutCache, Lock};

use crate::shop::{Outcome, Shop};

#[test]
fn dir_goes_before_the_environment_and_is_passed_on_whole() {
    let shop = Shop::new();
    let mut command = shop.command(&[
        "-d",
        "other",
        "run",
        "k",
        "--",
        "sh",
        "-c",
        "echo $SLABLOCK_DIR",
    ]);
    let outcome = Outcome::of(command.current_dir(shop.dir.root()));
    assert_eq!(Path::new(outcome.out.trim()), shop.dir.root().join("other"));
    assert!(!shop.store().exists());
}

#[test]
fn a_store_with_shards_is_used_as_it_is() {
    let shop = Shop::new();
    let cache = FanoutCache::open(shop.store(), 4).unwrap();
    for key in ["a", "b", "c", "d", "e", "f"] {
        // Wherever the key is, the program and the command line must look in the same shard.
        let lock = Lock::new(&cache, key);
        let guard = lock.acquire().unwrap();
        assert!(!shop.is_free(key));
        guard.release().unwrap();
        assert!(shop.is_free(key));
    }
    assert_eq!(shop.json(&[])["keys"].as_array().unwrap().len(), 6);
    assert_eq!(shop.run(&["check"]).code, 0);
}

#[test]
fn programs_and_the_command_line_exclude_each_other() {
    let shop = Shop::new();
    let cache = Cache::open(shop.store()).unwrap();
    let lock = Lock::new(&cache, "k");
    let guard = lock.acquire().unwrap();
    assert!(!shop.is_free("k"));
    guard.release().unwrap();
    let running = shop.hold("k", &[]);
    assert!(lock.try_acquire().unwrap().is_none());
    assert_eq!(running.finish(), 0);
    assert!(lock.try_acquire().unwrap().is_some());
}

#[test]
fn what_was_typed_wrongly_is_said_in_one_line() {
    let shop = Shop::new();
    shop.run(&["run", "k"])
        .complains(2, &["COMMAND", "usage: slablock run"]);
    shop.run(&["run", "k", "-w", "soon", "--", "true"])
        .complains(2, &["soon", "2.5"]);
    shop.run(&["run", "k", "--expire", "0", "--", "true"])
        .complains(2, &["more than zero"]);
    shop.run(&["run", "k", "--permits", "0", "--", "true"])
        .complains(2, &["permits"]);
    shop.run(&["frobnicate"])
        .complains(2, &["frobnicate", "--help"]);
    let help = shop.run(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.out.contains("Examples:") && !help.out.contains("demo-worker"));
}
