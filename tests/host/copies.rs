//! Copies, restored backups, and files with two names.
