//! Standard output that is full, closed, or read by nobody: what was not written is not taken away,
//! and nothing counts as said that was not.

#![cfg(feature = "cli")]

use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read, pipe};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use slablock::{Averager, FanoutCache};

use crate::kit::{Place, until};

/// More than any pipe holds.
const LARGE: usize = 3 << 20;

fn slablock(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slablock"));
    command
        .args(arguments)
        .env("SLABLOCK_DIR", place.store())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What may become of standard output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Out {
    /// The device is full.
    Full,
    /// Its reader has gone.
    Unread,
    /// Closed before the program began, as by `>&-`.
    Closed,
    /// Open for reading only.
    ForReading,
}

const ALL: [Out; 4] = [Out::Full, Out::Unread, Out::Closed, Out::ForReading];

fn run_into(place: &Place, out: Out, arguments: &[&str]) -> Output {
    let mut command = slablock(place, arguments);
    match out {
        Out::Full => {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            command.stdout(full);
        }
        Out::Unread => {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            command.stdout(writer);
        }
        Out::Closed => {
            command = through_a_shell(&command, "exec \"$@\" >&-");
        }
        Out::ForReading => {
            command.stdout(File::open("/dev/null").unwrap());
        }
    }
    command.output().unwrap()
}

/// A command started by a shell, which first does something with its streams.
fn through_a_shell(command: &Command, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped());
    shell.stderr(Stdio::piped());
    shell
}

fn code(output: &Output) -> i32 {
    let status = output.status;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// That it ended so, with one line that has all of the words, or with none.
#[track_caller]
fn ended(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(output), status, "{said}");
    assert_eq!(
        said.lines().count(),
        usize::from(!words.is_empty()),
        "{said}"
    );
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
}

fn done(place: &Place, arguments: &[&str]) -> Vec<u8> {
    let output = slablock(place, arguments).output().unwrap();
    ended(&output, 0, &[]);
    output.stdout
}

#[test]
fn a_value_that_was_not_written_is_still_there() {
    for (len, shards) in [(3, None), (LARGE, None), (LARGE, Some(4))] {
        let place = Place::new();
        let value = vec![b'v'; len];
        match shards {
            None => place.open().set("k", &value).unwrap(),
            Some(shards) => {
                let cache = FanoutCache::open(place.store(), shards).unwrap();
                cache.set("k", &value).unwrap();
            }
        }
        for out in ALL {
            let output = run_into(&place, out, &["pop", "k"]);
            ended(&output, 125, &["standard output", "\"k\"", "still there"]);
            assert!(done(&place, &["get", "k"]) == value, "{out:?}");
        }
        assert!(done(&place, &["pop", "k"]) == value);
        ended(&run_into(&place, Out::Closed, &["pop", "k"]), 1, &[]);
    }
}

#[test]
fn a_reader_that_leaves_in_the_middle_leaves_the_value() {
    let place = Place::new();
    place.open().set("k", vec![b'v'; LARGE]).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let mut child = slablock(&place, &["pop", "k"])
        .stdout(writer)
        .spawn()
        .unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(125));
    assert_eq!(done(&place, &["get", "k"]).len(), LARGE);
}

/// Also killed in the middle.
#[test]
fn a_pop_that_is_killed_while_it_writes_takes_nothing_away() {
    let place = Place::new();
    place.open().set("k", vec![b'v'; LARGE]).unwrap();
    let (mut child, reader) = popping(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(reader);
    assert_eq!(done(&place, &["pop", "k"]).len(), LARGE);
}

/// A `pop` of a large value that is in the middle of writing it.
fn popping(place: &Place) -> (Child, PipeReader) {
    let (mut reader, writer) = pipe().unwrap();
    let mut command = slablock(place, &["pop", "k"]);
    let child = command.stdout(writer).spawn().unwrap();
    // The command has the writing end, too.
    drop(command);
    reader.read_exact(&mut [0; 1]).unwrap();
    (child, reader)
}

/// Whether it waits for another process: for a lock of a range, or in a futex.
fn waits(child: &Child) -> bool {
    let call = fs::read_to_string(format!("/proc/{}/syscall", child.id())).unwrap();
    let number = call.split(' ').next().and_then(|word| word.parse().ok());
    let waits = [
        libc::SYS_futex,
        libc::SYS_fcntl,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
    ];
    number.is_some_and(|number: libc::c_long| waits.contains(&number))
}

#[test]
fn of_two_that_pop_at_once_one_writes_the_value() {
    for first_is_read in [true, false] {
        let place = Place::new();
        place.open().set("k", vec![b'v'; LARGE]).unwrap();
        let (first, mut reader) = popping(&place);
        let second = slablock(&place, &["pop", "k"]).spawn().unwrap();
        until("the second waits", || waits(&second));
        let mut read = Vec::new();
        if first_is_read {
            reader.read_to_end(&mut read).unwrap();
        }
        drop(reader);
        let (first, second) = (
            first.wait_with_output().unwrap(),
            second.wait_with_output().unwrap(),
        );
        match first_is_read {
            true => {
                ended(&first, 0, &[]);
                ended(&second, 1, &[]);
                assert_eq!((read.len(), second.stdout.len()), (LARGE - 1, 0));
            }
            false => {
                ended(&first, 125, &["still there"]);
                ended(&second, 0, &[]);
                assert_eq!(second.stdout.len(), LARGE);
            }
        }
    }
}

/// A pipe that does not wait, as other programs leave it, is waited for all the same.
#[test]
fn a_pipe_that_does_not_wait_gets_all_of_it() {
    let place = Place::new();
    place.open().set("k", vec![b'v'; LARGE]).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut command = slablock(&place, &["pop", "k"]);
    let child = command.stdout(writer).spawn().unwrap();
    drop(command);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    ended(&child.wait_with_output().unwrap(), 0, &[]);
    assert_eq!(read.len(), LARGE);
}

/// The average is gone then, but not its mean.
#[test]
fn an_average_that_was_popped_and_not_written_is_said() {
    for out in ALL {
        let place = Place::new();
        let average = Averager::new(&place.open(), "a");
        average.add(12.5).unwrap();
        let output = run_into(&place, out, &["average", "pop", "a"]);
        ended(&output, 125, &["\"a\"", "12.5", "standard output"]);
        assert_eq!(average.get().unwrap(), None);
    }
}

#[test]
fn a_command_that_could_not_say_its_answer_fails() {
    let place = Place::new();
    done(&place, &["set", "k", "5"]);
    done(&place, &["average", "add", "a", "1"]);
    for out in ALL {
        // A reader that has gone wanted no more.
        let status = match out {
            Out::Unread => 0,
            _ => 125,
        };
        let words = |words| match out {
            Out::Unread => &[][..],
            _ => words,
        };
        for arguments in [
            &["get", "k"][..],
            &["keys"],
            &["keys", "-0"],
            &["keys", "--json"],
            &["status"],
            &["status", "--json"],
            &["status", "--watch"],
            &["stats"],
            &["stats", "--json"],
            &["volume"],
            &["average", "get", "a"],
            &["check"],
            &["--help"],
            &["--version"],
            &["help", "run"],
        ] {
            let output = run_into(&place, out, arguments);
            ended(&output, status, words(&["standard output"]));
        }
    }
}

/// What has happened is not said to have failed, and the number is not lost.
#[test]
fn a_change_whose_number_could_not_be_said_is_said_to_have_happened() {
    for out in [Out::Full, Out::Closed, Out::ForReading] {
        let place = Place::new();
        done(&place, &["set", "n", "4"]);
        let output = run_into(&place, out, &["incr", "n"]);
        ended(&output, 125, &["standard output", "done", "5"]);
        assert_eq!(done(&place, &["get", "n"]), b"5");
        done(&place, &["set", "--tag", "t", "m", "v"]);
        let output = run_into(&place, out, &["evict", "t"]);
        ended(&output, 125, &["standard output", "done", "1"]);
        let output = run_into(&place, out, &["clear"]);
        ended(&output, 125, &["standard output", "done", "1"]);
        for arguments in [["cull"], ["expire"]] {
            let output = run_into(&place, out, &arguments);
            ended(&output, 125, &["standard output", "done", "0"]);
        }
        let output = run_into(&place, out, &["repair"]);
        ended(&output, 125, &["standard output", "done"]);
    }
}

/// A verdict is for those, too, who do not read its reasons.
#[test]
fn a_store_that_is_not_sound_is_so_for_readers_that_have_gone() {
    let place = Place::new();
    done(&place, &["set", "k", &"v".repeat(1_000)]);
    let segment = place.store().join("log/00000001");
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(9).position(|run| run == b"vvvvvvvvv");
    bytes[at.unwrap() + 100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    assert_eq!(
        code(&slablock(&place, &["check"]).output().unwrap()),
        1,
        "it is damaged"
    );
    ended(&run_into(&place, Out::Unread, &["check"]), 1, &[]);
}

/// What was not tried to the end is not said to have gone well.
#[test]
fn a_trial_that_nobody_reads_has_not_gone_well() {
    let place = Place::new();
    for arguments in [&["demo"][..], &["torture", "--seconds", "0.1"]] {
        let output = run_into(&place, Out::Unread, arguments);
        ended(&output, 125, &["pipe"]);
    }
}

#[test]
fn memo_keeps_the_status_of_its_command() {
    for script in ["echo out; exit 3", "echo out"] {
        let status = if script.ends_with('3') { 3 } else { 0 };
        for kept in [false, true] {
            let place = Place::new();
            let memo = ["memo", "--keep-failures", "--", "sh", "-c", script];
            if kept {
                slablock(&place, &memo).output().unwrap();
            }
            ended(&run_into(&place, Out::Unread, &memo), status, &[]);
            for out in [Out::Full, Out::Closed, Out::ForReading] {
                // Success it would not be: what the caller wanted is not there.
                let status = if status == 0 { 125 } else { status };
                let output = run_into(&place, out, &memo);
                ended(&output, status, &["standard output"]);
            }
        }
    }
}

/// Nothing to say, nothing to fail.
#[test]
fn who_says_nothing_needs_no_output() {
    let place = Place::new();
    for out in ALL {
        ended(&run_into(&place, out, &["set", "k", "v"]), 0, &[]);
        ended(&run_into(&place, out, &["touch", "k"]), 0, &[]);
        ended(&run_into(&place, out, &["run", "r", "--", "true"]), 0, &[]);
        ended(&run_into(&place, out, &["memo", "--", "true"]), 0, &[]);
        ended(&run_into(&place, out, &["delete", "k"]), 0, &[]);
        ended(&run_into(&place, out, &["get", "k"]), 1, &[]);
    }
}

/// The other end of the same thing: what nobody gave is not an empty value.
#[test]
fn an_input_that_is_closed_sets_nothing() {
    let place = Place::new();
    done(&place, &["set", "k", "v"]);
    for verb in ["set", "add"] {
        let mut command = slablock(&place, &[verb, "k"]);
        command = through_a_shell(&command, "exec \"$@\" <&-");
        ended(&command.output().unwrap(), 125, &["standard input"]);
    }
    assert_eq!(done(&place, &["get", "k"]), b"v");
    // An empty one is.
    done(&place, &["set", "k"]);
    assert_eq!(done(&place, &["get", "k"]), b"");
}
