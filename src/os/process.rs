//! The identity of this process, and whether another still exists.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, gettid};

use crate::os::file::above_standard_descriptors;
use crate::os::{clock, dir, fork};
use crate::sync::crash_point;

/// What identifies a process on this machine. The process id alone does not: it is reused, and
/// means something else in every PID namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot, on the host's scale; 0 if `/proc` does not say.
    pub(crate) started: u64,
    /// The inode of its PID namespace; 0 if `/proc` does not say.
    pub(crate) pid_namespace: u64,
    /// Whether `/proc` shows this PID namespace, so that what it says of a process id can be
    /// believed.
    pub(crate) proc_is_own: bool,
    /// The program's name as the kernel has it, at most 15 bytes.
    pub(crate) program: Vec<u8>,
}

/// What a process never finds out otherwise later: when it started. With the name that it had then.
struct Start {
    /// Of which process that is: a child of a fork is another one, also one that this library was
    /// not told of.
    of: (u32, u32, u64),
    started: u64,
    program: Vec<u8>,
}

static START: Mutex<Option<Start>> = Mutex::new(None);

impl Identity {
    /// What `/proc` does not say is left unknown; an error is that it could not be asked.
    pub(crate) fn of_this_process() -> io::Result<Identity> {
        let (pid, pid_namespace, proc_is_own) =
            (std::process::id(), own_pid_namespace(), proc_is_own());
        let of = (fork::epoch(), pid, pid_namespace);
        let identity = |started, program| Identity {
            pid,
            started,
            pid_namespace,
            proc_is_own,
            program,
        };
        // Not waited for: a fork may have copied it locked.
        if let Ok(known) = START.try_lock()
            && let Some(start) = known.as_ref().filter(|start| start.of == of)
        {
            return Ok(identity(start.started, start.program.clone()));
        }
        let stat = read_proc("/proc/self/stat")?;
        let (program, started) = parse_stat(&stat).unwrap_or_default();
        if proc_is_own
            && pid_namespace != 0
            && started != 0
            && let Ok(mut known) = START.try_lock()
        {
            let program = program.clone();
            *known = Some(Start {
                of,
                started,
                program,
            });
        }
        Ok(identity(started, program))
    }
}

/// The kernel shows times in `/proc` at 100 Hz, whatever it runs at.
const NS_PER_TICK: i64 = 10_000_000;

/// Whether a process id exists in this PID namespace. Doubt counts as yes.
pub(crate) fn pid_exists(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else {
        return true;
    };
    crash_point();
    pid <= 0 || kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

/// Whether `/proc` is mounted for this PID namespace: in a container made without its own, process
/// ids there are those of another one.
fn proc_is_own() -> bool {
    crash_point();
    let me = std::fs::read_link("/proc/self");
    crash_point();
    me.is_ok_and(|me| me.as_os_str().as_bytes() == std::process::id().to_string().as_bytes())
}

pub(crate) fn own_pid_namespace() -> u64 {
    crash_point();
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino())
}

/// Whether the process `pid` started at another time than `then`. Only for a `/proc` of this
/// namespace; no answer counts as no.
pub(crate) fn started_otherwise(pid: u32, then: u64) -> bool {
    // Converting between time namespaces may round differently by one.
    started(pid).is_some_and(|now| then != 0 && now.abs_diff(then) > 1)
}

/// Whether every thread of the process `pid`, which started at `then`, is on its way out of the
/// kernel and will never run the program again: killed, with much memory to be freed, or ended and
/// not reaped. Only for a `/proc` of this namespace; no answer counts as no.
pub(crate) fn is_exiting(pid: u32, then: u64) -> bool {
    let all_exiting = || {
        let threads = threads_of(pid)?;
        let exiting = threads.iter().all(|tid| {
            let stat = read_proc(&format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
            parse_flags(&stat).is_some_and(|flags| flags & PF_EXITING != 0)
        });
        exiting.then_some(threads)
    };
    // A thread that was started by one of these before that began to exit shows in a second list.
    let is_same = || started(pid).is_some_and(|now| then != 0 && now.abs_diff(then) <= 1);
    match all_exiting() {
        Some(threads) => is_same() && threads_of(pid).as_ref() == Some(&threads),
        None => false,
    }
}

/// `PF_EXITING` of linux/sched.h.
const PF_EXITING: u64 = 0x4;

/// At least one, in ascending order.
fn threads_of(pid: u32) -> Option<Vec<u32>> {
    threads_in(&format!("/proc/{pid}/task"))
}

/// Whether the calling thread is the only one of its process; no answer counts as no.
pub(crate) fn is_only_thread() -> bool {
    threads_in("/proc/self/task").is_some_and(|threads| threads.len() == 1)
}

fn threads_in(list: &str) -> Option<Vec<u32>> {
    let names = dir::names(Path::new(list)).ok()?;
    let threads: Option<Vec<u32>> = names
        .iter()
        .map(|name| name.to_str()?.parse().ok())
        .collect();
    let mut threads = threads?;
    threads.sort_unstable();
    (!threads.is_empty()).then_some(threads)
}

/// The kernel's flags of a task, field 9 of its `stat`.
fn parse_flags(stat: &[u8]) -> Option<u64> {
    field(stat, 9)?.parse().ok()
}

/// The command line of a process of this namespace, with blanks between the words, as far as one
/// read has it.
pub(crate) fn command_line(pid: u32) -> Option<String> {
    let bytes = read_proc(&format!("/proc/{pid}/cmdline")).ok()?;
    let words = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn started(pid: u32) -> Option<u64> {
    let stat = read_proc(&format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat).map(|(_, started)| started)
}

/// The program name and the start time (fields 2 and 22) of `/proc/PID/stat`. The name stands in
/// parentheses and may contain any byte, parentheses and blanks too, so the last one closes it.
fn parse_stat(stat: &[u8]) -> Option<(Vec<u8>, u64)> {
    let open = stat.iter().position(|b| *b == b'(')?;
    let close = stat.iter().rposition(|b| *b == b')')?;
    let name = stat.get(open + 1..close)?.to_vec();
    let started: i64 = field(stat, 22)?.parse().ok()?;
    // The kernel shows it on the clock of the reader's time namespace.
    let started = started.saturating_sub(clock::boot_offset_ns() / NS_PER_TICK);
    Some((name, u64::try_from(started).ok()?))
}

/// Field `number` of a `stat`, counted from 1, one behind the name.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    let close = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    // The first word after the name is field 3.
    rest.split_whitespace().nth(number - 3)
}

/// Where the identity of this boot of the machine can be read.
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The identity of this boot of the machine; 0 where `/proc` does not say.
pub(crate) fn boot_id() -> io::Result<u128> {
    let text = read_proc(BOOT_ID)?;
    let digits = text.into_iter().filter_map(|b| (b as char).to_digit(16));
    Ok(digits.fold(0, |id, digit| id << 4 | u128::from(digit)))
}

/// A short file of `/proc` in a single read, which is what makes it one moment's; empty if there is
/// no such file, or not for us. A shortage of descriptors or memory is an error: a caller that took
/// it for "not there" would take this boot for another. The general way asks for its size first,
/// and reads once more for the end.
pub(super) fn read_proc(path: &str) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 1024];
    crash_point();
    let read = File::open(path).and_then(|file| {
        let mut file = File::from(above_standard_descriptors(file.into())?);
        crash_point();
        file.read(&mut bytes)
    });
    let read = match read {
        Err(e) if is_shortage(&e) => return Err(e),
        other => other.unwrap_or(0),
    };
    bytes.truncate(read);
    Ok(bytes)
}

/// Whether the process `pid` has memory that is shared with others mapped at `address`. Only for a
/// `/proc` of this namespace; `None`: it does not say.
pub(crate) fn shares_memory_at(pid: u32, address: u64) -> Option<bool> {
    crash_point();
    let file = File::open(format!("/proc/{pid}/maps")).ok()?;
    let mut file = File::from(above_standard_descriptors(file.into()).ok()?);
    let mut text = String::new();
    crash_point();
    file.read_to_string(&mut text).ok()?;
    // Nothing at all is what there is of a leader that has ended before its threads.
    (!text.is_empty()).then(|| text.lines().any(|line| is_shared_at(line, address)))
}

/// A line is `7f26600000-7f26700000 rw-s 00000000 fe:00 4711 /path`.
fn is_shared_at(line: &str, address: u64) -> bool {
    let mut words = line.split(' ');
    let range = words.next().and_then(|range| range.split_once('-'));
    let number = |text| u64::from_str_radix(text, 16);
    let covers = range.is_some_and(|(from, to)| match (number(from), number(to)) {
        (Ok(from), Ok(to)) => (from..to).contains(&address),
        _ => false,
    });
    covers && words.next().is_some_and(|how| how.ends_with('s'))
}

fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];
    shortages
        .iter()
        .any(|e| error.raw_os_error() == Some(*e as i32))
}

thread_local! {
    static TID: Cell<u32> = const { Cell::new(0) };
}

/// The kernel's id of this thread. A system call the first time, then 1 ns.
#[inline]
pub(crate) fn tid() -> u32 {
    match TID.get() {
        0 => ask_tid(),
        tid => tid,
    }
}

#[cold]
fn ask_tid() -> u32 {
    crash_point();
    let tid = gettid().as_raw() as u32;
    TID.set(tid);
    tid
}

/// Makes the calling thread forget its id: in the child of a fork it has another.
pub(super) fn forget_tid() {
    TID.set(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_program_name_does_not_shift_the_fields() {
        let stat = b"12 (a) b ((x) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0";
        assert_eq!(parse_stat(stat), Some((b"a) b ((x".to_vec(), 4242)));
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"12 )(" as &[u8]), None);
    }

    #[test]
    fn this_process_is_who_it_says() {
        let me = Identity::of_this_process().unwrap();
        assert!(pid_exists(me.pid));
        assert_eq!(started(me.pid), Some(me.started));
        assert_ne!(boot_id().unwrap(), 0);
        assert_ne!(std::thread::spawn(tid).join().unwrap(), tid());
        assert!(!is_exiting(me.pid, me.started));
        assert!(std::thread::spawn(|| !is_only_thread()).join().unwrap());
        let words: Vec<String> = std::env::args().filter(|word| !word.is_empty()).collect();
        assert_eq!(command_line(me.pid), Some(words.join(" ")));
    }

    #[test]
    fn shared_memory_is_known_by_its_address() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4_096).unwrap();
        let map = memmap2::MmapOptions::new()
            .len(4_096)
            .map_raw(&file)
            .unwrap();
        let (me, at) = (std::process::id(), map.as_ptr() as u64);
        assert_eq!(shares_memory_at(me, at), Some(true));
        assert_eq!(shares_memory_at(me, 0), Some(false));
        // Its own stack is not shared.
        assert_eq!(shares_memory_at(me, &raw const at as u64), Some(false));
        drop(map);
        assert_eq!(shares_memory_at(me, at), Some(false));
    }
}
