//! Looking at a store and verifying it. Decides nothing.

pub(crate) mod check;
mod contradiction;
pub(in crate::store) mod inspect;
pub(in crate::store) mod leaks;
pub(crate) mod reader;
mod tallies;
