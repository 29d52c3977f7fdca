//! Law: any sequence of operations on values by several participants, with time passing, clocks set back and
//! participants dying in between, has the results that a plain map would have. See `tests/fuzz/values.rs`.

#![no_main]

#[path = "../../tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::values::run(data));
