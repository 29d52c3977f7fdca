//! Where stores and locks are made: what lies there goes away with the value that stands for it.

use std::path::Path;

use tempfile::{Builder, NamedTempFile, TempDir};

use crate::Answer;

/// By which what a killed run has left behind is known.
const PREFIX: &str = "slablock-peers-";

pub fn directory(place: &Path) -> Answer<TempDir> {
    Ok(Builder::new().prefix(PREFIX).tempdir_in(place)?)
}

pub fn file(place: &Path) -> Answer<NamedTempFile> {
    Ok(Builder::new().prefix(PREFIX).tempfile_in(place)?)
}
