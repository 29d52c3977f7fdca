//! The runner: what is guarded, by what, and for how long.

#![cfg(feature = "cli")]

#[allow(dead_code)]
#[path = "../cli/shop.rs"]
mod shop;

mod groups;
mod nested;
mod tree;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::{Pid, geteuid, setuid};
use shop::{Outcome, Running, Shop, code};

use crate::kit::{self, KilledAtTheEnd, until, until_in_state, until_stopped};

/// The shell that says its number waits for another one, which says `up` and ends with its input.
const WITH_A_CHILD: &str = "echo $$; exec 3<&0; sh -c 'echo up; read line' <&3; true";

/// A file that can be executed and says nothing of who executes it.
fn script(shop: &Shop, name: &str, text: &str) -> String {
    let path = shop.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// As many arguments as need more room than the stack of a new process has.
fn many() -> Vec<String> {
    (1..=33_000).map(|n| n.to_string()).collect()
}

#[test]
fn a_script_without_an_interpreter_gets_all_of_its_arguments() {
    let shop = Shop::new();
    let path = script(&shop, "x", "echo $0 $# ${33000}\n");
    let said = format!("{path} 33000 33000\n");
    for before in [&["run", "k", "--", &path][..], &["memo", "--", &path]] {
        let before = before.iter().map(|word| (*word).to_owned());
        let outcome = shop.run(&before.chain(many()).collect::<Vec<_>>());
        assert_eq!((outcome.code, &outcome.out), (0, &said), "{}", outcome.err);
    }
    // Found along PATH it is the same, with the path at which it was found.
    let directory = shop.dir.root().to_str().unwrap();
    let mut command = shop.command(&["run", "k", "--", "x", "one"]);
    command.env("PATH", format!("/nowhere:{directory}:/usr/bin:/bin"));
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.out, format!("{path} 1\n"), "{}", outcome.err);
}

#[test]
fn a_long_path_is_searched_to_its_end_and_a_denial_is_remembered() {
    let shop = Shop::new();
    let directory = shop.dir.root().to_str().unwrap();
    script(&shop, "tool", "#!/bin/sh\necho found\n");
    // Entries that lead nowhere: many, one longer than any path, and one with a name longer than
    // any.
    let nowhere = ["/nowhere/at/all:".repeat(5_000), "/x".repeat(3_000)].concat();
    let path = format!("{nowhere}:/{}:{directory}", "y".repeat(300));
    let run = |name: &str, path: &str| {
        let mut command = shop.command(&["run", "k", "--", name]);
        Outcome::of(command.env("PATH", path))
    };
    assert_eq!(run("tool", &path).out, "found\n");
    run("no-such-tool", &path).complains(127, &["no-such-tool", "PATH"]);
    // A file that may not be executed is passed over, and told if there is no other.
    let denied = shop.path("denied");
    fs::create_dir(&denied).unwrap();
    fs::write(format!("{denied}/tool"), "").unwrap();
    assert_eq!(run("tool", &format!("{denied}:{path}")).out, "found\n");
    run("tool", &format!("{denied}:/nowhere")).complains(126, &["tool", "denied"]);
    // What stands in the way of a path is no directory.
    run("tool", &format!("{denied}/tool")).complains(127, &["tool"]);
}

/// Ends the command of `running` by a signal, through slablock or past it.
fn end(running: &Running, command: i32, past_slablock: bool) {
    match past_slablock {
        false => running.signal(Signal::SIGTERM),
        true => kill(Pid::from_raw(command), Signal::SIGKILL).unwrap(),
    }
}

#[test]
fn what_outlives_a_command_that_a_signal_ended_keeps_the_key() {
    let permits = ["--permits", "2"];
    for (options, past_slablock) in [
        (&[][..], false),
        (&[], true),
        (&permits, false),
        (&permits, true),
        (&["--expire", "3600"], false),
    ] {
        let shop = Shop::new();
        let of = |options: &[&'static str]| [&["run"], options, &["k", "--", "sh", "-c"]].concat();
        let mut running = shop.start(&[&of(options)[..], &[WITH_A_CHILD]].concat());
        let command: i32 = running.line().parse().unwrap();
        running.expect("up");
        // Of two permits the other one is somebody's who ends as usual.
        let other = (options == permits).then(|| shop.hold("k", &permits));
        end(&running, command, past_slablock);
        let status = code(running.child.wait().unwrap());
        assert_eq!(status, 128 + if past_slablock { 9 } else { 15 });
        let try_it = [&["run", "-n", "-q"], options, &["k", "--", "true"]].concat();
        assert_eq!(shop.run(&try_it).code, 75, "{options:?}");
        // A waiter has it as soon as the last of them is gone, and is told.
        let waiter = shop.start(&[&of(options)[..], &["echo mine"]].concat());
        let told = waiter.complaint();
        assert!(told.contains("waiting for"), "{told}");
        assert_eq!(waiter.out.try_recv().ok(), None);
        drop(running.input.take());
        running.silence();
        waiter.expect("mine");
        let told = waiter.complaint();
        let dead = format!("pid {}", running.pid());
        assert!(
            told.contains("died holding it") && told.contains(&dead),
            "{told}"
        );
        assert_eq!(waiter.finish(), 0);
        drop(other);
    }
}

/// Nobody is left to renew it.
#[test]
fn what_outlives_slablock_keeps_a_lease_to_its_end_only() {
    let shop = Shop::new();
    let run = ["run", "--expire", "0.5", "k", "--", "sh", "-c"];
    let mut running = shop.start(&[&run[..], &[WITH_A_CHILD]].concat());
    let command: i32 = running.line().parse().unwrap();
    running.expect("up");
    end(&running, command, true);
    assert_eq!(code(running.child.wait().unwrap()), 128 + 9);
    let waiter = shop.start(&[&run[..], &["echo mine"]].concat());
    waiter.expect("mine");
    assert_eq!(running.out.try_recv().ok(), None, "the other one was gone");
    let told: Vec<String> = waiter.err.iter().collect();
    assert!(told.last().unwrap().contains("the last holder"), "{told:?}");
    assert_eq!(waiter.finish(), 0);
    drop(running.input.take());
    running.silence();
}

#[test]
fn a_signal_that_leaves_nobody_frees_the_key_and_the_next_is_told() {
    let shop = Shop::new();
    let running = shop.hold("k", &[]);
    running.signal(Signal::SIGINT);
    running.silence();
    assert_eq!(running.finish(), 128 + 2);
    let next = shop.run(&["run", "-n", "k", "--", "echo", "mine"]);
    assert_eq!(next.out, "mine\n");
    next.complains(0, &["died holding it"]);
    // One that ended by itself, whatever it was that made it, has given back.
    let script = "trap 'exit 143' TERM; echo up; while :; do read -t 0.05 line; done";
    let running = shop.start(&["run", "k", "--", "bash", "-c", script]);
    running.expect("up");
    running.signal(Signal::SIGTERM);
    running.silence();
    assert_eq!(running.finish(), 143);
    let next = shop.run(&["run", "-n", "k", "--", "true"]);
    assert_eq!((next.code, next.err.as_str()), (0, ""));
}

#[test]
fn a_memo_that_a_signal_ended_is_run_again_when_nothing_is_left_of_it() {
    let shop = Shop::new();
    let (ran, pipe) = (shop.path("ran"), tree::pipe(&shop));
    // The first one leaves a child that waits for the other end of the pipe.
    let script = format!(
        "echo $$ >> {ran}; [ $(wc -l < {ran}) = 1 ] || exit 0; sh -c ': > {pipe}.up; read line < {pipe}'; true"
    );
    let memo = ["memo", "--key", "k", "--", "sh", "-c", &script];
    let mut first = shop.start(&memo);
    until("the child is up", || {
        fs::exists(format!("{pipe}.up")).unwrap()
    });
    first.signal(Signal::SIGTERM);
    assert_eq!(code(first.child.wait().unwrap()), 128 + 15);
    let second = shop.start(&memo);
    until("the second one sleeps", || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", second.pid()));
        call.is_ok_and(|call| call.starts_with(&format!("{} ", nix::libc::SYS_futex)))
    });
    assert_eq!(fs::read_to_string(&ran).unwrap().lines().count(), 1);
    fs::write(&pipe, "\n").unwrap();
    assert_eq!(second.finish(), 0);
    assert_eq!(fs::read_to_string(&ran).unwrap().lines().count(), 2);
}

/// Every signal but those that cannot be caught, that stop a process, that every Rust program
/// ignores, the news of a child, and two of the C library's own.
fn all_signals() -> impl Iterator<Item = i32> {
    let left = [9, 13, 17, 19, 20, 21, 22, 32, 33];
    (1..=64).filter(move |number| !left.contains(number))
}

/// By a shell, for real-time signals have no names here.
fn send(number: i32, running: &Running) {
    let line = format!("kill -{number} {}", running.pid());
    let sent = Command::new("sh").args(["-c", &line]).status();
    assert!(sent.unwrap().success(), "{line}");
}

#[test]
fn every_signal_that_can_be_caught_reaches_the_command() {
    // `read` is one that waits, but not for WINCH.
    let script = "for s in $*; do trap \"echo got $s\" $s; done
        echo up; while :; do read -t 0.05 line || :; [ \"$line\" = end ] && exit 5; done";
    let shop = Shop::new();
    let numbers: Vec<String> = all_signals().map(|number| number.to_string()).collect();
    let numbers = numbers.join(" ");
    let run = ["run", "k", "--", "bash", "-c", script, "bash", &numbers];
    let mut running = shop.start(&run);
    running.expect("up");
    for number in all_signals() {
        send(number, &running);
        running.expect(&format!("got {number}"));
    }
    running.input.as_mut().unwrap().write_all(b"end\n").unwrap();
    running.silence();
    assert_eq!(running.finish(), 5);
    assert!(shop.is_free("k"));
}

#[test]
fn a_memo_passes_signals_on_too() {
    let shop = Shop::new();
    for number in [10, 14, 28, 34] {
        let up = shop.path("up");
        let script = format!(
            "trap 'echo got it; exit 0' {number}; > {up}.{number}; while :; do sleep 0.01; done"
        );
        let asker = shop.start(&["memo", "--", "bash", "-c", &script]);
        until("it runs", || fs::exists(format!("{up}.{number}")).unwrap());
        send(number, &asker);
        asker.expect("got it");
        assert_eq!(asker.finish(), 0);
    }
}

#[test]
fn a_signal_that_the_command_does_not_catch_ends_it_and_the_wait_alike() {
    let shop = Shop::new();
    for number in [10, 14, 34] {
        let running = shop.hold("k", &[]);
        let waiter = shop.start(&["run", "k", "--", "echo", "never"]);
        assert!(waiter.complaint().contains("waiting"));
        send(number, &waiter);
        waiter.silence();
        assert_eq!(waiter.finish(), 128 + number);
        send(number, &running);
        running.silence();
        assert_eq!(running.finish(), 128 + number);
    }
}

/// `alarm 1; exec slablock run ...` is how scripts limit the time of a command.
#[test]
#[allow(unsafe_code)]
fn an_alarm_that_was_set_before_reaches_the_command() {
    let script =
        "trap 'echo got it; exit 3' ALRM; echo up; while :; do read -t 0.05 line || :; done";
    let shop = Shop::new();
    let mut command = shop.command(&["run", "k", "--", "bash", "-c", script]);
    // SAFETY: one system call, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::libc::alarm(1);
            Ok(())
        })
    };
    let running = Running::start(command);
    running.expect("up");
    running.expect("got it");
    assert_eq!(running.finish(), 3);
}

/// What the kernel sends slablock for a write beyond a limit is none of the command's business.
#[test]
fn what_slablock_brings_on_itself_is_not_passed_on() {
    let shop = Shop::new();
    assert!(shop.is_free("k"));
    let line = format!(
        "ulimit -f 0; exec {} run -v k -- sh -c 'echo up; read line; echo alive' 2> {}",
        SLABLOCK,
        shop.path("errors")
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &line])
        .env("SLABLOCK_DIR", shop.store());
    let mut running = Running::start(command);
    running.expect("up");
    running.input.as_mut().unwrap().write_all(b"\n").unwrap();
    running.expect("alive");
    assert_eq!(running.finish(), 0);
}

const SLABLOCK: &str = env!("CARGO_BIN_EXE_slablock");

/// A process that has the file `attach` of a store locked, as one that makes or mends the store,
/// and is stopped.
fn stopped_while_opening(shop: &Shop) -> KilledAtTheEnd {
    let attach = shop.store().join("attach");
    let mut child = kit::child("runner::child_that_is_stopped", attach.to_str().unwrap());
    let child = KilledAtTheEnd(child.stdout(Stdio::null()).spawn().unwrap());
    until_stopped(child.id());
    child
}

#[test]
fn child_that_is_stopped() {
    if let Some(attach) = kit::role("runner::child_that_is_stopped") {
        let file = fs::File::options().write(true).open(attach).unwrap();
        kit::lock_bytes(&file, nix::libc::F_WRLCK, 0..1);
        raise(Signal::SIGSTOP).unwrap();
    }
}

#[test]
fn patience_counts_while_the_store_is_being_opened() {
    let shop = Shop::new();
    assert!(shop.is_free("k"));
    let stopped = stopped_while_opening(&shop);
    for options in [&["-n"][..], &["-w", "0.3"]] {
        let run = [&["run", "-E", "9"], options, &["k", "--", "true"]].concat();
        shop.run(&run)
            .complains(9, &["could not be opened", "stopped"]);
    }
    let quiet = shop.run(&["run", "-q", "-n", "k", "--", "true"]);
    assert_eq!((quiet.code, quiet.err.as_str()), (75, ""));
    // Nor do those wait who look for what is wrong.
    for look in [
        &["status"][..],
        &["keys"],
        &["stats"],
        &["check"],
        &["get", "k"],
    ] {
        let told = shop.run(look);
        assert!(
            told.code == 1 || told.code == 125,
            "{look:?}: {}",
            told.code
        );
        told.complains(told.code, &["could not be opened", "stopped"]);
    }
    // What is left of the patience is for the key; once the store can be opened, there is some.
    let waiter = shop.start(&["run", "-w", "3600", "k", "--", "echo", "mine"]);
    until("it waits", || waits_for_a_file_lock(&waiter));
    drop(stopped);
    waiter.expect("mine");
    assert_eq!(waiter.finish(), 0);
}

#[test]
fn a_signal_ends_what_is_opening_the_store() {
    let shop = Shop::new();
    assert!(shop.is_free("k"));
    let _stopped = stopped_while_opening(&shop);
    let all = [
        &["run", "k", "--", "true"][..],
        &["run", "-w", "3600", "k", "--", "true"],
        &["memo", "--", "true"],
    ];
    for (arguments, number) in all.iter().flat_map(|one| [(one, 15), (one, 10)]) {
        let opener = shop.start(arguments);
        until("it waits", || waits_for_a_file_lock(&opener));
        send(number, &opener);
        opener.silence();
        assert_eq!(opener.finish(), 128 + number, "{arguments:?}");
    }
}

fn waits_for_a_file_lock(running: &Running) -> bool {
    let call = fs::read_to_string(format!("/proc/{}/syscall", running.pid()));
    let waits = |call: String| {
        let mut words = call.split(' ');
        let number = words.next().and_then(|word| word.parse().ok());
        let command = format!("{:#x}", nix::libc::F_OFD_SETLKW);
        number == Some(nix::libc::SYS_fcntl) && words.nth(1) == Some(&*command)
    };
    call.is_ok_and(waits)
}
