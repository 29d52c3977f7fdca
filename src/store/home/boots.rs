//! In which boots of the machine a slab was in use: after another one every hold is void, and pages
//! may have been lost.
//!
//! The kernel names each boot by a random id. A container may show one of its own, for as long as
//! it runs or for ever; so an id says something only together with the moment of the boot, and
//! several may stand for one boot. That two ids belong to one boot is known when a participant that
//! joined under the other one lives: see `open`.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::os::{clock, process};
use crate::slab::Slab;
use crate::slab::header::Boot;
use crate::sync::Ordering;

/// How far two readings of one boot's moment may be apart. A wall clock that was set in between
/// moves it further: then the boot counts as another one, if nobody lives to disprove it.
const SAME_MOMENT: Duration = Duration::from_secs(2);

/// A boot of the machine, as this process sees it or the header has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct BootSeen {
    /// 0: `/proc` does not say.
    id: u128,
    moment_ms: u64,
}

impl BootSeen {
    pub(in crate::store) fn now() -> Result<BootSeen> {
        let id =
            process::boot_id().map_err(|e| Error::io("read", Path::new(process::BOOT_ID), e))?;
        Ok(BootSeen {
            id,
            moment_ms: clock::boot_moment_ms(),
        })
    }

    fn of(boot: &Boot) -> BootSeen {
        let [low, high] = &boot.id;
        let (low, high) = (low.load(Ordering::Acquire), high.load(Ordering::Acquire));
        BootSeen {
            id: u128::from(low) | u128::from(high) << 64,
            moment_ms: boot.moment_ms.load(Ordering::Acquire),
        }
    }

    fn write(self, boot: &Boot) {
        let [low, high] = &boot.id;
        low.store(self.id as u64, Ordering::Release);
        high.store((self.id >> 64) as u64, Ordering::Release);
        boot.moment_ms.store(self.moment_ms, Ordering::Release);
    }

    fn is_same(self, other: BootSeen) -> bool {
        let apart = self.moment_ms.abs_diff(other.moment_ms);
        self.id == other.id && u128::from(apart) <= SAME_MOMENT.as_millis()
    }
}

/// Whether the slab was in use in this boot of the machine.
pub(in crate::store) fn is_known(slab: &Slab, now: BootSeen) -> bool {
    slab.header()
        .boots
        .iter()
        .any(|boot| BootSeen::of(boot).is_same(now))
}

/// Notes that the slab is in use in this boot, as the latest one. Only alone.
pub(in crate::store) fn remember(slab: &Slab, now: BootSeen) {
    let boots = &slab.header().boots;
    let before = boots.each_ref().map(BootSeen::of);
    if before[0].is_same(now) {
        return;
    }
    // The latest first; one id has one moment. A process that dies in between leaves one twice, or
    // one less.
    let others = before
        .into_iter()
        .filter(|seen| seen.id != now.id || seen.moment_ms == 0);
    for (boot, seen) in boots.iter().zip([now].into_iter().chain(others)) {
        seen.write(boot);
    }
}
