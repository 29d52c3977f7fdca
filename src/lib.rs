//! Locks, re-entrant locks, semaphores, running averages and a cache of values that the processes
//! of one machine share through a directory. No server, no database: a mapped file, two atomic
//! operations on the hot path, and the kernel's word on which process is dead.
//!
//! ```
//! # fn main() -> slablock::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path().join("jobs");
//! use slablock::{Cache, Lock};
//!
//! let cache = Cache::open(&dir)?; // the same directory in every program
//! let lock = Lock::new(&cache, "nightly-report");
//! let guard = lock.acquire()?; // waits; woken by the holder's release, or its death
//! if let Some(dead) = guard.recovered() {
//!     eprintln!("{} (process {}) died at this", dead.program, dead.pid);
//! }
//! // ... what only one may do at a time ...
//! # Ok(())
//! # }
//! ```
//!
//! * [`Lock`]: one holder. [`RLock`]: one holder, again and again. [`BoundedSemaphore`]: so many
//!   holders. [`Averager`]: a running average.
//! * They live under keys in a [`Cache`], of one store or of several side by side
//!   ([`Options::shards`]).
//! * Values live there, too: [`Cache::set`] and [`Cache::get`], [`Cache::incr`],
//!   [`Cache::get_or_insert_with`] to compute one once for all processes, [`Cache::transact`] to
//!   change several at once. [`SetOptions`] has how long, and a tag; [`Options`] how much room,
//!   what goes when there is none, and what a value survives.
//! * A dead holder blocks nobody, and its successor is told ([`LockGuard::recovered`]).
//! * A lease ([`Lock::lease`]) bounds how long a hold may last; a [`Token`] with every grant fences
//!   off the late.
//!
//! [`docs`] has the pages of the repository: what is guaranteed when a process is killed, stopped
//! or forked, the format of the files, the protocol, how it is proved, what it costs, and how to
//! run it.

#[cfg(not(loom))]
mod averager;
#[cfg(not(loom))]
pub mod cache;
#[cfg(not(loom))]
mod error;
#[cfg(all(any(fuzzing, test), not(loom)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(not(loom))]
mod key;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod rlock;
#[cfg(not(loom))]
mod semaphore;
#[cfg(not(loom))]
mod types;

#[cfg(not(loom))]
mod store;

#[cfg(not(loom))]
mod log;
#[cfg(not(loom))]
mod slab;

#[cfg(not(loom))]
mod os;
// Checked alone by loom: its atomics have another size than real ones and cannot lie in a map.
#[cfg_attr(loom, allow(dead_code, unused_imports))]
mod record;

mod sync;
#[cfg(crash_points)]
#[doc(hidden)]
pub use sync::crash;

#[cfg(not(loom))]
pub use crate::{
    averager::Averager,
    cache::{Cache, Computed, FanoutCache, Options, Reader, SetOptions, Transaction},
    error::{BoxError, Error, Result},
    key::AsKey,
    lock::{Lock, LockGuard},
    rlock::{RLock, RLockGuard},
    semaphore::{BoundedSemaphore, SemaphoreGuard},
    store::care::check::CheckReport,
    store::home::rebuild::RepairReport,
    store::settings::{Config, Durability, Eviction, Limits},
    types::{Ending, Holder, KeyInfo, KeyState, Kind, Lifeline, Predecessor, ProcessInfo, Token},
};

// The laws of the fuzz targets, and what they have found, run as tests of the library: they may set
// its clock.
#[cfg(all(test, not(loom)))]
extern crate self as slablock;
#[cfg(all(test, not(loom)))]
#[path = "../tests/fuzz/mod.rs"]
mod fuzz;

/// The pages of the repository, as they are there.
#[cfg(all(doc, not(loom)))]
pub mod docs {
    /// A page as a module. Its links to other pages become links to their modules: of two
    /// definitions of a link the first one counts, and the page's own are at its end.
    macro_rules! page {
        ($name:ident, $file:literal) => {
            /// [design]: crate::docs::design
            /// [format]: crate::docs::format
            /// [protocol]: crate::docs::protocol
            /// [guarantees]: crate::docs::guarantees
            /// [proof]: crate::docs::proof
            /// [performance]: crate::docs::performance
            /// [operations]: crate::docs::operations
            /// [found]: crate::docs::found
            #[doc = include_str!($file)]
            pub mod $name {}
        };
    }
    page!(design, "../DESIGN.md");
    page!(format, "../docs/format.md");
    page!(protocol, "../docs/protocol.md");
    page!(guarantees, "../docs/guarantees.md");
    page!(proof, "../docs/proof.md");
    page!(performance, "../docs/performance.md");
    page!(operations, "../docs/operations.md");
    page!(found, "../docs/found.md");
}

/// The examples of README.md, so that `cargo test` compiles them.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Those beside the programs in `examples`.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../examples/README.md")]
struct Examples;
