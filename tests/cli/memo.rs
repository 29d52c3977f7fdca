//! `slablock memo`: a command is run once for all who ask.

use std::process::Stdio;
use std::time::Duration;
use std::{fs, thread};

use nix::sys::signal::Signal;
use slablock::Cache;

use crate::kit::until;
use crate::shop::{Running, Shop};

/// Each run of this leaves a line in the file `ran`, then waits until the file `go` is there.
fn slow(shop: &Shop, then: &str) -> String {
    let (ran, go) = (shop.path("ran"), shop.path("go"));
    format!("echo $$ >> {ran}; until [ -e {go} ]; do sleep 0.01; done; {then}")
}

/// The process ids of those that were run.
fn ran(shop: &Shop) -> Vec<i32> {
    let ran = fs::read_to_string(shop.path("ran")).unwrap_or_default();
    ran.lines().map(|line| line.parse().unwrap()).collect()
}

/// Several ask at once; one runs it.
fn askers(shop: &Shop, script: &str) -> Vec<Running> {
    let ask = |_| shop.start(&["memo", "--", "sh", "-c", script]);
    let all: Vec<Running> = (0..4).map(ask).collect();
    until("one runs", || ran(shop).len() == 1);
    for asker in &all {
        until("the others sleep", || sleeps(asker) || runs(asker, shop));
    }
    all
}

/// Whether it is the one that runs the command.
fn runs(asker: &Running, shop: &Shop) -> bool {
    ran(shop).last().is_some_and(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1));
        parent == Some(&asker.pid().to_string())
    })
}

/// Whether it waits for another process, in a futex.
fn sleeps(asker: &Running) -> bool {
    let call = fs::read_to_string(format!("/proc/{}/syscall", asker.pid()));
    call.is_ok_and(|call| call.starts_with(&format!("{} ", nix::libc::SYS_futex)))
}

fn said(asker: Running) -> (Vec<String>, Vec<String>, i32) {
    let (out, err) = (asker.out.iter().collect(), asker.err.iter().collect());
    (out, err, asker.finish())
}

#[test]
fn one_runs_it_and_all_say_what_it_said() {
    let shop = Shop::new();
    let script = slow(&shop, "echo out; echo err >&2; echo more > /dev/stderr");
    let all = askers(&shop, &script);
    fs::write(shop.path("go"), "").unwrap();
    let expected = (
        vec!["out".to_owned()],
        vec!["err".to_owned(), "more".to_owned()],
        0,
    );
    for asker in all {
        assert_eq!(said(asker), expected);
    }
    let later = shop.start(&["memo", "--", "sh", "-c", &script]);
    assert_eq!(said(later), expected);
    assert_eq!(ran(&shop).len(), 1);
}

#[test]
fn the_next_one_runs_it_when_slablock_is_killed() {
    let shop = Shop::new();
    let script = slow(&shop, "echo out");
    let mut all = askers(&shop, &script);
    let at = all.iter().position(|asker| runs(asker, &shop)).unwrap();
    let killed = all.swap_remove(at);
    let command = ran(&shop)[0];
    killed.signal(Signal::SIGKILL);
    until("the next one runs it", || ran(&shop).len() == 2);
    // A dead one that nobody has waited for yet has no words left.
    let words = fs::read(format!("/proc/{command}/cmdline")).unwrap_or_default();
    assert!(words.is_empty(), "the command outlived the one who ran it");
    fs::write(shop.path("go"), "").unwrap();
    for asker in all {
        assert_eq!(said(asker), (vec!["out".to_owned()], vec![], 0));
    }
    assert_eq!(ran(&shop).len(), 2);
}

#[test]
fn what_a_signal_ended_is_run_again() {
    let shop = Shop::new();
    let script = slow(&shop, "echo out");
    let mut all = askers(&shop, &script);
    let at = all.iter().position(|asker| runs(asker, &shop)).unwrap();
    let ended = all.swap_remove(at);
    // To slablock, which passes it on.
    ended.signal(Signal::SIGTERM);
    assert_eq!(said(ended), (vec![], vec![], 128 + 15));
    until("the next one runs it", || ran(&shop).len() == 2);
    // One who only waits ends at once.
    let at = all.iter().position(|asker| !runs(asker, &shop)).unwrap();
    let waiter = all.swap_remove(at);
    waiter.signal(Signal::SIGINT);
    assert_eq!(said(waiter).2, 128 + 2);
    fs::write(shop.path("go"), "").unwrap();
    for asker in all {
        assert_eq!(said(asker), (vec!["out".to_owned()], vec![], 0));
    }
    assert_eq!(ran(&shop).len(), 2);
}

#[test]
fn a_signal_is_for_the_command_to_deal_with() {
    let shop = Shop::new();
    let up = shop.path("up");
    let script = format!("trap 'echo got it; exit 0' TERM; > {up}; while :; do sleep 0.01; done");
    let asker = shop.start(&["memo", "--", "sh", "-c", &script]);
    until("it runs", || fs::exists(&up).unwrap());
    asker.signal(Signal::SIGTERM);
    let expected = (vec!["got it".to_owned()], vec![], 0);
    assert_eq!(said(asker), expected);
    // It ended by itself, so that is kept.
    let later = shop.start(&["memo", "--", "sh", "-c", &script]);
    assert_eq!(said(later), expected);
}

#[test]
fn failures_are_run_again_unless_they_are_to_be_kept() {
    let shop = Shop::new();
    let script = format!("echo $$ >> {0}; cat {0} | wc -l; exit 4", shop.path("ran"));
    for n in ["1\n", "2\n"] {
        let outcome = shop.run(&["memo", "--", "sh", "-c", &script]);
        assert_eq!((outcome.code, outcome.out.as_str()), (4, n));
    }
    for _ in 0..2 {
        let outcome = shop.run(&["memo", "--keep-failures", "--", "sh", "-c", &script]);
        assert_eq!((outcome.code, outcome.out.as_str()), (4, "3\n"));
    }
    // Kept is kept, whoever asks.
    let outcome = shop.run(&["memo", "--", "sh", "-c", &script]);
    assert_eq!((outcome.code, outcome.out.as_str()), (4, "3\n"));
    shop.run(&["memo", "--success-only", "--", "true"])
        .complains(2, &["--success-only"]);
}

/// Each of those who wait runs a failure for itself.
#[test]
fn of_those_who_wait_each_has_a_failure_of_its_own() {
    let shop = Shop::new();
    let script = slow(&shop, "echo out; exit 3");
    let all = askers(&shop, &script);
    fs::write(shop.path("go"), "").unwrap();
    for asker in all {
        assert_eq!(said(asker), (vec!["out".to_owned()], vec![], 3));
    }
    assert_eq!(ran(&shop).len(), 4);
}

/// The key that `--help` describes is the one under which it is kept.
#[test]
fn the_key_is_as_it_is_documented() {
    let shop = Shop::new();
    let help = shop.run(&["memo", "--help"]).out;
    let documented = "\"memo: sh -c 'echo \"hi\"'\"";
    assert!(help.contains(documented), "{help}");
    shop.run(&["memo", "--", "sh", "-c", "echo \"hi\""]);
    assert_eq!(shop.run(&["keys"]).out, "memo: sh -c 'echo \"hi\"'\n");
    assert_eq!(
        shop.run(&["delete", &documented[1..documented.len() - 1]])
            .code,
        0
    );
    // A long one is cut, with a hash of all of it.
    let long = "x".repeat(2_000);
    assert!(help.contains("1,024"), "{help}");
    shop.run(&["memo", "--", "echo", &long]);
    let key = shop.run(&["keys"]).out;
    assert!(
        key.starts_with("memo: echo xxx") && key.len() == 1_025,
        "{key}"
    );
}

#[test]
fn what_is_over_or_deleted_is_run_again() {
    let shop = Shop::new();
    let script = format!("echo $$ >> {0}; cat {0} | wc -l", shop.path("ran"));
    let memo = [
        "memo", "--expire", "0.05", "--key", "k", "--", "sh", "-c", &script,
    ];
    assert_eq!(shop.run(&memo).out, "1\n");
    thread::sleep(Duration::from_millis(60));
    assert_eq!(shop.run(&memo).out, "2\n");
    let memo = [
        "memo", "--tag", "t", "--key", "j", "--", "sh", "-c", &script,
    ];
    assert_eq!(shop.run(&memo).out, "3\n");
    assert_eq!(shop.run(&memo).out, "3\n");
    assert_eq!(shop.run(&["delete", "j"]).code, 0);
    assert_eq!(shop.run(&memo).out, "4\n");
    assert_eq!(shop.run(&["evict", "t"]).out, "1\n");
    assert_eq!(shop.run(&memo).out, "5\n");
}

#[test]
fn bytes_are_replayed_as_they_were_however_many() {
    let shop = Shop::new();
    let script = "head -c 3000000 /dev/zero | tr '\\0' '\\377'; head -c 200000 /dev/zero >&2";
    for _ in 0..2 {
        let mut command = shop.command(&["memo", "--", "sh", "-c", script]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == vec![0xff; 3_000_000] && output.stderr == vec![0; 200_000]);
    }
}

#[test]
fn its_input_is_empty_and_its_key_is_the_command() {
    let shop = Shop::new();
    let script = "cat; echo \"$SLABLOCK_KEY\"";
    let key = "memo: sh -c 'cat; echo \"$SLABLOCK_KEY\"'";
    let mut asker = shop.start(&["memo", "--", "sh", "-c", script]);
    // It is not closed, so whoever read it would wait.
    let input = asker.input.take();
    asker.expect(key);
    assert_eq!(asker.finish(), 0);
    drop(input);
    let kept = shop.run(&["get", key]).out;
    assert_eq!(
        kept,
        format!("slablock memo 1 0 {} 0\n{key}\n", key.len() + 1)
    );
}

/// What writes on is not waited for, and its slablock does not wait either.
#[test]
fn what_is_left_behind_is_not_waited_for() {
    let shop = Shop::new();
    // It ends with the test, whatever becomes of that.
    fs::write(shop.path("on"), "").unwrap();
    let script = format!(
        "echo out; (while [ -e {} ]; do echo more; sleep 0.01; done) & exit 0",
        shop.path("on")
    );
    let asker = shop.start(&["memo", "--", "sh", "-c", &script]);
    asker.expect("out");
    // At most what was written in the instant of its end.
    let (more, _, status) = said(asker);
    assert!(status == 0 && more.iter().all(|line| line == "more"));
    let again = shop.run(&["memo", "--", "sh", "-c", &script]);
    assert_eq!(again.out.lines().skip(1).collect::<Vec<_>>(), more);
}

#[test]
fn failures_are_told_from_the_commands_own() {
    let shop = Shop::new();
    shop.run(&["memo", "--", "no-such-command"])
        .complains(127, &["no-such-command", "PATH"]);
    fs::write(shop.path("data"), "no program").unwrap();
    shop.run(&["memo", "--", &shop.path("data")])
        .complains(126, &["could not be started"]);
    shop.run(&["memo"]).complains(2, &["COMMAND"]);
    assert_eq!(shop.run(&["set", "k", "v"]).code, 0);
    shop.run(&["memo", "--key", "k", "--", "true"])
        .complains(125, &["\"k\"", "delete"]);
    assert_eq!(shop.run(&["get", "k"]).out, "v");
    let key = "k".repeat(1_025);
    shop.run(&["memo", "--key", &key, "--", "true"])
        .complains(125, &["1025"]);
}

/// What a command said is shown also when there is no room to keep it.
#[test]
fn what_cannot_be_kept_is_said_all_the_same() {
    let shop = Shop::new();
    let options = Cache::options()
        .size_limit(4 << 20)
        .eviction(slablock::Eviction::None);
    let _cache = options.open(shop.store()).unwrap();
    let script = format!("echo $$ >> {}; head -c 5000000 /dev/zero", shop.path("ran"));
    for _ in 0..2 {
        let outcome = shop.run(&["memo", "--", "sh", "-c", &script]);
        assert_eq!((outcome.code, outcome.out.len()), (0, 5_000_000));
        outcome.complains(0, &["value_limit"]);
    }
    assert_eq!(ran(&shop).len(), 2);
}
