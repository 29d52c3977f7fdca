//! Every example runs to its end, and its own assertions hold.

mod kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use kit::KilledAtTheEnd;

#[test]
fn every_example_runs_to_its_end() {
    let names = names();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let status = run(&name);
        assert!(status.success(), "{name}: {status:?}");
    }
}

/// The examples, by their sources: what another checkout left in the build directory is none of
/// ours.
fn names() -> Vec<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = fs::read_dir(sources).expect("there are examples");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_string()))
        .collect();
    names.sort();
    names
}

/// `cargo test` builds the examples beside this test: `deps/examples-...` and `examples/...`.
/// Naming this test alone (`--test examples`) does not build them.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("this test has a path");
    let profile = this.ancestors().nth(2).expect("it lies in deps");
    profile.join("examples").join(name)
}

/// How it ended.
fn run(name: &str) -> ExitStatus {
    let program = program(name);
    let child = Command::new(&program)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            let path = program.display();
            panic!("{path}: {e}; `cargo test` builds it, `cargo test --test` does not: `cargo build --examples`")
        });
    KilledAtTheEnd(child).ended(name)
}
