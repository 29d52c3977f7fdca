//! A `run` within a `run`, of keys that are held around it.

use super::*;

#[test]
fn waiting_for_an_ancestor_is_told_at_once() {
    let shop = Shop::new();
    let nested = |words: &[&str]| shop.run(&[&["run", "k", "--", SLABLOCK, "run"], words].concat());
    let told = nested(&["k", "--", "true"]);
    told.complains(
        125,
        &[
            "\"k\"",
            "would never end",
            "waits for this command",
            "--timeout",
        ],
    );
    // With others between: another key, and a shell that has to come back to its work.
    nested(&[
        "l",
        "--",
        "sh",
        "-c",
        &format!("{SLABLOCK} run k -- true; exit $?"),
    ])
    .complains(125, &["\"k\"", "would never end"]);
    // With a limit of its own.
    nested(&["-n", "k", "--", "true"]).complains(75, &["is held"]);
    assert_eq!(nested(&["-q", "-w", "0.01", "k", "--", "true"]).code, 75);
    // Another key, or the same one of another store.
    assert_eq!(nested(&["l", "--", "true"]).code, 0);
    let other = shop.path("other");
    assert_eq!(nested(&["--dir", &other, "k", "--", "true"]).code, 0);
    shop.run(&[
        "memo", "--key", "m", "--", SLABLOCK, "memo", "--key", "m", "--", "true",
    ])
    .complains(125, &["\"m\"", "would never end"]);
}

#[test]
fn a_permit_that_somebody_else_may_give_back_is_waited_for() {
    let shop = Shop::new();
    let run = ["run", "--permits", "2", "k", "--"];
    // One is free.
    let two = [&run[..], &[SLABLOCK], &run, &["echo", "two"]].concat();
    assert_eq!(shop.run(&two).out, "two\n");
    // Both are ours.
    let three = [&run[..], &[SLABLOCK], &run, &[SLABLOCK], &run, &["true"]].concat();
    shop.run(&three).complains(125, &["would never end"]);
    // One is somebody else's.
    let other = shop.hold("k", &["--permits", "2"]);
    let waiter = shop.start(&two);
    assert!(waiter.complaint().contains("waiting for"));
    assert_eq!(other.finish(), 0);
    waiter.expect("two");
    assert_eq!(waiter.finish(), 0);
}

#[test]
fn what_no_ancestor_waits_for_may_wait_for_the_ancestor() {
    let shop = Shop::new();
    // In the background of a script that goes on, and then ends.
    let script = format!("{SLABLOCK} run k -- echo late & read line; echo early");
    let mut running = shop.start(&["run", "k", "--", "sh", "-c", &script]);
    assert!(running.complaint().contains("waiting for"));
    running.input.as_mut().unwrap().write_all(b"\n").unwrap();
    running.expect("early");
    running.expect("late");
    assert_eq!(running.finish(), 0);
    // A list that is old: nobody of it holds anything any more, or it is another process's.
    let holds = shop
        .run(&["run", "k", "--", "sh", "-c", "echo $SLABLOCK_HOLDS"])
        .out;
    assert!(!holds.trim().is_empty());
    let holder = shop.hold("k", &[]);
    for list in [holds.trim(), "nonsense", "1:2:3"] {
        let mut command = shop.command(&["run", "k", "--", "echo", "mine"]);
        command.env("SLABLOCK_HOLDS", list);
        let waiter = Running::start(command);
        assert!(waiter.complaint().contains("waiting for"));
    }
    assert_eq!(holder.finish(), 0);
}

/// It has the lifeline, as everything that the command started.
#[test]
fn what_waits_for_a_dead_ancestor_does_not_keep_itself_waiting() {
    let shop = Shop::new();
    let script = format!("{SLABLOCK} run k -- echo never & read line; true");
    let running = shop.start(&["run", "k", "--", "sh", "-c", &script]);
    assert!(running.complaint().contains("waiting for"));
    running.signal(Signal::SIGTERM);
    let told = running.complaint();
    for words in ["would never end", "died holding it"] {
        assert!(told.contains(words), "{told}");
    }
    running.silence();
    assert_eq!(running.finish(), 128 + 15);
    assert!(shop.is_free("k"));
}
