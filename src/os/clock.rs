//! Clocks. Leases run on `CLOCK_BOOTTIME`, which counts suspended time and never jumps, on the *host's*
//! scale: a process in a time namespace of its own sees that clock shifted, and two that share a store
//! have to mean the same moment. Averages, which outlive a reboot, run on wall-clock time.

use std::sync::OnceLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Microseconds of `CLOCK_BOOTTIME` on the host's scale. About 30 ns.
pub(crate) fn boot_us() -> u64 {
    let own = read_ns(ClockId::CLOCK_BOOTTIME) as i64;
    (own.saturating_sub(offsets().boottime_ns).max(0) / 1_000) as u64
}

/// Nanoseconds of the coarse `CLOCK_MONOTONIC` on the host's scale, a few milliseconds late. About 6 ns.
#[inline]
pub(crate) fn coarse_ns() -> u64 {
    let own = read_ns(ClockId::CLOCK_MONOTONIC_COARSE) as i64;
    own.wrapping_sub(offsets().monotonic_ns) as u64
}

/// Microseconds since 1970, wall-clock.
pub(crate) fn wall_us() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME) / 1_000
}

/// The moment `lease` from now, in the units of [`boot_us`].
pub(crate) fn boot_us_after(lease: Duration) -> u64 {
    boot_us().saturating_add(duration_us(lease))
}

/// A duration in whole microseconds, rounded up so that a lease is never shorter than asked.
pub(crate) fn duration_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

#[inline]
fn read_ns(clock: ClockId) -> u64 {
    // These clocks exist on every Linux that has OFD locks; reading them cannot fail.
    clock_gettime(clock).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

#[derive(Default)]
struct Offsets {
    monotonic_ns: i64,
    boottime_ns: i64,
}

/// How far this process's time namespace is from the host's. Does not change after the first process of
/// a namespace has started, so it is read once.
#[inline]
fn offsets() -> &'static Offsets {
    static OFFSETS: OnceLock<Offsets> = OnceLock::new();
    OFFSETS.get_or_init(|| {
        // No such file: a kernel without time namespaces, so there is nothing to be shifted.
        let text = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        parse_offsets(&text)
    })
}

fn parse_offsets(text: &str) -> Offsets {
    let mut offsets = Offsets::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(seconds), Some(nanos)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Ok(seconds), Ok(nanos)) = (seconds.parse::<i64>(), nanos.parse::<i64>()) else {
            continue;
        };
        let total = seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        match name {
            "monotonic" => offsets.monotonic_ns = total,
            "boottime" => offsets.boottime_ns = total,
            _ => {}
        }
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace_are_understood() {
        let offsets = parse_offsets("monotonic      -5         0\nboottime        7 500000000\n");
        assert_eq!(offsets.monotonic_ns, -5_000_000_000);
        assert_eq!(offsets.boottime_ns, 7_500_000_000);
        assert_eq!(parse_offsets("").boottime_ns, 0);
    }

    #[test]
    fn a_duration_is_rounded_up() {
        assert_eq!(duration_us(Duration::from_nanos(1)), 1);
        assert_eq!(duration_us(Duration::MAX), u64::MAX);
    }
}
