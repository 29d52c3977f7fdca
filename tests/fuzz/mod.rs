//! The laws that the fuzz targets hold the library to, each in a file of its own, and what has been
//! found. `fuzz/fuzz_targets` feeds them with what libFuzzer makes up; `cargo test` with the
//! committed seeds and with every input that ever broke one.

#![allow(dead_code)]

pub mod arguments;
pub mod input;
#[path = "../kit/layout.rs"]
mod layout;
mod memory;
pub mod operations;
pub mod place;
pub mod segments;
pub mod slab_bytes;
#[path = "../kit/stored.rs"]
mod stored;
pub mod values;

/// The holder whose lease was over just before, if that is how its hold ended.
fn late(before: Option<&slablock::Predecessor>) -> Option<&slablock::Holder> {
    before
        .filter(|before| before.why == slablock::Ending::LeaseExpired)
        .map(|before| &before.holder)
}

#[cfg(test)]
mod replay;
