//! `slablock demo`: it passes, and it tidies up.

use std::fs;

use nix::sys::signal::Signal;

use crate::shop::{Outcome, Running, Shop};

#[test]
fn the_demonstration_passes_and_leaves_nothing() {
    let shop = Shop::new();
    let outcome = Outcome::of(shop.command(&["demo"]).env("TMPDIR", shop.dir.root()));
    assert_eq!(outcome.code, 0, "{}{}", outcome.out, outcome.err);
    assert!(
        outcome.out.contains("all 7 checks passed"),
        "{}",
        outcome.out
    );
    assert!(
        !outcome.out.contains('\x1b'),
        "colours where no terminal is"
    );
    assert_eq!(fs::read_dir(shop.dir.root()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let shop = Shop::new();
    let mut command = shop.command(&["demo"]);
    command.env("TMPDIR", shop.dir.root());
    let demo = Running::start(command);
    while !demo.line().starts_with("2.") {}
    demo.signal(Signal::SIGTERM);
    demo.out.iter().for_each(drop);
    assert_eq!(demo.finish(), 128 + 15);
    assert_eq!(fs::read_dir(shop.dir.root()).unwrap().count(), 0);
}
