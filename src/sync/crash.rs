//! Crash points: every store to shared memory and every system call, shown to a test that may let
//! the process die just before it. Only built with `--cfg crash_points`; what the library is made
//! of otherwise has none of it.
//!
//! The atomics here are the standard library's with a point before whatever may store. They have
//! the same layout, so that they lie in the map in the same way. Private ones are counted, too: a
//! death there is like one at the next point.

use std::panic::Location;
use std::sync::OnceLock;
use std::sync::atomic::{self, Ordering};

/// What is shown each point, with the place in the source where it is.
static OBSERVER: OnceLock<fn(&'static Location<'static>)> = OnceLock::new();

/// Has all points of this process from now on shown to `observer`. Once in a process.
pub fn observe(observer: fn(&'static Location<'static>)) {
    // The first one stays.
    let _ = OBSERVER.set(observer);
}

/// One point.
#[track_caller]
pub(crate) fn crash_point() {
    if let Some(observer) = OBSERVER.get() {
        observer(Location::caller());
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub(crate) struct $name(atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub(crate) const fn new(value: $value) -> $name {
                $name(atomic::$name::new(value))
            }

            pub(crate) fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.0.load(order)
            }

            atomic!(before store(value: $value) -> ());
            atomic!(before swap(value: $value) -> $value);
            atomic!(before fetch_add(value: $value) -> $value);
            atomic!(before fetch_and(value: $value) -> $value);
            atomic!(before fetch_or(value: $value) -> $value);
            atomic!(before fetch_max(value: $value) -> $value);
            atomic!(before fetch_min(value: $value) -> $value);

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                seen: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                crash_point();
                self.0.compare_exchange(seen, new, success, failure)
            }

            #[track_caller]
            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                crash_point();
                self.0.fetch_update(success, failure, change)
            }
        }
    };
    (before $action:ident(value: $value:ty) -> $result:ty) => {
        #[track_caller]
        pub(crate) fn $action(&self, value: $value, order: Ordering) -> $result {
            crash_point();
            self.0.$action(value, order)
        }
    };
}

atomic!(AtomicU8, u8);
atomic!(AtomicU16, u16);
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
