//! Law: any sequence of operations by several participants, with time passing and participants dying in between,
//! has the results that the documentation says it has. See `tests/fuzz/operations.rs`.

#![no_main]

#[path = "../../tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::operations::run(data));
