//! A store for commands that only look: open as by any program, or for reading alone, if this user
//! may not write it or no process can join those that have it open.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use slablock::cache::Stats;
use slablock::{Averager, Cache, CheckReport, Config, Error, KeyInfo, Reader};

use crate::failure::Failure;
use crate::opening::{self, AT_ONCE, within};
use crate::place;

pub enum Sight {
    Cache(Cache),
    Reader {
        reader: Reader,
        /// Why it is open for reading alone.
        why: &'static str,
    },
}

impl Sight {
    /// Opens the store in `dir`; `None`: there is none yet. Waits for a process that is making or
    /// mending the store for a moment only: the user may be looking for just that process.
    pub fn open(dir: &Path) -> Result<Option<Sight>, Failure> {
        let in_vain = Failure::new(opening::in_vain(dir, AT_ONCE));
        let opened = within(Instant::now() + AT_ONCE, in_vain, || place::try_open(dir))??;
        let Some(opened) = opened else {
            return Ok(None);
        };
        let why = match opened {
            Ok(cache) => return Ok(Some(Sight::Cache(cache))),
            Err(error) => why_not_written(&error).ok_or(error)?,
        };
        let reader = Reader::open(dir)?;
        Ok(Some(Sight::Reader { reader, why }))
    }

    /// What is to be said of a store that is open for reading alone.
    pub fn note(&self) -> Option<String> {
        match self {
            Sight::Cache(_) => None,
            Sight::Reader { why, .. } => Some(format!("read only: {why}")),
        }
    }

    pub fn keys(&self) -> Result<Vec<KeyInfo>, Failure> {
        match self {
            Sight::Cache(cache) => Ok(cache.keys()?),
            Sight::Reader { reader, .. } => Ok(reader.keys()?),
        }
    }

    pub fn key(&self, key: &[u8]) -> Result<Option<KeyInfo>, Failure> {
        Ok(match self {
            Sight::Cache(cache) => cache.key_info(key)?,
            Sight::Reader { reader, .. } => reader.key_info(key)?,
        })
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        Ok(match self {
            Sight::Cache(cache) => cache.get(key)?,
            Sight::Reader { reader, .. } => reader.get(key)?,
        })
    }

    /// The mean of an average.
    pub fn mean(&self, key: &[u8]) -> Result<Option<f64>, Failure> {
        Ok(match self {
            Sight::Cache(cache) => Averager::new(cache, key).get()?,
            Sight::Reader { reader, .. } => reader.summary(key)?.map(|summary| summary.mean),
        })
    }

    pub fn stats(&self) -> Result<Stats, Failure> {
        match self {
            Sight::Cache(cache) => Ok(cache.stats()?),
            Sight::Reader { reader, .. } => Ok(reader.stats()?),
        }
    }

    pub fn config(&self) -> Result<Config, Failure> {
        match self {
            Sight::Cache(cache) => Ok(cache.config()?),
            Sight::Reader { reader, .. } => Ok(reader.config()?),
        }
    }

    pub fn volume(&self) -> Result<u64, Failure> {
        Ok(match self {
            Sight::Cache(cache) => cache.volume()?,
            Sight::Reader { reader, .. } => reader.volume()?,
        })
    }

    pub fn check(&self) -> Result<CheckReport, Failure> {
        match self {
            Sight::Cache(cache) => Ok(cache.check()?),
            Sight::Reader { reader, .. } => Ok(reader.check()?),
        }
    }
}

/// Why the store cannot be written, if that is what an opening failed by.
fn why_not_written(error: &Error) -> Option<&'static str> {
    match error {
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied => Some("this user may not write it"),
            ErrorKind::ReadOnlyFilesystem => Some("its file system is read-only here"),
            _ => None,
        },
        Error::Busy { lost, .. } if !lost.is_empty() => {
            Some("its lock files were removed, and nobody can join those who use it")
        }
        _ => None,
    }
}
