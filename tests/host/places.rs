//! Which store is used, and where there is none.
