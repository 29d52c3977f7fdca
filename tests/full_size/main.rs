//! Each documented limit once at its full size, under the limits that a shell has by default: at
//! the limit all works and is used, one above it is the error that names it, and nothing is lost or
//! left afterwards.
//!
//! What takes longer than a few seconds is smaller in `cargo test`. At full size, with figures:
//!
//! ```text
//! SLABLOCK_FULL_SIZE=all cargo test --release --test full_size -- --nocapture
//! ```
//!
//! A suite of its own, one test after the other: thousands of processes are no company for others.

#![allow(missing_docs, unsafe_code)]

#[macro_use]
#[path = "../kit/mod.rs"]
mod kit;

mod capacity;
mod keys;
mod participants;
mod permits;
mod shards;
mod values;
mod waiters;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kit::Role;
use nix::libc;

/// What this binary does when a test has started it as a child.
#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    as_in_a_shell();
    match &*role.name {
        "crowd" => participants::crowd(&role),
        "newcomer" => participants::newcomer(&role),
        "permits" => permits::permits(&role),
        "shards" => shards::shards(&role),
        "sets a long value" => values::sets(&role),
        "gets a long value" => values::gets(&role),
        "waiters" => waiters::waiters(&role),
        "seven keys" => waiters::seven_keys(&role),
        other => panic!("no role {other}"),
    }
}

/// Whether each limit is tried at its full size, however long that takes.
fn is_full() -> bool {
    std::env::var_os("SLABLOCK_FULL_SIZE").is_some_and(|size| size == "all")
}

/// The limit of descriptors that shells set, whatever this machine allows.
fn as_in_a_shell() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: there is room for a limit, which is valid for the length of both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(1_024);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// Where forked children wait until the process that has made it opens it, without using any
/// processor.
struct Gate {
    read: File,
    write: Option<OwnedFd>,
}

impl Gate {
    fn new() -> Gate {
        let (read, write) = std::io::pipe().unwrap();
        Gate {
            read: File::from(OwnedFd::from(read)),
            write: Some(write.into()),
        }
    }

    /// In a forked child, as soon as it begins: else it would keep the gate shut.
    fn keep_out(&mut self) {
        self.write = None;
    }

    fn wait(&self) {
        assert_eq!((&self.read).read(&mut [0]).unwrap(), 0);
    }

    fn open(mut self) {
        self.write = None;
    }
}

/// Says what something took.
fn took(what: &str, begun: Instant, times: u64) {
    let elapsed = begun.elapsed();
    let each = Duration::from_nanos((elapsed.as_nanos() / u128::from(times.max(1))) as u64);
    match times {
        1 => eprintln!("{what}: {elapsed:.2?}"),
        _ => eprintln!("{what}: {elapsed:.2?}, {each:.2?} each of {times}"),
    }
}
