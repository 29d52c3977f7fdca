//! Syncing that fails.
