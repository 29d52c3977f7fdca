//! The holders of a key, as far as this process can find out about them.

use std::fs;

use slablock::{Holder, KeyInfo, KeyState};

use crate::text;

/// As much of a command line as fits in a sentence.
const COMMAND_CHARS_MAX: usize = 60;

/// The holder's command line, or `None` if its process is gone or in another PID namespace.
pub fn command_line(holder: &Holder) -> Option<String> {
    if !holder.same_pid_namespace || !still_runs_the_same_program(holder) {
        return None;
    }
    let raw = fs::read(format!("/proc/{}/cmdline", holder.pid)).ok()?;
    let arguments = raw
        .split(|&byte| byte == 0)
        .filter(|argument| !argument.is_empty());
    let words: Vec<String> = arguments.map(text::plain).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// The process id may be another process's by now; another program's name betrays it.
fn still_runs_the_same_program(holder: &Holder) -> bool {
    fs::read_to_string(format!("/proc/{}/comm", holder.pid))
        .is_ok_and(|comm| holder.program.is_empty() || comm.trim_end() == holder.program)
}

/// The command line, or else the program's name, cut to fit in a sentence.
pub fn command(holder: &Holder) -> String {
    let command = command_line(holder).unwrap_or_else(|| text::printable(&holder.program));
    text::shortened(&command, COMMAND_CHARS_MAX)
}

/// "pid 4242 (rsync -a here there)".
pub fn named(holder: &Holder) -> String {
    match (holder.pid, command(holder)) {
        (0, _) => "a process that nobody can name any more".to_owned(),
        (pid, command) if command.is_empty() => format!("pid {pid}"),
        (pid, command) => format!("pid {pid} ({command})"),
    }
}

/// All holders of the key, dead or alive.
pub fn holders(info: &KeyInfo) -> &[Holder] {
    match &info.state {
        KeyState::Lock { holder } => holder.as_slice(),
        KeyState::Semaphore { holders, .. } => holders,
        _ => &[],
    }
}

/// What a waiter waits for: "held by pid 4242 (rsync -a here there) for 3.0 s".
pub fn what_keeps(info: &KeyInfo) -> String {
    let holders = holders(info);
    let Some(longest) = holders.iter().max_by_key(|holder| holder.held_for) else {
        return "just given back".to_owned();
    };
    let time = longest.held_for.map_or("just now".to_owned(), |time| {
        format!("for {}", text::span(time))
    });
    match holders.len() {
        1 => format!("held by {} {time}", named(longest)),
        permits => format!(
            "all {permits} permits held, longest by {} {time}",
            named(longest)
        ),
    }
}
