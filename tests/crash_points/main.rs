//! Death at every crash point: before each store to shared memory and before each system call of an
//! operation the process is killed, another one repeats the operation, and what is there then is
//! the old state or the new one. Then in pairs: the second process is killed while it recovers from
//! the first death.
//!
//! Only in a build with crash points, which is made by
//!
//! ```text
//! RUSTFLAGS="--cfg crash_points" CARGO_TARGET_DIR=target/crash cargo test --release --test crash_points
//! ```
//!
//! Words after `--` choose operations by parts of their names. In the environment,
//! `SLABLOCK_TEST_SEED` repeats a choice of points; `SLABLOCK_CRASH_SINGLES`,
//! `SLABLOCK_CRASH_PAIRS` and `SLABLOCK_CRASH_SECONDS` are how many points of an operation to try,
//! how many pairs, and for how long to try pairs; `all` is no limit.
//!
//! `scene` is the stage of one death: a store, processes, a board that outlives them; `stage` what
//! all scenes have in common. `drive` is about one or two deaths, `choice` about which points,
//! `campaign` about all of them. The operations are in `places` (opening, repairing), `healing`
//! (making again what was removed), `copies` (adopting), `keys` (making, removing), `holds`
//! (taking, giving back), `permits` (another number of them), `averages`, `values`, `durable`
//! (values on the device), `turns` (computing values) and `room` (making it, or none). `stopped` is
//! about processes that are stopped at a point instead, `late` about those that are stopped for
//! very long.

#[cfg(crash_points)]
mod averages;
#[cfg(crash_points)]
mod campaign;
#[cfg(crash_points)]
mod choice;
#[cfg(crash_points)]
mod copies;
#[cfg(crash_points)]
mod drive;
#[cfg(crash_points)]
mod durable;
#[cfg(crash_points)]
mod healing;
#[cfg(crash_points)]
mod holds;
#[cfg(crash_points)]
mod keys;
#[cfg(crash_points)]
#[path = "../kit/mod.rs"]
mod kit;
#[cfg(crash_points)]
mod late;
#[cfg(crash_points)]
mod permits;
#[cfg(crash_points)]
mod places;
#[cfg(crash_points)]
mod room;
#[cfg(crash_points)]
mod scene;
#[cfg(crash_points)]
mod stage;
#[cfg(crash_points)]
mod stopped;
#[cfg(crash_points)]
mod turns;
#[cfg(crash_points)]
mod values;

#[cfg(crash_points)]
fn main() {
    // Asks the processor what it can, which costs each process that does so a fifth of a
    // millisecond.
    crc32fast::hash(&[0; 64]);
    let operations = [
        places::ALL,
        healing::ALL,
        copies::ALL,
        keys::ALL,
        holds::ALL,
        permits::ALL,
        averages::ALL,
        values::ALL,
        durable::ALL,
        turns::ALL,
        room::ALL,
    ]
    .concat();
    campaign::run(&operations);
}

#[cfg(not(crash_points))]
fn main() {
    println!("built without crash points: RUSTFLAGS=\"--cfg crash_points\" has them");
}
