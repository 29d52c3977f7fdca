//! When the time of a value is over.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::os::clock;
use crate::slab::content::EXPIRES_MS_MAX;

/// The moment at which what begins now and lasts so long is over.
pub(crate) fn expires_ms(after: Option<Duration>) -> Result<u64> {
    match after {
        None => Ok(0),
        Some(Duration::ZERO) => Err(Error::Invalid {
            what: "expire of zero would be over at once; use a longer one, or none".to_string(),
        }),
        Some(after) => {
            let end_us = clock::wall_us().saturating_add(clock::duration_us(after));
            Ok(end_us.div_ceil(1_000).min(EXPIRES_MS_MAX))
        }
    }
}

/// Whether that moment has come. Far from it, the coarse clock says so.
#[inline]
pub(crate) fn is_over(expires_ms: u64) -> bool {
    /// More than a tick of the coarse clock.
    const NEAR_MS: u64 = 50;
    if expires_ms == 0 {
        return false;
    }
    let coarse = clock::coarse_wall_ms();
    if expires_ms > coarse + NEAR_MS {
        return false;
    }
    expires_ms <= coarse || expires_ms <= clock::wall_us() / 1_000
}

/// How long it is until then.
pub(crate) fn left_until(expires_ms: u64) -> Option<Duration> {
    let left_us = (expires_ms * 1_000).saturating_sub(clock::wall_us());
    (expires_ms != 0).then_some(Duration::from_micros(left_us))
}
