//! The platform: files, byte-range locks, futexes, clocks, who this process is. Knows nothing of slabs
//! or holds.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "slablock needs Linux: it is built on open-file-description locks, futexes in shared mappings and /proc"
);

#[allow(unsafe_code)]
pub(crate) mod clock;
pub(crate) mod dir;
pub(crate) mod fdinfo;
pub(crate) mod file;
#[allow(unsafe_code)]
pub(crate) mod fork;
#[allow(unsafe_code)]
pub(crate) mod futex;
#[allow(dead_code)]
pub(crate) mod kept;
#[allow(unsafe_code)]
pub(crate) mod pidfd;
#[cfg(any(fuzzing, test))]
pub(crate) mod pretend;
pub(crate) mod process;
pub(crate) mod range_lock;
