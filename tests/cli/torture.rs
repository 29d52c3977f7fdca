//! `slablock torture`: nothing is violated, it really kills, and it tidies up.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::shop::{Outcome, Running, Shop};

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn a_short_torture_violates_nothing_and_leaves_nothing() {
    let shop = Shop::new();
    let place = shop.path("place");
    fs::create_dir(&place).unwrap();
    // Slower than by hand: other tests run at the same time, and their load is no fault of the
    // store's.
    let options = ["--processes", "4", "--seconds", "3", "--kills", "60"];
    let quick = ["torture", "--json", "--seed", "1", "--bound", "5"];
    let outcome = shop.run(&[&quick[..], &options, &["--dir", &place]].concat());
    assert_eq!(outcome.code, 0, "{}{}", outcome.out, outcome.err);
    assert_eq!(outcome.err, "");
    let summary: Value = serde_json::from_str(&outcome.out).expect(&outcome.out);
    assert_eq!(summary["violations"], 0);
    assert_eq!(summary["seed"], 1);
    assert_eq!(summary["is_sound"], true);
    for counted in ["kills", "stops", "forks", "holds", "recoveries", "rounds"] {
        let count = summary[counted].as_u64().unwrap();
        assert!(count > 0, "no {counted}: {}", outcome.out);
    }
    let dir = summary["dir"].as_str().unwrap();
    assert!(dir.starts_with(&place), "{dir}");
    assert!(is_empty(Path::new(&place)));
    assert!(!shop.store().exists(), "the user's own store was touched");
}

#[test]
fn an_interrupted_torture_leaves_nothing() {
    let shop = Shop::new();
    let mut command = shop.command(&["torture", "--processes", "3", "--seconds", "60"]);
    // A key at the terminal reaches every process of the group.
    command.env("TMPDIR", shop.dir.root()).process_group(0);
    let torture = Running::start(command);
    assert!(
        torture
            .line()
            .starts_with("slablock torture: 3 processes in ")
    );
    killpg(Pid::from_raw(torture.pid() as i32), Signal::SIGINT).unwrap();
    torture.out.iter().for_each(drop);
    assert_eq!(torture.finish(), 128 + 2);
    assert!(is_empty(shop.dir.root()));
}

#[test]
fn a_place_that_is_not_there_is_made() {
    let shop = Shop::new();
    let place = shop.path("not/there/yet");
    let options = ["--processes", "2", "--seconds", "0.3", "--bound", "60"];
    let outcome = shop.run(&[&["torture", "--dir", &place][..], &options].concat());
    assert_eq!(outcome.code, 0, "{}{}", outcome.out, outcome.err);
    assert!(outcome.out.contains(&place), "{}", outcome.out);
    assert!(is_empty(Path::new(&place)));
}

#[test]
fn a_place_that_cannot_be_and_numbers_that_make_no_sense_are_refused() {
    let shop = Shop::new();
    fs::write(shop.path("file"), "").unwrap();
    let nowhere = shop.path("file/nowhere");
    let outcome = shop.run(&["torture", "--dir", &nowhere]);
    outcome.complains(125, &["nowhere", "--dir"]);
    for typo in [
        ["--processes", "0"],
        ["--kills", "none"],
        ["--seconds", "0"],
    ] {
        let outcome = Outcome::of(shop.command(&["torture"]).args(typo));
        outcome.complains(2, &[typo[0], "--help"]);
    }
}
