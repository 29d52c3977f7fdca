//! The runner: what is guarded, by what, and for how long.

#![cfg(feature = "cli")]

#[allow(dead_code)]
#[path = "../cli/shop.rs"]
mod shop;

use std::{fs, os::unix::fs::PermissionsExt};

use shop::Shop;

/// A file that can be executed and says nothing of who executes it.
fn script(shop: &Shop, name: &str, text: &str) -> String {
    let path = shop.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// As many arguments as need more room than the stack of a new process has.
fn many() -> Vec<String> {
    (1..=33_000).map(|n| n.to_string()).collect()
}

#[test]
fn a_script_without_an_interpreter_gets_all_of_its_arguments() {
    let shop = Shop::new();
    let path = script(&shop, "x", "echo $0 $# ${33000}\n");
    let said = format!("{path} 33000 33000\n");
    for before in [&["run", "k", "--", &path][..], &["memo", "--", &path]] {
        let before = before.iter().map(|word| (*word).to_owned());
        let outcome = shop.run(&before.chain(many()).collect::<Vec<_>>());
        assert_eq!((outcome.code, &outcome.out), (0, &said), "{}", outcome.err);
    }
    // Found along PATH it is the same, with the path at which it was found.
    let directory = shop.dir.path().to_str().unwrap();
    let mut command = shop.command(&["run", "k", "--", "x", "one"]);
    command.env("PATH", format!("/nowhere:{directory}:/usr/bin:/bin"));
    let outcome = shop::Outcome::of(&mut command);
    assert_eq!(outcome.out, format!("{path} 1\n"), "{}", outcome.err);
}

#[test]
fn a_long_path_is_searched_to_its_end_and_a_denial_is_remembered() {
    let shop = Shop::new();
    let directory = shop.dir.path().to_str().unwrap();
    script(&shop, "tool", "#!/bin/sh\necho found\n");
    // Entries that lead nowhere: many, one longer than any path, and one with a name longer than any.
    let nowhere = ["/nowhere/at/all:".repeat(5_000), "/x".repeat(3_000)].concat();
    let path = format!("{nowhere}:/{}:{directory}", "y".repeat(300));
    let run = |name: &str, path: &str| {
        let mut command = shop.command(&["run", "k", "--", name]);
        shop::Outcome::of(command.env("PATH", path))
    };
    assert_eq!(run("tool", &path).out, "found\n");
    run("no-such-tool", &path).complains(127, &["no-such-tool", "PATH"]);
    // A file that may not be executed is passed over, and told if there is no other.
    let denied = shop.path("denied");
    fs::create_dir(&denied).unwrap();
    fs::write(format!("{denied}/tool"), "").unwrap();
    assert_eq!(run("tool", &format!("{denied}:{path}")).out, "found\n");
    run("tool", &format!("{denied}:/nowhere")).complains(126, &["tool", "denied"]);
    // What stands in the way of a path is no directory.
    run("tool", &format!("{denied}/tool")).complains(127, &["tool"]);
}
