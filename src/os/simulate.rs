//! Stands in for clocks and chance, for the calling thread alone, so that a run can be repeated to
//! the last bit and an hour passes at once. Compiled into this crate's own tests and fuzz targets,
//! and nothing else.

use std::cell::Cell;

use nix::time::ClockId;

thread_local! {
    static NOW: Cell<Option<Moment>> = const { Cell::new(None) };
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
    static SUSPENDED_US: Cell<u64> = const { Cell::new(0) };
}

/// What all clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since boot, without those in which the machine was suspended.
    pub boot_us: u64,
    /// Microseconds since 1970, which may be set back.
    pub wall_us: u64,
}

/// How far the coarse clock moves at once: a kernel at 250 Hz.
const TICK_NS: u64 = 4_000_000;

/// From now on all clocks stand still at `moment`; with `None` they run again.
pub fn time(moment: Option<Moment>) {
    NOW.set(moment);
}

/// From now on the machine was suspended for so long since it was booted: clocks that count that
/// say so.
pub fn suspended(us: u64) {
    SUSPENDED_US.set(us);
}

/// From now on random numbers are `seed`, `seed + 1`, and so on; with `None` they are random again.
pub fn chance(seed: Option<u64>) {
    CHANCE.set(seed);
}

/// What a clock is to say, if it is not to be asked.
pub(crate) fn clock_ns(clock: ClockId) -> Option<u64> {
    let now = NOW.get()?;
    let boot_ns = now.boot_us * 1_000;
    Some(match clock {
        ClockId::CLOCK_REALTIME | ClockId::CLOCK_REALTIME_COARSE => now.wall_us * 1_000,
        ClockId::CLOCK_MONOTONIC_COARSE => boot_ns - boot_ns % TICK_NS,
        ClockId::CLOCK_BOOTTIME => boot_ns + SUSPENDED_US.get() * 1_000,
        _ => boot_ns,
    })
}

/// The next number, if it is not to be a random one.
pub(crate) fn number() -> Option<u64> {
    let number = CHANCE.get()?;
    CHANCE.set(Some(number.wrapping_add(1)));
    Some(number)
}
