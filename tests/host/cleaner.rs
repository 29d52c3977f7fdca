//! Cleaners of temporary files, and other removals of a store's files.
