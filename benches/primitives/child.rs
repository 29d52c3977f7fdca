//! Other processes: this program run again, with a part to play. They speak a line per step.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{contention, recovery, storage};

/// The argument that says so.
pub const ROLE: &str = "play";

/// Another process. Killed when it is dropped.
pub struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start<A: AsRef<OsStr>>(part: &str, args: impl IntoIterator<Item = A>) -> Peer {
        let this = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(this)
            .args([ROLE, part])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process can be started");
        Peer {
            to: child.stdin.take().expect("it was piped"),
            from: BufReader::new(child.stdout.take().expect("it was piped")),
            child,
        }
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("the other process listens");
    }

    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("it writes text");
        assert!(!line.is_empty(), "a process of the benchmark ended early");
        line.trim_end().to_string()
    }

    /// A line that is a number.
    pub fn hear_number(&mut self) -> f64 {
        let line = self.hear();
        line.parse()
            .unwrap_or_else(|_| panic!("{line:?} is not a number"))
    }

    /// Sends it SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A failure means that it has ended, which is all that is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the part that the arguments name.
pub fn play(args: &[String]) {
    let [part, args @ ..] = args else {
        panic!("a part is missing");
    };
    match (part.as_str(), args) {
        ("count", [store, page]) => contention::count(store, page),
        ("hold", [store]) => recovery::hold(store),
        ("wait", [store, ms]) => recovery::wait(store, ms),
        ("open", [store]) => storage::open_twice(store),
        _ => panic!("no part is called {part}"),
    }
}

/// In a child: the next line from the parent; `None` when that is gone.
pub fn listen() -> Option<String> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line).unwrap_or(0);
    (read > 0).then(|| line.trim_end().to_string())
}

/// In a child: a line for the parent.
pub fn tell(what: impl std::fmt::Display) {
    println!("{what}");
}
