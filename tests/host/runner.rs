//! The runner: what is guarded, by what, and for how long.
