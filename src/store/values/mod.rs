//! A value by its key: reading it, averages, computing it once.

pub(crate) mod average;
pub(crate) mod compute_once;
pub(crate) mod get;
