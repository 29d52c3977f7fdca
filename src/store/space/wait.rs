//! How long a writer makes room, or waits for others to make it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::os::clock;
use crate::store::patience::Patience;

/// How long a writer compacts, or waits for another compactor, before it takes the last room that
/// there is. A step of its own may come on top, and evicting: 50 ms in all.
pub(super) const PATIENCE: Duration = Duration::from_millis(25);
/// When even a writer that makes progress gives up.
const ENDLESS: Duration = Duration::from_secs(1);
/// How much longer that may take on a machine that lets many others run.
const CROWDED: u32 = 10;
/// How often in a row others may be found not to have got on.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_micros(500);

/// How long somebody has been making room, or waiting for others to make it. Time in which this
/// thread was not let run does not count: on a busy machine it would give up although there is room
/// to be made.
pub(in crate::store) struct Wait {
    begun: Instant,
    worked_before: Duration,
    /// For others.
    waited: Cell<Duration>,
    /// How far others had come, and how often they had not come further.
    progress: Cell<(u64, u32)>,
}

impl Wait {
    pub(crate) fn begin() -> Wait {
        Wait {
            begun: Instant::now(),
            worked_before: clock::worked(),
            waited: Cell::default(),
            progress: Cell::default(),
        }
    }

    /// How long to wait for those that want much room, too: each of them is as quick as we are,
    /// but one may be stopped.
    pub(super) fn for_large() -> Patience {
        Patience::strictly(ENDLESS)
    }

    pub(super) fn is_over(&self) -> bool {
        self.spent() > PATIENCE || self.is_endless()
    }

    fn spent(&self) -> Duration {
        clock::worked().saturating_sub(self.worked_before) + self.waited.get()
    }

    /// Whether to wait although the patience is over: others have got on since some looks ago.
    /// Not by a clock, for on a busy machine they may only not have been let run.
    pub(super) fn is_worth_it(&self, progress: u64) -> bool {
        let (before, looks) = self.progress.get();
        let looks = if progress == before { looks + 1 } else { 0 };
        self.progress.set((progress, looks));
        !self.is_endless() && looks < LOOKS
    }

    /// Sleeps for a moment, for another process that has no way to tell us.
    pub(super) fn pause(&self) {
        std::thread::sleep(PAUSE);
        self.count(PAUSE);
    }

    pub(super) fn count(&self, waited: Duration) {
        self.waited.set(self.waited.get() + waited);
    }

    pub(super) fn is_endless(&self) -> bool {
        self.spent() > ENDLESS || self.begun.elapsed() > ENDLESS * CROWDED
    }
}
