//! Errors in words: what was being done, to which key or path, and what to do about it.

use std::{fmt, io};

use nix::errno::Errno;

use super::{Error, show_key};
use crate::{Holder, ProcessInfo};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::KeyLength { .. }
            | Error::ValueLength { .. }
            | Error::TagLength { .. }
            | Error::NotInteger { .. }
            | Error::KindMismatch { .. }
            | Error::ConfigMismatch { .. }
            | Error::Invalid { .. }
            | Error::Caller { .. } => write_of_what_was_asked(f, self),
            Error::NotAStore { .. }
            | Error::Version { .. }
            | Error::Corrupt { .. }
            | Error::UnsupportedFs { .. }
            | Error::Unsupported { .. }
            | Error::Copied { .. }
            | Error::Linked { .. }
            | Error::TooManyParticipants { .. } => write_of_place(f, self),
            Error::Io { .. }
            | Error::NoSpace { .. }
            | Error::Full { .. }
            | Error::OverLimit { .. }
            | Error::NotDurable { .. }
            | Error::Unsynced { .. } => write_of_room(f, self),
            Error::Lost { .. }
            | Error::NotHolder { .. }
            | Error::Deadlock { .. }
            | Error::Replaced { .. }
            | Error::Detached { .. }
            | Error::StructureBusy { .. }
            | Error::Busy { .. } => write_of_others(f, self),
        }
    }
}

/// What was asked for and cannot be done, and what to ask for.
fn write_of_what_was_asked(f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
    match error {
        Error::KeyLength { len } => {
            write!(
                f,
                "a key has 1 to 1024 bytes, this one has {len}; use another, or the hash of a longer one"
            )
        }
        Error::ValueLength { len, limit } => {
            write!(
                f,
                "a value has at most {limit} bytes here, this one has {len}; use several keys, or raise value_limit (1 GiB at the most)"
            )
        }
        Error::TagLength { len } => {
            write!(
                f,
                "a tag has at most 255 bytes, this one has {len}; use a shorter one"
            )
        }
        Error::NotInteger { key, why } => {
            write!(f, "{} cannot be counted up or down: {why}", show_key(key))
        }
        Error::KindMismatch {
            key,
            found,
            expected,
        } => write!(
            f,
            "key {} is used as {expected}, but its kind is {found}; use another key, or remove it first",
            show_key(key)
        ),
        Error::ConfigMismatch {
            what,
            of,
            found,
            expected,
            holders,
        } => {
            write!(f, "{of} has {what} {found}, not {expected} as asked")?;
            write_way_out(f, what, found, holders)
        }
        Error::Invalid { what } => f.write_str(what),
        Error::Caller { source } => write!(f, "the caller's own function failed: {source}"),
        _ => write_of_none(f, error),
    }
}

/// What is in the way where the store is, or should be.
fn write_of_place(f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
    match error {
        Error::NotAStore { path, why } => {
            write!(f, "{} is not a slablock store: {why}", path.display())
        }
        Error::Version {
            path,
            found,
            supported,
        } => write!(
            f,
            "{} is in format {found}, this slablock reads format {supported}; use the version that made it, or another directory",
            path.display()
        ),
        Error::Corrupt { path, what } => write!(
            f,
            "{} is damaged: {what}; close all programs that use it and run `slablock repair`",
            path.display()
        ),
        Error::UnsupportedFs { path, fs } => write!(
            f,
            "{} is on {fs}, where memory is not shared reliably; use a local directory, or allow_network_fs if one machine alone uses it",
            path.display()
        ),
        Error::Unsupported { path, call, source } => write!(
            f,
            "{} cannot be opened: this process may not call {call} ({source}); allow it in its sandbox (seccomp), or run it elsewhere",
            path.display()
        ),
        Error::Copied { path, what } => write!(
            f,
            "{0} was copied or restored ({what}); `slablock adopt {0}` makes it a store of its own",
            path.display()
        ),
        Error::Linked { path, links } => write!(
            f,
            "the slab of {} has {links} names, as in a copy made of hard links; remove the other ones, or put a real copy in its place (cp --no-preserve=links) and adopt that",
            path.display()
        ),
        Error::TooManyParticipants { path, limit } => write!(
            f,
            "{} is open in {limit} processes, which is the limit; close some, or spread the work over several stores",
            path.display()
        ),
        _ => write_of_none(f, error),
    }
}

/// What the device, or the room for keys and values, did not allow.
fn write_of_room(f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
    match error {
        Error::Io {
            action,
            path,
            source,
        } => {
            write!(f, "cannot {action} {}: {source}", path.display())?;
            match io_remedy(source) {
                Some(remedy) => write!(f, "; {remedy}"),
                None => Ok(()),
            }
        }
        Error::NoSpace { action, path } => write!(
            f,
            "no room on the device to {action} {}; it was not done, free some space and try again",
            path.display()
        ),
        Error::Full { path, capacity } => write!(
            f,
            "{} is full (capacity {capacity} keys, none idle); remove or evict keys, or make a store with a larger capacity",
            path.display()
        ),
        Error::OverLimit { path, limit } => write!(
            f,
            "{} has no room for the value within its {limit} bytes; delete some, raise size_limit, or choose an eviction; if others set large values, too, try again",
            path.display()
        ),
        Error::NotDurable { path, source } => write!(
            f,
            "the change of {} is in force, but may not survive a power failure: {source}; do not repeat it, sync the cache, or run `slablock repair` while nobody uses it",
            path.display()
        ),
        Error::Unsynced { path } => write!(
            f,
            "a sync of {} has failed before, so nothing that is to survive a power failure can be changed there; sync the cache, or run `slablock repair` while nobody uses it",
            path.display()
        ),
        _ => write_of_none(f, error),
    }
}

/// What became of a hold, or of an open store; and which others are in the way.
fn write_of_others(f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
    match error {
        Error::Lost { key, token } => write!(
            f,
            "the hold on {} with token {token} was lost (its lease ran out or the key was removed); do not write to what it protects",
            show_key(key)
        ),
        Error::NotHolder { key } => {
            write!(
                f,
                "{} is not held by the caller; acquire it first",
                show_key(key)
            )
        }
        Error::Deadlock { what } => write!(
            f,
            "this thread would wait for ever for {what}, which it has itself; inside a transaction use the transaction, ask for a value after computing it, and drop a guard before acquiring again"
        ),
        Error::Replaced { path } => write!(
            f,
            "{} was removed or replaced while it was open; take all holds in it for lost, drop its handles and open it again",
            path.display()
        ),
        Error::Detached { path } => write!(
            f,
            "the descriptor of {} was closed or replaced in this process by other code; it keeps what it holds (not on overlayfs) and gets nothing more, open the store again after what closes descriptors",
            path.display()
        ),
        Error::StructureBusy { path, pids } => {
            write!(
                f,
                "the structure of {} is being changed by ",
                path.display()
            )?;
            write_pids(f, pids)?;
            f.write_str(", which is stopped or very slow; let it go on, or end it, and try again")
        }
        Error::Busy {
            path,
            lost,
            processes,
        } => {
            write!(f, "{} is in use", path.display())?;
            write_in_use(f, lost, processes)
        }
        _ => write_of_none(f, error),
    }
}

/// An error for which no group has words, if there ever is one.
#[cold]
fn write_of_none(f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
    fmt::Debug::fmt(error, f)
}

/// What can be done about a setting that is another one than was asked for.
fn write_way_out(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    found: &str,
    holders: &[Holder],
) -> fmt::Result {
    match what {
        "permits" => write_busy(f, found, holders),
        "size_limit" | "value_limit" | "eviction" | "durability" => write!(
            f,
            "; ask for {found} or for none, or change it for all who use it (Cache::configure)"
        ),
        "mode" => write!(
            f,
            "; ask for {found} or for none, or change that of its files (chmod)"
        ),
        _ => write!(f, "; ask for {found}, or use another"),
    }
}

/// The holders that are in the way of another number of permits, and what can be done.
fn write_busy(f: &mut fmt::Formatter<'_>, found: &str, holders: &[Holder]) -> fmt::Result {
    let mut by = ", and is held by process ";
    for holder in holders {
        write!(f, "{by}{}", holder.pid)?;
        match holder.program.as_str() {
            "" => Ok(()),
            program => write!(f, " ({program})"),
        }?;
        by = ", ";
    }
    match holders.is_empty() {
        true => f.write_str(", and is in use"),
        false => Ok(()),
    }?;
    write!(f, "; ask for {found}, or try again when nobody has it")
}

fn write_pids(f: &mut fmt::Formatter<'_>, pids: &[u32]) -> fmt::Result {
    match pids.split_first() {
        None => f.write_str("another process")?,
        Some((first, others)) => {
            write!(f, "process {first}")?;
            others.iter().try_for_each(|pid| write!(f, ", {pid}"))?;
        }
    }
    Ok(())
}

/// Which processes have a store open, and what can be done about it.
fn write_in_use(
    f: &mut fmt::Formatter<'_>,
    lost: &[&str],
    processes: &[ProcessInfo],
) -> fmt::Result {
    let mut by = " by process ";
    for process in processes {
        write!(f, "{by}{process}")?;
        by = ", ";
    }
    if !lost.is_empty() {
        let names = lost.join(", ");
        write!(f, ", and its lock files ({names}) were removed meanwhile")?;
    }
    f.write_str(match (processes.is_empty(), lost.is_empty()) {
        (true, _) => {
            "; no process is left that takes part in it: one is just opening it, or has its slab locked \
             without taking part (look for the slab's inode in /proc/locks); end that one, and try again"
        }
        (false, true) => {
            "; close all programs that use it, this one's own handles too, and try again"
        }
        (false, false) => {
            "; nobody else can join until all who use it have ended, then it mends itself"
        }
    })
}

/// What a user can do about the common refusals of the operating system.
fn io_remedy(source: &io::Error) -> Option<&'static str> {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            Some("use a directory that this user may write to, or change its owner or mode")
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("use a directory on a writable file system"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("name a directory, not a file")
        }
        io::ErrorKind::FileTooLarge => {
            Some("allow larger files (ulimit -f), or use fewer or smaller values")
        }
        io::ErrorKind::OutOfMemory => Some(
            "allow more address space (ulimit -v), or use smaller values, or a store of a smaller capacity",
        ),
        _ if source.raw_os_error() == Some(Errno::EMFILE as i32) => {
            Some("close some files, or allow more (ulimit -n)")
        }
        _ => None,
    }
}
