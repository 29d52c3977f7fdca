//! Other processes: this program run again, or Python, with a part to play. They speak a line per step.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Answer, Failure, interrupt};

/// The argument that says so.
pub const ROLE: &str = "play";
/// How long one step may take at the most, before its peer is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Another process. Killed when it is dropped, and when this one dies.
pub struct Peer {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    /// Read, but not yet asked for.
    pending: VecDeque<u8>,
}

impl Peer {
    /// This program, with a part and what that needs.
    pub fn myself() -> Answer<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE);
        Ok(command)
    }

    /// Starts `command`, and waits until it says that it is ready.
    pub fn start(command: Command) -> Answer<Peer> {
        let mut peer = Peer::spawn(command)?;
        peer.ready()?;
        Ok(peer)
    }

    /// Starts `command`, which says that it is [`ready`](Peer::ready) before anything else.
    pub fn spawn(mut command: Command) -> Answer<Peer> {
        interrupt::check()?;
        // SAFETY: one system call, between `fork` and `exec`.
        unsafe { command.pre_exec(die_with_parent) };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Peer {
            to: child.stdin.take().ok_or("no pipe")?,
            from: child.stdout.take().ok_or("no pipe")?,
            child,
            pending: VecDeque::new(),
        })
    }

    pub fn ready(&mut self) -> Answer<()> {
        match self.hear()?.as_str() {
            "ready" => Ok(()),
            other => Err(other.into()),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn say(&mut self, line: &str) -> Answer<()> {
        Ok(writeln!(self.to, "{line}")?)
    }

    /// The next line.
    pub fn hear(&mut self) -> Answer<String> {
        let line = self.hear_within(PATIENCE)?;
        line.ok_or_else(|| format!("no answer within {} s", PATIENCE.as_secs()).into())
    }

    /// Says something, and returns what comes back.
    pub fn ask(&mut self, line: &str) -> Answer<String> {
        self.say(line)?;
        self.hear()
    }

    /// Says a line, and hears a number.
    pub fn ask_number(&mut self, line: &str) -> Answer<f64> {
        number(&self.ask(line)?)
    }

    /// The next line; `None` if there is none in time.
    pub fn hear_within(&mut self, patience: Duration) -> Answer<Option<String>> {
        let end = Instant::now() + patience;
        loop {
            interrupt::check()?;
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=at).collect();
                return checked(String::from_utf8_lossy(&line).trim_end()).map(Some);
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.readable(left)? {
                Some(true) => {}
                Some(false) => return Ok(None),
                None => continue,
            }
            let mut buffer = [0; 4096];
            let read = self.from.read(&mut buffer)?;
            if read == 0 {
                return Err("the process ended early".into());
            }
            self.pending.extend(&buffer[..read]);
        }
    }

    /// Is there something to read before the time is over? `None`: a signal came.
    fn readable(&self, patience: Duration) -> Answer<Option<bool>> {
        let mut poll = libc::pollfd {
            fd: self.from.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let ms = patience.as_micros().div_ceil(1_000).min(i32::MAX as u128) as i32;
        // SAFETY: one valid structure, and its number.
        match unsafe { libc::poll(&mut poll, 1, ms) } {
            0 => Ok(Some(false)),
            1.. => Ok(Some(true)),
            _ => match std::io::Error::last_os_error() {
                error if error.kind() == ErrorKind::Interrupted => Ok(None),
                error => Err(error.into()),
            },
        }
    }

    /// Sends it SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        // A failure means that it has ended, which is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Nobody may be left waiting for a lock for ever.
fn die_with_parent() -> std::io::Result<()> {
    // SAFETY: numbers only.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// What a process could not do, it tells in a line that begins so.
const FAILED: &str = "failed: ";

fn checked(line: &str) -> Answer<String> {
    match line.strip_prefix(FAILED) {
        Some(why) => Err(why.into()),
        None => Ok(line.to_string()),
    }
}

/// A word of an answer, as a number.
pub fn number(word: &str) -> Answer<f64> {
    let parsed = word.parse();
    parsed.map_err(|_| Failure::from(format!("{word:?} is not a number")))
}

/// In a child: the next line from the parent; `None` when that is gone.
pub fn listen() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).unwrap_or(0);
    (read > 0).then(|| line.trim_end().to_string())
}

/// In a child: a line for the parent. Without one there is nothing left to do.
pub fn tell(what: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{what}").is_err() {
        std::process::exit(1);
    }
}

/// In a child: an answer, or why there is none.
pub fn tell_answer(answer: Answer<String>) {
    match answer {
        Ok(line) => tell(line),
        Err(failure) => tell(format!("{FAILED}{failure}").replace('\n', " ")),
    }
}
