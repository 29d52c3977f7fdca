//! The one place that says where atomics come from: the standard library, or loom when the protocol
//! is model-checked (`--cfg loom`), or `crash` when processes are to die at each store (`--cfg
//! crash_points`). Everything else names them through here.

#[cfg(crash_points)]
pub mod crash;
#[cfg(loom)]
mod mortal;

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering, fence};
#[cfg(not(any(loom, crash_points)))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

#[cfg(crash_points)]
pub(crate) use crash::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, crash_point};
#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex,
    atomic::{Ordering, fence},
};
#[cfg(loom)]
pub(crate) use mortal::{AtomicU32, AtomicU64, until_store};

/// Stands before each system call: there a test lets the process die. Nothing in any other build.
#[cfg(not(any(loom, crash_points)))]
#[inline(always)]
pub(crate) fn crash_point() {}
