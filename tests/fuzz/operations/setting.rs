//! Handles: what the input can ask for, and the four kinds behind one face.

use std::time::Duration;

use slablock::{
    Averager, BoundedSemaphore, Cache, Error, Kind, Lock, LockGuard, RLock, RLockGuard, Result,
    SemaphoreGuard,
};

use super::Sort;
use super::model::{Refusal, Setting};

const LEASES_US: [Option<u64>; 8] = [
    None,
    Some(1),
    Some(700_000),
    Some(1_000_000),
    Some(2_000_000),
    Some(5_000_000),
    Some(3_600_000_000),
    Some(0),
];
const KINDS: [Kind; 5] = [
    Kind::RLock,
    Kind::RLock,
    Kind::Lock,
    Kind::Semaphore,
    Kind::Averager,
];
const VALUES: [u32; 4] = [2, 2, 1, 7];

/// A tag: none, two short ones, or one that does not fit everywhere.
pub fn tag(sort: Sort, number: u8) -> Vec<u8> {
    match number % 4 {
        0 => Vec::new(),
        1 => b"t".into(),
        2 => b"u".into(),
        _ if sort == Sort::Tight => b"v".into(),
        _ => vec![b'w'; 100],
    }
}

/// A key: short ones, and where there is room, one of the longest, and one that is too long and one
/// that is too short.
pub fn key(sort: Sort, number: u8) -> Vec<u8> {
    match number & 15 {
        n @ 0..12 => vec![b'a' + n],
        12 if sort != Sort::Tight => vec![b'l'; 1_024],
        13 if sort != Sort::Tight => vec![b'm'; 30],
        14 => vec![b'x'; 1_025],
        15 => Vec::new(),
        n => vec![b'a' + n],
    }
}

/// What a handle is to be. Mostly of the kind that a key has in most inputs, so that not every
/// other operation is refused.
pub fn setting(sort: Sort, key_byte: u8, how: u8) -> Setting {
    let number = usize::from(key_byte & 15);
    let kind = match key_byte >> 4 & 3 {
        3 => KINDS[(number + 1) % KINDS.len()],
        _ => KINDS[number % KINDS.len()],
    };
    let value = match kind {
        Kind::Semaphore => VALUES[usize::from(key_byte >> 6)],
        _ => 1,
    };
    Setting {
        key: key(sort, number as u8),
        kind,
        lease_us: LEASES_US[usize::from(how & 7)],
        tag: tag(sort, how >> 3),
        value,
    }
}

#[derive(Clone)]
pub enum Handle {
    Lock(Lock),
    RLock(RLock),
    Semaphore(BoundedSemaphore),
    Averager(Averager),
}

impl Handle {
    pub fn new(cache: &Cache, of: &Setting) -> Handle {
        let lease = of.lease_us.map(Duration::from_micros);
        macro_rules! made {
            ($variant:ident, $new:expr) => {
                made!($variant, $new, lease)
            };
            ($variant:ident, $new:expr, $bounded:ident) => {{
                let mut handle = $new;
                if let Some(lease) = lease {
                    handle = handle.$bounded(lease);
                }
                if !of.tag.is_empty() {
                    handle = handle.tag(&of.tag);
                }
                Handle::$variant(handle)
            }};
        }
        match of.kind {
            Kind::Lock => made!(Lock, Lock::new(cache, &of.key)),
            Kind::RLock => made!(RLock, RLock::new(cache, &of.key)),
            Kind::Semaphore => {
                made!(Semaphore, BoundedSemaphore::new(cache, &of.key, of.value))
            }
            _ => made!(Averager, Averager::new(cache, &of.key), expire),
        }
    }

    /// `quick`: the way that never waits; otherwise one with a bound, or, of what is there to be
    /// had, without.
    pub fn acquire(&self, how: Acquire) -> Result<Option<Guard>> {
        macro_rules! acquired {
            ($variant:ident, $handle:expr) => {
                match how {
                    Acquire::Try => $handle.try_acquire()?,
                    Acquire::Timeout => $handle.acquire_timeout(Duration::ZERO)?,
                    Acquire::Wait => Some($handle.acquire()?),
                }
                .map(|guard| Guard::$variant(guard.into_owned()))
            };
        }
        Ok(match self {
            Handle::Lock(handle) => acquired!(Lock, handle),
            Handle::RLock(handle) => acquired!(RLock, handle),
            Handle::Semaphore(handle) => acquired!(Permit, handle),
            Handle::Averager(_) => None,
        })
    }
}

/// In which way to acquire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquire {
    Try,
    Timeout,
    /// Without a bound: only for what can be had.
    Wait,
}

pub enum Guard {
    Lock(LockGuard<'static>),
    RLock(RLockGuard<'static>),
    Permit(SemaphoreGuard<'static>),
}

/// A call on whatever guard it is.
macro_rules! with_guard {
    ($guard:expr, $name:ident => $call:expr) => {
        match $guard {
            $crate::fuzz::operations::setting::Guard::Lock($name) => $call,
            $crate::fuzz::operations::setting::Guard::RLock($name) => $call,
            $crate::fuzz::operations::setting::Guard::Permit($name) => $call,
        }
    };
}
pub(super) use with_guard;

impl Guard {
    /// Which of the key's holds it is.
    pub fn at(&self) -> usize {
        match self {
            Guard::Permit(guard) => guard.permit() as usize,
            Guard::Lock(_) | Guard::RLock(_) => 0,
        }
    }
}

/// That an error is the one that was to be expected.
pub fn assert_refused(error: &Error, refusal: Refusal, of: &Setting) {
    let fits = match refusal {
        Refusal::KeyLength => matches!(error, Error::KeyLength { .. }),
        Refusal::Invalid => matches!(error, Error::Invalid { .. }),
        Refusal::KindMismatch => matches!(error, Error::KindMismatch { .. }),
        Refusal::ConfigMismatch => matches!(error, Error::ConfigMismatch { .. }),
        Refusal::Full => matches!(error, Error::Full { .. }),
    };
    assert!(fits, "{of:?}: {error:?} instead of {refusal:?}");
}
