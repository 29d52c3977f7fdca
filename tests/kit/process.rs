//! Processes that do not outlive a test, and what they say.

use std::io::{BufRead, BufReader, Read};
use std::ops::{Deref, DerefMut};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, channel};

use super::patience::until;

/// A process that is killed when this is dropped.
pub struct KilledAtTheEnd(pub Child);

impl KilledAtTheEnd {
    /// Waits for it to end by itself.
    pub fn ended(&mut self, name: &str) -> ExitStatus {
        let mut status = None;
        until(&format!("{name} ends"), || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.expect("it has ended")
    }
}

impl Deref for KilledAtTheEnd {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for KilledAtTheEnd {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for KilledAtTheEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a process is stopped.
pub fn until_stopped(pid: u32) {
    until_in_state(pid, 'T');
}

/// Waits until the kernel tells that state of a process: `Z` when it has ended and its parent has
/// not asked how.
pub fn until_in_state(pid: u32, state: char) {
    let stat = format!("/proc/{pid}/stat");
    until(&format!("the process is in state {state}"), || {
        let text = std::fs::read_to_string(&stat).unwrap();
        text.rsplit_once(") ").unwrap().1.starts_with(state)
    });
}

/// The lines that come from a process, as they come.
pub fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (said, lines) = channel();
    let source = BufReader::new(source);
    std::thread::spawn(move || {
        source
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| said.send(line))
    });
    lines
}
