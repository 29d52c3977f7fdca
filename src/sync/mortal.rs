//! loom's atomics, before each store of which a thread can be made to stop for good: as if it was
//! killed there.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;

use loom::sync::atomic::{self, Ordering};

static TURNS: LazyLock<bool> = LazyLock::new(|| std::env::var_os("LOOM_WITHOUT_TURNS").is_none());

loom::thread_local! {
    /// How many stores this thread still makes; none of the dead's.
    static LEFT: Cell<u32> = Cell::new(u32::MAX);
}

/// The thread stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death;

/// Runs `life` until just before its store number `step`, counted from 1. What the kernel does
/// about the dead is the caller's.
pub(crate) fn until_store<T>(step: u32, life: impl FnOnce() -> T) -> Result<T, Death> {
    LEFT.with(|left| left.set(step));
    let lived = catch_unwind(AssertUnwindSafe(life));
    LEFT.with(|left| left.set(u32::MAX));
    lived.map_err(|cause| match cause.downcast::<Death>() {
        Ok(death) => *death,
        Err(panic) => resume_unwind(panic),
    })
}

fn before_store() {
    LEFT.with(|left| match left.get() {
        u32::MAX => {}
        // Unwinding runs no code of the protocol: nothing there has a destructor.
        1 => resume_unwind(Box::new(Death)),
        n => left.set(n - 1),
    });
}

// loom 0.7 looks for a race only with the *last* access to a word, and two loads are none: a thread
// that loads a word just before it exchanges it hides from loom that another had loaded it before,
// and orders are left out. So each access first adds nothing to a neighbour, which orders nothing
// (`Relaxed`), and is a race with any other such: the last access is then always the one that
// counts.
//
// One thing it does order: fences pair through the neighbour, too, where a load of the word itself
// would have returned an older value and paired with nothing. So the models also run without
// (`LOOM_WITHOUT_TURNS`).
macro_rules! mortal {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name {
            word: atomic::$name,
            /// Touched before each access, see above.
            turn: atomic::AtomicU8,
        }

        // Each has what the protocol uses of either.
        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(value: $value) -> $name {
                $name {
                    word: atomic::$name::new(value),
                    turn: atomic::AtomicU8::new(0),
                }
            }

            fn take_turn(&self) {
                if *TURNS {
                    self.turn.fetch_add(0, Ordering::Relaxed);
                }
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                self.take_turn();
                self.word.load(ordering)
            }

            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                before_store();
                self.take_turn();
                self.word.store(value, ordering);
            }

            pub(crate) fn compare_exchange(
                &self,
                seen: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before_store();
                self.take_turn();
                self.word.compare_exchange(seen, new, success, failure)
            }

            pub(crate) fn fetch_add(&self, value: $value, ordering: Ordering) -> $value {
                before_store();
                self.take_turn();
                self.word.fetch_add(value, ordering)
            }

            pub(crate) fn fetch_and(&self, value: $value, ordering: Ordering) -> $value {
                before_store();
                self.take_turn();
                self.word.fetch_and(value, ordering)
            }

            pub(crate) fn fetch_max(&self, value: $value, ordering: Ordering) -> $value {
                before_store();
                self.take_turn();
                self.word.fetch_max(value, ordering)
            }
        }
    };
}

mortal!(AtomicU32, u32);
mortal!(AtomicU64, u64);
