//! A value by its key: reading it, its latch, averages, computing it once.

pub(crate) mod average;
pub(crate) mod cells;
pub(crate) mod compute_once;
pub(in crate::store) mod content;
pub(crate) mod get;
