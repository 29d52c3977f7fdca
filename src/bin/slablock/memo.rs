//! `slablock memo`: run a command once for all callers, and replay its outcome.
//!
//! What is kept under the key is a line of text, then the command's standard output, then its
//! standard error:
//!
//!     slablock memo 1 STATUS BYTES-OF-OUTPUT BYTES-OF-ERRORS\n

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write, stderr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{self, ExitStatus};

use nix::sys::signal::Signal;
use slablock::{Cache, SetOptions};

use crate::capture::{Capture, OUTPUT_BYTES_MAX, no_memory};
use crate::child::{self, Child, Streams};
use crate::failure::{FAILED, Failure};
use crate::output::{Unwritten, print};
use crate::passed::Passed;
use crate::program::Program;
use crate::run::{self, SIGNALLED};
use crate::signals::{self, Arrived, Signals};
use crate::supervise::pass_on_early;
use crate::values::KEY_BYTES_MAX;
use crate::{nesting, place, text};

const MAGIC: &str = "slablock memo 1 ";
/// What precedes the command in a key that the user did not name: it is not taken for a name that a
/// user chose.
const KEY_PREFIX: &[u8] = b"memo: ";

/// What `slablock memo` is to do.
pub struct MemoPlan {
    pub key: Vec<u8>,
    pub options: SetOptions,
    pub keep_failures: bool,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// What came of a command.
struct Outcome {
    status: u8,
    output: Vec<u8>,
    errors: Vec<u8>,
}

/// What came of a command, wherever it lies: it may be so long that there is no memory for it
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said<'a> {
    status: u8,
    output: &'a [u8],
    errors: &'a [u8],
}

/// Why there is nothing to keep.
enum Unkept {
    Failed(Failure),
    /// It ran, but only for us.
    ForUs(Outcome),
}

impl From<slablock::Error> for Unkept {
    fn from(error: slablock::Error) -> Unkept {
        Unkept::Failed(error.into())
    }
}

impl From<nix::Error> for Unkept {
    fn from(error: nix::Error) -> Unkept {
        Unkept::Failed(error.into())
    }
}

impl From<Failure> for Unkept {
    fn from(failure: Failure) -> Unkept {
        Unkept::Failed(failure)
    }
}

/// Replays the command, or runs it, and returns the status to exit with.
pub fn memo(dir: &Path, plan: &MemoPlan) -> Result<u8, Failure> {
    let signals = Signals::block(signals::catchable())?;
    // Nothing is held, so the signals may simply end this process. So they may a waiter.
    let cache = signals.let_through(|| place::open_or_create(dir))??;
    if nesting::turn_waits_for_us(&cache, &plan.key)? {
        let name = text::quoted(&plan.key);
        return Err(Failure::new(format!(
            "waiting for {name} would never end: it is being run by a slablock that waits for this command; \
             name another key with --key"
        )));
    }
    let mut ran = None;
    let compute = || {
        signals.hold_back()?;
        let outcome = Run {
            dir,
            plan,
            cache: &cache,
            signals: &signals,
        }
        .to_its_end()?;
        match outcome.said().encode() {
            Ok(kept) => {
                ran = Some(outcome);
                Ok(kept)
            }
            Err(no_memory) => {
                text::complain(format_args!("not kept: {no_memory}"));
                Err(Unkept::ForUs(outcome))
            }
        }
    };
    // A waiter has nothing to tidy up, so the signals may simply end it.
    let computed =
        signals.let_through(|| cache.compute_if_missing(&plan.key, &plan.options, compute))?;
    let outcome = match (computed, ran) {
        (Ok(there), None) => {
            let kept = Said::decode(&there.value).ok_or_else(|| no_memo(&plan.key))?;
            return Ok(signals.let_through(|| kept.replay())?);
        }
        (Ok(computed), Some(outcome)) => {
            // It ran, so its output is shown, whatever becomes of the value.
            match computed.unkept {
                // The store was cleared meanwhile, as another process wanted.
                None | Some(slablock::Error::Lost { .. }) => {}
                Some(error) => drop(unkept(error).report()),
            }
            outcome
        }
        (Err(Unkept::ForUs(outcome)), _) => outcome,
        (Err(Unkept::Failed(failure)), _) => return Err(failure),
    };
    // The reader of this output may be slow; the signals end this process while it writes, too.
    Ok(signals.let_through(|| outcome.said().replay())?)
}

/// The command ran all the same, which "it was not done" would deny.
fn unkept(error: slablock::Error) -> Failure {
    match error {
        slablock::Error::NoSpace { action, path } => Failure::new(format!(
            "not kept: no room on the device to {action} {}; free some space",
            path.display()
        )),
        error => Failure::from(error).after("not kept"),
    }
}

fn no_memo(key: &[u8]) -> Failure {
    let name = text::quoted(key);
    Failure::new(format!(
        "the value of {name} is not what a command left; use another key, or delete it first"
    ))
}

impl Outcome {
    fn said(&self) -> Said<'_> {
        Said {
            status: self.status,
            output: &self.output,
            errors: &self.errors,
        }
    }
}

impl<'a> Said<'a> {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let (output, errors) = (self.output.len(), self.errors.len());
        let line = format!("{MAGIC}{} {output} {errors}\n", self.status);
        let parts = [line.as_bytes(), self.output, self.errors];
        let len = parts.iter().map(|part| part.len()).sum();
        let mut kept = Vec::new();
        kept.try_reserve_exact(len)
            .map_err(|_| no_memory(len, "what the command wrote, once more"))?;
        parts.iter().for_each(|part| kept.extend_from_slice(part));
        Ok(kept)
    }

    /// `None`: these bytes are something else.
    fn decode(bytes: &'a [u8]) -> Option<Said<'a>> {
        let rest = bytes.strip_prefix(MAGIC.as_bytes())?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = (str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]);
        let numbers = line.split(' ').map(str::parse);
        let numbers: Vec<usize> = numbers.collect::<Result<_, _>>().ok()?;
        let &[status, output, errors] = &numbers[..] else {
            return None;
        };
        (output.checked_add(errors)? == rest.len()).then(|| Said {
            status: status.min(255) as u8,
            output: &rest[..output],
            errors: &rest[output..],
        })
    }

    /// Writes what the command wrote, and returns its status: also if the reader has gone, but
    /// never success if the output could not be written.
    fn replay(&self) -> u8 {
        // A closed standard error is no reason to fail.
        let _ = stderr().lock().write_all(self.errors);
        match print(self.output) {
            Ok(()) | Err(Unwritten::Unread) => self.status,
            Err(unwritten) => {
                text::complain(unwritten);
                match self.status {
                    0 => FAILED,
                    status => status,
                }
            }
        }
    }
}

/// The run of a command of which everything is kept.
struct Run<'a> {
    dir: &'a Path,
    plan: &'a MemoPlan,
    cache: &'a Cache,
    signals: &'a Signals,
}

impl Run<'_> {
    fn to_its_end(&self) -> Result<Outcome, Unkept> {
        // If a signal has asked for an end meanwhile, the command is not started at all.
        if let Some(number) = self.signals.end_requested()? {
            let status = SIGNALLED + number as u8;
            return Err(Failure::silent(status).into());
        }
        let (mut child, mut capture) = self.start()?;
        let ended = match self.attend(&mut child, &mut capture) {
            Ok(ended) => ended,
            Err(failure) => {
                child.send(Signal::SIGKILL);
                let _ = child.wait();
                self.end_in_turn(Err(failure));
            }
        };
        let (output, errors) = capture.into_bytes();
        let outcome = Outcome {
            status: run::status_of(ended),
            output,
            errors,
        };
        match ended.code() {
            None => self.end_in_turn(Ok(outcome)),
            Some(0) => Ok(outcome),
            Some(_) if self.plan.keep_failures => Ok(outcome),
            Some(_) => Err(Unkept::ForUs(outcome)),
        }
    }

    /// Ends this process without giving back the turn to run the command, which a signal ended:
    /// what it started may still be doing the same work. By the lifeline the turn lasts until all
    /// of that has ended, and then is the next process's.
    fn end_in_turn(&self, outcome: Result<Outcome, Failure>) -> ! {
        let replay = || outcome.map(|outcome| outcome.said().replay());
        let replayed = self.signals.let_through(replay);
        let done = replayed.map_err(Failure::from).and_then(|done| done);
        let status = done.unwrap_or_else(|failure| failure.tell());
        process::exit(status.into())
    }

    fn start(&self) -> Result<(Child, Capture), Failure> {
        let lifeline = self.cache.lifeline_of(&self.plan.key)?;
        child::learn_of_ends()?;
        let (capture, output, errors) = Capture::new()?;
        let streams = Streams {
            input: File::open("/dev/null")?.into(),
            output,
            errors,
        };
        let holds = nesting::with_turn(self.cache, &self.plan.key)?;
        let variables = [
            ("SLABLOCK_DIR", self.dir.as_os_str()),
            ("SLABLOCK_KEY", OsStr::from_bytes(&self.plan.key)),
            (nesting::VARIABLE, OsStr::new(&holds)),
        ];
        let mask = self.signals.mask_before();
        let child = Program::new(&self.plan.command, &variables)
            .and_then(|program| {
                child::start(&program, &mask, Passed::Lifeline(&lifeline), Some(&streams))
            })
            .map_err(|error| run::not_started(&self.plan.command[0], &error))?;
        Ok((child, capture))
    }

    /// Waits for the command's end, reads what it writes, and passes signals on to it.
    fn attend(&self, child: &mut Child, capture: &mut Capture) -> Result<ExitStatus, Failure> {
        pass_on_early(self.signals, |arrived| child.pass_on(arrived))?;
        loop {
            // What it wrote before it ended is in the pipes when it is known to have ended.
            let ended = child.try_wait()?;
            capture.read()?;
            if capture.len() > OUTPUT_BYTES_MAX {
                return Err(too_much());
            }
            if let Some(status) = ended {
                return Ok(status);
            }
            let arrived = self.signals.next_beside(None, &capture.open())?;
            if let Some(arrived) = arrived.filter(Arrived::is_to_be_passed_on) {
                child.pass_on(&arrived);
            }
        }
    }
}

fn too_much() -> Failure {
    Failure::new("the command wrote more than 1 GiB and was ended; let it write to a file")
}

/// The key under which a command is kept if the user named none: the command as it would be typed.
pub fn key_of(command: &[OsString]) -> Vec<u8> {
    let words = command.iter().map(|word| quoted_word(word.as_bytes()));
    let words = words.collect::<Vec<_>>().join(&b' ');
    let key = [KEY_PREFIX, &words].concat();
    if key.len() <= KEY_BYTES_MAX {
        return key;
    }
    let hash = format!("... {:016x} {}", fnv_1a(&key), key.len());
    [&key[..KEY_BYTES_MAX - hash.len()], hash.as_bytes()].concat()
}

/// A word as a shell understands it, so that no two commands look the same.
fn quoted_word(word: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(byte);
    if !word.is_empty() && word.iter().all(is_plain) {
        return word.to_vec();
    }
    let mut quoted = b"'".to_vec();
    for byte in word {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Fowler, Noll and Vo's hash, which stays the same from version to version.
fn fnv_1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_back_and_other_values_do_not() {
        let outcome = Said {
            status: 7,
            output: b"one\ntwo",
            errors: b"\0\xff",
        };
        let kept = outcome.encode().unwrap();
        assert_eq!(Said::decode(&kept), Some(outcome));
        assert_eq!(Said::decode(&kept[..kept.len() - 1]), None);
        for other in [
            "",
            "hello",
            "slablock memo 1 0 0 0",
            "slablock memo 1 0 0\n",
            "slablock memo 1 0 1 18446744073709551615\n",
            "slablock memo 1 0 0 0 0\n",
        ] {
            assert_eq!(Said::decode(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn no_two_commands_have_the_same_key() {
        let key = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            String::from_utf8(key_of(&words)).unwrap()
        };
        assert_eq!(key(&["ls", "-l", "a.txt"]), "memo: ls -l a.txt");
        assert_eq!(key(&["sh", "-c", "it's"]), r"memo: sh -c 'it'\''s'");
        assert_ne!(key(&["a", "b"]), key(&["a b"]));
        assert_ne!(key(&["a", ""]), key(&["a"]));
        let long = "x".repeat(2_000);
        let (one, two) = (key(&["a", &long, "1"]), key(&["a", &long, "2"]));
        assert!(one.len() == KEY_BYTES_MAX && one != two);
    }
}
