//! Every example runs to its end, and its own assertions hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Each takes well under two seconds: one that does not end by then hangs.
const BOUND: Duration = Duration::from_secs(600);

#[test]
fn every_example_runs_to_its_end() {
    let names = names();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let status = run(&name);
        assert!(status.is_some_and(|s| s.success()), "{name}: {status:?}");
    }
}

/// The examples, by their sources: what another checkout left in the build directory is none of ours.
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

/// `cargo test` builds the examples beside this test: `deps/examples-...` and `examples/...`. Naming this
/// test alone (`--test examples`) does not build them.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("this test has a path");
    let profile = this.ancestors().nth(2).expect("it lies in deps");
    profile.join("examples").join(name)
}

/// How it ended; `None` when it did not, and was killed.
fn run(name: &str) -> Option<ExitStatus> {
    let program = program(name);
    let mut child = Command::new(&program)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            let path = program.display();
            panic!("{path}: {e}; `cargo test` builds it, `cargo test --test` does not: `cargo build --examples`")
        });
    let end = Instant::now() + BOUND;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    stop(&mut child);
    None
}

fn stop(child: &mut Child) {
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}
