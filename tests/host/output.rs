//! Output that is closed or full.
