//! Random numbers.

use std::io;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::sync::crash_point;

/// From the operating system, not from a generator that a fork would duplicate.
pub(crate) fn random() -> io::Result<u64> {
    #[cfg(any(fuzzing, test))]
    if let Some(number) = crate::os::simulate::number() {
        return Ok(number);
    }
    crash_point();
    SysRng.try_next_u64().map_err(io::Error::other)
}
