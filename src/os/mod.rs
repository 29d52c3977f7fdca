//! The platform: files, byte-range locks, futexes, clocks, the identity of this process. Knows
//! nothing of slabs or holds.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "slablock needs Linux: it is built on open-file-description locks, futexes in shared mappings and /proc"
);

#[allow(unsafe_code)]
pub(crate) mod bell;
pub(crate) mod cleaner;
#[allow(unsafe_code)]
pub(crate) mod clock;
pub(crate) mod dir;
pub(crate) mod fdinfo;
pub(crate) mod file;
pub(crate) mod file_system;
#[allow(unsafe_code)]
pub(crate) mod fork;
#[allow(unsafe_code)]
pub(crate) mod futex;
pub(crate) mod identity;
pub(crate) mod kept;
pub(crate) mod memory;
#[allow(unsafe_code)]
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod range_lock;
#[cfg(any(fuzzing, test))]
pub(crate) mod simulate;
pub(crate) mod syncs;
