//! Limits of the process: descriptors, file sizes, address space.
