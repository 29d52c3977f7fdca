//! `slablock run` when signals come, and when processes die.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kit::{HANGS, lines};
use crate::shop::{Shop, code};

#[test]
fn a_signal_ends_the_wait() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let shop = Shop::new();
        let holder = shop.hold("k", &[]);
        let waiter = shop.start(&["run", "k", "--", "echo", "never"]);
        waiter.complaint();
        waiter.signal(signal);
        waiter.silence();
        assert_eq!(waiter.finish(), 128 + signal as i32);
        assert_eq!(holder.finish(), 0);
        assert!(shop.is_free("k"));
    }
}

#[test]
fn a_signal_reaches_the_command_once() {
    // The shell looks at signals between its commands. One that comes just before `read` waits is
    // seen when that is over.
    let script = "for s in TERM INT HUP QUIT; do trap \"echo got $s\" $s; done
        echo up; while :; do read -t 0.05 line || :; [ \"$line\" = end ] && exit 5; done";
    let shop = Shop::new();
    let mut running = shop.start(&["run", "k", "--", "bash", "-c", script]);
    running.expect("up");
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        running.signal(signal);
        running.expect(&format!("got {}", &signal.as_str()[3..]));
    }
    running.input.as_mut().unwrap().write_all(b"end\n").unwrap();
    running.silence();
    assert_eq!(running.finish(), 5);
}

#[test]
fn a_key_at_the_terminal_is_not_sent_a_second_time() {
    let shop = Shop::new();
    // `setsid` takes the command out of the terminal's reach: what it gets, slablock sent.
    let script = "trap 'echo got INT' INT; trap 'echo got TERM; exit 5' TERM; echo up
        while :; do sleep 0.02; done";
    let terminal = openpty(None, None).unwrap();
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", env!("CARGO_BIN_EXE_slablock"), "run", "k", "--"])
        .args(["setsid", "bash", "-c", script])
        .env("SLABLOCK_DIR", shop.store())
        .stdin(terminal.slave.try_clone().unwrap())
        .stdout(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    drop((command, terminal.slave));
    let mut keyboard = File::from(terminal.master.try_clone().unwrap());
    let said = lines(File::from(terminal.master));
    let until = |word: &str| -> Vec<String> {
        let mut heard = Vec::new();
        while !heard
            .last()
            .is_some_and(|line: &String| line.contains(word))
        {
            heard.push(said.recv_timeout(HANGS).expect(word));
        }
        heard
    };
    until("up");
    // The terminal shows what is typed after the key once it has dealt with the key.
    keyboard.write_all(b"\x03typed\n").unwrap();
    until("typed");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    // Signals are taken in the order of their numbers, so an INT would have come first.
    let heard = until("got TERM");
    assert!(
        !heard.iter().any(|line| line.contains("got INT")),
        "{heard:?}"
    );
    assert_eq!(code(child.wait().unwrap()), 5);
}

#[test]
fn killing_slablock_kills_the_command_and_the_next_is_told() {
    let shop = Shop::new();
    let running = shop.hold("k", &[]);
    let pid = running.pid();
    running.signal(Signal::SIGKILL);
    running.silence();
    let next = shop.run(&["run", "k", "--", "echo", "mine"]);
    assert_eq!((next.code, next.out.as_str()), (0, "mine\n"));
    next.complains(0, &[&format!("pid {pid}"), "died holding it"]);
}

#[test]
fn what_survives_a_killed_slablock_keeps_the_key() {
    let shop = Shop::new();
    // The kernel kills the command, but not what the command started.
    let script = "exec 3<&0; sh -c 'echo up; read line' <&3 & wait";
    let mut running = shop.start(&["run", "k", "--", "sh", "-c", script]);
    running.expect("up");
    running.signal(Signal::SIGKILL);
    running.child.wait().unwrap();
    assert!(!shop.is_free("k"));
    drop(running.input.take());
    running.silence();
    assert!(shop.is_free("k"));
}

#[test]
fn a_daemon_left_behind_does_not_keep_the_key() {
    let shop = Shop::new();
    let script = "exec 3<&0; sh -c 'echo up; read line; echo still here' <&3 & exit 0";
    let mut running = shop.start(&["run", "k", "--", "sh", "-c", script]);
    running.expect("up");
    assert_eq!(code(running.child.wait().unwrap()), 0);
    assert!(shop.is_free("k"));
    drop(running.input.take());
    running.expect("still here");
}
