//! A directory of one's own that is gone when this is dropped.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::id;
use std::{env, fs};

use crate::failure::Failure;

pub struct TemporaryDir {
    path: PathBuf,
    is_kept: bool,
}

impl TemporaryDir {
    /// Makes it below `parent`, or where temporary files go.
    pub fn new(parent: Option<&Path>, name: &str) -> Result<TemporaryDir, Failure> {
        let base = parent.map_or_else(env::temp_dir, Path::to_owned);
        let path = base.join(format!("{name}-{}", id()));
        let remedy = match parent {
            Some(_) => "name another place with --dir",
            None => "set TMPDIR to another place",
        };
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| {
                let path = path.display();
                Failure::new(format!("cannot create {path}: {error}; {remedy}"))
            })?;
        Ok(TemporaryDir {
            path,
            is_kept: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it where it is.
    pub fn keep(mut self) -> PathBuf {
        self.is_kept = true;
        self.path.clone()
    }

    /// Removes it; an error that dropping would swallow is reported.
    pub fn remove(mut self) -> Result<(), Failure> {
        self.is_kept = true;
        fs::remove_dir_all(&self.path).map_err(|error| {
            let path = self.path.display();
            Failure::new(format!("{path} was left behind: {error}; remove it"))
        })
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
