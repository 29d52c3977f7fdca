//! A value by its key: reading it, its latch, averages, computing it once.

pub(crate) mod average;
pub(crate) mod compute_once;
pub(crate) mod get;
