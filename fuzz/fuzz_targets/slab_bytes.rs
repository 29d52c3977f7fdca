//! Law: whatever the files of a store hold, opening it and every operation on it end with a result or with an
//! error: no crash, no signal, no hang, no unbounded memory, no hold given to two; and what `repair` says it
//! has mended is sound. See `tests/fuzz/slab_bytes.rs`.

#![no_main]

#[path = "../../tests/fuzz/mod.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::slab_bytes::run(data));
