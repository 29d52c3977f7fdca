//! Python, if it is there, and what it has installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Answer;

/// Beside this package: it is run from where it was built.
const WORKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python/worker.py");

/// Of compiled files, beside the sources.
const LEAVE_NOTHING: &str = "-B";

pub struct Python {
    program: PathBuf,
    /// Each with its version.
    modules: Vec<(String, String)>,
}

impl Python {
    /// Asks `program`; else the virtual environment beside this package, or the one of the system.
    pub fn find(program: Option<PathBuf>) -> Python {
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python3");
        let usual = if ours.exists() {
            ours
        } else {
            "python3".into()
        };
        let program = program.unwrap_or(usual);
        let mut probe = Command::new(&program);
        probe
            .args([LEAVE_NOTHING, WORKER, "probe"])
            .stdin(Stdio::null());
        let told = probe.stderr(Stdio::null()).output();
        let told = told.map_or(Vec::new(), |output| output.stdout);
        let modules = String::from_utf8_lossy(&told)
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, version)| (name.to_string(), version.to_string()))
            .collect();
        Python { program, modules }
    }

    /// `worker.py`, for what is in `module`.
    pub fn worker(&self, module: &str) -> Answer<Command> {
        if !self.modules.iter().any(|(name, _)| name == module) {
            return Err(format!("no Python with {module} (see README.md)").into());
        }
        let mut command = Command::new(&self.program);
        command.args([LEAVE_NOTHING, WORKER]);
        Ok(command)
    }

    pub fn modules(&self) -> &[(String, String)] {
        &self.modules
    }
}
