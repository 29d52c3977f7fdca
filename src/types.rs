//! The words that every layer shares: kinds of keys, tokens, and what can be said about a key, a
//! cache and a process. What can be said about a holder is in `holder`.

mod holder;

use std::fmt;
use std::num::ParseIntError;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

pub use holder::{Ending, Holder, Predecessor};

/// What a key is. Each key is of one kind for as long as it exists.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A [`Lock`](crate::Lock).
    Lock,
    /// An [`RLock`](crate::RLock).
    RLock,
    /// A [`BoundedSemaphore`](crate::BoundedSemaphore).
    Semaphore,
    /// An [`Averager`](crate::Averager).
    Averager,
    /// A value of the cache, as [`Cache::set`](crate::Cache::set) stores it.
    Value,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Lock => "lock",
            Kind::RLock => "rlock",
            Kind::Semaphore => "semaphore",
            Kind::Averager => "averager",
            Kind::Value => "value",
        })
    }
}

/// A fencing token: the number of a grant.
///
/// For one key, tokens only ever grow, also across expiry, the death of holders, removal and
/// re-creation of the key, and reboots. Hand the token to what the lock protects, and let that
/// refuse whatever comes with a smaller one: then a holder that was stopped past its lease can do
/// no harm. For a semaphore, tokens are unique, and grow in the order in which acquirers arrived at
/// their permit.
///
/// A token is below 2^50, so that it fits a signed 64-bit column of a database, and a double.
///
/// # Examples
///
/// ```
/// use slablock::Token;
///
/// let token: Token = "60147006872635".parse()?; // as `slablock run` sets SLABLOCK_TOKEN
/// assert_eq!(u64::from(token), 60_147_006_872_635);
/// assert!(token > Token::from(1));
/// # Ok::<_, std::num::ParseIntError>(())
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

impl Token {
    /// The token of that number, as read from an environment variable, say.
    pub const fn new(number: u64) -> Token {
        Token(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Token {
        Token(number)
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        token.0
    }
}

/// From digits, as `Display` writes them.
impl FromStr for Token {
    type Err = ParseIntError;

    fn from_str(digits: &str) -> Result<Token, ParseIntError> {
        digits.parse().map(Token)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key, what it is, and how it stands.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KeyInfo {
    /// The key.
    pub key: Vec<u8>,
    /// Its kind.
    pub kind: Kind,
    /// Its tag.
    pub tag: Option<Vec<u8>>,
    /// How it stands.
    pub state: KeyState,
    /// How many threads of all processes sleep until it is given back. A process that waits for
    /// more than six keys at once is counted for six of them.
    pub waiters: usize,
}

/// How a key stands.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum KeyState {
    /// A lock or a re-entrant lock.
    Lock {
        /// The holder. A dead one, or one with an expired lease, is still shown, as such, until
        /// the next one takes over.
        holder: Option<Holder>,
    },
    /// A semaphore.
    Semaphore {
        /// How many permits there are.
        value: u32,
        /// How many could be acquired now.
        available: u32,
        /// The holders of the others, and of those that can be taken over.
        holders: Vec<Holder>,
    },
    /// An average.
    Averager {
        /// What was added; `None` if nothing was since the last `pop` or expiry.
        summary: Option<Summary>,
    },
    /// A value of the cache.
    Value {
        /// How long it is, in bytes.
        bytes: usize,
        /// How long it will be there; `None`: until it is replaced, deleted or evicted.
        expires_in: Option<Duration>,
    },
}

/// What was added to an average.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Their sum.
    pub total: f64,
    /// `total / count`.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// How a cache fares.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many times a value was asked for and found, by all processes since the cache was made.
    /// A forked child counts from its first change on, or its first value that does not lie in
    /// the slots.
    pub hits: u64,
    /// How many times it was not found.
    pub misses: u64,
    /// How many values were evicted to make room, whatever for.
    pub evictions: u64,
    /// Of these, how many because there were as many keys as there may be
    /// ([`Options::capacity`](crate::Options::capacity)).
    pub evictions_for_keys: u64,
    /// Of these, how many because the device was full. The others went because values took as many
    /// bytes as they may ([`Options::size_limit`](crate::Options::size_limit)).
    pub evictions_for_device: u64,
    /// How many times a value was found damaged, and taken for a miss.
    pub damaged: u64,
    /// How many values were computed and could not be kept: see
    /// [`Cache::compute_if_missing`](crate::Cache::compute_if_missing).
    pub unkept: u64,
    /// How many bytes of the files of large values are in use.
    pub bytes_live: u64,
    /// How many bytes of them are left from what was replaced or deleted, until they are compacted
    /// away.
    pub bytes_garbage: u64,
    /// How many bytes of slots values take. With the two above it is what `size_limit` bounds.
    pub bytes_in_slots: u64,
    /// How many slots all keys take, which `capacity` bounds.
    pub slots_used: u64,
    /// When the cache was made, in milliseconds since 1970; 0: not known. Of several shards, the
    /// first.
    pub made_ms: u64,
}

impl Stats {
    /// Both in one, for a store of several shards.
    pub(crate) fn merge(&mut self, other: Stats) {
        self.hits = self.hits.saturating_add(other.hits);
        self.misses = self.misses.saturating_add(other.misses);
        self.evictions = self.evictions.saturating_add(other.evictions);
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.evictions_for_keys, other.evictions_for_keys);
        add(&mut self.evictions_for_device, other.evictions_for_device);
        add(&mut self.bytes_in_slots, other.bytes_in_slots);
        add(&mut self.slots_used, other.slots_used);
        self.made_ms = match self.made_ms {
            0 => other.made_ms,
            made => made,
        };
        self.damaged = self.damaged.saturating_add(other.damaged);
        self.unkept = self.unkept.saturating_add(other.unkept);
        self.bytes_live = self.bytes_live.saturating_add(other.bytes_live);
        self.bytes_garbage = self.bytes_garbage.saturating_add(other.bytes_garbage);
    }
}

/// In one line.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} hits, {} misses, {} evictions, {} damaged, {} not kept; {} bytes in files, {} to be given back",
            self.hits,
            self.misses,
            self.evictions,
            self.damaged,
            self.unkept,
            self.bytes_live,
            self.bytes_garbage
        )
    }
}

/// A process that has a store open, as another one can find out.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// Its id in its PID namespace.
    pub pid: u32,
    /// The program's name, at most 15 bytes of it.
    pub program: String,
    /// Its command line, with blanks between the words; `None` if the process is in another PID
    /// namespace, or gone while another process has something of it (a child that it forked,
    /// or a holder of its lifeline).
    pub command: Option<String>,
}

impl fmt::Display for ProcessInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.command.as_deref().unwrap_or(&self.program);
        write!(f, "{} ({})", self.pid, what.escape_debug())
    }
}

/// What keeps the holds of a process alive when the process itself is gone: see
/// [`Cache::lifeline`](crate::Cache::lifeline).
///
/// Two descriptors for each shard, all close-on-exec. A process has the lifeline while it has
/// either of the two open; hand on both, for the second one tells a repair of the store that a
/// process lives, also when a cleaner of temporary files has removed the lock files.
#[derive(Debug, Default)]
pub struct Lifeline {
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Lifeline {
    /// The descriptors that a child has to inherit: clear their close-on-exec flags there.
    pub fn descriptors(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> + Clone {
        self.descriptors.iter().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_numbers_and_digits() {
        let token: Token = "60147006872635".parse().unwrap();
        assert_eq!(u64::from(token), 60_147_006_872_635);
        assert_eq!(Token::from(7).to_string().parse(), Ok(Token::new(7)));
        assert!("seven".parse::<Token>().is_err());
    }
}
