//! Descriptors that other code in the process closes or replaces: daemons, `close_range`, `dup2`.
