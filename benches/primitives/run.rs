//! The command line: `slablock run KEY -- true` beside `flock FILE true`, from start to end.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Effort;
use crate::report::{Row, Spread};

const NAME: &str = "slablock run KEY -- true, beside flock";

pub fn measure(effort: Effort) -> Vec<Row> {
    let Some(slablock) = program() else {
        return vec![Row::missing(
            NAME,
            "not built: cargo build --release --features cli",
        )];
    };
    let dir = tempfile::tempdir().expect("there is a place for temporary files");
    let mut ours = Command::new(&slablock);
    ours.args(["run", "-q", "-d"]).arg(dir.path().join("store"));
    ours.args(["key", "--", "true"]);
    let mut theirs = Command::new("flock");
    theirs.arg(dir.path().join("file")).arg("true");

    let (mut ours_ms, mut theirs_ms, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=effort.times(250) {
        let (Some(our), Some(their)) = (run_ms(&mut ours), run_ms(&mut theirs)) else {
            return vec![Row::missing(NAME, "slablock or flock cannot be run here")];
        };
        ours_ms.push(our);
        theirs_ms.push(their);
        ratios.push(our / their);
    }
    // The first made the store.
    let median = |samples: &mut Vec<f64>| Spread::median(&mut samples[1..]);
    vec![
        Row::new(NAME, "x", median(&mut ratios)).at_most(1.0),
        Row::new("  slablock run KEY -- true", "ms", median(&mut ours_ms)),
        Row::new("  flock FILE true", "ms", median(&mut theirs_ms)),
    ]
}

/// The binary: named by `SLABLOCK_BIN`, or beside this one, which lies in `release/deps`.
fn program() -> Option<PathBuf> {
    if let Some(named) = env::var_os("SLABLOCK_BIN") {
        return Some(named.into());
    }
    let this = env::current_exe().ok()?;
    let target: &Path = this.ancestors().nth(3)?;
    let built = target.join("release/slablock");
    built.is_file().then_some(built)
}

/// How long it takes; `None` if it fails.
fn run_ms(command: &mut Command) -> Option<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status().ok()?;
    status
        .success()
        .then(|| start.elapsed().as_secs_f64() * 1e3)
}
