//! The one error type: a variant for each *different next step* of the caller.

mod display;

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::{Holder, Kind, ProcessInfo, Token};

/// What every fallible operation of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, with which key or path, and what to do about it.
///
/// An error changes nothing that it does not say. That something is held by another is no error:
/// `try_acquire` and `acquire_timeout` answer `Ok(None)`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an action on a file of the store.
    Io {
        /// What was being done, as in "open".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The path is not a store and cannot be made one.
    NotAStore {
        /// The path that was given.
        path: PathBuf,
        /// What was found there instead, and what to do.
        why: String,
    },
    /// The store was made by another version of the format, or uses features that are not known
    /// here.
    Version {
        /// The store.
        path: PathBuf,
        /// The version (or the unknown feature bits) found in the file.
        found: u32,
        /// The version that this library reads.
        supported: u32,
    },
    /// The slab contradicts itself. `Cache::repair` mends what can be mended.
    Corrupt {
        /// The slab.
        path: PathBuf,
        /// What does not hold, and where.
        what: String,
    },
    /// No slot is left, and none could be taken back from an idle lock or semaphore, or by evicting
    /// a value.
    Full {
        /// The store.
        path: PathBuf,
        /// How many slots it was made with.
        capacity: usize,
    },
    /// As many processes have the store open as it has participant numbers.
    TooManyParticipants {
        /// The store.
        path: PathBuf,
        /// How many there can be.
        limit: usize,
    },
    /// A key is empty or longer than 1,024 bytes.
    KeyLength {
        /// Its length in bytes.
        len: usize,
    },
    /// A value is longer than this cache takes. Nothing was evicted for it.
    ValueLength {
        /// Its length in bytes.
        len: usize,
        /// The cache's `value_limit`, 1 GiB at the most.
        limit: u64,
    },
    /// The value is no integer of 64 bits, or would not be one any more.
    NotInteger {
        /// The key, as it was given.
        key: Vec<u8>,
        /// What stands in the way.
        why: &'static str,
    },
    /// The value does not fit into what the cache may take on disk, and nothing may be evicted for
    /// it. Or its garbage cannot be compacted, because the compactor was stopped, and there is
    /// no large value to evict.
    OverLimit {
        /// The directory of the values.
        path: PathBuf,
        /// How many bytes it may take.
        limit: u64,
    },
    /// A tag is longer than 255 bytes.
    TagLength {
        /// Its length in bytes.
        len: usize,
    },
    /// The key exists and is of another kind.
    KindMismatch {
        /// The key, as it was given.
        key: Vec<u8>,
        /// What the key is.
        found: Kind,
        /// What it was asked to be.
        expected: Kind,
    },
    /// A setting of a store, or of a semaphore in use, differs from the one asked for.
    ConfigMismatch {
        /// The setting, as in "permits" or "shards".
        what: &'static str,
        /// The key or path it belongs to.
        of: String,
        /// What is in force: a number, or a word as in "power-loss". A mode is in octal.
        found: String,
        /// What was asked for.
        expected: String,
        /// Of permits: the holders that are alive and within the lease. Empty: a waiter waits for
        /// one, or one was held a moment ago.
        holders: Vec<Holder>,
    },
    /// An argument that can never work: a zero lease, no permits, a number that is not finite.
    Invalid {
        /// Which, and what would do.
        what: String,
    },
    /// The hold is gone: its lease ran out, or the key was removed by force.
    Lost {
        /// The key, as it was given.
        key: Vec<u8>,
        /// The token of the hold that was lost.
        token: Token,
    },
    /// The caller does not hold what it wants to give back.
    NotHolder {
        /// The key, as it was given; that of a transaction is the first that it has touched, or
        /// none.
        key: Vec<u8>,
    },
    /// The directory is on a file system on which mappings or locks are not coherent.
    UnsupportedFs {
        /// The directory.
        path: PathBuf,
        /// The name of the file system's type.
        fs: String,
    },
    /// The system, or a sandbox that this process is in, refuses a system call without which no
    /// store can be shared. Asked when a process opens its first store, before anything is
    /// made.
    Unsupported {
        /// The store that was to be opened.
        path: PathBuf,
        /// The call, as in "futex".
        call: &'static str,
        /// What it was refused with.
        source: io::Error,
    },
    /// The device is full, or a quota is used up.
    NoSpace {
        /// What was being done.
        action: &'static str,
        /// The file that was to grow.
        path: PathBuf,
    },
    /// The change is in force, and it is not known whether it will survive a power failure: the
    /// device has failed to write. [`Cache::sync`](crate::Cache::sync) writes everything once
    /// more; do not make the change again.
    NotDurable {
        /// The store.
        path: PathBuf,
        /// What the device said.
        source: Box<Error>,
    },
    /// The device has failed to write before, to this process or to another one, and nothing is
    /// known of what it has. Nothing that is to survive a power failure can be changed until
    /// [`Cache::sync`](crate::Cache::sync), or `Cache::repair`, has written everything once
    /// more.
    Unsynced {
        /// The store.
        path: PathBuf,
    },
    /// The slab that this process has open is not the one at its path any more: the store was
    /// removed, or another one is in its place. A process that opens it now shares nothing with
    /// those that have this one open.
    Replaced {
        /// The store.
        path: PathBuf,
    },
    /// The calling thread would wait for itself, and so for ever: it is in the middle of a
    /// transaction, or of computing a value, and asks for something that is given back only
    /// when that has ended. Inside a transaction use the transaction; values that are computed
    /// must not need themselves. Or it acquires, without a time limit, a lock that a guard of
    /// this process has, or a semaphore of which such guards have all permits, all without
    /// leases, while the process has no other thread that could drop one: drop it first, or use an
    /// [`RLock`](crate::RLock).
    Deadlock {
        /// The key, or what else it would wait for.
        what: String,
    },
    /// Another part of this program has closed or replaced descriptors of the store in this
    /// process. The process keeps what it holds (not on overlayfs), and gets nothing more that it
    /// would have to wait for. Open the store again, after what closes descriptors (as a daemon
    /// does when it starts).
    Detached {
        /// The store.
        path: PathBuf,
    },
    /// The store is a copy of another one, or was restored from one: it may have fallen behind
    /// tokens that the other has granted since. `Cache::options().adopt(true)`, or `slablock
    /// adopt`, makes it a store of its own.
    Copied {
        /// The store.
        path: PathBuf,
        /// What shows it.
        what: String,
    },
    /// A process has been in the middle of making or removing a key, or of making the slab longer,
    /// for longer than 50 ms, and the key that was asked for cannot be found or made without
    /// that. It is stopped, perhaps. Nobody need hold the key. `try_acquire` and
    /// `acquire_timeout` say so; without a time limit the caller waits.
    StructureBusy {
        /// The store.
        path: PathBuf,
        /// Which processes that are, as far as can be seen.
        pids: Vec<u32>,
    },
    /// The slab has more than one name, as in a copy made of hard links: an opener by the other one
    /// would have other lock files and another log.
    Linked {
        /// The store.
        path: PathBuf,
        /// How many names the slab has.
        links: u64,
    },
    /// What has to be done can only be done alone with the store: a repair, adopting a copy, or
    /// giving the store lock files again when somebody has removed them.
    Busy {
        /// The store.
        path: PathBuf,
        /// Which lock files were removed or replaced while others had the store open; usually
        /// none.
        lost: Vec<&'static str>,
        /// The processes that have it open, as far as that can be told. Empty: a process that is
        /// just opening it, or one that has locked the slab without taking part.
        processes: Vec<ProcessInfo>,
    },
    /// A function of the caller's, as it was given to [`Cache::transact`](crate::Cache::transact)
    /// or to [`Cache::get_or_insert_with`](crate::Cache::get_or_insert_with), has failed.
    Caller {
        /// The error that it returned.
        source: BoxError,
    },
}

/// An error of whatever type, as a function of the caller's may return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a function of the caller's returned: an error of this crate as it is, others as
/// [`Error::Caller`]; so is `NotDurable`, for it says of the operation that it has happened.
impl From<BoxError> for Error {
    fn from(source: BoxError) -> Error {
        match source.downcast::<Error>() {
            Ok(own) if !matches!(*own, Error::NotDurable { .. }) => *own,
            Ok(own) => Error::Caller { source: own },
            Err(source) => Error::Caller { source },
        }
    }
}

/// With the kind of what the operating system said, where it said something; otherwise of the kind
/// that comes nearest.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Io { source, .. } | Error::Unsupported { source, .. } => source.kind(),
            Error::Caller { source } => match source.downcast_ref::<io::Error>() {
                Some(source) => source.kind(),
                None => io::ErrorKind::Other,
            },
            Error::NoSpace { .. } | Error::Full { .. } | Error::OverLimit { .. } => {
                io::ErrorKind::StorageFull
            }
            Error::NotAStore { .. } | Error::Version { .. } | Error::Corrupt { .. } => {
                io::ErrorKind::InvalidData
            }
            Error::KeyLength { .. }
            | Error::ValueLength { .. }
            | Error::TagLength { .. }
            | Error::NotInteger { .. }
            | Error::KindMismatch { .. }
            | Error::ConfigMismatch { .. }
            | Error::Invalid { .. } => io::ErrorKind::InvalidInput,
            Error::Busy { .. } | Error::StructureBusy { .. } => io::ErrorKind::ResourceBusy,
            Error::Deadlock { .. } => io::ErrorKind::Deadlock,
            Error::UnsupportedFs { .. } => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl Error {
    /// Wraps what the operating system said, telling a full device apart from the rest.
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
        let source = source.into();
        let path = path.to_path_buf();
        match source.kind() {
            // A number of the library's own that is no descriptor, or another file's: see
            // `os::kept`.
            _ if source.raw_os_error() == Some(Errno::EBADF as i32) => Error::Detached { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { action, path }
            }
            _ => Error::Io {
                action,
                path,
                source,
            },
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::Unsupported { source, .. } => Some(source),
            Error::NotDurable { source, .. } => Some(source),
            Error::Caller { source } => Some(&**source),
            _ => None,
        }
    }
}

/// A key as it is shown to people: quoted, with what is not printable escaped.
pub(crate) fn show_key(key: &[u8]) -> String {
    format!("\"{}\"", key.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> Error {
        Error::io("read", Path::new("file"), io::ErrorKind::NotFound)
    }

    /// Of a transaction, that it has happened all the same.
    #[test]
    fn what_a_closure_met_elsewhere_is_not_taken_for_the_callers_own() {
        let inner = Error::NotDurable {
            path: "elsewhere".into(),
            source: Box::new(io()),
        };
        let outer = Error::from(BoxError::from(inner));
        assert!(matches!(outer, Error::Caller { .. }), "{outer:?}");
        let outer = Error::from(BoxError::from(io()));
        assert!(matches!(outer, Error::Io { .. }), "{outer:?}");
    }

    #[test]
    fn the_kind_of_an_inner_error_is_kept() {
        let inner = io::Error::from(io::ErrorKind::WouldBlock);
        let outer = Error::from(BoxError::from(inner));
        assert_eq!(io::Error::from(outer).kind(), io::ErrorKind::WouldBlock);
        assert_eq!(io::Error::from(io()).kind(), io::ErrorKind::NotFound);
    }
}
