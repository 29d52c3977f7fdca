//! Opening a store within the caller's patience.
//!
//! Opening waits for a process that is making or mending the store, however long it takes, also
//! when that process is stopped. Nothing is held meanwhile and every step of opening may be the
//! last one of a process, so the patience is kept by a thread that ends this process. It is out of
//! the way before the first attempt to take anything: what is held is never lost by it.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use slablock::Cache;

use crate::failure::Failure;
use crate::signals::Signals;
use crate::{place, text};

/// How long another process may keep an opener that does not want to wait at all from the store.
/// Making a store takes milliseconds, and rarely a second, where a disk is slow to sync it.
pub const AT_ONCE: Duration = Duration::from_secs(2);
/// How many looks decide whether this process is waiting. An opener that is itself busy, as after a
/// reboot, may continue: interrupted each time, it would never finish.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Opens the store in `dir`, or ends the process with `in_vain` when `until` has come and another
/// process keeps it from that.
///
/// Signals have their usual effect meanwhile. Call it from the first thread, which is the one that
/// is watched.
pub fn open_until(
    dir: &Path,
    until: Option<Instant>,
    in_vain: Failure,
    signals: &Signals,
) -> Result<Cache, Failure> {
    let open = || signals.let_through(|| place::open_or_create(dir));
    let Some(until) = until else {
        return open()?;
    };
    within(until, in_vain, open)??
}

/// Opens something by `open`, or ends the process with `in_vain` as [`open_until`] does.
pub fn within<T>(until: Instant, in_vain: Failure, open: impl FnOnce() -> T) -> Result<T, Failure> {
    // If all signals are blocked here, the watchdog's thread inherits that and gets none.
    let watchdog = Watchdog::start(until, in_vain)?;
    let opened = open();
    watchdog.call_off();
    Ok(opened)
}

/// What is said when another process kept the store in `dir` from being opened for that long.
pub fn in_vain(dir: &Path, limit: Duration) -> String {
    format!(
        "the store in {} could not be opened for {}: another process is making or mending it, or \
         has its slab open that was removed; look for one that is stopped, or that has a deleted file of it open",
        dir.display(),
        text::span(limit)
    )
}

/// Ends the process, unless it is called off.
struct Watchdog {
    called_off: Arc<CalledOff>,
}

#[derive(Default)]
struct CalledOff {
    is_so: Mutex<bool>,
    changed: Condvar,
}

impl Watchdog {
    fn start(until: Instant, in_vain: Failure) -> Result<Watchdog, Failure> {
        let called_off = Arc::new(CalledOff::default());
        let to_watch = Arc::clone(&called_off);
        let watch = move || to_watch.watch(until, in_vain);
        thread::Builder::new()
            .name("patience".to_owned())
            .spawn(watch)?;
        Ok(Watchdog { called_off })
    }

    /// Calls the watchdog off. Returns only if this process is not ended.
    fn call_off(self) {
        let CalledOff { is_so, changed } = &*self.called_off;
        *is_so.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_one();
    }
}

impl CalledOff {
    fn watch(&self, until: Instant, in_vain: Failure) {
        let looking_from = until.checked_sub(PAUSE * LOOKS).unwrap_or(until);
        let mut is_so = self.is_so.lock().unwrap_or_else(PoisonError::into_inner);
        let mut looks = Vec::new();
        while !*is_so {
            let now = Instant::now();
            if now >= until && is_waiting(&looks) {
                // With the mutex locked, the opener cannot return from `call_off` and take
                // anything.
                process::exit(in_vain.tell().into());
            }
            if now >= looking_from {
                looks.push(first_thread_sleeps());
            }
            let pause = looking_from.saturating_duration_since(now).max(PAUSE);
            let woken = self.changed.wait_timeout(is_so, pause);
            is_so = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Whether most of the last looks found the first thread asleep, and so waiting for another
/// process.
fn is_waiting(looks: &[bool]) -> bool {
    let last = looks.iter().rev().take(LOOKS as usize);
    let asleep = last.clone().filter(|sleeps| **sleeps).count();
    asleep > 0 && asleep * 4 >= last.len() * 3
}

/// Whether the first thread waits for something that is neither the processor nor a disk. If
/// `/proc` does not say, it does.
fn first_thread_sleeps() -> bool {
    let path = format!("/proc/self/task/{}/stat", process::id());
    let stat = fs::read_to_string(path).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_none_or(|state| state.starts_with('S'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_is_not_waiting_whatever_was_before() {
        assert!(!is_waiting(&[]));
        assert!(is_waiting(&[true]));
        assert!(!is_waiting(&[false, true]));
        let (asleep, at_work) = (vec![true; LOOKS as usize], vec![false; LOOKS as usize]);
        assert!(is_waiting(&[&at_work[..], &asleep].concat()));
        assert!(!is_waiting(&[&asleep[..], &at_work].concat()));
        // An opener that looks now and then whether it can continue.
        assert!(is_waiting(&[true, true, false, true]));
    }
}
