//! Law: whatever the segments of a store hold, and wherever its cells and its journal lead there, what is read under a
//! key is what a second reader of the format finds. See `tests/fuzz/segments.rs`.

#![no_main]

#[path = "../../tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::segments::run(data));
