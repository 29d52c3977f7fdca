//! Clocks. Leases run on `CLOCK_MONOTONIC`, which never jumps and stands still while the machine is
//! suspended: on one machine all processes sleep then, the holder and those that wait for its lease
//! to end. Leases run on the *host's* scale: a process in a time namespace of its own sees that
//! clock shifted, and two that share a store have to mean the same moment. Averages, which outlive
//! a reboot, run on wall-clock time.

use std::cell::Cell;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::os::process;
#[cfg(any(fuzzing, test))]
use crate::os::simulate;
use crate::sync::crash_point;

/// Microseconds of `CLOCK_MONOTONIC` on the host's scale. About 30 ns. 0 where that scale is not
/// known: then no lease is ever over.
pub(crate) fn uptime_us() -> u64 {
    let own = read_ns(ClockId::CLOCK_MONOTONIC) as i64;
    match scale() {
        Some(offsets) => (own.saturating_sub(offsets.monotonic_ns).max(0) / 1_000) as u64,
        None => 0,
    }
}

/// Whether moments mean the same here as to other processes: not in a place without `/proc`, which
/// may be in a time namespace of its own.
pub(crate) fn is_scale_known() -> bool {
    scale().is_some()
}

/// In which period of some 8 ms it is now.
pub(crate) fn period() -> u64 {
    const PERIOD_NS_LOG2: u32 = 23;
    coarse_ns() >> PERIOD_NS_LOG2
}

/// Nanoseconds of the coarse `CLOCK_MONOTONIC` on the host's scale, a few milliseconds late. About
/// 6 ns.
#[inline]
pub(crate) fn coarse_ns() -> u64 {
    let own = read_ns(ClockId::CLOCK_MONOTONIC_COARSE) as i64;
    own.wrapping_sub(offsets().monotonic_ns) as u64
}

/// Microseconds since 1970, wall-clock.
pub(crate) fn wall_us() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME) / 1_000
}

/// Milliseconds since 1970, wall-clock, up to a tick of some milliseconds late. About 6 ns.
#[inline]
pub(crate) fn coarse_wall_ms() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME_COARSE) / 1_000_000
}

/// When the machine was booted, in milliseconds since 1970 by the wall clock as it is set now. Of
/// the machine, also where tests set the clocks.
pub(crate) fn boot_moment_ms() -> u64 {
    let ms =
        |clock| clock_gettime(clock).map_or(0, |t| t.tv_sec() * 1_000 + t.tv_nsec() / 1_000_000);
    let shift_ms = offsets().boottime_ns / 1_000_000;
    let mut read = (0, 0);
    // Again if this process was held up between the two readings.
    for _ in 0..3 {
        let before = ms(ClockId::CLOCK_REALTIME);
        read = (before, ms(ClockId::CLOCK_BOOTTIME) - shift_ms);
        if ms(ClockId::CLOCK_REALTIME) - before < 100 {
            break;
        }
    }
    (read.0 - read.1).max(1) as u64
}

/// Seconds since 1970, wall-clock. About 4 ns, and therefore what the fast path reads.
#[inline]
pub(crate) fn wall_s() -> u64 {
    #[cfg(any(fuzzing, test))]
    if let Some(ns) = simulate::clock_ns(ClockId::CLOCK_REALTIME) {
        return ns / 1_000_000_000;
    }
    // SAFETY: a null pointer asks for the result alone.
    unsafe { libc::time(std::ptr::null_mut()) as u64 }
}

/// When a lease that begins now ends, in the units of [`uptime_us`], and the coarse time at which
/// it began.
///
/// Reading the precise clock costs as much as taking a lock does several times over. So a long
/// lease is computed from a reading that this thread made in the same tick of the coarse clock,
/// plus a long tick: it may last that much longer than asked (50 ms), never shorter.
#[inline]
pub(crate) fn lease_end_us(lease_us: u64) -> (u64, u64) {
    let coarse = coarse_ns();
    if lease_us < LONG_LEASE_US {
        return (uptime_us().saturating_add(lease_us), coarse);
    }
    let (tick, latest) = TICK.get();
    let latest = if tick == coarse {
        latest
    } else {
        read_tick(coarse)
    };
    (latest.saturating_add(lease_us), coarse)
}

/// From how long on a tick more does not matter.
const LONG_LEASE_US: u64 = 2_000_000;
/// A tick is 1 to 10 ms, depending on how the kernel was configured. The rest is for a virtual
/// machine with a timer interrupt that comes late.
const LONGEST_TICK_US: u64 = 50_000;

thread_local! {
    /// A reading of the coarse clock, and the precise one at the latest by the end of that tick.
    static TICK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

#[cold]
fn read_tick(coarse: u64) -> u64 {
    let latest = uptime_us().saturating_add(LONGEST_TICK_US);
    TICK.set((coarse, latest));
    latest
}

/// A duration in whole microseconds, rounded up so that a lease is never shorter than asked.
pub(crate) fn duration_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// How long this thread has been running on a processor.
pub(crate) fn worked() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.map_or(Duration::ZERO, Duration::from)
}

#[inline]
fn read_ns(clock: ClockId) -> u64 {
    #[cfg(any(fuzzing, test))]
    if let Some(ns) = simulate::clock_ns(clock) {
        return ns;
    }
    // These clocks exist on every Linux that has OFD locks; reading them cannot fail.
    clock_gettime(clock).map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

/// Where the offsets of a time namespace can be read.
pub(crate) const OFFSETS_PATH: &str = "/proc/self/timens_offsets";

/// Reads what is read once and kept, so that no thread is in the middle of that when another forks.
/// Before all else here: what could not be read then must not be taken for zeros ever after.
pub(crate) fn prepare() -> io::Result<()> {
    if OFFSETS.get().is_none() {
        let _ = OFFSETS.set(read_offsets()?);
    }
    Ok(())
}

/// What this process's time namespace adds to the host's `CLOCK_BOOTTIME`.
pub(crate) fn boot_offset_ns() -> i64 {
    offsets().boottime_ns
}

#[derive(Clone, Copy, Default)]
struct Offsets {
    monotonic_ns: i64,
    boottime_ns: i64,
}

/// How far this process's time namespace is from the host's. Does not change after the first
/// process of a namespace has started, so it is read once.
#[inline]
fn scale() -> Option<&'static Offsets> {
    OFFSETS
        .get_or_init(|| read_offsets().unwrap_or_default())
        .as_ref()
}

/// That, or none where it is unknown: for what is only shown.
#[inline]
fn offsets() -> Offsets {
    scale().copied().unwrap_or_default()
}

/// `None`: it cannot be known.
static OFFSETS: OnceLock<Option<Offsets>> = OnceLock::new();

fn read_offsets() -> io::Result<Option<Offsets>> {
    let text = process::read_proc(OFFSETS_PATH)?;
    // No such file, although there is a `/proc`: a kernel without time namespaces, where nothing is
    // shifted.
    crash_point();
    let is_known = !text.is_empty() || std::fs::symlink_metadata("/proc/self").is_ok();
    Ok(is_known.then(|| parse_offsets(&String::from_utf8_lossy(&text))))
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
    fn a_lease_is_never_shorter_than_asked_and_hardly_longer() {
        for lease_us in [1, LONG_LEASE_US - 1, LONG_LEASE_US, 60_000_000] {
            for _ in 0..10_000 {
                let before = uptime_us();
                let (end, _) = lease_end_us(lease_us);
                let after = uptime_us();
                assert!(end >= before + lease_us);
                // Two readings of one tick are at most a tick apart, and a tick is added.
                assert!(end <= after + lease_us + LONGEST_TICK_US);
            }
        }
    }

    #[test]
    fn a_duration_is_rounded_up() {
        assert_eq!(duration_us(Duration::from_nanos(1)), 1);
        assert_eq!(duration_us(Duration::MAX), u64::MAX);
    }

    /// The holder could not have renewed it, and no thief could have taken over.
    #[test]
    fn a_lease_does_not_run_while_the_machine_is_suspended() {
        let dir = tempfile::tempdir().unwrap();
        let at = |us: u64| {
            simulate::time(Some(simulate::Moment {
                boot_us: 1_000_000_000 + us,
                wall_us: 1_800_000_000_000_000 + us,
            }));
        };
        at(0);
        let cache = crate::Cache::open(dir.path()).unwrap();
        let lock = crate::Lock::new(&cache, "k").lease(Duration::from_secs(10));
        let guard = lock.acquire().unwrap();
        simulate::suspended(3_600_000_000);
        at(9_900_000);
        assert!(guard.check().is_ok() && lock.try_acquire().unwrap().is_none());
        at(10_100_000);
        assert!(guard.check().is_err() && lock.try_acquire().unwrap().is_some());
        simulate::suspended(0);
        simulate::time(None);
    }
}
