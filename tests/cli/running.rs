//! `slablock run`: one at a time, who waits, leases, and what the command gets.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::{fs, thread};

use crate::shop::Shop;

#[test]
fn the_command_gets_input_and_environment_and_its_status_is_ours() {
    let shop = Shop::new();
    let script = "cat; echo $SLABLOCK_KEY $SLABLOCK_TOKEN $SLABLOCK_DIR; exit 7";
    let mut running = shop.start(&["run", "a key", "--", "sh", "-c", script]);
    running
        .input
        .take()
        .unwrap()
        .write_all(b"some input\n")
        .unwrap();
    running.expect("some input");
    let line = running.line();
    let words: Vec<_> = line.rsplitn(3, ' ').collect();
    assert_eq!([words[2], words[0]], ["a key", &*shop.path("store")]);
    assert!(words[1].parse::<u64>().unwrap() > 0, "{line}");
    assert_eq!(running.finish(), 7);
    assert!(shop.is_free("a key"));
}

/// What a nested `slablock run` inherits from the outer one is replaced, not given twice;
/// everything else is handed on as it is.
#[test]
fn the_command_finds_its_own_variables_once_and_the_usual_signals() {
    let shop = Shop::new();
    // A shell tidies up what it was given; the kernel shows that.
    let script =
        "tr '\\0' '\\n' </proc/$$/environ | grep ^SLABLOCK_KEY=; grep SigIgn /proc/self/status";
    let inner = env!("CARGO_BIN_EXE_slablock");
    let nested = [
        "run", "outer", "--", inner, "run", "inner", "--", "sh", "-c",
    ];
    let outcome = shop.run(&[&nested[..], &[script]].concat());
    let lines: Vec<&str> = outcome.out.lines().collect();
    assert_eq!(lines[0], "SLABLOCK_KEY=inner", "{}", outcome.err);
    // Rust programs ignore SIGPIPE; the command is not to inherit that.
    let ignored = lines[1].rsplit('\t').next().unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & 1 << (13 - 1), 0);
}

#[test]
fn a_real_time_signal_is_a_status_like_others() {
    let shop = Shop::new();
    let outcome = shop.run(&["run", "k", "--", "sh", "-c", "kill -34 $$"]);
    assert_eq!(outcome.code, 128 + 34, "{}", outcome.err);
}

#[test]
fn tokens_grow_from_run_to_run() {
    let shop = Shop::new();
    let token = || -> u64 {
        let outcome = shop.run(&["run", "k", "--", "sh", "-c", "echo $SLABLOCK_TOKEN"]);
        outcome.out.trim().parse().unwrap()
    };
    let tokens = [token(), token(), token()];
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn keys_and_arguments_need_not_be_utf8() {
    let shop = Shop::new();
    let odd = OsString::from_vec(b"odd\xff".to_vec());
    let arguments: [&OsStr; 7] = [
        "run".as_ref(),
        &odd,
        "--".as_ref(),
        "sh".as_ref(),
        "-c".as_ref(),
        r#"[ "$1" = "$SLABLOCK_KEY" ] && echo same"#.as_ref(),
        "sh".as_ref(),
    ];
    let outcome = shop.run(&[&arguments[..], &[&odd]].concat());
    assert_eq!(
        (outcome.code, outcome.out.as_str()),
        (0, "same\n"),
        "{}",
        outcome.err
    );
    let key = &shop.json(&[])["keys"][0];
    assert_eq!(key["key"], "odd\\xff");
    assert_eq!(key["key_hex"], "6f6464ff");
}

#[test]
fn the_exit_status_tells_who_failed() {
    let shop = Shop::new();
    // Of a key of its own, for the next holder is told of this.
    let killed = shop.run(&["run", "killed", "--", "sh", "-c", "kill -KILL $$"]);
    assert_eq!(killed.code, 128 + 9);
    let missing = shop.run(&["run", "k", "--", "no-such-command"]);
    missing.complains(127, &["no-such-command", "PATH"]);
    fs::write(shop.path("data"), "no program").unwrap();
    let data = shop.run(&["run", "k", "--", &shop.path("data")]);
    data.complains(126, &["could not be started"]);
    let key = shop.run(&["run", "", "--", "true"]);
    key.complains(125, &["1024"]);
    assert!(shop.is_free("k"));
}

#[test]
fn one_at_a_time() {
    const PROCESSES: usize = 4;
    const ROUNDS: usize = 10;
    let shop = Shop::new();
    fs::write(shop.path("count"), "0").unwrap();
    let script = format!("n=$(cat {0}); echo $((n + 1)) > {0}", shop.path("count"));
    thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let outcome = shop.run(&["run", "-q", "k", "--", "sh", "-c", &script]);
                    assert_eq!(outcome.code, 0, "{}", outcome.err);
                }
            });
        }
    });
    let count = fs::read_to_string(shop.path("count")).unwrap();
    assert_eq!(count.trim(), (PROCESSES * ROUNDS).to_string());
}

#[test]
fn nonblock_and_timeout_give_up_with_the_conflict_status() {
    let shop = Shop::new();
    let holder = shop.hold("k", &[]);
    shop.run(&["run", "-n", "k", "--", "true"])
        .complains(75, &["\"k\" is held"]);
    shop.run(&["run", "-w", "0.05", "k", "--", "true"])
        .complains(75, &["still held", "50 ms"]);
    // 1 as well, which is `flock`'s, although it is no status of slablock's own here.
    for chosen in ["9", "1"] {
        let run = ["run", "-w", "0.05", "-E", chosen, "k", "--", "true"];
        assert_eq!(shop.run(&run).code.to_string(), chosen);
    }
    let quiet = shop.run(&["run", "-q", "-w", "0.6", "k", "--", "true"]);
    assert_eq!((quiet.code, quiet.err.as_str()), (75, ""));
    assert_eq!(holder.finish(), 0);
    assert!(shop.is_free("k"));
}

#[test]
fn permits_let_so_many_in_and_no_more() {
    let shop = Shop::new();
    let _first = shop.hold("seats", &["--permits", "2"]);
    let second = shop.hold("seats", &["--permits", "2"]);
    let third = ["run", "-n", "--permits", "2", "seats", "--", "true"];
    assert_eq!(shop.run(&third).code, 75);
    assert_eq!(second.finish(), 0);
    assert_eq!(shop.run(&third).code, 0);
    shop.run(&["run", "--permits", "3", "seats", "--", "true"])
        .complains(125, &["seats", "2", "3"]);
    shop.run(&["run", "seats", "--", "true"])
        .complains(125, &["lock", "semaphore"]);
}

#[test]
fn who_waits_long_is_told_for_whom() {
    let shop = Shop::new();
    let holder = shop.hold("k", &[]);
    let waiter = shop.start(&["run", "-v", "k", "--", "echo", "mine"]);
    let told = waiter.complaint();
    for word in [
        &format!("pid {} (", holder.pid()),
        "run k -- sh -c",
        "1 waiting",
        "for ",
    ] {
        assert!(told.contains(word), "no {word:?} in {told}");
    }
    assert_eq!(holder.finish(), 0);
    assert!(waiter.complaint().contains("acquired \"k\" after"));
    waiter.expect("mine");
    assert_eq!(waiter.finish(), 0);
}

#[test]
fn a_lease_is_renewed_while_the_command_runs() {
    let shop = Shop::new();
    let script = "sleep 1; echo end of lease; read line";
    let running = shop.start(&["run", "--expire", "0.3", "k", "--", "sh", "-c", script]);
    running.expect("end of lease");
    assert!(!shop.is_free("k"));
    let left = shop.json(&["k"])["keys"][0]["holders"][0]["lease_left_seconds"].as_f64();
    assert!(
        left.is_some_and(|left| left > 0.0 && left <= 0.3),
        "{left:?}"
    );
    assert_eq!(running.finish(), 1, "`read` at the end of input");
}

#[test]
fn a_lost_lease_ends_the_command() {
    let shop = Shop::new();
    for (script, line) in [
        (
            "trap 'echo ended; exit 0' TERM; echo up; while :; do read -t 0.05 line || :; done",
            "ended",
        ),
        (
            "trap 'echo refused' TERM; echo up; while :; do read -t 0.05 line || :; done",
            "refused",
        ),
    ] {
        let mut running = shop.start(&["run", "--expire", "0.3", "k", "--", "bash", "-c", script]);
        drop(running.input.take());
        running.expect("up");
        assert_eq!(shop.run(&["remove", "k"]).code, 0);
        running.expect(line);
        running.silence();
        assert!(running.complaint().contains("ending the command"));
        assert_eq!(running.finish(), 76);
    }
}

#[test]
fn a_hold_that_was_removed_is_reported_at_the_end() {
    let shop = Shop::new();
    let running = shop.hold("k", &["--tag", "t"]);
    let evicted = shop.run(&["evict", "t"]);
    assert_eq!((evicted.code, evicted.out.as_str()), (0, "1\n"));
    let next = shop.hold("k", &[]);
    assert_eq!(running.finish(), 76);
    assert!(!shop.is_free("k"), "the successor's hold was touched");
    assert_eq!(next.finish(), 0);
}
