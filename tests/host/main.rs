//! What a host does to a store: cleaners, copies, reboots, other users, limits, signals, and other
//! code in the process. Each file is one kind; what needs another user, a mount or a namespace runs
//! where this process may do that, and says in one line what it left out elsewhere.

#![allow(missing_docs)]

#[macro_use]
#[path = "../kit/mod.rs"]
mod kit;

mod boots;
mod cleaner;
mod copies;
mod daemons;
mod descriptors;
mod limits;
mod output;
mod places;
mod programs;
mod readers;
mod runner;
mod same_thread;
mod settings;
mod structure;
mod synced;
mod threads;
mod users;

use kit::Role;

/// What this binary does when a test has started it as a child.
#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    match &*role.name {
        "hold" => cleaner::hold(&role),
        "wait" => cleaner::wait(&role),
        "read" => cleaner::get(&role),
        "daemon" => daemons::daemon(&role),
        "stripped" => daemons::stripped(&role),
        "idle" => daemons::idle(&role),
        "execute" => programs::execute(&role),
        "permit" => settings::permit(&role),
        "sandboxed" => settings::sandboxed(&role),
        "in the structure" => structure::in_the_structure(&role),
        "reads" => readers::reads(&role),
        "locks all" => readers::locks_all(&role),
        "changes all" => readers::changes_all(&role),
        other => panic!("no role {other}"),
    }
}
