//! A directory for the stores of one thread, in memory where there is such a place: an input should
//! cost microseconds, and no law here is about the disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "slablock-fuzz-";

pub struct Place {
    root: PathBuf,
}

impl Place {
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let memory = Path::new("/dev/shm");
        let above = match memory.is_dir() {
            true => memory.to_path_buf(),
            false => std::env::temp_dir(),
        };
        sweep(&above);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = above.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&root).expect("a directory for stores");
        Place { root }
    }

    pub fn path(&self) -> &Path {
        &self.root
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Removes what fuzzers left that were killed by what they found.
fn sweep(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|n| n.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
