//! The one place that says where atomics come from: the standard library, or loom when the protocol is
//! model-checked (`--cfg loom`). Everything else names them through here.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence,
};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
