//! The holds of the processes that started this one, so that no process waits for an ancestor that
//! waits for it.
//!
//! Each `run` and `memo` adds what it holds to a list in the environment of its command. The list
//! alone proves nothing: it may be old, or that of a process that no longer waits. So a process
//! that is about to wait for a key on it also looks whether that hold is still in force, and
//! whether its holder is still waiting for this process.

use std::ffi::{OsStr, c_int};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use nix::libc;
use nix::sys::signal::Signal::{SIGINT, SIGQUIT};
use slablock::{Cache, Holder, KeyInfo, KeyState, Token};

use crate::failure::Failure;
use crate::processes;
use crate::signals::is_ignored_by;

/// The name of the list.
pub const VARIABLE: &str = "SLABLOCK_HOLDS";
/// The last field of an entry of a whole tree.
const OF_TREE: &str = "tree";
/// No command is nested as deeply; a loop by mistake is not to fill the environment.
const ENTRIES_MAX: usize = 32;

/// What a process that started this one holds, and in which store.
#[derive(Debug, PartialEq)]
struct Entry {
    store: StoreId,
    key: Vec<u8>,
    what: What,
}

/// Device and inode of the slab.
type StoreId = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// A lock or a permit.
    Hold(Token),
    /// A lock or a permit that is held until all that its command started has ended.
    OfTree(Token),
    /// The turn to run a command for all callers of `memo`.
    Turn(Process),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    pid: u32,
    /// In the kernel's ticks: a number alone may be another process's by now.
    started: u64,
}

/// The list for a command that runs under this hold.
pub fn with_hold(cache: &Cache, key: &[u8], token: Token, tree: bool) -> Result<String, Failure> {
    let what = match tree {
        true => What::OfTree(token),
        false => What::Hold(token),
    };
    with(cache, key, what)
}

/// The list for a command that is run for all callers of `memo`.
pub fn with_turn(cache: &Cache, key: &[u8]) -> Result<String, Failure> {
    let me = Process::of(process::id()).map(|(me, _)| me);
    // Without /proc no process would recognise it.
    me.map_or_else(|| Ok(inherited()), |me| with(cache, key, What::Turn(me)))
}

fn with(cache: &Cache, key: &[u8], what: What) -> Result<String, Failure> {
    let (store, key) = (store_id(cache, key)?, key.to_vec());
    let own = Entry { store, key, what }.to_text();
    let before = inherited();
    let mut all: Vec<&str> = before.split_whitespace().chain([&own[..]]).collect();
    let surplus = all.len().saturating_sub(ENTRIES_MAX);
    Ok(all.split_off(surplus).join(" "))
}

/// Why waiting for a key would never end.
pub enum Endless {
    /// This holder waits for this process.
    Waits(Holder),
    /// This holder is dead, and this process is part of what keeps its hold in force.
    Keeps(Holder),
}

/// Whether the key is on the list at all. If so, waiting for it may turn out to be endless later,
/// too.
pub fn is_listed(cache: &Cache, key: &[u8]) -> Result<bool, Failure> {
    Ok(!listed_tokens(cache, key)?.is_empty())
}

/// The tokens under which the key is on the list, and whether each is of a whole tree.
fn listed_tokens(cache: &Cache, key: &[u8]) -> Result<Vec<(Token, bool)>, Failure> {
    listed(cache, key, |what| match what {
        What::Hold(token) => Some((token, false)),
        What::OfTree(token) => Some((token, true)),
        What::Turn(_) => None,
    })
}

/// Why waiting for a key would never end: all that there is of it is held by processes that started
/// this one. `None`: a holder may give back, or has.
pub fn is_endless(cache: &Cache, key: &[u8]) -> Result<Option<Endless>, Failure> {
    let tokens = listed_tokens(cache, key)?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let Some(info) = cache.key_info(key)? else {
        return Ok(None);
    };
    let ancestors = Ancestors::of_this_process();
    let why = |holder: &Holder| {
        let lasts = holder.alive && holder.lease_left.is_none_or(|left| !left.is_zero());
        let listed = tokens.iter().find(|(token, _)| *token == holder.token);
        let (_, tree) = listed.filter(|_| lasts && holder.same_pid_namespace)?;
        let is_it = |process: &Process| process.pid == holder.pid;
        // A tree's holder waits for those in the background, too.
        if ancestors.wait_in(is_it) || *tree && ancestors.0.iter().any(is_it) {
            return Some(Endless::Waits(holder.clone()));
        }
        let is_kept = Process::of(holder.pid).is_none() && has_lifeline(cache, key);
        is_kept.then(|| Endless::Keeps(holder.clone()))
    };
    let all: Option<Vec<Endless>> = all_of(&info).iter().map(why).collect();
    Ok(all.and_then(|all| all.into_iter().next()))
}

/// Whether this process has inherited a lifeline of the store. The lifeline does not tell of which
/// hold.
fn has_lifeline(cache: &Cache, key: &[u8]) -> bool {
    let files_of = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let identity = |path: PathBuf| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let slab = cache.slab_of(key);
    let of_store: Vec<_> = files_of(slab.parent().unwrap_or(&slab))
        .filter_map(|entry| identity(entry.path()))
        .collect();
    files_of(Path::new("/proc/self/fd")).any(|entry| {
        identity(entry.path()).is_some_and(|file| of_store.contains(&file))
            && is_inherited(&entry.file_name())
    })
}

/// Whether a descriptor outlives an exec: none that this process opened does.
fn is_inherited(number: &OsStr) -> bool {
    let path = Path::new("/proc/self/fdinfo").join(number);
    let info = fs::read_to_string(path).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0)
}

/// Whether one of the processes that started this one has the turn to run what `key` stands for,
/// and waits for this process.
pub fn turn_waits_for_us(cache: &Cache, key: &[u8]) -> Result<bool, Failure> {
    let turns = listed(cache, key, |what| match what {
        What::Turn(process) => Some(process),
        _ => None,
    })?;
    let is_open = || cache.contains(key).map(|there| !there);
    Ok(!turns.is_empty()
        && is_open()?
        && Ancestors::of_this_process().wait_in(|process| turns.contains(process)))
}

/// All holders of the key, if nothing of it is available; else none.
fn all_of(info: &KeyInfo) -> &[Holder] {
    match &info.state {
        KeyState::Lock { holder } => holder.as_slice(),
        KeyState::Semaphore {
            available: 0,
            holders,
            value,
        } if holders.len() == *value as usize => holders,
        _ => &[],
    }
}

fn listed<T>(
    cache: &Cache,
    key: &[u8],
    wanted: impl Fn(What) -> Option<T>,
) -> Result<Vec<T>, Failure> {
    let list = inherited();
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let store = store_id(cache, key)?;
    let entries = list.split_whitespace().filter_map(Entry::of_text);
    let of_key = entries.filter(|entry| entry.store == store && entry.key == key);
    Ok(of_key.filter_map(|entry| wanted(entry.what)).collect())
}

/// The list in the environment; a value that is not text is no list.
fn inherited() -> String {
    env::var(VARIABLE).unwrap_or_default()
}

fn store_id(cache: &Cache, key: &[u8]) -> Result<StoreId, Failure> {
    let slab = cache.slab_of(key);
    let meta = fs::metadata(&slab)
        .map_err(|error| Failure::new(format!("cannot look at {}: {error}", slab.display())))?;
    Ok((meta.dev(), meta.ino()))
}

impl Entry {
    fn to_text(&self) -> String {
        let (dev, ino) = self.store;
        let key: String = self.key.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.what {
            What::Hold(token) => format!("{dev}:{ino}:{key}:{token}"),
            What::OfTree(token) => format!("{dev}:{ino}:{key}:{token}:{OF_TREE}"),
            What::Turn(Process { pid, started }) => format!("{dev}:{ino}:{key}:{pid}:{started}"),
        }
    }

    /// `None`: it was not written by this program.
    fn of_text(text: &str) -> Option<Entry> {
        let fields: Vec<&str> = text.split(':').collect();
        let (dev, ino, key, what) = match fields[..] {
            [dev, ino, key, token] => (dev, ino, key, What::Hold(Token::new(token.parse().ok()?))),
            [dev, ino, key, token, OF_TREE] => {
                (dev, ino, key, What::OfTree(Token::new(token.parse().ok()?)))
            }
            [dev, ino, key, pid, started] => {
                let (pid, started) = (pid.parse().ok()?, started.parse().ok()?);
                (dev, ino, key, What::Turn(Process { pid, started }))
            }
            _ => return None,
        };
        let (digits, rest) = key.as_bytes().as_chunks::<2>();
        let bytes = digits.iter().map(|two| {
            let two = str::from_utf8(two).ok()?;
            u8::from_str_radix(two, 16).ok()
        });
        Some(Entry {
            store: (dev.parse().ok()?, ino.parse().ok()?),
            key: bytes.collect::<Option<_>>().filter(|_| rest.is_empty())?,
            what,
        })
    }
}

impl Process {
    /// The process and its parent's number; `None`: it is dead, or `/proc` does not say.
    fn of(pid: u32) -> Option<(Process, u32)> {
        let found = processes::Process::of(pid).filter(|process| !process.is_zombie)?;
        let (pid, started) = (found.pid, found.started);
        Some((Process { pid, started }, found.parent))
    }
}

/// The processes that this one descends from, the nearest first.
struct Ancestors(Vec<Process>);

impl Ancestors {
    fn of_this_process() -> Ancestors {
        let mut next = Process::of(process::id()).map(|(_, parent)| parent);
        let mut all = Vec::new();
        while let Some((process, parent)) = next.filter(|pid| *pid != 0).and_then(Process::of) {
            all.push(process);
            next = Some(parent);
        }
        Ancestors(all)
    }

    /// Whether one of them is meant, and waits for this process to end as far as can be told.
    ///
    /// What a script starts in the background (`&`) it need not wait for. Shells have that ignore
    /// the keys that interrupt; and when the script has ended, the other one is no ancestor any
    /// more.
    fn wait_in(&self, is_meant: impl Fn(&Process) -> bool) -> bool {
        let meant = self.0.iter().find(|process| is_meant(process));
        meant.is_some_and(|ancestor| {
            let keys = [SIGINT, SIGQUIT].map(|signal| signal as c_int);
            let ignored_here = |key: &c_int| is_ignored_by(process::id(), *key);
            let ignored_there = |key: &c_int| is_ignored_by(ancestor.pid, *key);
            !keys.iter().all(ignored_here) || keys.iter().all(ignored_there)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_other_text_is_none() {
        for what in [
            What::Hold(Token::new(u64::MAX)),
            What::OfTree(Token::new(1)),
            What::Turn(Process {
                pid: 77,
                started: 1,
            }),
        ] {
            let entry = Entry {
                store: (1, u64::MAX),
                key: b"a \xff:".to_vec(),
                what,
            };
            assert_eq!(Entry::of_text(&entry.to_text()), Some(entry));
        }
        for other in [
            "",
            "1",
            "1:2:xx:3",
            "1:2:123:3",
            "1:2:12:",
            "1:2:é0:3",
            "::::",
            "1:2:12:3:4:5",
        ] {
            assert_eq!(Entry::of_text(other), None, "{other}");
        }
    }

    #[test]
    fn this_process_has_ancestors() {
        let ancestors = Ancestors::of_this_process();
        let parent = nix::unistd::getppid().as_raw() as u32;
        assert_eq!(ancestors.0[0].pid, parent);
        assert!(ancestors.wait_in(|process| process.pid == parent));
        assert!(!ancestors.wait_in(|process| process.pid == std::process::id()));
    }
}
