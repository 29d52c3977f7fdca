//! Errors at every system call: each operation is done again and again, and each time another one
//! of its calls fails, with one of the errors that such a call can have. An error means that it has
//! not happened, or says that it has; nothing is leaked, nobody hangs or is ended by a signal, and
//! done once more it works.
//!
//! `cargo test --test io_errors` tries a sample in a minute; `SLABLOCK_IO_ERRORS=all` lets each
//! call fail in each of its ways. Words after `--` choose operations by parts of their names;
//! `SLABLOCK_IO_ERRORS=CALL,WAY` tries one failure, and shows where it was.
//!
//! `dispatch` is between a thread and the kernel, `faults` says what can fail and what does,
//! `stage` is a store and what an oracle sees in it, `operations` what is done, `campaign` how it
//! is judged.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod campaign;
#[cfg(target_arch = "x86_64")]
mod dispatch;
#[cfg(target_arch = "x86_64")]
mod faults;
#[cfg(target_arch = "x86_64")]
#[path = "../kit/mod.rs"]
mod kit;
#[cfg(target_arch = "x86_64")]
mod operations;
#[cfg(target_arch = "x86_64")]
mod stage;

#[cfg(target_arch = "x86_64")]
fn main() {
    use std::time::Duration;

    if !dispatch::prepare() {
        println!("left out: this kernel dispatches no system calls (Linux 5.11 does)");
        return;
    }
    let wanted = std::env::var("SLABLOCK_IO_ERRORS").unwrap_or_default();
    let only = wanted.split_once(',').map(|(nth, way)| faults::Plan {
        nth: nth.parse().expect("a number of a call"),
        way: way.parse().expect("a way to fail"),
    });
    let extent = campaign::Extent {
        is_full: wanted == "all",
        only,
        time: Duration::from_millis(600),
    };
    let words: Vec<_> = std::env::args()
        .skip(1)
        .filter(|w| !w.starts_with('-'))
        .collect();
    let is_chosen =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(&**word));
    let mut operations = operations::all();
    operations.retain(|operation| is_chosen(&operation.name));
    if !campaign::run(&operations, &extent) {
        std::process::exit(1);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("left out: written for x86-64");
}
