//! `slablock status`: for people and for programs.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::kit::until;
use crate::shop::{Shop, code};

#[test]
fn status_shows_who_holds_what() {
    let shop = Shop::new();
    let lock = shop.hold("job", &["--expire", "60", "--tag", "nightly"]);
    let _seat = shop.hold("seats", &["--permits", "3"]);
    shop.run(&["average", "add", "latency", "12.5"]);
    let table = shop.run(&["status"]).out;
    for word in [
        "job",
        &lock.pid().to_string(),
        "nightly",
        "1 of 3",
        "12.5",
        "LEASE LEFT",
    ] {
        assert!(table.contains(word), "no {word:?} in\n{table}");
    }
    let status = shop.json(&[]);
    assert_eq!(status["dir"], shop.path("store"));
    let [job, latency, seats] = status["keys"].as_array().unwrap().as_slice() else {
        panic!("{status}");
    };
    assert_eq!(job["kind"], "lock");
    assert_eq!(job["tag"], "nightly");
    let holder = &job["holders"][0];
    assert_eq!(holder["pid"], lock.pid());
    assert_eq!(holder["alive"], true);
    assert!(
        holder["command"]
            .as_str()
            .unwrap()
            .contains("run job --expire 60"),
        "{holder}"
    );
    assert!(holder["held_seconds"].as_f64().unwrap() < 60.0);
    // A long lease may be 50 ms longer than asked.
    assert!(holder["lease_left_seconds"].as_f64().unwrap() <= 60.05);
    assert_eq!(latency["average"]["mean"], 12.5);
    assert_eq!(latency["average"]["count"], 1);
    assert_eq!(seats["permits"]["used"], 1);
    assert_eq!(seats["permits"]["total"], 3);
    assert_eq!(shop.json(&["job"])["keys"].as_array().unwrap().len(), 1);
    shop.run(&["status", "nothing"])
        .complains(1, &["\"nothing\""]);
}

#[test]
fn status_counts_those_who_wait() {
    let shop = Shop::new();
    let _holder = shop.hold("k", &[]);
    let waiter = shop.start(&["run", "k", "--", "true"]);
    waiter.complaint();
    // It said so between its two waits; the second begins any moment.
    until("it waits", || shop.json(&["k"])["keys"][0]["waiters"] == 1);
}

/// Also one that is made only when it is watched already.
#[test]
fn status_of_a_store_that_is_not_there_yet_shows_no_keys() {
    let shop = Shop::new();
    assert!(shop.run(&["status"]).out.starts_with("no keys in "));
    let watch = shop.start(&["status", "--json", "--watch"]);
    let keys = || {
        let status: Value = serde_json::from_str(&watch.line()).unwrap();
        status["keys"].as_array().unwrap().len()
    };
    assert_eq!(keys(), 0);
    assert!(!shop.store().exists());
    assert!(shop.is_free("k"));
    while keys() == 0 {}
}

#[test]
fn status_is_shown_again_until_interrupted() {
    let shop = Shop::new();
    assert!(shop.is_free("k"));
    let watch = shop.start(&["status", "--json", "--watch"]);
    for _ in 0..2 {
        let status: Value = serde_json::from_str(&watch.line()).unwrap();
        assert_eq!(status["keys"][0]["key"], "k");
    }
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.finish(), 128 + 2);
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let shop = Shop::new();
    assert!(shop.is_free("k"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = shop.command(&["status"]);
    let output = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((code(output.status), output.stderr.len()), (0, 0));
}
