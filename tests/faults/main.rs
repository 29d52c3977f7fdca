//! When the machine has no more of something, or something is taken away: a clear error, nothing
//! changed, and it goes on as soon as there is enough again.

#![allow(missing_docs, unsafe_code)]

#[macro_use]
#[path = "../kit/mod.rs"]
mod kit;
mod descriptors;
mod full_disk;
mod memory;
mod read_only;
mod replaced;
mod room;
mod signals;
mod values;

use kit::Role;

#[test]
fn child_role() {
    let Some(role) = Role::of_this_process() else {
        return;
    };
    match role.name.as_str() {
        "descriptors" => descriptors::run(&role),
        "addresses" => descriptors::run_without_addresses(&role),
        "hold" => replaced::hold(&role),
        "forked" => replaced::forked(&role),
        "many" => full_disk::run_many(&role),
        "interrupted" => signals::run(&role),
        "values" => values::run(&role),
        "memory" => memory::run(&role),
        other => panic!("no role {other}"),
    }
}
