//! How long to wait, and how often to look again meanwhile.

use std::time::{Duration, Instant};

use crate::sync::crash_point;

/// How long a waiter sleeps before it looks whether the holder died: the kernel wakes nobody when a
/// process is killed. Short enough to take over within 10 ms.
pub(crate) const TICK: Duration = Duration::from_millis(6);

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    Never,
    Until(Instant),
    /// Also for locks of structure, for which everybody else waits a little longer.
    Strictly(Instant),
    Forever,
}

impl Patience {
    /// A duration too long to be a moment is for ever.
    pub(crate) fn of(timeout: Duration) -> Patience {
        Instant::now()
            .checked_add(timeout)
            .map_or(Patience::Forever, Patience::Until)
    }

    /// Without the grace for locks of structure: for a caller that can do something else as well.
    pub(crate) fn strictly(timeout: Duration) -> Patience {
        match Patience::of(timeout) {
            Patience::Until(moment) => Patience::Strictly(moment),
            other => other,
        }
    }

    /// What is left; `None` when it is over.
    pub(crate) fn left(self) -> Option<Duration> {
        match self {
            Patience::Never => None,
            Patience::Until(moment) | Patience::Strictly(moment) => {
                let left = moment.saturating_duration_since(Instant::now());
                (!left.is_zero()).then_some(left)
            }
            Patience::Forever => Some(Duration::MAX),
        }
    }
}

/// How often to ask for a stripe, and how many times even without patience: 50 ms.
const PAUSE: Duration = Duration::from_micros(500);

const GRACE_PAUSES: u32 = 100;

/// Sleeps for a moment, before the caller asks again for what will not take long. `false`: the
/// patience is over, and so is the grace that every caller has but a strict one.
pub(crate) fn pause(pauses: &mut u32, patience: Patience) -> bool {
    let is_granted = *pauses < GRACE_PAUSES && !matches!(patience, Patience::Strictly(_));
    let left = match is_granted {
        true => Some(PAUSE),
        false => patience.left().map(|left| left.min(PAUSE)),
    };
    *pauses = pauses.saturating_add(1);
    crash_point();
    left.map(std::thread::sleep).is_some()
}
