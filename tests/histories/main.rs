//! Whether values are linearizable: whether all that several processes saw, while some of them were
//! killed and others stopped, can be explained by one order of their operations in which each took
//! effect at one moment between its call and its return.
//!
//! `cargo test --test histories` takes some seconds; `SLABLOCK_HISTORIES=300 cargo test --release
//! --test histories` goes on for 300 in each kind of store. The seed that is printed brings back
//! the same choices (`SLABLOCK_TEST_SEED`), not the same moments. `-- --nocapture` shows what was
//! done.
//!
//! A round: `worker`s, which are processes, do random operations (`operation`) on a few pairs of
//! keys of one `store`, and write down when each began and ended, and how, on a `tape` outside of
//! it. The driver (`round`) kills some, stops others, lets newcomers join, and looks at every key
//! when all rest. `campaign` has the rounds follow one another. Then `judge` asks the checker of
//! another crate about each pair, by a `model` of what a pair does alone.
//!
//! Not an error, and left to the checker: an operation whose process was killed has happened at
//! some time after it began, or never; not once the driver has looked, for the next round begins
//! with what it saw. `controls` has histories that have to be refused, and workers that are broken
//! on purpose have to be found out.

#![allow(missing_docs)]

mod campaign;
mod controls;
mod judge;
#[path = "../kit/mod.rs"]
mod kit;
mod model;
mod operation;
mod round;
mod store;
mod tape;
mod value;
mod worker;

use kit::Role;
use store::Ways;

const SHARDS: Option<usize> = Some(3);

#[test]
fn child_role() {
    if let Some(role) = Role::of_this_process() {
        assert_eq!(role.name, "work");
        worker::work(&role);
    }
}

#[test]
fn histories_of_a_cache_are_linearizable() {
    campaign::run("histories of a cache", None);
}

#[test]
fn histories_of_several_shards_are_linearizable() {
    campaign::run("histories of shards", SHARDS);
}

#[test]
fn a_compare_and_swap_in_two_steps_is_found_out() {
    campaign::run_broken("broken compare-and-swap", None, Ways::SwapInTwoSteps);
}

#[test]
fn a_pop_in_two_steps_is_found_out() {
    campaign::run_broken("broken pop", None, Ways::PopInTwoSteps);
}

#[test]
fn a_transaction_in_two_steps_is_found_out() {
    campaign::run_broken("broken transaction", SHARDS, Ways::TransactInTwoSteps);
}
