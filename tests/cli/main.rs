//! The command line, as a user or a script meets it.
//!
//! Every test has a store of its own and drives the real binary. Where one process has to be at
//! some point before another goes on, the test waits for the line that says so, never for a time.

#![cfg(feature = "cli")]

mod demo;
#[path = "../kit/mod.rs"]
mod kit;
mod limits;
mod looking;
mod memo;
mod running;
mod shop;
mod signals;
mod torture;
mod typing;
mod upkeep;
mod values;
