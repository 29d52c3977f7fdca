//! The committed inputs, run as tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Runs what is in `fuzz/seeds` and in `tests/fuzz/found` for a target.
fn replay(target: &str, run: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut inputs = files_in(&root.join("tests/fuzz/found").join(target));
    // The published package comes without the fuzz targets and their seeds.
    if root.join("fuzz").is_dir() {
        let seeds = files_in(&root.join("fuzz/seeds").join(target));
        assert!(!seeds.is_empty(), "no seeds for {target}");
        inputs.extend(seeds);
    }
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn arguments() {
    replay("arguments", super::arguments::run);
}

#[test]
fn operations() {
    replay("operations", super::operations::run);
}

#[test]
fn segments() {
    replay("segments", super::segments::run);
}

#[test]
fn slab_bytes() {
    replay("slab_bytes", super::slab_bytes::run);
}

#[test]
fn values() {
    replay("values", super::values::run);
}
