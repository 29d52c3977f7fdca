//! What a host does to a store: cleaners, copies, reboots, other users, limits, signals, and other code in
//! the process. Each file is one kind; what needs another user, a mount or a namespace runs where this
//! process may do that, and says in one line what it left out elsewhere.

#![allow(missing_docs)]

#[path = "../common/children.rs"]
mod children;
#[path = "../common/mod.rs"]
mod common;

mod boots;
mod cleaner;
mod copies;
mod descriptors;
mod limits;
mod output;
mod places;
mod runner;
mod structure;
mod synced;
mod users;

#[test]
fn child_role() {
    let Some(role) = children::Role::of_this_process() else {
        return;
    };
    match &*role.name {
        "in the structure" => structure::in_the_structure(&role),
        other => panic!("no role {other}"),
    }
}
