//! Law: what the command line reads and writes by itself comes back as it went in. See `tests/fuzz/arguments.rs`.

#![no_main]

#[path = "../../tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::arguments::run(data));
