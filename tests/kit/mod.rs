//! What the tests share. A target has it as `#[macro_use] mod kit;`, and each of these once:
//!
//! - time: [`until`] waits for an event, [`HANGS`] is the one watchdog, [`bounded`] and
//!   [`Watchdog`] end a test by it;
//! - places: a [`Place`] is a directory with a store in it, gone when dropped;
//! - processes: a [`Child`] is this test binary again in a [`Role`], to talk to by lines; [`fork`]
//!   and [`reap`];
//! - a [`Board`]: numbers that processes share outside any store;
//! - chance: [`Random`], to be had again by `SLABLOCK_TEST_SEED`;
//! - errors: `assert_error!` and [`says`];
//! - the format: [`layout`] and [`stored`], which share no code with the library.

#![allow(unsafe_code, dead_code, unused_imports, unused_macros)]

pub mod layout;
pub mod stored;

mod board;
mod children;
mod commands;
mod files;
mod forks;
mod patience;
mod place;
mod process;
mod random;
mod stepping;

pub use board::{Board, Cell};
pub use children::{Child, Role, child, command, hear, role, run, say};
pub use commands::{
    bind, bind_read_only, in_a_namespace, in_a_process, mount, output_of, remount, said, succeeds,
    unshared,
};
pub use files::{descriptors, lock_bytes, lock_record, lock_stripes, open_below};
pub use forks::{exit_now, fork, fork_for, reap, reap_killed, reap_well};
pub use patience::{
    Alone, HANGS, LEASE, LONG, SHORT, Stopwatch, Watchdog, alone, bounded, is_within, kept_at_last,
    until,
};
pub use place::{Place, memory, shards, store, store_of, store_with};
pub use process::{KilledAtTheEnd, lines, until_in_state, until_stopped};
pub use random::{Random, seed_of};
pub use stepping::step_through;

/// The message of an error, which has to say all of this.
pub fn says(error: &slablock::Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
    assert!(!text.contains('\n') && !text.contains("  "), "{text}");
}

pub fn is_lost<T>(result: Result<T, slablock::Error>) -> bool {
    matches!(result, Err(slablock::Error::Lost { .. }))
}

pub fn is_not_holder<T>(result: Result<T, slablock::Error>) -> bool {
    matches!(result, Err(slablock::Error::NotHolder { .. }))
}

/// That something failed, how, and that the message says all of the words.
macro_rules! assert_error {
    ($result:expr, $pattern:pat, $words:expr) => {
        match $result {
            Err(error) => {
                assert!(matches!(error, $pattern), "{error:?}");
                $crate::kit::says(&error, &$words);
            }
            Ok(_) => panic!("no error from {}", stringify!($result)),
        }
    };
}

/// The holder whose lease was over just before, if that is how its hold ended.
pub fn late(before: Option<&slablock::Predecessor>) -> Option<&slablock::Holder> {
    before
        .filter(|before| before.why == slablock::Ending::LeaseExpired)
        .map(|before| &before.holder)
}
