//! `slablock memo`: run a command once for all who ask, and replay what came of it.
//!
//! What is kept under the key is a line of text, then the command's standard output, then its standard error:
//!
//!     slablock memo 1 STATUS BYTES-OF-OUTPUT BYTES-OF-ERRORS\n

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{Write, stderr, stdout},
    os::unix::{ffi::OsStrExt, process::ExitStatusExt},
    path::Path,
    process::ExitStatus,
};

use nix::sys::signal::Signal::{self, SIGCHLD};
use slablock::{Cache, SetOptions};

use crate::{
    capture::{Capture, OUTPUT_BYTES_MAX},
    child::{self, Child, Program, Streams},
    failure::Failure,
    place::Place,
    run::{self, SIGNALLED},
    signals::{Arrived, Signals},
    supervise::pass_on_early,
    text,
};

const MAGIC: &str = "slablock memo 1 ";
/// What precedes the command in a key that was not named: nobody takes it for a name of one's own.
const KEY_PREFIX: &[u8] = b"memo: ";
const KEY_BYTES_MAX: usize = 1_024;

/// What `slablock memo` is to do.
pub struct MemoPlan {
    pub key: Vec<u8>,
    pub options: SetOptions,
    pub success_only: bool,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    status: u8,
    output: Vec<u8>,
    errors: Vec<u8>,
}

/// The same, where it was kept: it is not copied, for it may be as long as a value can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept<'a> {
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
    memo_guarded(dir, plan).map_err(Failure::of_run)
}

fn memo_guarded(dir: &Path, plan: &MemoPlan) -> Result<u8, Failure> {
    let signals = Signals::block()?;
    let place = Place::open_or_create(dir)?;
    let shard = place.shard(&plan.key);
    let mut ran = None;
    let compute = || {
        signals.hold_back()?;
        let outcome = Run {
            dir,
            plan,
            shard,
            signals: &signals,
        }
        .to_its_end()?;
        let kept = outcome.encode();
        ran = Some(outcome);
        Ok(kept)
    };
    // A waiter has nothing to tidy up, so the signals may simply end it.
    let computed =
        signals.let_through(|| shard.compute_if_missing(&plan.key, &plan.options, compute))?;
    let outcome = match (computed, ran) {
        (Ok(there), None) => {
            let kept = Kept::decode(&there.value).ok_or_else(|| no_memo(&plan.key))?;
            return signals.let_through(|| kept.replay())?;
        }
        (Ok(computed), Some(outcome)) => {
            // It ran, so its output is shown, whatever becomes of the value.
            match computed.unkept {
                // The store was cleared meanwhile, as somebody wanted.
                None | Some(slablock::Error::Lost { .. }) => {}
                Some(error) => drop(Failure::from(error).report()),
            }
            outcome
        }
        (Err(Unkept::ForUs(outcome)), _) => outcome,
        (Err(Unkept::Failed(failure)), _) => return Err(failure),
    };
    // Whoever reads this may be slow, and the signals end that, too.
    signals.let_through(|| outcome.as_kept().replay())?
}

fn no_memo(key: &[u8]) -> Failure {
    let name = text::quoted(key);
    Failure::new(format!(
        "the value of {name} is not what a command left; use another key, or delete it first"
    ))
}

impl Outcome {
    fn encode(&self) -> Vec<u8> {
        let (output, errors) = (self.output.len(), self.errors.len());
        let line = format!("{MAGIC}{} {output} {errors}\n", self.status);
        [line.as_bytes(), &self.output, &self.errors].concat()
    }

    fn as_kept(&self) -> Kept<'_> {
        Kept {
            status: self.status,
            output: &self.output,
            errors: &self.errors,
        }
    }
}

impl<'a> Kept<'a> {
    /// `None`: these bytes are something else.
    fn decode(bytes: &'a [u8]) -> Option<Kept<'a>> {
        let rest = bytes.strip_prefix(MAGIC.as_bytes())?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = (str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]);
        let numbers = line.split(' ').map(str::parse);
        let numbers: Vec<usize> = numbers.collect::<Result<_, _>>().ok()?;
        let &[status, output, errors] = &numbers[..] else {
            return None;
        };
        (output.checked_add(errors)? == rest.len()).then(|| Kept {
            status: status.min(255) as u8,
            output: &rest[..output],
            errors: &rest[output..],
        })
    }

    fn replay(&self) -> Result<u8, Failure> {
        // A closed standard error is no reason to fail.
        let _ = stderr().lock().write_all(self.errors);
        let mut out = stdout().lock();
        out.write_all(self.output)?;
        out.flush()?;
        Ok(self.status)
    }
}

/// The run of a command of which everything is kept.
struct Run<'a> {
    dir: &'a Path,
    plan: &'a MemoPlan,
    shard: &'a Cache,
    signals: &'a Signals,
}

impl Run<'_> {
    fn to_its_end(&self) -> Result<Outcome, Unkept> {
        // Whoever asked us to end meanwhile does not want the command started at all.
        if let Some(signal) = self.signals.end_requested()? {
            let status = SIGNALLED + signal as u8;
            return Err(Failure::silent(status).chosen().into());
        }
        let (mut child, mut capture) = self.start()?;
        let ended = self.attend(&mut child, &mut capture);
        if ended.is_err() {
            child.send(Signal::SIGKILL);
            let _ = child.wait();
        }
        let ended = ended?;
        let (output, errors) = capture.into_bytes();
        let outcome = Outcome {
            status: run::status_of(ended),
            output,
            errors,
        };
        let is_kept = ended.signal().is_none() && (ended.success() || !self.plan.success_only);
        match is_kept {
            true => Ok(outcome),
            false => Err(Unkept::ForUs(outcome)),
        }
    }

    fn start(&self) -> Result<(Child, Capture), Failure> {
        let lifeline = self.shard.lifeline()?;
        child::learn_of_ends()?;
        let (capture, output, errors) = Capture::new()?;
        let streams = Streams {
            input: File::open("/dev/null")?.into(),
            output,
            errors,
        };
        let variables = [
            ("SLABLOCK_DIR", self.dir.as_os_str()),
            ("SLABLOCK_KEY", OsStr::from_bytes(&self.plan.key)),
        ];
        let mask = self.signals.mask_before();
        let child = Program::new(&self.plan.command, &variables)
            .and_then(|program| program.start(&mask, &lifeline, Some(&streams)))
            .map_err(|error| run::not_started(&self.plan.command[0], &error))?;
        Ok((child, capture))
    }

    /// Waits for the command's end, reads what it writes, and passes signals on to it.
    fn attend(&self, child: &mut Child, capture: &mut Capture) -> Result<ExitStatus, Failure> {
        pass_on_early(child, self.signals)?;
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
            match self.signals.next_beside(None, &capture.open())? {
                Some(Arrived {
                    signal: SIGCHLD, ..
                }) => {}
                Some(arrived) if arrived.is_for_us_alone() => child.send(arrived.signal),
                _ => {}
            }
        }
    }
}

fn too_much() -> Failure {
    Failure::new("the command wrote more than 1 GiB and was ended; let it write to a file")
}

/// The key under which a command is kept that was not given one: as it would be typed.
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
        let outcome = Outcome {
            status: 7,
            output: b"one\ntwo".to_vec(),
            errors: b"\0\xff".to_vec(),
        };
        let kept = outcome.encode();
        assert_eq!(Kept::decode(&kept), Some(outcome.as_kept()));
        assert_eq!(Kept::decode(&kept[..kept.len() - 1]), None);
        for other in [
            "",
            "hello",
            "slablock memo 1 0 0 0",
            "slablock memo 1 0 0\n",
            "slablock memo 1 0 1 18446744073709551615\n",
            "slablock memo 1 0 0 0 0\n",
        ] {
            assert_eq!(Kept::decode(other.as_bytes()), None, "{other}");
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
